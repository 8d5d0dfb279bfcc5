"""Both kinds of tasks in one call, the experts that generated answers take, and how processes share the work."""

import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import mosld
from mosld.adapters.load import Model
from mosld.config.schema import EvaluationConfig
from mosld.data.rows import Row, Solution
from mosld.data.splits import TaskData
from mosld.data.tasks import TASKS
from mosld.data.tokens.prompts import Encoded, PromptEncoder
from mosld.data.tokens.too_long import messages
from mosld.evaluation import forward
from mosld.evaluation.evaluate import Questions, evaluate
from mosld.evaluation.expert_use import ExpertUse
from mosld.evaluation.forward import run_batches
from mosld.evaluation.generation import generate, generate_answers


def solution(number: int) -> Solution:
    return Solution("gsm8k", f"row{number}", "", "How many? " * (1 + number % 4), "#### 72", "72")


def prompts(tokenizer) -> list[Encoded]:
    return PromptEncoder(tokenizer, "letter").encode([solution(i) for i in range(3)], keep=lambda _: ())


def adapted(method: str = "mosld") -> Model:
    options = {"domains": ["obqa", "gsm8k"]} if method == "moa" else {}
    return mosld.adapt(mosld.load_base("tiny")[0], method, seed=0, **options).eval()


def both_kinds(tokenizer, choice_context: str = "") -> Questions:
    choices = [Row("obqa", f"choice{i}", choice_context, "What? " * i, ("x", "y"), 0) for i in range(3)]
    tasks = {
        "obqa": TaskData(TASKS["obqa"], [], [], choices),
        "gsm8k": TaskData(TASKS["gsm8k"], [], [], [solution(i) for i in range(5)]),
    }
    return Questions(tasks, "test", None, PromptEncoder(tokenizer, "cloze"))


@dataclass
class Group:
    """One of two processes, and what the processes before it sent; by default all send the same."""

    rank: int
    received: list[Any] = field(default_factory=list)
    count: int = 2
    sharded: bool = False

    def shard(self, items: list[Any]) -> list[tuple[Any, bool]]:
        return [(item, True) for item in items[self.rank :: self.count]]

    def all_gather(self, value: Any) -> list[Any]:
        return [*self.received, value] if self.received else [value] * self.count


def test_tasks_of_both_kinds_are_scored_in_one_call_each_in_its_own_way(tokenizer):
    evaluation = evaluate(adapted(), both_kinds(tokenizer), tokenizer, EvaluationConfig(max_new_tokens=8))
    assert {task: [answer["id"] for answer in answers] for task, answers in evaluation.records().items()} == {
        "obqa": [f"choice{i}" for i in range(3)],
        "gsm8k": [f"row{i}" for i in range(5)],
    }
    assert {task: sorted(score) for task, score in evaluation.scores.items()} == {
        "obqa": ["accuracy", "accuracy_raw", "n", "stderr", "stderr_raw"],
        "gsm8k": ["accuracy", "flexible", "n", "stderr", "stderr_flexible", "stderr_strict", "strict"],
    }
    assert list(evaluation.records()["gsm8k"][0]) == ["id", "prediction", "correct", "strict", "flexible"]


def test_truncated_passages_are_reported_with_their_number_and_cutoff(tokenizer):
    questions = both_kinds(tokenizer, choice_context="A long story. " * 50)
    assert list(messages(questions.too_long)) == [
        "obqa: 3 of 3 test rows are longer than 256 tokens (longest 734): 3 truncated (data.too_long, data.cutoff)"
    ]


def test_expert_use_is_summed_over_processes_once_for_both_kinds(monkeypatch, tokenizer):
    tokens = []
    for count in (1, 2):
        group = Group(0, count=count)
        monkeypatch.setattr(sys.modules["mosld.evaluation.evaluate"], "processes", lambda group=group: group)
        use = ExpertUse()
        evaluate(adapted(), both_kinds(tokenizer), tokenizer, EvaluationConfig(max_new_tokens=4), expert_use=use)
        tokens.append([module["tokens"] for modules in use.table().values() for module in modules.values()])
    assert tokens[1] == [2 * one for one in tokens[0]]


@pytest.mark.parametrize("batch_tokens", [1, 9999])
def test_expert_use_counts_the_tokens_of_prompts_and_answers(batch_tokens, tokenizer):
    model, questions, use = adapted(), prompts(tokenizer), ExpertUse()
    generate_answers(model, questions, tokenizer, 6, batch_tokens, expert_use=use)
    with torch.inference_mode():
        answers = [generate(model, [question.prompt], tokenizer, 6)[0] for question in questions]
    expected = sum(len(q.prompt) + max(0, len(a) - 1) for q, a in zip(questions, answers, strict=True))
    assert {module["tokens"] for module in use.table()["gsm8k"].values()} == {expected}


def test_routers_of_domains_are_compared_with_the_task_once_for_each_question(tokenizer):
    use = ExpertUse(["obqa", "gsm8k"])
    generate_answers(adapted("moa"), prompts(tokenizer), tokenizer, 6, 999, expert_use=use)
    assert use.accuracy()["routing_accuracy"]["gsm8k"]["n"] == 3


def test_two_processes_share_the_batches_and_both_know_all_answers(monkeypatch):
    items = [object() for _ in range(5)]
    batches, answered = [items[:2], items[2:4], items[4:]], []

    def answer(batch: list[object], recorded: bool) -> list[int]:
        assert recorded
        answered.append(batch)
        return [items.index(item) for item in batch]

    of_first_process = [[0, 1], [4]]
    monkeypatch.setattr(forward, "processes", lambda: Group(1, [of_first_process]))
    assert run_batches(batches, answer, iter) == {id(item): i for i, item in enumerate(items)}
    assert answered == [batches[1]]
