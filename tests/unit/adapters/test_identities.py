"""What the methods have in common: where two of them must be the same thing."""

import pytest
import torch

import mosld
from mosld.adapters.bank import Mixture
from tests.helpers.small_layers import ALPHA, EXPERTS, IN, OUT, RANK, assert_same, config_of, context, mixture, tokens

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [25, 26, 27, 28, 29, 30]])
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def copied(from_, to, *names):
    with torch.no_grad():
        for name in names:
            to.get_parameter(name).copy_(from_.get_parameter(name))


def test_mosl_of_one_expert_is_peft_s_lora():
    """The whole model, so that the scale and the place of the update are compared, too."""
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


def test_mola_with_tied_A_is_mosl():
    mosl, mola = (mixture(config_of(name, dropout=0.0, dropout_on="none")) for name in ("mosl", "mola"))
    copied(mosl, mola, "B", "router.weight")
    with torch.no_grad():
        mola.A.copy_(mosl.A.repeat(EXPERTS, 1))
    x = tokens()
    torch.testing.assert_close(mola(x, context())[0], mosl(x, context())[0], **EXACT)


def test_mosld_without_dropout_is_mosl():
    mosl, mosld_ = mixture(config_of("mosl")).train(), mixture(config_of("mosld", dropout=0.0)).train()
    copied(mosl, mosld_, "A", "B", "router.weight")
    x = tokens()
    assert torch.equal(mosld_(x, context())[0], mosl(x, context())[0])


@pytest.mark.parametrize("method", ["mosld", "mosld_b"])
def test_mosld_in_eval_is_mosl(method):
    mosl, dropping = mixture(config_of("mosl")).eval(), mixture(config_of(method)).eval()
    copied(mosl, dropping, "A", "B", "router.weight")
    x = tokens()
    assert torch.equal(dropping(x, context())[0], mosl(x, context())[0])


def test_molora_is_mola_with_all_experts():
    """With K = N nothing is left out, and the softmax divided by its sum is the softmax: the routers are one."""
    molora = mixture(config_of("molora"))
    mola = mixture(config_of("mola", top_k=EXPERTS, dropout=0.0, dropout_on="none"))
    copied(molora, mola, "A", "B", "router.weight")
    x = tokens()
    assert_same(molora(x, context())[0], mola(x, context())[0], {"x": x})


def test_hydralora_is_molora_with_tied_A():
    hydralora, molora = mixture(config_of("hydralora")), mixture(config_of("molora"))
    copied(hydralora, molora, "B", "router.weight")
    with torch.no_grad():
        molora.A.copy_(hydralora.A.repeat(EXPERTS, 1))
    x = tokens()
    torch.testing.assert_close(hydralora(x, context())[0], molora(x, context())[0], **EXACT)


def test_sira_in_eval_is_molora_with_top_k():
    sira, molora = mixture(config_of("sira")).eval(), mixture(config_of("molora", top_k=2)).eval()
    copied(sira, molora, "A", "B", "router.weight")
    x = tokens()
    assert torch.equal(sira(x, context())[0], molora(x, context())[0])


def test_experts_that_are_all_alike_are_one_lora():
    """The gates of top-k sum to 1, so nothing depends on the router."""
    ours = mixture(config_of("mola", dropout=0.0, dropout_on="none"))
    with torch.no_grad():
        ours.A.copy_(ours.A[:RANK].repeat(EXPERTS, 1))
        ours.B.copy_(ours.B[:, :RANK].repeat(1, EXPERTS))
    x = tokens()
    one = ALPHA / RANK * x @ ours.A[:RANK].T @ ours.B[:, :RANK].T
    torch.testing.assert_close(ours(x, context())[0], one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["molora", "sira", "mola", "mosl", "mosld", "mosld_b", "hydralora"])
def test_an_untrained_mixture_changes_nothing(method):
    made = Mixture(IN, OUT, EXPERTS, config_of(method))
    assert torch.equal(made(torch.randn(2, 4, IN), context())[0], torch.zeros(2, 4, OUT))


def test_an_untrained_prefix_is_the_words_that_it_begins_with(tiny):
    """Keys and values of words before the text are what the base makes of these words followed by the text."""
    seen = []
    hook = tiny.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    model = mosld.adapt(tiny, "prefix", virtual_tokens=4, seed=0).eval()
    hook.remove()
    (words,) = seen
    assert words.shape == (1, 4)
    together = mosld.load_base("tiny")[0](torch.cat([words.expand(2, -1), IDS], dim=1)).logits[:, 4:]
    torch.testing.assert_close(model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits, together)
