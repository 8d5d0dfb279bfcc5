"""How rows lie in passes: which methods pack them, and that a step does not depend on it."""

import pytest
import torch

import mosld
from mosld.config.schema import TrainingConfig
from mosld.data.encoding import Example
from mosld.data.rows import Row
from mosld.distributed.processes import processes
from mosld.training.batching import BatchBuilder
from mosld.training.optim import make_optimizer, ready_to_train
from mosld.training.step import Stepper

PACKED = ["full", "lora", "molora", "sira", "mola", "mixlora", "mosl", "mosld", "mosld_b", "hydralora"]
DROPPING = ("lora", "mola", "mosld", "mosld_b")  # in training, another mask for another layout
CASES = [
    *((name, "auto", False) for name in PACKED),
    ("mosld", "sdpa", False),
    ("mosld", "auto", True),
    ("full", "auto", True),
]


def examples() -> list[Example]:
    row, generator = Row("arc_e", "row", "", "?", ("a", "b"), 0), torch.Generator().manual_seed(0)
    lengths = (5, 33, 9, 120, 34, 7, 60, 2)
    return [Example(row, torch.randint(1, 250, (n,), generator=generator).tolist(), n // 2) for n in lengths]


def stepper(method: str, attention: str = "auto", checkpointing: bool = False) -> Stepper:
    base = mosld.load_base("tiny", dtype="float32", attention=attention)[0]
    options = {"domains": ["arc_e", "b"]} if method == "moa" else {"dropout": 0.0} if method in DROPPING else {}
    model = ready_to_train(mosld.adapt(base, method, seed=0, **options), checkpointing)
    for module in model.modules():
        if method == "sira" and hasattr(module, "config"):
            module.config.gate_dropout = 0.0
    return Stepper(
        model, make_optimizer(model, TrainingConfig()), processes=processes(), pad_token_id=259, auxiliary_weight=0.01,
        domains=options.get("domains", ()),
    )  # fmt: skip


@pytest.mark.parametrize(("method", "packed"), [*((name, True) for name in PACKED), ("prefix", False), ("moa", False)])
def test_rows_are_packed_where_a_method_takes_them_token_by_token(method, packed):
    assert stepper(method).batches.packed == packed


def test_a_kernel_that_knows_nothing_of_packed_rows_is_given_padded_ones():
    model = mosld.load_base("tiny")[0]
    model.config._attn_implementation = "sdpa"
    assert not BatchBuilder(model, 0, (), torch.device("cpu")).packed


@pytest.mark.parametrize(("method", "attention", "checkpointing"), CASES)
def test_a_step_on_packed_rows_is_that_on_padded_ones(method, attention, checkpointing):
    found = []
    for packed in (True, False):
        taken = stepper(method, attention, checkpointing)
        taken.batches.packed, taken.batches.overhead = packed, 10**6  # in one pass, as packed
        steps = [taken.step(examples(), 8, 1e-2, number) for number in range(2)]
        found.append([(s.cross_entropy, s.auxiliary or 0.0, s.grad_norm) for s in steps])
    assert found[0] == [pytest.approx(step, rel=1e-4) for step in found[1]]


def test_a_packed_pass_computes_no_pad_and_a_padded_one_sees_none_as_a_token():
    layout = stepper("lora").batches
    (batch,) = layout.split(examples(), 8)
    assert layout.inputs(batch)["input_ids"].shape == (1, 270)
    layout.packed = False
    made = layout.inputs(batch)
    assert made["input_ids"].shape == (8, 120)
    assert int(made["attention_mask"].sum()) == 270
