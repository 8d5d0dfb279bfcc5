"""The training loop, its optimiser step, checkpoints and signals."""
