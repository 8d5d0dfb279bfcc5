"""`mosld.plan`: the JSON of the contract, its own keys, layouts, hours, Table 5; docs/reference/scaling.md."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from mosld import plan
from mosld.common.errors import UserError
from mosld.config.groups import group_options
from mosld.planning.arguments import split_keys
from mosld.planning.dry_run import StepCost
from mosld.planning.layouts import RESERVED_BYTES, ModelBytes, first_fitting, layouts

SCALING = Path(__file__).parents[2] / "docs" / "reference" / "scaling.md"
CONF = Path(__file__).parents[2] / "conf" / "accelerate"
GIB = 2**30
TINY = ["model=tiny", "method=mosld", "data=single_arc_e", "length=32"]


def planned(capsys, *arguments):
    assert plan.main([*arguments, "json=true"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_json_has_what_the_contract_names_and_the_needs_beside(capsys):
    found = planned(capsys, *TINY)
    assert found["parameters"]["total"] == found["parameters"]["base"] + found["parameters"]["trainable"]
    assert {"weights", "adapter", "gradients", "optimiser", "activations", "peak"} <= found["memory"].keys()
    assert found["memory"]["gradients"] == found["memory"]["adapter"] == 4 * found["parameters"]["trainable"]
    assert found["memory"]["optimiser"] == 8 * found["parameters"]["trainable"]


def test_the_matrices_of_table_5(capsys):
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
    found = planned(capsys, *TINY, "gpus=2", "gpu_tflops=10", "utilisation=0.5")
    flops = found["data"]["tokens"] * found["flops_per_token"]["training"]
    assert found["machines"]["hours"] == pytest.approx(flops / (2 * 10e12 * 0.5) / 3600)


def test_tokens_of_the_hubs_sets_are_known_without_fetching_them(capsys):
    found = planned(capsys, "model=tiny", "length=16", "source=hub", "data=single_obqa", "training=paper")
    assert (found["data"]["rows"], found["data"]["steps"]) == (4_957, 390)
    assert found["data"]["tokens"] == 4_957 * 10 * 44


def test_a_person_reads_gibibytes_hours_and_the_file_that_fits(capsys):
    assert plan.main([*TINY, "gpus=4", "gpu_memory=24GB"]) == 0
    said = capsys.readouterr().out
    assert "conf/accelerate/ddp.yaml" in said
    assert "24GB" in said
    assert "on 4 GPUs at 312 TFLOP/s" in said


def test_on_the_processor_there_are_no_gpus_to_speak_of(capsys):
    found = planned(capsys, *TINY, "gpus=0")
    assert "layouts" not in found
    assert found["memory"]["reserved"] == 0


@pytest.mark.parametrize(
    ("argument", "said"),
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
def test_a_wrong_key_of_the_plan_is_refused(argument, said):
    with pytest.raises(UserError, match=re.escape(said)):
        split_keys([argument])


SEVEN = ModelBytes(weights=13 * GIB, adapter=GIB // 16, optimiser=GIB // 8, layer=GIB // 2, rest=GIB // 2)
STEP = StepCost(saved=20 * GIB, peak=21 * GIB, gradients=GIB // 16, update=GIB // 8, flops=1, forward_flops=1)


def test_one_gpu_holds_all():
    found = layouts(SEVEN, STEP, 1)
    assert found["single"] == 13 * GIB + GIB // 16 + GIB // 8 + 21 * GIB + RESERVED_BYTES
    assert list(found) == ["single", "fsdp_offload"]  # there is nobody to share with


def test_cutting_the_base_leaves_activations_adapter_and_optimiser():
    found = layouts(SEVEN, STEP, 8)
    assert found["ddp"] == layouts(SEVEN, STEP, 1)["single"]
    gathered, own = 3 * GIB // 2, GIB // 16 + GIB // 8 + RESERVED_BYTES
    assert found["fsdp"] == 13 * GIB // 8 + gathered + own + 21 * GIB
    assert found["fsdp_offload"] == gathered + own + 21 * GIB


def test_where_all_trains_moments_and_gradients_are_cut_with_the_weights():
    full = dataclasses.replace(SEVEN, weights=26 * GIB, adapter=0, optimiser=52 * GIB, whole=True)
    step = dataclasses.replace(STEP, gradients=26 * GIB, peak=46 * GIB, update=30 * GIB)  # 20 of activations
    found = layouts(full, step, 8)
    gathered = 2 * full.rest + 3 * full.layer + 20 * GIB + RESERVED_BYTES
    assert found["fsdp"] == (26 + 52 + 26) * GIB // 8 + gathered
    assert found["fsdp_offload"] == gathered


def test_all_gradients_in_one_tensor_count_where_they_are_most():
    step = dataclasses.replace(STEP, gradients=13 * GIB, peak=14 * GIB, update=13 * GIB)
    assert layouts(SEVEN, step, 2)["ddp"] == layouts(SEVEN, step, 1)["single"] + 12 * GIB


def test_the_fastest_that_fits_is_named():
    found = layouts(SEVEN, STEP, 8)
    assert first_fitting(found, 80 * GIB) == "ddp"
    assert first_fitting(found, 27 * GIB) == "fsdp"
    assert first_fitting(found, 2 * GIB) is None


def test_more_than_one_machine_needs_multi_node():
    assert next(iter(layouts(SEVEN, STEP, 16))) == "multi_node"


@pytest.mark.parametrize("more", [["model.quantize=nf4"]])
@pytest.mark.parametrize("gpus", [1, 8, 16])
def test_no_layout_is_named_that_mosld_refuses(more, gpus, capsys):
    """FSDP with one process and nothing offloaded, or with packed weights."""
    for given in (more, []):
        names = planned(capsys, "model=tiny", "data=single_arc_e", "length=32", *given, f"gpus={gpus}")["layouts"][
            "plain"
        ]
        assert ("fsdp" in names) is (given == [] and gpus > 1)
        assert all((CONF / f"{name}.yaml").is_file() for name in names)


def test_the_launchers_options_are_said(capsys):
    assert plan.main([*TINY, "gpus=16"]) == 0
    assert "multi_node.yaml --num_machines 2 --num_processes 16" in capsys.readouterr().out


def test_a_packed_base_that_fits_nowhere_says_why(capsys):
    assert plan.main(["model=tiny", "model.quantize=nf4", "length=32", "gpus=8", "gpu_memory=1MiB"]) == 0
    assert "lies whole on each GPU" in capsys.readouterr().out


ROWS = [
    ("llama2_7b", "lora"), ("llama2_7b", "mosld"), ("llama2_7b", "prefix"), ("llama2_13b", "full"),
    ("llama2_13b", "moa"), ("llama_33b", "mixlora"),
]  # fmt: skip


@pytest.mark.parametrize("model", ["llama2_7b", "llama2_13b", "llama_33b"])
def test_docs_scaling_has_a_row_for_every_method(model):
    own = [name for name in group_options()["method"] if not name.endswith("_authors")]
    assert re.findall(r"^\| `(\w+)`", _section(model), flags=re.M) == own


def _section(name):
    return re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", SCALING.read_text(), flags=re.S)[1]


@pytest.mark.parametrize(("model", "method"), ROWS)
def test_docs_scaling_says_what_the_plan_says(model, method, capsys):
    setting = ["data=mixture", "source=hub", "training=paper", "gpus=16", "gpu_memory=40GiB"]
    found = planned(capsys, f"model={model}", f"method={method}", *setting)
    line = next(line for line in _section(model).splitlines() if line.startswith(f"| `{method}` |"))
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[0] == f"{found['parameters']['trainable']:,}"
    assert cells[3] == f"{found['memory']['activations'] / GIB:.1f}"
    assert cells[5] == f"{found['memory']['peak'] / GIB:.1f}"
    assert cells[7].split(",")[0] == (found["accelerate"] or "none")
