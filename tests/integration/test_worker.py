"""A training command in a process of its own: how it ended is known, whether the process is a fork or starts anew."""

import multiprocessing
from pathlib import Path

import pytest

from mosld.sweeps import worker as module
from mosld.sweeps.worker import StopFlag, Worker, WorkerExit, run_in_worker

ARGUMENTS = ["model=tiny", "data=single_obqa", "source=local", "source.root=nowhere", "logger=files"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_mistake_is_known_to_the_parent(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_process_context", lambda: multiprocessing.get_context(method))
    ended = run_in_worker(ARGUMENTS, StopFlag(tmp_path), {}, None)
    assert ended.code == 2
    assert str(tmp_path / "nowhere") in ended.message


def test_what_it_prints_can_go_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_process_context", lambda: multiprocessing.get_context("fork"))
    run_in_worker(ARGUMENTS, StopFlag(tmp_path), {}, tmp_path / "log")
    assert (tmp_path / "log").read_text().startswith("error: ")
    assert capfd.readouterr().err == ""


def test_its_environment_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_process_context", lambda: multiprocessing.get_context("fork"))
    arguments = [text for text in ARGUMENTS if "root" not in text]
    ended = run_in_worker([*arguments, "source.root=${oc.env:ROWS}"], StopFlag(tmp_path), {"ROWS": "there"}, None)
    assert str(tmp_path / "there") in ended.message


def test_a_death_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_train", _sleep)
    monkeypatch.setattr(module, "_process_context", lambda: multiprocessing.get_context("fork"))
    process = Worker([], StopFlag(tmp_path), {}, None)
    assert process.poll() is None
    process.kill()
    while not (ended := process.poll()):
        pass
    assert ended == WorkerExit(-9, "killed by SIGKILL")


def test_the_wish_to_stop_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_train", _sleep)
    monkeypatch.setattr(module, "_process_context", lambda: multiprocessing.get_context("fork"))
    StopFlag(tmp_path).request()
    assert run_in_worker([], StopFlag(tmp_path), {}, None) == WorkerExit(-15, "killed by SIGTERM")


def _sleep(*_: object) -> None:
    import time

    time.sleep(60)
