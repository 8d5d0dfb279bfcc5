"""A method's config on its own, for `mosld.adapt`: the same YAML files, the same checks, no command line."""

from typing import Any

from omegaconf import OmegaConf

from mosld.config.compose import config_directory, group_options
from mosld.config.errors import UserError, nearest
from mosld.config.rules import broken_method_rules
from mosld.config.schema import AllocationConfig, MethodConfig
from mosld.config.setting import build


def method_config(
    name: str, allocation: str | int | list[int], options: dict[str, Any]
) -> tuple[MethodConfig, AllocationConfig]:
    """The configs of a method and an allocation, with options over the method's own values.

    Raises:
        UserError: with one message for each mistake.
    """
    shape = allocation if isinstance(allocation, str) else "rectangle"
    unknown = [
        f"{group}={option}: unknown; {nearest(option, group_options()[group])}"
        for group, option in (("method", name), ("allocation", shape))
        if option not in group_options()[group]
    ]
    if unknown:
        raise UserError(*unknown)
    errors: list[str] = []
    method = build(MethodConfig, {**_group("method", name), **options}, errors, "method.")
    tree = _group("allocation", shape)
    if not isinstance(allocation, str):
        tree = {"name": "custom", "experts": allocation}
    experts = build(AllocationConfig, tree, errors, "allocation.")
    errors = errors or broken_method_rules(method, experts)
    if errors:
        raise UserError(*errors)
    return method, experts


def _group(group: str, option: str) -> dict[str, Any]:
    tree = OmegaConf.to_container(OmegaConf.load(config_directory() / group / f"{option}.yaml"))
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}
