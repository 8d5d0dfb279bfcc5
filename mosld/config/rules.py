"""Rules that join several keys: what each single key allows stands in its `setting`."""

import os
import re
import shutil
from pathlib import Path

from mosld.config.data_rules import broken_data_rules, broken_mixing_rules, broken_single
from mosld.config.domain_rules import broken_domain_rules
from mosld.config.errors import typed
from mosld.config.method_rules import broken_method_rules, experts_of
from mosld.config.schema import Config, ModelConfig


def broken_rules(config: Config, training: bool = True) -> list[str]:
    """One message for every combination of keys that cannot work; fewer where nothing is to be trained."""
    return [
        *_names(config),
        *broken_model_rules(config.model),
        *broken_method_rules(config.method, config.allocation),
        *_depth(config),
        *(broken_domain_rules(config.method, config.data) if training else []),
        *(broken_single(config.data) if training else []),
        *_prefix(config),
        *broken_data_rules(config.data, config.source, config.evaluation.shots),
        *broken_mixing_rules(config.data),
        *_quantize(config),
        *_training(config),
        *(_compiling(config) if training else []),
        *_hub(config),
    ]


def broken_model_rules(model: ModelConfig) -> list[str]:
    """What in a model's config cannot work."""
    found = []
    if model.kind == "hub" and not model.path and not (model.hub and model.revision):
        found.append(f"model={model.name}: a hub model needs model.hub and a pinned model.revision (a commit).")
    if model.path and not (Path(model.path) / "config.json").is_file():
        found.append(f"model.path={model.path}: no checkpoint there (a directory with config.json and safetensors).")
    return found


def _names(config: Config) -> list[str]:
    names = {"model.name": config.model.name, "method.name": config.method.name, "data.name": config.data.name}
    return [
        f"{key}={name}: becomes part of a path; letters, digits, '_', '-' and '.' alone, and no leading '.'."
        for key, name in names.items()
        if not re.fullmatch(r"[\w-][\w.-]*", name)
    ]


def _depth(config: Config) -> list[str]:
    experts, depth = experts_of(config.method, config.allocation), config.model.shape.get("num_hidden_layers")
    if config.method.kind != "mixture" or config.model.path or not isinstance(experts, list):
        return []
    if isinstance(depth, int) and len(experts) > depth:
        return [
            f"allocation.experts={typed(experts)}: has {len(experts)} parts, {config.model.name} only {depth} layers."
        ]
    return []


def _prefix(config: Config) -> list[str]:
    if config.method.kind == "prefix" and config.training.gradient_checkpointing:
        return ["training.gradient_checkpointing=true: fails with prefix-tuning in PEFT; lower micro_batch_size."]
    return []


def _quantize(config: Config) -> list[str]:
    given = f"model.quantize={config.model.quantize}"
    if config.model.quantize and config.method.kind == "full":
        return [f"{given}: packed weights cannot be trained, and method=full trains them; take an adapter's method."]
    return []


def _hub(config: Config) -> list[str]:
    place = config.hub.push_to
    if place is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", place):
        return [f"hub.push_to={place}: is no repository; write owner/name."]
    return []


def _training(config: Config) -> list[str]:
    training = config.training
    if training.max_grad_norm == 0:
        return ["training.max_grad_norm=0: leaves no gradient; null clips nothing."]
    return []


def _compiling(config: Config) -> list[str]:
    if not config.training.compile:
        return []
    found, compiler = [], os.environ.get("CXX", "g++")
    if config.training.gradient_checkpointing:
        found.append("gradient_checkpointing=true (its second forward is another one to the compiler)")
    if config.method.kind == "prefix":
        found.append("method.kind=prefix (every layer writes into a cache of its own)")
    if config.method.router == "domain":
        found.append("method.router=domain (the layers of a mixture of domains hand their choices on)")
    if not shutil.which(compiler):
        found.append(f"this machine: no C++ compiler {compiler} is on the path (install one, or name yours in CXX)")
    return [f"training.compile=true: cannot be combined with {reason}." for reason in found]
