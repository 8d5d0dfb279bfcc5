"""The config groups: where their files lie, which options each has, and which options need an extra."""

from importlib.util import find_spec
from pathlib import Path

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
