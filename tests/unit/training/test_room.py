"""Room for a step on a processor: the bound lies above what is measured, free memory is the least of what limits it,
and the longest micro-batch is tried wherever the two do not settle the matter."""

import dataclasses
import resource

import pytest
import torch

import mosld
from mosld.config.groups import group_options
from mosld.config.schema import TrainingConfig
from mosld.data.encoding import Example
from mosld.data.rows import Row
from mosld.distributed.processes import Processes, processes
from mosld.planning.dry_run import MemoryLedger
from mosld.training import room
from mosld.training.memory import TRYING
from mosld.training.optim import make_optimizer, ready_to_train
from mosld.training.step import Stepper
from tests.unit.training.test_loop import CONFIG, digest, make_loop

METHODS = sorted(group_options()["method"])
GIB = 2**30


def rows(count, length, answer, task="arc_e"):
    return [Example(Row(task, "", "", "", (), 0), [1] * length, length - answer)] * count


def stepper_of(method, checkpointing=False, **shape):
    options = {"domains": ["arc_e", "obqa"]} if method == "moa" else {}
    base = mosld.load_base("tiny", **({"shape": shape} if shape else {}))[0]
    model = base if method == "full" else mosld.adapt(base, method, seed=0, **options)
    model = ready_to_train(model, checkpointing)
    optimizer, domains = make_optimizer(model, TrainingConfig()), options.get("domains", ())
    return Stepper(model, optimizer, processes=processes(), pad=259, domains=domains)


def live_bytes(stepper, examples):
    """Most bytes at once in a forward, a backward and an update, beyond the weights."""
    ledger = MemoryLedger()
    ledger.note([*stepper.model.parameters(), *stepper.model.buffers()])
    start = ledger.live
    with ledger:
        stepper.step(examples, len(examples), 1e-4, 0)
    return ledger.peak - start


@pytest.mark.parametrize("method", METHODS)
def test_the_bound_lies_above_what_a_step_of_any_method_holds(method, monkeypatch):
    monkeypatch.setattr(room, "LIBRARIES", 0)  # beside which a tiny model is nothing
    for shape in ((2, 12, 10), (4, 48, 3), (1, 200, 5)):
        for checkpointing in (False, True) if method != "prefix" else (False,):
            stepper, examples = stepper_of(method, checkpointing), rows(*shape)
            assert room.bound(stepper.model, examples, shape[0]) > 2 * live_bytes(stepper, examples), shape


def test_the_bound_grows_with_whatever_a_step_grows_with(monkeypatch):
    monkeypatch.setattr(room, "LIBRARIES", 0)
    model = stepper_of("lora").model
    small = room.bound(model, rows(8, 40, 4), 2)
    assert room.bound(model, rows(8, 40, 4), 4) > 1.5 * small
    assert room.bound(model, rows(8, 80, 4), 2) > 1.5 * small
    assert room.bound(model, rows(8, 40, 30), 2) > small
    assert room.bound(model, rows(2, 40, 4), 64) == small  # there are no more rows


def test_of_rows_longer_than_the_model_nothing_is_promised():
    assert room.bound(stepper_of("lora").model, rows(2, 2049, 4), 2) == float("inf")


@dataclasses.dataclass(frozen=True)
class Others(Processes):
    """Processes that answer with the same need as this one, and with free memory of their own."""

    free: tuple[float, ...] = ()

    def gather(self, value):
        return [value, *((value[0], free) for free in self.free)]


@pytest.mark.parametrize(
    ("free", "others", "fits"),
    [
        (4 * GIB, (), True),
        (GIB / 4, (), False),
        (0, (), False),
        (4 * GIB, (4 * GIB,), True),
        (4 * GIB, (GIB / 4,), False),  # one of them has less
        (GIB, (), True),
        (GIB, (GIB, GIB), False),  # each would fit, not all
    ],
)
def test_all_processes_must_fit_together(free, others, fits, monkeypatch):
    monkeypatch.setattr(room, "free_memory", lambda: free)
    stepper = stepper_of("lora")
    stepper.processes = Others(0, 1 + len(others), torch.device("cpu"), free=others)
    assert room.surely_fits(stepper, rows(4, 20, 4), 2) is fits


@pytest.mark.parametrize("change", [{"device": torch.device("cuda")}, {"sharded": True}])
def test_on_an_accelerator_and_in_parts_nothing_is_settled(change):
    stepper = stepper_of("lora")
    stepper.processes = dataclasses.replace(stepper.processes, **change)
    assert room.surely_fits(stepper, rows(4, 20, 4), 2) is False


def test_a_run_with_the_trial_and_one_without_are_equal_to_the_bit(tmp_path, monkeypatch, capsys):
    ends, told, tried = [], [], []
    for free in (64 * GIB, 0):
        monkeypatch.setattr(room, "free_memory", lambda free=free: free)
        (tmp_path / str(free)).mkdir()
        loop = make_loop(tmp_path / str(free), config=dataclasses.replace(CONFIG, micro_batch_size="auto"))
        trial = loop.stepper.try_longest
        loop.stepper.try_longest = lambda *given, free=free, trial=trial: (tried.append(free), trial(*given))
        working = loop.console.working
        loop.console.working = lambda title, working=working: (told.append(title), working(title))[1]
        assert loop.run().micro_batch_size == 4
        ends.append(digest(loop))
        assert "micro-batches of up to 4 rows fit in memory" in capsys.readouterr().err
    assert tried == [0]
    assert ends[0] == ends[1]
    assert told == [TRYING]  # by the second alone


def test_what_is_compiled_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "free_memory", lambda: 64 * GIB)
    loop, tried = make_loop(tmp_path, config=dataclasses.replace(CONFIG, compile=True)), []
    loop.stepper.try_longest = lambda *given: tried.append(given)
    loop.run()
    assert len(tried) == 1


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A system of one's own: `write` makes a file of it; without limits, 8 GiB are free."""
    monkeypatch.setattr(room, "ROOT", tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/meminfo", f"MemTotal: 1 kB\nMemAvailable:  {8 * 2**20} kB\n")
    return write


def test_free_is_what_the_machine_says(system):
    assert room.free_memory() == 8 * GIB
    system("proc/meminfo", "nothing of it")
    assert room.free_memory() == 0


@pytest.mark.parametrize(
    ("groups", "folder", "limit", "used"),
    [
        ("0::/jobs/one", "sys/fs/cgroup/jobs", "memory.max", "memory.current"),
        ("0::/", "sys/fs/cgroup", "memory.max", "memory.current"),
        ("0::/of/the/host", "sys/fs/cgroup", "memory.max", "memory.current"),  # a container sees its own as the root
        ("1:cpu:/\n4:memory:/a/b", "sys/fs/cgroup/memory/a/b", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("4:memory:/a/b\n0::/", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_free_is_no_more_than_any_control_group_leaves(system, groups, folder, limit, used):
    system("proc/self/cgroup", groups)
    system(f"{folder}/{limit}", str(3 * GIB))
    system(f"{folder}/{used}", str(2 * GIB))
    assert room.free_memory() == GIB
    system(f"{folder}/memory.stat", f"anon 5\ninactive_file {GIB // 2}\n")
    assert room.free_memory() == 3 * GIB / 2
    system(f"{folder}/{limit}", "max")
    assert room.free_memory() == 8 * GIB


@pytest.mark.parametrize(("kind", "used"), [("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")])
def test_free_is_no_more_than_the_limits_of_the_process_leave(system, kind, used, monkeypatch):
    system("proc/self/status", f"Name: x\n{used}:\t {2**20} kB\n")
    found = {getattr(resource, kind): (3 * GIB, resource.RLIM_INFINITY)}
    usual = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda limit: found.get(limit, usual))
    assert room.free_memory() == 2 * GIB


def test_here_memory_is_free():
    assert 2**20 < room.free_memory() < 2**60
