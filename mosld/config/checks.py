"""Rules that join several keys: what each single key allows stands in its `setting`."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mosld.common.errors import nearest, typed
from mosld.config.local_files import own_files
from mosld.config.method_checks import check_domain, check_method, experts_of
from mosld.config.schema import TASKS, Config, DataConfig, ModelConfig, SourceConfig

# PART: Rules that join several keys of the data.


COLUMNS = ("id", "context", "question", "choices", "answer", "final", "response", "system")
OWN_KEYS = {"columns": {}, "answer_as": "auto", "holdout": 0.1, "score_replies": True}  # with their defaults


def own_tasks(data: DataConfig, source: SourceConfig) -> list[str]:
    """The tasks that are named, or all of the user's own; none where their place is missing, which reading reports.

    Raises:
        UserError: what lies below `source.root` cannot be told apart.
    """
    if data.kind != "own" or data.tasks or source.name != "local" or not source.root or not Path(source.root).exists():
        return data.tasks
    return list(own_files(Path(source.root)))


def single_task(data: DataConfig) -> str | None:
    """The task of a `single_*` setting; None of any other. Tables and run names say so, and so it must be true."""
    task = data.name.removeprefix("single_")
    return task if data.kind == "benchmarks" and data.name == f"single_{task}" and task in TASKS else None


def check_single_task(data: DataConfig) -> Iterator[str]:
    """What of the tasks a `single_*` setting cannot have."""
    task, given = single_task(data), data.tasks
    sound = given and len(set(given)) == len(given) and set(given) <= set(TASKS)  # or else another rule speaks
    if task and sound and given != [task]:
        wrong = f"is {task} alone" if task in given else f"needs {task}, which is not among them"
        yield (
            f"data.tasks={typed(given)}: data={data.name} {wrong}; leave data={data.name} out, "
            f"set data.tasks=[{task}], or take data=mixture with these tasks."
        )


def check_data(data: DataConfig, source: SourceConfig, shots: int = 0) -> Iterator[str]:
    """What cannot work in tasks and source, and keys that say nothing with them."""
    given = f"data.tasks={typed(data.tasks)}"
    if len(set(data.tasks)) < len(data.tasks):
        yield f"{given}: names a task twice."
    yield from _check_own(data, source) if data.kind == "own" else _check_benchmarks(data)
    if data.n_openorca is not None and "openorca" not in data.tasks:
        yield f"data.n_openorca={data.n_openorca}: says nothing without openorca; take data=mixture_openorca."
    if shots and "mmlu" not in data.tasks:
        yield f"evaluation.shots={shots}: says nothing of {', '.join(data.tasks)}; only mmlu has solved examples."
    if source.name == "local" and not source.root:
        yield "source.root: source=local needs a directory, as in source.root=my/data."
    if source.name != "local" and source.root:
        yield f"source.root={source.root}: the {source.name} source has no directory; add source=local."


def _check_benchmarks(data: DataConfig) -> Iterator[str]:
    given = f"data.tasks={typed(data.tasks)}"
    unknown = [task for task in data.tasks if task not in TASKS]
    if unknown:
        yield f"{given}: unknown value {', '.join(map(repr, unknown))}; {nearest(unknown[0], TASKS)}"
    if not data.tasks:
        yield f"{given}: names no task."
    for key, default in OWN_KEYS.items():
        value = getattr(data, key)
        if value != default:
            yield f"data.{key}={typed(value)}: is about your own files alone; take data=local."


def _check_own(data: DataConfig, source: SourceConfig) -> Iterator[str]:
    if source.name != "local":
        yield f"data={data.name}: reads your own files; add source=local and source.root=my/data."
    maps = data.columns if maps_by_task(data) else {"": data.columns}
    for task, columns in maps.items():
        for ours, theirs in columns.items():
            yield from _check_column(f"data.columns.{task}." if task else "data.columns.", ours, theirs)
        if "response" in columns and {"choices", "answer", "final"} & set(columns):
            yield "data.columns: a question has a response, or choices and an answer, or an answer and a final number."


def maps_by_task(data: DataConfig) -> bool:
    """Whether `data.columns` holds a map of columns for each task, not one for all."""
    return bool(data.columns) and all(isinstance(value, dict) for value in data.columns.values())


def _check_column(where: str, ours: str, theirs: Any) -> Iterator[str]:
    if ours not in COLUMNS:
        yield f"{where}{ours}: mosld has no such column; {nearest(ours, COLUMNS)}"
    elif isinstance(theirs, list):
        if ours != "choices" or len(theirs) < 2:
            yield f"{where}{ours}={typed(theirs)}: several columns, at least two, can hold the choices alone."
    elif not isinstance(theirs, str | int):
        yield f"{where}{ours}={typed(theirs)}: must be the name of a column."


def check_mixing(data: DataConfig) -> Iterator[str]:
    """What cannot work in how the tasks are mixed, and keys that say nothing with the chosen way."""
    says = {"weights": ({}, data.weights), "temperature": (1.0, data.temperature), "cap": (None, data.cap)}
    for key, (default, value) in says.items():
        if value != default and data.mixing != key:
            now = f"data.mixing={data.mixing}"
            yield f"data.{key}={typed(value)}: says nothing with {now}; set data.mixing={key}."
    if data.mixing == "cap" and data.cap is None:
        yield "data.mixing=cap: give data.cap, the most rows of a task in an epoch."
    if data.mixing == "weights":
        yield from _check_weights(data)


def _check_weights(data: DataConfig) -> Iterator[str]:
    given = f"data.weights={typed(data.weights)}"
    for task, weight in data.weights.items():
        if task not in data.tasks:
            yield f"{given}: {task} is no task of this run; {nearest(task, data.tasks)}"
        elif isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
            yield f"{given}: the weight of {task} must be a number above 0."
    lacking = [task for task in data.tasks if task not in data.weights]
    if lacking:
        yield f"{given}: has no weight for {', '.join(lacking)}."


# PART: Rules that join several keys: what each single key allows stands in its `setting`.


def check_config(config: Config, training: bool = True) -> list[str]:
    """One message for every combination of keys that cannot work; fewer where nothing is to be trained."""
    return [
        *_names(config),
        *check_model(config.model),
        *check_method(config.method, config.allocation),
        *_depth(config),
        *(check_domain(config.method, config.data) if training else []),
        *(check_single_task(config.data) if training else []),
        *_prefix(config),
        *check_data(config.data, config.source, config.evaluation.shots),
        *check_mixing(config.data),
        *_quantize(config),
        *_training(config),
        *(_compiling(config) if training else []),
        *_hub(config),
    ]


def check_model(model: ModelConfig) -> list[str]:
    """What in a model's config cannot work."""
    found = []
    if model.kind == "hub" and not model.path and not (model.hub and model.revision):
        found.append(f"model={model.name}: a hub model needs model.hub and a pinned model.revision (a commit).")
    if model.path and not (Path(model.path) / "config.json").is_file():
        found.append(f"model.path={model.path}: no checkpoint there (a directory with config.json and safetensors).")
    return found


def _names(config: Config) -> list[str]:
    names = {"model.name": config.model.name, "method.name": config.method.name, "data.name": config.data.name}
    return [
        f"{key}={name}: becomes part of a path; letters, digits, '_', '-' and '.' alone, and no leading '.'."
        for key, name in names.items()
        if not re.fullmatch(r"[\w-][\w.-]*", name)
    ]


def _depth(config: Config) -> list[str]:
    experts, depth = experts_of(config.method, config.allocation), config.model.shape.get("num_hidden_layers")
    if config.method.kind != "mixture" or config.model.path or not isinstance(experts, list):
        return []
    if isinstance(depth, int) and len(experts) > depth:
        return [
            f"allocation.experts={typed(experts)}: has {len(experts)} parts, {config.model.name} only {depth} layers."
        ]
    return []


def _prefix(config: Config) -> list[str]:
    if config.method.kind == "prefix" and config.training.gradient_checkpointing:
        return ["training.gradient_checkpointing=true: fails with prefix-tuning in PEFT; lower micro_batch_size."]
    return []


def _quantize(config: Config) -> list[str]:
    given = f"model.quantize={config.model.quantize}"
    if config.model.quantize and config.method.kind == "full":
        return [f"{given}: packed weights cannot be trained, and method=full trains them; take an adapter's method."]
    return []


def _hub(config: Config) -> list[str]:
    place = config.hub.push_to
    if place is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", place):
        return [f"hub.push_to={place}: is no repository; write owner/name."]
    return []


def _training(config: Config) -> list[str]:
    training = config.training
    if training.max_grad_norm == 0:
        return ["training.max_grad_norm=0: leaves no gradient; null clips nothing."]
    return []


def _compiling(config: Config) -> list[str]:
    if not config.training.compile:
        return []
    found, compiler = [], os.environ.get("CXX", "g++")
    if config.training.gradient_checkpointing:
        found.append("gradient_checkpointing=true (its second forward is another one to the compiler)")
    if config.method.kind == "prefix":
        found.append("method.kind=prefix (every layer writes into a cache of its own)")
    if config.method.router == "domain":
        found.append("method.router=domain (the layers of a mixture of domains hand their choices on)")
    if not shutil.which(compiler):
        found.append(f"this machine: no C++ compiler {compiler} is on the path (install one, or name yours in CXX)")
    return [f"training.compile=true: cannot be combined with {reason}." for reason in found]
