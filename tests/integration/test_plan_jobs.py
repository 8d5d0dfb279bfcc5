"""`mosld.plan` of a sweep or an experiment: a line a run, the sum, steps taken once; docs/how-to/reproducing.md."""

import json
import re
from pathlib import Path

import pytest

from mosld import plan
from mosld.config.compose import load_config
from mosld.planning.jobs import remembering

REPRODUCING = Path(__file__).parents[2] / "docs" / "how-to" / "reproducing.md"
TINY = ["model=tiny", "data=single_arc_e", "length=32"]


def planned(capsys, *arguments):
    assert plan.main([*arguments, "json=true"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_run_of_a_sweep_has_a_line_and_the_sum_is_theirs(capsys):
    assert plan.main([*TINY, "method=mosld", "sweep=rank", "gpus=4", "gpu_tflops=0.001"]) == 0
    said = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in said if "method.rank=" in line]
    assert [line[-1] for line in lines] == [f"method.rank={rank}" for rank in (2, 4, 8, 16, 32)]
    total = next(line.split() for line in said if "all 5 runs" in line)
    assert float(total[0]) == pytest.approx(sum(float(line[0]) for line in lines), abs=0.03)
    assert float(total[1]) == pytest.approx(4 * float(total[0]), abs=0.1)


def test_the_list_is_of_the_plans_that_single_commands_print(capsys):
    found = planned(capsys, *TINY, "-m", "method=lora,mosld", "method.rank=2,4")
    assert [entry.pop("overrides") for entry in found] == [
        [f"method={method}", f"method.rank={rank}"] for method in ("lora", "mosld") for rank in (2, 4)
    ]
    assert found[3] == planned(capsys, *TINY, "method=mosld", "method.rank=4")


def test_an_experiment_needs_no_flag_and_takes_other_values(capsys):
    found = planned(capsys, "experiment=table5", "scale=small", "method=lora,mosld", "length=32", "gpus=0")
    assert [entry["method"] for entry in found] == ["lora", "mosld"]
    assert all(entry["data"]["steps"] == 50 for entry in found)


def test_the_same_run_is_counted_once(capsys):
    assert plan.main([*TINY, "method=lora", "sweep=allocation"]) == 0
    said = capsys.readouterr().out
    assert "5 jobs, 4 of them the same run as another" in said
    assert "all 1 runs" in said


def test_a_processor_has_hours_where_its_speed_is_given(capsys):
    given = [*TINY, "method=mosld", "-m", "seed=0,1", "gpus=0"]
    assert plan.main(given) == 0
    assert "one after another" not in capsys.readouterr().out
    found = planned(capsys, *given, "gpu_tflops=0.5", "utilisation=0.5")
    flops = found[0]["data"]["tokens"] * found[0]["flops_per_token"]["training"]
    assert found[0]["machines"]["hours"] == pytest.approx(flops / 0.25e12 / 3600)
    assert "layouts" not in found[0]


def test_a_sweeper_that_chooses_as_it_goes_is_refused(capsys):
    pytest.importorskip("optuna")
    assert plan.main([*TINY, "sweep=optuna"]) == 2
    assert "chooses the jobs as it goes" in capsys.readouterr().err


def test_a_mistake_in_one_job_is_told(capsys):
    assert plan.main([*TINY, "-m", "method=lora,mosldd"]) == 2
    assert "did you mean 'mosld'" in capsys.readouterr().err


def test_shapes_that_are_the_same_are_measured_once():
    seen = []
    measure = remembering(lambda config, *_: seen.append(config))
    for more in (["seed=1"], ["method.dropout=0.3"], ["method.dropout=0.4"], ["training.epochs=2"], ["source=hub"]):
        measure(load_config(["model=tiny", "method=mosld", *more]), 32, 2, 1)
    assert len(seen) == 1
    for more in (["method.dropout=0"], ["method.rank=4"], ["allocation=rectangle"], ["training.batch_size=2"]):
        measure(load_config(["model=tiny", "method=mosld", *more]), 32, 2, 1)
    assert len(seen) == 5


def test_docs_reproducing_says_what_the_plan_says(capsys):
    assert plan.main(["experiment=table2", "gpus=16", "gpu_memory=40GiB"]) == 0
    total = next(line.split() for line in capsys.readouterr().out.splitlines() if "all 3 runs" in line)
    section = re.search(r"<!-- costs -->\n(.*?)<!-- /costs -->", REPRODUCING.read_text(), flags=re.S)[1]
    line = next(line for line in section.splitlines() if line.startswith("| `table2` |"))
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[0] == "3"
    assert float(cells[1]) == pytest.approx(float(total[0]), abs=0.06)
    assert float(cells[2]) == pytest.approx(float(total[1]), abs=0.6)
