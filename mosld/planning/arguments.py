"""The keys that `mosld.plan` knows beside those of a run: the machines, and what is assumed of them. Nothing heavy."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mosld.common.errors import UserError, closest, format_value
from mosld.config.compose import parse_override
from mosld.config.fields import build, setting
from mosld.config.show import KEY_COLUMNS, wrapped

UNITS = {"GiB": 2**30, "GB": 10**9, "MiB": 2**20, "MB": 10**6, "TiB": 2**40}
# Dense bfloat16.
A100_TFLOPS = 312.0


@dataclass(frozen=True)
class PlanKeys:
    """What the plan is for."""

    json: bool = setting(False, "Print one JSON object.")
    gpus: int = setting(1, "GPUs in all; 0: this machine's CPU.", minimum=0)
    gpu_memory: str = setting("80GiB", "Memory of each GPU, as in 40GiB or 24GB.")
    gpu_tflops: float | None = setting(
        None, "Peak in TFLOP/s, dense bfloat16, of one GPU (null: 312, an A100) or of the CPU.", minimum=0.001
    )
    utilisation: float = setting(0.35, "Share of that peak which training reaches.", minimum=0.001, below=1.001)
    length: int | None = setting(None, "Longest row in tokens; null: the largest cutoff of the tasks.", minimum=2)
    answer: int | None = setting(None, "Longest answer in tokens; null: as the prompt format has them.", minimum=1)

    @property
    def tflops(self) -> float | None:
        """Peak of one GPU; of a CPU only where it is set."""
        return self.gpu_tflops or (A100_TFLOPS if self.gpus else None)

    @property
    def memory_bytes(self) -> int:
        """`gpu_memory` as a number of bytes."""
        return _bytes(self.gpu_memory) or 0


def split_keys(arguments: Sequence[str]) -> tuple[PlanKeys, list[str]]:
    """The plan's own keys, and the other arguments, which are those of a run.

    Raises:
        UserError: with one message for each wrong one.
    """
    names = [field.name for field in dataclasses.fields(PlanKeys)]
    plan_arguments = [argument for argument in arguments if argument.split("=")[0] in names]
    tree = {argument.split("=")[0]: parse_override(argument).value() for argument in plan_arguments if "=" in argument}
    errors = [f"{argument}: write {argument}=..." for argument in plan_arguments if "=" not in argument]
    keys = build(PlanKeys, tree, errors)
    if _bytes(keys.gpu_memory) is None:
        errors.append(f"gpu_memory={keys.gpu_memory}: write a number and a unit ({', '.join(UNITS)}), as in 40GiB.")
    others = [argument for argument in arguments if argument not in plan_arguments]
    errors += [f"{argument}: did you mean '{near}'?" for argument in others if (near := _near(argument, names))]
    if errors:
        raise UserError(*errors)
    return keys, others


def describe() -> str:
    """Each key with its default and meaning."""
    lines: list[str] = []
    for field in dataclasses.fields(PlanKeys):
        key = f"  {field.name}={format_value(field.default)} ".ljust(KEY_COLUMNS)
        lines += wrapped(key, field.metadata["help"], KEY_COLUMNS)
    return "\n".join(lines)


def _near(argument: str, names: list[str]) -> str:
    """The key of the plan that a misspelt argument means; nothing where it is a key of a run."""
    key = argument.split("=")[0]
    return closest(key, names) or "" if re.fullmatch("[a-z_]+", key) else ""


def _bytes(text: str) -> int | None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(\w+)", text)
    if match is None or match[2] not in UNITS or not float(match[1]):
        return None
    return int(float(match[1]) * UNITS[match[2]])
