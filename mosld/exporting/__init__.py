"""What a run trained, written for other software: a transformers model, a plain LoRA, a merged model, GGUF."""
