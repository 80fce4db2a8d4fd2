"""From params to artifacts: identities, what is live, what jobs take. Torch-free."""
