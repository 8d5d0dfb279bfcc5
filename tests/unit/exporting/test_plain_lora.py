"""An exported LoRA, loaded by PEFT alone, against the adapter that it is exported from; its GGUF file, read back."""

import json

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import mosld
from mosld.adapters.layers import MixtureFeedForward
from mosld.common.errors import UserError
from mosld.exporting.fitted_lora import fit_updates
from mosld.exporting.gguf_lora import check_architecture, write_gguf
from mosld.exporting.plain_lora import add_to_base, checked, expert_updates, lora_updates, write_lora
from tests.helpers.methods import BY_NAME
from tests.helpers.naive import pairs

SHARED = ("mosl", "mosld", "mosld_b", "hydralora")
OWN_A = ("molora", "mola", "mixlora")
RANK = 8


def rows(count=6, width=20, seed=3) -> list[dict]:
    """Batches of two rows; the second row of each ends in pads."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        mask = torch.ones(2, width, dtype=torch.long)
        mask[1, width // 2 :] = 0
        batches.append({"input_ids": torch.randint(0, 256, (2, width), generator=generator), "attention_mask": mask})
    return batches


@torch.no_grad()
def logits(model, batch):
    return model(**batch).logits[batch["attention_mask"].bool()]


def loaded(updates, folder, dtype=torch.float32) -> PeftModel:
    """The written LoRA on a fresh base, as PEFT loads it."""
    write_lora(updates, mosld.load_base("tiny")[0], "tiny", None, dtype, folder)
    return PeftModel.from_pretrained(mosld.load_base("tiny")[0], str(folder)).eval()


def moa_expert(model, expert):
    """The mixture of domains with one expert for every sequence: the others are copies of it."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            part = slice(expert * RANK, (expert + 1) * RANK)
            if name.endswith(".A"):
                weight.copy_(weight[part].repeat(weight.shape[0] // RANK, 1))
            elif name.endswith(".B"):
                weight.copy_(weight[:, part].repeat(1, weight.shape[1] // RANK))
    return model


@pytest.mark.parametrize(("method", "expert"), [("lora", 0), ("moa", 0), ("moa", 1)])
def test_exact_lora_has_the_logits_of_the_adapter(method, expert, tmp_path):
    model = BY_NAME[method].adapted()
    updates = checked(lora_updates(model) if method == "lora" else expert_updates(model, expert))
    if method == "moa":
        model = moa_expert(model, expert)
    batch = rows(1)[0]
    ours, theirs = logits(loaded(updates, tmp_path), batch), logits(model, batch)
    with model.disable_adapter():
        assert (logits(model, batch) - theirs).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    base = add_to_base(mosld.load_base("tiny")[0], updates)
    torch.testing.assert_close(logits(base, batch), theirs, atol=1e-4, rtol=1e-4)


def test_written_config_follows_the_rules_of_vllm(tmp_path):
    loaded(checked(lora_updates(BY_NAME["lora"].adapted())), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == RANK
    assert config["target_modules"] == ["q_proj", "v_proj"]
    expected = {"bias": "none", "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False}
    assert {key: config[key] for key in expected} == expected
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", "tiny")


def test_layers_of_lower_rank_are_padded_with_zeros(tmp_path):
    updates = lora_updates(BY_NAME["lora"].adapted())
    key = "model.layers.1.self_attn.q_proj"
    updates[key] = (updates[key][0][:3], updates[key][1][:, :3])
    model = loaded(checked(updates), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    A, B = (tensors[f"base_model.model.{key}.lora_{part}.weight"] for part in "AB")
    assert (A.shape[0], B.shape[1]) == (RANK, RANK)
    assert not A[3:].any()
    assert not B[:, 3:].any()
    assert torch.equal(B[:, :3] @ A[:3], updates[key][1] @ updates[key][0])
    assert model.peft_config["default"].r == RANK


def test_layers_that_are_not_adapted_stay_so(tmp_path):
    updates = lora_updates(BY_NAME["lora"].adapted())
    kept = {key: update for key, update in updates.items() if ".layers.2." in key}
    model = loaded(checked(kept), tmp_path)
    assert {key.split(".")[4] for key, _ in model.named_parameters() if "lora_A" in key} == {"2"}


def test_weights_that_are_not_finite_are_refused():
    updates = lora_updates(BY_NAME["lora"].adapted())
    key = next(iter(updates))
    updates[key][0].data[0, 0] = torch.nan
    with pytest.raises(UserError, match=f"{key}: .* diverged"):
        checked(updates)


@pytest.mark.parametrize("method", SHARED)
def test_fit_with_a_shared_a_is_least_squares_over_the_tokens_without_pads(method):
    model = BY_NAME[method].adapted()
    key = next(name for name, module in model.get_base_model().named_modules() if hasattr(module, "mosld_mixture"))
    layer = model.get_base_model().get_submodule(key)
    A, seen = layer.mosld_mixture["default"].A.detach(), []
    handle = layer.register_forward_hook(lambda layer, args, y: seen.append((args[0], y - layer.base_layer(args[0]))))
    batches = rows()
    for batch in batches:
        logits(model, batch)
    handle.remove()
    kept = [batch["attention_mask"].bool() for batch in batches]
    x, u = (torch.cat([pair[i][mask] for pair, mask in zip(seen, kept, strict=True)]).double() for i in (0, 1))
    expected = np.linalg.lstsq((x @ A.T.double()).numpy(), u.detach().numpy(), rcond=None)[0].T
    updates, errors = fit_updates(model, batches, batches, RANK)
    ours_A, ours_B = updates[key]
    assert torch.equal(ours_A, A)
    np.testing.assert_allclose(ours_B.numpy(), expected, atol=1e-4 * np.abs(expected).max())
    residual = u - x @ A.T.double() @ torch.tensor(expected).T
    assert errors[key] == pytest.approx((residual.norm() / u.norm()).item(), rel=1e-4)


@torch.no_grad()
def with_equal_experts(model):
    """The mixture with the first expert in place of all others: a plain LoRA, since its gates sum to 1."""
    for name, weight in model.named_parameters():
        if name.endswith(".A") and weight.shape[0] > RANK:
            weight.copy_(weight[:RANK].repeat(weight.shape[0] // RANK, 1))
        elif name.endswith(".B") and weight.shape[1] > RANK:
            weight.copy_(weight[:, :RANK].repeat(1, weight.shape[1] // RANK))
    return model


@pytest.mark.parametrize("method", [*SHARED, *OWN_A])
def test_fit_of_equal_experts_is_their_lora(method, tmp_path):
    model = with_equal_experts(BY_NAME[method].adapted())
    updates, errors = fit_updates(model, rows(20), rows(2, seed=4), RANK)
    assert max(errors.values()) < 1e-3
    batch = rows(1, seed=5)[0]
    torch.testing.assert_close(
        logits(loaded(checked(updates), tmp_path), batch), logits(model, batch), atol=2e-2, rtol=2e-2
    )


@pytest.mark.parametrize("method", OWN_A)
@pytest.mark.slow
def test_higher_rank_has_a_smaller_error(method):
    model = BY_NAME[method].adapted()
    fits = [fit_updates(model, rows(20), rows(20), rank) for rank in (2, 8, 16)]
    for key in fits[0][1]:
        if not key.endswith("down_proj"):  # its input changes with the fit of the other two
            low, middle, high = (errors[key] for _, errors in fits)
            assert 0 < high < middle < low < 1
            assert [updates[key][0].shape[0] for updates, _ in fits] == [2, 8, 16]


def test_block_becomes_three_linear_layers_and_a_single_lora_stays_itself():
    model = BY_NAME["mixlora"].adapted()
    updates, errors = fit_updates(model, rows(), rows(), 16)
    blocks = [module.key for module in model.modules() if isinstance(module, MixtureFeedForward)]
    assert {f"{key}.{part}_proj" for key in blocks for part in ("gate", "up", "down")} == set(errors)
    key = "model.layers.0.self_attn.q_proj"
    bank = model.get_base_model().get_submodule(key).mosld_mixture["default"]
    ((A, B),) = pairs(bank.A, bank.B, RANK, "none", 1)
    torch.testing.assert_close(updates[key][1] @ updates[key][0], 2 * B @ A)  # alpha 16


@pytest.mark.parametrize("method", ["lora", "mixlora"])
def test_gguf_read_back_holds_the_lora_in_llamas_layout(method, tmp_path):
    model = BY_NAME[method].adapted()
    base, _ = mosld.load_base("tiny")
    updates = checked(lora_updates(model) if method == "lora" else fit_updates(model, rows(), rows(), 16)[0])
    rank = max(A.shape[0] for A, _ in updates.values())
    write_gguf(updates, base.config, "an adapter", tmp_path / "adapter.gguf")
    reader = gguf.GGUFReader(tmp_path / "adapter.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    expected = {
        "general.architecture": "llama", "general.type": "adapter", "general.name": "an adapter",
        "adapter.type": "lora", "adapter.lora.alpha": rank,
    }  # fmt: skip
    assert {key: fields[key] for key in expected} == expected
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = {
        "q_proj": "attn_q",
        "v_proj": "attn_v",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
    }
    for key, (A, B) in updates.items():
        _, _, layer, _, last = key.split(".")
        ours = [tensors.pop(f"blk.{layer}.{names[last]}.weight.lora_{part}") for part in "ab"]
        assert all(tensor.tensor_type == gguf.GGMLQuantizationType.F32 for tensor in ours)
        assert [tuple(tensor.shape) for tensor in ours] == [(A.shape[1], rank), (rank, B.shape[0])]
        assert np.array_equal(ours[0].data, A.numpy())
        # Of a head, llama.cpp has rows 0, d/2, 1, d/2 + 1, ... where transformers has them in their order.
        heads = base.config.num_attention_heads if last == "q_proj" else 1
        half = B.shape[0] // heads // 2
        order = [head * 2 * half + i + second * half for head in range(heads) for i in range(half) for second in (0, 1)]
        theirs = B.numpy()[order] if last == "q_proj" else B.numpy()
        assert np.array_equal(ours[1].data, theirs)
    assert not tensors


def test_gguf_of_another_architecture_is_refused():
    with pytest.raises(UserError, match=r"as=gguf: a base of type phi3 is not supported; .*as=lora"):
        check_architecture("phi3")
