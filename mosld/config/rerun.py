"""A finished run's config with overrides on top: what `mosld.eval` scores, and how."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mosld.common.errors import UserError, nearest
from mosld.common.process import several
from mosld.config.checks import check_single_task
from mosld.config.compose import checked, override_mistakes, parse_override
from mosld.config.groups import option_tree
from mosld.config.schema import Config

# What scoring may change; all else is what the run was trained with.
OPEN = ("data", "source", "evaluation", "prompt", "logger", "model.dtype", "model.path", "model.attention")


def rerun_config(recorded: dict[str, Any], overrides: Sequence[str]) -> Config:
    """The recorded config with data, source, prompt and evaluation overridden; nothing is sent unless asked for.

    Raises:
        UserError: with one message for each mistake.
    """
    tree, errors = copy.deepcopy(recorded), list[str]()
    tree["logger"] = option_tree("logger", "files", errors)
    # Groups first, as Hydra does: a key of a group holds whatever the order.
    for text in sorted(overrides, key=lambda given: "." in given.split("=")[0]):
        if override_mistakes(text, errors):
            continue
        override = parse_override(text)
        key, value = override.key_or_group, override.value()
        if not any(key == name or key.startswith(f"{name}.") for name in OPEN):
            errors.append(f"{text}: is fixed by the run; what can be set here: run, {', '.join(OPEN)}.")
        elif "." in key or key == "prompt":
            _set(tree, key.split("."), value)
        else:
            tree[key] = option_tree(key, str(value), errors)
    config = checked(tree, errors, training=False)
    if errors := list(check_single_task(config.data)) if any(text.startswith("data") for text in overrides) else []:
        raise UserError(*errors)
    return config


def _set(tree: Any, path: list[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


@dataclass(frozen=True)
class EvalArguments:
    """What `mosld.eval` is told besides the overrides of the run's config.

    Attributes:
        run: the run, adapter or model directory.
        backend: who scores: own scoring, or lm-evaluation-harness (lm_eval).
        tasks: the harness's names of its tasks; empty with own scoring.
        compare: an override under which all is scored once more, to list what differs; None: once is enough.
        overrides: all else.
    """

    run: str
    backend: str
    tasks: tuple[str, ...]
    compare: str | None
    overrides: list[str]


BACKENDS = ("mosld", "lm_eval")
COMPARABLE = ("model.dtype", "model.attention", "evaluation.batch_tokens")  # how, not what: the questions stay the same


def eval_arguments(arguments: Sequence[str]) -> EvalArguments:
    """Take `run=`, `backend=`, `tasks=` and `compare=` out of the arguments; the rest are overrides.

    Raises:
        UserError: with one message for each that is missing or cannot be.
    """
    errors: list[str] = []
    own: dict[str, str] = {}
    rest = []
    for argument in arguments:
        name, _, text = argument.partition("=")
        if name not in ("run", "backend", "tasks", "compare"):
            rest.append(argument)
        elif name in own:
            errors.append(f"{argument}: {name} is given twice.")
        else:
            own[name] = text
    if not own.get("run"):
        errors.append("run: name one run or adapter directory, as in run=outputs/mixture/smollm2_135m/mosld-...")
    backend, compare = own.get("backend", "mosld"), own.get("compare")
    if backend not in BACKENDS:
        errors.append(f"backend={backend}: unknown value; {nearest(backend, BACKENDS)}")
    if "tasks" in own and backend == "mosld":
        errors.append("tasks: are the harness's, with backend=lm_eval; own ones are named with data.tasks=[...].")
    if compare is not None and compare.partition("=")[0] not in COMPARABLE:
        errors.append(f"compare={compare}: give {' or '.join(COMPARABLE)} another value, as in model.dtype=float32.")
    if compare is not None and backend == "lm_eval":
        errors.append(f"compare={compare}: is for own scoring; leave out backend=lm_eval.")
    if backend == "lm_eval" and several():
        errors.append(
            "backend=lm_eval: the harness scores in one process, and several were started; start it without torchrun "
            "or accelerate launch, or leave backend=lm_eval out: own scoring shares the questions among all of them."
        )
    if errors:
        raise UserError(*errors)
    tasks = own.get("tasks", "").strip("[]").split(",")
    return EvalArguments(own["run"], backend, tuple(filter(None, map(str.strip, tasks))), compare, rest)
