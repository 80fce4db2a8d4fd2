"""Models on disk: tensors, shards, factors, moments, and how they are loaded."""
