"""Where a job of a sweep runs: which rank of its job it is in Slurm, which accelerator it has among other jobs."""

import fcntl
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def task_environment() -> dict[str, str]:
    """The variables of torch.distributed for a task of submitit, which starts functions and no launcher."""
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    if JobEnvironment().num_tasks == 1:
        return {}
    task = TorchDistributedEnvironment()
    return {
        "RANK": str(task.rank),
        "WORLD_SIZE": str(task.world_size),
        "LOCAL_RANK": str(task.local_rank),
        "LOCAL_WORLD_SIZE": str(task.local_world_size),
        "MASTER_ADDR": task.master_addr,
        "MASTER_PORT": str(task.master_port),
    }


@contextmanager
def own_device(directory: Path) -> Iterator[dict[str, str]]:
    """The accelerator of a job among others at the same time: each takes the first place that none of them holds.

    Args:
        directory: where the places are kept, as files that the system unlocks with their process.
    """
    for place in itertools.count():
        with (directory / f".place{place}").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            devices = _devices()
            yield {"CUDA_VISIBLE_DEVICES": devices[place % len(devices)]} if devices else {}
            return


def _devices() -> list[str]:
    """Those that this process may use, by the names that CUDA takes."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device]
    import torch

    return [str(device) for device in range(torch.cuda.device_count())]  # counts without beginning to use one
