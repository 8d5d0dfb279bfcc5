"""Damaged and hostile files of every kind are refused in a message of one line: no traceback, nothing takes long."""

import io
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pytest

import mosld
from mosld.adapters.load import load_adapter
from mosld.analysis.adapter_files import AdapterRun
from mosld.common.errors import UserError
from mosld.common.files import damage
from mosld.common.reading import load_json
from mosld.config import compose, options, search_path, sweep
from mosld.config.schema import ModelConfig
from mosld.data.leaks import Record
from mosld.data.tokens.chat_template import end_of_turn
from mosld.models.load import load_model
from mosld.recipes.report import report_runs
from mosld.reporting.collect import collect
from mosld.reporting.compare import Predictions
from mosld.runs.console import Console
from mosld.runs.directory import RunDirectory
from mosld.runs.loss_curve import draw_loss_curve
from mosld.runs.record import load_base_scores
from mosld.runs.results import MetricsLog
from mosld.runs.saved import saved_run
from mosld.runs.tables import results_table
from mosld.training.checkpoint import Progress
from tests.helpers.cases import Case, Outcome, check_case
from tests.helpers.mutations import mutate_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests" / "fixtures" / "contract" / "finished"
MAX_SECONDS = 10.0
# Another seed tries other damage.
SEED = int(os.environ.get("MOSLD_FUZZ_SEED", "0"))


@dataclass(frozen=True)
class Kind:
    """A file, and what reads it.

    Attributes:
        file: its path below the folder.
        count: mutations in the full run.
        read: reads it; the argument is the folder.
        make: fills the folder.
    """

    file: str
    count: int
    read: Callable[[Path], object]
    make: Callable[[Path], object]


def _run(folder: Path) -> None:
    shutil.copytree(RECORDED, folder / "run")
    # What changed is not compared with its checksum here: readers have to bear what is written on purpose.
    for name in ("adapter/manifest.json", "manifest.json"):
        (folder / "run" / name).unlink(missing_ok=True)


def _base(folder: Path) -> None:
    model, tokenizer = mosld.load_base("tiny")
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    (folder / "base" / "chat_template.jinja").write_text(
        "{% for message in messages %}<s>{{ message.role }}: {{ message.content | trim }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )


def _write(name: str, content: object, folder: Path) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def _lora(folder: Path) -> None:
    model = mosld.adapt(mosld.load_base("tiny")[0], "lora", seed=0)
    model.save_pretrained(str(folder / "run" / "adapter"))


def _config(folder: Path) -> None:
    saved_run(str(folder / "run")).config()


def _results(folder: Path) -> None:
    run = RunDirectory(folder / "run")
    with redirect_stdout(io.StringIO()):
        if results := run.finished():
            Console().show(results_table(results))
        report_runs([str(run.path)], folder / "report", None, 0, paper=False, figures=False, command="")


def _predictions(folder: Path) -> None:
    run = collect([str(folder / "run")]).runs[0]
    Predictions().correct(run, "obqa")


def _routing(folder: Path) -> None:
    saved = saved_run(str(folder / "run"))
    AdapterRun(saved, saved.config()).routing(None)


def _adapter(folder: Path) -> None:
    load_adapter(mosld.load_base("tiny")[0], folder / "run" / "adapter")


def _model(folder: Path) -> None:
    _, tokenizer = load_model(ModelConfig(name="base", kind="hub", path=str(folder / "base"), dtype="float32"))
    end_of_turn(tokenizer)


def _metrics(folder: Path) -> None:
    path = folder / "run" / "metrics.jsonl"
    draw_loss_curve(RunDirectory(folder / "run"))
    with MetricsLog(path, 3):
        pass


def _differences(folder: Path) -> None:
    run = RunDirectory(folder / "run")
    run.differences(saved_run(str(folder / "run")).config(), {"fingerprint": "x", "counts": {}})


@cache
def _conf_copy() -> Callable[[Path], None]:
    return lambda folder: shutil.copytree(options.config_directory(), folder / "conf")


def _conf(name: str, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (compose, options, search_path):
            patch.setattr(module, "config_directory", lambda: folder / "conf")
        if name.startswith("sweep="):
            sweep.plan_sweep([name, "model=tiny", "data=mixture"])
        else:
            compose.load_config([name, "model=tiny", "data=mixture"])


SCORES = {"base_scores": {"obqa": {"accuracy": 0.5, "stderr": 0.1, "n": 8}}, "base_average": 0.5}
PROGRESS = {"step": 3, "tokens": 5, "seconds": 1.5, "best_step": 2, "best_score": 0.5, "best_loss": None}
ROWS = {"train": "AAAAAAAAAAA=", "validation": "", "unused": "AAAAAAAAAAA="}
MANIFEST = {"a.txt": {"bytes": 3, "sha256": "0" * 64}}
KINDS = (
    Kind("run/config.yaml", 700, _config, _run),
    Kind("run/results.json", 500, _results, _run),
    Kind("run/data.json", 300, _differences, _run),
    Kind("run/routing.json", 300, _routing, _run),
    Kind("run/predictions/obqa.jsonl", 400, _predictions, _run),
    Kind("run/metrics.jsonl", 250, _metrics, _run),
    Kind("run/adapter/adapter_config.json", 300, _adapter, _run),
    Kind("run/adapter/adapter_config.json", 250, _adapter, _lora),
    Kind("base/config.json", 250, _model, _base),
    Kind("base/tokenizer.json", 100, _model, _base),
    Kind("base/tokenizer_config.json", 150, _model, _base),
    Kind("base/generation_config.json", 150, _model, _base),
    Kind("base/chat_template.jinja", 150, _model, _base),
    Kind("base_scores.json", 300, lambda f: load_base_scores(f / "base_scores.json"),
         partial(_write, "base_scores.json", SCORES)),
    Kind("progress.json", 300, lambda f: load_json(f / "progress.json", Progress),
         partial(_write, "progress.json", PROGRESS)),
    Kind("rows.json", 200, lambda f: Record.read(f / "rows.json"), partial(_write, "rows.json", ROWS)),
    Kind("manifest.json", 300, lambda f: list(damage(f)), partial(_write, "manifest.json", MANIFEST)),
    Kind("conf/method/mosld.yaml", 40, partial(_conf, "method=mosld"), _conf_copy()),
    Kind("conf/sweep/dropout.yaml", 20, partial(_conf, "sweep=dropout"), _conf_copy()),
    Kind("conf/experiment/fig4.yaml", 40, partial(_conf, "experiment=fig4"), _conf_copy()),
)  # fmt: skip


def cases(full: bool) -> list[Case]:
    """A case for each kind of file."""
    return [Case(f"{kind.file} {i}", partial(_fuzz, kind, 1.0 if full else 0.04)) for i, kind in enumerate(KINDS)]


def _fuzz(kind: Kind, share: float, folder: Path) -> Outcome:
    kind.make(folder)
    path = folder / kind.file
    original = path.read_bytes()
    rng = random.Random(f"{SEED} {kind.file}")
    outcome = Outcome(max(3, int(kind.count * share)), figure=0.0)
    for number in range(outcome.cases):
        mutate_file(path, original, rng)
        started = time.process_time()
        try:
            with redirect_stderr(io.StringIO()):
                kind.read(folder)
        except UserError:
            pass
        except Exception as error:
            kept = folder.parent / f"{number}-{path.name}"
            shutil.copy(path, kept)
            outcome.failures.append(f"{kept}: {type(error).__name__}: {str(error)[:200]}")
        # Of the processor: other jobs on the machine do not count.
        seconds = time.process_time() - started
        outcome.figure = max(outcome.figure or 0.0, seconds)
        if seconds > MAX_SECONDS:
            outcome.failures.append(f"{number}: {seconds:.1f} s")
    return outcome


@pytest.mark.parametrize("case", cases(full=True), ids=str)
def test_promise(case, tmp_path):
    check_case(case, tmp_path)
