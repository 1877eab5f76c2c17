"""How fast a machine trains a job, and how far that is from the most it can do; knows no Ray."""
