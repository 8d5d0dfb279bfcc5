"""Whether this device computes what the CPU does: methods, packed rows, recomputing, compile, 4 bits, resuming.

    python benchmarks/gpu_correctness.py [--checks gradients,packed,...] [--model smollm2_135m] [--json FILE]

A tiny model of random weights, all trained weights moved off their initial values, four rows of 9 to 31 tokens, no
dropout unless a check says so. An error is the norm of the difference by the norm of the reference, of the logits and
of all gradients together, whichever is larger:

gradients    each method in float32 and bfloat16 beside the CPU in float64: at most four times the CPU's own error in
             that dtype, or the floor of FLOORS; in bfloat16 with as many experts as a token takes, because rounding
             would choose others
packed       rows end to end beside padded rows
recomputing  gradient checkpointing beside none, with dropout
compiled     compiled layers beside eager ones
quantized    a base in nf4 or int8 beside the same weights dequantized
resumed      two steps, a checkpoint, and two more beside four steps: weights and moments bit by bit, with
             torch.use_deterministic_algorithms, and as torch chooses (not judged)
scores       the scores of --model in float32 beside those on CPU, item by item: the largest difference in nats, and no
             other choice

The table goes to a file in any case. Exit code 1 if a check fails.
"""

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from side_by_side import DEVICE, arguments, report
from torch import Tensor, nn

import mosld
from mosld.adapters.config import MosldConfig
from mosld.adapters.load import trained_parameters
from mosld.common.process import silence_libraries
from mosld.config.compose import load_config
from mosld.config.groups import model_config
from mosld.config.options import group_options
from mosld.config.schema import TrainingConfig
from mosld.data.dataset import load_dataset
from mosld.data.rows import Row
from mosld.data.tokens.encoding import Example, answer_tokens
from mosld.data.tokens.prompts import PromptEncoder
from mosld.distributed.processes import processes
from mosld.evaluation.multiple_choice import score_choices
from mosld.training.batching import BatchBuilder
from mosld.training.checkpoint import Progress, load_state, save_state
from mosld.training.compile import compile_layers
from mosld.training.optim import make_optimizer, ready_to_train
from mosld.training.step import Stepper

CPU = torch.device("cpu")
DOMAINS = ("arc_e", "csqa")
# With so few experts, a token takes all.
ALL_TAKEN: dict[str, dict[str, int]] = {
    "mixlora": {"experts": 2},
    **{method: {"allocation": 2} for method in ("sira", "mola", "mosl", "mosld", "mosld_b")},
    **{method: {"experts": 8} for method in ("smora", "flylora")},
}
# All but the authors' own settings, which differ in sizes.
METHODS = [name for name in group_options()["method"] if not name.endswith("_authors")]
FLOORS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
WIDE = {"hidden_size": 64, "intermediate_size": 128}  # bitsandbytes needs multiples of 64 on CPU

Result = dict[str, Tensor]
Check = tuple[str, float, float]  # what was compared, its error, the most that is right


def rows() -> list[Example]:
    """The longest first, of two tasks in turn."""
    generator = torch.Generator().manual_seed(0)
    return [
        Example(
            Row(DOMAINS[number % 2], str(number), "", "?", ("a", "b"), 0),
            torch.randint(0, 256, (length,), generator=generator).tolist(),
            length // 2,
        )
        for number, length in enumerate((31, 24, 17, 9))
    ]


def adapted(
    method: str, device: torch.device, dtype: torch.dtype = torch.float32, drop: bool = False, **options: Any
) -> Any:
    """The method on the tiny model, ready to train: the base in `dtype`, and what is trained in float32 or float64."""
    base = mosld.load_base("tiny", attention="sdpa", dtype="float32")[0]
    return cast(settled(base, method, drop, **options), method, dtype).to(device).train()


def settled(base: Any, method: str, drop: bool = False, **options: Any) -> Any:
    """The method on a base, with trained weights that are not their initial ones."""
    options |= {"domains": list(DOMAINS)} if method == "moa" else {}
    model = mosld.adapt(base, method, seed=0, **options)
    generator = torch.Generator().manual_seed(1)
    for weight in trained_parameters(model).values():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator).to(weight)
    for module in [] if drop else model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(config := getattr(module, "config", None), MosldConfig):
            config.dropout = config.gate_dropout = 0.0
    return model


def cast(model: Any, method: str, dtype: torch.dtype) -> Any:
    """The frozen weights in `dtype`; trained ones stay in float32 beside a base in bfloat16."""
    if dtype is torch.float64:
        # With the buffers, of which FlyLoRA's frozen A is one.
        return model.double()
    trained = {id(weight) for weight in trained_parameters(model).values()}
    for weight in model.parameters():
        if id(weight) not in trained and method != "full":
            weight.data = weight.data.to(dtype)
    return model


def forward_and_backward(model: Any, packed: bool | None = None, dtype: torch.dtype = torch.float32) -> Result:
    """Logits and gradients of the rows in one micro-batch, on CPU in float64."""
    device = next(model.parameters()).device
    batches = BatchBuilder(model, 259, DOMAINS if by_domain(model) else (), device)
    batches.packed = batches.packed if packed is None else packed
    count = torch.tensor(answer_tokens(rows()), device=device)
    whole = not hasattr(model, "peft_config") and dtype is torch.bfloat16
    with torch.autocast(device.type, dtype=dtype) if whole else nullcontext():
        outputs = model(**batches.inputs(rows()), num_items_in_batch=count, use_cache=False)
    outputs.loss.backward()
    gradients = {name: weight.grad for name, weight in trained_parameters(model).items() if weight.grad is not None}
    # Packed and padded rows have their logits in other places.
    logits = {"logits": outputs.logits} if packed is None else {"loss": outputs.loss}
    return {name: value.detach().to(CPU, torch.float64) for name, value in (logits | gradients).items()}


def by_domain(model: Any) -> bool:
    """Whether it is trained with the task of each row."""
    config = getattr(model, "active_peft_config", None)
    return isinstance(config, MosldConfig) and (config.router == "domain" or config.balance == "localised")


def error(ours: Result, theirs: Result) -> float:
    """The largest relative error, of the outputs and of all gradients together."""
    assert ours.keys() == theirs.keys()
    outputs = [name for name in theirs if name in ("logits", "loss")]
    groups = [names for names in (outputs, [name for name in theirs if name not in outputs]) if names]
    norms = [
        [torch.stack([value.norm() for value in values]).norm().item() for values in pair]
        for pair in (([ours[n] - theirs[n] for n in names], [theirs[n] for n in names]) for names in groups)
    ]
    return max(difference / norm for difference, norm in norms)


def gradients() -> Iterator[Check]:
    """Every method in two dtypes."""
    for method in METHODS:
        for dtype, floor in FLOORS.items():
            options = ALL_TAKEN.get(method, {}) if dtype is torch.bfloat16 else {}
            reference = forward_and_backward(adapted(method, CPU, torch.float64, **options))
            here, there = (
                error(forward_and_backward(adapted(method, device, dtype, **options), dtype=dtype), reference)
                for device in (DEVICE, CPU)
            )
            yield f"{method}, {str(dtype)[6:]}", here, max(4 * there, floor)


def packed() -> Iterator[Check]:
    """Packed beside padded rows."""
    for method in ("lora", "mosld", "mixlora"):
        ours, theirs = (forward_and_backward(adapted(method, DEVICE), packed=packed) for packed in (True, False))
        yield method, error(ours, theirs), FLOORS[torch.float32]


def recomputing() -> Iterator[Check]:
    """With gradient checkpointing and without."""
    for method in ("lora", "mosld", "mixlora"):
        results = []
        for checkpointing in (True, False):
            model = ready_to_train(adapted(method, DEVICE, drop=True), checkpointing)
            torch.manual_seed(7)
            results.append(forward_and_backward(model.train()))
        yield method, error(*results), FLOORS[torch.float32]


def compiled() -> Iterator[Check]:
    """Compiled beside eager layers."""
    for method in ("mosld", "mixlora"):
        eager, model = forward_and_backward(adapted(method, DEVICE)), adapted(method, DEVICE)
        compile_layers(model)
        yield method, error(forward_and_backward(model), eager), FLOORS[torch.float32]


def quantized() -> Iterator[Check]:
    """A quantized base beside the same weights dequantized."""
    if not importlib.util.find_spec("bitsandbytes"):
        return
    shape = {**model_config("tiny", {}).shape, **WIDE}
    for kind, most in (("nf4", 2e-2), ("int8", 5e-2)):
        results = []
        for change in (lambda base: base, lambda base: base.dequantize()):
            base = change(mosld.load_base("tiny", attention="sdpa", quantize=kind, shape=shape)[0])
            results.append(forward_and_backward(settled(base, "mosld").train()))
        yield kind, error(*results), most


def resumed() -> Iterator[Check]:
    """Four steps at once and in two runs."""

    def fresh() -> Stepper:
        model = adapted("mosld", DEVICE, torch.bfloat16, drop=True)
        return Stepper(
            model, make_optimizer(model, TrainingConfig()), processes=processes(), pad_token_id=259, max_norm=1.0,
        )  # fmt: skip

    def take(stepper: Stepper, steps: range) -> Stepper:
        for number in steps:
            stepper.step(rows(), 2, 1e-2, number)
        return stepper

    def state(stepper: Stepper) -> Result:
        tensors = (*stepper.engine.weights(), *stepper.engine.optimizer_state())
        return {name: value for name, value in tensors if value is not None}

    for name, deterministic, most in (("deterministic algorithms", True, 0.0), ("as torch chooses", False, torch.inf)):
        torch.use_deterministic_algorithms(deterministic)
        try:
            with tempfile.TemporaryDirectory() as folder:
                save_state(take(fresh(), range(2)).engine, Progress(step=2), Path(folder))
                again = fresh()
                load_state(again.engine, Path(folder))
            ours, theirs = state(take(again, range(2, 4))), state(take(fresh(), range(4)))
        finally:
            torch.use_deterministic_algorithms(False)
        yield name, max((ours[key] - theirs[key]).abs().max().item() for key in theirs), most


def scores(model_name: str, items: int = 100) -> Iterator[Check]:
    """The scores of a base model beside those on CPU."""
    config = load_config([f"model={model_name}", "model.dtype=float32", "data=single_arc_e", "source=bundled"])
    model, tokenizer = mosld.load_base(model_name, dtype="float32")
    test = load_dataset(config.data, config.source, training=False).tasks["arc_e"].test[:items]
    encoded = PromptEncoder(tokenizer, "cloze").encode(test)
    theirs, ours = (score_choices(model.to(device), encoded, tokenizer.pad_token_id, 1024) for device in (CPU, DEVICE))
    pairs = list(zip(ours, theirs, strict=True))
    yield f"other choices of {len(pairs)}", float(sum(a.prediction != b.prediction for a, b in pairs)), 0.0
    yield "scores, nats", max(abs(x - y) for a, b in pairs for x, y in zip(a.scores, b.scores, strict=True)), 1e-3


def main() -> int:
    parser = arguments(__doc__)
    checks: dict[str, Callable[[], Iterator[Check]]] = {
        check.__name__: check for check in (gradients, packed, recomputing, compiled, quantized, resumed)
    }
    parser.add_argument("--model", default="smollm2_135m", help="of the check `scores`")
    parser.add_argument("--checks", default=",".join([*checks, "scores"]))
    flags = parser.parse_args()
    checks["scores"] = lambda: scores(flags.model)
    silence_libraries()
    # cuBLAS is deterministic with a workspace of fixed size; it is read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    lines: list[dict[str, str]] = []

    def line(check: str, of: str, result: str, error: str = "", most: str = "") -> None:
        lines.append({"check": check, "of": of, "error": error, "at most": most, "result": result})

    for name in flags.checks.split(","):
        before = len(lines)
        try:
            for what, error, most in checks[name]():
                # NaN is above every bound.
                line(name, what, "pass" if error <= most else "FAIL", f"{error:.1e}", f"{most:.1e}")
        except Exception as failure:  # the other checks run, whatever this one ended with
            line(name, f"{type(failure).__name__}: {failure}".splitlines()[0], "FAIL")
        if len(lines) == before:
            line(name, "bitsandbytes is missing", "not run")
    failed = sum(one["result"] == "FAIL" for one in lines)
    report("This device beside the CPU", lines, flags.json, failed=failed)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
