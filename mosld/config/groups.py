"""The config groups: the options of each, the package that an option needs, and one group alone for use in Python."""

from importlib.util import find_spec
from pathlib import Path

from omegaconf import OmegaConf

from mosld.common.errors import UserError, format_value, nearest
from mosld.common.files import JsonObject
from mosld.common.reading import check_yaml
from mosld.config.checks import check_model
from mosld.config.fields import build
from mosld.config.method_checks import check_method, explain_fixed_experts
from mosld.config.schema import AllocationConfig, MethodConfig, ModelConfig

# Options that need a Hydra plugin: the plugin's package, and mosld's extra that installs it.
PLUGINS = {
    "sweep=optuna": ("hydra_plugins.hydra_optuna_sweeper", "optuna"),
    "launcher=joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "launcher=slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
}
OPTIONAL_GROUPS = ("experiment", "scale", "debug", "sweep")


def config_directory() -> Path:
    """`conf/`: inside the package in a wheel, next to it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def group_options() -> dict[str, list[str]]:
    """The config groups and the options of each, from the files of `conf/`; accelerate/ is no group."""
    groups = sorted(path for path in config_directory().iterdir() if path.is_dir() and path.name != "accelerate")
    return {group.name: sorted(option.stem for option in group.glob("*.yaml")) for group in groups}


def is_null_group(override: str) -> bool:
    """Whether an override is like `debug=null`: the default, which Hydra does not accept on a command line."""
    group, _, option = override.partition("=")
    return group in OPTIONAL_GROUPS and option == "null"


def missing_plugin(override: str) -> str:
    """What to install before `group=option` can be chosen; "" if nothing."""
    package, extra = PLUGINS.get(override, ("", ""))
    if not package or _is_installed(package):
        return ""
    return f"needs one more package: pip install 'mosld[{extra}]'."


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        # There is no plugin of Hydra at all.
        return False


def method_config(
    name: str, allocation: str | int | list[int] | None, options: JsonObject
) -> tuple[MethodConfig, AllocationConfig]:
    """The configs of a method and its allocation, with the same checks as on the command line.

    Args:
        name: a file of conf/method.
        allocation: a file of conf/allocation or the numbers of experts; None: triangle.
        options: keys of the method group, which override the file.

    Raises:
        UserError: with one message per mistake.
    """
    errors: list[str] = []
    method = build(MethodConfig, {**option_tree("method", name, errors), **options}, errors, "method.")
    if allocation is not None and method.experts is not None:
        errors.append(explain_fixed_experts(f"allocation={format_value(allocation)}", method))
    if allocation is None or isinstance(allocation, str):
        tree = option_tree("allocation", allocation or "triangle", errors)
    else:
        tree = {"name": "custom", "experts": allocation}
    experts = build(AllocationConfig, tree, errors, "allocation.")
    errors = errors or check_method(method, experts)
    if errors:
        raise UserError(*errors)
    return method, experts


def model_config(name: str, options: JsonObject) -> ModelConfig:
    """The config of a model, with options that override its file.

    Raises:
        UserError: with one message per mistake.
    """
    errors: list[str] = []
    model = build(ModelConfig, {**option_tree("model", name, errors), **options}, errors, "model.")
    errors = errors or check_model(model)
    if errors:
        raise UserError(*errors)
    return model


def option_tree(group: str, name: str, errors: list[str]) -> JsonObject:
    """The tree of an option's YAML file; an unknown name is appended to `errors` and gives an empty tree."""
    options = group_options()[group]
    if name not in options:
        errors.append(f"{group}={name}: unknown option; {nearest(name, options)}")
        return {}
    file = config_directory() / group / f"{name}.yaml"
    check_yaml(file)
    tree = OmegaConf.to_container(OmegaConf.load(file))
    if not isinstance(tree, dict):
        errors.append(f"{file}: holds no keys.")
        return {}
    # What an option chooses in other groups is for Hydra.
    return {str(key): value for key, value in tree.items() if key != "defaults"}
