"""training.compile: compiled layers train like eager ones and keep their names; scoring is eager; refused options."""

import getpass
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

import mosld
from mosld.adapters.load import trained_parameters
from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.training.compile import compile_layers, uncompiled
from mosld.training.step import Stepper
from tests.helpers.toy_runs import examples_of, stepper_of

pytestmark = pytest.mark.slow

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler on CPU")

OPTIONS: dict[str, dict[str, Any]] = {
    "mosld": {"allocation": 4, "dropout": 0.3},
    "mola": {"allocation": 4, "dropout": 0.3},
}


@pytest.fixture(autouse=True)
def cache(monkeypatch):
    """One inductor cache per instruction set: kernels cached under AVX-512 give NaN with ATEN_CPU_CAPABILITY=avx2."""
    name = f"mosld_inductor_{getpass.getuser()}_{torch.backends.cpu.get_cpu_capability()}"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / name))


def make_stepper(compiled: bool, method: str) -> Stepper:
    torch.manual_seed(0)
    model = mosld.adapt(mosld.load_base("tiny")[0], method, seed=0, **OPTIONS[method])
    if compiled:
        said = []
        compile_layers(model, said.append)
        assert said == ["4 layers are compiled in the first steps, which take long"]
    return stepper_of(model)


@needs_compiler
@pytest.mark.timeout(1200)  # the C++ compiler takes most of it
@pytest.mark.parametrize("method", OPTIONS)
def test_compiled_steps_equal_eager_steps_up_to_rounding(method):
    """Lengths change from step to step, dropout draws the same masks, and names are the same."""
    eager, compiled = make_stepper(False, method), make_stepper(True, method)
    torch._dynamo.utils.counters.clear()
    for number, lengths in enumerate([(9, 12), (21, 30), (14, 17, 19)]):
        ours, theirs = (s.step(examples_of(*lengths), 3, 1e-2, number) for s in (compiled, eager))
        assert ours.cross_entropy == pytest.approx(theirs.cross_entropy, rel=1e-4)
        assert ours.auxiliary == pytest.approx(theirs.auxiliary, rel=1e-4)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-3)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2, "layers share code; so do lengths"
    trained = trained_parameters(compiled.model)
    assert list(trained) == list(trained_parameters(eager.model))
    assert list(compiled.model.state_dict()) == list(eager.model.state_dict())
    ids = {"input_ids": torch.tensor([[5, 6, 7]])}
    weights = {name: weight.detach().clone() for name, weight in trained.items()}
    with torch.inference_mode(), uncompiled(True):
        scored = compiled.model.eval()(**ids).logits
    eager.model.load_state_dict(weights, strict=False)
    assert torch.equal(scored, eager.model.eval()(**ids).logits)


def test_model_without_decoder_layers_is_rejected():
    with pytest.raises(UserError, match="no decoder layers"):
        compile_layers(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["training.gradient_checkpointing=true"], "gradient_checkpointing=true"),
        (["method=prefix"], "method.kind=prefix"),
        (["method=moa"], "method.router=domain"),
    ],
)
def test_compile_is_rejected_with_unsupported_options_before_a_model_loads(overrides, reason):
    with pytest.raises(UserError, match=f"training.compile=true: cannot be combined with {reason}"):
        load_config(["training.compile=true", *overrides])


def test_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="no C\\+\\+ compiler no-such-compiler is on the path"):
        load_config(["training.compile=true"])
