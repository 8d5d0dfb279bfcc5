"""How a step grows with experts, rank and length, at LLaMA-2-7B's dimensions, beside LoRA's own growth.

    python benchmarks/growth.py [--experts 2,8,64] [--ranks 2,8,64] [--lengths 128,512,2048] [--json FILE]

One decoder layer of random weights; MoSLD with 5 experts of rank 8 where that is not what changes. Each column "growth"
is the time relative to the first of its kind; "to lora" relative to LoRA of the same rank and length.
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
    """Parse, measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="llama2_7b")
    parser.add_argument("--experts", type=numbers, default=[2, 8, 64])
    parser.add_argument("--ranks", type=numbers, default=[2, 8, 64])
    parser.add_argument("--lengths", type=numbers, default=[128, 512, 2048])
    parser.add_argument("--tokens", type=int, default=1024, help="of a step, where the length does not change")
    given = parser.parse_args()
    silence_libraries()
    base = base_layers(1, given.model)
    batch = rows(max(1, given.tokens // 256), min(256, given.tokens))
    found: list[dict[str, Any]] = []

    def compare(what: str, work: dict[tuple[str, int], Any]) -> None:
        """Time all sizes in turn, and add a line for each."""
        seconds = in_turn({f"{method} {size}": do for (method, size), do in work.items()}, given.rounds)
        first = {method: size for method, size in reversed(work)}
        for method, size in work:
            taken = seconds[f"{method} {size}"]
            line = {"what": what, "method": method, "size": size, "seconds": sorted(taken)[len(taken) // 2]}
            line["growth"] = ratio(taken, seconds[f"{method} {first[method]}"])["ratio"]
            lora = seconds.get(f"lora {size}", seconds[f"lora {first['lora']}"])
            found.append({**line, "to lora": ratio(taken, lora)["ratio"]})

    def step(method: str, examples: Any = None, **options: Any) -> Any:
        """A step of that method as a piece of work."""
        taken, examples = stepper(base, method, **options), examples or batch
        return lambda number: taken.step(examples, len(examples), 1e-4, number)

    experts: dict[tuple[str, int], Any] = {("lora", 1): step("lora", **PLAIN)}
    compare("experts", experts | {("mosld", n): step("mosld", allocation=n) for n in given.experts})
    ranks: dict[tuple[str, int], Any] = {("lora", r): step("lora", rank=r, **PLAIN) for r in given.ranks}
    compare("rank", ranks | {("mosld", r): step("mosld", rank=r, allocation=5) for r in given.ranks})
    lengths: dict[tuple[str, int], Any] = {("lora", n): step("lora", rows(1, n), **PLAIN) for n in given.lengths}
    compare("length", lengths | {("mosld", n): step("mosld", rows(1, n), allocation=5) for n in given.lengths})
    report(f"Growth of a training step: one layer of {given.model}, {str(base.dtype)[6:]}", found, given.json)


if __name__ == "__main__":
    main()
