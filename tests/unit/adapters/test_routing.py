"""The gates against loops over tokens: top-k, dense, SiRA's capacity with gate dropout and its dropped choices."""

import pytest
import torch

from mosld.adapters.adapt import adapt
from mosld.adapters.router import Router
from mosld.adapters.routing import capacity_routing, dense_routing, gate_entropy, top_k_routing
from tests.helpers import naive
from tests.helpers.small_layers import assert_same


def random_logits(rows=2, width=6, experts=5):
    torch.manual_seed(0)
    return torch.randn(rows, width, experts, dtype=torch.float64, requires_grad=True)


def naive_probs(logits):
    """By token, in float64."""
    one = torch.eye(logits.shape[-1], dtype=logits.dtype)
    return [naive.probabilities(one, token) for token in logits.flatten(0, 1)]


def stacked(gates, logits):
    return torch.stack([torch.stack([torch.as_tensor(gate, dtype=logits.dtype) for gate in token]) for token in gates])


def assert_gates(routing, gates, logits, mask=None):
    ours, theirs = routing.gates_BSE.double(), stacked(gates, logits).view_as(logits)
    if mask is not None:
        ours, theirs = ours * mask.unsqueeze(-1), theirs * mask.unsqueeze(-1)
    assert_same(ours, theirs, {"logits": logits}, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_top_k_divides_the_largest_by_their_sum(k):
    logits = random_logits()
    assert_gates(top_k_routing(logits, k), [naive.top_k_gates(probs, k) for probs in naive_probs(logits)], logits)


def test_top_1_has_gate_1():
    gates = top_k_routing(random_logits(), 1).gates_BSE
    assert torch.equal(gates.sort(-1).values, torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]).expand_as(gates))


@pytest.mark.parametrize("k", [None, 1, 3])
def test_dense_is_the_softmax_and_top_k_masks_it_without_dividing(k):
    logits = random_logits()
    assert_gates(dense_routing(logits, k), [naive.dense_gates(probs, k) for probs in naive_probs(logits)], logits)


def mask_of(*lengths, width=6, left=False):
    positions = torch.arange(width).flip(0) if left else torch.arange(width)
    return (positions < torch.tensor(lengths).unsqueeze(-1)).long()


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("drop", [0.0, 0.3])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_capacity_gives_slots_to_first_choices_in_token_order_then_to_second_ones(k, drop, left):
    logits, mask = random_logits(3, 6), mask_of(6, 3, 5, left=left)
    torch.manual_seed(7)
    masks = naive.dropout_mask((18, 5), drop) if drop else torch.ones(18, 5).double()
    dropped = [
        [p * scale for p, scale in zip(*pair, strict=True)] for pair in zip(naive_probs(logits), masks, strict=True)
    ]
    gates, chosen = naive.sira_gates(dropped, k, 0.6, mask.flatten().tolist())
    torch.manual_seed(7)
    ours = capacity_routing(logits, k, 0.6, drop, mask, training=True)
    wanted = torch.tensor(chosen).view_as(logits).float()
    assert torch.equal(ours.taken_BSE * mask.unsqueeze(-1), wanted), "counted before drops"
    assert wanted.sum() > (stacked(gates, logits) > 0).sum(), "no expert was full"
    torch.testing.assert_close(ours.probs_BSE.double(), stacked(dropped, logits).view_as(logits), rtol=1e-5, atol=1e-6)
    assert_gates(ours, gates, logits, mask)


def test_pads_take_no_slot():
    logits = torch.zeros(1, 4, 2)
    logits[..., 0] = 5  # all four want expert 0, which has two slots
    gates = capacity_routing(logits, 1, 2.0, 0.0, torch.tensor([[0, 0, 1, 1]]), training=True).gates_BSE
    assert (gates[0, 2:, 0] > 0).all()


def test_a_token_whose_experts_are_all_full_has_no_gate():
    logits = torch.zeros(1, 4, 2)
    logits[..., 0] = 5
    gates = capacity_routing(logits, 1, 1.0, 0.0, None, training=True).gates_BSE[0]
    assert (gates[:2, 0] > 0).all()
    assert not gates[2:].any()


def test_second_choices_come_after_all_first_choices():
    logits = torch.log(torch.tensor([[[0.6, 0.4], [0.4, 0.6]]]))  # one slot each; the first token's second is expert 1
    gates = capacity_routing(logits, 2, 0.5, 0.0, None, training=True).gates_BSE[0]
    torch.testing.assert_close(gates, torch.tensor([[0.6, 0.0], [0.0, 0.6]]))


def test_an_expert_with_dropped_probability_is_no_choice():
    torch.manual_seed(0)
    routing = capacity_routing(torch.zeros(1, 200, 2), 2, 9.0, 0.5, None, training=True)
    assert torch.equal(routing.taken_BSE, (routing.probs_BSE > 0).float())


def test_capacity_and_gate_dropout_are_off_in_eval():
    logits = random_logits()
    ours = capacity_routing(logits, 2, 0.1, 0.9, None, training=False)
    assert_gates(ours, [naive.dense_gates(probs, 2) for probs in naive_probs(logits)], logits)


def test_gate_entropy_is_a_share_of_the_largest():
    probs = torch.tensor([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    torch.testing.assert_close(gate_entropy(probs), torch.tensor([0.5, 0.0, 1.0]))


TOP_K = 2
FACTOR = 0.6


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
    """By module, the choices and dropped choices of the training forwards, counted by naive loops."""
    counts: dict[str, list[int]] = {}

    def count(module: str):
        def hook(router, args, routing):
            mask = args[1].mask_BS.flatten().tolist()
            probs = [list(token) for token in routing.probs_BSE.detach().flatten(0, 1)]
            gates, chosen = naive.sira_gates(probs, TOP_K, FACTOR, mask)
            sums = counts.setdefault(module, [0, 0])
            sums[0] += sum(map(sum, chosen))
            sums[1] += sum(
                c and not g for gs, cs in zip(gates, chosen, strict=True) for g, c in zip(gs, cs, strict=True)
            )

        return hook

    for name, module in sira.named_modules():
        if isinstance(module, Router):
            module.register_forward_hook(count(name))
    return counts


def test_the_share_of_dropped_choices_equals_a_loop_over_tokens(sira, counted):
    for seed in (1, 2):  # two micro-batches of a step
        sira(**batch(seed))
    dropped = sira.base_model.pop_load()["dropped"]
    assert len(dropped) == len(counted) == 8
    for module, share in dropped.items():
        (choices, lost) = next(sums for name, sums in counted.items() if f"{module}." in name)
        assert share.item() == pytest.approx(lost / choices)
    assert max(lost for _, lost in counted.values()) > 0, "no expert was full"
    assert len({round(share.item(), 6) for share in dropped.values()}) > 1


def test_the_load_is_reset_when_read_and_eval_counts_nothing(sira):
    sira(**batch(1))
    first = sira.base_model.pop_load()["dropped"]
    sira.eval()(**batch(2))
    assert sira.base_model.pop_load() == {"expert_load": {}}
    sira.train()(**batch(2))
    assert sira.base_model.pop_load()["dropped"] != first


def test_only_a_router_with_capacity_reports_dropped_choices(tiny):
    mola = adapt(tiny, "mola", seed=0).train()
    mola(**batch(1))
    assert mola.base_model.pop_load().keys() == {"expert_load"}
