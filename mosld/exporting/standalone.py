"""An adapted model as a folder that transformers loads alone: config, one modelling file, all weights, tokenizer."""

import json
import re
from pathlib import Path
from string import Template
from typing import cast

from huggingface_hub import save_torch_state_dict
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mosld.adapters.auxiliary_loss import ROUTER_LOGITS, ROUTER_WEIGHT
from mosld.adapters.bank import Mixture, open_experts
from mosld.adapters.config import MosldConfig, by_prompt
from mosld.adapters.layers import FeedForwardMixture, MixtureLayer
from mosld.common.errors import UserError
from mosld.common.files import write_text
from mosld.exporting import template

MODELLING_FILE = "modeling_mixture"
CAUSAL = "ForCausalLM"
# With transformers' own default the logits would differ by the rounding of another kernel.
EAGER_KERNELS = ("eager", "mosld_eager", "mosld_by_length")
PRODUCTS = {"A": "B_i A", "B": "B A_i", "both": "B M_i A", "none": "B_i A_i"}

MixtureFacts = dict[str, object]
"""The key "mixture" of config.json: what the modelling file needs to build the adapted layers."""


def write_standalone(adapted: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a mixture and its base as a model that needs no mosld and no PEFT.

    ``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`` loads it. In eval mode its logits are those
    of the adapted model: the modelling file computes the same products in the same order. The adapter's weights stay in
    float32 whatever dtype the base is loaded in.

    Args:
        adapted: a mixture of any method, with one active adapter.
        folder: an existing directory.

    Raises:
        UserError: the model is none that can be written so, and why.
    """
    base = cast(PreTrainedModel, adapted.get_base_model())
    if reasons := _reasons_against(adapted, base):
        raise UserError(*reasons)
    adapter = cast(MosldConfig, adapted.active_peft_config)
    mixture = _mixture_facts(base, adapter, adapted.active_adapter)
    name = type(base).__name__.removesuffix(CAUSAL) + "Mixture"
    write_text(folder / f"{MODELLING_FILE}.py", _modelling_text(base, adapter, mixture, name))
    write_text(folder / "config.json", json.dumps(_config_of(base, mixture, name), indent=2, sort_keys=True) + "\n")
    save_torch_state_dict(_weights(base, adapter, adapted.active_adapter), folder)
    for file in folder.glob("*.safetensors"):  # safetensors lets the owner alone read them
        file.chmod((folder / "config.json").stat().st_mode)
    if base.generation_config is not None:
        base.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _reasons_against(adapted: PeftModel, base: PreTrainedModel) -> list[str]:
    adapter = adapted.active_peft_config
    kind = type(base)
    if not isinstance(adapter, MosldConfig):
        return [
            f"as=model: is for mixtures, and this adapter is {str(adapter.peft_type).rpartition('.')[2]}; take as=lora "
            "or as=merged for a plain LoRA."
        ]
    layers = _layers(base, adapted.active_adapter)
    outside = [layer.key for layer, _ in layers if not layer.key.startswith(f"{base.base_model_prefix}.")]
    blocks = any(isinstance(mixture, FeedForwardMixture) for _, mixture in layers)
    closed = any(open_experts(mixture, adapter) is not None for _, mixture in layers)
    foreign = not kind.__module__.startswith("transformers.models.") or not kind.__name__.endswith(CAUSAL)
    checks = [
        (len(adapted.active_adapters) > 1, "several adapters are active; activate one with set_adapter(name)"),
        (getattr(base, "is_quantized", False), "the base is quantized; load it with model.quantize=null"),
        (foreign, f"the base, a {kind.__name__}, is no causal model of transformers itself ({kind.__module__})"),
        (closed, "experts that grow() added are untrained, and their gates are closed; train them or drop_expert them"),
        (outside, f"{', '.join(outside)} is adapted, outside of the decoder"),
        (adapter.modules_to_save, f"modules_to_save={adapter.modules_to_save} are trained whole"),
        (by_prompt(adapter) and (blocks or adapter.plain_modules), "router=domain adapts blocks or single LoRAs"),
        (any(weight.is_meta for weight in base.parameters()), "its weights are not here; load the run in one process"),
    ]
    return [f"as=model: this model cannot be written: {reason}." for holds, reason in checks if holds]


def _mixture_facts(base: PreTrainedModel, adapter: MosldConfig, name: str) -> MixtureFacts:
    """Rank, scale and top_k, and the adapted layers by kind; layers are named as in the base's decoder."""
    facts: MixtureFacts = {"rank": adapter.r, "alpha": adapter.alpha, "top_k": adapter.top_k}
    if by_prompt(adapter):
        facts |= {"domains": adapter.domains, "router_widths": {}}
    for layer, mixture in _layers(base, name):
        key = layer.key.removeprefix(f"{base.base_model_prefix}.")
        if isinstance(mixture, FeedForwardMixture):
            kind, experts = "feed_forward", mixture.gate.experts
        else:
            routed = mixture.router is not None or by_prompt(adapter)
            kind, experts = ("experts" if routed else "lora"), mixture.experts
            if mixture.router is not None and mixture.router.weight is not None and by_prompt(adapter):
                number = next(part for part in key.split(".") if part.isdigit())
                cast(dict[str, int], facts["router_widths"])[number] = cast(nn.Parameter, mixture.router.weight).shape[
                    1
                ]
        cast(dict[str, int], facts.setdefault(kind, {}))[key] = experts
    return facts


def _layers(base: PreTrainedModel, name: str) -> list[tuple[MixtureLayer, Mixture | FeedForwardMixture]]:
    """The adapted layers and the mixture of each."""
    layers = [layer for layer in base.modules() if isinstance(layer, MixtureLayer) and name in layer.mosld_mixture]
    return [(layer, cast(Mixture | FeedForwardMixture, layer.mosld_mixture[name])) for layer in layers]


def _config_of(base: PreTrainedModel, mixture: MixtureFacts, name: str) -> dict[str, object]:
    config = base.config
    values = config.to_dict()
    if config._attn_implementation in EAGER_KERNELS:
        values["attn_implementation"] = "eager"
    own_keys = type(config)().to_dict()
    for key in ("_name_or_path", ROUTER_LOGITS, ROUTER_WEIGHT):
        if key not in own_keys or key == "_name_or_path":
            values.pop(key, None)
    return values | {
        "model_type": f"{config.model_type}_mixture",
        "architectures": [f"{name}{CAUSAL}"],
        "auto_map": {
            "AutoConfig": f"{MODELLING_FILE}.{name}Config",
            "AutoModel": f"{MODELLING_FILE}.{name}Model",
            "AutoModelForCausalLM": f"{MODELLING_FILE}.{name}{CAUSAL}",
        },
        "dtype": str(base.dtype).removeprefix("torch."),
        "mixture": mixture,
    }


def _weights(base: PreTrainedModel, adapter: MosldConfig, name: str) -> dict[str, Tensor]:
    """All weights under the names of the modelling file."""
    weights = {}
    for key, tensor in base.state_dict().items():
        if key in base.all_tied_weights_keys:
            continue
        key = key.replace(".base_layer.", ".base.")
        key = key.replace(f".mosld_mixture.{name}.router.weight", ".mixture_router")
        key = key.replace(f".mosld_mixture.{name}.router.bias", ".mixture_bias")
        key = key.replace(f".mosld_mixture.{name}.", ".mixture.")
        if by_prompt(adapter):  # one router for all modules of a layer
            key = re.sub(r"^(\w+)\..*?\.(\d+)\..*\.mixture_router$", r"\1.mixture_routers.\2", key)
        if ".mosld_mixture." not in key:  # of another adapter
            weights[key] = tensor
    return weights


def _modelling_text(base: PreTrainedModel, adapter: MosldConfig, mixture: MixtureFacts, name: str) -> str:
    """The modelling file: the template with the parts that the method needs."""
    names = {
        "name": name,
        "base": name.removesuffix("Mixture"),
        "prefix": base.base_model_prefix,
        "model_type": f"{base.config.model_type}_mixture",
        "config_class": type(base.config).__name__,
        "model_class": type(base.base_model).__name__,
        "causal_class": type(base).__name__,
        "product": PRODUCTS[adapter.share],
        "rows": "rank" if adapter.share in ("A", "both") else "experts * rank",
        "columns": "rank" if adapter.share in ("B", "both") else "experts * rank",
        "join": "sum(-2)" if adapter.share in ("B", "both") else "flatten(-2)",
        "make_cores": template.MAKE_CORES if adapter.share == "both" else "",
        "apply_cores": template.APPLY_CORES if adapter.share == "both" else "",
        **_router_names(adapter),
    }
    parts = _by_sequence(adapter) if by_prompt(adapter) else _by_token(adapter, mixture)
    return Template(Template(template.FILE).safe_substitute(parts)).substitute(names)


def _router_names(adapter: MosldConfig) -> dict[str, str]:
    """What a router that decides for each token has and reads."""
    biased, magnitude = adapter.balance == "bias", adapter.router == "magnitude"
    width = 'mixture["rank"]' if adapter.router_input == "Ax" else "base.in_features"
    return {
        "make_router": "" if magnitude else template.MAKE_ROUTER.format(width),
        "make_bias": template.MAKE_BIAS if biased else "",
        "bias": ", self.mixture_bias" if biased else "",
        "logits": template.LOGITS["magnitude" if magnitude else adapter.router_input],
    }


def _by_token(adapter: MosldConfig, mixture: MixtureFacts) -> dict[str, str]:
    """The parts of the template for a router that decides for each token."""
    masked = adapter.router == "capacity" or (adapter.router == "dense" and adapter.top_k is not None)
    kind = "masked" if masked else adapter.router
    gates = template.GATES[f"biased {kind}" if adapter.balance == "bias" else kind]
    kinds = [kind for kind in template.LAYERS if kind in mixture]
    return {
        "formula": "\n".join(template.FORMULAS[kind] for kind in kinds),
        "imports": "",
        "layers": "\n\n\n".join([gates, *(template.LAYERS[kind] for kind in kinds)]),
        "adapt": "\n".join(template.ADAPT[kind] for kind in kinds),
        "forward": "",
        "generate": "",
    }


def _by_sequence(adapter: MosldConfig) -> dict[str, str]:
    """The parts of the template for router "domain"."""
    gates, choose = template.CHOOSE[adapter.inference]
    votes = adapter.inference == "vote"
    choice = {"pool": adapter.pool, "gates": gates, "pooled": template.POOLED[adapter.pool], "choose": choose}
    return {
        "formula": template.FORMULAS["sequence"],
        "imports": "from contextvars import ContextVar\n"
        + ("from copy import deepcopy\n" if votes else "")
        + "from functools import wraps\n\n",
        "layers": Template(template.SEQUENCE).safe_substitute(choice),
        "adapt": template.ADAPT["sequence"],
        "forward": template.SEQUENCE_FORWARD.replace("$vote\n", template.VOTE if votes else ""),
        "generate": template.SEQUENCE_GENERATE,
    }
