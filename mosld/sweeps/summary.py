"""How a sweep ended: summary.json in its directory, and a table with a line for every job."""

from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from mosld.common.files import JsonObject, read_json, write_json
from mosld.config.sweep import Sweep, varying
from mosld.runs.power import SMALLEST

SCHEMA_VERSION = 1
GOOD = {"finished", "passed the check"}


def summarise(plan: Sweep, seconds: float, error: str, stopped: bool) -> JsonObject:
    """What the records of the jobs say, and summary.json with the same.

    Args:
        plan: the sweep.
        seconds: that it took.
        error: of the sweeper or launcher itself; empty where there was none.
        stopped: whether it was asked to end.
    """
    jobs = {number: _planned(number, job.overrides) for number, job in enumerate(plan.jobs, 1)}
    for path in plan.directory.glob("jobs/*.json"):
        # A damaged record leaves its job as planned.
        if record := read_json(path):
            jobs[record["job"]] = record
    records = [jobs[number] for number in sorted(jobs)]
    validated = [(score, -job["job"], job) for job in records if (score := validation_score(job)) is not None]
    best = max(validated)[-1] if validated else None
    summary = {
        "schema_version": SCHEMA_VERSION,
        "name": plan.name,
        "status": _status({job["status"] for job in records}, error, stopped, complete=bool(plan.jobs)),
        "directory": str(plan.directory),
        "launcher": plan.launcher,
        "finished": sum(job["status"] == "finished" for job in records),
        "seconds": seconds,
        "error": error or None,
        "best": best and best["job"],
        "jobs": records,
    }
    write_json(plan.directory / "summary.json", summary)
    return summary


def validation_score(job: JsonObject) -> float | None:
    """What a job is compared by, the higher the better: its validation accuracy, or minus its loss (`best_by`)."""
    if job.get("best_by") == "loss":
        return None if job["validation_loss"] is None else -job["validation_loss"]
    return job.get("validation_average")


def summary_table(summary: JsonObject) -> RenderableType:
    """A line for every job, the best by validation marked, and below it why jobs did not finish."""
    jobs = summary["jobs"]
    table = Table("job", Column("what differs", overflow="fold"), "status")
    for column in ("validation", "test", "seconds"):
        table.add_column(column, justify="right")
    everything = [job["overrides"] for job in jobs]
    for job in jobs:
        what = Text(" ".join(varying(job["overrides"], everything)))
        scores = [_percent(job[key]) for key in ("validation_average", "average")]
        seconds = "" if job["seconds"] is None else f"{job['seconds']:.0f}"
        style = "bold" if job["job"] == summary["best"] else ""
        table.add_row(str(job["job"]), what, job["status"], *scores, seconds, style=style)
    title = f"Sweep {summary['name']}: {summary['finished']} of {len(jobs)} jobs finished; accuracy in %"
    return Group(title, table, *_power_note(jobs), *(Text(line) for job in jobs if (line := _trouble(job))))


def _power_note(jobs: list[JsonObject]) -> list[str]:
    sizes = [job["smallest_difference"] for job in jobs if job.get("smallest_difference") is not None]
    if not sizes:
        return []
    return [f"{SMALLEST}: test average {100 * max(sizes):.1f} points over items; over seeds: see mosld.report"]


def _status(statuses: set[str], error: str, stopped: bool, complete: bool) -> str:
    """finished, interrupted or failed, as a run's; `complete` says that no job is unknown."""
    if statuses <= GOOD and not error and (complete or not stopped):
        return "finished"
    return "interrupted" if stopped or "interrupted" in statuses else "failed"


def _trouble(job: JsonObject) -> str:
    if not job["error"]:
        return ""
    log = Path(job["run"]) / "train.log" if job["run"] else None
    where = f" ({log})" if log and log.is_file() else ""
    return f"job {job['job']} {job['status']}: {job['error']}{where}"


def _planned(number: int, overrides: list[str]) -> JsonObject:
    """A job that has left no record."""
    names = (
        "run",
        "average",
        "validation_average",
        "smallest_difference",
        "validation_loss",
        "best_by",
        "seconds",
        "error",
    )
    empty = dict.fromkeys(names)
    return {"job": number, "overrides": overrides, "status": "not started", **empty}


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
