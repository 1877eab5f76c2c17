"""Run folders, local or on an object store: checkpoints, resuming, summaries, evaluations. Needs no TensorFlow."""
