"""Rules that join several keys: what each single key allows stands in its `setting`."""

import re
from pathlib import Path

from mosld.config.errors import typed
from mosld.config.schema import AllocationConfig, Config, MethodConfig, ModelConfig


def broken_rules(config: Config) -> list[str]:
    """One message for every combination of keys that cannot work."""
    return [
        *_names(config),
        *broken_model_rules(config.model),
        *broken_method_rules(config.method, config.allocation),
        *_depth(config),
        *_data(config),
        *_training(config),
    ]


def broken_model_rules(model: ModelConfig) -> list[str]:
    """What in a model's config cannot work."""
    found = []
    if model.kind == "hub" and not model.path and not (model.hub and model.revision):
        found.append(f"model={model.name}: a hub model needs model.hub and a pinned model.revision (a commit).")
    if model.path and not (Path(model.path) / "config.json").is_file():
        found.append(f"model.path={model.path}: no checkpoint there (a directory with config.json and safetensors).")
    return found


def broken_method_rules(method: MethodConfig, allocation: AllocationConfig) -> list[str]:
    """What in a method, alone or with an allocation, cannot work."""
    found = []
    name = method.name
    if method.dropout and method.dropout_on == "none":
        usual = "x" if method.kind == "lora" else "A (as mosld does)"
        found.append(
            f"method.dropout={method.dropout:g}: {name} drops nothing; "
            f"set method.dropout_on={usual} or leave method.dropout at 0."
        )
    if method.kind == "lora":
        routed = {"top_k": method.top_k, "share": method.share}
        found += [
            f"method.{key}={value}: {name} (method.kind=lora) has one expert and no router; "
            "use method=mosl or method=mosld."
            for key, value in routed.items()
            if value is not None
        ]
        if method.balance != "none":
            found.append(f"method.balance={method.balance}: {name} has no router to balance.")
        if method.dropout_on not in ("x", "none"):
            found.append(f"method.dropout_on={method.dropout_on}: {name} drops elements of its input x alone.")
        return found
    if method.top_k is None or method.share is None:
        found.append(f"method={name}: method.top_k and method.share must be given.")
        return found
    experts = allocation.experts
    fewest = min(experts) if isinstance(experts, list) and experts else experts
    if experts == []:
        found.append("allocation.experts=[]: names no number of experts.")
    elif isinstance(fewest, int) and method.top_k > fewest:
        found.append(
            f"method.top_k={method.top_k}: the smallest number of experts in allocation.experts={experts} is "
            f"{fewest}; lower method.top_k or choose another allocation."
        )
    return found


def _names(config: Config) -> list[str]:
    names = {"model.name": config.model.name, "method.name": config.method.name, "data.name": config.data.name}
    return [
        f"{key}={name}: becomes part of a path; letters, digits, '_', '-' and '.' alone, and no leading '.'."
        for key, name in names.items()
        if not re.fullmatch(r"[\w-][\w.-]*", name)
    ]


def _depth(config: Config) -> list[str]:
    experts, depth = config.allocation.experts, config.model.shape.get("num_hidden_layers")
    if config.method.kind != "mixture" or config.model.path or not isinstance(experts, list):
        return []
    if isinstance(depth, int) and len(experts) > depth:
        return [
            f"allocation.experts={typed(experts)}: has {len(experts)} parts, {config.model.name} only {depth} layers."
        ]
    return []


def _data(config: Config) -> list[str]:
    found = []
    if not config.data.tasks:
        found.append("data.tasks=[]: names no task.")
    if len(set(config.data.tasks)) < len(config.data.tasks):
        found.append(f"data.tasks={typed(config.data.tasks)}: names a task twice.")
    if config.source.name == "local" and not config.source.root:
        found.append("source.root: source=local needs a directory, as in source.root=my/data.")
    if config.source.name == "bundled" and config.source.root:
        found.append(f"source.root={config.source.root}: the bundled source has no directory; add source=local.")
    return found


def _training(config: Config) -> list[str]:
    training = config.training
    if training.max_grad_norm == 0:
        return ["training.max_grad_norm=0: leaves no gradient; null clips nothing."]
    return []
