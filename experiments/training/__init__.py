"""What a training run does, from its arguments to its last model."""
