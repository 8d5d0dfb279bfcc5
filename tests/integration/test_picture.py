"""README's picture of a run: a run of the tiny model, drawn by the same script, has the same words and lines."""

import html
import re
import runpy
import sys
from pathlib import Path

import pytest

from mosld import train

ROOT = Path(__file__).resolve().parents[2]
# What another model, CPU or number of items changes: numbers, widths, intervals where all or none of few are right.
CHANGES = (
    (r"\s+", " "),
    ("smollm2_135m|tiny", "MODEL"),
    (r"[+-]?\d[\d,.]*", "0"),
    ("[─━]+", "─"),
    (r"\[0 0\]", "± 0"),
    (r", \[0 % interval\] where all or none are right", ""),
    # As many lines as the run has steps to show.
    (r"(training 0/0 loss 0 balance loss 0 )\1+", r"\1"),
)


def words(picture: Path) -> str:
    """What a picture shows, without what may differ."""
    texts = re.findall(r"<text [^>]*>(.*?)</text>", picture.read_text(encoding="utf-8"))
    text = html.unescape(" ".join(texts))
    for pattern, replacement in CHANGES:
        text = re.sub(pattern, replacement, text)
    return text


@pytest.mark.slow
def test_picture_shows_what_a_run_prints(tmp_path: Path, monkeypatch):
    options = [
        "training.max_steps=100", "training.batch_size=1", "training.micro_batch_size=1", "evaluation.base=true",
        "evaluation.limit=4", "evaluation.validation_limit=2", "prompt=cloze", "logger=files",
        f"output_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    assert train.main(["method=mosld", "data=mixture", "model=tiny", *options]) == 0
    monkeypatch.setattr(sys, "argv", ["picture.py", str(tmp_path / "run"), str(tmp_path / "run.svg")])
    runpy.run_path(str(ROOT / "scripts" / "picture.py"), run_name="__main__")
    assert words(tmp_path / "run.svg") == words(ROOT / "docs" / "images" / "run.svg")
