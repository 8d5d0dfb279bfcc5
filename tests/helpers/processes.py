"""Code in two processes that talk over gloo, as a launcher would start them."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.helpers.fork_server import ROOT, free_port

# A process that leaves while the other still talks to it aborts the other.
LEAVE = "\nimport torch.distributed as dist\ndist.barrier()\ndist.destroy_process_group()\n"


def in_two_processes(code: str, **environment: str) -> list[Any]:
    """By rank, the last line that the code prints, read as JSON; the code joins the process group."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "PYTHONPATH": path}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code + LEAVE],
            env={**os.environ, **shared, **environment, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    outputs = [worker.communicate(timeout=240) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "".join(err[-2000:] for _, err in outputs)
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]
