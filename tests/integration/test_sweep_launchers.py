"""Sweeps as users start them: Optuna, joblib, submitit's tasks and `accelerate launch`, on the tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mosld.sweeps.job import reserved_device
from mosld.train import main

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).resolve().parents[2]
FAULTY = ROOT / "tests" / "helpers" / "faulty_train.py"
BUG = {"at": "mosld.recipes.train:make_loop", "call": 1, "only": "Config(seed=1,", "do": "error"}


def run(folder: Path, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True)


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, ["-m", "mosld.train", *arguments])


def summary(folder: Path) -> dict:
    (path,) = (folder / "outputs" / "sweeps").glob("*/summary.json")
    return json.loads(path.read_text())


def statuses(folder: Path) -> list[str]:
    return [job["status"] for job in summary(folder)["jobs"]]


def results(folder: Path) -> dict[Path, int]:
    """When each run wrote its results."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("outputs/single_obqa/tiny/*/results.json")}


@pytest.fixture
def arguments(toy_root: Path) -> list[str]:
    return [
        "model=tiny", "data=single_obqa", "source=local", f"source.root={toy_root}", "training.max_steps=2",
        "training.batch_size=4", "training.micro_batch_size=2", "evaluation.limit=4", "logger=files",
    ]  # fmt: skip


def test_optuna_repeats_its_trials_and_finds_them_finished(tmp_path: Path, arguments: list[str]):
    pytest.importorskip("optuna")
    command = [*arguments, "sweep=optuna", "hydra.sweeper.n_trials=3"]
    first = train(tmp_path, *command)
    assert first.returncode == 0, first.stderr[-3000:]
    assert statuses(tmp_path) == ["finished"] * 3
    swept = summary(tmp_path)
    best = max(job["validation_average"] for job in swept["jobs"])
    assert swept["jobs"][swept["best"] - 1]["validation_average"] == best
    assert "best_value" in (tmp_path / swept["directory"] / "optimization_results.yaml").read_text()
    before = results(tmp_path)
    assert len(before) == len({job["run"] for job in swept["jobs"]})
    second = train(tmp_path, *command)
    assert second.returncode == 0
    assert second.stderr.count("finished before") == 3
    assert results(tmp_path) == before
    assert second.stdout.splitlines()[-1] == swept["directory"]


def test_optuna_continues_after_a_failed_trial(tmp_path: Path, arguments: list[str]):
    pytest.importorskip("optuna")
    more = ["method.rank=4", "method.dropout=0", "training.learning_rate=1.0e-3", "seed=choice(0,1)"]
    command = [str(FAULTY), *arguments, "sweep=optuna", *more, "hydra.sweeper.n_trials=5"]
    done = run(tmp_path, command, FAULTS=json.dumps({"0": [BUG]}))
    assert done.returncode == 4, done.stderr[-3000:]
    assert summary(tmp_path)["status"] == "failed"
    jobs = summary(tmp_path)["jobs"]
    outcomes = {text: (job["status"], job["error"]) for job in jobs for text in job["overrides"] if "seed=" in text}
    assert outcomes == {"seed=0": ("finished", None), "seed=1": ("failed", "RuntimeError: planted")}
    assert len(jobs) == 5


def test_joblib_writes_a_log_per_job(tmp_path: Path, arguments: list[str]):
    pytest.importorskip("joblib")
    done = train(tmp_path, "-m", *arguments, "launcher=joblib", "seed=0,1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert statuses(tmp_path) == ["finished"] * 2
    for number in (1, 2):
        log = tmp_path / summary(tmp_path)["directory"] / "jobs" / f"{number}.log"
        assert "accuracy" in log.read_text()
    assert "training 1/2" not in done.stderr


def test_submitit_job_is_one_run_of_all_its_tasks(tmp_path, arguments, monkeypatch):
    pytest.importorskip("submitit")
    local = ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2", "hydra.launcher.timeout_min=5"]
    done = train(tmp_path, "-m", *arguments, *local, "seed=0")
    assert done.returncode == 0, done.stderr[-3000:]
    (job,) = summary(tmp_path)["jobs"]
    assert job["status"] == "finished"
    assert len(results(tmp_path)) == 1
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "output_dir=one", "training.max_steps=2"]) == 0
    assert losses(tmp_path / job["run"]) == pytest.approx(losses(tmp_path / "one"), abs=1e-6)


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["cross_entropy"] for line in lines if "cross_entropy" in line]


STARTS = {
    "accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}


@pytest.mark.parametrize("launch", STARTS)
def test_job_that_fails_on_one_rank_ends_on_all_ranks(launch: str, tmp_path: Path, arguments: list[str]):
    command = [*STARTS[launch], str(FAULTY), "-m", *arguments, "seed=0,1,2"]
    done = run(tmp_path, command, FAULTS=json.dumps({"1": [BUG]}))
    assert done.returncode == 1, done.stderr[-3000:]
    assert statuses(tmp_path) == ["finished", "failed", "finished"]
    assert "planted" in summary(tmp_path)["jobs"][1]["error"]
    assert len(list(tmp_path.glob("outputs/single_obqa/tiny/*"))) == 3


def test_sweep_in_several_processes_trains_only_missing_runs(tmp_path, arguments, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "seed=0"]) == 0
    before = results(tmp_path)
    done = run(tmp_path, [*STARTS["torchrun"], "-m", "mosld.train", "-m", *arguments, "seed=0,1"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert statuses(tmp_path) == ["finished"] * 2
    assert done.stderr.count("finished before") == 1
    assert results(tmp_path).items() > before.items()


def test_concurrent_jobs_have_their_own_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with reserved_device(tmp_path) as first, reserved_device(tmp_path) as second, reserved_device(tmp_path) as third:
        assert [environment["CUDA_VISIBLE_DEVICES"] for environment in (first, second, third)] == ["3", "5", "3"]
    with reserved_device(tmp_path) as free:
        assert free == {"CUDA_VISIBLE_DEVICES": "3"}


def test_machine_without_devices_sets_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with reserved_device(tmp_path) as environment:
        assert environment == {}
