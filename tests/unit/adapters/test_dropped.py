"""The share of choices that found no room in training (SiRA), against a loop over tokens."""

import pytest
import torch

from mosld.adapters.adapt import adapt
from mosld.adapters.router import Router
from tests.helpers import naive

TOP_K, FACTOR = 2, 0.6


def batch(seed: int) -> dict[str, torch.Tensor]:
    """Three rows of unequal length, padded on the left."""
    torch.manual_seed(seed)
    ids, mask = torch.randint(3, 200, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[1, :4] = 0
    labels = torch.where(mask.bool(), ids, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.fixture
def sira(tiny):
    return adapt(tiny, "sira", seed=0, top_k=TOP_K, capacity_factor=FACTOR, gate_dropout=0.3).train()


@pytest.fixture
def counted(sira) -> dict[str, list[int]]:
    """By module, choices and choices without room of the training forwards since, by naive loops."""
    found: dict[str, list[int]] = {}

    def count(module: str):
        def hook(router, args, routing):
            mask = args[1].mask_BS.flatten().tolist()
            probs = [list(own) for own in routing.probs_BSE.detach().flatten(0, 1)]
            gates, chosen = naive.sira_gates(probs, TOP_K, FACTOR, mask)
            sums = found.setdefault(module, [0, 0])
            sums[0] += sum(map(sum, chosen))
            sums[1] += sum(
                c and not g for gs, cs in zip(gates, chosen, strict=True) for g, c in zip(gs, cs, strict=True)
            )

        return hook

    for name, module in sira.named_modules():
        if isinstance(module, Router):
            module.register_forward_hook(count(name))
    return found


def test_the_share_of_dropped_choices_is_that_of_a_loop_over_tokens(sira, counted):
    for seed in (1, 2):  # two micro-batches of a step
        sira(**batch(seed))
    dropped = sira.base_model.pop_load()["dropped"]
    assert len(dropped) == len(counted) == 8
    for module, share in dropped.items():
        (choices, lost) = next(sums for name, sums in counted.items() if f"{module}." in name)
        assert share.item() == pytest.approx(lost / choices)
    assert max(lost for _, lost in counted.values()) > 0, "no expert was full: the test shows nothing"
    assert len({round(share.item(), 6) for share in dropped.values()}) > 1


def test_each_reading_starts_anew_and_eval_counts_nothing(sira):
    sira(**batch(1))
    first = sira.base_model.pop_load()["dropped"]
    sira.eval()(**batch(2))
    assert sira.base_model.pop_load() == {"expert_load": {}}
    sira.train()(**batch(2))
    assert sira.base_model.pop_load()["dropped"] != first


def test_only_a_limited_room_has_the_key(tiny):
    mola = adapt(tiny, "mola", seed=0).train()
    mola(**batch(1))
    assert mola.base_model.pop_load().keys() == {"expert_load"}
