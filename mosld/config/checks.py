"""Rules about several keys at once; what a single key allows stands in its `setting`.

Each `check_*` function takes the groups it reads and returns one message per mistake: the key, its value, what is
wrong, and the key to change. The rules of a method are in `method_checks`.
"""

import os
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from mosld.common.errors import format_value, nearest
from mosld.config.fields import LARGEST
from mosld.config.local_files import own_files
from mosld.config.method_checks import check_domain, check_experts_from, check_method, experts_of
from mosld.config.schema import (
    TASKS,
    AllocationConfig,
    Config,
    DataConfig,
    HubConfig,
    MethodConfig,
    ModelConfig,
    SourceConfig,
    TrainingConfig,
)
from mosld.config.unread import check_unread

COLUMNS = (
    "id", "context", "question", "choices", "answer", "final", "response", "system", "messages", "text", "split",
    "history", "tools", "images",
)  # fmt: skip


def check_config(config: Config, training: bool, typed: Collection[str]) -> list[str]:
    """Check all combinations of keys.

    Args:
        config: its single keys are valid.
        training: False leaves out rules about training.
        typed: the keys that the user typed.
    """
    data, method, model = config.data, config.method, config.model
    paths = {
        "output_dir": config.output_dir, "model.path": model.path, "source.root": config.source.root,
        "method.from_run": method.from_run, "init_from": config.init_from,
    }  # fmt: skip
    return [
        *(
            f"{key}: is empty, or holds a null character; name a directory, or leave it out."
            for key, path in paths.items()
            if _is_no_path(path)
        ),
        *_check_names({"model.name": model.name, "method.name": method.name, "data.name": data.name}),
        *check_model(model),
        *check_method(method, config.allocation),
        *check_depth(method, config.allocation, model),
        *(check_experts_from(method) if training else []),
        *(check_domain(method, data, config.init_from) if training else []),
        *_check_init_from(config.init_from, method),
        *(check_single_task(data) if training else []),
        *check_data(data, config.source),
        *check_mixing(data),
        *_check_quantization(model, method),
        *_check_training(config.training, method),
        *(_check_compile(config.training, method) if training else []),
        *_check_hub(config.hub),
        *check_unread(config, training, typed),
    ]


def _is_no_path(path: str | None) -> bool:
    return path is not None and (not path.strip() or "\0" in path)


def _check_names(names: dict[str, str]) -> list[str]:
    return [
        f"{key}={name}: becomes part of a path; only letters, digits, '_', '-' and '.', and no leading '.'."
        for key, name in names.items()
        if not re.fullmatch(r"[\w-][\w.-]*", name)
    ]


def check_model(model: ModelConfig) -> list[str]:
    """Check that a model's weights can be located."""
    errors = []
    if model.kind == "hub" and not model.path and not model.hub:
        errors.append(f"model={model.name}: name the repository, as in model=owner/name or model.hub=owner/name.")
    if model.path and not (Path(model.path).expanduser() / "config.json").is_file():
        errors.append(f"model.path={model.path}: no checkpoint there (a directory with config.json and safetensors).")
    return errors


def check_depth(method: MethodConfig, allocation: AllocationConfig, model: ModelConfig) -> Iterator[str]:
    """Check that an allocation has no more parts than the model has layers."""
    experts = experts_of(method, allocation)
    depth = model.shape.get("num_hidden_layers")
    if method.kind != "mixture" or model.path or not isinstance(experts, list) or not isinstance(depth, int):
        return
    if len(experts) > depth:
        yield (
            f"allocation.experts={format_value(experts)}: has {len(experts)} parts, {model.name} only {depth} layers."
        )


def _check_quantization(model: ModelConfig, method: MethodConfig) -> Iterator[str]:
    if model.quantize and method.kind == "full":
        yield (
            f"model.quantize={model.quantize}: quantized weights cannot be trained, and method=full trains them; "
            "choose a method with an adapter."
        )
    if model.quantize and method.init == "pissa":
        yield (
            f"model.quantize={model.quantize}: method.init=pissa needs the singular vectors of whole weights; set "
            "model.quantize=null or method.init=kaiming."
        )


def _check_training(training: TrainingConfig, method: MethodConfig) -> Iterator[str]:
    if method.kind == "prefix" and training.gradient_checkpointing:
        yield "training.gradient_checkpointing=true: fails with prefix-tuning in PEFT; lower micro_batch_size."
    if training.max_grad_norm == 0:
        yield "training.max_grad_norm=0: leaves no gradient; null clips nothing."


def _check_compile(training: TrainingConfig, method: MethodConfig) -> list[str]:
    if not training.compile:
        return []
    compiler = os.environ.get("CXX", "g++")
    reasons = []
    if training.gradient_checkpointing:
        reasons.append("gradient_checkpointing=true (the recomputed forward pass compiles to a different one)")
    if method.kind == "prefix":
        reasons.append("method.kind=prefix (every layer writes into a cache of its own)")
    if method.router == "domain":
        reasons.append("method.router=domain (the layers of a mixture of domains pass their choices on)")
    if not shutil.which(compiler):
        reasons.append(f"this machine: no C++ compiler {compiler} is on the path (install one, or set CXX to yours)")
    return [f"training.compile=true: cannot be combined with {reason}." for reason in reasons]


def _check_init_from(init_from: str | None, method: MethodConfig) -> Iterator[str]:
    for key in ("from_run", "experts_from"):
        if init_from and getattr(method, key):
            yield f"init_from={init_from}: cannot be combined with method.{key}: both give the first weights."


def _check_hub(hub: HubConfig) -> Iterator[str]:
    if hub.push_to is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", hub.push_to):
        yield f"hub.push_to={hub.push_to}: is not a repository; write owner/name."


def own_tasks(data: DataConfig, source: SourceConfig) -> list[str]:
    """The named tasks, or all tasks of the user's files; none where `source.root` is missing (reading reports that).

    Raises:
        UserError: the files below `source.root` are ambiguous.
    """
    if data.kind != "own" or data.tasks or source.name != "local" or not source.root or not Path(source.root).exists():
        return data.tasks
    return list(own_files(Path(source.root)))


def single_task(data: DataConfig) -> str | None:
    """The task of a `single_*` setting, None for any other setting."""
    task = data.name.removeprefix("single_")
    return task if data.kind == "benchmarks" and data.name == f"single_{task}" and task in TASKS else None


def check_single_task(data: DataConfig) -> Iterator[str]:
    """Check that a `single_*` setting has its one task: tables and run names say so."""
    task, tasks = single_task(data), data.tasks
    # Unknown and repeated names are reported by other rules.
    valid = tasks and len(set(tasks)) == len(tasks) and set(tasks) <= set(TASKS)
    if task and valid and tasks != [task]:
        problem = f"is {task} alone" if task in tasks else f"needs {task}, which is not among them"
        yield (
            f"data.tasks={format_value(tasks)}: data={data.name} {problem}; leave data={data.name} out, "
            f"set data.tasks=[{task}], or take data=mixture with these tasks."
        )


def check_data(data: DataConfig, source: SourceConfig) -> Iterator[str]:
    """Check tasks and source."""
    if len(set(data.tasks)) < len(data.tasks):
        yield f"data.tasks={format_value(data.tasks)}: names a task twice."
    yield from _check_own_data(data, source) if data.kind == "own" else _check_benchmarks(data)
    if source.name == "local" and not source.root:
        yield "source.root: source=local needs a directory, as in source.root=my/data."


def _check_benchmarks(data: DataConfig) -> Iterator[str]:
    tasks = f"data.tasks={format_value(data.tasks)}"
    unknown = [task for task in data.tasks if task not in TASKS]
    if unknown:
        yield f"{tasks}: unknown value {', '.join(map(repr, unknown))}; {nearest(unknown[0], TASKS)}"
    if not data.tasks:
        yield f"{tasks}: names no task."


def _check_own_data(data: DataConfig, source: SourceConfig) -> Iterator[str]:
    if source.name != "local":
        yield f"data={data.name}: reads your own files; add source.root=my/data (a directory or a file)."
    maps = data.columns if maps_by_task(data) else {"": data.columns}
    for task, columns in maps.items():
        for column, user_column in columns.items():
            yield from _check_column(f"data.columns.{task}." if task else "data.columns.", column, user_column)
        named = {name for name, column in columns.items() if column is not None}
        if "response" in named and {"choices", "answer", "final"} & named:
            yield "data.columns: a question has a response, or choices and an answer, or an answer and a final number."


def maps_by_task(data: DataConfig) -> bool:
    """Whether `data.columns` holds one map of columns per task instead of one for all."""
    return bool(data.columns) and all(isinstance(value, dict) for value in data.columns.values())


def _check_column(prefix: str, column: str, user_column: object) -> Iterator[str]:
    if column not in COLUMNS:
        yield f"{prefix}{column}: mosld has no such column; {nearest(column, COLUMNS)}"
    elif isinstance(user_column, list):
        if column not in ("choices", "messages") or len(user_column) < 2:
            value = format_value(user_column)
            yield f"{prefix}{column}={value}: a list of at least two columns can hold the choices or messages alone."
    # null leaves a column aside.
    elif not isinstance(user_column, str | int | None):
        yield f"{prefix}{column}={format_value(user_column)}: must be the name of a column."


def check_mixing(data: DataConfig) -> Iterator[str]:
    """Check how the tasks are mixed."""
    if data.mixing == "cap" and data.cap is None:
        yield "data.mixing=cap: give data.cap, the most rows of a task in an epoch."
    if data.mixing == "weights":
        yield from _check_weights(data)


def _check_weights(data: DataConfig) -> Iterator[str]:
    weights = f"data.weights={format_value(data.weights)}"
    for task, weight in data.weights.items():
        if task not in data.tasks:
            yield f"{weights}: {task} is not a task of this run; {nearest(task, data.tasks)}"
        elif isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < LARGEST:
            yield f"{weights}: the weight of {task} must be a number above 0 and below {LARGEST:g}."
    unweighted = [task for task in data.tasks if task not in data.weights]
    if unweighted:
        yield f"{weights}: has no weight for {', '.join(unweighted)}."
