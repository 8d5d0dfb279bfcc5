"""One group's config on its own, for use from Python: the same YAML files, the same checks, no command line."""

from typing import Any

from omegaconf import OmegaConf

from mosld.config.errors import UserError, nearest, typed
from mosld.config.groups import config_directory, group_options
from mosld.config.method import AllocationConfig, MethodConfig
from mosld.config.method_rules import broken_method_rules, own_number
from mosld.config.rules import broken_model_rules
from mosld.config.schema import ModelConfig
from mosld.config.setting import build


def method_config(
    name: str, allocation: str | int | list[int] | None, options: dict[str, Any]
) -> tuple[MethodConfig, AllocationConfig]:
    """The configs of a method and an allocation (None: triangle), with options over the method's own values.

    Raises:
        UserError: with one message for each mistake.
    """
    errors: list[str] = []
    method = build(MethodConfig, {**option_tree("method", name, errors), **options}, errors, "method.")
    if allocation is not None and method.experts is not None:
        errors.append(own_number(f"allocation={typed(allocation)}", method))
    if allocation is None or isinstance(allocation, str):
        tree = option_tree("allocation", allocation or "triangle", errors)
    else:
        tree = {"name": "custom", "experts": allocation}
    experts = build(AllocationConfig, tree, errors, "allocation.")
    errors = errors or broken_method_rules(method, experts)
    if errors:
        raise UserError(*errors)
    return method, experts


def model_config(name: str, options: dict[str, Any]) -> ModelConfig:
    """The config of a model, with options over its own values.

    Raises:
        UserError: with one message for each mistake.
    """
    errors: list[str] = []
    model = build(ModelConfig, {**option_tree("model", name, errors), **options}, errors, "model.")
    errors = errors or broken_model_rules(model)
    if errors:
        raise UserError(*errors)
    return model


def option_tree(group: str, name: str, errors: list[str]) -> dict[str, Any]:
    """The tree of one YAML file; an unknown name is an error and an empty tree."""
    options = group_options()[group]
    if name not in options:
        errors.append(f"{group}={name}: unknown option; {nearest(name, options)}")
        return {}
    tree = OmegaConf.to_container(OmegaConf.load(config_directory() / group / f"{name}.yaml"))
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}
