"""Strict and flexible scores of gsm8k against lm-evaluation-harness by its own task file, item by item."""

import random
from dataclasses import replace

import pytest

import mosld
from mosld.data.rows import Solution
from mosld.data.tokens.prompts import PromptEncoder
from mosld.evaluation.correctness import FLEXIBLE, flexible_match, strict_match
from mosld.evaluation.generation import Ending, generate, generate_answers
from mosld.evaluation.scores import task_score

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'mosld[lm-eval]'")

import lm_eval
from lm_eval.api.model import LM

from mosld.evaluation.lm_eval.build import task_manager, task_on_rows
from mosld.evaluation.lm_eval.evaluate import FILTERS, run_lm_eval

# How models write a solution of n, which has another number o in it.
STYLES = [
    "{o} + 1 = {n}\n#### {n}", "{o} + 1 = <<{o}+1={n}>>{n}\n#### {n}", "#### {n}.", "#### {n}.00", "####{n}",
    "####  {n}", "#### ${n}", "#### {n} apples", "#### {n}%", "#### -{n}",
    "#### {n}\n\nQuestion: And {o}?\nAnswer: {o}\n#### {o}", "#### {o}\nNo:\n#### {n}",
    "#### Step {o}: add\nThe sum is {n}.", "#### Step 1: add\n#### {n}", "The answer is {n}.", "The answer is {n}",
    "The answer is **{n}**", r"So it is \boxed{{{n}}}.", r"So it is \boxed{{{n}}} (in {o} ways).",
    r"\[ \frac{{{n}}}{{1}} = {n} \]", "It costs ${n}.", "It costs ${n}.00", "$ {n}", "{n} dollars and {o} cents", "{n}",
    "{n},", "{n} {o}", "{o}:{n}", "{n}/{o}", "-{n}", "{o}-{n}", "1.{n}", "...", "$", "", "\n", "none", "#### none",
    "####", "#### {n}", "##### {n}", "so #### {n} is it", "#### \u2212{n}", "#### {o}{n}", "{o} + 1 = {n}\n###",
    "#### 0{n}", "Therefore, {n}", "٣ {n} ٣", "#### {n}e0", "{n}\u202f000",
]  # fmt: skip
SPELLINGS = (str, str, str, "{:,}".format, "{:,}".format, "{:,}.".format, "{:.1f}".format, "-{}".format)


def recorded() -> tuple[list[Solution], list[str]]:
    """300 rows, and a text for each that a model might have generated."""
    rng = random.Random(0)
    rows, texts = [], []
    for i in range(300):
        right, other = rng.choice((7, 72, 1234, 70_000)) + rng.randrange(3), rng.randrange(1, 50)
        written = rng.choice(SPELLINGS)(right if rng.random() < 0.8 else right + 1)
        final = rng.choice((str, "{:,}".format))(right)
        rows.append(Solution("gsm8k", f"row{i}", "", f"How many, number {i}?", f"Well.\n#### {final}", final))
        texts.append(STYLES[i % len(STYLES)].format(n=written, o=other))
    return rows, texts


class Recording(LM):
    """A model of lm-eval that gives a recorded text for each prompt."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__()
        self.texts = texts

    def generate_until(self, requests, disable_tqdm=False):
        return [self.texts[request.args[0]] for request in requests]

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


@pytest.mark.slow
def test_recorded_texts_are_scored_as_lm_eval_scores_them():
    rows, texts = recorded()
    manager = task_manager(["gsm8k"])
    task = task_on_rows("gsm8k", manager, {"test": rows}, shots=0)
    by_prompt = {f"Question: {row.question}\nAnswer:": text for row, text in zip(rows, texts, strict=True)}
    results = lm_eval.simple_evaluate(model=Recording(by_prompt), tasks=[task], task_manager=manager, num_fewshot=0)
    matches = {"strict": strict_match, "flexible": flexible_match}
    for name, key in FILTERS.items():
        samples = {s["doc"]["id"]: bool(s["exact_match"]) for s in results["samples"]["gsm8k"] if s["filter"] == name}
        ours = {row.id: matches[key](text, row.final) for row, text in zip(rows, texts, strict=True)}
        assert [texts[i] for i, row in enumerate(rows) if ours[row.id] != samples[row.id]] == []
        assert 30 <= sum(ours.values()) <= 270


@pytest.mark.slow
def test_the_untrained_base_is_scored_as_lm_eval_scores_it():
    model, tokenizer = mosld.load_base("tiny", dtype="float32")
    asked = [f"What, {'in truth, ' * (i % 5)}is number {i}?" for i in range(12)]
    rows = [Solution("gsm8k", f"row{i}", "", question, "#### 0", "0") for i, question in enumerate(asked)]
    questions = PromptEncoder(tokenizer, "letter").encode(rows, keep=lambda _: ())
    tokens = generate(
        model, [one.prompt for one in questions], tokenizer, 256, [Ending(next_question=True)] * len(rows)
    )
    # The finals of the even rows are what the model says; its random text has no line that ends an answer.
    finals = [FLEXIBLE.findall(text)[-1] for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    questions = [
        replace(question, row=replace(question.row, answer=f"#### {final}", final=final))
        for question, final in zip(questions, (finals[i - i % 2] for i in range(12)), strict=True)
    ]
    manager = task_manager(["gsm8k"])
    task = task_on_rows("gsm8k", manager, {"test": [question.row for question in questions]}, shots=0)
    theirs = run_lm_eval(model, tokenizer, [task], manager, batch_tokens=700)
    ours = generate_answers(model, questions, tokenizer, max_new_tokens=256, batch_tokens=700, stop_at_question=True)
    for mine, record in zip(ours, theirs.records["gsm8k"], strict=True):
        assert (mine.id, mine.strict, mine.flexible) == (record["id"], record["strict"], record["flexible"])
    score, reported = task_score(ours, "letter"), theirs.scores["gsm8k"]
    for key in ("n", "strict", "stderr_strict", "flexible", "stderr_flexible"):
        assert score[key] == pytest.approx(reported[key])
    assert 0 < score["flexible"] < 1
