"""The hierarchical ResNet VAE of Kingma et al. 2016."""
