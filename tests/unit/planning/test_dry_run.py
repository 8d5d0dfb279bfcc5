"""The step in shapes alone against a real one on the tiny model: bytes that autograd saves, gradients, FLOPs."""

import dataclasses

import pytest
import torch

from mosld.adapters.adapt import adapt_with
from mosld.adapters.load import trained_parameters
from mosld.config.compose import load_config
from mosld.data.rows import Row
from mosld.data.tokens.encoding import Example
from mosld.models.load import load_model
from mosld.planning.dry_run import BatchShape
from mosld.planning.measure import _cost, _cost_of, measure_step
from mosld.training.batching import BatchBuilder
from mosld.training.optim import ready_to_train

ROWS, LENGTH, ANSWER = 3, 40, 5
METHODS = ["lora", "mosld", "mola", "mixlora", "sira", "moa", "full", "prefix"]


def config_of(method, checkpointing=False, more=(), micro_batch_size=ROWS):
    sizes = [f"training.batch_size={ROWS}", f"training.micro_batch_size={micro_batch_size}"]
    checkpoint = f"training.gradient_checkpointing={str(checkpointing).lower()}"
    return load_config(["model=tiny", f"method={method}", checkpoint, *sizes, *more])


def saved_in_a_real_step(config):
    """Bytes of all storages that autograd's hooks see, those of the weights left out."""
    model = adapt_with(load_model(config.model)[0], config.method, config.allocation, seed=0)
    ready_to_train(model, config.training.gradient_checkpointing).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved, kept = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and storage.nbytes():
            saved[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)  # so that no address is used twice
        return tensor

    domains = config.method.domains or ()
    row = Row(domains[0] if domains else "", "", "", "", (), 0)
    examples = [Example(row, list(range(LENGTH)), LENGTH - ANSWER)] * ROWS
    items, layout = torch.tensor(ROWS * ANSWER), BatchBuilder(model, 259, domains, torch.device("cpu"))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**layout.inputs(examples), num_items_in_batch=items, use_cache=False).loss
    loss.backward()
    gradients = sum(p.grad.numel() * p.grad.element_size() for p in trained_parameters(model).values())
    return sum(saved.values()), gradients


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_saved_bytes_equal_those_that_autograd_saves(method):
    config = config_of(method)
    real, gradients = saved_in_a_real_step(config)
    cost = measure_step(config, LENGTH, ANSWER, gpus=0).plain
    assert cost.gradients == gradients
    assert cost.saved == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["mosld", "full"])
@pytest.mark.slow
def test_cost_of_a_deep_model_is_extrapolated_from_two_shallow_ones(method, checkpointing):
    config = config_of(method, more=["model.shape.num_hidden_layers=20"])
    batch = BatchShape(ROWS, LENGTH, ANSWER)
    foretold, found = (cost(config, True, checkpointing, batch) for cost in (_cost, _cost_of))
    assert dataclasses.replace(foretold, peak=found.peak) == found
    assert foretold.peak == pytest.approx(found.peak, rel=0.002)


@pytest.mark.slow
def test_checkpointing_saves_less_and_multiplies_more():
    found = measure_step(config_of("mosld"), LENGTH, ANSWER, gpus=0)
    assert found.saving.saved < found.plain.saved / 3
    assert found.saving.flops > 1.2 * found.plain.flops
    assert found.saving.forward_flops == found.plain.forward_flops


def test_forward_flops_of_a_frozen_base_are_two_per_weight_and_token():
    """Two a weight and token forward; twice that with the gradient of the input, which the first layer needs not."""
    found = measure_step(config_of("lora"), LENGTH, 1, gpus=0)
    tokens, depth, hidden, inner, heads = ROWS * LENGTH, 4, 32, 48, 4
    weights = depth * (hidden * hidden * 2 + hidden * hidden // 2 * 2 + 3 * hidden * inner)
    lora = depth * 8 * (hidden + hidden + hidden + hidden // 2)
    attention = 2 * depth * heads * LENGTH * (hidden // heads)
    head = 260 * hidden / LENGTH
    assert found.plain.forward_flops / tokens == pytest.approx(2 * (weights + lora + attention + head), rel=0.01)


def test_full_fine_tuning_takes_three_times_its_forward_flops():
    cost = measure_step(config_of("full"), LENGTH, ANSWER, gpus=0).plain
    assert cost.flops == pytest.approx(3 * cost.forward_flops, rel=0.02)


@pytest.mark.parametrize(("asked", "rows", "peak_has_gradients"), [(3, 3, False), (1, 1, True)])
def test_peak_includes_gradients_of_earlier_micro_batches(asked, rows, peak_has_gradients):
    found = measure_step(config_of("full", micro_batch_size=asked), LENGTH, ANSWER, gpus=0)
    assert found.rows == rows
    cost = found.plain
    assert (cost.peak >= cost.saved + cost.gradients) is peak_has_gradients


@pytest.mark.slow
def test_gpu_saves_less_of_attention_and_dropout_than_cpu():
    on_cpu, on_gpu = (measure_step(config_of("lora"), 128, ANSWER, gpus=gpus).plain for gpus in (0, 1))
    assert on_gpu.saved < on_cpu.saved
