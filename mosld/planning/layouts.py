"""Memory of each GPU under each file of conf/accelerate, and the first that fits."""

from dataclasses import dataclass

from mosld.planning.dry_run import StepCost

RESERVED = int(1.5 * 2**30)
"""CUDA context, cuBLAS workspace and what the allocator cannot use: an allowance, not measured by us."""
NODE = 8  # GPUs of one machine


@dataclass(frozen=True)
class ModelBytes:
    """Bytes of a model that is to be trained.

    Attributes:
        weights: the frozen weights and buffers; with full fine-tuning, the trained ones.
        adapter: the trained weights of an adapter.
        optimiser: AdamW's two moments.
        layer: of `weights`, those of the largest decoder layer.
        rest: of `weights`, those outside the decoder layers: embeddings, head.
        shareable: whether FSDP can cut the base: it is not packed in 4 or 8 bits.
        whole: whether `weights` are what trains, in float32.
    """

    weights: int
    adapter: int
    optimiser: int
    layer: int
    rest: int
    shareable: bool = True
    whole: bool = False


def layouts(sizes: ModelBytes, cost: StepCost, gpus: int) -> dict[str, int]:
    """Bytes on each GPU by file of conf/accelerate, the fastest first; files that mosld refuses are not there.

    Everything on every GPU (single; ddp, which over several machines is multi_node); the base cut among them, one layer
    gathered while another is fetched (fsdp); its parts on the host (fsdp_offload). An adapter, its gradients and its
    optimiser are whole everywhere; where the whole model trains, gradients and optimiser are cut with the weights.
    DeepSpeed's files share no more than fsdp does, so they are never the ones that fit.
    """
    if gpus == 1:
        found = {"single": peak(sizes, cost) + RESERVED}
    else:
        found = {"ddp" if gpus <= NODE else "multi_node": sizes.weights + _own(sizes) + _moving(cost)}
    if sizes.shareable:
        in_parts, offloaded = (_trained_in_parts if sizes.whole else _base_in_parts)(sizes, cost, gpus)
        found |= {"fsdp": in_parts} if gpus > 1 else {}
        found["fsdp_offload"] = offloaded
    return found


def _base_in_parts(sizes: ModelBytes, cost: StepCost, gpus: int) -> tuple[int, int]:
    """Bytes on a GPU with the parts of a frozen base there, and with them on the host."""
    gathered = sizes.rest + 2 * sizes.layer + _own(sizes) + _moving(cost)
    return sizes.weights // gpus + gathered, gathered


def _trained_in_parts(sizes: ModelBytes, cost: StepCost, gpus: int) -> tuple[int, int]:
    """The same where the whole model trains: a part is weights, moments and gradients."""
    # A layer's gradients, and those of the rest, are whole until they are added up. Gradients come as activations go,
    # so the peak is no sum of both: without whole gradients a pass holds most where backward begins, or where it ends.
    gathered = 2 * sizes.rest + 3 * sizes.layer + max(cost.saved, cost.peak - cost.gradients)
    kept = sizes.weights + sizes.optimiser
    return max((kept + cost.gradients) // gpus + gathered, (kept + cost.update) // gpus) + RESERVED, gathered + RESERVED


def _moving(cost: StepCost) -> int:
    """What comes and goes: for the exchange all gradients lie in one tensor once more."""
    return max(cost.peak, cost.update, 2 * cost.gradients)


def _own(sizes: ModelBytes) -> int:
    """What every GPU has for itself beside the base."""
    return sizes.adapter + sizes.optimiser + RESERVED


def peak(sizes: ModelBytes, cost: StepCost) -> int:
    """Most bytes at once where all weights lie on one device: in backward, or in the optimiser's step."""
    return sizes.weights + sizes.adapter + sizes.optimiser + max(cost.peak, cost.update)


def first_fitting(found: dict[str, int], memory: int) -> str | None:
    """The fastest layout whose GPUs have room; None where there is none."""
    return next((name for name, size in found.items() if size <= memory), None)
