"""The experiments of the paper: which jobs each has, at which scale, that they share runs and train in tiny form."""

import json
from pathlib import Path

import pytest

from mosld.config.groups import group_options
from mosld.config.identity import run_directory
from mosld.config.sweep import Job, is_sweep, plan_sweep
from mosld.train import main
from tests.helpers import sweeps

pytestmark = pytest.mark.slow

JOBS = {
    "table1": 77, "table2": 3, "table3": 5, "table4": 9, "table5": 4, "table6": 5, "table7": 18,
    "fig1": 14, "fig4": 8, "fig5": 6, "fig6": 5, "fig7": 5,
}  # fmt: skip
TINY = ["scale=small", "debug=fast", "logger=files", "evaluation.limit=2", "training.max_steps=1"]


def jobs(name: str, *scale: str) -> list[Job]:
    return sweeps.jobs(f"experiment={name}", *scale)


def directories(name: str, *scale: str) -> set[str]:
    return {str(run_directory(job.config)) for job in jobs(name, *scale)}


def test_every_experiment_of_the_paper_is_listed_here():
    names = {name for name in group_options()["experiment"] if name.startswith(("table", "fig"))}
    assert names == set(JOBS)


@pytest.mark.parametrize("name", JOBS)
def test_experiment_is_a_sweep_of_its_jobs(name: str):
    assert (is_sweep([f"experiment={name}"]), len(jobs(name)), len(directories(name))) == (True, JOBS[name], JOBS[name])


@pytest.mark.parametrize("name", JOBS)
def test_experiment_has_the_scale_of_the_paper(name: str):
    for job in jobs(name):
        config = job.config
        assert (config.model.name.startswith("llama"), config.source.name) == (True, "hub")
        assert (config.training.batch_size, config.training.epochs, config.training.max_steps) == (128, 10, None)
        assert config.training.learning_rate == (2e-5 if config.method.name == "full" else 3e-4)
        assert (config.data.limit, config.evaluation.limit) == (None, None)


@pytest.mark.parametrize("name", [name for name in JOBS if name != "table1"])
def test_scale_small_makes_it_small(name: str):
    found = {
        (job.config.model.name, job.config.source.name, job.config.training.max_steps)
        for job in jobs(name, "scale=small")
    }
    assert found == {("smollm2_135m", "bundled", 50)}


@pytest.mark.parametrize(
    ("scale", "amounts"),
    [([], [1375, 2750, 5500, 11000, 22000]), (["scale=small"], [125, 250, 500, 1000, 2000]), (["scale=null"], None)],
)
def test_figure_6_asks_for_as_many_rows_as_its_source_has(scale: list[str], amounts: list[int] | None):
    found = [job.config.data.n_openorca for job in jobs("fig6", *scale)]
    assert found == (amounts or [job.config.data.n_openorca for job in jobs("fig6")])


def test_scale_small_accepts_local_rows():
    (job,) = plan_sweep(["experiment=table2", "scale=small", "source=local", "source.root=x", "method=mosl"]).jobs
    assert (job.config.source.name, job.config.training.max_steps) == ("local", 50)


def test_table_1_has_all_methods_but_the_ablation_of_table_2_and_newer_relatives():
    own = {name for name in group_options()["method"] if not name.endswith("_authors")}
    assert {job.config.method.name for job in jobs("table1")} == own - {
        "mosld_b", "lora_matched", "rlora", "comol", "smora", "loramoe", "flylora"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["fig1", "fig4", "table5"])
def test_table_shares_all_its_runs_with_table_1(name: str):
    assert directories(name) <= directories("table1")


@pytest.mark.parametrize(("name", "own"), [("table2", 1), ("table6", 4), ("fig5", 5), ("fig7", 4), ("table4", 6)])
def test_table_has_few_runs_besides_those_of_table_1(name: str, own: int):
    assert len(directories(name) - directories("table1")) == own


@pytest.mark.parametrize("name", JOBS)
def test_last_job_trains_on_the_tiny_model(name: str, tmp_path: Path):
    # As a run of its own: the experiment's file would make it a sweep again.
    scale = ["scale=small"] if name == "fig6" else []  # whose amounts are others; of the rest it leaves the jobs
    chosen = [
        text for text in jobs(name, *scale)[-1].overrides if not text.startswith(("model=", "experiment=", "sca"))
    ]
    assert main([*chosen, *TINY, f"output_dir={tmp_path / 'run'}"]) == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "finished"


def test_experiment_reuses_the_runs_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["experiment=table2", *TINY, "data.tasks=[obqa]"]) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/*/*/*/results.json")}
    assert len(before) == 3
    assert main(["experiment=table5", *TINY, "data.tasks=[obqa]", "method=lora,mosld"]) == 0
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/*/*/*/results.json")}
    assert (len(after), before.items() <= after.items()) == (4, True)
    assert "finished before" in capsys.readouterr().err
