"""The config groups: the options of each, the package that an option needs, and one group alone for use in Python."""

from importlib.util import find_spec

from mosld.common.errors import UserError, format_value, nearest
from mosld.common.files import JsonObject
from mosld.config.checks import check_model
from mosld.config.fields import build
from mosld.config.method_checks import check_method, explain_fixed_experts
from mosld.config.options import direct_option, group_options, option_file, own_name, read_option
from mosld.config.schema import AllocationConfig, MethodConfig, ModelConfig

# Options that need a Hydra plugin: the plugin's package, and mosld's extra that installs it.
PLUGINS = {
    "sweep=optuna": ("hydra_plugins.hydra_optuna_sweeper", "optuna"),
    "launcher=joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "launcher=slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
}
OPTIONAL_GROUPS = ("experiment", "scale", "debug", "sweep")


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
    """The tree of an option; an unknown name is appended to `errors` and gives an empty tree."""
    try:
        path = option_file(group, name)
        tree = read_option(group, path) if path else direct_option(group, name)
        named_after_file = own_name(group, name)
    except UserError as error:
        errors += error.messages
        return {}
    if tree is None:
        errors.append(f"{group}={name}: unknown option; {nearest(name, group_options()[group])}")
        return {}
    # Options of the same group come first, as Hydra has them; what an option chooses in other groups is for Hydra.
    for entry in tree.pop("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            tree = {**option_tree(group, entry.removeprefix(f"/{group}/"), errors), **tree}
    return {**tree, "name": named_after_file} if named_after_file else tree
