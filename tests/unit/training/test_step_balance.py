"""Balances over whole optimiser steps: biases that move, the loss over all micro-batches, and their resume."""

import pytest
import torch

import mosld
from mosld.adapters.router import Router
from mosld.adapters.step_load import StepLoad, move_biases
from mosld.data.rows import Row
from mosld.data.tokens.encoding import Example
from mosld.models.load import load_base
from mosld.training.checkpoint import Progress, load_state, save_state
from tests.helpers import naive
from tests.helpers.small_layers import context, mixture, tokens
from tests.helpers.toy_runs import stepper_of

TOP_K = ["mosl", "mosld", "mola", "mixlora", "sira"]
RATE = 0.25


def rows(count=8):
    torch.manual_seed(5)
    lengths = torch.randint(5, 14, (count,)).tolist()
    return [
        Example(Row("obqa", str(i), "", "", (), 0), torch.randint(3, 200, (length,)).tolist(), length - 1 - i % 3)
        for i, length in enumerate(lengths)
    ]


def stepper(method, **options):
    model = mosld.adapt(load_base("tiny")[0], method, seed=0, **{"dropout": 0.0, "dropout_on": "none", **options})
    weights = [p for p in model.parameters() if p.requires_grad]
    return stepper_of(model, torch.optim.SGD(weights, lr=0.0))


def routers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, Router)}


def counts_of(method, examples, **options):
    """By router, the choices of each expert over all tokens, counted in passes of one row each."""
    model = stepper(method, **options).model
    model.train()
    total = {}

    def count(name):
        def hook(_, args, routing):
            total[name] = total.get(name, 0) + (routing.gates_BSE > 0).flatten(0, 1).sum(0)

        return hook

    for name, router in routers(model).items():
        router.register_forward_hook(count(name))
    for example in examples:
        model(torch.tensor([example.tokens]))
    return total


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
@pytest.mark.parametrize(("method", "options"), [
    *[(name, {}) for name in TOP_K if name != "sira"],
    ("sira", {"capacity_factor": 9.0, "gate_dropout": 0.0}),
    ("molora", {"top_k": 2}),
    ("smora", {}),
    ("flylora", {}),
])  # fmt: skip
def test_a_bias_moves_by_its_rate_against_the_load_of_the_whole_step(method, options, micro_batch):
    options = {**options, "balance": "bias", "balance_rate": RATE}
    ours, examples = stepper(method, **options), rows()
    wanted = counts_of(method, examples, **options)
    ours.step(examples, micro_batch, 0.0, 0)
    assert len(wanted) == len(routers(ours.model)) > 0
    assert any(router.bias.any() for router in routers(ours.model).values())
    for name, router in routers(ours.model).items():
        mean = sum(wanted[name].tolist()) / len(wanted[name])
        signs = [(mean > count) - (mean < count) for count in wanted[name].tolist()]
        assert router.bias.tolist() == [RATE * sign for sign in signs]


def test_biases_spread_the_load():
    ours, examples = stepper("mosl", allocation=4, balance="bias", balance_rate=0.05), rows()
    before = counts_of("mosl", examples, allocation=4, balance="bias")
    for number in range(60):
        ours.step(examples, 8, 0.0, number)
    ours.model.base_model.pop_load()
    ours.step(examples, 8, 0.0, 60)
    load = ours.model.base_model.pop_load()["expert_load"]
    spread = [max(share).item() - min(share).item() for share in load.values()]
    first = [((count.max() - count.min()) / count.sum()).item() for count in before.values()]
    assert sum(spread) < sum(first) / 2


def test_a_bias_changes_the_choice_and_not_the_gates():
    layer, x = mixture(balance="bias"), tokens()
    layer.router.bias.copy_(torch.tensor([99.0, -99.0, 0.0, 0.0, 99.0]))
    gates = layer.router(x, context()).gates_BSE.flatten(0, 1).double()
    for token, own in zip(x.flatten(0, 1), gates, strict=True):
        probs = naive.probabilities(layer.router.weight, token)
        pair = probs[0] + probs[4]
        torch.testing.assert_close(
            own, torch.stack([probs[0] / pair, *own.new_zeros(3), probs[4] / pair]), atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize("formula", ["switch", "paper_literal", "sira"])
@pytest.mark.parametrize("method", TOP_K)
def test_over_the_step_the_gradient_is_that_of_one_pass_over_it(method, formula):
    options = {"balance": formula, "balance_weight": 1.0, "balance_over": "step"}
    # With its capacity, SiRA turns tokens away by forward pass.
    options |= {"capacity_factor": 9.0, "gate_dropout": 0.0} if method == "sira" else {}
    results = []
    for size, over in ((8, "micro_batch"), (8, "step"), (3, "step"), (1, "step"), (1, "micro_batch")):
        ours = stepper(method, **options | {"balance_over": over})
        gradients = []
        ours.engine.update = lambda _, model=ours.model, into=gradients: into.extend(
            p.grad.flatten().clone() for p in model.parameters() if p.requires_grad
        )
        result = ours.step(rows(), size, 0.0, 0)
        results.append((result.cross_entropy, result.auxiliary, torch.cat(gradients)))
    for other in results[1:4]:
        torch.testing.assert_close(other, results[0], rtol=1e-4, atol=1e-6)
    assert abs(results[4][1] - results[0][1]) > 1e-3, "micro-batches have the same balance"


def test_passes_that_are_no_step_are_not_counted():
    options = {"balance": "bias", "balance_rate": RATE}
    one, other = stepper("mosl", **options), stepper("mosl", **options)
    one.try_longest(rows(), 3)
    one.model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]]))
    for ours in (one, other):
        ours.step(rows(), 3, 0.0, 0)
    for mine, theirs in zip(routers(one.model).values(), routers(other.model).values(), strict=True):
        assert torch.equal(mine.bias, theirs.bias)


def test_the_counts_of_all_processes_are_added():
    router = mixture(balance="bias", balance_rate=RATE).router
    load = StepLoad()
    with load.counting():
        load.add("a", {"m": torch.tensor([4.0, 0.0, 0.0, 0.0, 0.0])}, torch.tensor(2))
        with load.counting(False):
            load.add("a", {"m": torch.full((5,), 99.0)}, torch.tensor(9))
    others = torch.tensor([0.0, 9.0, 0.0, 3.0, 1.0, 6.0])
    total = load.take({("a", "m"): router}, lambda counts: counts + others)
    assert total["a", "m"].tolist() == [4.0, 9.0, 0.0, 3.0, 1.0, 8.0]
    move_biases({("a", "m"): router}, total)
    assert router.bias.tolist() == [-RATE, -RATE, RATE, RATE, RATE]
    assert load.take({("a", "m"): router}, lambda counts: counts)["a", "m"].tolist() == [0.0] * 6


@pytest.mark.parametrize("method", ["mosl", "smora", "flylora"])
def test_a_resumed_step_has_the_biases(method, tmp_path):
    options = {"balance": "bias", "balance_rate": RATE}
    ours, again = stepper(method, **options), stepper(method, **options)
    ours.step(rows(), 4, 0.0, 0)
    save_state(ours.engine, Progress(step=1), tmp_path)
    assert load_state(again.engine, tmp_path).step == 1
    for mine, theirs in zip(routers(ours.model).values(), routers(again.model).values(), strict=True):
        assert torch.equal(mine.bias, theirs.bias)
    assert any(router.bias.any() for router in routers(again.model).values())
