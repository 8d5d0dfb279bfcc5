"""The shape of results.json, as those who read it need it; what else stands there is left alone."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Required

from pydantic import Field
from typing_extensions import TypedDict

from mosld.common.errors import UserError
from mosld.common.files import JsonObject, read_json
from mosld.common.reading import load_json, parse_json, require_shape

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Items = Annotated[int, Field(ge=1)]


class TaskScore(TypedDict, total=False):
    """Accuracy on one task as a share of 1, and its number of test items; other scores of worked solutions."""

    accuracy: Required[Share]
    n: Items
    strict: Share
    flexible: Share


class WholeScore(TypedDict, total=False):
    """What a table of one run shows of a score: also its standard error, and the scores of its parts."""

    accuracy: Required[Share]
    stderr: Required[float]
    n: Required[Items]
    stderr_strict: float
    stderr_flexible: float
    by_category: "dict[str, WholeScore]"
    by_subject: "dict[str, WholeScore]"


class RunData(TypedDict, total=False):
    """The part of results.json about the data; `fingerprints`, `counts` are by task, `counts` then by split."""

    name: Required[str]
    source: Required[str]
    fingerprint: Required[str]
    fingerprints: Required[dict[str, str]]
    tasks: list[str]
    counts: dict[str, dict[str, Count]]
    notes: list[str]
    leaks: dict[str, Count] | None
    other_leaks: dict[str, dict[str, Count]] | None
    dropped_leaks: dict[str, Count] | None


class RunResults(TypedDict, total=False):
    """The keys of results.json that others read; `config` holds every key that affects results, dotted."""

    name: str
    method: Required[str]
    model: Required[str]
    seed: Required[int]
    prompt: str
    shots: int
    dtype: str
    git_hash: str | None
    data: Required[RunData]
    config: Required[dict[str, object]]
    scores: Required[dict[str, TaskScore]]
    average: Share | None
    base_scores: dict[str, TaskScore] | None
    base_average: Share | None
    parameters: dict[str, Count]
    steps: Count | None
    seconds: float | None
    train_seconds: float | None
    tokens_per_second: float | None
    peak_memory_bytes: float | None


class WholeResults(TypedDict, total=False):
    """What is shown of one run that mosld.train finished, beside the keys of `RunResults`."""

    scores: Required[dict[str, WholeScore]]
    base_scores: dict[str, WholeScore] | None
    prompt: Required[str | None]
    average: Required[Share | None]
    base_average: Share | None


def whole_results(path: Path) -> JsonObject | None:
    """The results.json of a run that mosld.train finished; None where there is none, or it is damaged."""
    tree = read_json(path)
    try:
        if tree is None or tree.get("status") != "finished":
            return None
        require_shape(tree, RunResults, path)
        require_shape(tree, WholeResults, path)
    except UserError:
        return None
    return None if tree["scores"] and tree["average"] is None else tree


class BaseScores(TypedDict):
    """base_scores.json."""

    base_scores: dict[str, WholeScore]
    base_average: Share | None


def load_base_scores(path: Path) -> BaseScores | None:
    """The recorded scores of the untrained model; None where there are none, or they are damaged."""
    with suppress(UserError):
        return load_json(path, BaseScores)
    return None


class MetricsLine(TypedDict, total=False):
    """A line of metrics.jsonl."""

    step: Required[Count]
    cross_entropy: float | None
    validation_average: float | None
    validation_loss_average: float | None
    expert_load: dict[str, list[float | None]]


def metrics_line(line: str) -> MetricsLine | None:
    """A line of metrics.jsonl; None where it is damaged."""
    with suppress(UserError):
        return require_shape(parse_json(line, "metrics.jsonl"), MetricsLine, "metrics.jsonl")
    return None
