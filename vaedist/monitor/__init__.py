"""What a run shows of itself: metrics on disk, TensorBoard, pictures and the terminal."""
