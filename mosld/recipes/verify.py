"""The work of `mosld.verify`: compare a run with its manifest, its config, its rows, its base and its predictions."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from mosld.common.errors import UserError
from mosld.common.files import MANIFEST, JsonObject, read_json, walk
from mosld.common.process import silence_libraries
from mosld.common.reading import load_yaml, read_lines
from mosld.config.fields import build
from mosld.config.identity import identity
from mosld.config.schema import Config
from mosld.data.dataset import load_dataset
from mosld.evaluation.evaluate import score_task
from mosld.evaluation.generation import GeneratedPrediction, SolutionPrediction
from mosld.evaluation.multiple_choice import ChoicePrediction
from mosld.evaluation.scores import Prediction, average
from mosld.models.fingerprint import base_fingerprint
from mosld.recipes.replay import replay_steps
from mosld.runs.directory import RunDirectory

KINDS: tuple[type[Prediction], ...] = (ChoicePrediction, SolutionPrediction, GeneratedPrediction)
MAX_FAULTS_SHOWN = 20
# Of an adapter, a checkpoint and an exported model, which have a manifest of their own.
NOT_OF_A_RUN = {"adapter_config.json", "progress.json", "config.json"}


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
        name: what was checked.
        faults: what is wrong, one sentence each.
        note: what was compared, or why nothing was.
    """

    name: str
    faults: Sequence[str] = ()
    note: str = ""


class NotCheckedError(Exception):
    """What a check needs is not on this machine."""


def verify_runs(directory: Path, replay: int) -> bool:
    """Print a table of each run; returns whether nothing is wrong with any.

    Raises:
        UserError: there is no run.
    """
    silence_libraries()
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory.")
    runs = list(_runs_below(directory))
    if not runs:
        raise UserError(f"{directory}: there is no run (no {MANIFEST} and no config.yaml with data.json).")
    whole = True
    for path in runs:
        checks = verify_run(RunDirectory(path), replay)
        print("\n".join(_lines(path, checks)))
        whole = whole and not any(check.faults for check in checks)
    return whole


def _runs_below(directory: Path) -> Iterator[Path]:
    for folder, below, names in walk(directory):
        sealed = MANIFEST in names
        exported = sealed and bool(NOT_OF_A_RUN & set(names))
        recorded = {"config.yaml", "data.json"} & set(names)
        is_run = len(recorded) == 2 or (sealed and bool(recorded) and not exported)
        if is_run or exported:
            below.clear()
        if is_run:
            yield folder


def verify_run(run: RunDirectory, replay: int = 0) -> list[Check]:
    """All checks of one run."""
    problem = run.seal.problem()
    tree = run.seal.tree()
    if problem or tree is None:
        note = "" if problem else "not sealed: made by an earlier mosld; damage is found by the other checks alone"
        sealed = Check("files", [problem] if problem else [], note)
    else:
        note = f"{len(tree['files'])} sealed" + (
            f"; edited and accepted: {', '.join(tree['edited'])}" if tree["edited"] else ""
        )
        sealed = Check("files", run.seal.faults(added=True), note)
    config = _config(run)
    checks = {
        "identity": lambda: _check_identity(run, config, tree),
        "rows": lambda: _check_rows(run, config),
        "base model": lambda: _check_base(config, run.seal.base()),
        "scores": lambda: _check_scores(run),
    }
    if replay:
        checks["replay"] = lambda: replay_steps(config, run, replay)
    return [sealed, *(_checked(name, check) for name, check in checks.items())]


def _checked(name: str, check: Callable[[], tuple[list[str], str]]) -> Check:
    try:
        return Check(name, *check())
    except NotCheckedError as reason:
        return Check(name, note=f"not checked: {reason}")
    except UserError as error:
        return Check(name, note=f"not checked: {error.messages[0]}")


def _config(run: RunDirectory) -> Config | None:
    """The recorded config; None where it cannot be read."""
    try:
        errors: list[str] = []
        config = build(Config, load_yaml(run.config), errors)
    except UserError:
        return None
    return None if errors else config


def _required(config: Config | None) -> Config:
    if config is None:
        raise NotCheckedError("config.yaml cannot be read")
    return config


def _check_identity(run: RunDirectory, config: Config | None, tree: JsonObject | None) -> tuple[list[str], str]:
    """Config, results and rows name the same run."""
    edited = tree["edited"] if tree else []
    results = read_json(run.results) or {}
    data = read_json(run.data) or {}
    expected = tree["identity"] if tree else results.get("config_hash")
    if expected is None:
        raise NotCheckedError("there are neither a manifest nor results")
    faults = []
    if config and "config.yaml" not in edited and identity(config) != expected:
        faults.append(f"config.yaml is of the run {identity(config)}, the others of {expected}")
    if results.get("config_hash", expected) != expected:
        faults.append(f"results.json is of the run {results['config_hash']}, the others of {expected}")
    rows = tree["data"] if tree else data.get("fingerprint")
    described = results.get("data")
    for name, source in (("data.json", data), ("results.json", described if isinstance(described, dict) else {})):
        if source.get("fingerprint", rows) != rows:
            faults.append(f"{name} is of rows {source['fingerprint']}, the others of {rows}")
    return faults, expected


def _check_rows(run: RunDirectory, config: Config | None) -> tuple[list[str], str]:
    """The rows of the source are those that the run was trained on."""
    config = _required(config)
    if config.source.name == "hub":
        raise NotCheckedError("source=hub, and nothing is downloaded")
    recorded = (read_json(run.data) or {}).get("fingerprint")
    now = load_dataset(config.data, config.source).fingerprint
    return ([] if now == recorded else [f"the rows changed: fingerprint was {recorded}, is {now}"]), now


def _check_base(config: Config | None, recorded: str | None) -> tuple[list[str], str]:
    """The base model on this machine is that of the run."""
    if recorded is None:
        raise NotCheckedError("the run has no fingerprint of its base")
    model = _required(config).model
    now = base_fingerprint(model)
    if now not in (recorded, None):
        now = base_fingerprint(model, cached=False)
    if now is None:
        raise NotCheckedError(f"the base is not on this machine; its fingerprint is {recorded}")
    return ([] if now == recorded else [f"the base changed: its fingerprint was {recorded}, is {now}"]), now


def _check_scores(run: RunDirectory) -> tuple[list[str], str]:
    """The scores follow from the predictions, of the run and of its evaluations."""
    faults: list[str] = []
    count = 0
    for path in (run.results, *sorted(run.path.glob("eval/*/results.json"))):
        results = read_json(path)
        # lm-evaluation-harness has scores of its own.
        if not results or results.get("status") != "finished" or results.get("backend") == "lm_eval":
            continue
        for key, mean, folder in (("scores", "average", "."), ("base_scores", "base_average", "base")):
            for task, score in (results.get(key) or {}).items():
                file = path.parent / "predictions" / folder / f"{task}.jsonl"
                count += 1
                faults += _score_faults(file.relative_to(run.path).as_posix(), file, results["prompt"], score)
            if results.get(key) and average(results[key]) != results[mean]:
                faults.append(f"{path.relative_to(run.path)}: {mean} is not the mean of its tasks")
    if not count:
        raise NotCheckedError("no scores yet")
    return faults, f"{count} computed again from the predictions"


def _score_faults(name: str, path: Path, prompt: str, recorded: JsonObject) -> list[str]:
    try:
        records = [json.loads(line) for line in read_lines(path)]
        score = score_task(list(map(_prediction, records)), prompt, by_subject="by_subject" in recorded)
    except (ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError) as error:
        return [f"{name}: no score can be computed from it ({type(error).__name__})"]
    wrong = [key for key, value in score.items() if recorded.get(key) != value]
    return [f"{name} gives {key} {score[key]}, results.json says {recorded.get(key)}" for key in wrong[:1]]  # type: ignore[literal-required]


def _prediction(record: JsonObject) -> Prediction:
    """A line of predictions/<task>.jsonl as the class that wrote it."""
    kind = next((kind for kind in KINDS if {field.name for field in fields(kind)} == record.keys()), None)
    if kind is None:
        raise ValueError("no prediction")
    return kind(**record)


def _lines(path: Path, checks: Sequence[Check]) -> Iterator[str]:
    """The table of one run; every fault stands on a line of its own, so that other programs can read it."""
    yield str(path)
    for check in checks:
        result = "WRONG" if check.faults else "-" if check.note.startswith("not ") else "ok"
        more = len(check.faults) - MAX_FAULTS_SHOWN
        for text in [*check.faults[:MAX_FAULTS_SHOWN], *([f"and {more} more"] if more > 0 else [])] or [check.note]:
            yield f"  {check.name:<10}  {result:<5}  {text}"


def accept_edits(directory: Path, names: Sequence[str]) -> None:
    """Seal files as they are.

    Raises:
        UserError: one is not in the run, or the run has no manifest.
    """
    run = RunDirectory(directory)
    if MANIFEST in names:
        config = _config(run)
        if config is None:
            raise UserError(f"{run.config}: cannot be read, so the run cannot be sealed.")
        run.seal.begin(identity(config), (read_json(run.data) or {}).get("fingerprint") or "", anew=True)
        results = read_json(run.results) or {}
        if results.get("base_fingerprint"):
            run.seal.set_base(results["base_fingerprint"])
        return
    if run.seal.tree() is None:
        raise UserError(f"{directory}: has no whole {MANIFEST}; --accept {MANIFEST} seals the run as it is.")
    for name in names:
        path = directory / name
        if not path.resolve().is_relative_to(directory.resolve()):
            raise UserError(f"--accept {name}: is not in {directory}.")
        if not path.exists() and not run.seal.lists_below(path):
            raise UserError(f"--accept {name}: there is no such file in {directory}, and none is sealed.")
    for name in names:
        run.seal.accept(directory / name, by_hand=True)
