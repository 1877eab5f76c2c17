"""Tables computed with a trained run, in parts that any process can compute alone: encoded images, new images."""
