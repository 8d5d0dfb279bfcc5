"""The generic matrix: `generate` with a cache, padded, sampled in beams, and after training."""

import pytest
import torch

from tests.helpers.methods import IDS, ROWS, over

PAD = 259


@pytest.fixture
def ids():
    return torch.tensor(IDS)


def generate(model, ids, mask=None, **options):
    mask = torch.ones_like(ids) if mask is None else mask
    made = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=PAD,
        **options,
    )  # fmt: skip
    return made[:, ids.shape[1] :]


def by_hand(row, model, ids):
    """Greedy decoding by whole forwards, without a cache."""
    prompt = ids
    for _ in range(8):
        inside = (torch.arange(ids.shape[1]) < prompt.shape[1]).long().expand_as(ids)
        told = {"prompt_mask": inside} if row.domain else {}
        ids = torch.cat([ids, model(input_ids=ids, **told).logits[:, -1:].argmax(-1)], dim=1)
    return ids[:, prompt.shape[1] :]


@over(ROWS)
def test_with_a_cache_it_equals_whole_forwards(row, ids):
    """Known defect (docs/reference/methods.md): generate() broken."""
    model = row.adapted()
    made = generate(model, ids)
    assert made.shape == (2, 8)
    assert torch.equal(made, by_hand(row, model, ids))


@over(ROWS)
def test_a_left_padded_row_generates_as_it_does_alone(row, ids):
    model = row.adapted()
    padded, mask = ids.clone(), torch.ones_like(ids)
    padded[1, :3], mask[1, :3] = PAD, 0
    assert torch.equal(generate(model, padded, mask)[1:], generate(model, ids[1:, 3:]))


@over(ROWS)
def test_one_beam_of_many_rows_is_that_of_each_row_alone(row, ids):
    model = row.adapted()
    together = generate(model, ids, num_beams=2)
    for i in range(len(ids)):
        assert torch.equal(together[i : i + 1], generate(model, ids[i : i + 1], num_beams=2))
