"""Keys of artifacts, and fingerprints of the code that their numbers depend on. Torch-free."""
