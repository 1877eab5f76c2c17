"""Training: strategy, the compiled step, the loop, evaluation and checkpoints. It knows no Ray."""
