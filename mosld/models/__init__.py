"""Base models and tokenizers: loading, shapes without weights, attention kernels, quantization."""
