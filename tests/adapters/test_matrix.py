"""The generic matrix: what must hold for every method, one row each. A test counts that every conf/method has a row."""

import copy
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from peft import PeftModel

import mosld
from mosld.config import group_options


@dataclass(frozen=True)
class Method:
    """A row of the matrix: options that make the method small, and whether it routes."""

    name: str
    routed: bool
    options: dict[str, Any] = field(default_factory=dict)


METHODS = [Method("lora", False), Method("mosl", True), Method("mosld", True)]
IDS = [[5, 6, 7, 8, 9, 10], [25, 26, 27, 28, 29, 30]]


@pytest.fixture(params=METHODS, ids=lambda method: method.name)
def method(request) -> Method:
    return request.param


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.tensor(IDS)


def base_model():
    return mosld.load_base("tiny")[0]


def adapted(method: Method, trained: bool = True, base=None):
    """The method on a tiny base; `trained`: every weight moved off its initial value."""
    model = mosld.adapt(base or base_model(), method.name, seed=0, **method.options)
    if trained:
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def train_steps(model, ids, steps=3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


def test_every_method_of_conf_has_a_row():
    assert sorted(row.name for row in METHODS) == group_options()["method"]


def test_step_0_is_the_base_model(method, ids):
    assert torch.equal(adapted(method, trained=False)(ids).logits, base_model()(ids).logits)


def test_training_changes_the_answer_and_leaves_the_base_weights_untouched(method, ids):
    base = base_model()
    before = {name: p.detach().clone() for name, p in base.named_parameters()}
    model = train_steps(adapted(method, trained=False, base=base), ids)
    assert not torch.equal(model(ids).logits, base_model()(ids).logits)
    after = {name.replace(".base_layer", ""): p for name, p in base.named_parameters()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_gradients_reach_every_trained_tensor(method, ids):
    model = adapted(method).train()
    model(input_ids=ids, labels=ids).loss.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert missing == []


def test_trained_tensors_are_parameters_and_in_the_state_dict(method):
    model = adapted(method)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert trained <= model.state_dict().keys()


def test_eval_is_deterministic_and_training_drops_out_if_the_method_does(method, ids):
    model = adapted(method)
    assert torch.equal(model(ids).logits, model(ids).logits)
    config = next(iter(model.peft_config.values()))
    drops = getattr(config, "dropout", 0) or getattr(config, "lora_dropout", 0)
    model.train()
    assert torch.equal(model(ids).logits, model(ids).logits) == (not drops)


FRESH = """
import sys, torch
from mosld import load_base
import mosld.adapters
from peft import PeftModel
base = load_base("tiny")[0]
model = PeftModel.from_pretrained(base, sys.argv[1]).eval()
print(model(torch.tensor(eval(sys.argv[2]))).logits.detach().numpy().tobytes().hex())
"""


def test_a_fresh_process_loads_it_bit_equal_with_plain_peft(method, ids, tmp_path):
    model = adapted(method)
    model.save_pretrained(tmp_path)
    command = [sys.executable, "-c", FRESH, str(tmp_path), str(IDS)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.stdout.strip() == model(ids).logits.detach().numpy().tobytes().hex(), done.stderr


def test_transformers_own_load_adapter_gives_equal_logits(method, ids, tmp_path):
    model = adapted(method)
    model.save_pretrained(tmp_path)
    plain = base_model()
    plain.load_adapter(str(tmp_path))
    assert torch.equal(plain.eval()(ids).logits, model(ids).logits)


def test_two_adapters_live_side_by_side(method, ids, tmp_path):
    first, second = adapted(method), adapted(method)
    with torch.no_grad():
        for parameter in second.parameters():
            if parameter.requires_grad:
                parameter.mul_(0.5)
    first.save_pretrained(tmp_path / "first")
    second.save_pretrained(tmp_path / "second")
    both = PeftModel.from_pretrained(base_model(), tmp_path / "first", adapter_name="first")
    both.load_adapter(tmp_path / "second", "second")
    for name, alone in (("second", second), ("first", first)):
        both.set_adapter(name)
        assert torch.equal(both.eval()(ids).logits, alone(ids).logits)


def test_only_the_active_adapter_is_trained(method, tmp_path):
    model = adapted(method)
    model.add_adapter("second", model.peft_config["default"])
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all(".default" in name for name in trained)


def test_disable_adapter_is_the_base_model(method, ids):
    model = adapted(method)
    with model.disable_adapter():
        assert torch.equal(model(ids).logits, base_model()(ids).logits)
    assert not torch.equal(model(ids).logits, base_model()(ids).logits)


def test_on_a_bf16_base_the_adapter_stays_fp32_and_trains(method, ids):
    model = adapted(method, trained=False, base=base_model().to(torch.bfloat16))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    before = model(ids).logits
    assert before.dtype == torch.bfloat16
    assert not torch.equal(train_steps(model, ids)(ids).logits, before)


def test_gradient_checkpointing_gives_the_same_loss_and_gradients(method, ids):
    results = []
    for checkpointing in (False, True):
        model = adapted(method).train()
        if checkpointing:
            model.enable_input_require_grads()
            model.base_model.model.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )
        layer, seen = model.base_model.model.model.layers[0].self_attn.q_proj, []
        layer.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        torch.manual_seed(7)  # the same dropout masks: they are kept for the second forward
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        assert len(seen) == 1 + checkpointing
        gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        results.append((loss, gradients))
    (loss, gradients), (loss_again, gradients_again) = results
    assert torch.equal(loss, loss_again)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, gradients_again[name], msg=name)


def test_reentrant_checkpointing_is_refused_where_it_would_lose_the_balance_gradient(method, ids):
    if not method.routed:
        pytest.skip("no balance loss to lose")
    model = adapted(method).train()
    model.base_model.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant=False"):
        model(input_ids=ids, labels=ids)


def test_generate_with_a_cache_equals_generate_without(method, ids):
    model = adapted(method)
    made = [
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False,
                       use_cache=cache, eos_token_id=None, pad_token_id=259)
        for cache in (True, False)
    ]  # fmt: skip
    assert made[0].shape[1] == ids.shape[1] + 8
    assert torch.equal(*made)


def test_a_deep_copy_after_training_is_its_own_model(method, ids):
    model = train_steps(adapted(method), ids)
    copied = copy.deepcopy(model)
    wanted = model(ids).logits
    assert torch.equal(copied(ids).logits, wanted)
    train_steps(copied, ids)
    assert torch.equal(model(ids).logits, wanted)


def test_forward_changes_no_requires_grad(method, ids):
    model = adapted(method)
    before = [p.requires_grad for p in model.parameters()]
    model.train()(input_ids=ids, labels=ids)
    model.eval()(input_ids=ids)
    assert [p.requires_grad for p in model.parameters()] == before


def test_a_routed_method_refuses_to_merge_and_lora_merges(method, ids):
    model = adapted(method)
    wanted = model(ids).logits
    if method.routed:
        with pytest.raises(ValueError, match="cannot be merged"):
            model.merge_and_unload()
    else:
        torch.testing.assert_close(model.merge_and_unload()(ids).logits, wanted, rtol=1e-4, atol=1e-4)


def test_each_row_of_a_batch_is_routed_by_its_own_tokens(method, ids):
    model = adapted(method)
    together = model(ids).logits
    for i in range(len(ids)):
        torch.testing.assert_close(together[i : i + 1], model(ids[i : i + 1]).logits, rtol=1e-4, atol=1e-5)
