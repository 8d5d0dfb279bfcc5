"""What several processes of one run exchange, and how they part. Alone, a process exchanges nothing."""

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from torch import Tensor, distributed

from mosld.common.errors import UserError
from mosld.common.process import on_command_end
from mosld.distributed.launch import launch

FAILED, LEAVING, GONE = "mosld/failed", "mosld/leaving", "mosld/gone"
CLOSING = 10.0  # seconds in which a group is taken apart; one whose exchange hangs never is


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: number of this one, from 0.
        count: how many there are.
        device: where this one's model lies.
        sharded: whether each holds a part of the model alone, so that all must run it at the same time.
    """

    rank: int
    count: int
    device: torch.device
    sharded: bool = False

    @property
    def main(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def shard(self, items: list[Any]) -> list[tuple[Any, bool]]:
        """This process's part of a list that all have: every count-th item, each with True.

        Where the model is sharded all get as many. What is short is made up by the first item of the list with False:
        to be run with the others, its outcome thrown away. The main process never gets one.
        """
        own = [(item, True) for item in items[self.rank :: self.count]]
        short = -(-len(items) // self.count) - len(own)
        return own + [(items[0], False)] * (short if self.sharded else 0)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def all_gather(self, value: Any) -> list[Any]:
        """The value of every process, in the order of their ranks, in every process."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def broadcast(self, value: Any) -> Any:
        """The main process's value, in every process."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.broadcast(None)

    def report_failure(self) -> None:
        """Let the others know that this process ends by an error, so that none takes its end for a wish to stop."""
        if self.count > 1:
            with suppress(RuntimeError):  # the process that keeps the store may be gone
                _store().compare_set(FAILED, "", str(self.rank))  # the first one stays: the others fail because of it

    def failed_because_of_another(self) -> bool:
        """Whether another process told of a failure before this one did."""
        if self.count > 1:
            with suppress(RuntimeError):
                return _store().check([FAILED]) and int(_store().get(FAILED)) != self.rank
        return False

    def another_failed(self) -> bool:
        """Whether any process has ended by an error."""
        if self.count > 1:
            with suppress(RuntimeError):
                return _store().check([FAILED])
        return False


def _store() -> Any:
    """The small table that all processes share besides their collectives."""
    return distributed.distributed_c10d._get_default_store()


def processes() -> Processes:
    """The processes of this run, joined on the first call where a launcher started several.

    Raises:
        UserError: the launcher announced other processes than have joined.
    """
    state = PartialState(cpu=not torch.accelerator.is_available())
    announced = int(os.environ.get("WORLD_SIZE", "1"))
    if announced != state.num_processes:
        raise UserError(f"WORLD_SIZE={announced}, but {state.num_processes} processes have joined: use torchrun.")
    return Processes(state.process_index, state.num_processes, state.device, launch().sharded)


def leave(patience: float) -> None:
    """Take this process out of the group, so that its end disturbs none of the others. It never hangs.

    The threads of an exchange that is still open when the interpreter ends abort the process, and the one that leaves
    first closes what another may still be reading from. So all say that they are done, and only then take the group
    apart; the main one, which may keep the table they say it in, goes last.

    Args:
        patience: seconds to wait for the others; 0 where this process ends by an error, which they do not wait for.
    """
    if not distributed.is_initialized():
        return
    store, group = _store(), processes()
    if patience:
        _meet(store, LEAVING, group.count, patience)
    closing = threading.Thread(target=distributed.destroy_process_group, daemon=True)
    closing.start()
    closing.join(CLOSING)
    AcceleratorState._reset_state(reset_partial_state=True)  # it would still speak of the group
    if patience:
        _meet(store, GONE, group.count, CLOSING if group.main else 0)


def _meet(store: Any, place: str, count: int, patience: float) -> None:
    """Say that this process is there, and wait until all are, one has failed, or patience ends."""
    ends = time.monotonic() + patience
    with suppress(RuntimeError):  # the process that keeps the store is gone
        there = store.add(place, 1)
        while there < count and time.monotonic() < ends and not store.check([FAILED]):
            time.sleep(0.02)
            there = store.add(place, 0)


on_command_end(leave)
