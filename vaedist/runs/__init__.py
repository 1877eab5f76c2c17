"""A run's folder, on this machine or on a store, without TensorFlow."""
