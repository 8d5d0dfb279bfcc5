"""One process and two over gloo, and several batch sizes: in fp32 the same predictions and scores for every item."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import mosld
from mosld.config.schema import EvaluationConfig
from mosld.data.prompts import PromptEncoder
from mosld.data.rows import Row, Solution
from mosld.data.splits import TaskData
from mosld.data.tasks import TASKS
from mosld.evaluation.evaluate import Questions, evaluate

BATCH_TOKENS = (1, 300, 5000)
STYLES = ("cloze", "letter")
WORKER = """
import json, sys
from tests.unit.evaluation.test_processes import everything
print(json.dumps(everything()), flush=True)
import torch.distributed as dist
dist.barrier()  # a process that leaves while the other still talks to it aborts the other
dist.destroy_process_group()
"""


def questions(tokenizer, style: str) -> Questions:
    names = ("an apple", "a very long answer indeed", "no", "the third of them", "no")
    choices = [
        Row("arc_e", f"c{i}", "A passage. " * (i % 3), f"What is number {i}?", names[: 2 + i % 4], i % 2)
        for i in range(15)
    ]
    sums = [Solution("gsm8k", f"s{i}", "", "How many? " * (1 + i % 4), "#### 72", "72") for i in range(7)]
    tasks = {
        "arc_e": TaskData(TASKS["arc_e"], [], [], choices),
        "gsm8k": TaskData(TASKS["gsm8k"], [], [], sums),
    }
    return Questions(tasks, "test", None, PromptEncoder(tokenizer, style))


def everything() -> dict:
    """Predictions and scores by prompt format and batch size, as this process knows them."""
    model, tokenizer = mosld.load_base("tiny", dtype="float32")
    adapted = mosld.adapt(model, "mosld", seed=0).eval()
    found = {}
    for style in STYLES:
        for size in BATCH_TOKENS:
            config = EvaluationConfig(batch_tokens=size, max_new_tokens=8)
            evaluation = evaluate(adapted, questions(tokenizer, style), tokenizer, config)
            found[f"{style} {size}"] = {"predictions": evaluation.records(), "scores": evaluation.scores}
    return found


@pytest.fixture(scope="module")
def alone() -> dict:
    return json.loads(json.dumps(everything()))


@pytest.fixture(scope="module")
def both() -> list[dict]:
    """What each of two processes says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    common |= {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=240) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "".join(err[-2000:] for _, err in outputs)
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def without_likelihoods(found: dict) -> dict:
    return {
        task: [{key: value for key, value in record.items() if key != "scores"} for record in records]
        for task, records in found["predictions"].items()
    }


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", BATCH_TOKENS[1:])
def test_no_batch_size_changes_a_prediction_or_a_score(style, size, alone):
    one, other = alone[f"{style} {BATCH_TOKENS[0]}"], alone[f"{style} {size}"]
    assert without_likelihoods(other) == without_likelihoods(one)
    assert other["scores"] == one["scores"]
    for mine, theirs in zip(one["predictions"]["arc_e"], other["predictions"]["arc_e"], strict=True):
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=2e-5)


def test_two_processes_say_to_the_bit_what_one_says(alone, both):
    assert both == [alone, alone]


def test_equal_options_are_equally_likely_to_the_bit(alone):
    five = [record["scores"] for record in alone["cloze 5000"]["predictions"]["arc_e"] if len(record["scores"]) == 5]
    assert five
    assert all(scores[2] == scores[4] for scores in five)  # "no" stands twice
