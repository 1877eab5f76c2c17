"""A run's folder, local or on an object store, without TensorFlow."""
