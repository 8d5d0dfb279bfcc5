"""How a step grows with experts, rank and length, at LLaMA-2-7B's dimensions, beside LoRA's own growth.

    python benchmarks/growth.py [--experts 2,8,64] [--ranks 2,8,64] [--lengths 128,512,2048] [--json FILE]

One decoder layer of random weights; MoSLD with 5 experts of rank 8 unless these change. "growth" is the time relative
to the first size, "to lora" relative to LoRA of the same rank and length.
"""

from typing import Any

from side_by_side import arguments, in_turn, ratio, report
from wide_layers import base_layers, rows, stepper

from mosld.common.process import silence_libraries

PLAIN = {"dropout": 0.0, "dropout_on": "none"}


def numbers(text: str) -> list[int]:
    """A list of numbers as an argument."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="llama2_7b")
    parser.add_argument("--experts", type=numbers, default=[2, 8, 64])
    parser.add_argument("--ranks", type=numbers, default=[2, 8, 64])
    parser.add_argument("--lengths", type=numbers, default=[128, 512, 2048])
    parser.add_argument("--tokens", type=int, default=1024, help="of a step, where the length does not change")
    options = parser.parse_args()
    silence_libraries()
    base = base_layers(1, options.model)
    batch = rows(max(1, options.tokens // 256), min(256, options.tokens))
    lines: list[dict[str, Any]] = []

    def compare(what: str, work: dict[tuple[str, int], Any]) -> None:
        seconds = in_turn({f"{method} {size}": do for (method, size), do in work.items()}, options.rounds)
        first = dict(reversed(work))
        for method, size in work:
            times = seconds[f"{method} {size}"]
            line = {"what": what, "method": method, "size": size, "seconds": sorted(times)[len(times) // 2]}
            line["growth"] = ratio(times, seconds[f"{method} {first[method]}"])["ratio"]
            lora = seconds.get(f"lora {size}", seconds[f"lora {first['lora']}"])
            lines.append({**line, "to lora": ratio(times, lora)["ratio"]})

    def step(method: str, examples: Any = None, **settings: Any) -> Any:
        one = stepper(base, method, **settings)
        examples = examples or batch
        return lambda number: one.step(examples, len(examples), 1e-4, number)

    experts: dict[tuple[str, int], Any] = {("lora", 1): step("lora", **PLAIN)}
    compare("experts", experts | {("mosld", n): step("mosld", allocation=n) for n in options.experts})
    ranks: dict[tuple[str, int], Any] = {("lora", r): step("lora", rank=r, **PLAIN) for r in options.ranks}
    compare("rank", ranks | {("mosld", r): step("mosld", rank=r, allocation=5) for r in options.ranks})
    lengths: dict[tuple[str, int], Any] = {("lora", n): step("lora", rows(1, n), **PLAIN) for n in options.lengths}
    compare("length", lengths | {("mosld", n): step("mosld", rows(1, n), allocation=5) for n in options.lengths})
    report(f"Growth of a training step: one layer of {options.model}, {str(base.dtype)[6:]}", lines, options.json)


if __name__ == "__main__":
    main()
