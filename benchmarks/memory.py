"""Memory of a training step: what one adapted layer keeps for backward, and the peak of whole processes.

    python benchmarks/memory.py [--width 4096] [--tokens 2048] [--model smollm2_135m] [--json FILE]

Kept bytes are counted by autograd's own hooks, each storage once, without weights: of one linear layer of LLaMA-2-7B's
width under 5 experts of rank 8, beside PEFT's LoRA of that rank without dropout. Peaks are those of the second step of
8 rows of 256 tokens, in one process per method: of its resident size (Linux, /proc/self/clear_refs),
which holds the libraries and the weights, too; on an accelerator of what is allocated there.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from memory_model import KEEPS_NOTHING, second_step_peak
from peft import get_peft_model
from side_by_side import DEVICE, arguments, report
from torch import nn
from wide_layers import CASES, rows, stepper

import mosld
from mosld.adapters.adapt import peft_config
from mosld.common.process import silence_libraries
from mosld.config.groups import method_config

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.helpers.counting import saved_bytes

KEPT = ["lora", "lora+dropout", "mosl", "mosld", "mola", "molora", "sira", "hydralora"]


def kept(case: str, width: int, tokens: int, dtype: torch.dtype) -> int:
    """Bytes that one adapted linear layer keeps for backward, its input or a copy of it among them."""
    method, options = CASES.get(case, (case, {}))
    allocation: Any = None if method == "lora" else 5
    config = peft_config(*method_config(method, allocation, {**options, "targets": "qv"}))
    config.task_type, config.target_modules = None, ["q_proj"]
    layer = nn.ModuleDict({"q_proj": nn.Linear(width, width, bias=False, dtype=dtype)})
    model = get_peft_model(layer, config).to(DEVICE).train()
    x = torch.randn(1, tokens, width, dtype=dtype, device=DEVICE, requires_grad=True)
    with saved_bytes(model) as sizes:
        model.base_model.model["q_proj"](x)
    return sizes[0]


def peak(model: str, case: str) -> float:
    """Peak bytes of this process in the second of two steps."""
    base, tokenizer = mosld.load_base(model)
    method, options = CASES.get(case, (case, {}))
    taken = stepper(base.to(DEVICE), method, tokenizer.pad_token_id, **options)
    examples = rows(8, 256)
    return second_step_peak(lambda number: taken.step(examples, 8, 1e-4, number))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--methods", default="lora,lora+dropout,mosld,mola,molora", help="of the peaks; empty: none")
    parser.add_argument("--peak-of", help="print the peak of this method alone, in this process")
    flags = parser.parse_args()
    silence_libraries()
    if flags.peak_of:
        print(peak(flags.model, flags.peak_of))
        return
    lines = []
    for dtype in (torch.float32, torch.bfloat16):
        reference = kept("lora", flags.width, flags.tokens, dtype)
        for case in KEPT:
            count = kept(case, flags.width, flags.tokens, dtype)
            what = f"kept by a layer, {str(dtype)[6:]} base"
            lines.append({"what": what, "method": case, "bytes": count, "to lora": count / reference})
    peaks: dict[str, float] = {}
    for case in [part for part in flags.methods.split(",") if part]:
        command = [sys.executable, __file__, "--model", flags.model, "--peak-of", case]
        done = subprocess.run(command, env={**os.environ, **KEEPS_NOTHING}, capture_output=True, text=True, check=True)
        peaks[case] = float(done.stdout.split()[-1])
        line = {"what": f"peak of a process, {flags.model}", "method": case, "bytes": peaks[case]}
        lines.append(line | {"to lora": peaks[case] / peaks["lora"]})
    title = f"Memory: a layer of width {flags.width} on {flags.tokens} tokens, and whole processes"
    report(title, lines, flags.json)


if __name__ == "__main__":
    main()
