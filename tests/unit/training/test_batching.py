"""Micro-batches and their tensors, against naive loops; a step does not depend on how its rows are laid out."""

import pytest
import torch

import mosld
from mosld.data.mixing import Order
from mosld.data.rows import Row
from mosld.data.tokens.encoding import Example, answer_tokens, encode_train
from mosld.data.tokens.prompts import PromptEncoder, render
from mosld.training.batching import IGNORED, BatchBuilder, balance_packed, bucket_by_length, pack, pad_batch
from mosld.training.optim import ready_to_train
from mosld.training.step import Stepper
from tests.helpers.toy_runs import examples_of, stepper_of

ROW = Row("obqa", "1", "", "What?", ("x", "y"), 1)
PAD = 99


def example(length: int, answer_start: int) -> Example:
    """An example whose tokens count from 100 times its length."""
    return Example(ROW, [100 * length + i for i in range(length)], answer_start)


EXAMPLES = [example(5, 3), example(9, 4), example(2, 1), example(7, 6)]
# Conversations, in which earlier turns have a loss, too.
TURNS = [Example(ROW, list(range(300, 312)), 10, ((2, 4), (5, 8))), *EXAMPLES]


@pytest.mark.parametrize(("count", "batch", "steps"), [(10, 4, 3), (8, 4, 2), (1, 4, 1), (9, 1, 9)])
def test_epoch_has_enough_steps_for_every_row(count, batch, steps):
    assert Order((count,), (count,), batch, 0).steps_per_epoch == steps


def test_last_step_of_an_epoch_takes_the_remaining_rows():
    order = Order((10,), (10,), 4, 0)
    assert [len(order.rows(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]


def test_rows_of_a_step_stay_the_same_from_release_to_release():
    order = Order((10,), (10,), 4, 0)
    order.rows(0).clear()
    assert order.rows(0) == [1, 0, 2, 4]


def test_epochs_and_seeds_have_different_orders():
    """The second epoch of a seed is not the first of the next seed either."""
    first, second = Order((50,), (50,), 50, 0), Order((50,), (50,), 50, 1)
    orders = [first.rows(0), first.rows(1), second.rows(0), second.rows(1)]
    assert all(sorted(rows) == list(range(50)) for rows in orders)
    assert len({tuple(rows) for rows in orders}) == 4


@pytest.mark.parametrize("split", [balance_packed, bucket_by_length])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_micro_batches_hold_every_row_once_and_at_most_size_rows(size, split):
    batches = split(EXAMPLES, size)
    assert sorted(id(example) for batch in batches for example in batch) == sorted(map(id, EXAMPLES))
    assert max(map(len, batches)) <= size


@pytest.mark.parametrize(("size", "lengths"), [(1, [[9], [7], [5], [2]]), (2, [[9, 2], [7, 5]]), (4, [[9, 7, 5, 2]])])
def test_packed_micro_batches_are_few_and_have_similar_token_counts(size, lengths):
    assert [[len(e.tokens) for e in batch] for batch in balance_packed(EXAMPLES, size)] == lengths


def test_longest_padded_micro_batch_comes_first():
    assert [[len(e.tokens) for e in batch] for batch in bucket_by_length(EXAMPLES, 2, overhead=10)] == [[9, 7], [5, 2]]


def all_splits(lengths: list[int], size: int):
    """Every way to cut a sorted list into runs of at most `size`."""
    if not lengths:
        yield []
    for first in range(1, min(size, len(lengths)) + 1):
        for rest in all_splits(lengths[first:], size):
            yield [lengths[:first], *rest]


@pytest.mark.parametrize("overhead", [0, 30, 1000])
def test_padded_micro_batches_are_the_cheapest_of_all_splits(overhead):
    lengths = [90, 88, 40, 39, 38, 12, 5]
    batches = bucket_by_length([Example(ROW, [0] * n, n - 1) for n in lengths], 4, overhead)

    def cost(split: list[list[int]]) -> int:
        return sum(len(run) * max(run) + overhead for run in split)

    split = [[len(example.tokens) for example in batch] for batch in batches]
    assert cost(split) == min(cost(other) for other in all_splits(lengths, 4))


def naive_padding(examples: list[Example]) -> dict[str, list[list[int]]]:
    """Every tensor of a padded micro-batch, row by row and position by position."""
    width = max(len(e.tokens) for e in examples)
    wanted = [[i for i in range(len(e.tokens)) if any(a <= i < b for a, b in e.spans)] for e in examples]
    answers = max(map(len, wanted))
    batch: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "logits_to_keep": [], "labels": []}
    for e, targets in zip(examples, wanted, strict=True):
        batch["input_ids"].append([e.tokens[i] if i < len(e.tokens) else PAD for i in range(width)])
        batch["attention_mask"].append([int(i < len(e.tokens)) for i in range(width)])
        spare = answers - len(targets)
        batch["logits_to_keep"].append([i - 1 for i in targets] + [0] * spare)
        batch["labels"].append([e.tokens[i] for i in targets] + [IGNORED] * spare)
    return {**batch, "shift_labels": batch["labels"]}


@pytest.mark.parametrize("examples", [EXAMPLES, TURNS])
def test_padded_batch_equals_a_naive_loop(examples):
    batch = pad_batch(examples, PAD)
    assert {key: tensor.tolist() for key, tensor in batch.items()} == naive_padding(examples)
    assert {tensor.dtype for tensor in batch.values()} == {torch.long}


def test_packed_rows_lie_end_to_end_with_their_own_positions():
    batch = pack(EXAMPLES)
    assert batch["input_ids"].tolist() == [[token for e in EXAMPLES for token in e.tokens]]
    assert batch["position_ids"].tolist() == [[i for e in EXAMPLES for i in range(len(e.tokens))]]


def test_prompt_of_a_conversation_ends_where_its_first_answer_begins():
    batch = pad_batch(TURNS, PAD, domains=["obqa"])
    assert batch["prompt_mask"].sum(1).tolist() == [2, 3, 4, 1, 6]


@pytest.mark.parametrize("examples", [EXAMPLES, TURNS])
def test_packed_labels_are_the_answers_just_after_the_kept_logits(examples):
    batch = pack(examples)
    assert batch["labels"].tolist() == [
        [token for e in examples for i, token in enumerate(e.tokens) if any(a <= i < b for a, b in e.spans)]
    ]
    assert torch.equal(batch["labels"], batch["shift_labels"])
    assert torch.equal(batch["input_ids"][0, batch["logits_to_keep"] + 1], batch["labels"][0])
    assert batch["labels"].numel() == answer_tokens(examples) == 2 + 5 + 1 + 1 + (7 if examples is TURNS else 0)


@pytest.mark.parametrize("style", ["letter", "list", "cloze"])
def test_train_row_is_prompt_then_answer_and_end_with_the_loss(style, tokenizer):
    prompt, options = render(ROW, style)
    (encoded,) = encode_train([ROW], PromptEncoder(tokenizer, style), tokenizer.eos_token_id).examples
    answer = options[1] + tokenizer.eos_token
    assert tokenizer.decode(encoded.tokens) == prompt + answer
    assert tokenizer.decode(encoded.tokens[encoded.answer_start :]) == answer


PACKED = [
    "full",
    "lora",
    "molora",
    "sira",
    "mola",
    "mixlora",
    "mosl",
    "mosld",
    "mosld_b",
    "hydralora",
    "lora_matched",
    "rlora",
    "comol",
    "smora",
    "flylora",
]
LENGTHS = (5, 33, 9, 120, 34, 7, 60, 4)
# With dropout the layouts would draw different masks.
WITH_DROPOUT = ("lora", "mola", "mosld", "mosld_b", "lora_matched", "rlora")
CASES = [
    # Without dropout the heads of rlora cancel at step 0: A's gradient is rounding, which Adam makes as large as any.
    *((name, "auto", False) for name in PACKED if name != "rlora"),
    ("mosld", "sdpa", False),
    ("mosld", "auto", True),
    ("full", "auto", True),
]


def make_stepper(method: str, attention: str = "auto", checkpointing: bool = False) -> Stepper:
    base = mosld.load_base("tiny", dtype="float32", attention=attention)[0]
    options = {"domains": ["arc_e", "b"]} if method == "moa" else {"dropout": 0.0} if method in WITH_DROPOUT else {}
    model = ready_to_train(mosld.adapt(base, method, seed=0, **options), checkpointing)
    for module in model.modules():
        if method == "sira" and hasattr(module, "config"):
            module.config.gate_dropout = 0.0
    return stepper_of(model, domains=options.get("domains", ()))


@pytest.mark.parametrize(("method", "packed"), [*((name, True) for name in PACKED), ("prefix", False), ("moa", False)])
def test_rows_are_packed_unless_a_method_needs_whole_rows(method, packed):
    assert make_stepper(method).batches.packed == packed


def test_rows_are_padded_for_attention_that_cannot_separate_packed_rows():
    model = mosld.load_base("tiny")[0]
    model.config._attn_implementation = "sdpa"
    assert not BatchBuilder(model, 0, (), torch.device("cpu")).packed


@pytest.mark.parametrize(("method", "attention", "checkpointing"), CASES)
def test_packed_step_equals_padded_step(method, attention, checkpointing):
    losses = []
    for packed in (True, False):
        stepper = make_stepper(method, attention, checkpointing)
        stepper.batches.packed = packed
        # All rows in one pass, as packed.
        stepper.batches.overhead = 10**6
        steps = [stepper.step(examples_of(*LENGTHS), 8, 1e-2, number) for number in range(2)]
        losses.append([(step.cross_entropy, step.auxiliary or 0.0, step.grad_norm) for step in steps])
    assert losses[0] == [pytest.approx(step, rel=1e-4) for step in losses[1]]


def test_packed_batch_has_no_pads_and_padded_batch_masks_them():
    builder = make_stepper("lora").batches
    (batch,) = builder.split(examples_of(*LENGTHS), 8)
    assert builder.inputs(batch)["input_ids"].shape == (1, 272)
    builder.packed = False
    padded = builder.inputs(batch)
    assert padded["input_ids"].shape == (8, 120)
    assert int(padded["attention_mask"].sum()) == 272
