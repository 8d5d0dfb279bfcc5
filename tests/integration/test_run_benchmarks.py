"""Benchmarks that read finished runs: what a mixture loses as a plain LoRA, and what separates mixtures."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

import mosld
from mosld import inspect
from mosld.adapters.forward_context import ForwardContext
from mosld.adapters.moa import mixtures_of

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Run a benchmark as its command does, or without a command line only define its functions."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(name: str, *options: object) -> dict:
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        return runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__" if options else name)

    return run


@pytest.fixture
def train(toy_root, tmp_path):
    def trained(method: str):
        data = {"data.tasks": ["arc_e", "obqa"], "source": "local", "source.root": toy_root, "training.max_steps": 2}
        return mosld.train(data, method=method, model="tiny", output_dir=tmp_path / "run", seed=1)

    return trained


@pytest.mark.parametrize("method", ["hydralora", "molora"])
def test_mean_gates_of_a_router_that_prefers_nothing_are_the_mixture(method, load):
    benchmark = load("export_cost")
    model = mosld.adapt(mosld.load_base("tiny")[0], method, experts=4).eval()
    for mixture in mixtures_of(model).values():
        torch.nn.init.normal_(mixture.B, std=0.1)
        torch.nn.init.zeros_(mixture.router.weight)
    ids_BS = torch.arange(12).view(2, 6)
    gates = benchmark["mean_gates"](model, [{"input_ids": ids_BS, "attention_mask": torch.ones_like(ids_BS)}])
    updates = dict(benchmark["mean_updates"](model, gates))
    assert set(updates) == set(mixtures_of(model))
    for key, mixture in mixtures_of(model).items():
        x_BSI = torch.randn(2, 6, mixture.A.shape[1])
        expected, routing = mixture(x_BSI, ForwardContext())
        A_RI, B_OR = updates[key]
        assert torch.equal(routing.gates_BSE, torch.full((2, 6, 4), 0.25))
        torch.testing.assert_close(x_BSI @ A_RI.T @ B_OR.T, expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mosld", "mixlora"])
def test_a_run_is_scored_in_every_form(method, train, load, tmp_path):
    run = train(method)
    # The second time, all scores are there.
    for _ in range(2):
        load("export_cost", run.path, "--state", tmp_path / "state", "--rows", 20, "--json", tmp_path / "json")
    [row] = json.loads((tmp_path / "json").read_text())["rows"]
    assert row["method"] == method
    assert row["token-routed"] == f"{100 * run.average:.1f}"
    assert set(row) >= {"fitted per task", "fitted for all", "mean gates", "untrained", "mean gates - routed"}


@pytest.mark.slow
def test_what_separates_a_run_is_what_inspect_finds(train, load, tmp_path):
    run = train("mosld")
    load("separation", run.path, "--json", tmp_path / "json")
    [row] = json.loads((tmp_path / "json").read_text())["rows"]
    inspect.main([str(run.path)])
    numbers = json.loads((run.path / "inspect" / "inspect.json").read_text())["runs"][0]
    # The tiny model's layers have 8, 6, 4 and 2 experts; with two, a token takes both.
    cosines = [one["similarity"]["cosine"] or 0 for one in numbers["modules"].values() if len(one["norm"]) > 2]
    assert 0 < len(cosines) < len(numbers["modules"])
    assert row["cosine of experts"] == f"{sum(cosines) / len(cosines):.2f}"
    assert row["accuracy, %"] == f"{100 * run.average:.1f}"
    assert row["dropout"] == "0.1 on A"


def write_results(folder: Path, method: str, rate: float, seed: int, loss: float, targets: str = "qv") -> None:
    path = folder / f"{method}-{targets}-{rate}-{seed}"
    path.mkdir()
    config = {"training.learning_rate": rate, "method.targets": targets}
    data = {"name": "arc_e", "source": "bundled", "fingerprint": "ab", "fingerprints": {"arc_e": "ab"}}
    results = {"status": "finished", "method": method, "model": "tiny", "seed": seed, "config": config, "data": data}
    scores = {"validation_loss": loss, "validation_average": 0.5, "average": 0.25 + rate}
    results |= {"scores": {"arc_e": {"accuracy": 0.25 + rate, "n": 10}}, **scores}
    (path / "results.json").write_text(json.dumps(results))


def test_a_learning_rate_is_chosen_by_validation_over_the_seeds_that_all_rates_have(load, tmp_path):
    for rate, losses in {1e-3: [2.0, 2.4], 3e-3: [2.2, 2.1]}.items():
        for seed, loss in enumerate(losses):
            write_results(tmp_path, "mosld", rate, seed, loss)
    write_results(tmp_path, "mosld", 1e-3, 2, 1.0)
    write_results(tmp_path, "lora", 1e-3, 0, 3.0)
    load("learning_rates", tmp_path, "--json", tmp_path / "json")
    rows = json.loads((tmp_path / "json").read_text())["rows"]
    assert [(row["method"], row["learning rate"], row["seeds"], row["chosen"]) for row in rows] == [
        ("lora", "0.001", 1, "yes"), ("mosld", "0.001", 2, ""), ("mosld", "0.003", 2, "yes"),
    ]  # fmt: skip
    assert [row["validation loss"] for row in rows] == ["3.000", "2.200", "2.150"]
    assert rows[2]["test accuracy, %"] == "25.3"
    write_results(tmp_path, "lora", 3e-3, 1, 1.0)
    with pytest.raises(SystemExit, match="no seed has runs at every learning rate"):
        load("learning_rates", tmp_path)


def test_learning_rates_are_chosen_apart_for_other_adapted_layers(load, tmp_path):
    for targets, losses in {"qv": [2.2, 2.0], "all": [2.1, 2.3]}.items():
        for rate, loss in zip((1e-3, 3e-3), losses, strict=True):
            write_results(tmp_path, "mosld", rate, 0, loss, targets)
    load("learning_rates", tmp_path, "--json", tmp_path / "json")
    rows = json.loads((tmp_path / "json").read_text())["rows"]
    assert {row["method"].partition(" ")[2]: row["learning rate"] for row in rows if row["chosen"]} == {
        "targets=all": "0.001", "targets=qv": "0.003",
    }  # fmt: skip


@pytest.mark.parametrize("layers", ["", "all_layers"])
def test_learning_rates_on_the_results_page_are_those_of_the_committed_runs(load, tmp_path, layers):
    docs = BENCHMARKS.parent / "docs"
    runs = docs / "results" / layers
    load("learning_rates", runs / "other_rates", runs / "chosen_rate" / "mixture", "--json", tmp_path / "json")
    rows = json.loads((tmp_path / "json").read_text())["rows"]
    page = (docs / "reference" / "results.md").read_text()
    table = page.split(f"<!-- {f'rates {layers}'.strip()} -->")[1].split("<!-- /rates -->")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines] == [
        [str(value) for value in row.values()] for row in rows
    ]
