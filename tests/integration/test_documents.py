"""README.md, CONTRIBUTING.md and docs/: blocks marked to be run do run, all other commands would be accepted."""

import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.config.rerun import eval_arguments, rerun_config, split_runs, with_compared
from mosld.config.sweep import is_sweep
from mosld.planning.arguments import split_keys
from tests.helpers.documents import MARK, PAGES, ROOT, Block, blocks, commands
from tests.helpers.sweeps import jobs

pytestmark = pytest.mark.slow

MARKED = [page for page in PAGES if MARK in page.read_text()]
OWN_TEST = "method=mosld_ffn"  # made by docs/how-to/adding_a_method.md, tested by test_adding_a_method.py


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def run_block(block: Block, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a block as a reader would who types it there: python is the one of the tests, and there is no network."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": places, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    shell = [sys.executable, "-"] if block.language == "python" else ["bash", "-euo", "pipefail"]
    return subprocess.run(
        shell, input=block.text, cwd=directory, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.timeout(1200)  # the tour has thirteen processes, most with torch: a minute on a quiet machine
@pytest.mark.parametrize("page", MARKED, ids=name_of)
def test_the_marked_blocks_of_a_page_run_in_their_order(page: Path, tmp_path: Path):
    for block in (block for block in blocks(page) if block.marked):
        done = run_block(block, tmp_path)
        where = f"{page.relative_to(ROOT)}:{block.line}: exit code {done.returncode}"
        assert done.returncode == 0, f"{where}\n{block.text}\n{done.stdout}"


def test_a_block_that_fails_in_its_first_line_is_seen(tmp_path: Path):
    block = Block(ROOT / "README.md", 1, "bash", "false | true\ntrue\n", True)
    assert run_block(block, tmp_path).returncode != 0


@pytest.mark.parametrize("page", MARKED, ids=name_of)
def test_every_mark_stands_before_a_block_that_can_be_run(page: Path):
    marked = [block for block in blocks(page) if block.marked]
    assert len(marked) == page.read_text().splitlines().count(MARK)
    assert {block.language for block in marked} <= {"bash", "python"}


def test_the_marked_blocks_use_every_command_and_python():
    text = "".join(block.text for page in MARKED for block in blocks(page) if block.marked)
    used = ["train", "eval", "chat", "report", "inspect", "export", "plan"]
    parts = [*(f"-m mosld.{name}" for name in used), "mosld.train -m", "torchrun", "mosld.adapt", "PeftModel"]
    assert [part for part in parts if part not in text] == []


def accept(name: str, arguments: list[str]) -> None:
    """What the command itself does before it reads a run or its rows."""
    if name == "eval":
        runs, others = split_runs(arguments)
        given = eval_arguments([*(f"run={run}" for run in runs[:1]), *others])
        rerun_config(recorded(), given.overrides)
        rerun_config(recorded(), with_compared(given.overrides, given.compare) if given.compare else given.overrides)
    elif name in ("train", "plan"):
        keys = split_keys(arguments)[1] if name == "plan" else arguments
        jobs(*keys) if is_sweep(keys) else load_config(keys)
    else:
        importlib.import_module(f"mosld.{name}")._parser().read(arguments)


def recorded() -> dict[str, Any]:
    return dataclasses.asdict(load_config(["model=tiny"]))


def only_missing(message: str) -> bool:
    """Whether a message is about a placeholder's place, or a launcher that is not installed here."""
    return "..." in message or "pip install" in message


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_would_be_accepted(page: Path):
    wrong = []
    for name, arguments in commands(page):
        experiment = name == "train" and all(text.startswith(("experiment=", "scale=")) for text in arguments)
        if "--help" in arguments or OWN_TEST in arguments or (arguments and experiment):
            continue  # test_experiments.py composes every experiment at both scales
        try:
            accept(name, arguments)
        except UserError as error:
            wrong += [f"{name} {arguments}: {text}" for text in error.messages if not only_missing(text)]
    assert wrong == []


def test_a_wrong_command_would_not_be_accepted():
    for name, arguments in [("train", ["method.rnk=4"]), ("eval", ["data=mmlu"]), ("chat", []), ("plan", ["gpu=8"])]:
        with pytest.raises(UserError):
            accept(name, arguments)
