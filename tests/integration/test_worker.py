"""A training command in a worker process: exit code, message, log, environment and stop requests."""

import multiprocessing
import time
from pathlib import Path

import pytest

from mosld.sweeps import worker as module
from mosld.sweeps.worker import StopFlag, Worker, WorkerExit, run_in_worker

ARGUMENTS = ["model=tiny", "data=single_obqa", "source=local", "source.root=nowhere", "logger=files"]


@pytest.fixture
def fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Workers are forks, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_process_context", lambda: multiprocessing.get_context("fork"))
    return monkeypatch


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.slow
def test_user_error_reaches_the_parent(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_process_context", lambda: multiprocessing.get_context(method))
    ended = run_in_worker(ARGUMENTS, StopFlag(tmp_path), {}, None)
    assert ended.code == 2
    assert str(tmp_path / "nowhere") in ended.message


@pytest.mark.usefixtures("fork")
def test_output_goes_to_the_log_file(tmp_path: Path, capfd):
    run_in_worker(ARGUMENTS, StopFlag(tmp_path), {}, tmp_path / "log")
    assert (tmp_path / "log").read_text().startswith("error: ")
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("fork")
def test_worker_has_its_own_environment(tmp_path: Path):
    arguments = [text for text in ARGUMENTS if "root" not in text]
    ended = run_in_worker(
        [*arguments, "source.root=${oc.env:MOSLD_ROWS}"], StopFlag(tmp_path), {"MOSLD_ROWS": "there"}, None
    )
    assert str(tmp_path / "there") in ended.message


def test_killed_worker_names_the_signal(tmp_path: Path, fork: pytest.MonkeyPatch):
    fork.setattr(module, "_train", _sleep)
    process = Worker([], StopFlag(tmp_path), {}, None)
    assert process.poll() is None
    process.kill()
    while not (ended := process.poll()):
        pass
    assert ended == WorkerExit(-9, "killed by SIGKILL")


def test_request_to_stop_reaches_the_worker(tmp_path: Path, fork: pytest.MonkeyPatch):
    fork.setattr(module, "_train", _sleep)
    StopFlag(tmp_path).request()
    assert run_in_worker([], StopFlag(tmp_path), {}, None) == WorkerExit(-15, "killed by SIGTERM")


def _sleep(*_: object) -> None:
    time.sleep(60)
