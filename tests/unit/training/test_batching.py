"""Training order, micro-batches and collation, against naive loops; from rows to tokens and labels."""

import pytest
import torch

from mosld.data.encoding import Example, answer_tokens, encode_train
from mosld.data.mixing import Order
from mosld.data.prompts import PromptEncoder, render
from mosld.data.rows import Row
from mosld.training.batching import IGNORED, balance_packed, bucket_by_length, pack, pad_batch

ROW = Row("obqa", "1", "", "What?", ("x", "y"), 1)
PAD = 99


def example(length: int, answer_start: int) -> Example:
    """An example whose tokens count from 100 times its length."""
    return Example(ROW, [100 * length + i for i in range(length)], answer_start)


EXAMPLES = [example(5, 3), example(9, 4), example(2, 1), example(7, 6)]


def epoch_rows(order: Order, epoch: int) -> list[int]:
    first = epoch * order.steps_per_epoch
    return [row for step in range(first, first + order.steps_per_epoch) for row in order.rows(step)]


@pytest.mark.parametrize(("count", "batch", "steps"), [(10, 4, 3), (8, 4, 2), (1, 4, 1), (9, 1, 9)])
def test_an_epoch_has_enough_steps_for_every_row(count: int, batch: int, steps: int):
    assert Order((count,), (count,), batch, 0).steps_per_epoch == steps


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_sees_every_row_once(epoch: int):
    assert sorted(epoch_rows(Order((10,), (10,), 4, 0), epoch)) == list(range(10))


def test_the_last_step_of_an_epoch_sees_the_rest():
    assert [len(Order((10,), (10,), 4, 0).rows(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]


def test_the_rows_of_a_step_do_not_depend_on_what_was_read_before():
    order = Order((50,), (50,), 7, 3)
    for step in (99, 0, 41):
        order.rows(step)
    assert order.rows(17) == Order((50,), (50,), 7, 3).rows(17)


def test_the_rows_of_a_step_stay_as_they_are_from_release_to_release():
    assert Order((10,), (10,), 4, 0).rows(0) == [1, 0, 2, 4]


def test_two_epochs_differ():
    order = Order((50,), (50,), 7, 0)
    assert epoch_rows(order, 0) != epoch_rows(order, 1)


def test_two_seeds_differ():
    assert epoch_rows(Order((50,), (50,), 7, 0), 0) != epoch_rows(Order((50,), (50,), 7, 1), 0)


def test_the_next_epoch_of_one_seed_is_not_the_first_of_the_next():
    assert epoch_rows(Order((50,), (50,), 7, 0), 1) != epoch_rows(Order((50,), (50,), 7, 1), 0)


def test_changing_the_rows_that_were_returned_leaves_the_order():
    order = Order((10,), (10,), 4, 0)
    order.rows(0).clear()
    assert len(order.rows(0)) == 4


@pytest.mark.parametrize("split", [balance_packed, bucket_by_length])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_micro_batches_hold_every_row_once(size: int, split):
    found = [example for batch in split(EXAMPLES, size) for example in batch]
    assert sorted(map(id, found)) == sorted(map(id, EXAMPLES))


@pytest.mark.parametrize("split", [balance_packed, bucket_by_length])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_no_micro_batch_is_larger_than_its_size(size: int, split):
    assert max(map(len, split(EXAMPLES, size))) <= size


@pytest.mark.parametrize(("size", "lengths"), [(1, [[9], [7], [5], [2]]), (2, [[9, 2], [7, 5]]), (4, [[9, 7, 5, 2]])])
def test_packed_micro_batches_are_few_and_of_about_as_many_tokens(size: int, lengths: list[list[int]]):
    assert [[len(e.tokens) for e in batch] for batch in balance_packed(EXAMPLES, size)] == lengths


def test_the_longest_padded_micro_batch_comes_first():
    assert [[len(e.tokens) for e in batch] for batch in bucket_by_length(EXAMPLES, 2, overhead=10)] == [[9, 7], [5, 2]]


def test_answer_tokens_are_counted_over_rows():
    assert answer_tokens(EXAMPLES) == 2 + 5 + 1 + 1


def naive(examples: list[Example]) -> dict[str, list[list[int]]]:
    """Every tensor of a padded micro-batch, row by row and position by position."""
    width = max(len(e.tokens) for e in examples)
    answers = max(len(e.tokens) - e.answer_start for e in examples)
    found: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "logits_to_keep": [], "labels": []}
    for e in examples:
        found["input_ids"].append([e.tokens[i] if i < len(e.tokens) else PAD for i in range(width)])
        found["attention_mask"].append([int(i < len(e.tokens)) for i in range(width)])
        targets = [i for i in range(len(e.tokens)) if i >= e.answer_start]
        spare = answers - len(targets)
        found["logits_to_keep"].append([i - 1 for i in targets] + [0] * spare)
        found["labels"].append([e.tokens[i] for i in targets] + [IGNORED] * spare)
    return found


@pytest.mark.parametrize("key", ["input_ids", "attention_mask", "logits_to_keep", "labels"])
def test_padding_agrees_with_a_naive_loop(key: str):
    assert pad_batch(EXAMPLES, PAD)[key].tolist() == naive(EXAMPLES)[key]


def test_labels_are_already_shifted():
    batch = pad_batch(EXAMPLES, PAD)
    assert torch.equal(batch["labels"], batch["shift_labels"])


def test_each_position_with_a_label_stands_just_before_its_token():
    batch = pad_batch(EXAMPLES, PAD)
    after = torch.gather(batch["input_ids"], 1, batch["logits_to_keep"] + 1)
    scored = batch["labels"] != IGNORED
    assert torch.equal(after[scored], batch["labels"][scored])


def test_packed_rows_lie_end_to_end_each_with_its_own_positions():
    batch = pack(EXAMPLES)
    assert batch["input_ids"].tolist() == [[token for e in EXAMPLES for token in e.tokens]]
    assert batch["position_ids"].tolist() == [[i for e in EXAMPLES for i in range(len(e.tokens))]]


def test_packed_labels_are_the_answers_and_stand_just_after_the_logits_that_are_kept():
    batch = pack(EXAMPLES)
    assert batch["labels"].tolist() == [[token for e in EXAMPLES for token in e.tokens[e.answer_start :]]]
    assert torch.equal(batch["labels"], batch["shift_labels"])
    assert torch.equal(batch["input_ids"][0, batch["logits_to_keep"] + 1], batch["labels"][0])


def test_no_pad_is_seen():
    batch = pad_batch(EXAMPLES, PAD)
    assert (batch["input_ids"][batch["attention_mask"] == 1] != PAD).all()


def test_every_tensor_is_of_whole_numbers():
    assert {tensor.dtype for tensor in pad_batch(EXAMPLES, PAD).values()} == {torch.long}


@pytest.mark.parametrize("style", ["letter", "list", "cloze"])
def test_a_train_row_is_prompt_right_answer_and_end(style: str, tokenizer):
    prompt, options = render(ROW, style)
    (found,) = encode_train([ROW], PromptEncoder(tokenizer, style), tokenizer.eos_token_id).examples
    assert tokenizer.decode(found.tokens) == prompt + options[1] + tokenizer.eos_token


@pytest.mark.parametrize("style", ["letter", "list", "cloze"])
def test_the_loss_is_on_the_right_answer_and_the_end_alone(style: str, tokenizer):
    (found,) = encode_train([ROW], PromptEncoder(tokenizer, style), tokenizer.eos_token_id).examples
    answer = render(ROW, style)[1][1] + tokenizer.eos_token
    assert tokenizer.decode(found.tokens[found.answer_start :]) == answer


def test_rows_whose_passage_was_cut_are_counted(tokenizer):
    long = Row("race", "2", "word " * 400, "What?", ("x", "y"), 0)
    assert encode_train([ROW, long, ROW], PromptEncoder(tokenizer, "letter"), 0).cut == 1


def all_splits(lengths: list[int], size: int):
    """Every way to cut a sorted list into runs of at most `size`."""
    if not lengths:
        yield []
    for first in range(1, min(size, len(lengths)) + 1):
        for rest in all_splits(lengths[first:], size):
            yield [lengths[:first], *rest]


@pytest.mark.parametrize("overhead", [0, 30, 1000])
def test_padded_micro_batches_are_cut_where_padding_and_passes_cost_least(overhead: int):
    lengths = [90, 88, 40, 39, 38, 12, 5]
    made = bucket_by_length([Example(ROW, [0] * n, n - 1) for n in lengths], 4, overhead)

    def cost(parts: list[list[int]]) -> int:
        return sum(len(part) * max(part) + overhead for part in parts)

    ours = [[len(example.tokens) for example in batch] for batch in made]
    assert cost(ours) == min(cost(split) for split in all_splits(lengths, 4))
    assert all(len(batch) <= 4 for batch in made)
