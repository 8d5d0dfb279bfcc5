"""Memory of each GPU under each file of conf/accelerate, and the first that fits."""

from dataclasses import dataclass

from mosld.planning.dry_run import StepCost

# CUDA context, cuBLAS workspace and what the allocator cannot use: an allowance, not measured by us.
RESERVED_BYTES = int(1.5 * 2**30)
GPUS_PER_NODE = 8


@dataclass(frozen=True)
class ModelBytes:
    """Bytes of a model that is to be trained.

    Attributes:
        weights: the frozen weights and buffers; with full fine-tuning, the trained ones.
        adapter: the trained weights of an adapter.
        optimiser: AdamW's two moments.
        layer: of `weights`, those of the largest decoder layer.
        rest: of `weights`, those outside the decoder layers: embeddings, head.
        shardable: whether FSDP can shard the base: it is not packed in 4 or 8 bits.
        whole: whether `weights` are what trains, in float32.
    """

    weights: int
    adapter: int
    optimiser: int
    layer: int
    rest: int
    shardable: bool = True
    whole: bool = False


def layouts(sizes: ModelBytes, cost: StepCost, gpus: int) -> dict[str, int]:
    """Bytes on each GPU by file of conf/accelerate, the fastest first, without files that mosld refuses.

    single, ddp and multi_node (ddp on several machines) hold everything on every GPU. fsdp shards the base, with one
    layer gathered while the next is fetched; fsdp_offload keeps the shards on the host. An adapter, its gradients and
    its optimiser state are whole everywhere; in full fine-tuning gradients and optimiser state are sharded too.
    DeepSpeed's files shard no more than fsdp does, so they are never the first that fit.
    """
    if gpus == 1:
        memory = {"single": peak(sizes, cost) + RESERVED_BYTES}
    else:
        memory = {"ddp" if gpus <= GPUS_PER_NODE else "multi_node": sizes.weights + _unsharded(sizes) + _moving(cost)}
    if sizes.shardable:
        on_gpus, offloaded = (_sharded_training if sizes.whole else _sharded_base)(sizes, cost, gpus)
        if gpus > 1:
            memory["fsdp"] = on_gpus
        memory["fsdp_offload"] = offloaded
    return memory


def _sharded_base(sizes: ModelBytes, cost: StepCost, gpus: int) -> tuple[int, int]:
    """Bytes on a GPU with the shards of a frozen base there, and with them on the host."""
    gathered = sizes.rest + 2 * sizes.layer + _unsharded(sizes) + _moving(cost)
    return sizes.weights // gpus + gathered, gathered


def _sharded_training(sizes: ModelBytes, cost: StepCost, gpus: int) -> tuple[int, int]:
    """The same for full fine-tuning: a shard is weights, optimiser state and gradients."""
    # A layer's gradients, and those outside the layers, are whole until they are reduced. Gradients grow while
    # activations are freed, so the peak is not their sum: without whole gradients a pass holds most where backward
    # begins, or where it ends.
    gathered = 2 * sizes.rest + 3 * sizes.layer + max(cost.saved, cost.peak - cost.gradients)
    trained = sizes.weights + sizes.optimiser
    in_backward = (trained + cost.gradients) // gpus + gathered
    in_update = (trained + cost.update) // gpus
    return max(in_backward, in_update) + RESERVED_BYTES, gathered + RESERVED_BYTES


def _moving(cost: StepCost) -> int:
    """Activations, gradients and temporaries; the all-reduce copies all gradients into one tensor."""
    return max(cost.peak, cost.update, 2 * cost.gradients)


def _unsharded(sizes: ModelBytes) -> int:
    """What every GPU holds whole, besides the base."""
    return sizes.adapter + sizes.optimiser + RESERVED_BYTES


def peak(sizes: ModelBytes, cost: StepCost) -> int:
    """Most bytes at once with all weights on one device: in backward, or in the optimiser's step."""
    return sizes.weights + sizes.adapter + sizes.optimiser + max(cost.peak, cost.update)


def first_fitting(sizes: dict[str, int], memory: int) -> str | None:
    """The fastest layout that fits in the memory of each GPU; None if there is none."""
    return next((name for name, size in sizes.items() if size <= memory), None)
