"""Every file of conf/ opens with a command, and that command composes."""

import re
import shlex
from pathlib import Path

import pytest

from mosld.config.compose import load_config
from mosld.config.options import config_directory, group_options
from mosld.config.rerun import eval_arguments
from mosld.config.sweep import is_sweep
from tests.helpers.sweeps import jobs

YAMLS = sorted(config_directory().rglob("*.yaml"))
COMMANDS = ("train", "eval", "report", "plan", "chat")


def commands(path: Path) -> list[tuple[str, list[str]]]:
    """The `python -m mosld.X ...` commands of a YAML's opening comment: X and its arguments."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    opening = "\n".join(line.lstrip("# ") for line in lines[:first])
    matches = re.findall(r"(?:python|accelerate launch .*) -m mosld\.(\w+)(.*)", opening)
    return [(module, shlex.split(arguments)) for module, arguments in matches]


def named(path: Path):
    """The file as a parameter of a test; those of sweeps compose many jobs."""
    marks = [pytest.mark.slow] if path.parent.name in ("experiment", "scale", "sweep") else []
    return pytest.param(path, id=path.relative_to(config_directory()).as_posix(), marks=marks)


@pytest.mark.parametrize("path", [named(path) for path in YAMLS])
def test_a_yaml_opens_with_a_command_that_composes(path: Path):
    assert commands(path), "its opening comment shows no `python -m mosld.` command"
    for module, arguments in commands(path):
        assert module in COMMANDS
        overrides = [argument for argument in arguments if argument != "--help"]
        if is_sweep(overrides):
            jobs(*overrides)
            continue
        if module == "eval":
            overrides = eval_arguments(overrides).overrides
        needs_root = "source=local" in overrides and not any(text.startswith("source.root=") for text in overrides)
        load_config([*overrides, "source.root=rows"] if needs_root else overrides)


@pytest.mark.parametrize("path", [p for p in YAMLS if p.parent.name in group_options()], ids=lambda p: p.stem)
def test_the_command_of_a_group_option_names_that_option(path: Path):
    option = f"{path.parent.name}={path.stem}"
    key = f"{path.parent.name}."
    arguments = [argument for _, arguments in commands(path) for argument in arguments]
    assert option in arguments or (path.stem == "default" and any(text.startswith(key) for text in arguments))
