"""Leaving the process group: together, in bounded time, without aborting other processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).resolve().parents[3]
WORKER = """
import json, sys, time, torch
from torch import distributed
from mosld.cli import run_command
from mosld.common.errors import UserError
from mosld.distributed.processes import processes

def command(arguments):
    group = processes()
    for _ in range(20):
        group.all_reduce(torch.ones(10))
    if arguments[0] == "one fails" and group.rank == 1:
        group.report_failure()
        raise UserError("too little memory")
    time.sleep(float(arguments[1 + group.rank]))
    print(json.dumps({"done": time.time()}), flush=True)
    return 0

code = run_command(command, "", sys.argv[1:])
print(json.dumps({"left": time.time(), "open": distributed.is_initialized()}), flush=True)
sys.exit(code)
"""


def run(*arguments: str) -> tuple[list[int], list[dict]]:
    """Exit codes of two processes, and what each printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=60)[0] for worker in workers]
    said = [{k: v for line in out.splitlines() for k, v in json.loads(line).items()} for out in outputs]
    return [worker.returncode for worker in workers], said


def test_processes_leave_only_when_all_are_done():
    codes, said = run("all finish", "0", "1.5")
    assert codes == [0, 0]
    assert min(one["left"] for one in said) >= max(one["done"] for one in said)
    assert [one["open"] for one in said] == [False, False]


def test_failed_process_does_not_wait_and_is_not_waited_for():
    codes, said = run("one fails", "1.0", "0")
    assert codes == [0, 2]
    assert said[0]["left"] - said[0]["done"] < 5
