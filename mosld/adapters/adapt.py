"""From a method's config to an adapted model."""

import re
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    get_peft_model,
    initialize_kv_prefix_from_past_key_values,
)
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mosld.adapters.bank import Mixture
from mosld.adapters.config import MosldConfig, experts_of_module
from mosld.adapters.grow import grow_to
from mosld.adapters.moa import load_experts
from mosld.common.errors import UserError, format_value
from mosld.config.groups import method_config
from mosld.config.method_checks import TARGETS, experts_of, target_modules
from mosld.config.schema import AllocationConfig, MethodConfig

# PEFT's names of the options of a LoRA.
PEFT_OPTIONS = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "targets"}


def adapt(
    model: PreTrainedModel | PeftModel,
    method: str = "mosld",
    *,
    allocation: str | int | list[int] | None = None,
    seed: int | None = None,
    **options: object,
) -> PreTrainedModel | PeftModel:
    """Make a transformers model trainable by any method.

    Args:
        model: a causal language model; it is changed in place and its weights are frozen (with "full" they train).
        method: a name of conf/method.
        allocation: a name of conf/allocation, one number of experts, or a list stretched over the depth; None: the
            method's own number where it has one, else triangle.
        seed: seed of the initial weights; None: the global RNG as it stands.
        options: keys of the config's method group: rank, alpha, top_k, dropout, targets, share, ... On a model that
            carries a trained mixture, `experts` alone: the larger number to grow to (`grow`). A mixture of
            domains (method "moa") needs `domains`, the names of its experts. `experts_from` makes ready LoRAs the
            experts of "moa", "mola" or "molora": PEFT directories by name. PEFT's r, lora_alpha, lora_dropout and
            target_modules are rank, alpha, dropout and targets.

    Returns:
        A PeftModel; with "full" the model itself.

    Raises:
        UserError: an unknown method or option, or a combination that cannot work.
    """
    if isinstance(model, PeftModel) and options.keys() == {"experts"} and allocation is None:
        return grow_to(model, options["experts"], seed)
    twice = [(name, ours) for name, ours in PEFT_OPTIONS.items() if {name, ours} <= options.keys()]
    if twice:
        raise UserError(*(f"{name}: is PEFT's name of {ours}; give one of the two." for name, ours in twice))
    options = {PEFT_OPTIONS.get(name, name): value for name, value in options.items()}
    if isinstance(names := options.get("targets"), set | tuple):
        options["targets"] = sorted(names)
    config, shape = method_config(method, allocation, options)
    return adapt_with(model, config, shape, seed)


def adapt_with(
    model: PreTrainedModel | PeftModel, method: MethodConfig, allocation: AllocationConfig, seed: int | None
) -> PreTrainedModel | PeftModel:
    """As `adapt`, from checked configs."""
    if isinstance(model, PeftModel) or any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise UserError(
            f"method={method.name}: the model carries an adapter already; take a fresh base model, or the one that "
            "unload() of the adapted model returns; mosld.grow adds experts to a mixture."
        )
    if method.kind == "full":
        return model.requires_grad_(True)
    if method.kind != "prefix":
        check_targets(model, method)
    try:
        config = peft_config(with_matched_rank(method, allocation, model), allocation)
        if seed is not None:
            torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    except (ValueError, TypeError) as error:  # PEFT names a missing target or type, the tuner a shape that does not fit
        words = re.findall(r"\w+", str(error))
        keys = [f"; {theirs} is method.{ours}" for theirs, ours in PEFT_OPTIONS.items() if theirs in words]
        raise UserError(f"method={method.name}: {error}{''.join(keys)}") from error
    if method.kind == "prefix" and adapted.device.type != "meta":
        _initialize_prefix(adapted, method.virtual_tokens)
    if method.experts_from and adapted.device.type != "meta":
        try:
            load_experts(adapted, {name: Path(folder) for name, folder in method.experts_from.items()})
        except UserError:
            adapted.unload()
            raise
    return adapted


@torch.no_grad()
def _initialize_prefix(adapted: PeftModel, count: int) -> None:
    """Set the prefix to the keys and values of `count` random tokens (Li and Liang 2021, section 7.4: words).

    Departure from PEFT, which draws it from N(0, 1), far from the values in a model: SmolLM2-135M started at a loss of
    12.5 and stayed below the untrained model.
    """
    base = cast(PreTrainedModel, adapted.get_base_model())
    tokens = torch.randint(base.config.get_text_config().vocab_size, (1, count)).to(adapted.device)
    cache = base(input_ids=tokens, use_cache=True, logits_to_keep=1).past_key_values
    initialize_kv_prefix_from_past_key_values(adapted, past_key_values=cache)


def peft_config(method: MethodConfig, allocation: AllocationConfig) -> PeftConfig:
    """The PEFT config of a method.

    Raises:
        UserError: a mixture of domains whose domains have no names.
    """
    if method.kind == "lora":
        return LoraConfig(
            r=method.rank,
            lora_alpha=int(method.alpha) if method.alpha.is_integer() else method.alpha,  # type: ignore[arg-type]
            lora_dropout=method.dropout,
            target_modules=target_modules(method),
            init_lora_weights=True if method.init == "kaiming" else method.init,  # type: ignore[arg-type]
            use_rslora=method.rslora,
            use_dora=method.dora,
            task_type="CAUSAL_LM",
        )
    if method.kind == "prefix":
        return PrefixTuningConfig(num_virtual_tokens=method.virtual_tokens, task_type="CAUSAL_LM")
    experts = experts_of(method, allocation)
    if method.router == "domain":
        if not method.domains:
            raise UserError(f"method={method.name}: name its experts, as in domains=['obqa', 'csqa'].")
        experts = len(method.domains)
    return MosldConfig.from_method(method, experts, target_modules(method), TARGETS[method.plain_targets])


def with_matched_rank(method: MethodConfig, allocation: AllocationConfig, model: PreTrainedModel) -> MethodConfig:
    """A LoRA with the rank at which it trains about as many weights on the model as the mixture that it matches."""
    if method.match is None:
        return method
    options: dict[str, object] = {"rank": method.rank, "targets": method.targets, "top_k": 1}
    mixture, _ = method_config(method.match, allocation.experts, options)
    config = cast(MosldConfig, peft_config(mixture, allocation))
    # PEFT says which layers the targets name.
    smallest = get_peft_model(model, peft_config(replace(method, rank=1, init="kaiming"), allocation))
    layers = {key: layer for key, layer in smallest.get_base_model().named_modules() if isinstance(layer, LoraLayer)}
    smallest.unload()
    widths = {key: (cast(int, layer.in_features), cast(int, layer.out_features)) for key, layer in layers.items()}
    with torch.device("meta"):
        mixtures = [Mixture(*width, experts_of_module(key, config, model), config) for key, width in widths.items()]
    wanted = sum(weight.numel() for mixture in mixtures for weight in mixture.parameters())
    rank = max(1, round(wanted / sum(map(sum, widths.values()))))
    return replace(method, rank=rank, alpha=method.alpha / method.rank * rank, match=None)


def check_targets(model: PreTrainedModel, method: MethodConfig) -> None:
    """Refuse targets that the model does not have, and say which it has.

    Raises:
        UserError: nothing has such a name, or the method cannot adapt what has.
    """
    targets = target_modules(method)
    setting = f"method.targets={format_value(method.targets)}"
    modules = dict(model.named_modules())
    if targets == "all-linear":
        return
    if isinstance(targets, str):
        matched = [name for name in modules if re.fullmatch(targets, name)]
        missing = [] if matched else [targets]
    else:
        matched = [name for name in modules if any(f".{name}".endswith(f".{target}") for target in targets)]
        missing = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in matched)]
    if missing:
        kinds = (nn.Linear, Conv1D)
        linear = sorted({name.rpartition(".")[2] for name, module in modules.items() if isinstance(module, kinds)})
        raise UserError(
            f"{setting}: the model has no layer called {', '.join(missing)}; its linear layers: {', '.join(linear)}. "
            f"Choose some, as in method.targets=[{','.join(linear[:2])}], or all-linear."
        )
    blocks = [name for name in matched if not isinstance(modules[name], nn.Linear | Conv1D)]
    if blocks and method.router == "domain":
        raise UserError(f"{setting}: a router by domain needs single layers; {blocks[0]} is none.")
