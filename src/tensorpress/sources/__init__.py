"""Where models and texts come from, and what their files hold. Torch-free but for training."""
