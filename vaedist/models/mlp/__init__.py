"""VAE with MLP encoder and decoder."""
