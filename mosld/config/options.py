"""Where the options of a group are: in the package's `conf/`, in the user's, in a file or a model named directly.

The user's directories are `conf/` in the working directory and the one of `--config-dir`. A name that has different
files in two places is refused, so that it means one thing in every table.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mosld.common.errors import UserError
from mosld.common.files import JsonObject
from mosld.common.reading import check_yaml

# Set by `--config-dir`, so that the processes of a sweep search there, too.
CONFIG_DIR_VARIABLE = "MOSLD_CONFIG_DIR"
YAML_SUFFIXES = (".yaml", ".yml")
# The groups whose `name` is part of a run's name; without one, an option of the user's is named after its file.
NAMED_GROUPS = ("model", "method", "allocation", "data", "training")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_PACKAGE_HEADER = re.compile(r"^# *@package +(\S+)", re.MULTILINE)


def config_directory() -> Path:
    """`conf/`: inside the package in a wheel, next to it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def own_directories() -> list[Path]:
    """The user's directories of options that exist."""
    named = os.environ.get(CONFIG_DIR_VARIABLE)
    directories = [path.resolve() for path in (*([Path(named)] if named else []), Path("conf")) if path.is_dir()]
    return [path for path in dict.fromkeys(directories) if path != config_directory().resolve()]


def group_options() -> dict[str, list[str]]:
    """The config groups and the options of each, the user's among them; accelerate/ is no group."""
    groups = sorted(path.name for path in config_directory().iterdir() if path.is_dir() and path.name != "accelerate")
    directories = [config_directory(), *own_directories()]
    return {
        group: sorted({name for directory in directories for name in _names(directory / group)}) for group in groups
    }


def _names(directory: Path) -> Iterator[str]:
    yield from (path.relative_to(directory).with_suffix("").as_posix() for path in directory.rglob("*.yaml"))


def option_file(group: str, name: str) -> Path | None:
    """The YAML file of an option; None if there is none.

    Raises:
        UserError: the name has different files in two directories.
    """
    if name.endswith(YAML_SUFFIXES):
        return Path(name)
    places = [directory / group / f"{name}.yaml" for directory in (config_directory(), *own_directories())]
    files = [path for path in places if path.is_file()]
    other = next((path for path in files if path.read_bytes() != files[0].read_bytes()), None)
    if other:
        shown = _shown(other)
        raise UserError(
            f"{group}={name}: {_shown(files[0])} and {shown} differ; give yours another name, or choose it by its "
            f"path, as in {group}={shown}."
        )
    return files[0] if files else None


def _shown(path: Path) -> str:
    """A path as the user would write it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def is_own(path: Path) -> bool:
    """Whether an option's file is the user's and not the package's."""
    return not path.resolve().is_relative_to(config_directory().resolve())


def direct_option(group: str, text: str) -> JsonObject | None:
    """The tree of an option that is named directly: a YAML file, or a model on the hub or in a directory.

    Raises:
        UserError: the file cannot be read.
    """
    if text.endswith(YAML_SUFFIXES):
        return read_option(group, Path(text))
    if group != "model":
        return None
    path = Path(text).expanduser()
    if path.is_dir() or text.startswith((".", "/", "~")):
        # Its config has the shape, and `compose` names it after the directory.
        return {"name": path.resolve().name, "path": str(path), "architecture": None}
    if HUB_NAME.fullmatch(text):
        return {"name": text.replace("/", "--"), "hub": text, "architecture": None}
    return None


def read_option(group: str, path: Path) -> JsonObject:
    """The tree of an option's YAML file.

    Raises:
        UserError: it is missing or is no YAML map.
    """
    if not path.is_file():
        raise UserError(f"{group}={path}: no such file.")
    check_yaml(path)
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{group}={path}: cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(tree, dict):
        raise UserError(f"{group}={path}: holds no keys; write name: value, one a line.")
    return {str(key): value for key, value in tree.items()}


def register_direct_option(group: str, text: str) -> bool:
    """Let Hydra know an option that is named directly, under the text that names it; whether it is one.

    Raises:
        UserError: its file cannot be read.
    """
    tree = direct_option(group, text)
    if tree is None:
        return False
    # A light install, which has no Hydra, reads options as well.
    from hydra.core.config_store import ConfigStore

    header = _PACKAGE_HEADER.search(Path(text).read_text(encoding="utf-8")) if text.endswith(YAML_SUFFIXES) else None
    if "defaults" in tree:
        # Hydra would look for them beside the file.
        package = "" if header else "@_here_"
        tree["defaults"] = [
            f"/{group}/{entry}{package}" if isinstance(entry, str) and entry[0] not in "_/" else entry
            for entry in tree["defaults"]
        ]
    # Hydra looks for a directory with and without its last slash.
    for name in {text, text.rstrip("/")}:
        parent, _, last = name.rpartition("/")
        folder = "/".join([group, *filter(None, parent.split("/"))])
        ConfigStore.instance().store(last, tree, folder, package=header[1] if header else group)
    return True


def own_name(group: str, option: str) -> str | None:
    """The name that an option of the user's gets from its file, where it has none of its own."""
    path = option_file(group, option) if group in NAMED_GROUPS else None
    if path is None or not is_own(path) or "name" in read_option(group, path):
        return None
    return path.stem
