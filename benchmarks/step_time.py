"""Time of a training step of each method relative to PEFT's LoRA: same base, rows, targets, rank and dtype.

    python benchmarks/step_time.py                              # the small model, bundled rows
    python benchmarks/step_time.py --model llama2_7b --layers 2 # layers of its dimensions, random weights and tokens
    python benchmarks/step_time.py --methods lora,mosld,lora+compile,mosld+compile

A step is forward, backward, clipping and AdamW. `lora` has no dropout here, `lora+dropout` has .05 on the input, as
`method=lora` and MoLA have; `lora+ffn` and `mixlora` adapt the feed-forward block alone. A compiled method stands
beside compiled LoRA where both are measured. The share of the peak counts `useful_operations` in wide_layers.py.
"""

from typing import Any

from side_by_side import arguments, in_turn, peak, ratio, report
from wide_layers import CASES, add_model, model_and_steps, stepper, useful_operations

from mosld.common.process import silence_libraries

METHODS = "lora,lora+dropout,mosl,mosld,mola,molora,hydralora,lora+ffn,mixlora"


def main() -> None:
    parser = arguments(__doc__)
    add_model(parser)
    parser.add_argument("--methods", default=METHODS, help="lora first; +compile compiles")
    parser.add_argument("--experts", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    silence_libraries()
    base, tokenizer, steps = model_and_steps(options, options.batch_size)
    pad = tokenizer.pad_token_id if tokenizer else 0

    def one(case: str) -> Any:
        name = case.removesuffix("+compile")
        method, settings = CASES.get(name, (name, {}))
        allocation = {} if method in ("lora", "mixlora") else {"allocation": options.experts}
        trained = stepper(base, method, pad, compiled=case.endswith("+compile"), **allocation, **settings)
        return lambda number: trained.step(steps[number], options.batch_size, 1e-4, number)

    seconds = in_turn({case: one(case) for case in options.methods.split(",")}, options.rounds)
    most, operations = peak(base.dtype), useful_operations(base, steps[-1])
    tokens = sum(len(row.tokens) for row in steps[-1])
    lines = []
    for case, times in seconds.items():
        name, plus, mode = case.partition("+compile")
        other = "lora+ffn" if name in ("lora+ffn", "mixlora") and "lora+ffn" in seconds else next(iter(seconds))
        other = next(beside for beside in (other + plus + mode, other) if beside in seconds)
        middle = sorted(times)[len(times) // 2]
        rates = {"tokens/s": tokens / middle, "share of peak": operations / middle / most}
        lines.append({"method": case, "seconds": middle, **rates, "beside": other, **ratio(times, seconds[other])})
    where = f"{options.layers} layers of {options.model}" if options.layers else options.model
    title = f"Seconds a training step: {where}, {options.batch_size} rows ({tokens} tokens), {str(base.dtype)[6:]}"
    report(title, lines, options.json, peak=most)


if __name__ == "__main__":
    main()
