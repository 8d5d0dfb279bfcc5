"""The validation loss against a loop over rows and tokens, and the measure that chooses the best weights."""

import math

import pytest
import torch

from mosld.adapters.config import adapter_config, by_prompt
from mosld.data.tasks import TASKS, Task
from mosld.evaluation import forward
from mosld.evaluation.validation import Validation, chosen_by, validation_losses
from mosld.training.step import Stepper
from tests.helpers.toy_runs import small_examples, small_stepper
from tests.unit.evaluation.test_evaluate import Group

METHODS = ("full", "prefix", "lora", "mosld", "sira", "mixlora", "moa")
REPLY = Task("chat", "chat", kind="reply")
UNSCORED = Task("notes", "notes", kind="text", scored=False)


def trained_stepper(method: str) -> Stepper:
    """After two steps, so that no adapter is zero."""
    stepper = small_stepper(method)
    for number in range(2):
        stepper.step(small_examples()[:8], 4, 1e-2, number)
    return stepper


def by_task() -> dict[str, list]:
    examples = small_examples()
    return {task: [one for one in examples if one.row.task == task] for task in ("obqa", "arc_e")}


@torch.no_grad()
def naive_loss(model, examples) -> float:
    """Row by row, without packing, padding or a cache: the mean over all answer tokens."""
    model.eval()
    losses = []
    for example in examples:
        inputs = {"input_ids": torch.tensor([example.tokens])}
        if by_prompt(adapter_config(model)):
            inputs["prompt_mask"] = (torch.arange(len(example.tokens)) < example.answer_start).long()[None]
        log_probs = model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"])).logits[0].log_softmax(-1)
        losses += [
            -log_probs[i - 1, example.tokens[i]].item() for i in range(example.answer_start, len(example.tokens))
        ]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("size", [1, 3, 99])
@pytest.mark.parametrize("method", METHODS)
def test_loss_of_each_task_is_that_of_a_loop_over_its_rows(method, size):
    stepper = trained_stepper(method)
    rows = by_task()
    batches = {task: stepper.batches.split(examples, size) for task, examples in rows.items()}
    losses = validation_losses(stepper.model, batches, stepper.batches.inputs)
    assert stepper.model.training
    expected = {task: naive_loss(stepper.model, examples) for task, examples in rows.items()}
    assert losses == pytest.approx(expected, rel=1e-5)
    assert len({round(loss, 3) for loss in losses.values()}) == 2


def test_without_validation_rows_there_is_no_loss_and_no_forward():
    assert validation_losses(small_stepper("lora").model, {}, lambda _: {}) == {}


def test_processes_share_the_batches_and_each_knows_all_losses(monkeypatch):
    stepper = trained_stepper("mosld")
    batches = {task: stepper.batches.split(examples, 2) for task, examples in by_task().items()}
    alone = validation_losses(stepper.model, batches, stepper.batches.inputs)
    sent: list = []

    class Recorder(Group):
        def all_gather(self, value):
            sent.append(value)
            return super().all_gather(value)

    # The first process gets its own answers in place of the other's, which are still to come.
    monkeypatch.setattr(forward, "processes", lambda: Recorder(0))
    validation_losses(stepper.model, batches, stepper.batches.inputs)
    (first,) = sent
    monkeypatch.setattr(forward, "processes", lambda: Recorder(1, [first]))
    assert validation_losses(stepper.model, batches, stepper.batches.inputs) == alone
    assert len(sent[0]) + len(sent[1]) == sum(map(len, batches.values()))


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ([TASKS["obqa"]], "accuracy"),
        ([TASKS["gsm8k"]], "accuracy"),
        ([REPLY], "loss"),
        ([UNSCORED], "loss"),
        ([REPLY, UNSCORED], "loss"),
        ([UNSCORED, TASKS["obqa"]], "accuracy"),
        ([REPLY, TASKS["gsm8k"]], "accuracy"),
        ([], "last"),
    ],
)
def test_accuracy_chooses_where_any_task_has_an_exact_answer_else_the_loss(tasks, expected):
    known = {task.name: task for task in tasks}
    assert chosen_by(known, {name: ["row"] for name in known}) == expected
    # Tasks without validation rows have no say.
    known = {**known, "obqa": TASKS["obqa"], "chat": REPLY}
    assert chosen_by(known, {task.name: ["row"] for task in tasks}) == expected


def test_averages_count_every_task_once_and_perplexity_is_that_of_the_average():
    validation = Validation({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 2.0, "c": 6.0})
    record = validation.record()
    assert (record["validation_average"], record["validation_loss_average"]) == (0.5, 3.0)
    assert record["validation_perplexity"] == pytest.approx(math.e**3)
    assert Validation({}, {"a": 1000.0}).record()["validation_perplexity"] == math.inf
    empty = Validation({}, {})
    assert (empty.average, empty.average_loss, empty.describe()) == (None, None, "")
