"""Row 7: a faulty command is refused in two seconds of the processor, names the nearest valid key, exits with 2."""

import importlib.util
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.cases import Case, Outcome, check_case

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TABLE = (
    ROOT / "tests" / "unit" / "config" / "test_refusals.py"
)  # the faults, with the words that each message must have
SECONDS = 2.0


def cases(full: bool) -> list[Case]:
    """The table's faults as commands, each a process of its own."""
    return [Case("faulty commands", partial(_refused, None if full else 3))]


def _refused(count: int | None, folder: Path) -> Outcome:
    spec = importlib.util.spec_from_file_location("faulty_command_lines", TABLE)
    assert spec
    assert spec.loader
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    lines = list(table.REFUSED)[:: len(table.REFUSED) // count if count else 1]
    outcome = Outcome(len(lines), figure=0.0)
    for line in lines:
        started = _processor_seconds()
        done = subprocess.run(
            [sys.executable, "-m", "mosld.train", *line.split(" ")], cwd=ROOT, capture_output=True, text=True
        )
        seconds = _processor_seconds() - started
        outcome.figure = max(outcome.figure or 0.0, seconds)
        missing = [part for part in table.REFUSED[line] if part not in done.stderr]
        if done.returncode != 2 or missing or "Traceback" in done.stderr or seconds > SECONDS:
            outcome.failures.append(f"{line}: exit {done.returncode}, {seconds:.1f} s, {done.stderr[-300:]}")
    return outcome


def _processor_seconds() -> float:
    """What the processes that this one started and that ended have taken: other jobs on the machine do not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
