"""MoA's router: one expert for a whole sequence, against loops over sequences; who decides, and what is kept."""

import pytest
import torch

import mosld
from tests.helpers import naive
from tests.helpers.small_layers import RANK, SCALE, assert_same, config_of, context, mixture, tokens

DOMAINS = ["a", "b", "c"]
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])  # left pads
PROMPT = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 1, 1, 1, 1]])
OWN = torch.tensor([2, 0, 1])


def layer(**options):
    return mixture(config_of("moa", domains=DOMAINS, **options))


def naive_update(ours, x, gates):
    """`gates`: by sequence."""
    bank = naive.pairs(ours.A, ours.B, RANK, "none", len(DOMAINS))
    rows = [naive.mixture(row, [own] * len(row), bank, SCALE) for row, own in zip(x, gates, strict=True)]
    return torch.stack(rows)


def naive_probs(ours, x, pool="mean"):
    return [
        naive.sequence_probabilities(ours.router.weight, row, prompt, pool)
        for row, prompt in zip(x, PROMPT, strict=True)
    ]


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_in_training_each_row_takes_its_own_domain_and_the_router_learns_to_name_it(pool):
    ours, x = layer(pool=pool).train(), tokens(3, 5)
    torch.manual_seed(7)
    dropped = x * naive.dropped(x.shape, 0.05)
    one_hot = [[float(i == own) for i in range(3)] for own in OWN]
    theirs = naive_update(ours, dropped, one_hot)
    loss = -sum(torch.log(probs[own]) for probs, own in zip(naive_probs(ours, x, pool), OWN, strict=True)) / 3
    torch.manual_seed(7)
    update, routing = ours(x, context(mask_BS=MASK, prompt_mask_BS=PROMPT, domain_B=OWN))
    leaves = {"A": ours.A, "B": ours.B, "x": x, "router": ours.router.weight}
    # One number beside the updates, so that the router's gradient is compared with them.
    assert_same(
        torch.cat([update.flatten(), routing.loss.double().view(1)]),
        torch.cat([theirs.flatten(), loss.view(1)]),
        leaves,
    )


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_in_eval_each_row_takes_the_expert_that_the_router_names(pool):
    ours, x = layer(pool=pool).eval(), tokens(3, 5)
    gates = [[float(i == naive.ranked(probs)[0]) for i in range(3)] for probs in naive_probs(ours, x, pool)]
    assert len({tuple(own) for own in gates}) > 1, "all rows take one expert: the test shows little"
    update, _ = ours(x, context(mask_BS=MASK, prompt_mask_BS=PROMPT))
    assert_same(update, naive_update(ours, x, gates), {"A": ours.A, "B": ours.B, "x": x})


def test_soft_takes_all_experts_by_their_probabilities():
    ours, x = layer(inference="soft").eval(), tokens(3, 5)
    update, _ = ours(x, context(mask_BS=MASK, prompt_mask_BS=PROMPT))
    leaves = {"A": ours.A, "B": ours.B, "x": x, "router": ours.router.weight}
    assert_same(update, naive_update(ours, x, naive_probs(ours, x)), leaves)


@pytest.mark.parametrize("pool", ["mean", "last"])
@pytest.mark.parametrize("called_prompt", [0, 1])
def test_pads_and_answer_tokens_never_decide(pool, called_prompt):
    """Even where a prompt mask, as in labels == -100, calls the pads a part of the prompt."""
    ours, x = layer(pool=pool).eval(), tokens(3, 5)
    outside = (PROMPT == 0).unsqueeze(-1)
    prompt = torch.where(MASK == 0, called_prompt, PROMPT)
    decided = [
        ours(states, context(mask_BS=MASK, prompt_mask_BS=prompt))[1].probs_BSE
        for states in (x, torch.where(outside, 100.0, x))
    ]
    assert torch.equal(*decided)


def test_without_a_prompt_mask_all_tokens_but_pads_decide():
    ours, x = layer().eval(), tokens(3, 5)
    got = ours(x, context(mask_BS=MASK))[1].probs_BSE
    assert torch.equal(got, ours(x, context(mask_BS=MASK, prompt_mask_BS=MASK))[1].probs_BSE)
    assert not torch.equal(got, ours(x, context())[1].probs_BSE)


def test_a_row_without_a_prompt_gives_numbers():
    probs = layer()(tokens(1, 3), context(prompt_mask_BS=torch.zeros(1, 3), domain_B=torch.tensor([0])))[1].probs_BSE
    torch.testing.assert_close(probs, torch.full_like(probs, 1 / 3))


def test_while_decoding_the_decision_of_the_prompt_is_kept():
    ours, known = layer().eval(), context()
    _, decided = ours(tokens(3, 5), known, "layer 0")
    known.decoding = True
    _, again = ours(100 * tokens(3, 1), known, "layer 0")
    assert torch.equal(again.gates_BSE, decided.gates_BSE)


def test_training_without_domains_says_what_is_missing(tiny):
    model = mosld.adapt(tiny, "moa", domains=DOMAINS).train()
    with pytest.raises(ValueError, match="domain="):
        model(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]]))


def test_the_loss_holds_eta_times_the_mean_of_the_routers_cross_entropies(tiny):
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    model = mosld.adapt(tiny, "moa", domains=DOMAINS, dropout=0.0, dropout_on="none", router_weight=0.5, seed=0)
    plain = model.eval()(input_ids=ids, labels=ids).loss
    trained = model.train()(input_ids=ids, labels=ids, domain=torch.tensor([0, 2]))
    torch.testing.assert_close(trained.loss, plain + 0.5 * trained.aux_loss)
    losses = [
        -torch.log(routing.probs_BSE[[0, 1], 0, [0, 2]]).mean() for routing in model.base_model.context.decided.values()
    ]
    assert len(losses) == 4  # one router per layer
    torch.testing.assert_close(trained.aux_loss, torch.stack(losses).mean())


def test_one_router_per_layer_serves_all_its_modules(tiny):
    model = mosld.adapt(tiny, "moa", domains=DOMAINS, targets="all")
    routers = [name for name, _ in model.named_parameters() if "router" in name]
    assert len(routers) == 4
    assert all("self_attn.q_proj" in name for name in routers)


def test_each_domain_trains_its_own_expert_alone(tiny):
    model = mosld.adapt(tiny, "moa", domains=DOMAINS, seed=0).train()
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    model(input_ids=ids, labels=ids, domain=torch.tensor([1, 1])).loss.backward()
    own = model.base_model.model.model.layers[2].self_attn.v_proj.mosld_mixture["default"]
    assert [bool(part.any()) for part in own.B.grad.unflatten(1, (3, 8)).unbind(1)] == [False, True, False]
