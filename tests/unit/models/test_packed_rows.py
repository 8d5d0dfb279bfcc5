"""Packed rows: attention against a loop over rows and tokens, and whole models against one row at a time."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mosld.data.rows import Row
from mosld.data.tokens.encoding import Example
from mosld.models.attention import PACKABLE_MODELS, packs_rows, registered_kernels, sdpa_attention_forward
from mosld.models.packed_attention import attend_by_row, causal_mask, eager_rows, lay_out
from mosld.training.batching import pack

CPU = torch.device("cpu")
HEADS, KEYS, WIDTH = 6, 2, 8
LENGTHS = [9, 8, 8, 3, 1]
BLOCK = SimpleNamespace(num_key_value_groups=HEADS // KEYS, is_causal=True, training=True)
SETTINGS = {"hidden_size": 48, "intermediate_size": 40, "vocab_size": 60, "num_hidden_layers": 3, "head_dim": 8}
ROW = Row("arc_e", "1", "", "?", ("a", "b"), 0)


def vectors(heads: int, seed: int) -> torch.Tensor:
    values = torch.randn(1, heads, sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(seed))
    return values.double().requires_grad_()


def naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> torch.Tensor:
    """By token and head: the softmax over the tokens of its row up to it, or the nearest `window` of them."""
    outputs = torch.zeros(1, q.shape[2], HEADS, WIDTH, dtype=q.dtype)
    start = 0
    for length in LENGTHS:
        for token in range(start, start + length):
            first = start if window is None else max(start, token - window + 1)
            for head in range(HEADS):
                key = head // (HEADS // KEYS)
                scores = k[0, key, first : token + 1] @ q[0, head, token] / math.sqrt(WIDTH)
                outputs[0, token, head] = scores.softmax(-1) @ v[0, key, first : token + 1]
        start += length
    return outputs


@pytest.mark.parametrize("divided", [True, False])
@pytest.mark.parametrize("window", [None, 3, 100])
@pytest.mark.parametrize("kernel", [eager_rows, sdpa_attention_forward])
def test_each_row_attends_to_itself_alone(kernel, window: int | None, divided: bool):
    q, k, v = vectors(HEADS, 0), vectors(KEYS, 1), vectors(KEYS, 2)
    options = {"scaling": WIDTH**-0.5, "sliding_window": window}
    actual, _ = attend_by_row(BLOCK, q, k, v, groups=lay_out(LENGTHS, (HEADS, KEYS), divided), kernel=kernel, **options)
    expected = naive(q, k, v, window)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3)).double()
    ours, theirs = (torch.autograd.grad((y * weights).sum(), (q, k, v)) for y in (actual, expected))
    torch.testing.assert_close(ours, theirs)


def test_attention_dropout_acts_in_training_alone():
    q, k, v = vectors(HEADS, 0), vectors(KEYS, 1), vectors(KEYS, 2)
    padded = [t[:, :, :9] for t in (q, k, v)]
    block = SimpleNamespace(training=True)
    plain, dropped = (eager_rows(block, *padded, None, scaling=1.0, dropout=p)[0] for p in (0.0, 0.5))
    assert not torch.equal(plain, dropped)
    block.training = False
    assert torch.equal(plain, eager_rows(block, *padded, None, scaling=1.0, dropout=0.5)[0])


@pytest.mark.parametrize("window", [None, 1, 2, 4, 5])
def test_a_token_attends_to_itself_and_those_before_it_in_its_window(window: int | None):
    expected = [[j <= i and (window is None or i - j < window) for j in range(4)] for i in range(4)]
    assert causal_mask(4, window, CPU).tolist() == expected


@pytest.mark.parametrize("lengths", [[9, 8, 8, 3, 1], [5, 5, 5], [90, 30, 30, 29], [70, 69, 2]])
def test_rows_are_cut_into_the_two_groups_with_the_least_cost(lengths: list[int]):
    long, short = lay_out(lengths, (HEADS, KEYS))
    assert long.rows + short.rows == len(lengths)
    assert (long.start, long.stop, short.start, short.stop) == (0, *[sum(lengths[: long.rows])] * 2, sum(lengths))

    def cost(cut: int) -> int:
        return sum(len(part) * max(part) ** 2 for part in (lengths[:cut], lengths[cut:]))

    assert cost(long.rows) == min(cost(cut) for cut in range(1, len(lengths)))


@pytest.mark.parametrize(("lengths", "divided"), [(LENGTHS, False), ([7], True)])
def test_undivided_rows_and_a_single_row_are_one_group(lengths: list[int], divided: bool):
    (group,) = lay_out(lengths, (HEADS, KEYS), divided)
    assert (group.start, group.stop, group.rows) == (0, sum(lengths), len(lengths))


def model_of(kind: str, attention: str = "mosld_eager", **more):
    config = AutoConfig.for_model(kind, num_attention_heads=HEADS, num_key_value_heads=KEYS, **SETTINGS, **more)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def examples() -> list[Example]:
    return [Example(ROW, [(7 * n + i) % 60 for i in range(n)], n // 2) for n in LENGTHS if n > 1]


def packed_inputs(rows: list[Example]) -> dict:
    return {**pack(rows), "groups": lay_out([len(row.tokens) for row in rows], (HEADS, KEYS))}


MIXED = ["full_attention", "sliding_attention", "sliding_attention"]
MODELS = {
    **{kind: (kind, {}) for kind in PACKABLE_MODELS},
    "mistral_window": ("mistral", {"sliding_window": 4}),
    "qwen2_window": ("qwen2", {"sliding_window": 4, "use_sliding_window": True, "layer_types": MIXED}),
}


@pytest.mark.parametrize("attention", sorted(name for name in registered_kernels if "fused" not in name))
@pytest.mark.parametrize(("kind", "more"), MODELS.values(), ids=MODELS)
def test_packed_rows_have_the_loss_and_gradients_of_each_row_alone(kind: str, more: dict, attention):
    model, rows = model_of(kind, attention, **more), examples()
    assert packs_rows(model)
    count = torch.tensor(sum(len(row.tokens) - row.answer_start for row in rows))
    model(**packed_inputs(rows), num_items_in_batch=count, use_cache=False).loss.backward()
    packed = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    for row in rows:
        labels = torch.tensor([[-100] * row.answer_start + row.tokens[row.answer_start :]])
        ids = torch.tensor([row.tokens])
        model(input_ids=ids, labels=labels, num_items_in_batch=count, use_cache=False).loss.backward()
    torch.testing.assert_close(packed, [weight.grad for weight in model.parameters()], atol=1e-6, rtol=1e-4)


def test_a_row_has_the_same_logits_beside_others():
    model, (first, *others) = model_of("llama"), examples()
    alone, beside = (model(**packed_inputs(rows), use_cache=False).logits for rows in ([first], [first, *others]))
    torch.testing.assert_close(beside[:, : alone.shape[1]], alone)


def test_packed_rows_in_a_kernel_that_ignores_them_give_nan():
    inputs = pack(examples())
    assert model_of("llama", "eager")(**inputs, use_cache=False).loss.isnan()


def test_unknown_models_and_kernels_do_not_pack_rows():
    assert not packs_rows(
        SimpleNamespace(config=SimpleNamespace(model_type="mamba", _attn_implementation="mosld_eager"))
    )
    assert not packs_rows(model_of("llama", "sdpa"))
