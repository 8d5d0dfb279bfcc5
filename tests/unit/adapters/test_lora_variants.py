"""rsLoRA, DoRA and PiSSA as keys of method=lora, and the rank of lora_matched, against their formulas."""

import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear

import mosld
from mosld.adapters.load import load_adapter
from mosld.models.load import load_base
from tests.helpers.small_layers import ALPHA, RANK, assert_same, tokens

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [25, 26, 27, 28, 29, 30]])
VARIANTS = {
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "pissa": {"init": "pissa"},
    "all three": {"rslora": True, "dora": True, "init": "pissa"},
}


def first_layer(model):
    layer = next(m for m in model.modules() if isinstance(m, LoraLinear))
    return layer, layer.get_base_layer().weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight


def adapted(options, base=None):
    base = load_base("tiny")[0] if base is None else base
    return mosld.adapt(base, "lora", rank=RANK, alpha=ALPHA, dropout=0.0, dropout_on="none", seed=0, **options)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_equals_its_formula_in_forward_and_gradients(variant, tiny):
    options = VARIANTS[variant]
    model = adapted(options, tiny).double()
    layer, W, A, B = first_layer(model)
    torch.nn.init.normal_(B)
    x = tokens(2, 4, A.shape[1])
    scale = ALPHA / (RANK**0.5 if options.get("rslora") else RANK)
    leaves = {"A": A, "B": B, "x": x}
    weight = W + scale * B @ A
    if options.get("dora"):
        magnitude = layer.lora_magnitude_vector["default"].weight
        leaves["magnitude"] = magnitude
        # The paper's section 4.3: the norm counts as a constant in backward.
        weight = (magnitude / weight.detach().norm(dim=1)).unsqueeze(1) * weight
    theirs = torch.stack([weight @ token for token in x.flatten(0, 1)]).view(2, 4, -1)
    assert_same(layer(x), theirs, leaves, rtol=1e-9, atol=1e-9)


def test_pissa_takes_the_largest_singular_vectors_out_of_the_weight():
    whole = load_base("tiny")[0]
    frozen = dict(whole.named_parameters())
    model = adapted({"init": "pissa"})
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLinear):
            W = frozen[f"{name}.weight"].double()
            U, S, V = torch.linalg.svd(W, full_matrices=False)
            part = U[:, :RANK] * S[:RANK] @ V[:RANK]
            A, B = (getattr(layer, f"lora_{side}")["default"].weight.double() for side in "AB")
            torch.testing.assert_close(ALPHA / RANK * B @ A, part, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(layer.get_base_layer().weight.double(), W - part, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(IDS).logits, whole(IDS).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_variant_is_loaded_on_a_fresh_base(variant, tmp_path):
    model = adapted(VARIANTS[variant])
    _, _, A, _ = first_layer(model)
    torch.nn.init.normal_(A, std=0.1)
    model.save_pretrained(tmp_path)
    assert torch.equal(load_adapter(load_base("tiny")[0], tmp_path)(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("targets", ["qv", "attention", "ffn", "all"])
@pytest.mark.parametrize(("match", "allocation"), [("mosld", None), ("mosld", 2), ("mola", [1, 4])])
def test_no_other_rank_is_nearer_to_the_weights_of_the_mixture(match, allocation, targets):
    def trained(method, **options):
        model = mosld.adapt(load_base("tiny")[0], method, targets=targets, rank=4, **options)
        return model, sum(p.numel() for p in model.parameters() if p.requires_grad)

    top_k = {"top_k": 1} if allocation == [1, 4] else {}
    _, wanted = trained(match, allocation=allocation, **top_k)
    model, ours = trained("lora_matched", match=match, allocation=allocation)
    config = model.active_peft_config
    assert config.lora_alpha / config.r == pytest.approx(16 / 4)
    assert ours % config.r == 0
    assert abs(ours - wanted) <= ours // config.r / 2
