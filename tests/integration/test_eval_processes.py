"""One process and two over gloo: in fp32 the same predictions and scores for every item, to the bit."""

import json

import pytest
import torch

import mosld
from mosld.config.schema import EvaluationConfig
from mosld.data.rows import Row, Solution
from mosld.data.splits import TaskData
from mosld.data.tasks import TASKS
from mosld.data.tokens.prompts import PromptEncoder
from mosld.evaluation.evaluate import Questions, evaluate
from tests.helpers.processes import in_two_processes

pytestmark = pytest.mark.distributed

WORKER = """
import json
from tests.integration.test_eval_processes import evaluate_all
print(json.dumps(evaluate_all()), flush=True)
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


def evaluate_all() -> dict[str, dict]:
    """Predictions and scores by prompt format and batch size, as this process knows them."""
    model, tokenizer = mosld.load_base("tiny", dtype="float32")
    adapted = mosld.adapt(model, "mosld", seed=0).eval()
    results = {}
    for style in ("cloze", "letter"):
        for batch_tokens in (1, 300, 5000):
            config = EvaluationConfig(batch_tokens=batch_tokens, max_new_tokens=8)
            evaluation = evaluate(adapted, questions(tokenizer, style), tokenizer, config)
            results[f"{style} {batch_tokens}"] = {"predictions": evaluation.records(), "scores": evaluation.scores}
    return results


@pytest.fixture(scope="module")
def alone() -> dict[str, dict]:
    return json.loads(json.dumps(evaluate_all()))


def test_two_processes_get_the_results_of_one_to_the_bit(alone):
    # Bits are equal where shapes are, and how a product is split among threads.
    threads = str(torch.get_num_threads())
    assert in_two_processes(WORKER, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS=threads) == [alone, alone]


def test_equal_options_are_equally_likely_to_the_bit(alone):
    five = [record["scores"] for record in alone["cloze 5000"]["predictions"]["arc_e"] if len(record["scores"]) == 5]
    assert five
    # "no" stands there twice.
    assert all(scores[2] == scores[4] for scores in five)
