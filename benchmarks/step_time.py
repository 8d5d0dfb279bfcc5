"""Time of a training step of each method relative to PEFT's LoRA: same base, rows, targets, rank and dtype.

    python benchmarks/step_time.py                              # the small model, bundled rows
    python benchmarks/step_time.py --model llama2_7b --layers 2 # layers of its dimensions, random weights and tokens
    python benchmarks/step_time.py --methods lora,mosld,lora+compile,mosld+compile

A step is forward, backward, clipping and AdamW. `lora` has no dropout here, `lora+dropout` has .05 on the input, as
`method=lora` and MoLA have; `lora+ffn` and `mixlora` adapt the feed-forward block alone. A compiled method stands
beside compiled LoRA where both are measured. The share of the peak counts `useful_operations` in wide_layers.py.
"""

from typing import Any

from side_by_side import DEVICE, arguments, in_turn, peak, ratio, report
from wide_layers import VOCABULARY, base_layers, rows, stepper, useful_operations

import mosld
from mosld.common.process import silence_libraries
from mosld.config.compose import load_config
from mosld.data.dataset import load_dataset
from mosld.data.mixing import Order
from mosld.data.tokens.encoding import Example, encode_train
from mosld.data.tokens.prompts import PromptEncoder

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"dropout": 0.0, "dropout_on": "none"}),
    "lora+dropout": ("lora", {}),
    "lora+ffn": ("lora", {"dropout": 0.0, "dropout_on": "none", "targets": "ffn"}),
    "mixlora": ("mixlora", {"plain_targets": "none"}),
}
METHODS = "lora,lora+dropout,mosl,mosld,mola,molora,hydralora,lora+ffn,mixlora"


def bundled_rows(model: str, tokenizer: Any, size: int, rounds: int) -> list[list[Example]]:
    """The rows of each step, out of the bundled mixture."""
    config = load_config([f"model={model}", "data=mixture", "source=bundled"])
    encoder = PromptEncoder(tokenizer, config.model.prompt)
    examples = encode_train(load_dataset(config.data, config.source).train, encoder, tokenizer.eos_token_id).examples
    order = Order((len(examples),), (len(examples),), size, seed=0)
    return [[examples[i] for i in order.rows(step)] for step in range(rounds + 1)]


def main() -> None:
    """Parse, measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--layers", type=int, help="so many layers of the model's dimensions, with random weights")
    parser.add_argument("--methods", default=METHODS, help="lora first; +compile compiles")
    parser.add_argument("--experts", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=256, help="tokens of a row, with --layers")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="of the head, with --layers")
    options = parser.parse_args()
    silence_libraries()
    if options.layers:
        base, pad = base_layers(options.layers, options.model, vocabulary=options.vocabulary), 0
        steps = [rows(options.batch_size, options.length)] * (options.rounds + 1)
    else:
        base, tokenizer = mosld.load_base(options.model)
        base, pad = base.to(DEVICE), tokenizer.pad_token_id
        steps = bundled_rows(options.model, tokenizer, options.batch_size, options.rounds)

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
