"""Step time of each method beside PEFT's LoRA: same base, rows, targets, rank and type, in turn in one process.

    python benchmarks/step_time.py                              # the small model, bundled rows
    python benchmarks/step_time.py --model llama2_7b --layers 2 # layers of its dimensions, random weights and tokens
    python benchmarks/step_time.py --methods lora,mosld,mosld+compile

A step is forward, backward, clipping and AdamW. `lora` has no dropout here, `lora+dropout` has .05 on the input, as
`method=lora` and MoLA have; `lora+ffn` and `mixlora` adapt the feed-forward block alone.
"""

from typing import Any

from side_by_side import DEVICE, arguments, in_turn, ratio, report
from wide_layers import base_layers, rows, stepper

import mosld
from mosld.common.process import silence_libraries
from mosld.config.compose import load_config
from mosld.data.dataset import load_dataset
from mosld.data.encoding import Example, encode_train
from mosld.data.mixing import Order
from mosld.data.prompts import PromptEncoder

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
    given = parser.parse_args()
    silence_libraries()
    if given.layers:
        base, pad = base_layers(given.layers, given.model), 0
        steps = [rows(given.batch_size, given.length)] * (given.rounds + 1)
    else:
        base, tokenizer = mosld.load_base(given.model)
        base, pad = base.to(DEVICE), tokenizer.pad_token_id
        steps = bundled_rows(given.model, tokenizer, given.batch_size, given.rounds)

    def one(case: str) -> Any:
        name = case.removesuffix("+compile")
        method, options = CASES.get(name, (name, {}))
        spread = {} if method in ("lora", "mixlora") else {"allocation": given.experts}
        taken = stepper(base, method, pad, compiled=case.endswith("+compile"), **spread, **options)
        return lambda number: taken.step(steps[number], given.batch_size, 1e-4, number)

    seconds = in_turn({case: one(case) for case in given.methods.split(",")}, given.rounds)
    found = []
    for case, taken in seconds.items():
        other = "lora+ffn" if case in ("lora+ffn", "mixlora") and "lora+ffn" in seconds else next(iter(seconds))
        found.append({"method": case, "seconds": sorted(taken)[len(taken) // 2], "beside": other})
        found[-1] |= ratio(taken, seconds[other])
    where = f"{given.layers} layers of {given.model}" if given.layers else given.model
    tokens = sum(len(row.tokens) for row in steps[-1])
    title = f"Seconds a training step: {where}, {given.batch_size} rows ({tokens} tokens), {str(base.dtype)[6:]}"
    report(title, found, given.json)


if __name__ == "__main__":
    main()
