"""What holds for every method, one row each (tests/helpers/methods.py): training, eval, batches and generation."""

import copy

import pytest
import torch

from mosld.config.groups import group_options
from tests.helpers.methods import ADAPTERS, BY_NAME, IDS, LAYERS, ROUTED, ROWS, over

AUTHORS = [name for name in group_options()["method"] if name.endswith("_authors")]
PAD = 259
# Prefix-tuning gives the model keys and values from the first step on, and PEFT refuses it checkpointing, which turns
# the cache off.
NOT_PREFIX = [row for row in ROWS if row.name != "prefix"]


@pytest.fixture
def ids():
    return torch.tensor(IDS)


def gradients_of(model):
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def test_every_method_of_conf_has_a_row():
    methods = {name.removesuffix("_authors") for name in group_options()["method"]}
    assert sorted(BY_NAME) == sorted(methods)


@over(NOT_PREFIX)
def test_an_untrained_model_is_the_base_model(row, ids):
    ours, base = row.adapted(trained=False)(ids).logits, row.base()(ids).logits
    if row.random_start:
        torch.testing.assert_close(ours, base, rtol=1e-5, atol=1e-5)
        return
    assert torch.equal(ours, base)


@pytest.mark.parametrize("name", AUTHORS)
def test_the_authors_settings_start_as_the_base_model_and_train(name, ids):
    row = BY_NAME[name.removesuffix("_authors")]
    model, base = row.adapted(trained=False, method=name), row.base()(ids).logits
    assert torch.equal(model(ids).logits, base)
    assert not torch.equal(row.train(model, steps=1)(ids).logits, base)


@over(ROWS)
def test_training_lowers_the_loss_and_leaves_the_base_weights_alone(row, ids):
    base = row.base()
    frozen = {name: p.detach().clone() for name, p in base.named_parameters()} if row.adapter else {}
    model = row.adapted(trained=False, base=base)
    logits, loss = model(ids).logits, model(**row.inputs()).loss
    row.train(model, steps=10)
    assert not torch.equal(model(ids).logits, logits)
    assert model(**row.inputs()).loss < loss
    after = {name.replace(".base_layer", ""): p for name, p in base.named_parameters()}
    assert all(torch.equal(after[name], value) for name, value in frozen.items())


@over(ROWS)
def test_every_trained_tensor_has_a_gradient_and_is_saved(row, ids):
    """Defects of other implementations: adapter tensors missing from parameters() and state_dict(), forward that
    changes requires_grad.
    """
    model = row.adapted().train()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert trained <= model.state_dict().keys()
    model(**row.inputs()).loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()} == trained
    model.eval()(ids)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained


@over(ROWS)
def test_dropout_acts_in_training_alone(row, ids):
    """A defect of other implementations: dropout still on after .eval()."""
    model = row.adapted().train()
    assert torch.equal(model(**row.inputs()).logits, model(**row.inputs()).logits) == (not row.dropout)
    model.eval()
    assert torch.equal(model(ids).logits, model(ids).logits)


@over(ADAPTERS)
def test_disable_adapter_is_the_base_model_while_disabled(row, ids):
    """A defect of other implementations: disable_adapter that does not disable."""
    model, base = row.adapted(), row.base()(ids).logits
    with model.disable_adapter():
        assert torch.equal(model(ids).logits, base)
    assert not torch.equal(model(ids).logits, base)


@over(ADAPTERS)
def test_on_a_bf16_base_the_adapter_is_fp32_and_trains(row, ids):
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


@over(NOT_PREFIX)
def test_gradient_checkpointing_gives_the_same_loss_and_gradients(row):
    results = []
    for checkpointing in (False, True):
        model, passes = row.adapted().train(), []
        if checkpointing:
            enable_checkpointing(model, use_reentrant=False)
        layer = next(module for name, module in model.named_modules() if name.endswith("layers.0.self_attn.q_proj"))
        layer.register_forward_pre_hook(lambda *_, passes=passes: passes.append(1))
        torch.manual_seed(7)  # the same dropout masks, which the second forward draws again
        loss = model(**row.inputs()).loss
        loss.backward()
        assert len(passes) == 1 + checkpointing
        results.append((loss, gradients_of(model)))
    torch.testing.assert_close(*results)
    assert torch.equal(results[0][0], results[1][0])


@over(ROUTED)
def test_reentrant_checkpointing_is_refused_where_it_would_lose_the_router_s_gradient(row):
    model = row.adapted().train()
    enable_checkpointing(model, use_reentrant=True)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        model(**row.inputs())


@over(ROWS)
def test_a_deep_copy_after_training_is_independent(row, ids):
    model = row.train(row.adapted())
    logits = model(ids).logits  # a tensor with a graph that stays on a module cannot be copied
    copied = copy.deepcopy(model)
    assert torch.equal(copied(ids).logits, logits)
    row.train(copied)
    assert torch.equal(model(ids).logits, logits)


@over(ROUTED)
def test_a_routed_method_refuses_to_merge(row):
    with pytest.raises(ValueError, match="cannot be merged"):
        row.adapted().merge_and_unload()


@over([row for row in LAYERS if not row.routed])
def test_lora_merges(row, ids):
    model = row.adapted()
    logits = model(ids).logits
    torch.testing.assert_close(model.merge_and_unload()(ids).logits, logits, rtol=1e-4, atol=1e-4)


def padded_inputs(row, pads):
    """The training batch of a row with these tokens at three positions that mask and labels leave out."""
    inputs = {name: value.clone() for name, value in row.inputs().items()}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for name, value in (("input_ids", torch.tensor(pads)), ("attention_mask", 0)):
        inputs[name][1, :3] = value
    inputs["labels"][1, :4] = -100  # the last pad would predict the first token
    return inputs


@over(ROWS)
def test_the_tokens_at_pads_change_no_gradient(row):
    """Defects of other implementations: training on pads, pads counted in the balance loss."""
    gradients = []
    for pads in ([PAD, PAD, PAD], [7, 70, 170]):
        model = row.adapted().train()
        torch.manual_seed(7)
        model(**padded_inputs(row, pads)).loss.backward()
        gradients.append(gradients_of(model))
    torch.testing.assert_close(*gradients)


@over(ROWS)
def test_each_row_of_a_batch_has_the_logits_it_has_alone(row, ids):
    """A defect of other implementations: a whole batch routed by its first sample."""
    model = row.adapted()
    together = model(ids).logits
    for i in range(len(ids)):
        torch.testing.assert_close(together[i : i + 1], model(ids[i : i + 1]).logits, rtol=1e-4, atol=1e-5)


def generate(model, ids, mask=None, **options):
    mask = torch.ones_like(ids) if mask is None else mask
    output = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=PAD,
        **options,
    )  # fmt: skip
    return output[:, ids.shape[1] :]


def generate_without_cache(row, model, ids):
    """Greedy decoding by whole forwards."""
    prompt = ids
    for _ in range(8):
        mask = (torch.arange(ids.shape[1]) < prompt.shape[1]).long().expand_as(ids)
        domain = {"prompt_mask": mask} if row.domain else {}
        ids = torch.cat([ids, model(input_ids=ids, **domain).logits[:, -1:].argmax(-1)], dim=1)
    return ids[:, prompt.shape[1] :]


@over(ROWS)
def test_generate_with_a_cache_equals_whole_forwards(row, ids):
    """A defect of other implementations: a broken generate()."""
    model = row.adapted()
    tokens = generate(model, ids)
    assert tokens.shape == (2, 8)
    assert torch.equal(tokens, generate_without_cache(row, model, ids))


@over(ROWS)
def test_generate_of_a_padded_row_and_in_beams_equals_each_row_alone(row, ids):
    model = row.adapted()
    padded, mask = ids.clone(), torch.ones_like(ids)
    padded[1, :3], mask[1, :3] = PAD, 0
    assert torch.equal(generate(model, padded, mask)[1:], generate(model, ids[1:, 3:]))
    beams = generate(model, ids, num_beams=2)
    for i in range(len(ids)):
        assert torch.equal(beams[i : i + 1], generate(model, ids[i : i + 1], num_beams=2))
