"""The import rule of docs/explanation/architecture.md: packages import only packages of an earlier level."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "mosld"
LEVELS = (
    ("common",),
    ("config",),
    ("data", "distributed"),
    ("models", "runs"),
    ("adapters", "tracking", "reporting"),
    ("evaluation", "analysis", "exporting"),
    ("training",),
    ("planning", "recipes"),
    ("sweeps",),
)
LEVEL_OF = {package: level for level, packages in enumerate(LEVELS) for package in packages}
COMMANDS = ("chat", "dashboard", "eval", "export", "inspect", "merge", "plan", "report", "train", "verify")
# The console script and what it alone has.
SCRIPTS = ("__main__", "copy_config")
# Names of other libraries' modules that one file alone may import: what is behind them is not their public interface.
INTERNALS = {
    "hydra._internal": ("config/sweep.py", "sweeps/sweep.py"),
    "deepspeed": ("distributed/zero.py",),
    "lm_eval": ("evaluation/lm_eval/build.py", "evaluation/lm_eval/evaluate.py", "evaluation/lm_eval/model.py"),
}  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module, also inside functions, with its line; `from package import module` counts as module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{relative(path)}:{node.lineno}: write absolute imports"
            folder = PACKAGE.parent / (node.module or "").replace(".", "/")
            if folder.is_dir():
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield str(node.module), node.lineno


def place(module: str) -> str:
    """The package or the command that a dotted name of mosld lies in."""
    return [*module.split("."), ""][1]


def allowed(source: str, target: str) -> bool:
    """Whether code in one package, in `cli` or in a command may import from another."""
    if source == target or target == "__version__":
        return True
    if source in LEVEL_OF:
        return target in LEVEL_OF and LEVEL_OF[target] < LEVEL_OF[source]
    if source == "cli":
        return target in ("common", "config")
    # Commands import any package and `cli`; the package itself hands on adapt and load_base.
    # merge is the old name of export.
    return target not in COMMANDS or (source, target) == ("merge", "export")


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_imports_only_from_packages_to_its_left(path: Path):
    source = place("mosld." + relative(path).removesuffix(".py").replace("/", "."))
    wrong = [
        f"{relative(path)}:{line} imports {module}"
        for module, line in imports(path)
        if module.split(".")[0] == "mosld" and not allowed(source, place(module))
    ]
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_internals_of_other_libraries_stay_in_one_file(path: Path):
    wrong = [
        f"{relative(path)}:{line} imports {module}"
        for module, line in imports(path)
        for name, homes in INTERNALS.items()
        if (module == name or module.startswith(f"{name}.")) and relative(path) not in homes
    ]
    assert wrong == []


def test_every_package_has_a_level_and_every_module_at_the_top_is_a_command():
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert packages == set(LEVEL_OF)
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*COMMANDS, *SCRIPTS, "cli", "__init__"}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_and_functions_are_short(path: Path):
    text = path.read_text(encoding="utf-8")
    functions = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert functions == []
    assert text.count("\n") <= MAX_FILE_LINES
