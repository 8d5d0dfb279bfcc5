"""How many kernels oneDNN keeps on CPU.

oneDNN, which computes torch's bfloat16 products on CPU, makes a kernel for every shape and keeps the last 1,024, and
its C++ layer in torch as many of its own; a kernel holds about half a megabyte. Steps of packed rows hardly ever have
the same number of tokens, so a run makes about eighteen new kernels a step. They never serve again, and lie among the
activations on the heap, whose free memory falls into ever more pieces that `malloc` searches: steps become slower and
the process larger (docs/explanation/performance.md). Within a pass all layers take the same kernels, so a few are
enough.
"""

import os

# Of oneDNN itself, under both of its names, and of its layer in torch.
PRIMITIVES, OLD_PRIMITIVES, LAYER = (
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY",
)  # fmt: skip
# A step of lora, mosld, mixlora or full takes 16 to 19. With fewer than a layer takes, each would be made anew.
KERNELS = 32


def limit_kernel_cache() -> None:
    """Keep few kernels where the user has not set how many; call it before torch is imported, which reads it."""
    if OLD_PRIMITIVES not in os.environ:
        os.environ.setdefault(PRIMITIVES, str(KERNELS))
    os.environ.setdefault(LAYER, str(KERNELS))
