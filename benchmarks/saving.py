"""Saving an adapter: seconds, and bytes beyond those of its parameters.

    python benchmarks/saving.py [--rounds 5] [--json FILE]

Adapters of the small model, and of two layers of LLaMA-2-7B's dimensions at a rank that gives them about as many
parameters as MoSLD has on all 32 layers (13.9 million).
"""

import tempfile
from pathlib import Path
from typing import Any

from side_by_side import arguments, in_turn, report
from wide_layers import base_layers

import mosld
from mosld.adapters.load import adapter_size
from mosld.common.process import silence_libraries


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--wide", default="llama2_7b")
    parser.add_argument("--rank", type=int, default=144, help="of the wide adapters")
    parser.add_argument("--methods", default="lora,mosld,mola")
    flags = parser.parse_args()
    silence_libraries()
    rows = []
    places: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        (flags.model, lambda: mosld.load_base(flags.model)[0], {}),
        (f"2 layers of {flags.wide}", lambda: base_layers(2, flags.wide), {"rank": flags.rank, "alpha": flags.rank}),
    )
    for where, make, options in places:
        for method in flags.methods.split(","):
            spread: dict[str, Any] = {} if method == "lora" else {"allocation": 5}
            model = mosld.adapt(make(), method, **spread, **options)
            count = adapter_size(model)
            with tempfile.TemporaryDirectory() as folder:
                save = {"save": lambda _, model=model, folder=folder: model.save_pretrained(folder)}
                seconds = sorted(in_turn(save, flags.rounds)["save"])
                beyond = size(Path(folder)) - 4 * count
            line = {"model": where, "method": method, "parameters": count}
            rows.append({**line, "seconds": seconds[len(seconds) // 2], "bytes beyond 4 a parameter": beyond})
    report("Saving an adapter", rows, flags.json)


if __name__ == "__main__":
    main()
