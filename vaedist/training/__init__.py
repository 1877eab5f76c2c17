"""Training: the compiled step, optimizers, the training loop and its logs; independent of Ray."""
