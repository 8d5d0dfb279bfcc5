"""A pytest plugin that runs PEFT's own tests over LoRA and over mixtures.

PEFT's tests are tables of methods. The plugin leaves LoRA's first row in each, adds rows of mixtures, and leaves out
whatever is about no method or another one. It writes a JSON line for each test to the file OUTCOMES_FILE.
"""

import inspect
import json
import os
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from peft import LoraConfig, PeftConfig

from mosld.adapters import MosldConfig, peft_config
from mosld.config.groups import method_config

# A mixture says clearly that it cannot do these.
REFUSALS = ("cannot be merged", "is a Conv1D; only nn.Linear")
# Of PEFT's tiny models, those with the feed-forward blocks that MixLoRA adapts.
GATED = ("llama", "qwen", "mistral", "gemma")

SMALL = {"r": 4, "experts": 3, "alpha": 16.0, "dropout": 0.0}
BOTH = {"target_modules": ["lin0", "lin1"]}
# Of PEFT's MLP, which has the linear layers lin0 and lin1.
MLP_ROWS = {
    "regex": SMALL | {"target_modules": "lin0"},
    "set": SMALL | {"target_modules": {"lin1"}},
    "head": SMALL | {"target_modules": ["lin0"], "modules_to_save": ["lin1"]},
    "MoSLD": SMALL | BOTH | {"dropout": 0.1},
    "MoLoRA": SMALL | BOTH | {"share": "none", "router": "dense", "top_k": None},
    "SiRA": SMALL | BOTH | {"share": "none", "router": "capacity", "balance": "sira"},
    "shared B": SMALL | BOTH | {"share": "B"},
    "plain": SMALL | BOTH | {"plain_modules": ["lin1"]},
}


def method_options(method: str, task: str) -> dict:
    """The options of a method's config that differ from the defaults, for PEFT's own targets of each model."""
    own = {"domains": ["a", "b"]} if method == "moa" else {}
    shape = {"mosld": [4, 3, 2, 2], "mola": 3}.get(method)
    options = peft_config(*method_config(method, shape, {"rank": 4, **own})).to_dict()
    default = MosldConfig().to_dict()
    changed = {key: value for key, value in options.items() if default.get(key, ...) != value}
    targets = ["mlp", "q_proj", "v_proj"] if method == "mixlora" else None
    return changed | {"task_type": task, "target_modules": targets}


def model_rows(task: str | None) -> Iterator[object]:
    for method in ("mosld", "mixlora", "moa") if task == "CAUSAL_LM" else ("mosld",):
        yield pytest.param(MosldConfig, method_options(method, task or "FEATURE_EXTRACTION"), id=method)


def mixture_rows(names: tuple[str, ...], rows: list) -> list:
    """Rows of mixtures for the table with these columns."""
    if names == ("config_cls", "config_kwargs"):
        return list(model_rows(next(row[1].get("task_type") for row in map(values_of, rows) if row[0] is LoraConfig)))
    if names == ("test_name", "model_id", "config_cls", "config_kwargs"):
        return [(f"MLP {name}", "MLP", MosldConfig, options) for name, options in MLP_ROWS.items()]
    if names == ("test_name", "tuner_method", "config_cls", "config_kwargs_1", "config_kwargs_2"):
        first = SMALL | {"init_weights": False, "target_modules": ["lin0"]}
        return [
            ("same layers", "mosld", MosldConfig, first, first),
            ("other layers", "mosld", MosldConfig, first, first | {"target_modules": ["lin1"]}),
        ]
    return [MosldConfig] if names == ("config_cls",) else []


def values_of(row: object) -> tuple:
    values = getattr(row, "values", row)
    return tuple(values) if isinstance(values, tuple | list) else (values,)


def method_of(values: tuple) -> type[PeftConfig] | None:
    """The config class that a row is about."""
    classes = [value for value in values if inspect.isclass(value) and issubclass(value, PeftConfig)]
    return classes[0] if classes else None


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Put our rows into each table that has a row of LoRA."""
    marks = metafunc.definition.own_markers
    for place, mark in enumerate(marks):
        if mark.name != "parametrize":
            continue
        names, rows = mark.args[0], list(mark.args[1])
        names = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else tuple(names)
        lora = [row for row in rows if method_of(values_of(row)) is LoraConfig]
        if lora:
            rows = [*lora[:1], *mixture_rows(names, rows)]
            marks[place] = pytest.mark.parametrize(",".join(names), rows).mark


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of no table, and MixLoRA on models without its blocks."""
    kept = [item for item in items if group_of(item) and not _lacks_blocks(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def group_of(item: pytest.Item) -> str | None:
    """"LORA" or "MOSLD"; None for a test that is about another method or none."""
    callspec = getattr(item, "callspec", None)
    method = method_of(tuple(callspec.params.values())) if callspec else None
    return {LoraConfig: "LORA", MosldConfig: "MOSLD"}.get(method)


def _lacks_blocks(item: pytest.Item) -> bool:
    params = item.callspec.params  # type: ignore[attr-defined]
    mixlora = "mlp" in (params.get("config_kwargs", {}).get("target_modules") or ())
    return mixlora and not any(family in params.get("model_id", "").lower() for family in GATED)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Write the outcome of a test; a clear refusal is neither passed nor failed."""
    report = (yield).get_result()
    if report.when != "call" and not (report.when == "setup" and report.outcome != "passed"):
        return
    error = f"{call.excinfo.typename}: {call.excinfo.value}" if call.excinfo else ""
    refused = report.failed and error.startswith("ValueError") and any(refusal in error for refusal in REFUSALS)
    line = {
        "file": item.path.stem,
        "function": item.originalname,  # type: ignore[attr-defined]
        "test": item.name,
        "group": group_of(item),
        "outcome": "refused" if refused else report.outcome,
        "error": error[:300],
    }
    with Path(os.environ["OUTCOMES_FILE"]).open("a") as file:
        file.write(json.dumps(line) + "\n")


def pytest_configure() -> None:
    """Stand in for diffusers, of which PEFT's common tests import one class, while they are imported."""
    stand_in = types.ModuleType("diffusers")
    stand_in.__spec__ = ModuleSpec("diffusers", None)
    stand_in.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})  # type: ignore[attr-defined]
    stand_in.__version__ = "0.0"  # type: ignore[attr-defined]
    sys.modules.setdefault("diffusers", stand_in)


def pytest_collection_finish() -> None:
    """Take the stand-in away before a library takes it for the real one."""
    if getattr(sys.modules["diffusers"], "__file__", None) is None:
        del sys.modules["diffusers"]
