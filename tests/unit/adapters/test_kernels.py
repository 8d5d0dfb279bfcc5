"""The kernels against their plain formulas: values, gradients, what backward keeps, and when they are used."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import linear

from mosld.adapters import bank
from mosld.adapters.bank import Mixture
from mosld.adapters.config import MosldConfig
from mosld.adapters.kernels.dropout import dropout, keep_mask, keep_probability
from mosld.adapters.kernels.fused_linear import fused_linear
from mosld.adapters.kernels.grouped import expand_slots, sum_slots, up_by_expert, use_grouped_mm
from tests.helpers import naive
from tests.helpers.counting import Operators, saved_bytes
from tests.helpers.small_layers import assert_same, context, mixture, tokens

TIGHT = {"rtol": 1e-11, "atol": 1e-11}  # float64
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("p", [0.0001, 0.05, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("shape", [(1,), (3,), (4,), (3, 5, 7), (40, 12)])
def test_dropout_draws_the_mask_of_a_loop_with_the_same_generator(shape, p):
    x = torch.randn(shape, dtype=torch.float64)
    torch.manual_seed(7)
    expected = x * naive.dropout_mask(shape, p)
    state = torch.get_rng_state()
    torch.manual_seed(7)
    torch.testing.assert_close(dropout(x, p, training=True), expected, rtol=1e-15, atol=0)
    assert torch.equal(torch.get_rng_state(), state), "the next random numbers depend on it"


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.9])
def test_dropout_keeps_the_stated_share_and_the_mean(p):
    torch.manual_seed(0)
    assert abs(keep_probability(p) - (1 - p)) <= 2**-17
    y = dropout(torch.ones(1000, 2000, dtype=torch.float64), p, training=True)
    assert set(y.unique().tolist()) == {0.0, 1 / keep_probability(p)}
    deviation = (p * (1 - p) / y.numel()) ** 0.5
    assert abs((y != 0).double().mean().item() - keep_probability(p)) < 5 * deviation
    assert abs(y.mean().item() - 1) < 5 * deviation / keep_probability(p)


def test_dropout_drops_every_position_alike_and_independently():
    """Four words come out of each random number: neither their positions nor neighbours may differ."""
    torch.manual_seed(0)
    masks = torch.stack([keep_mask(torch.empty(16), 0.5) for _ in range(20_000)]).double()
    assert (masks.mean(0) - 0.5).abs().max() < 5 * 0.5 / 20_000**0.5
    assert (torch.corrcoef(masks.T) - torch.eye(16)).abs().max() < 5 / 20_000**0.5


def test_dropout_masks_of_one_seed_are_equal_and_successive_ones_independent():
    like = torch.empty(400, 500)
    torch.manual_seed(3)
    first, second = keep_mask(like, 0.5), keep_mask(like, 0.5)
    correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]).double())[0, 1]
    assert abs(correlation) < 5 / like.numel() ** 0.5
    torch.manual_seed(3)
    assert torch.equal(keep_mask(like, 0.5), first)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_dropout_masks_the_gradient_and_keeps_the_dtype(dtype):
    x = torch.randn(6, 7, dtype=dtype, requires_grad=True)
    torch.manual_seed(7)
    mask = naive.dropout_mask(x.shape, 0.3)
    torch.manual_seed(7)
    y = dropout(x, 0.3, training=True)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(x.grad, mask.to(dtype), rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)


def test_dropout_keeps_a_byte_per_element_for_backward():
    kept = []
    x = torch.randn(64, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        dropout(x, 0.1, training=True)
    assert [tensor.untyped_storage().nbytes() for tensor in kept if tensor.numel() > 1] == [x.numel()]


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True)])
def test_dropout_in_eval_or_of_nothing_draws_no_random_number(p, training):
    x, state = torch.randn(4), torch.get_rng_state()
    assert dropout(x, p, training) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_mask_on_the_meta_device_has_its_shape():
    mask = keep_mask(torch.empty(3, 5, device="meta"), 0.1)
    assert (mask.is_meta, mask.shape, mask.dtype) == (True, (3, 5), torch.int8)


@pytest.mark.parametrize("p", [1e-9, 1 - 1e-9])
def test_dropout_ratio_beyond_16_bits_is_rounded_and_finite(p):
    assert keep_probability(p) in (1 / 65536, 65535 / 65536)
    assert dropout(torch.ones(8), p, training=True).isfinite().all()


def weights(dtype=torch.float64):
    return [torch.randn(rows, 12, dtype=dtype, requires_grad=True) for rows in (5, 3, 7)]


def mask_of(x):
    return (torch.rand(x.shape) < 0.7).to(torch.int8)


def unmasked(matrices):
    return [(weight, None) for weight in matrices]


def leaves_of(x, matrices):
    return {"x": x} | {f"weight {i}": weight for i, weight in enumerate(matrices)}


@pytest.mark.parametrize("masked", [(), (0,), (2,), (0, 2), (0, 1, 2)])
def test_fused_linear_equals_linear_and_autograd(masked):
    x, matrices = tokens(), weights()
    masks = [mask_of(x) if i in masked else None for i in range(3)]
    ours = fused_linear(x, list(zip(matrices, masks, strict=True)))
    plain = [linear(x if mask is None else x * mask, weight) for weight, mask in zip(matrices, masks, strict=True)]
    assert_same(torch.cat(ours, -1), torch.cat(plain, -1), leaves_of(x, matrices), **TIGHT)


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_fused_linear_gives_frozen_inputs_no_gradient(frozen):
    x = torch.randn(2, 4, 12, dtype=torch.float64, requires_grad=frozen != "x")
    first, *others = weights()
    first.requires_grad_(frozen != "weight")
    torch.cat(fused_linear(x, unmasked([first, *others])), -1).sum().backward()
    assert (x.grad is None) == (frozen == "x")
    assert (first.grad is None) == (frozen == "weight")
    assert all(weight.grad is not None for weight in others)


def test_fused_linear_gives_unused_weights_a_gradient_of_zero():
    """Zero and not None: DDP needs no find_unused_parameters."""
    matrices = weights()
    fused_linear(tokens(), unmasked(matrices))[0].sum().backward()
    assert matrices[0].grad.any()
    assert not matrices[1].grad.any()


def test_fused_linear_of_a_bf16_input_computes_in_the_dtype_of_the_weights():
    x, matrices = torch.randn(2, 4, 12).bfloat16().requires_grad_(), weights(torch.float32)
    ours = fused_linear(x, unmasked(matrices))
    wide = x.float()
    plain = [linear(wide, weight) for weight in matrices]
    # Sums in fp32 that differ in the last digits may round to neighbours in bf16, which are 2^-7 apart at most.
    assert_same(torch.cat(ours, -1), torch.cat(plain, -1), leaves_of(x, matrices), rtol=1e-2, atol=1e-5)


def test_fused_linear_keeps_the_input_in_its_dtype_and_a_byte_per_masked_element():
    x, matrices = torch.randn(2, 64, 12).bfloat16().requires_grad_(), weights(torch.float32)
    with saved_bytes(nn.ParameterList(matrices)) as total:
        fused_linear(x, list(zip(matrices, [None, mask_of(x), None], strict=True)))
    assert total == [2 * x.numel() + x.numel()]


def test_fused_linear_under_autocast_is_linear_in_low_precision():
    x, (first, second, _) = tokens(dtype=torch.float32), weights(torch.float32)
    mask = mask_of(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = fused_linear(x, [(first, None), (second, mask)])
        plain = [linear(x, first), linear(x * mask, second)]
    assert [product.dtype for product in ours] == [torch.bfloat16] * 2
    assert_same(torch.cat(ours, -1), torch.cat(plain, -1), {"x": x, "first": first, "second": second})


def test_fused_linear_of_weights_of_two_dtypes_computes_in_each():
    low, high = torch.randn(5, 12).bfloat16(), torch.randn(3, 12)
    products = fused_linear(torch.randn(2, 4, 12, requires_grad=True), unmasked([low, high]))
    assert [product.dtype for product in products] == [torch.bfloat16, torch.float32]


def test_kernels_have_second_derivatives():
    x, matrices = tokens(1, 2), weights()
    mask = mask_of(x)
    assert torch.autograd.gradgradcheck(
        lambda x, *ws: torch.cat(fused_linear(x, [(ws[0], mask), *unmasked(ws[1:])]), -1), (x, *matrices)
    )
    assert torch.autograd.gradgradcheck(lambda x: sum_slots(expand_slots(x, 2) ** 3), x)


def test_kernels_work_under_functional_transforms():
    """Gradients of each row of a batch by vmap, against one row at a time."""
    layer = mixture(top_k=2)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, x_SI):
        update, _ = functional_call(layer, parameters, (x_SI[None], context()))
        return (expand_slots(update, 2) ** 2).sum() + sum_slots(expand_slots(update, 2)).sum()

    x = tokens(3).detach()
    per_row = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i, row in enumerate(x):
        for name, gradient in grad(loss)(parameters, row).items():
            torch.testing.assert_close(per_row[name][i], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_slots_are_expanded_and_summed_with_their_gradients(slots):
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert_same(expand_slots(x, slots), x.expand(slots, 3, 4), {"x": x}, **TIGHT)
    y = torch.randn(slots, 3, 4, dtype=torch.float64, requires_grad=True)
    assert_same(sum_slots(y), y.sum(0), {"y": y}, **TIGHT)


def test_slots_are_summed_without_torch_sum():
    x = torch.randn(3, 4, dtype=torch.bfloat16, requires_grad=True)
    with Operators() as counted:
        sum_slots(expand_slots(x, 2)).backward(torch.ones_like(x))
    assert counted.counts["sum"] == 0
    assert counted.counts["add"] == 2


def many_experts(share: str, k: int, router: str = "topk") -> Mixture:
    config = MosldConfig(
        r=32, alpha=8.0, experts=32, share=share, top_k=k, router=router, dropout=0.0, dropout_on="none"
    )
    torch.manual_seed(0)
    layer = Mixture(12, 20, 32, config)
    torch.nn.init.normal_(layer.B)
    return layer


@pytest.mark.parametrize("router", ["topk", "dense", "capacity"])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("share", ["A", "none"])
def test_grouped_product_equals_the_dense_one(share, k, router, monkeypatch):
    """With the router, so that every trained weight has the same gradient."""
    layer = many_experts(share, k, router)
    x = torch.randn(3, 7, 12, requires_grad=True)
    leaves = {"A": layer.A, "B": layer.B, "router": layer.router.weight, "x": x}
    assert use_grouped_mm(layer.B, 32, 32, k)
    ours = layer(x, context())[0]
    monkeypatch.setattr(bank, "use_grouped_mm", lambda *_: False)
    if k == 1 and router == "topk":  # its one gate is 1: no gradient reaches the router
        del leaves["router"]
    assert_same(ours, layer(x, context())[0], leaves, **FLOAT32)


def test_grouped_product_broadcasts_a_projection_that_slots_share():
    z, B = torch.randn(2, 5, 1, 32, 8, requires_grad=True), torch.randn(12, 32 * 8, requires_grad=True)
    gates = torch.nn.functional.one_hot(torch.randint(0, 32, (2, 5, 3)), 32).float()
    dense = linear((gates.unsqueeze(-1) * z).flatten(-2), B)
    assert_same(up_by_expert(z, gates, B, 2), dense, {"z": z, "B": B}, **FLOAT32)


def test_grouped_product_of_a_token_without_gates_is_zero():
    gates = torch.zeros(4, 32)
    gates[0, 3] = 1.0
    y = up_by_expert(torch.randn(4, 1, 8), gates, torch.randn(12, 32 * 8), 2)
    assert y[0].any()
    assert not y[1:].any()


@pytest.mark.parametrize(
    ("experts", "rank", "used"),
    [(5, 8, False), (16, 8, False), (32, 8, False), (64, 8, True), (64, 64, True), (85, 3, False)],
)
def test_grouped_product_is_used_where_it_was_measured_faster(experts, rank, used):
    assert use_grouped_mm(torch.empty(1), experts, rank, 2) is used
    assert not use_grouped_mm(torch.empty(1, device="meta"), experts, rank, 2), "measured on CPU alone"


def test_grouped_product_gives_experts_without_tokens_a_gradient_of_zero():
    layer = many_experts("A", 1)
    layer(torch.randn(1, 2, 12), context())[0].sum().backward()
    by_expert = layer.B.grad.unflatten(-1, (32, 32)).abs().sum((0, 2))
    assert (by_expert > 0).sum() <= 2
