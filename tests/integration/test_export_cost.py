"""The benchmark of what a mixture loses as a plain LoRA: its mean gates against the mixture, and its table."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

import mosld
from mosld.adapters.forward_context import ForwardContext
from mosld.adapters.moa import mixtures_of

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / "export_cost.py"))


@pytest.mark.parametrize("method", ["hydralora", "molora"])
def test_mean_gates_of_a_router_that_prefers_nothing_are_the_mixture(method, benchmark):
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
def test_a_run_is_scored_in_every_form(method, toy_root, tmp_path, monkeypatch):
    data = {"data.tasks": ["arc_e", "obqa"], "source": "local", "source.root": toy_root, "training.max_steps": 2}
    run = mosld.train(data, method=method, model="tiny", output_dir=tmp_path / "run", seed=1)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    options = ["--state", tmp_path / "state", "--rows", "20", "--json", tmp_path / "json"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["export_cost", *map(str, [run.path, *options])])
        runpy.run_path(str(BENCHMARKS / "export_cost.py"), run_name="__main__")
    [row] = json.loads((tmp_path / "json").read_text())["rows"]
    assert row["method"] == method
    assert row["token-routed"] == f"{100 * run.average:.1f}"
    assert set(row) >= {"fitted per task", "fitted for all", "mean gates", "untrained", "mean gates - routed"}
