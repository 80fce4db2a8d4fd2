"""The sections of params.yaml: settings, checked before any work. Torch-free."""
