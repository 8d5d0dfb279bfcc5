"""The process group of a run: collectives, failure reports, and leaving without disturbing the others.

A single process exchanges nothing: every method then returns its argument.
"""

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from torch import Tensor, distributed, nn

from mosld.common.errors import UserError
from mosld.common.process import on_command_end
from mosld.distributed.launch import launch

# Keys of the store that the processes share.
FAILED_KEY = "mosld/failed"
LEAVING_KEY = "mosld/leaving"
GONE_KEY = "mosld/gone"
# A process group whose collective hangs is never destroyed.
CLOSE_WAIT_SECONDS = 10.0
POLL_SECONDS = 0.02

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The process group of a run.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes.
        device: device of this process's model.
        sharded: whether each process holds only a shard of the model, so that all must run it at the same time.
    """

    rank: int
    count: int
    device: torch.device
    sharded: bool = False

    @property
    def main(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> list[tuple[T, bool]]:
        """This process's share of a list that all processes have: every count-th item, each with True.

        With a sharded model all processes get equally many items. A short share is filled up with the first item and
        False: it is run along with the others, and its result is dropped. The main process never gets one.
        """
        share = [(item, True) for item in items[self.rank :: self.count]]
        missing = -(-len(items) // self.count) - len(share)
        return share + [(items[0], False)] * (missing if self.sharded else 0)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def all_gather(self, value: T) -> list[T]:
        """The value of every process, in the order of ranks."""
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        distributed.all_gather_object(values, value)
        return cast("list[T]", values)

    def broadcast(self, value: T | None) -> T:
        """The main process's value; the argument of the other processes is ignored."""
        values = [value]
        if self.count > 1:
            distributed.broadcast_object_list(values, src=0, device=self.device)
        return cast("T", values[0])

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.broadcast("barrier")

    def report_failure(self) -> None:
        """Tell the others that this process ends with an error, so that none takes its end for a request to stop."""
        if self.count > 1:
            # The process that keeps the store may be gone.
            with suppress(RuntimeError):
                # The first report stays: the others fail because of it.
                _store().compare_set(FAILED_KEY, "", str(self.rank))

    def another_failed(self) -> bool:
        """Whether another process reported a failure, and before this one did."""
        if self.count > 1:
            with suppress(RuntimeError):
                return _store().check([FAILED_KEY]) and int(_store().get(FAILED_KEY)) != self.rank
        return False


def broadcast_buffers(model: nn.Module, group: Processes) -> None:
    """Send buffers that no state dict holds, such as rotary frequencies, in the main process's dtype."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = group.broadcast(buffer.cpu() if group.main else None).to(group.device)


def _store() -> distributed.Store:
    """The key-value store that the processes share besides their collectives."""
    return distributed.distributed_c10d._get_default_store()


def processes() -> Processes:
    """The process group of this run; the first call joins it where a launcher started several processes.

    Raises:
        UserError: another number of processes joined than the launcher announced.
    """
    state = PartialState(cpu=not torch.accelerator.is_available())
    announced = int(os.environ.get("WORLD_SIZE", "1"))
    if announced != state.num_processes:
        raise UserError(f"WORLD_SIZE={announced}, but {state.num_processes} processes have joined: use torchrun.")
    return Processes(state.process_index, state.num_processes, state.device, launch().sharded)


def leave_group(wait_seconds: float) -> None:
    """Destroy the process group without disturbing the other processes. It never hangs.

    Threads of a collective that is still open when the interpreter exits abort the process, and the first process to
    leave closes connections that others may still read from. So all processes first announce that they are done, and
    only then destroy the group. The main process may keep the store of these announcements, so it leaves last.

    Args:
        wait_seconds: how long to wait for the others; 0 after an error, which the others do not wait for.
    """
    if not distributed.is_initialized():
        return
    store = _store()
    group = processes()
    if wait_seconds:
        _wait_for_all(store, LEAVING_KEY, group.count, wait_seconds)
    closing = threading.Thread(target=distributed.destroy_process_group, daemon=True)
    closing.start()
    closing.join(CLOSE_WAIT_SECONDS)
    # accelerate would still refer to the destroyed group.
    AcceleratorState._reset_state(reset_partial_state=True)
    if wait_seconds:
        _wait_for_all(store, GONE_KEY, group.count, CLOSE_WAIT_SECONDS if group.main else 0)


def _wait_for_all(store: distributed.Store, key: str, count: int, wait_seconds: float) -> None:
    """Count this process under `key`, and wait until all are counted, one has failed, or the time is up."""
    deadline = time.monotonic() + wait_seconds
    # The process that keeps the store may be gone.
    with suppress(RuntimeError):
        arrived = store.add(key, 1)
        while arrived < count and time.monotonic() < deadline and not store.check([FAILED_KEY]):
            time.sleep(POLL_SECONDS)
            arrived = store.add(key, 0)


on_command_end(leave_group)
