"""Shared fixtures: small rows on disk, the tiny random model, and no network."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for the hub fails at once
# The models are tiny: threads would wait for each other. A process that a test starts with more must not spin, since
# several tests run at a time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "0")


def toy_row(task: str, split: str, number: int) -> dict:
    """A row whose answer the question names: a model can learn it."""
    rng = random.Random(f"{task}/{split}/{number}")
    words = rng.sample(["red", "blue", "green", "black", "white", "pink", "grey", "brown"], 4)
    answer = rng.randrange(4)
    question = f"Item {number} of {task} {split} is {words[answer]}. What colour is it?"
    return {"id": f"{task}-{split}-{number}", "context": "", "question": question, "choices": words, "answer": answer}


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local source with three tasks: 40 train, 20 validation and 20 test rows each."""
    root = tmp_path_factory.mktemp("toy")
    for task in ("obqa", "csqa", "arc_e"):
        (root / task).mkdir()
        for split, count in (("train", 40), ("validation", 20), ("test", 20)):
            lines = [json.dumps(toy_row(task, split, i)) for i in range(count)]
            (root / task / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return root


def toy_solution(split: str, number: int) -> dict:
    """A sum with its worked solution."""
    a, b = random.Random(f"gsm8k/{split}/{number}").sample(range(2, 50), 2)
    question = f"In {split} {number}, Ann has {a} nuts and Bob {b}. How many in all?"
    answer = f"In all {a}+{b} = <<{a}+{b}={a + b}>>{a + b} nuts.\n#### {a + b}"
    return {"id": f"gsm8k-{split}-{number}", "question": question, "answer": answer, "final": str(a + b)}


@pytest.fixture(scope="session")
def mixed_root(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy source with gsm8k beside the other tasks: 40 train and 20 test rows."""
    root = tmp_path_factory.mktemp("mixed") / "rows"
    shutil.copytree(toy_root, root)
    (root / "gsm8k").mkdir()
    for split, count in (("train", 40), ("test", 20)):
        lines = [json.dumps(toy_solution(split, i)) for i in range(count)]
        (root / "gsm8k" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def tiny():
    """A fresh tiny base model in eval mode."""
    from mosld.models.load import load_base

    return load_base("tiny")[0]


@pytest.fixture(scope="session")
def tokenizer():
    """The byte tokenizer of the tiny model."""
    from mosld.models.tiny import byte_tokenizer

    return byte_tokenizer()
