"""Every mixture method as conf/method composes it, against its formula in docs/reference/methods.md, in loops.

Forward and the gradients of A, B, the router and the input, in training and in eval. float64, but for the router,
which runs in fp32 by design: the tolerance is fp32's. Without a router, test_bank.py compares to float64's.
"""

import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from torch.nn.functional import dropout

from mosld.adapters.adapt import adapt
from tests.helpers import naive
from tests.helpers.small_layers import ALPHA, EXPERTS, RANK, SCALE, assert_same, config_of, context, mixture, tokens

MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
SEED = 7


def drawn(like, p, training):
    """The mask that a module draws first after the seed, with its scale; ones in eval."""
    torch.manual_seed(SEED)
    return naive.dropped(like.shape, p) if training else torch.ones_like(like)


def formula(method, ours, x, training):
    """The updates [T, O] of tokens x [T, I], as docs/reference/methods.md writes the method."""
    A, B = ours.A, ours.B
    probs = [naive.probabilities(ours.router.weight, token) for token in x]
    top_2 = [naive.top_k_gates(p, 2) for p in probs]

    def total(gates, A=A, B=B, x=x, share="none"):
        return naive.mixture(x, gates, naive.pairs(A, B, RANK, share, EXPERTS), SCALE)

    match method:
        case "molora":
            return total(probs)
        case "hydralora":
            return total(probs, share="A")
        case "sira":
            keep = drawn(torch.ones(len(x), EXPERTS), 0.1, training).double()
            dropped = [[p * k for p, k in zip(*own, strict=True)] for own in zip(probs, keep, strict=True)]
            if not training:
                return total([naive.dense_gates(p, 2) for p in dropped])
            return total(naive.sira_gates(dropped, 2, 1.25, MASK.flatten().tolist())[0])
        case "mola":
            return total(top_2, x=x * drawn(x.view(*MASK.shape, -1), 0.05, training).flatten(0, 1))
        case "mosl":
            return total(top_2, share="A")
        case "mosld":
            return total(top_2, A=A * drawn(A, 0.1, training), share="A")
        case "mosld_b":
            return total(top_2, B=B * drawn(B, 0.1, training), share="A")
    raise AssertionError(method)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("method", ["molora", "sira", "mola", "mosl", "mosld", "mosld_b", "hydralora"])
def test_forward_and_gradients_equal_the_formula(method, training):
    ours = mixture(config_of(method)).train(training)
    x = tokens(*MASK.shape)
    theirs = formula(method, ours, x.flatten(0, 1), training).view(*MASK.shape, -1)
    torch.manual_seed(SEED)
    update, _ = ours(x, context(mask_BS=MASK))
    real = MASK.unsqueeze(-1)  # what a pad gets has no meaning
    leaves = {"A": ours.A, "B": ours.B, "router": ours.router.weight, "x": x}
    assert_same(update * real, theirs * real, leaves)


@pytest.mark.parametrize("top_k", [1, 3])
def test_molora_with_top_k_masks_the_others_without_dividing(top_k):
    ours, x = mixture(config_of("molora", top_k=top_k)), tokens()
    probs = [naive.probabilities(ours.router.weight, token) for token in x.flatten(0, 1)]
    bank = naive.pairs(ours.A, ours.B, RANK, "none", EXPERTS)
    theirs = naive.mixture(x.flatten(0, 1), [naive.dense_gates(p, top_k) for p in probs], bank, SCALE)
    leaves = {"A": ours.A, "B": ours.B, "router": ours.router.weight, "x": x}
    assert_same(ours(x, context())[0].flatten(0, 1), theirs, leaves)


@pytest.mark.parametrize("share", ["A", "B", "none"])
@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_mosl_holds_for_every_share_and_top_k(share, top_k):
    ours, x = mixture(config_of("mosl", share=share, top_k=top_k)), tokens()
    probs = [naive.probabilities(ours.router.weight, token) for token in x.flatten(0, 1)]
    bank = naive.pairs(ours.A, ours.B, RANK, share, EXPERTS)
    theirs = naive.mixture(x.flatten(0, 1), [naive.top_k_gates(p, top_k) for p in probs], bank, SCALE)
    leaves = {"A": ours.A, "B": ours.B, "x": x} | ({"router": ours.router.weight} if top_k > 1 else {})
    assert_same(ours(x, context())[0].flatten(0, 1), theirs, leaves)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_lora_is_s_B_A_of_the_dropped_input(tiny, training):
    model = adapt(tiny.double(), "lora", rank=RANK, alpha=ALPHA, dropout=0.3).double()
    layer = next(m for m in model.modules() if isinstance(m, LoraLinear)).train(training)
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(B)
    x = tokens(2, 4, A.shape[1])
    torch.manual_seed(SEED)
    kept = dropout(torch.ones_like(x), 0.3, training)  # PEFT's LoRA drops as torch does
    theirs = torch.stack([SCALE * B @ (A @ token) for token in (x * kept).flatten(0, 1)])
    torch.manual_seed(SEED)
    update = (layer(x) - layer.base_layer(x)).flatten(0, 1)
    assert_same(update, theirs, {"A": A, "B": B, "x": x}, rtol=1e-10, atol=1e-10)
