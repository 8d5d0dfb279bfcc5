"""`init_from`: training goes on from any finished run or adapter, on other data, as a new run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mosld
from mosld import report as report_command
from mosld import train as train_command
from mosld.adapters.load import load_adapter
from mosld.config.compose import load_config
from mosld.config.identity import identity
from mosld.data.leaks import Record
from tests.helpers.cases import command, metrics, status
from tests.reliability.test_resume import METHODS

pytestmark = pytest.mark.slow

STILL = "training.learning_rate=0"  # a run that ends where it starts


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The directory of a finished run of each method, trained when first asked for; the rows lie beside it."""
    folder, runs = tmp_path_factory.mktemp("first"), {}

    def run(method: str, *more: str) -> Path:
        key = (method, *more)
        if key not in runs:
            runs[key] = folder / f"run{len(runs)}"
            assert train_command.main(command(folder, f"output_dir={runs[key]}", *more, method=method)) == 0
        return runs[key]

    return run


def go_on(tmp_path, start, *more, method="mosld"):
    """Train on other rows than those of the first run; returns the exit code and the run."""
    run = tmp_path / "second"
    arguments = command(tmp_path, f"init_from={start}", "data.tasks=[arc_e]", f"output_dir={run}", *more, method=method)
    return train_command.main(arguments), run


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = run / "adapter" if (run / "adapter").is_dir() else run / "model"
    return load_file(next(folder.glob("*.safetensors")))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_starts_from_the_weights_of_another(method, first, tmp_path):
    start = first(method)
    code, run = go_on(tmp_path, start, STILL, method=method)
    assert code == 0
    before, after = weights(start), weights(run)
    assert before.keys() == after.keys()
    # The biases of a balance without a loss move whatever the learning rate.
    assert all(torch.equal(before[name], after[name]) for name in before if not name.endswith("bias"))
    results = json.loads((run / "results.json").read_text())
    assert results["config"]["init_from"] == str(start)
    assert f"init_from: {start}" in (run / "config.yaml").read_text()
    assert str(start) in next(run.glob("*/README.md")).read_text()


@pytest.mark.parametrize("method", ["mosld", "moa", "full"])
def test_it_is_a_new_run_and_it_trains(method, first, tmp_path):
    start = first(method)
    code, run = go_on(tmp_path, start, method=method)
    assert code == 0
    before, after = weights(start), weights(run)
    assert not all(torch.equal(before[name], after[name]) for name in before)
    assert [line["step"] for line in metrics(run) if "cross_entropy" in line] == [1, 2, 3, 4, 5, 6]
    assert not (run / "experts").exists()


def test_a_bare_adapter_directory_is_enough(first, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(first("mosld") / "adapter" / name, bare)
    code, run = go_on(tmp_path, bare, STILL)
    assert code == 0
    assert torch.equal(*(next(iter(load_file(folder / "adapter_model.safetensors").values()))
                         for folder in (bare, run / "adapter")))  # fmt: skip
    assert not (run / "rows.json").exists()  # nobody knows which rows the adapter was trained on


def test_a_grown_adapter_is_trained_on(first, tmp_path):
    model, folder = mosld.load_base("tiny")[0], tmp_path / "grown"
    mosld.grow(load_adapter(model, first("mosld") / "adapter"), seed=0).save_pretrained(str(folder))
    code, run = go_on(tmp_path, folder, "allocation.experts=[9,7,5,3]")
    assert code == 0
    key = "base_model.model.model.layers.3.self_attn.q_proj.mosld_mixture.B"
    assert not load_file(folder / "adapter_model.safetensors")[key][:, 16:].any()
    assert weights(run)[key][:, 16:].any()


def test_the_record_of_rows_has_those_of_both_runs(first, tmp_path):
    start = first("lora", "data.tasks=[obqa]")
    _, run = go_on(tmp_path, start, method="lora")
    sizes = [len(Record.read(folder / "rows.json").train) for folder in (start, run)]
    assert sizes == [24, 48]


def test_the_report_says_where_a_run_started(first, tmp_path, capsys):
    start = first("mosld")
    _, run = go_on(tmp_path, start, STILL)
    assert report_command.main([str(run), "--output", str(tmp_path / "report"), "--no-figures"]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    assert f"mosld starts from the weights in {start} (init_from)." in page


def test_the_weights_it_starts_from_name_the_run(first):
    arguments = ["model=tiny", "method=mosld"]
    plain, other = (identity(load_config([*arguments, *more])) for more in ((), ("init_from=elsewhere",)))
    assert plain == identity(load_config([*arguments, "init_from=null"]))
    assert plain != other


@pytest.fixture(scope="module")
def loras(tmp_path_factory, first) -> dict[str, Path]:
    """Finished LoRA runs by name."""
    return {"a": first("lora", "data.tasks=[obqa]"), "b": first("lora")}


@pytest.mark.parametrize("method", ["mola", "molora"])
def test_loras_become_the_experts_of_a_run(method, loras, tmp_path):
    given = "method.experts_from={" + ", ".join(f"{name}: '{run}'" for name, run in loras.items()) + "}"
    run = tmp_path / "run"
    arguments = command(tmp_path, given, "allocation.experts=2", STILL, f"output_dir={run}", method=method)
    assert train_command.main(arguments) == 0
    key = "base_model.model.model.layers.1.self_attn.v_proj"
    A = weights(run)[f"{key}.mosld_mixture.A"]
    assert torch.equal(A, torch.cat([weights(one)[f"{key}.lora_A.weight"] for one in loras.values()]))


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("mola", [], "names 1 LoRAs, and allocation.experts=[8,6,4,2]; set allocation.experts=1"),
        ("mola", ["method.rank=4"], "has rank 8, this run 4; set method.rank=8"),
        ("molora", ["method.targets=all"], "adapts q_proj, v_proj; method.targets=all is"),
        ("moa", ["method.rank=4"], "has rank 8, this run 4; set method.rank=8"),
        ("mosld", ["allocation.experts=1", "method.top_k=1"], "needs method.share=none"),
        ("mixlora", ["method.experts=1", "method.top_k=1"], "takes no ready LoRAs"),
    ],
)
def test_loras_that_do_not_fit_are_refused_before_a_model_loads(method, more, message, loras, tmp_path, capsys):
    given = f"method.experts_from={{obqa: '{loras['a']}'}}"
    capsys.readouterr()
    assert train_command.main(command(tmp_path, given, *more, method=method)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_start_from_its_own_directory(first, tmp_path, capsys):
    start = tmp_path / "second"
    shutil.copytree(first("mosld"), start)
    assert go_on(tmp_path, start, "training.resume=never")[0] == 2
    assert "lies in the directory of this run" in capsys.readouterr().err
    assert weights(start)


def unfinished(run: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "unfinished"
    shutil.copytree(run, copy)
    results = json.loads((copy / "results.json").read_text())
    (copy / "results.json").write_text(json.dumps(results | {"status": "interrupted"}))
    return copy


def without_adapter(run: Path, tmp_path: Path) -> Path:
    copy = unfinished(run, tmp_path)
    shutil.rmtree(copy / "adapter")
    return copy


@pytest.mark.parametrize(
    ("method", "spoil", "more", "message"),
    [
        ("mosld", lambda run, tmp: tmp / "none", [], "no such directory"),
        ("mosld", unfinished, [], "the run is not finished"),
        ("mosld", without_adapter, [], "the run is not finished"),
        ("mosld", lambda run, tmp: run / "checkpoints", [], "no trained weights"),
        ("mosld", None, ["method.rank=4"], "method.rank=8 there, 4 here"),
        ("mosld", None, ["method.alpha=8", "method.top_k=1"], "alpha=16.0 there, 8.0 here; method.top_k=2 there"),
        ("mosld", None, ["allocation.experts=5"], "experts=[8,6,4,2] there, 5 here"),
        ("mosld", None, ["method.targets=all"], "target_modules=q_proj,v_proj there"),
        ("mosld", None, ["method=mosld_b"], "method.dropout_on=A there, B here"),
        ("mosld", None, ["method=mola"], "method.share=A there, none here"),
        ("mosld", None, ["method=lora"], "method.kind=mixture there, lora here (method=lora)"),
        ("mosld", None, ["method=full"], "method.kind=mixture there, full here"),
        ("mosld", None, ["model=smollm2_135m"], "base model tiny there, smollm2_135m here"),
        ("lora", None, ["method.rank=4"], "method.rank=8 there, 4 here"),
        ("prefix", None, ["method.virtual_tokens=4"], "method.virtual_tokens=30 there, 4 here"),
        ("full", None, ["method=mosld"], "method.kind=full there, mixture here"),
        ("moa", None, ["method.domains=[arc_e]"], "method.domains=[obqa,arc_e] there, [arc_e] here"),
        ("moa", None, ["method.add_task=csqa", "method.from_run=x"], "cannot be combined with method.from_run"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_a_model_loads(method, spoil, more, message, first, tmp_path, capsys):
    start = first(method)
    start = spoil(start, tmp_path) if spoil else start
    capsys.readouterr()
    code, run = go_on(tmp_path, start, *more, method=method)
    error = " ".join(capsys.readouterr().err.split())
    assert code == 2
    assert message in error
    assert status(run) is None
    assert not run.exists()
