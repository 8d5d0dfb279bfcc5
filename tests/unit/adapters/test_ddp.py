"""Two processes over gloo: DDP averages every method's gradients, the auxiliary loss included, without options."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.methods import ROWS, over

pytestmark = pytest.mark.distributed

WORKER = """
import json, sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tests.helpers.methods import ROWS
dist.init_process_group("gloo")
rank, verdicts = dist.get_rank(), {}
for row in ROWS:
    def fresh():
        model = row.adapted().train()
        for module in model.modules():  # dropout would draw other masks in each process
            config = getattr(module, "config", None)
            if type(config).__name__ == "MosldConfig":
                config.dropout = config.gate_dropout = 0.0
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return model
    mine = [{name: value[i:i + 1] for name, value in row.inputs().items()} for i in range(2)]
    alone = fresh()
    (sum(alone(**inputs).loss for inputs in mine) / 2).backward()
    wanted = {name: p.grad for name, p in alone.named_parameters() if p.requires_grad}
    both = DistributedDataParallel(fresh())
    both(**mine[rank]).loss.backward()
    got = {name: p.grad for name, p in both.module.named_parameters() if p.requires_grad}
    try:
        torch.testing.assert_close(got, wanted)
        verdicts[row.name] = "equal"
    except AssertionError as error:
        verdicts[row.name] = str(error)
print(json.dumps(verdicts), flush=True)
dist.barrier()  # a process that leaves while the other still talks to it aborts the other
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def verdicts():
    """By process, the verdict on every method."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "".join(err[-2000:] for _, err in outputs)
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


@over(ROWS)
def test_ddp_gradients_on_two_processes_are_the_mean_of_one_process(row, verdicts):
    assert [verdict[row.name] for verdict in verdicts] == ["equal", "equal"]
