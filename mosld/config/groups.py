"""The config groups: where their files lie, which options each has, and which options need an extra."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mosld.common.errors import UserError, nearest, typed
from mosld.config.checks import check_model
from mosld.config.fields import build
from mosld.config.method_checks import check_method, own_number
from mosld.config.schema import AllocationConfig, MethodConfig, ModelConfig

# PART: The config groups: where their files lie, which options each has, and which options need an extra.


# Options whose part of Hydra is a package of its own: the package, and our extra that installs it.
PLUGINS = {
    "sweep=optuna": ("hydra_plugins.hydra_optuna_sweeper", "optuna"),
    "launcher=joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "launcher=slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
}
OPTIONAL = ("experiment", "scale", "debug", "sweep")


def config_directory() -> Path:
    """`conf/`: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def group_options() -> dict[str, list[str]]:
    """The config groups and the options of each, from the files of `conf/`; those in accelerate/ are accelerate's."""
    groups = sorted(path for path in config_directory().iterdir() if path.is_dir() and path.name != "accelerate")
    return {group.name: sorted(option.stem for option in group.glob("*.yaml")) for group in groups}


def is_null_group(text: str) -> bool:
    """Whether an override is like `debug=null`: the default, which Hydra does not accept on a command line."""
    group, _, option = text.partition("=")
    return group in OPTIONAL and option == "null"


def missing_plugin(chosen: str) -> str:
    """What to install before `group=option` can be chosen, or nothing."""
    package, extra = PLUGINS.get(chosen, ("", ""))
    return f"needs one more package: pip install 'mosld[{extra}]'." if package and not _installed(package) else ""


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # no plugin of Hydra at all
        return False


# PART: One group's config on its own, for use from Python: the same YAML files, the same checks, no command line.


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
    errors = errors or check_method(method, experts)
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
    errors = errors or check_model(model)
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
