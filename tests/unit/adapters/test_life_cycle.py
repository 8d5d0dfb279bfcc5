"""What PEFT lets a user do with an adapter: take it off, delete, load and cast it, and have several at once."""

import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy
from transformers.pytorch_utils import Conv1D

import mosld
from mosld.adapters import MosldConfig
from mosld.common.errors import UserError
from tests.helpers.methods import BY_NAME, IDS, ROUTED, Row, over

INPUT = torch.tensor(IDS)
VOTE = Row("moa", {"domains": ["a", "b"], "inference": "vote"}, domain=True)
MIXTURES = [*ROUTED, VOTE]


def state_of(model: nn.Module) -> tuple:
    """What an adapter must not leave on a base: names, hooks, what is trained, settings."""
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    kinds = [type(module) for module in model.modules()]
    return hooks, trained, kinds, "generate" in vars(model), model.config.to_dict(), hasattr(model, "peft_config")


@over(MIXTURES)
def test_unload_restores_the_base_again_and_again(row, tmp_path):
    row.adapted().save_pretrained(tmp_path)
    base = row.base()
    logits, before = base(INPUT).logits, state_of(base.requires_grad_(False))
    for _ in range(2):
        base = PeftModel.from_pretrained(base, tmp_path).unload()
        assert torch.equal(base(INPUT).logits, logits)
        assert state_of(base) == before


@over(MIXTURES)
def test_an_adapter_is_deleted_and_loaded_again_under_its_name(row, tmp_path):
    alone = row.adapted()
    alone.save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(row.base(), tmp_path, adapter_name="foobar")
    model.load_adapter(tmp_path, "foo")
    for name in ("foo", "foobar"):
        model.delete_adapter(name)
        model.load_adapter(tmp_path, name)
        model.set_adapter(name)
        assert torch.equal(model.eval()(INPUT).logits, alone(INPUT).logits)


@over(MIXTURES)
def test_a_second_load_on_the_same_base_replaces_the_first(row, tmp_path):
    alone = row.adapted()
    alone.save_pretrained(tmp_path)
    base = row.base()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            model = PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(model.eval()(INPUT).logits, alone(INPUT).logits)


@pytest.mark.parametrize("first", ["lora", "mosld", "mixlora", "prefix"])
@pytest.mark.parametrize("second", ["mosld", "mixlora", "lora", "full"])
def test_adapt_refuses_a_model_that_carries_an_adapter(first, second):
    model = BY_NAME[first].adapted()
    bases = [model] if first == "prefix" else [model, model.get_base_model()]
    for base in bases:
        logits, before = model(INPUT).logits, state_of(base)
        with pytest.raises(UserError, match=f"method={second}: the model carries an adapter already; .*unload"):
            mosld.adapt(base, second)
        assert state_of(base) == before
        assert torch.equal(model(INPUT).logits, logits)


@pytest.mark.filterwarnings("ignore:.*peft_config:UserWarning")  # PEFT's, where the base has an adapter
@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "embed_tokens"], r"model\.embed_tokens is a Embedding; only nn.Linear"),
        (["q_proj", "conv"], r"layers\.3\.self_attn\.conv is a Conv1D; only nn.Linear"),
        (["q_proj", "k_proj"], r"layers\.1\.self_attn\.k_proj carries an adapter already"),
        (["q_proj", "mlp"], r"layers\.2\.mlp carries an adapter already"),
        (["nothing"], "not found in the base model"),
    ],
)
def test_refused_targets_leave_the_model_untouched(targets, message, tiny):
    tiny.model.layers[3].self_attn.conv = Conv1D(8, 8)
    lora = LoraConfig(target_modules=["layers.1.self_attn.k_proj", "layers.2.mlp.up_proj"], init_lora_weights=False)
    base = get_peft_model(tiny, lora).get_base_model() if "carries" in message else tiny
    logits, before = base(INPUT).logits, state_of(base)
    with pytest.raises(ValueError, match=message):
        get_peft_model(base, MosldConfig(target_modules=targets))
    assert state_of(base) == before
    assert torch.equal(base(INPUT).logits, logits)


def test_a_second_adapter_that_is_refused_leaves_the_first(tiny):
    model = mosld.adapt(tiny, "mosld", seed=0)
    before = state_of(model)
    with pytest.raises(ValueError, match="embed_tokens is a Embedding"):
        model.add_adapter("second", MosldConfig(target_modules=["q_proj", "embed_tokens"]))
    assert state_of(model) == before
    assert list(model.peft_config) == ["default"]


@over([BY_NAME["mosld"], BY_NAME["moa"], BY_NAME["mixlora"]])
def test_one_adapter_for_each_row_is_refused(row):
    model = row.adapted()
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="adapter_names"):
            call(input_ids=INPUT, adapter_names=["default", "__base__"])


@over(MIXTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_made_on_the_meta_device_load_as_others(row, dtype, tmp_path):
    alone = row.adapted()
    alone.save_pretrained(tmp_path)
    logits = PeftModel.from_pretrained(row.base().to(dtype), tmp_path).eval()(INPUT).logits
    model = PeftModel.from_pretrained(row.base().to(dtype), tmp_path, low_cpu_mem_usage=True).eval()
    model.load_adapter(tmp_path, "second", low_cpu_mem_usage=True)
    for name in ("default", "second"):
        model.set_adapter(name)
        assert torch.equal(model(INPUT).logits, logits)
    assert {weight.dtype for name, weight in model.named_parameters() if "mosld_" in name} == {torch.float32}


@over(MIXTURES)
def test_weights_take_the_dtype_of_the_base_where_the_user_asks_for_it(row, tmp_path):
    row.adapted().save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(row.base().bfloat16(), tmp_path, autocast_adapter_dtype=False)
    model.add_adapter("second", model.peft_config["default"], autocast_adapter_dtype=False)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    cast = PeftModel.from_pretrained(row.base(), tmp_path).bfloat16()
    assert torch.equal(model.eval()(INPUT).logits, cast.eval()(INPUT).logits)


@over([BY_NAME["mosld"], BY_NAME["moa"], BY_NAME["mixlora"]])
@pytest.mark.parametrize("saved", [["norm"], ["embed_tokens"], ["lm_head"]])
def test_modules_to_save_are_the_adapter_s_own(row, saved, tmp_path):
    """The tiny model's head is tied to its embedding."""
    row.adapted().save_pretrained(tmp_path / "plain")
    config = row.adapted().peft_config["default"]
    config.inference_mode, config.modules_to_save = False, saved
    model = get_peft_model(row.base(), config)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval().save_pretrained(tmp_path / "with")
    loaded = PeftModel.from_pretrained(row.base(), tmp_path / "with")
    assert torch.equal(loaded.eval()(INPUT).logits, model(INPUT).logits)
    with loaded.disable_adapter():
        assert torch.equal(loaded(INPUT).logits, row.base()(INPUT).logits)
    loaded.load_adapter(tmp_path / "plain", "plain")
    loaded.set_adapter("plain")
    assert torch.equal(loaded.eval()(INPUT).logits, row.adapted()(INPUT).logits)
    trainable = PeftModel.from_pretrained(row.base(), tmp_path / "with", is_trainable=True)
    assert any(parameter.requires_grad and saved[0] in name for name, parameter in trainable.named_parameters())


def test_options_of_peft_choose_the_layers(tiny, tmp_path):
    options = {"target_modules": {"v_proj", "q_proj"}, "layers_to_transform": [1, 2], "layers_pattern": "layers"}
    model = get_peft_model(
        tiny, MosldConfig(experts=[2, 3, 4, 5], top_k=2, exclude_modules=["layers.2.self_attn.v_proj"], **options)
    )
    sizes = {
        name.partition(".layers.")[2]: len(weight) for name, weight in model.named_parameters() if "router" in name
    }
    assert {name.partition(".mosld")[0]: size for name, size in sizes.items()} == {
        "1.self_attn.q_proj": 3,
        "1.self_attn.v_proj": 3,
        "2.self_attn.q_proj": 4,
    }
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["target_modules"] == ["q_proj", "v_proj"]
    assert saved["layers_to_transform"] == [1, 2]
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == 3 * 3


@pytest.mark.parametrize("method", ["mosld", "moa", "mixlora"])
def test_an_untrained_adapter_changes_the_base_only_without_init_weights(method):
    row = BY_NAME[method]
    base = row.base()(INPUT).logits
    for init_weights in (True, False):
        config = row.adapted(trained=False).peft_config["default"]
        config.init_weights = init_weights
        assert torch.equal(get_peft_model(row.base(), config).eval()(INPUT).logits, base) is init_weights


@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, 0.0), (0.5, 2.0)])
def test_each_active_adapter_adds_its_own_balance_loss_in_any_order(weights, tiny):
    """The routers read the input of the first layer, which no adapter changes."""
    options = {"target_modules": ["layers.0.self_attn.q_proj"], "dropout": 0.0, "init_weights": False, "top_k": 1}
    torch.manual_seed(0)
    model = get_peft_model(tiny, MosldConfig(experts=3, balance_weight=weights[0], **options), adapter_name="a")
    model.add_adapter("b", MosldConfig(experts=4, balance_weight=weights[1], **options))
    model.train()
    alone = []
    for name in "ab":
        model.set_adapter(name)
        alone.append(model(input_ids=INPUT, labels=INPUT).aux_loss)
    for active in (["a", "b"], ["b", "a"]):
        model.base_model.set_adapter(active)
        outputs = model(input_ids=INPUT, labels=INPUT)
        added = outputs.loss - cross_entropy(outputs.logits[:, :-1].flatten(0, 1), INPUT[:, 1:].flatten())
        torch.testing.assert_close(added, weights[0] * alone[0] + weights[1] * alone[1], rtol=1e-5, atol=2e-6)


@over(MIXTURES)
def test_a_batch_of_pads_alone_has_loss_0_and_finite_gradients(row):
    model = row.adapted().train()
    inputs = row.inputs() | {"labels": torch.full_like(INPUT, -100), "attention_mask": torch.zeros_like(INPUT)}
    outputs = model(**inputs, num_items_in_batch=torch.tensor(5))
    outputs.loss.backward()
    assert outputs.loss == 0
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    assert (
        torch.tensor([sum(load.tolist()) for load in model.base_model.pop_load()["expert_load"].values()])
        .isfinite()
        .all()
    )
