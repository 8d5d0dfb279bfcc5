"""Both kinds of tasks in one call, the experts that generated answers take, and what two processes share."""

import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import mosld
from mosld.config.schema import EvaluationConfig
from mosld.data.prompts import Encoded, PromptEncoder
from mosld.data.rows import Row, Solution
from mosld.data.splits import TaskData
from mosld.data.tasks import TASKS
from mosld.evaluation import forward as passes
from mosld.evaluation.evaluate import Questions, evaluate
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.forward import in_batches
from mosld.evaluation.generation import generate, generate_answers


def row(number: int) -> Solution:
    return Solution("gsm8k", f"row{number}", "", "How many? " * (1 + number % 4), "#### 72", "72")


def prompts(tokenizer) -> list[Encoded]:
    """Three rows as prompts to be answered."""
    return PromptEncoder(tokenizer, "letter").encode([row(i) for i in range(3)], keep=lambda _: ())


def adapted(method: str = "mosld") -> Any:
    """The method on the tiny base."""
    options = {"domains": ["obqa", "gsm8k"]} if method == "moa" else {}
    return mosld.adapt(mosld.load_base("tiny")[0], method, seed=0, **options).eval()


def mixed(tokenizer) -> Questions:
    choice = [Row("obqa", f"choice{i}", "", "What? " * i, ("x", "y"), 0) for i in range(3)]
    made = {
        "obqa": TaskData(TASKS["obqa"], [], [], choice),
        "gsm8k": TaskData(TASKS["gsm8k"], [], [], [row(i) for i in range(5)]),
    }
    return Questions(made, "test", None, PromptEncoder(tokenizer, "cloze"))


def test_tasks_of_both_kinds_are_scored_in_one_call_each_in_its_own_way(tokenizer):
    found = evaluate(adapted(), mixed(tokenizer), tokenizer, EvaluationConfig(max_new_tokens=8))
    assert {task: [answer["id"] for answer in answers] for task, answers in found.records().items()} == {
        "obqa": [f"choice{i}" for i in range(3)],
        "gsm8k": [f"row{i}" for i in range(5)],
    }
    assert {task: sorted(score) for task, score in found.scores.items()} == {
        "obqa": ["accuracy", "accuracy_raw", "n", "stderr", "stderr_raw"],
        "gsm8k": ["accuracy", "n", "stderr"],
    }


def test_expert_use_is_added_up_over_processes_once_for_both_kinds(monkeypatch, tokenizer):
    tokens = []
    for count in (1, 2):
        group = Team(0, count=count)
        monkeypatch.setattr(sys.modules["mosld.evaluation.evaluate"], "processes", lambda group=group: group)
        use = ExpertUse()
        evaluate(adapted(), mixed(tokenizer), tokenizer, EvaluationConfig(max_new_tokens=4), use=use)
        tokens.append([entry["tokens"] for modules in use.table().values() for entry in modules.values()])
    assert tokens[1] == [2 * found for found in tokens[0]]  # the other process saw the same


@pytest.mark.parametrize("batch_tokens", [1, 9999])
def test_expert_use_counts_the_tokens_of_prompts_and_answers(batch_tokens: int, tokenizer):
    model, questions, use = adapted(), prompts(tokenizer), ExpertUse()
    generate_answers(model, questions, tokenizer, 6, batch_tokens, use=use)
    with torch.inference_mode():
        answers = [generate(model, [question.prompt], tokenizer, 6)[0] for question in questions]
    wanted = sum(len(q.prompt) + max(0, len(a) - 1) for q, a in zip(questions, answers, strict=True))
    assert {entry["tokens"] for entry in use.table()["gsm8k"].values()} == {wanted}


def test_the_routers_of_domains_are_judged_once_for_each_question(tokenizer):
    use = ExpertUse(["obqa", "gsm8k"])
    generate_answers(adapted("moa"), prompts(tokenizer), tokenizer, 6, 999, use=use)
    assert use.accuracy()["routing_accuracy"]["gsm8k"]["n"] == 3


@dataclass
class Team:
    """One of two processes, and what the one before it said; without that, all say the same."""

    rank: int
    heard: list[Any] = field(default_factory=list)
    count: int = 2

    def share(self, items: list[Any]) -> list[tuple[Any, bool]]:
        return [(item, True) for item in items[self.rank :: self.count]]

    def gather(self, value: Any) -> list[Any]:
        return [*self.heard, value] if self.heard else [value] * self.count


def test_two_processes_share_the_batches_and_know_all_answers(monkeypatch):
    items = [object() for _ in range(5)]
    work, asked = [items[:2], items[2:4], items[4:]], []

    def answer(batch: list[Any], counts: bool = True) -> list[int]:
        assert counts
        asked.append(batch)
        return [items.index(item) for item in batch]

    first = [answer(batch) for batch in work[::2]]
    asked.clear()
    monkeypatch.setattr(passes, "processes", lambda: Team(1, [first]))
    assert in_batches(work, answer, iter) == {id(item): i for i, item in enumerate(items)}
    assert asked == [work[1]]
