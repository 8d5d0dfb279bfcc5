"""Two processes over gloo: DDP averages every method's gradients, the auxiliary loss included, without options."""

import pytest

from tests.helpers.methods import ROWS, over
from tests.helpers.processes import in_two_processes

pytestmark = pytest.mark.distributed

WORKER = """
import json, sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tests.helpers.methods import ROWS, without_dropout
dist.init_process_group("gloo")
rank, verdicts = dist.get_rank(), {}
for row in ROWS:
    def fresh():
        return without_dropout(row.adapted()).train()  # it would draw other masks in each process
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
"""


@pytest.fixture(scope="module")
def verdicts():
    """By process, the verdict on every method."""
    return in_two_processes(WORKER, OMP_NUM_THREADS="1")


@over(ROWS)
def test_ddp_gradients_on_two_processes_are_the_mean_of_one_process(row, verdicts):
    assert [verdict[row.name] for verdict in verdicts] == ["equal", "equal"]
