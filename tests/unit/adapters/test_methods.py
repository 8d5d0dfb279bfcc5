"""Every mixture method of conf/method against its formula in docs/reference/methods.md, and methods that must be equal.

The reference is a loop over tokens and experts in float64: forward and the gradients of A, B, the router and the input,
in training and in eval. The router runs in fp32 by design, so the tolerance is that of fp32; without a router,
test_bank.py compares to the last digits of float64.
"""

import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from torch.nn.functional import dropout

import mosld
from mosld.adapters.adapt import adapt
from mosld.adapters.bank import Mixture
from mosld.adapters.config import MosldConfig
from tests.helpers import naive
from tests.helpers.small_layers import (
    ALPHA,
    EXPERTS,
    IN,
    OUT,
    RANK,
    SCALE,
    assert_same,
    config_of,
    context,
    mixture,
    tokens,
)

MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
SEED = 7
IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [25, 26, 27, 28, 29, 30]])
METHODS = [
    "molora", "sira", "mola", "mosl", "mosld", "mosld_b", "hydralora", "rlora", "comol", "smora", "loramoe", "flylora",
]  # fmt: skip
RANDOM_START = ("rlora",)


def first_mask(like, p, training):
    """The mask that a module draws first after the seed, with its scale; ones in eval."""
    torch.manual_seed(SEED)
    return naive.dropout_mask(like.shape, p) if training else torch.ones_like(like)


def formula(method, ours, x, training):
    """The updates [T, O] of tokens x [T, I] by the formula in docs/reference/methods.md."""
    A, B = ours.A, ours.B
    read = x @ A.T if method == "comol" else x
    probs = [] if method == "flylora" else [naive.probabilities(ours.router.weight, token) for token in read]
    top_2 = [naive.top_k_gates(p, 2) for p in probs]

    def update(gates, A=A, B=B, x=x, share="none"):
        return naive.mixture(x, gates, naive.pairs(A, B, ours.rank, share, EXPERTS), ours.config.alpha / ours.rank)

    match method:
        case "molora":
            return update(probs)
        case "hydralora":
            return update(probs, share="A")
        case "loramoe":
            return update(probs, x=x * first_mask(x.view(*MASK.shape, -1), 0.05, training).flatten(0, 1))
        case "rlora":
            keep = first_mask(torch.ones(len(x), EXPERTS, RANK), 0.2, training)
            heads = B.unflatten(1, (EXPERTS, RANK))
            terms = [
                sum(p * heads[:, i] @ (masks[i] * (A @ token)) for i, p in enumerate(own))
                for token, own, masks in zip(x, probs, keep, strict=True)
            ]
            return SCALE * torch.stack(terms)
        case "comol":
            cores = ours.M.unflatten(0, (EXPERTS, RANK))
            merged = [sum(p * core for p, core in zip(own, cores, strict=True)) for own in probs]
            return SCALE * torch.stack([B @ core @ A @ token for core, token in zip(merged, x, strict=True)])
        case "smora":
            return update([naive.biased_top_k_gates(p, 2, ours.router.bias) for p in probs])
        case "flylora":
            return update([naive.magnitude_gates(A @ token, 2, ours.router.bias) for token in x])
        case "sira":
            keep = first_mask(torch.ones(len(x), EXPERTS), 0.1, training).double()
            dropped = [[p * k for p, k in zip(*own, strict=True)] for own in zip(probs, keep, strict=True)]
            if not training:
                return update([naive.dense_gates(p, 2) for p in dropped])
            return update(naive.sira_gates(dropped, 2, 1.25, MASK.flatten().tolist())[0])
        case "mola":
            return update(top_2, x=x * first_mask(x.view(*MASK.shape, -1), 0.05, training).flatten(0, 1))
        case "mosl":
            return update(top_2, share="A")
        case "mosld":
            return update(top_2, A=A * first_mask(A, 0.1, training), share="A")
        case "mosld_b":
            return update(top_2, B=B * first_mask(B, 0.1, training), share="A")
    raise AssertionError(method)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_equals_its_formula_in_forward_and_gradients(method, training):
    ours = mixture(config_of(method)).train(training)
    if ours.router.bias is not None:
        ours.router.bias.copy_(torch.randn(EXPERTS))
    x = tokens(*MASK.shape)
    theirs = formula(method, ours, x.flatten(0, 1), training).view(*MASK.shape, -1)
    torch.manual_seed(SEED)
    update, _ = ours(x, context(mask_BS=MASK))
    real = MASK.unsqueeze(-1)  # the update of a pad has no meaning
    leaves = {"B": ours.B, "x": x} | ({} if method == "flylora" else {"A": ours.A, "router": ours.router.weight})
    leaves |= {} if ours.M is None else {"M": ours.M}
    assert_same(update * real, theirs * real, leaves)


@pytest.mark.parametrize("top_k", [1, 3])
def test_molora_with_top_k_masks_the_other_experts_without_dividing(top_k):
    ours, x = mixture(config_of("molora", top_k=top_k)), tokens()
    probs = [naive.probabilities(ours.router.weight, token) for token in x.flatten(0, 1)]
    bank = naive.pairs(ours.A, ours.B, RANK, "none", EXPERTS)
    theirs = naive.mixture(x.flatten(0, 1), [naive.dense_gates(p, top_k) for p in probs], bank, SCALE)
    leaves = {"A": ours.A, "B": ours.B, "router": ours.router.weight, "x": x}
    assert_same(ours(x, context())[0].flatten(0, 1), theirs, leaves)


@pytest.mark.parametrize("share", ["A", "B", "none"])
@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_mosl_equals_its_formula_for_every_share_and_top_k(share, top_k):
    ours, x = mixture(config_of("mosl", share=share, top_k=top_k)), tokens()
    probs = [naive.probabilities(ours.router.weight, token) for token in x.flatten(0, 1)]
    bank = naive.pairs(ours.A, ours.B, RANK, share, EXPERTS)
    theirs = naive.mixture(x.flatten(0, 1), [naive.top_k_gates(p, top_k) for p in probs], bank, SCALE)
    leaves = {"A": ours.A, "B": ours.B, "x": x} | ({"router": ours.router.weight} if top_k > 1 else {})
    assert_same(ours(x, context())[0].flatten(0, 1), theirs, leaves)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_lora_equals_s_B_A_of_the_dropped_input(tiny, training):
    model = adapt(tiny.double(), "lora", rank=RANK, alpha=ALPHA, dropout=0.3).double()
    layer = next(m for m in model.modules() if isinstance(m, LoraLinear)).train(training)
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(B)
    x = tokens(2, 4, A.shape[1])
    torch.manual_seed(SEED)
    mask = dropout(torch.ones_like(x), 0.3, training)  # PEFT's LoRA drops as torch does
    theirs = torch.stack([SCALE * B @ (A @ token) for token in (x * mask).flatten(0, 1)])
    torch.manual_seed(SEED)
    update = (layer(x) - layer.base_layer(x)).flatten(0, 1)
    assert_same(update, theirs, {"A": A, "B": B, "x": x}, rtol=1e-10, atol=1e-10)


def test_mosl_with_one_expert_equals_peft_lora():
    """In the whole model, so that the scale and the layers are compared, too."""
    lora = mosld.adapt(mosld.load_base("tiny")[0], "lora", rank=RANK, alpha=ALPHA, dropout=0.0, dropout_on="none")
    mosl = mosld.adapt(mosld.load_base("tiny")[0], "mosl", allocation=1, top_k=1, rank=RANK, alpha=ALPHA)
    torch.manual_seed(1)
    theirs, ours = dict(lora.named_parameters()), dict(mosl.named_parameters())
    with torch.no_grad():
        for name, weight in theirs.items():
            if weight.requires_grad:
                weight.normal_()
                for part in "AB":
                    name = name.replace(f"lora_{part}.default.weight", f"mosld_mixture.default.{part}")
                ours[name].copy_(weight)
    assert not torch.equal(lora(IDS).logits, mosld.load_base("tiny")[0](IDS).logits)
    torch.testing.assert_close(mosl(IDS).logits, lora(IDS).logits, rtol=1e-5, atol=1e-5)


PLAIN = {"dropout": 0.0, "dropout_on": "none"}
# Of equal methods the second may have its own A for each expert, which are then copies of the first one's.
EQUAL = {
    "mola with tied A": (("mosl", PLAIN), ("mola", PLAIN), True),
    "mosld without dropout": (("mosl", {}), ("mosld", {"dropout": 0.0}), True),
    "mosld in eval": (("mosl", {}), ("mosld", {}), False),
    "mosld_b in eval": (("mosl", {}), ("mosld_b", {}), False),
    "mola with all experts": (("molora", {}), ("mola", {"top_k": EXPERTS, **PLAIN}), True),
    "molora with tied A": (("hydralora", {}), ("molora", {}), True),
    "molora with top-k": (("sira", {}), ("molora", {"top_k": 2}), False),
}


@pytest.mark.parametrize("case", EQUAL)
def test_methods_that_must_be_equal_are(case):
    (method, options), (other, other_options), training = EQUAL[case]
    first, second = mixture(config_of(method, **options)), mixture(config_of(other, **other_options))
    with torch.no_grad():
        for name, weight in second.named_parameters():
            given = first.get_parameter(name)
            weight.copy_(given.repeat(len(weight) // len(given), *[1] * (given.dim() - 1)))
    x = tokens()
    ours, theirs = (layer.train(training)(x, context())[0] for layer in (first, second))
    assert_same(ours, theirs, {"x": x})


def test_equal_experts_equal_one_lora():
    """The gates of top-k sum to 1, so the router has no effect."""
    ours = mixture(config_of("mola", dropout=0.0, dropout_on="none"))
    with torch.no_grad():
        ours.A.copy_(ours.A[:RANK].repeat(EXPERTS, 1))
        ours.B.copy_(ours.B[:, :RANK].repeat(1, EXPERTS))
    x = tokens()
    one = ALPHA / RANK * x @ ours.A[:RANK].T @ ours.B[:, :RANK].T
    torch.testing.assert_close(ours(x, context())[0], one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_an_untrained_mixture_is_zero(method):
    layer = Mixture(IN, OUT, EXPERTS, config_of(method)).eval()
    update, zeros = layer(torch.randn(2, 4, IN), context())[0], torch.zeros(2, 4, OUT)
    assert update.abs().max() < 1e-6 if method in RANDOM_START else torch.equal(update, zeros)


def test_the_heads_of_r_lora_differ_and_are_one_lora_subtracted_from_the_base():
    """The authors subtract ``s mean(B_i) A`` of heads that they draw from the frozen weight; gates that sum to 1."""
    layer = Mixture(IN, OUT, EXPERTS, config_of("rlora")).eval()
    heads = layer.B.unflatten(1, (EXPERTS, RANK))
    torch.testing.assert_close(heads.mean(1), torch.zeros(OUT, RANK))
    assert all((heads[:, i] - heads[:, j]).abs().max() > 0.01 for i in range(EXPERTS) for j in range(i))
    assert heads.std().item() == pytest.approx((1 - 1 / EXPERTS) ** 0.5 * OUT**0.25 / (64 * OUT) ** 0.5, rel=0.2)


def test_the_frozen_a_of_flylora_is_sparse_and_gaussian():
    layer = Mixture(
        400,
        OUT,
        20,
        MosldConfig(
            r=1, experts=20, top_k=4, router="magnitude", share="none", init="sparse", balance="bias", dropout_on="none"
        ),
    )
    assert "A" not in dict(layer.named_parameters())
    assert (layer.A != 0).sum(1).tolist() == [80] * 20
    assert layer.A[layer.A != 0].std().item() == pytest.approx(1 / 20, rel=0.1)


def test_smora_with_one_gate_for_all_ranks_is_a_lora():
    ours = mixture(config_of("smora", top_k=EXPERTS))
    with torch.no_grad():
        ours.router.weight.zero_()
    x = tokens()
    theirs = ours.config.alpha / EXPERTS * x @ ours.A.T @ ours.B.T
    torch.testing.assert_close(ours(x, context())[0], theirs, rtol=1e-6, atol=1e-6)


def test_comol_with_cores_of_one_is_a_lora():
    ours = mixture(config_of("comol"))
    with torch.no_grad():
        ours.M.copy_(torch.eye(RANK, dtype=torch.float64).repeat(EXPERTS, 1))
    x = tokens()
    torch.testing.assert_close(ours(x, context())[0], SCALE * x @ ours.A.T @ ours.B.T, rtol=1e-6, atol=1e-6)


def test_an_untrained_prefix_equals_the_tokens_it_starts_from(tiny):
    """Its keys and values are those that the base computes for the same tokens in front of the text."""
    passes = []
    hook = tiny.register_forward_pre_hook(lambda _, args, kwargs: passes.append(kwargs["input_ids"]), with_kwargs=True)
    model = mosld.adapt(tiny, "prefix", virtual_tokens=4, seed=0).eval()
    hook.remove()
    (prefix,) = passes
    assert prefix.shape == (1, 4)
    together = mosld.load_base("tiny")[0](torch.cat([prefix.expand(2, -1), IDS], dim=1)).logits[:, 4:]
    torch.testing.assert_close(model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits, together)
