"""A launcher's variables, a deleted working directory, arguments that are no UTF-8, code that never ends."""

import re
import time

import pytest

from mosld.common.errors import UserError
from mosld.common.machine import check_machine, time_limit

TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
STRAY = {
    "RANK=1": "RANK=1: must be below WORLD_SIZE (1)",
    "LOCAL_RANK=1": "LOCAL_RANK=1: must be below WORLD_SIZE (1)",
    "RANK=-1": "RANK=-1: must be a whole number",
    "RANK=": "RANK=: must be a whole number",
    "WORLD_SIZE=two": "WORLD_SIZE=two: must be a whole number",
    "WORLD_SIZE=99999999999999999999": "must be a whole number",
    "WORLD_SIZE=0": "WORLD_SIZE=0: must be at least 1",
    "WORLD_SIZE=2": "without RANK, MASTER_ADDR, MASTER_PORT",
    "WORLD_SIZE=2 RANK=0": "without MASTER_ADDR, MASTER_PORT",
    "WORLD_SIZE=2 RANK=0 MASTER_ADDR=localhost MASTER_PORT=x": "MASTER_PORT=x: must be a whole number below 65536",
    "WORLD_SIZE=2 RANK=1 MASTER_ADDR=localhost MASTER_PORT=65536": "MASTER_PORT=65536: must be a whole",
    "WORLD_SIZE=2 RANK=2 MASTER_ADDR=localhost MASTER_PORT=1": "RANK=2: must be below WORLD_SIZE (2)",
}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("variables", "message"), STRAY.items(), ids=STRAY)
def test_stray_or_malformed_variable_is_refused_by_name(variables, message, monkeypatch):
    for variable in variables.split():
        monkeypatch.setenv(*variable.split("="))
    with pytest.raises(UserError, match=re.escape(message)):
        check_machine([])


@pytest.mark.parametrize("variables", [{}, TORCHRUN, {**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}])
def test_launchers_of_one_and_more_processes_pass(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_machine(["seed=1"])


def test_deleted_working_directory_is_refused(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match="the working directory was deleted"):
        check_machine([])


def test_argument_that_is_no_utf8_is_refused():
    with pytest.raises(UserError, match=r"'output_dir=\\udcff': is no UTF-8"):
        check_machine(["seed=1", "output_dir=\udcff"])


def test_code_that_never_ends_is_ended():
    started = time.process_time()
    message = r"the regex takes more than 0\.2 seconds of CPU time"
    with pytest.raises(UserError, match=message), time_limit(0.2, "the regex"):
        re.fullmatch("(a+)+b", "a" * 64)
    assert time.process_time() - started < 5
    with time_limit(0.05, "nothing"):
        pass
    started = time.process_time()
    while time.process_time() < started + 0.1:
        pass
