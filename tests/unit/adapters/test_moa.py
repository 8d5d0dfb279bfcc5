"""MoA: one expert for a whole sequence, against loops over sequences; in a whole model and in `generate`."""

import pytest
import torch

import mosld
from tests.helpers import naive
from tests.helpers.small_layers import RANK, SCALE, assert_same, config_of, context, mixture, tokens
from tests.helpers.toy_runs import disagreeing_moa

DOMAINS = ["a", "b", "c"]
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])  # left pads
PROMPT = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 1, 1, 1, 1]])
OWN = torch.tensor([2, 0, 1])


def layer(**options):
    return mixture(config_of("moa", domains=DOMAINS, **options))


def naive_update(ours, x, gates):
    """The updates of sequences x with the gates of each."""
    bank = naive.pairs(ours.A, ours.B, RANK, "none", len(DOMAINS))
    rows = [naive.mixture(row, [gate] * len(row), bank, SCALE) for row, gate in zip(x, gates, strict=True)]
    return torch.stack(rows)


def naive_probs(ours, x, pool="mean"):
    return [
        naive.sequence_probabilities(ours.router.weight, row, prompt, pool)
        for row, prompt in zip(x, PROMPT, strict=True)
    ]


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_in_training_each_row_takes_its_domain_and_the_router_learns_it(pool):
    ours, x = layer(pool=pool).train(), tokens(3, 5)
    torch.manual_seed(7)
    dropped = x * naive.dropout_mask(x.shape, 0.05)
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
def test_in_eval_each_row_takes_the_arg_max_of_its_router(pool):
    ours, x = layer(pool=pool).eval(), tokens(3, 5)
    gates = [[float(i == naive.ranked(probs)[0]) for i in range(3)] for probs in naive_probs(ours, x, pool)]
    assert len({tuple(own) for own in gates}) > 1, "all rows take one expert"
    update, _ = ours(x, context(mask_BS=MASK, prompt_mask_BS=PROMPT))
    assert_same(update, naive_update(ours, x, gates), {"A": ours.A, "B": ours.B, "x": x})


def test_soft_inference_takes_all_experts_by_their_probabilities():
    ours, x = layer(inference="soft").eval(), tokens(3, 5)
    update, _ = ours(x, context(mask_BS=MASK, prompt_mask_BS=PROMPT))
    leaves = {"A": ours.A, "B": ours.B, "x": x, "router": ours.router.weight}
    assert_same(update, naive_update(ours, x, naive_probs(ours, x)), leaves)


@pytest.mark.parametrize("pool", ["mean", "last"])
@pytest.mark.parametrize("called_prompt", [0, 1])
def test_pads_and_answer_tokens_never_decide(pool, called_prompt):
    """Even where a prompt mask, as one from labels == -100, includes the pads."""
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


def test_a_row_without_a_prompt_has_finite_probabilities():
    probs = layer()(tokens(1, 3), context(prompt_mask_BS=torch.zeros(1, 3), domain_B=torch.tensor([0])))[1].probs_BSE
    torch.testing.assert_close(probs, torch.full_like(probs, 1 / 3))


def test_training_without_domains_names_the_missing_argument(tiny):
    model = mosld.adapt(tiny, "moa", domains=DOMAINS).train()
    with pytest.raises(ValueError, match="domain="):
        model(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]]))


def test_the_loss_has_eta_times_the_mean_cross_entropy_of_the_routers(tiny):
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    model = mosld.adapt(tiny, "moa", domains=DOMAINS, dropout=0.0, dropout_on="none", router_weight=0.5, seed=0)
    plain = model.eval()(input_ids=ids, labels=ids).loss
    trained, routings = recorded(model.train(), input_ids=ids, labels=ids, domain=torch.tensor([0, 2]))
    torch.testing.assert_close(trained.loss, plain + 0.5 * trained.aux_loss)
    losses = [-torch.log(routing.probs_BSE[[0, 1], 0, [0, 2]]).mean() for routing in routings]
    assert len(losses) == 4  # one router per layer
    torch.testing.assert_close(trained.aux_loss, torch.stack(losses).mean())


def test_a_layer_has_one_router_for_all_its_modules(tiny):
    model = mosld.adapt(tiny, "moa", domains=DOMAINS, targets="all")
    routers = [name for name, _ in model.named_parameters() if "router" in name]
    assert len(routers) == 4
    assert all("self_attn.q_proj" in name for name in routers)


def test_a_row_trains_only_the_expert_of_its_domain(tiny):
    model = mosld.adapt(tiny, "moa", domains=DOMAINS, seed=0).train()
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    model(input_ids=ids, labels=ids, domain=torch.tensor([1, 1])).loss.backward()
    own = model.base_model.model.model.layers[2].self_attn.v_proj.mosld_mixture["default"]
    assert [bool(part.any()) for part in own.B.grad.unflatten(1, (3, 8)).unbind(1)] == [False, True, False]


PAD = 259
TEXTS = [[5, 6, 7, 8, 9, 10, 11], [120, 121, 122], [60, 200, 61, 201, 62], [240, 33]]


def batch(rows=TEXTS):
    """Left-padded, as for `generate`."""
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def recorded(model, **inputs):
    """The outputs of a forward and the routing of each layer."""
    with model.base_model.context.recording() as routings:
        outputs = model(**inputs)
    return outputs, list(routings.values())


def decide(model, **inputs):
    """The logits of a forward and the expert of each layer and row [L, B]."""
    outputs, routings = recorded(model, **inputs)
    return outputs.logits, torch.stack([routing.gates_BSE[:, 0].argmax(-1) for routing in routings])


def greedy(model, **inputs):
    return model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=PAD)


def test_a_mixed_batch_gives_each_row_the_expert_it_has_alone():
    """A defect of other implementations: a whole batch routed by its first sample."""
    model = disagreeing_moa()
    inputs = batch()
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    together, chosen = decide(model, **inputs, position_ids=positions)
    assert all(len(layer.unique()) > 1 for layer in chosen)
    for i, row in enumerate(TEXTS):
        alone, own = decide(model, input_ids=torch.tensor([row]))
        assert torch.equal(own[:, 0], chosen[:, i])
        torch.testing.assert_close(together[i, -len(row) :], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inference", ["per_layer", "vote", "soft"])
def test_a_padded_mixed_batch_generates_as_each_row_alone(inference):
    model = disagreeing_moa(inference=inference)
    together = greedy(model, **batch())[:, -6:]
    for i, row in enumerate(TEXTS):
        assert torch.equal(together[i], greedy(model, input_ids=torch.tensor([row]))[0, -6:])


@pytest.mark.parametrize("inference", ["per_layer", "vote", "soft"])
def test_generate_keeps_the_decision_of_the_prompt(inference):
    """The reference decodes without a cache, with the mask of the prompt."""
    model = disagreeing_moa(inference=inference)
    prompt = torch.tensor([TEXTS[0], TEXTS[0][::-1]])
    ids = prompt
    for _ in range(6):
        inside = (torch.arange(ids.shape[1]) < prompt.shape[1]).long().expand_as(ids)
        following = model(ids, prompt_mask=inside, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], dim=1)
    assert torch.equal(greedy(model, input_ids=prompt), ids)


def test_answer_tokens_influence_no_layer_s_decision():
    model, prompt = disagreeing_moa(), torch.tensor([[1, 1, 1, 0, 0]] * 2)
    rows = [[[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]], [[5, 6, 7, 200, 3], [15, 16, 17, 90, 91]]]
    first, second = (recorded(model, input_ids=torch.tensor(ids), prompt_mask=prompt)[1] for ids in rows)
    assert len(first) == 4
    torch.testing.assert_close([routing.probs_BSE for routing in first], [routing.probs_BSE for routing in second])


@pytest.mark.parametrize("inference", ["per_layer", "vote", "soft"])
def test_options_behind_one_question_are_decided_by_the_question(inference):
    """As the scoring packs them: positions start anew at each option, and the mask of the prompt is given."""
    model = disagreeing_moa(inference=inference)
    ids, prompt = torch.tensor([[*TEXTS[0][:3], 8, 9, 10, 11]]), torch.tensor([[1, 1, 1, 0, 0, 0, 0]])
    packed = model(ids, prompt_mask=prompt, position_ids=torch.tensor([[0, 1, 2, 3, 4, 3, 4]]), use_cache=False).logits
    alone = model(ids[:, :5], prompt_mask=prompt[:, :5], use_cache=False).logits
    torch.testing.assert_close(packed[:, :5], alone, rtol=1e-4, atol=1e-4)


def test_vote_takes_the_expert_of_most_layers_in_every_layer():
    inputs = batch()
    by_layer, voting = disagreeing_moa(), disagreeing_moa(inference="vote")
    _, named = decide(by_layer, **inputs)
    counts = [[(named[:, row] == i).sum().item() for i in range(3)] for row in range(len(TEXTS))]
    elected = torch.tensor([count.index(max(count)) for count in counts])
    assert any(len(named[:, row].unique()) > 1 for row in range(len(TEXTS))), "no layer disagrees"
    logits, chosen = decide(voting, **inputs)
    assert torch.equal(chosen, elected.expand(4, -1))
    # In training mode, without dropout, each row takes the expert in `domain`.
    reference = disagreeing_moa(dropout=0.0, dropout_on="none").train()
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(logits[real], reference(**inputs, domain=elected).logits[real])


@pytest.mark.parametrize("inference", ["per_layer", "vote", "soft"])
def test_load_adapter_of_transformers_routes_alike(inference, tmp_path):
    model = disagreeing_moa(inference=inference)
    model.save_pretrained(tmp_path)
    plain = mosld.load_base("tiny")[0]
    plain.load_adapter(str(tmp_path))
    assert torch.equal(greedy(plain.eval(), **batch()), greedy(model, **batch()))


def test_a_second_load_adapter_of_transformers_votes(tmp_path):
    """Transformers makes a tuner for each adapter; the layers of all share one context."""
    by_layer, voting = disagreeing_moa(), disagreeing_moa(inference="vote")
    by_layer.save_pretrained(tmp_path / "by_layer")
    voting.save_pretrained(tmp_path / "vote")
    plain = mosld.load_base("tiny")[0]
    plain.load_adapter(str(tmp_path / "by_layer"), "first")
    plain.load_adapter(str(tmp_path / "vote"), "second")
    plain.set_adapter("second")
    assert torch.equal(plain.eval()(**batch()).logits, voting(**batch()).logits)


def test_a_prompt_mask_applies_to_its_own_forward_alone():
    model, ids = disagreeing_moa(dropout=0.0, dropout_on="none"), torch.tensor(TEXTS[:1])
    wanted = greedy(model, input_ids=ids)
    inside = torch.tensor([[1, 0, 0, 0, 0, 0, 0]])
    model.train()(input_ids=ids, labels=ids, domain=torch.tensor([0]), prompt_mask=inside)
    assert torch.equal(greedy(model.eval(), input_ids=ids), wanted)


def test_checkpointing_reruns_layers_with_the_same_domains_and_prompts():
    ids, gradients = torch.tensor([[5, 6, 7, 8], [25, 26, 27, 28]]), []
    for checkpointing in (False, True):
        model = disagreeing_moa(dropout=0.0, dropout_on="none").train()
        if checkpointing:
            model.enable_input_require_grads()
            model.base_model.model.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )
        inside = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])
        model(input_ids=ids, labels=ids, domain=torch.tensor([2, 1]), prompt_mask=inside).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(*gradients)
