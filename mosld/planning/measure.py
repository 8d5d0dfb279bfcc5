"""What a run needs, counted on the meta device: parameters, bytes of weights, and the cost of one micro-batch."""

import re
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from torch import Tensor, nn

from mosld.adapters.adapt import adapt_with
from mosld.adapters.bank import ExpertBank
from mosld.adapters.load import parameter_counts, trained_parameters
from mosld.adapters.moa import freeze_experts
from mosld.config.method_checks import experts_of, row_indices
from mosld.config.schema import Config
from mosld.models.attention import resolve_attention
from mosld.models.config import meta_model, transformers_config
from mosld.models.load import resolve_dtype
from mosld.planning.dry_run import FUSED, BatchShape, DeviceMode, StepCost, dry_step
from mosld.planning.layouts import ModelBytes
from mosld.training.optim import ready_to_train

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# nf4 keeps a float32 scale for each block of 64 weights.
MOMENT_BYTES = {"adamw": 8, "adamw_8bit": 2}  # of both moments of a weight
BYTES_PER_QUANTIZED_WEIGHT = {"nf4": 0.5 + 4 / 64, "int8": 1.0}


@dataclass(frozen=True)
class StepNeeds:
    """What a run needs on one device.

    Attributes:
        parameters: trainable, total and base; and how many matrices A and B there are.
        sizes: bytes of its weights.
        rows: rows of a micro-batch.
        plain: the cost of a micro-batch.
        saving: the same with gradient checkpointing; None where PEFT cannot (prefix-tuning).
    """

    parameters: dict[str, int | dict[str, int]]
    sizes: ModelBytes
    rows: int
    plain: StepCost
    saving: StepCost | None


def measure_step(config: Config, length: int, answer: int, gpus: int) -> StepNeeds:
    """Count a step on rows of `length` tokens, `answer` of them with a loss; `gpus` 0 means on CPU."""
    model = _adapted(config, gpus > 0)
    counts = parameter_counts(model)
    base = counts["total"] - (counts["trainable"] if isinstance(model, PeftModel) else 0)
    share = -(-config.training.batch_size // max(gpus, 1))
    requested = config.training.micro_batch_size
    rows = share if requested == "auto" else min(int(requested), share)
    batch = BatchShape(rows, length, answer, accumulating=share > rows)
    recomputing = config.method.kind != "prefix"
    return StepNeeds(
        parameters={**counts, "base": base, "lora_matrices": lora_matrices(model)},
        sizes=_model_bytes(model, config.model.quantize, MOMENT_BYTES[config.training.optimizer]),
        rows=rows,
        plain=_cost(config, gpus > 0, False, batch),
        saving=_cost(config, gpus > 0, True, batch) if recomputing else None,
    )


def _adapted(config: Config, accelerator: bool) -> "PreTrainedModel | PeftModel":
    """The adapted model on the meta device, in the types that it would have."""
    attention = config.model.attention
    dtype = config.model.dtype
    fused = attention == "sdpa" or (accelerator and attention == "auto")
    wanted = torch.bfloat16 if accelerator and dtype == "auto" else resolve_dtype(dtype)
    kernel = FUSED if fused else resolve_attention("eager", transformers_config(config.model))
    model = meta_model(config.model, wanted, kernel)
    with torch.device("meta"):
        return adapt_with(model, config.method, config.allocation, seed=None)


def _cost(config: Config, accelerator: bool, checkpointing: bool, batch: BatchShape) -> StepCost:
    """The cost of a micro-batch; of a deep model, from two shallow ones.

    Layers of equally many experts cost the same, so every figure grows by the same amount with each layer of every
    part of the depth: two points are enough, and a deep model takes no longer than a shallow one. Only the peak may be
    off, by what is short-lived in one layer.
    """
    experts = experts_of(config.method, config.allocation)
    depth = config.model.shape.get("num_hidden_layers", 0)
    parts = len(experts) if isinstance(experts, list) else 1
    if config.model.path or depth % parts or depth <= 3 * parts:
        return _cost_of(config, accelerator, checkpointing, batch)
    shallow, deeper = (
        asdict(_cost_of(_with_depth(config, layers), accelerator, checkpointing, batch))
        for layers in (2 * parts, 3 * parts)
    )
    more = depth // parts - 2
    return StepCost(**{name: size + more * (deeper[name] - size) for name, size in shallow.items()})


def _with_depth(config: Config, layers: int) -> Config:
    return replace(config, model=replace(config.model, shape={**config.model.shape, "num_hidden_layers": layers}))


def _cost_of(config: Config, accelerator: bool, checkpointing: bool, batch: BatchShape) -> StepCost:
    model = _adapted(config, accelerator)
    method = config.method
    # Full fine-tuning trains a float32 copy and multiplies in the type of the base.
    low_precision = model.dtype if method.kind == "full" and model.dtype != torch.float32 else None
    device_mode = DeviceMode(accelerator, low_precision)
    ready_to_train(model, checkpointing, lambda: (nullcontext(), device_mode))
    if method.router == "domain" and (method.add_task or not method.train_experts):
        assert isinstance(model, PeftModel)
        freeze_experts(model)
    return dry_step(
        model,
        batch,
        training=config.training,
        domains=row_indices(method, config.data.tasks),
        device_mode=device_mode,
    )


def _model_bytes(model: "PreTrainedModel | PeftModel", quantize: str | None, moment_bytes: int) -> ModelBytes:
    """The bytes of an adapted model's weights, as they would lie in memory while it trains."""
    whole = not isinstance(model, PeftModel)
    weight_bytes = BYTES_PER_QUANTIZED_WEIGHT.get(quantize or "")
    trained = set(trained_parameters(model))
    layers: dict[str, int] = {}
    weights = adapter = rest = 0
    named: list[tuple[str, Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in named:
        size = tensor.numel() * (4 if whole and tensor.is_floating_point() else tensor.element_size())
        layer = re.search(r"\.layers\.(\d+)\.", name)
        if weight_bytes and layer and tensor.dim() == 2 and name not in trained:
            size = int(tensor.numel() * weight_bytes)
        if name in trained and not whole:
            adapter += size
            continue
        weights += size
        if layer:
            layers[layer[1]] = layers.get(layer[1], 0) + size
        else:
            rest += size
    moments = moment_bytes * sum(tensor.numel() for name, tensor in named if name in trained)
    return ModelBytes(weights, adapter, moments, max(layers.values(), default=0), rest, not weight_bytes, whole)


def lora_matrices(model: nn.Module) -> dict[str, int]:
    """How many matrices A and B there are: one A serves all experts of its module where it is shared."""
    counts = {"A": 0, "B": 0}
    for name, module in model.named_modules():
        if isinstance(module, ExpertBank):
            counts["A"] += module.A.shape[0] // module.rank
            counts["B"] += module.B.shape[1] // module.rank
        elif name.endswith((".lora_A.default", ".lora_B.default")):
            counts[name.split(".")[-2][-1]] += 1
    return counts
