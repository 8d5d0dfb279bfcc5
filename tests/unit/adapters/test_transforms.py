"""torch.func, second derivatives, torch.compile and low precision of the whole model: as PEFT's LoRA."""

import contextlib
from dataclasses import replace

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from peft import PeftModel
from torch._dynamo.utils import counters
from torch.func import functional_call, grad, jvp, vmap
from transformers import AutoModelForCausalLM

import mosld
from mosld.common.errors import UserError
from mosld.config.groups import method_config
from mosld.config.identity import uses_allocation
from tests.helpers.methods import LAYERS, Row, over, without_dropout

EXACT = {"rtol": 1e-9, "atol": 1e-9}  # float64; the base's norms and the routers compute in fp32
FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}


def close(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def fp32_rounding(gradient):
    """The bound of a gradient that passes a soft choice, which is fp32 and whose sums are ordered by the batch.

    About 8 roundings (softmax, norm, products) in each of 4 layers, forward and backward, each of 2^-24 of the largest
    entry.
    """
    return {"rtol": 0.0, "atol": 64 * 2.0**-24 * float(gradient.abs().max())}


@over(LAYERS)
def test_transforms_of_torch_func_equal_backward_and_each_other(row):
    model = without_dropout(row.adapted()).double().train()
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    inputs = row.inputs()

    def loss(weights, inputs):
        return functional_call(model, weights, (), inputs).loss

    def by_backward(inputs):
        model.zero_grad()
        model(**inputs).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    whole = by_backward(inputs)
    close(grad(loss)(weights, inputs), whole, **EXACT)
    rows = [{key: value[i : i + 1] for key, value in inputs.items()} for i in range(2)]
    per_row = vmap(grad(lambda w, one: loss(w, {key: value[None] for key, value in one.items()})), in_dims=(None, 0))
    for i, gradient in enumerate(zip(*per_row(weights, inputs).values(), strict=True)):
        for name, (ours, expected) in zip(
            weights, zip(gradient, by_backward(rows[i]).values(), strict=True), strict=True
        ):
            bound = fp32_rounding(expected) if row.name in ("comol", "moa") else {"rtol": 1e-6, "atol": 1e-7}
            torch.testing.assert_close(ours, expected, msg=lambda text, name=name: f"{name}: {text}", **bound)
    torch.manual_seed(3)
    direction = {name: torch.randn_like(weight) for name, weight in weights.items()}
    _, slope = jvp(lambda w: loss(w, inputs), (weights,), (direction,))
    expected = sum((whole[name] * direction[name]).sum() for name in whole)
    torch.testing.assert_close(slope.double(), expected, rtol=1e-4, atol=1e-5)

    def slope_of(weights):
        return sum((gradient * direction[name]).sum() for name, gradient in grad(loss)(weights, inputs).items())

    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(model(**inputs).loss, trained, create_graph=True)
    total = sum((gradient * direction[name]).sum() for name, gradient in zip(weights, gradients, strict=True))
    twice = torch.autograd.grad(total, trained, materialize_grads=True)
    close(grad(slope_of)(weights), dict(zip(weights, twice, strict=True)), **EXACT)


@over(LAYERS)
def test_batches_of_gradients_equal_one_at_a_time(row):
    model = without_dropout(row.adapted()).double()
    logits = model(row.inputs()["input_ids"]).logits[0, -1, :3]
    trained = [p for p in model.parameters() if p.requires_grad]
    options = {"retain_graph": True, "allow_unused": True}
    batched = torch.autograd.grad(logits, trained, torch.eye(3, dtype=logits.dtype), is_grads_batched=True, **options)
    for i in range(3):
        alone = torch.autograd.grad(logits[i], trained, **options)
        for ours, expected in zip(batched, alone, strict=True):
            if expected is not None:  # the routers of MoA have no gradient in eval mode
                bound = fp32_rounding(expected) if row.name == "comol" else EXACT
                torch.testing.assert_close(ours[i], expected, **bound)


def compiled_graphs(row, depth, training, backend):
    """The graphs and the breaks of a compiled forward of `depth` layers, which is compared with the eager one."""
    models = []
    for _ in range(2):
        base = row.base()
        base.model.layers = base.model.layers[:depth]
        models.append(row.adapted(base=base).train(training))
    compiled, eager = torch.compile(models[0], backend=backend), models[1]
    torch._dynamo.reset()
    counters.clear()
    inputs = row.inputs() if training else {"input_ids": row.inputs()["input_ids"]}
    results = []
    for model in (compiled, eager):
        torch.manual_seed(2)
        with contextlib.nullcontext() if training else torch.no_grad():
            results.append(model(**inputs))
        if training:
            results[-1].loss.backward()
    torch.testing.assert_close(results[0].logits, results[1].logits, **FLOAT32)
    for (name, ours), theirs in zip(models[0].named_parameters(), eager.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}", **FLOAT32)
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


@pytest.mark.slow
@over(LAYERS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_whole_model_compiles_without_breaks_in_its_layers(row, training):
    method = method_config(row.name, None, {})[0]
    if uses_allocation(method):
        row = replace(row, options={"allocation": 3})  # one number of experts for any depth
    # Dynamo alone makes and breaks the graphs; AOTAutograd, as slow again, sees backward once.
    shallow = compiled_graphs(row, 2, training, "aot_eager" if training else "eager")
    deep = compiled_graphs(row, 3, training, "eager")
    assert shallow == deep
    # MoA breaks the graph behind the last layer to keep the expert with the cache.
    assert deep <= ((3, 4) if row.domain and not training else (1, 0))


@over(LAYERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["base", "base and adapter", "cast", "autocast"])
def test_low_precision_trains_and_answers_up_to_its_rounding(row, dtype, kind, tmp_path):
    """The reference has the rounded weights in fp32. One token in another expert's hands is no rounding: a few are."""
    row.adapted().save_pretrained(tmp_path)
    base = row.base() if kind in ("cast", "autocast") else row.base().to(dtype)
    options = {"autocast_adapter_dtype": False} if kind == "base and adapter" else {}
    model = PeftModel.from_pretrained(base, tmp_path, is_trainable=True, **options)
    if kind == "cast":
        model.to(dtype)
    rounded = dtype if kind in ("base and adapter", "cast") else torch.float32
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {rounded}
    reference = PeftModel.from_pretrained(row.base(), tmp_path)
    reference.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    ids = row.inputs()["input_ids"]
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=kind == "autocast"):
        error = (model.eval()(ids).logits.float() - reference.eval()(ids).logits).abs()
    # Four layers with some ten rounded products each.
    assert error.median() < 40 * torch.finfo(dtype).eps * reference(ids).logits.std()
    with torch.autocast("cpu", dtype=dtype, enabled=kind == "autocast"):
        loss = model.train()(**row.inputs()).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() and p.grad.dtype == rounded for p in trained)
    assert any(p.grad.any() for name, p in model.named_parameters() if p.requires_grad)


@over(LAYERS)
@pytest.mark.parametrize("to_disk", [False, True])
def test_offloaded_models_answer_as_others_or_say_how(row, to_disk, tmp_path):
    inputs = {"input_ids": row.inputs()["input_ids"]}
    expected = row.adapted()(**inputs).logits

    def offloaded(**options):
        options["execution_device"] = torch.device("cpu")
        return disk_offload(row.adapted(), tmp_path, **options) if to_disk else cpu_offload(row.adapted(), **options)

    whole = offloaded(preload_module_classes=["MixtureLinear", "MixtureFeedForward"])
    assert torch.equal(whole(**inputs).logits, expected)
    try:
        logits = offloaded()(**inputs).logits
    except ValueError as error:
        assert row.routed
        assert "preload_module_classes" in str(error)  # noqa: PT017
    else:
        assert torch.equal(logits, expected)


def test_base_on_disk_is_refused_by_name_and_left_alone(tmp_path):
    row = Row("mixlora", {})
    row.base().save_pretrained(tmp_path / "base")
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", device_map={**places, "model.layers": "disk"}, offload_folder=tmp_path / "off"
    )
    expected = base(input_ids=row.inputs()["input_ids"]).logits
    with pytest.raises(UserError, match=r"on disk \(model\.layers\)"):
        mosld.adapt(base, "mixlora")
    assert torch.equal(base(input_ids=row.inputs()["input_ids"]).logits, expected)
