"""The gated convolutional VAE of van den Berg et al. 2018."""
