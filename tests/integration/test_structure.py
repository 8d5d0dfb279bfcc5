"""The shape of the project: imports flow one way, public names have docstrings, each YAML shows a command that runs."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from mosld.config.compose import load_config
from mosld.config.groups import config_directory, group_options
from mosld.config.rerun import eval_arguments
from mosld.config.sweep import is_sweep, plan_sweep

PACKAGE = Path(__file__).resolve().parents[2] / "mosld"
FLOW = ["config", "data", "model", "adapters", "evaluation", "logging", "training", "reporting"]
MODULES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = ["planning", "sweeping"]  # of one command each, beside the entry points
STAGES = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] in FLOW]
YAMLS = sorted(config_directory().rglob("*.yaml"))
ENTRY_POINTS = ("train", "eval", "report", "plan", "chat")


def name(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """The first part below `mosld` of every import of the package (also inside functions), with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            inside = path.relative_to(PACKAGE.parent).parts[: -node.level]
            modules = [".".join([*inside, node.module or node.names[0].name])]
        elif isinstance(node, ast.ImportFrom) and node.module == "mosld":
            modules = [f"mosld.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [str(node.module)]
        else:
            continue
        for module in modules:
            if module.split(".")[0] == "mosld":
                yield [*module.split("."), ""][1], node.lineno


def undocumented(node: ast.AST, inside: str = "") -> Iterator[str]:
    """Public classes and functions, and public methods of public classes, that have no docstring."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or child.name.startswith("_"):
            continue
        if not ast.get_docstring(child):
            yield f"{inside}{child.name}, line {child.lineno}"
        if isinstance(child, ast.ClassDef):
            yield from undocumented(child, f"{child.name}.")


def opening(path: Path) -> str:
    """The comment lines that a YAML file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line.lstrip("# ") for line in lines[:first])


def commands(path: Path) -> list[tuple[str, list[str]]]:
    """The `python -m mosld.X ...` commands of a YAML's opening comment, or accelerate's of it: X and its arguments."""
    found = re.findall(r"(?:python|accelerate launch .*) -m mosld\.(\w+)(.*)", opening(path))
    return [(module, shlex.split(arguments)) for module, arguments in found]


def test_every_package_of_mosld_has_its_place_in_the_flow():
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert packages == {*FLOW, *COMMANDS}


@pytest.mark.parametrize("path", STAGES, ids=name)
def test_a_stage_imports_only_itself_and_stages_before_it(path: Path):
    own = FLOW.index(path.relative_to(PACKAGE).parts[0])
    allowed = FLOW[: own + 1]
    assert [f"line {line} imports mosld.{stage}" for stage, line in imported(path) if stage not in allowed] == []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_says_what_it_is(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_public_name_has_a_docstring(path: Path):
    assert list(undocumented(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_file_has_at_most_220_lines(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 220


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.relative_to(config_directory()).as_posix())
def test_a_yaml_opens_with_a_command_that_composes(path: Path):
    found = commands(path)
    assert found, "its opening comment shows no `python -m mosld.` command"
    for module, arguments in found:
        assert module in ENTRY_POINTS
        overrides = [argument for argument in arguments if argument != "--help"]
        if is_sweep(overrides):
            plan_sweep(overrides)
            continue
        if module == "eval":
            overrides = eval_arguments(overrides).overrides
        local = "source=local" in overrides and not any(o.startswith("source.root=") for o in overrides)
        load_config([*overrides, "source.root=rows"] if local else overrides)


@pytest.mark.parametrize("path", [p for p in YAMLS if p.parent.name in group_options()], ids=lambda p: p.stem)
def test_the_command_of_a_group_option_names_that_option(path: Path):
    option = f"{path.parent.name}={path.stem}"
    key = f"{path.parent.name}."
    found = [argument for _, arguments in commands(path) for argument in arguments]
    assert option in found or (path.stem == "default" and any(argument.startswith(key) for argument in found))
