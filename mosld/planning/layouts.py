"""Memory of each GPU under each file of conf/accelerate, and the first that fits."""

from dataclasses import dataclass

from mosld.training import StepCost

RESERVED = int(1.5 * 2**30)
"""CUDA context, cuBLAS workspace and what the allocator cannot use: an allowance, not measured by us."""
NODE = 8  # GPUs of one machine


@dataclass(frozen=True)
class Sizes:
    """Bytes of a model that is to be trained.

    Attributes:
        weights: the frozen weights and buffers; with full fine-tuning, the trained ones.
        adapter: the trained weights of an adapter.
        optimiser: AdamW's two moments.
        layer: the frozen weights of the largest decoder layer.
        rest: the frozen weights outside the decoder layers: embeddings, head.
        shareable: whether FSDP can cut the base: it is frozen, and not packed in 4 or 8 bits.
    """

    weights: int
    adapter: int
    optimiser: int
    layer: int
    rest: int
    shareable: bool = True


def layouts(sizes: Sizes, cost: StepCost, gpus: int) -> dict[str, int]:
    """Bytes on each GPU by file of conf/accelerate, the fastest first; files that mosld refuses are not there.

    Everything on every GPU (single; ddp, which over several machines is multi_node); the base cut among them, one layer
    gathered while another is fetched (fsdp); its parts on the host (fsdp_offload). Adapter, gradients and optimiser are
    whole everywhere.
    """
    if gpus == 1:
        return {"single": peak(sizes, cost) + RESERVED}
    own = sizes.adapter + sizes.optimiser + RESERVED
    moving = max(cost.peak, cost.update, 2 * cost.gradients)  # all gradients once more, in one tensor, to be exchanged
    found = {"ddp" if gpus <= NODE else "multi_node": own + sizes.weights + moving}
    if sizes.shareable:
        gathered = sizes.rest + 2 * sizes.layer
        found["fsdp"] = own + sizes.weights // gpus + gathered + moving
        found["fsdp_offload"] = own + gathered + moving
    return found


def peak(sizes: Sizes, cost: StepCost) -> int:
    """Most bytes at once where all weights lie on one device: in backward, or in the optimiser's step."""
    return sizes.weights + sizes.adapter + sizes.optimiser + max(cost.peak, cost.update)


def first_fitting(found: dict[str, int], memory: int) -> str | None:
    """The fastest layout whose GPUs have room; None where there is none."""
    return next((name for name, size in found.items() if size <= memory), None)
