"""Row 13: the same command gives the same bits; one process or two, the same losses."""

from functools import partial
from pathlib import Path

import pytest

from tests.helpers.cases import Case, Outcome, check_case, command, losses, weights
from tests.helpers.fork_server import nursery

pytestmark = pytest.mark.slow

METHODS = (
    "lora",
    "hydralora",
    "mixlora",
    "moa",
    "mola",
    "molora",
    "mosl",
    "mosld",
    "mosld_b",
    "prefix",
    "sira",
    "comol",
    "flylora",
    "loramoe",
    "lora_matched",
    "rlora",
    "smora",
)
CLOSE = 1e-6


def cases(full: bool) -> list[Case]:
    """Each method twice; one process against two, with dropout and without."""
    found = [Case(f"{method} twice", partial(_twice, method)) for method in (METHODS if full else METHODS[-1:])]
    pairs = [
        ("mosld", "0.1"),
        ("mosld", "0"),
        ("lora", "0.05"),
        ("molora", "0"),
        ("moa", "0.05"),
        ("mosld_b", "0.1"),
    ]
    for method, dropout in pairs if full else pairs[:1]:
        found.append(Case(f"{method} on 1 and 2 processes, dropout {dropout}", partial(_processes, 2, method, dropout)))
    if full:
        found.append(Case("mosld on 1 and 4 processes, dropout 0.1", partial(_processes, 4, "mosld", "0.1")))
    return found


def _twice(method: str, folder: Path) -> None:
    for name in ("one", "two"):
        assert nursery().train(command(folder, f"output_dir={folder / name}", method=method), folder / "log") == 0
    assert weights(folder / "one") == weights(folder / "two")
    assert losses(folder / "one") == losses(folder / "two")


def _processes(count: int, method: str, dropout: str, folder: Path) -> Outcome:
    more = [f"method.dropout={dropout}", "training.micro_batch_size=1", "training.warmup=0"]
    one, several = (command(folder, *more, f"output_dir={folder / n}", method=method) for n in ("one", "several"))
    assert nursery().train(one, folder / "log") == 0
    assert nursery().train_several(count, several, folder / "log") == [0] * count
    pairs = zip(losses(folder / "one"), losses(folder / "several"), strict=True)
    worst = max(abs(ours - theirs) / abs(ours) for ours, theirs in pairs)
    return Outcome(1, [] if worst <= CLOSE else [f"losses differ by {worst:.2g}"], worst)


@pytest.mark.parametrize("case", cases(full=False), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
