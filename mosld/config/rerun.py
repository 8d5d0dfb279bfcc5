"""The config of a finished run with overrides on top: what `mosld.eval` scores, and how."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mosld.common.errors import UserError, nearest
from mosld.common.files import JsonObject
from mosld.common.process import is_distributed
from mosld.config.checks import check_single_task
from mosld.config.compose import checked_config, override_mistakes, parse_override, repeated_keys, typed_keys
from mosld.config.groups import option_tree
from mosld.config.schema import Config

# The keys that scoring may change; all others are those that the run was trained with.
OPEN_KEYS = (
    "data", "source", "evaluation", "prompt", "logger", "model.dtype", "model.path", "model.attention",
    "model.allow_other_base",
)  # fmt: skip
ARGUMENTS = ("run", "backend", "tasks", "compare", "output")
# Those that are for one run alone.
SINGLE_RUN_ARGUMENTS = ("backend", "tasks", "compare", "output")
BACKENDS = ("mosld", "lm_eval")
# The keys that `compare=` may change: they affect the computation, not the questions.
COMPARABLE_KEYS = ("model.dtype", "model.attention", "evaluation.batch_tokens")


def rerun_config(recorded: JsonObject, overrides: Sequence[str]) -> Config:
    """The recorded config with data, source, prompt and evaluation overridden; the logger is off unless asked for.

    Raises:
        UserError: with one message per mistake.
    """
    tree = copy.deepcopy(recorded)
    errors = repeated_keys(overrides)
    tree["logger"] = option_tree("logger", "files", errors)
    overrides = [*_implied(tree, overrides), *overrides]
    # Groups first, as Hydra does: a key of a group holds whatever the order.
    for text in sorted(overrides, key=lambda override: "." in override.split("=")[0]):
        if override_mistakes(text, errors):
            continue
        override = parse_override(text)
        key, value = override.key_or_group, override.value()
        if not any(key == name or key.startswith(f"{name}.") for name in OPEN_KEYS):
            errors.append(f"{text}: is fixed by the run; what can be set here: run, {', '.join(OPEN_KEYS)}.")
        elif "." in key or key == "prompt":
            *groups, name = key.split(".")
            node = tree
            for group in groups:
                node = node.setdefault(group, {})
            node[name] = value
        else:
            tree[key] = option_tree(key, str(value), errors)
    config = checked_config(tree, errors, training=False, typed=typed_keys(overrides))
    if any(text.startswith("data") for text in overrides):
        errors = list(check_single_task(config.data))
        if errors:
            raise UserError(*errors)
    return config


def _implied(recorded: JsonObject, overrides: Sequence[str]) -> list[str]:
    """What `source.root` alone implies: source=local, and the user's own tasks, all of them."""
    roots = [text.partition("=")[2] for text in overrides if text.startswith("source.root=")]
    keys = {text.partition("=")[0] for text in overrides}
    if not roots or "source" in keys:
        return []
    data = recorded.get("data") or {}
    if data.get("kind") == "own" and "data" not in keys:
        return ["source=local", *([] if "data.tasks" in keys else ["data.tasks=[]"])]
    benchmarks = "data" in keys or any((Path(roots[-1]) / str(task)).is_dir() for task in data.get("tasks") or [])
    return ["source=local", *([] if benchmarks else ["data=local"])]


def with_compared(overrides: Sequence[str], compare: str) -> list[str]:
    """The overrides of the second scoring: those of the first with another value of one key."""
    key = compare.partition("=")[0]
    return [*(text for text in overrides if text.partition("=")[0] != key), compare]


@dataclass(frozen=True)
class EvalArguments:
    """The arguments of `mosld.eval`.

    Attributes:
        run: the run, adapter or model directory.
        backend: who scores: mosld, or lm-evaluation-harness (lm_eval).
        tasks: the harness's names of its tasks; empty with backend=mosld.
        compare: an override under which everything is scored a second time, to list what differs; None: once only.
        overrides: all other arguments, which override the run's config.
        output: the directory to write to; None: one below the run.
    """

    run: str
    backend: str
    tasks: tuple[str, ...]
    compare: str | None
    overrides: list[str]
    output: str | None = None


def split_runs(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The runs that are named, RUN or run=RUN, and the other arguments.

    Raises:
        UserError: one is named twice, or an argument that is for one run alone stands beside several.
    """
    runs = [text.removeprefix("run=") for text in arguments if _names_run(text)]
    others = [text for text in arguments if not _names_run(text)]
    errors = [f"{run}: is named twice." for run in sorted(set(runs)) if runs.count(run) > 1]
    if len(runs) > 1:
        single = [text for text in others if text.partition("=")[0] in SINGLE_RUN_ARGUMENTS]
        errors += [f"{text}: is for one run; leave it out, or score the runs one by one." for text in single]
    if errors:
        raise UserError(*errors)
    return runs, others


def _names_run(text: str) -> bool:
    return text.startswith("run=") or ("=" not in text and not text.startswith("-"))


def eval_arguments(arguments: Sequence[str]) -> EvalArguments:
    """Take RUN or `run=`, `backend=`, `tasks=`, `compare=` and `output=` out of the arguments; the rest are overrides.

    Raises:
        UserError: with one message per missing or wrong argument.
    """
    errors: list[str] = []
    values: dict[str, str] = {}
    overrides = []
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals and not argument.startswith("-"):
            name, text = "run", argument
        if name not in ARGUMENTS:
            overrides.append(argument)
        elif name in values:
            errors.append(f"{argument}: {name} is given twice.")
        else:
            values[name] = text
    if not values.get("run"):
        errors.append("run: name one run or adapter directory, as in run=outputs/mixture/smollm2_135m/mosld-...")
    backend, compare = values.get("backend", "mosld"), values.get("compare")
    if backend not in BACKENDS:
        errors.append(f"backend={backend}: unknown value; {nearest(backend, BACKENDS)}")
    if "tasks" in values and backend == "mosld":
        errors.append("tasks: are the harness's, with backend=lm_eval; mosld's own are named with data.tasks=[...].")
    if compare is not None and compare.partition("=")[0] not in COMPARABLE_KEYS:
        keys = " or ".join(COMPARABLE_KEYS)
        errors.append(f"compare={compare}: give {keys} another value, as in model.dtype=float32.")
    if compare is not None and backend == "lm_eval":
        errors.append(f"compare={compare}: is for own scoring; leave out backend=lm_eval.")
    if backend == "lm_eval" and is_distributed():
        errors.append(
            "backend=lm_eval: the harness scores in one process, and several were started; start it without torchrun "
            "or accelerate launch, or leave out backend=lm_eval: mosld's own scoring shards the questions over them."
        )
    if errors:
        raise UserError(*errors)
    output = values.get("output", "").strip("'") or None
    tasks = [task.strip() for task in values.get("tasks", "").strip("[]").split(",")]
    return EvalArguments(values["run"], backend, tuple(filter(None, tasks)), compare, overrides, output)
