"""`mosld.plan`: JSON, keys, layouts, hours and Table 5; sweeps and experiments; the tables in docs/."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from mosld import plan as plan_command
from mosld.common.errors import UserError
from mosld.config.compose import load_config
from mosld.config.groups import group_options
from mosld.planning.arguments import split_keys
from mosld.planning.dry_run import StepCost
from mosld.planning.jobs import remembering
from mosld.planning.layouts import RESERVED_BYTES, ModelBytes, first_fitting, layouts
from mosld.planning.view import duration

ROOT = Path(__file__).parents[2]
SCALING = ROOT / "docs" / "reference" / "scaling.md"
REPRODUCING = ROOT / "docs" / "how-to" / "reproducing.md"
GIB = 2**30
JOBS = ["model=tiny", "data=single_arc_e", "length=32"]
TINY = [*JOBS, "method=mosld"]


def planned(capsys, *arguments):
    assert plan_command.main([*arguments, "json=true"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_holds_parameters_and_memory(capsys):
    plan = planned(capsys, *TINY)
    assert plan["parameters"]["total"] == plan["parameters"]["base"] + plan["parameters"]["trainable"]
    assert {"weights", "adapter", "gradients", "optimiser", "activations", "peak"} <= plan["memory"].keys()
    assert plan["memory"]["gradients"] == plan["memory"]["adapter"] == 4 * plan["parameters"]["trainable"]
    assert plan["memory"]["optimiser"] == 8 * plan["parameters"]["trainable"]


@pytest.mark.slow
def test_matrix_counts_are_those_of_table_5(capsys):
    """MoLA has an A and a B for each of the 5 experts on average of 2 x 4 modules; MoSLD one A for each module."""
    counts = {
        method: planned(capsys, "model=tiny", f"method={method}", "length=16")["parameters"]["lora_matrices"]
        for method in ("lora", "mola", "mosld", "full")
    }
    assert counts == {
        "lora": {"A": 8, "B": 8},
        "mola": {"A": 40, "B": 40},
        "mosld": {"A": 8, "B": 40},
        "full": {"A": 0, "B": 0},
    }


def test_hours_are_flops_over_speed(capsys):
    plan = planned(capsys, *TINY, "gpus=2", "gpu_tflops=10", "utilisation=0.5")
    flops = plan["data"]["tokens"] * plan["flops_per_token"]["training"]
    assert plan["machines"]["hours"] == pytest.approx(flops / (2 * 10e12 * 0.5) / 3600)


@pytest.mark.parametrize(
    ("keys", "rows", "length"),
    [
        ([], 39, 512),
        (["data.too_long=drop"], 38, 512),
        (["data.cutoff=100"], 39, 100),
        (["data.cutoff=9000"], 40, 2047),
    ],
)
def test_rows_that_are_too_long_are_planned_as_they_are_trained(keys, rows, length, capsys, tmp_path):
    short = [{"id": str(i), "question": f"Is {i} more?", "choices": ["yes", "no"], "answer": 0} for i in range(38)]
    unfit = {"id": "q", "question": "x" * 1000, "choices": ["yes", "no"], "answer": 0}
    cut = {"id": "c", "context": "x" * 3000, "question": "Why?", "choices": ["yes", "no"], "answer": 0}
    (tmp_path / "law").mkdir()
    for split, records in {"train": [*short, unfit, cut], "validation": short[:2], "test": short[:2]}.items():
        (tmp_path / "law" / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    files = ["data=local", "source=local", f"source.root={tmp_path}"]
    plan = planned(capsys, "model=tiny", "method=lora", "training=default", *files, *keys)
    assert (plan["data"]["rows"], plan["data"]["length"]) == (rows, length)


@pytest.mark.slow
def test_tokens_of_hub_sets_are_known_without_download(capsys):
    plan = planned(capsys, "model=tiny", "length=16", "source=hub", "data=single_obqa", "training=paper")
    assert (plan["data"]["rows"], plan["data"]["steps"]) == (4_957, 390)
    assert plan["data"]["tokens"] == 4_957 * 10 * 44


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*TINY, "gpus=4", "gpu_memory=24GB"], ["conf/accelerate/ddp.yaml", "24GB", "on 4 GPUs at 312 TFLOP/s"]),
        ([*TINY, "gpus=16"], ["multi_node.yaml --num_machines 2 --num_processes 16"]),
        (
            [*TINY, "training.micro_batch_size=1", "training.max_steps=1"],
            ["a micro-batch of 1 row of", "single_arc_e: ", ", 1 step, "],
        ),
        ([*JOBS, "model.quantize=nf4", "gpus=8", "gpu_memory=1MiB"], ["lies whole on each GPU"]),
        ([*JOBS, "method=lora", "sweep=allocation"], ["5 jobs, 4 of them the same run as another", "all 1 runs"]),
    ],
    ids=["what fits", "several machines", "one row", "nothing fits", "equal runs"],
)
@pytest.mark.slow
def test_text_names_data_memory_hours_and_the_file_that_fits(arguments, words, capsys):
    assert plan_command.main(arguments) == 0
    text = capsys.readouterr().out
    assert [word for word in words if word not in text] == []
    assert "0.00 hours" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["sweep=optuna"], "chooses the jobs as it goes"), (["-m", "method=lora,mosldd"], "did you mean 'mosld'")],
)
@pytest.mark.slow
def test_sweep_that_cannot_be_planned_is_refused(arguments, words, capsys):
    assert plan_command.main([*JOBS, *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (1.4 / 3600, "1.4 s"), (0.004 / 3600, "0.004 s"), (42.3 / 3600, "42 s"), (260 / 3600, "4 min 20 s"),
        (1.0, "1 h 0 min"), (3.2, "3 h 12 min"), (1234.5, "1,234 h 30 min"),
    ],
)  # fmt: skip
def test_time_is_said_in_its_two_largest_units(hours, text):
    assert duration(hours) == text


@pytest.mark.slow
def test_plan_for_cpu_has_no_layouts(capsys):
    plan = planned(capsys, *TINY, "gpus=0")
    assert "layouts" not in plan
    assert plan["memory"]["reserved"] == 0


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("gpu_memory=40", "write a number and a unit"),
        ("gpu_memory=0GiB", "write a number and a unit"),
        ("gpuss=4", "did you mean 'gpus'"),
        ("gpus=-1", "at least 0"),
        ("utilisation=2", "must be below"),
        ("json=maybe", "true or false"),
        ("gpus", "write gpus=..."),
    ],
)
def test_wrong_plan_key_is_rejected(argument, text):
    with pytest.raises(UserError, match=re.escape(text)):
        split_keys([argument])


SEVEN = ModelBytes(weights=13 * GIB, adapter=GIB // 16, optimiser=GIB // 8, layer=GIB // 2, rest=GIB // 2)
STEP = StepCost(saved=20 * GIB, peak=21 * GIB, gradients=GIB // 16, update=GIB // 8, flops=1, forward_flops=1)


def test_one_gpu_holds_everything():
    memory = layouts(SEVEN, STEP, 1)
    assert memory["single"] == 13 * GIB + GIB // 16 + GIB // 8 + 21 * GIB + RESERVED_BYTES
    assert list(memory) == ["single", "fsdp_offload"]


def test_fsdp_shards_the_base_and_not_the_adapter():
    memory = layouts(SEVEN, STEP, 8)
    assert memory["ddp"] == layouts(SEVEN, STEP, 1)["single"]
    gathered = 3 * GIB // 2
    unsharded = GIB // 16 + GIB // 8 + RESERVED_BYTES
    assert memory["fsdp"] == 13 * GIB // 8 + gathered + unsharded + 21 * GIB
    assert memory["fsdp_offload"] == gathered + unsharded + 21 * GIB


def test_full_fine_tuning_shards_optimiser_state_and_gradients():
    full = dataclasses.replace(SEVEN, weights=26 * GIB, adapter=0, optimiser=52 * GIB, whole=True)
    step = dataclasses.replace(STEP, gradients=26 * GIB, peak=46 * GIB, update=30 * GIB)  # 20 of activations
    memory = layouts(full, step, 8)
    gathered = 2 * full.rest + 3 * full.layer + 20 * GIB + RESERVED_BYTES
    assert memory["fsdp"] == (26 + 52 + 26) * GIB // 8 + gathered
    assert memory["fsdp_offload"] == gathered


def test_all_reduce_copies_the_gradients_once_more():
    step = dataclasses.replace(STEP, gradients=13 * GIB, peak=14 * GIB, update=13 * GIB)
    assert layouts(SEVEN, step, 2)["ddp"] == layouts(SEVEN, step, 1)["single"] + 12 * GIB


def test_first_fitting_layout_is_the_fastest():
    memory = layouts(SEVEN, STEP, 8)
    assert first_fitting(memory, 80 * GIB) == "ddp"
    assert first_fitting(memory, 27 * GIB) == "fsdp"
    assert first_fitting(memory, 2 * GIB) is None


def test_more_than_one_machine_needs_multi_node():
    assert next(iter(layouts(SEVEN, STEP, 16))) == "multi_node"


@pytest.mark.parametrize("overrides", [["model.quantize=nf4"], []])
@pytest.mark.parametrize("gpus", [1, 8, 16])
@pytest.mark.slow
def test_layouts_leave_out_what_mosld_rejects(overrides, gpus, capsys):
    """FSDP with one process and nothing offloaded, or with quantized weights."""
    names = planned(capsys, *JOBS, *overrides, f"gpus={gpus}")["layouts"]["plain"]
    assert ("fsdp" in names) is (overrides == [] and gpus > 1)
    assert all((ROOT / "conf" / "accelerate" / f"{name}.yaml").is_file() for name in names)


ROWS = [
    ("llama2_7b", "lora"), ("llama2_7b", "mosld"), ("llama2_7b", "prefix"), ("llama2_13b", "full"),
    ("llama2_13b", "moa"), ("llama_33b", "mixlora"),
]  # fmt: skip


@pytest.mark.parametrize("model", ["llama2_7b", "llama2_13b", "llama_33b", "the README"])
def test_table_has_a_row_for_every_method(model):
    methods = [name for name in group_options()["method"] if not name.endswith("_authors")]
    text = (ROOT / "README.md").read_text() if model == "the README" else _section(model)
    assert re.findall(r"^\| `(\w+)`", text, flags=re.M) == methods


def _section(name):
    return re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", SCALING.read_text(), flags=re.S)[1]


@pytest.mark.parametrize(("model", "method"), ROWS)
@pytest.mark.slow
def test_scaling_page_equals_the_plan(model, method, capsys):
    setting = ["data=mixture", "source=hub", "training=paper", "gpus=16", "gpu_memory=40GiB"]
    plan = planned(capsys, f"model={model}", f"method={method}", *setting)
    line = next(line for line in _section(model).splitlines() if line.startswith(f"| `{method}` |"))
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[0] == f"{plan['parameters']['trainable']:,}"
    assert cells[3] == f"{plan['memory']['activations'] / GIB:.1f}"
    assert cells[5] == f"{plan['memory']['peak'] / GIB:.1f}"
    assert cells[7].split(",")[0] == (plan["accelerate"] or "none")


@pytest.mark.slow
def test_sweep_plan_has_a_line_per_run_and_their_sum(capsys):
    assert plan_command.main([*JOBS, "method=mosld", "sweep=rank", "gpus=4", "gpu_tflops=0.001"]) == 0
    text = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in text if "method.rank=" in line]
    assert [line[-1] for line in lines] == [f"method.rank={rank}" for rank in (2, 4, 8, 16, 32)]
    total = next(line.split() for line in text if "all 5 runs" in line)
    assert float(total[0]) == pytest.approx(sum(float(line[0]) for line in lines), abs=0.03)
    assert float(total[1]) == pytest.approx(4 * float(total[0]), abs=0.1)


@pytest.mark.slow
def test_sweep_json_lists_the_plans_of_single_runs(capsys):
    plans = planned(capsys, *JOBS, "-m", "method=lora,mosld", "method.rank=2,4")
    assert [entry.pop("overrides") for entry in plans] == [
        [f"method={method}", f"method.rank={rank}"] for method in ("lora", "mosld") for rank in (2, 4)
    ]
    assert plans[3] == planned(capsys, *JOBS, "method=mosld", "method.rank=4")


def test_experiment_is_planned_without_a_flag(capsys):
    plans = planned(capsys, "experiment=table5", "scale=small", "model=tiny", "method=lora,mosld", "gpus=0")
    assert [entry["method"] for entry in plans] == ["lora", "mosld"]
    assert all(entry["data"]["steps"] == 50 for entry in plans)


@pytest.mark.slow
def test_plan_for_cpu_has_hours_if_its_speed_is_set(capsys):
    command = [*TINY, "-m", "seed=0,1", "gpus=0"]
    assert plan_command.main(command) == 0
    assert "one after another" not in capsys.readouterr().out
    plans = planned(capsys, *command, "gpu_tflops=0.5", "utilisation=0.5")
    flops = plans[0]["data"]["tokens"] * plans[0]["flops_per_token"]["training"]
    assert plans[0]["machines"]["hours"] == pytest.approx(flops / 0.25e12 / 3600)
    assert "layouts" not in plans[0]


@pytest.mark.slow
def test_runs_of_equal_shape_are_measured_once():
    seen = []
    measure = remembering(lambda config, *_: seen.append(config))
    for more in (["seed=1"], ["method.dropout=0.3"], ["method.dropout=0.4"], ["training.epochs=2"], ["source=hub"]):
        measure(load_config(["model=tiny", "method=mosld", *more]), 32, 2, 1)
    assert len(seen) == 1
    for more in (["method.dropout=0"], ["method.rank=4"], ["allocation=rectangle"], ["training.batch_size=2"]):
        measure(load_config(["model=tiny", "method=mosld", *more]), 32, 2, 1)
    assert len(seen) == 5


@pytest.mark.slow
def test_reproducing_page_equals_the_plan(capsys):
    assert plan_command.main(["experiment=table2", "gpus=16", "gpu_memory=40GiB"]) == 0
    total = next(line.split() for line in capsys.readouterr().out.splitlines() if "all 3 runs" in line)
    section = re.search(r"<!-- costs -->\n(.*?)<!-- /costs -->", REPRODUCING.read_text(), flags=re.S)[1]
    line = next(line for line in section.splitlines() if line.startswith("| `table2` |"))
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[0] == "3"
    assert float(cells[1]) == pytest.approx(float(total[0]), abs=0.06)
    assert float(cells[2]) == pytest.approx(float(total[1]), abs=0.6)
