"""What a model is without its weights: layers, modules, sites, families. Torch-free."""
