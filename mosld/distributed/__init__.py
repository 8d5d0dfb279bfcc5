"""Several processes as one run: the process group, FSDP2, DeepSpeed, whole and sharded tensors."""
