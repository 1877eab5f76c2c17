"""Export of a run: a SavedModel, a Keras file and a model card."""
