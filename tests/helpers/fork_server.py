"""Processes that start in milliseconds: a server imports everything once and forks a child for every request.

A child is a process of its own, with the default signal handlers, its own environment and its output in a file, so a
run can be killed in it in any way. Several children can form one run, as torchrun would start them.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from mosld.common.process import silence_imports

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "mosld.train", "mosld.eval", "mosld.recipes.train", "mosld.recipes.moa", "mosld.tracking.wandb", "mosld.adapters",
)  # fmt: skip


class Nursery:
    """The client: starts children and waits for them."""

    def __init__(self) -> None:
        """Start the server, which takes some seconds; one for all cases."""
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        atexit.register(self.close)

    def close(self) -> None:
        """End the server; children that still run are killed."""
        if self._server.poll() is None:
            self._server.communicate(timeout=10)

    def start(self, call: str, arguments: list[Any], log: Path, faults: Any = (), **environment: str) -> int:
        """Fork a child that calls "module:function" with these arguments; returns its process id."""
        log.parent.mkdir(parents=True, exist_ok=True)
        request = {"call": call, "arguments": arguments, "log": str(log), "faults": list(faults), "env": environment}
        return self._ask(request)

    def wait(self, child: int, seconds: float = 300) -> int | None:
        """Its exit code, or minus the signal that ended it; None if it still runs."""
        return self._ask({"wait": child, "seconds": seconds})

    def train(self, arguments: list[str], log: Path, faults: Any = (), **environment: str) -> int | None:
        """One run of the training command; returns its exit code. What it prints goes to `log`."""
        return self.wait(self.start("mosld.train:main", [arguments], log, faults, **environment))

    def start_several(
        self,
        count: int,
        call: str,
        arguments: list[Any],
        log: Path,
        faults: dict[int, Any] | None = None,
        **environment: str,
    ) -> list[int]:
        """As many children as one run of `count` processes has; `faults` by rank, their output in `log`-<rank>."""
        port = str(free_port())
        return [
            self.start(
                call, arguments, log.with_name(f"{log.name}-{rank}"), (faults or {}).get(rank, ()), RANK=str(rank),
                LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
                **environment,
            )
            for rank in range(count)
        ]  # fmt: skip

    def train_several(
        self, count: int, arguments: list[str], log: Path, faults: dict[int, Any] | None = None, **environment: str
    ) -> list[int | None]:
        """One run of the training command in `count` processes; returns their exit codes."""
        children = self.start_several(count, "mosld.train:main", [arguments], log, faults, **environment)
        return [self.wait(child) for child in children]

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def nursery() -> Nursery:
    """The one nursery of this process."""
    if not hasattr(nursery, "one"):
        nursery.one = Nursery()
    return nursery.one


def _serve() -> None:
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    silence_imports()
    for module in HEAVY:
        __import__(module)
    get_checkpoint_conversion_mapping("llama")  # transformers makes a table of all models, once in a process
    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = _wait(request["wait"], request["seconds"])
            running -= {request["wait"]} if answer is not None else set()
        else:
            answer = os.fork()
            if not answer:
                _live(request)
            running.add(answer)
        print(json.dumps(answer), flush=True)
    for child in running:
        os.kill(child, signal.SIGKILL)


def _wait(child: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, code = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(code)
        time.sleep(0.005)
    return None


def _live(request: dict[str, Any]) -> None:
    """The life of a child; it ends here."""
    code = 1
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        sys.stdin = open(os.devnull)  # noqa: SIM115 - the server's own must not be read by a child
        os.environ.update(request["env"])
        from tests.helpers.faults import find, plant

        plant(request["faults"])
        owner, name = find(request["call"])
        code = getattr(owner, name)(*request["arguments"])
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


if __name__ == "__main__":
    _serve()
