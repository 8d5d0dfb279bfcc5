"""Memory of each GPU under each file of conf/accelerate, and the first that fits."""

from dataclasses import dataclass

from mosld.training import StepCost

RESERVED = int(1.5 * 2**30)
"""CUDA context, cuBLAS workspace and what the allocator cannot use: an allowance, not measured by us."""
NODE = 8  # GPUs of one machine
LIVE_ZERO3 = 10**9  # parameters that DeepSpeed keeps gathered at most: its stage3_max_live_parameters


@dataclass(frozen=True)
class Sizes:
    """Bytes of a model that is to be trained.

    Attributes:
        weights: the frozen weights and buffers; with full fine-tuning, the trained ones.
        adapter: the trained weights of an adapter.
        optimiser: AdamW's two moments.
        layer: all weights of the largest decoder layer.
        rest: all weights outside the decoder layers: embeddings, head.
        parameters: number of all weights.
    """

    weights: int
    adapter: int
    optimiser: int
    layer: int
    rest: int
    parameters: int


def layouts(sizes: Sizes, cost: StepCost, gpus: int) -> dict[str, int]:
    """Bytes on each GPU by file of conf/accelerate, the fastest first.

    Whole weights on every GPU (single, ddp); gradients and optimiser cut among them (deepspeed_zero2); all cut, and one
    layer gathered while another is fetched (fsdp; deepspeed_zero3 by its own limit); all on the host (fsdp_offload).
    multi_node is fsdp over several machines, which more than 8 GPUs are.
    """
    everything = sizes.weights + sizes.adapter
    activations = max(cost.saved, cost.peak - cost.gradients)
    whole = peak(sizes, cost) + RESERVED
    if gpus == 1:
        return {"single": whole, "fsdp_offload": _gathered(sizes) + activations + RESERVED}
    exchange = everything + sizes.optimiser + 2 * cost.gradients + RESERVED  # all gradients once more, in one tensor
    cut = (everything + sizes.optimiser + cost.gradients) // gpus
    bytes_each = everything // max(sizes.parameters, 1)
    found = {
        "ddp": max(whole, exchange),
        "deepspeed_zero2": everything + (sizes.optimiser + cost.gradients) // gpus + activations + RESERVED,
        "fsdp": cut + _gathered(sizes) + activations + RESERVED,
        "deepspeed_zero3": cut + min(everything, LIVE_ZERO3 * bytes_each) + activations + RESERVED,
        "fsdp_offload": _gathered(sizes) + activations + RESERVED,
    }
    return {"multi_node": found["fsdp"], "fsdp_offload": found["fsdp_offload"]} if gpus > NODE else found


def _gathered(sizes: Sizes) -> int:
    """What is whole at once on a GPU where weights are cut: the embeddings, a layer, and the layer fetched next."""
    return sizes.rest + 2 * sizes.layer


def peak(sizes: Sizes, cost: StepCost) -> int:
    """Most bytes at once where all weights lie on one device: in backward, or in the optimiser's step."""
    return sizes.weights + sizes.adapter + sizes.optimiser + max(cost.peak, cost.update)


def first_fitting(found: dict[str, int], memory: int) -> str | None:
    """The fastest layout whose GPUs have room; None where there is none."""
    return next((name for name, size in found.items() if size <= memory), None)
