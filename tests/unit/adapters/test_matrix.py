"""The generic matrix: what must hold for every method in training and in eval, one row a method (rows.py)."""

import copy

import pytest
import torch

from mosld.config.groups import group_options
from tests.helpers.methods import ADAPTERS, IDS, LAYERS, ROUTED, ROWS, over


@pytest.fixture
def ids():
    return torch.tensor(IDS)


def test_every_method_of_conf_has_a_row():
    rows = [row.name for row in ROWS]
    methods = {name.removesuffix("_authors") for name in group_options()["method"]}
    assert sorted(rows) == sorted(methods)


AUTHORS = [name for name in group_options()["method"] if name.endswith("_authors")]


@pytest.mark.parametrize("name", AUTHORS)
def test_the_authors_settings_are_the_base_model_at_step_0_and_one_step_moves_them(name, ids):
    row = next(row for row in ROWS if row.name == name.removesuffix("_authors"))
    model, base = row.adapted(trained=False, method=name), row.base()(ids).logits
    assert torch.equal(model(ids).logits, base)
    assert not torch.equal(row.train(model, steps=1)(ids).logits, base)


@over([row for row in ROWS if row.name != "prefix"])  # it gives the model keys and values from the first step on
def test_step_0_is_the_base_model(row, ids):
    assert torch.equal(row.adapted(trained=False)(ids).logits, row.base()(ids).logits)


@over(ROWS)
def test_training_changes_the_answer(row, ids):
    model = row.adapted(trained=False)
    before = model(ids).logits
    assert not torch.equal(row.train(model)(ids).logits, before)


@over(ROWS)
def test_training_lowers_the_loss(row):
    model = row.adapted(trained=False)
    before = model(**row.inputs()).loss
    assert row.train(model, steps=10)(**row.inputs()).loss < before


@over(ADAPTERS)
def test_training_leaves_the_base_weights_untouched(row):
    base = row.base()
    before = {name: p.detach().clone() for name, p in base.named_parameters()}
    row.train(row.adapted(trained=False, base=base))
    after = {name.replace(".base_layer", ""): p for name, p in base.named_parameters()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


@over(ROWS)
def test_gradients_reach_every_trained_tensor(row):
    model = row.adapted().train()
    model(**row.inputs()).loss.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert missing == []


@over(ADAPTERS)
def test_no_gradient_reaches_the_base(row):
    model = row.adapted().train()
    model(**row.inputs()).loss.backward()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@over(ROWS)
def test_trained_tensors_are_parameters_and_in_the_state_dict(row):
    """A defect of other implementations: adapter tensors missing from parameters() and state_dict()."""
    model = row.adapted()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert trained <= model.state_dict().keys()


@over(ROWS)
def test_eval_is_deterministic_after_training(row, ids):
    """A defect of other implementations: dropout still on after .eval()."""
    model = row.adapted().train()
    model(**row.inputs())
    model.eval()
    assert torch.equal(model(ids).logits, model(ids).logits)


@over(ROWS)
def test_training_drops_out_if_and_only_if_the_method_does(row):
    model = row.adapted().train()
    assert torch.equal(model(**row.inputs()).logits, model(**row.inputs()).logits) == (not row.dropout)


@over(ADAPTERS)
def test_disable_adapter_is_the_base_model_and_only_while_disabled(row, ids):
    """A defect of other implementations: disable_adapter that does not disable."""
    model, base = row.adapted(), row.base()(ids).logits
    with model.disable_adapter():
        assert torch.equal(model(ids).logits, base)
    assert not torch.equal(model(ids).logits, base)


@over(ADAPTERS)
def test_on_a_bf16_base_the_adapter_stays_fp32_and_trains(row, ids):
    model = row.adapted(trained=False, base=row.base().to(torch.bfloat16))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    before = model(ids).logits
    assert before.dtype == torch.bfloat16
    assert not torch.equal(row.train(model)(ids).logits, before)


def enable_checkpointing(model, use_reentrant):
    base = model
    if hasattr(model, "base_model") and hasattr(model, "peft_config"):
        model.enable_input_require_grads()
        base = model.get_base_model()
    base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": use_reentrant})


@over([row for row in ROWS if row.name != "prefix"])  # refused by PEFT: checkpointing turns the cache off
def test_gradient_checkpointing_gives_the_same_loss_and_gradients(row):
    results = []
    for checkpointing in (False, True):
        model, seen = row.adapted().train(), []
        if checkpointing:
            enable_checkpointing(model, use_reentrant=False)
        layer = next(module for name, module in model.named_modules() if name.endswith("layers.0.self_attn.q_proj"))
        layer.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        torch.manual_seed(7)  # the same dropout masks: they are kept for the second forward
        loss = model(**row.inputs()).loss
        loss.backward()
        assert len(seen) == 1 + checkpointing
        results.append((loss, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}))
    (loss, gradients), (loss_again, gradients_again) = results
    assert torch.equal(loss, loss_again)
    torch.testing.assert_close(gradients, gradients_again)


@over(ROUTED)
def test_reentrant_checkpointing_is_refused_where_it_would_lose_the_router_s_gradient(row):
    model = row.adapted().train()
    enable_checkpointing(model, use_reentrant=True)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        model(**row.inputs())


@over(ROWS)
def test_a_deep_copy_after_training_is_its_own_model(row, ids):
    model = row.train(row.adapted())
    wanted = model(ids).logits  # before the copy, which fails on whatever of this pass has stayed on the modules
    copied = copy.deepcopy(model)
    assert torch.equal(copied(ids).logits, wanted)
    row.train(copied)
    assert torch.equal(model(ids).logits, wanted)


@over(ROWS)
def test_forward_changes_no_requires_grad(row, ids):
    """A defect of other implementations: forward that changes requires_grad."""
    model = row.adapted()
    before = [p.requires_grad for p in model.parameters()]
    model.train()(**row.inputs())
    model.eval()(ids)
    assert [p.requires_grad for p in model.parameters()] == before


@over(ROUTED)
def test_a_routed_method_refuses_to_merge(row):
    with pytest.raises(ValueError, match="cannot be merged"):
        row.adapted().merge_and_unload()


@over([row for row in LAYERS if not row.routed])
def test_lora_merges(row, ids):
    model = row.adapted()
    wanted = model(ids).logits
    torch.testing.assert_close(model.merge_and_unload()(ids).logits, wanted, rtol=1e-4, atol=1e-4)


def padded(row, pads):
    """The batch of a row with these tokens at three places that the mask and the labels leave out."""
    made = {name: value.clone() for name, value in row.inputs().items()}
    made["attention_mask"] = torch.ones_like(made["input_ids"])
    for name, value in (("input_ids", torch.tensor(pads)), ("attention_mask", 0)):
        made[name][1, :3] = value
    made["labels"][1, :4] = -100  # the last pad would predict the first token
    return made


@over(ROWS)
def test_what_stands_at_pads_changes_no_gradient(row):
    """A defect of other implementations: training on pads; pads counted in the balance loss."""
    gradients = []
    for pads in ([259, 259, 259], [7, 70, 170]):
        model = row.adapted().train()
        torch.manual_seed(7)
        model(**padded(row, pads)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(*gradients)


@over(ROWS)
def test_each_row_of_a_batch_is_answered_as_if_it_were_alone(row, ids):
    """A defect of other implementations: a whole batch routed by its first sample."""
    model = row.adapted()
    together = model(ids).logits
    for i in range(len(ids)):
        torch.testing.assert_close(together[i : i + 1], model(ids[i : i + 1]).logits, rtol=1e-4, atol=1e-5)
