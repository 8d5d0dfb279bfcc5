"""Two processes over gloo: DDP averages the gradients of a mixture, the balance loss included, without options."""

import os
import socket
import subprocess
import sys

import pytest

WORKER = """
import os, sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import mosld
dist.init_process_group("gloo")
rank = dist.get_rank()
ids = torch.tensor([[5, 6, 7, 8], [15, 16, 17, 18]])
def fresh():
    model = mosld.adapt(mosld.load_base("tiny")[0], sys.argv[1], seed=0, dropout=0.0)
    torch.manual_seed(1)
    with torch.no_grad():
        [p.add_(torch.randn_like(p) * .1) for p in model.parameters() if p.requires_grad]
    return model.train()
alone = fresh()
losses = [alone(input_ids=ids[i:i+1], labels=ids[i:i+1]).loss for i in range(2)]
(sum(losses) / 2).backward()
wanted = {n: p.grad for n, p in alone.named_parameters() if p.requires_grad}
both = DistributedDataParallel(fresh())
both(input_ids=ids[rank:rank+1], labels=ids[rank:rank+1]).loss.backward()
for name, parameter in both.module.named_parameters():
    if parameter.requires_grad:
        torch.testing.assert_close(parameter.grad, wanted[name], msg=name)
print("equal")
"""


@pytest.mark.parametrize("method", ["lora", "mosld"])
def test_ddp_gradients_on_two_processes_are_the_mean_of_one_process(method):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, method],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [out.strip() for out, _ in outputs] == ["equal", "equal"], outputs[0][1][-2000:]
