"""Where results go besides the run directory: Weights & Biases and the Hugging Face Hub."""
