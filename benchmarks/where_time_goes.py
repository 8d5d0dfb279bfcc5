"""Where the time of a training step goes, and what fraction of the machine's matrix peak it reaches.

    python benchmarks/where_time_goes.py [--method mosld] [--rounds 5] [--json FILE]

torch's profiler over whole steps of the default recipe. An operator's own time goes to the innermost part of the model
that it ran under; one of a backward pass to the part whose forward made its node.
"""

import re
import time
from collections import defaultdict
from typing import Any

from side_by_side import DEVICE, arguments, in_turn, matrix_peak, report
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from wide_layers import CASES, rows_of_steps, stepper

import mosld
from mosld.adapters.bank import Mixture
from mosld.adapters.router import Router
from mosld.common.process import silence_libraries

PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::linear"}
OTHER = "overhead of torch and Python"


def part_of(name: str, module: nn.Module) -> str | None:
    """The part that a module of the model is, for the table; None: that of the module around it."""
    kind = type(module).__name__
    if isinstance(module, Router):
        return "router"
    if isinstance(module, Mixture) or re.search(r"\.lora_[AB]\.", name):
        return "adapter"
    if kind.endswith("Attention"):
        return "attention"
    if kind.endswith("MLP"):
        return "activation of the feed-forward block"
    if "Norm" in kind:
        return "norms"
    if isinstance(module, nn.Linear):
        return "head" if name.endswith("lm_head") else "base matrix products"
    if kind.endswith("ForCausalLM"):
        return "loss"
    if kind.endswith(("DecoderLayer", "RotaryEmbedding", "Embedding")) or name.endswith("model"):
        return "residuals, embeddings, masks"
    return None


def mark(model: nn.Module) -> None:
    """Let every part announce itself to the profiler."""
    for name, module in model.named_modules():
        part = part_of(name, module)
        if part is not None:
            module.forward = _announced(module.forward, part)  # type: ignore[method-assign]


def _announced(forward: Any, part: str) -> Any:
    def inside(*args: Any, **kwargs: Any) -> Any:
        """The forward under the part's name."""
        with record_function(f"part: {part}"):
            return forward(*args, **kwargs)

    return inside


def shares(events: Any) -> dict[str, float]:
    """Microseconds of every part. Backward nodes carry the sequence number of the forward operator that made them."""
    owner: dict[int, str] = {}

    def part(event: Any) -> str | None:
        """The innermost part that an event ran under."""
        while event is not None:
            if event.name.startswith(("part: ", "Optimizer.step")):
                return event.name.removeprefix("part: ").split("#")[0]
            if event.name.startswith("autograd::engine::evaluate_function") and event.sequence_nr in owner:
                return owner[event.sequence_nr]
            event = event.cpu_parent
        return None

    for event in events:
        if event.sequence_nr >= 0 and not event.name.startswith("autograd::") and (name := part(event)):
            owner.setdefault(event.sequence_nr, name)
    microseconds: dict[str, float] = defaultdict(float)
    for event in events:
        microseconds[part(event) or OTHER] += (
            event.self_device_time_total if DEVICE.type == "cuda" else event.self_cpu_time_total
        )
    return microseconds


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--method", default="mosld")
    parser.add_argument("--batch-size", type=int, default=4)
    flags = parser.parse_args()
    silence_libraries()
    base, tokenizer = mosld.load_base(flags.model)
    method, options = CASES.get(flags.method, (flags.method, {}))
    taken = stepper(base.to(DEVICE), method, tokenizer.pad_token_id, **options)
    steps = rows_of_steps(flags.model, tokenizer, flags.batch_size, 2 * flags.rounds + 1)

    def step(number: int) -> None:
        """One optimiser step."""
        taken.step(steps[number], flags.batch_size, 1e-4, number)

    seconds = sorted(in_turn({"step": step}, flags.rounds)["step"])
    peak = matrix_peak(base.dtype)
    started = time.perf_counter()
    for rows in steps:
        taken.batches.inputs(rows)
    collating = (time.perf_counter() - started) / len(steps)
    mark(taken.model)
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (DEVICE.type == "cuda")
    with profile(activities=kinds) as profiled:
        for number in range(flags.rounds + 1, 2 * flags.rounds + 1):
            step(number)
    microseconds = shares(profiled.events())
    whole = sum(microseconds.values())
    rows = [
        {"part": name, "share": share / whole}
        for name, share in sorted(microseconds.items(), key=lambda item: -item[1])
    ]
    rows.append(
        {"part": "of which data (making the tensors), measured alone", "share": collating / seconds[len(seconds) // 2]}
    )
    linear = sum(
        m.weight.numel()
        for n, m in base.named_modules()
        if isinstance(m, nn.Linear) and ".layers." in n and "mosld" not in n
    )
    tokens = sum(len(row.tokens) for number in range(1, flags.rounds + 1) for row in steps[number])
    fraction = 4 * linear * tokens / sum(seconds) / peak
    report(
        f"A step of {flags.model} with {flags.method}, {flags.batch_size} rows, {str(base.dtype)[6:]}",
        rows, flags.json,
        seconds_a_step=seconds[len(seconds) // 2], tokens_a_step=tokens / flags.rounds, matrix_peak=peak,
        share_of_peak=fraction,
    )  # fmt: skip


if __name__ == "__main__":
    main()
