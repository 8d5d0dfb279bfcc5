"""The load-balancing losses: formulas, pads, and their part in `outputs.loss`."""

import pytest
import torch

from mosld.adapters.adapt import adapt
from mosld.adapters.load_balancing import balance_loss, localised_loss
from mosld.adapters.routing import Routing, capacity_routing, dense_routing, top_k_routing
from tests.helpers import naive

FORMULAS = ["switch", "paper_literal", "sira"]


def random_routing(experts, tokens=(3, 7), k=2):
    return top_k_routing(torch.randn(*tokens, experts, requires_grad=True), k)


@pytest.mark.parametrize("formula", FORMULAS)
def test_the_loss_equals_a_loop_over_tokens_and_experts(formula):
    torch.manual_seed(0)
    routings = {"a": random_routing(4), "b": random_routing(8), "c": random_routing(4)}
    mask = (torch.rand(3, 7) < 0.6).long()
    losses = [naive.balance(r.probs_BSE.double(), r.gates_BSE > 0, mask, formula) for r in routings.values()]
    loss, _ = balance_loss(routings, mask, formula)
    torch.testing.assert_close(loss.double(), sum(losses) / 3, rtol=1e-6, atol=1e-6)
    for routing in routings.values():
        actual, expected = (
            torch.autograd.grad(total, routing.probs_BSE, retain_graph=True)[0] for total in (loss, sum(losses) / 3)
        )
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("experts", [2, 5])
def test_the_localised_loss_equals_a_loop_over_rows_and_experts(experts):
    torch.manual_seed(0)
    routings = {name: dense_routing(torch.randn(3, 7, experts, requires_grad=True), None) for name in "ab"}
    mask, kinds = (torch.rand(3, 7) < 0.6).long(), torch.tensor([0, 1, 1])
    wanted = sum(naive.localised_balance(r.gates_BSE.double(), mask, kinds, 0.3) for r in routings.values()) / 2
    loss = localised_loss(routings, mask, kinds, 0.3)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-6)
    for routing in routings.values():
        actual, expected = (
            torch.autograd.grad(total, routing.gates_BSE, retain_graph=True)[0] for total in (loss, wanted)
        )
        torch.testing.assert_close(actual, expected)


def test_a_localised_balance_asks_for_the_kind_of_each_row(tiny):
    model = adapt(tiny, "loramoe", seed=0).train()
    with pytest.raises(ValueError, match="kind of each row's task"):
        model(**batch())


@pytest.mark.parametrize("formula", FORMULAS)
def test_choices_turned_away_by_full_experts_are_counted(formula):
    torch.manual_seed(0)
    mask = torch.tensor([[1] * 8, [0] * 3 + [1] * 5])
    routing = capacity_routing(torch.randn(2, 8, 4), 2, 0.5, 0.2, mask, training=True)
    chosen = [naive.ranked(probs)[:2] for probs in routing.probs_BSE.flatten(0, 1)]
    wanted = torch.tensor([[float(i in token) for i in range(4)] for token in chosen]).view(2, 8, 4)
    assert (routing.gates_BSE > 0).sum() < (wanted * mask.unsqueeze(-1)).sum(), "no expert was full"
    loss, taken = balance_loss({"m": routing}, mask, formula)
    assert taken["m"].tolist() == (wanted * mask.unsqueeze(-1)).sum((0, 1)).tolist()
    torch.testing.assert_close(loss, naive.balance(routing.probs_BSE, wanted, mask, formula))


@pytest.mark.parametrize("experts", [2, 5, 16])
@pytest.mark.parametrize(("formula", "value"), [("switch", lambda n: 1), ("paper_literal", lambda n: 1 / n)])
def test_the_loss_at_balance(formula, value, experts):
    probs = torch.full((1, experts, experts), 1 / experts)
    gates = torch.eye(experts).unsqueeze(0)  # token i takes expert i
    assert balance_loss({"m": Routing(probs, gates)}, None, formula)[0].item() == pytest.approx(value(experts))


def test_the_loss_at_balance_with_all_experts_chosen():
    even = torch.full((1, 4, 4), 1 / 4)
    values = {
        formula: [
            balance_loss({"m": Routing(even, gates)}, None, formula)[0].item() for gates in (torch.eye(4)[None], even)
        ]
        for formula in FORMULAS
    }
    assert values["switch"] == pytest.approx([1, 1])
    assert values["paper_literal"] == pytest.approx([1 / 4, 1])
    assert values["sira"] == pytest.approx([1 / 16, 1 / 4])


def test_the_switch_loss_at_collapse_is_the_number_of_experts():
    one_hot = torch.zeros(1, 6, 4)
    one_hot[..., 0] = 1
    assert balance_loss({"m": Routing(one_hot, one_hot)}, None)[0].item() == pytest.approx(4.0)


def test_pads_are_not_counted_in_the_load():
    gates = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    _, taken = balance_loss({"m": Routing(gates, gates)}, torch.tensor([[1, 1, 0]]))
    assert taken["m"].tolist() == [2.0, 0.0]


def batch(rows=((5, 6, 7, 8, 9), (15, 16, 17)), left=False):
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), 259), torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, where], mask[i, where] = torch.tensor(row), 1
        labels[i, where] = torch.tensor([-100, *row[1:]])  # nothing before it predicts a row's first token
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("method", ["mosl", "sira", "mixlora"])
def test_more_pads_leave_the_loss_unchanged(method, tiny):
    """A defect of other implementations: pads counted in the balance loss."""
    options = {"gate_dropout": 0.0} if method == "sira" else {}  # another length draws another mask
    model = adapt(tiny, method, seed=0, **options).train()
    longer = batch()
    for key, fill in (("input_ids", 259), ("attention_mask", 0), ("labels", -100)):
        longer[key] = torch.nn.functional.pad(longer[key], (0, 9), value=fill)
    torch.testing.assert_close(model(**longer).aux_loss, model(**batch()).aux_loss)


def test_left_and_right_padding_give_the_same_losses(tiny):
    model = adapt(tiny, "mosl", seed=0).train()
    sides = []
    for left in (False, True):
        inputs = batch(left=left)
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        sides.append(model(**inputs, position_ids=positions))
    torch.testing.assert_close(sides[0].aux_loss, sides[1].aux_loss)
    torch.testing.assert_close(sides[0].loss, sides[1].loss)


def test_in_training_the_loss_is_cross_entropy_plus_the_weighted_balance_loss(tiny):
    model = adapt(tiny, "mosl", seed=0, balance_weight=0.5)
    plain = model.eval()(**batch())
    assert "aux_loss" not in plain
    trained = model.train()(**batch())
    torch.testing.assert_close(trained.loss, plain.loss + 0.5 * trained.aux_loss)


@pytest.mark.parametrize("formula", FORMULAS)
def test_every_formula_gives_the_router_a_gradient_on_cpu(formula, tiny):
    """A defect of other implementations: a balance loss that needs CUDA. At step 0 it is the only gradient."""
    model = adapt(tiny, "mosl", allocation=4, seed=0, balance=formula).train()
    model(**batch()).loss.backward()
    gradients = [p.grad for name, p in model.named_parameters() if "router" in name]
    assert all(gradient.is_cpu and gradient.any() for gradient in gradients)


def test_balance_none_leaves_the_loss_unchanged(tiny):
    model = adapt(tiny, "mosl", seed=0, balance="none")
    torch.testing.assert_close(model.train()(**batch()).loss, model.eval()(**batch()).loss)
