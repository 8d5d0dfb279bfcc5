"""The A that a run started with, drawn again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosld.adapters.adapt import adapt
from mosld.analysis.adapter_files import AdapterRun
from mosld.analysis.initial_weights import initial_a
from mosld.analysis.metrics import relative_change
from mosld.config.compose import load_config
from mosld.runs.saved import SavedRun


def run_of(monkeypatch: pytest.MonkeyPatch, model: Any, method: str) -> AdapterRun:
    """A run of this method, with seed 0 and rank 8, whose A is that of this model."""
    weights = {}
    for name, parameter in model.named_parameters():
        for end in (".mosld_mixture.default.A", ".lora_A.default.weight"):
            if name.endswith(end):
                key = name.removeprefix("base_model.model.").removesuffix(end)
                weights[key] = parameter.detach().double().numpy()
    monkeypatch.setattr(AdapterRun, "single_a", weights)
    config = load_config([f"method={method}", "model=tiny"])
    return AdapterRun(SavedRun(Path("nowhere"), Path("nowhere"), False, {}), config)


@pytest.mark.parametrize("method", ["lora", "mosl", "mosld", "hydralora"])
def test_initial_A_is_drawn_again_to_the_last_bit(method: str, tiny: Any, monkeypatch: pytest.MonkeyPatch):
    run = run_of(monkeypatch, adapt(tiny, method, seed=0), method)
    initial = initial_a(run)
    assert initial is not None
    assert len(initial) == 8  # q and v of four layers
    assert all(np.array_equal(initial[key], A) for key, A in run.single_a.items())


def test_initial_A_is_known_if_training_moved_A_by_twice_its_norm(tiny: Any, monkeypatch: pytest.MonkeyPatch):
    run = run_of(monkeypatch, adapt(tiny, "mosl", seed=0), "mosl")
    before = run.single_a
    normal = np.random.default_rng(0).standard_normal
    steps = {key: normal(A.shape) for key, A in before.items()}
    after = {key: A + 2 * steps[key] * np.linalg.norm(A) / np.linalg.norm(steps[key]) for key, A in before.items()}
    monkeypatch.setattr(AdapterRun, "single_a", after)
    initial = initial_a(run)
    assert initial is not None
    assert all(np.array_equal(initial[key], A) for key, A in before.items())
    assert [relative_change(A, initial[key]) for key, A in after.items()] == pytest.approx([2] * 8)


@pytest.mark.parametrize(("method", "options"), [("mosl", {"seed": 1}), ("lora", {"seed": 0, "rank": 4})])
def test_initial_A_of_another_seed_or_rank_is_none(
    method: str, options: dict[str, int], tiny: Any, monkeypatch: pytest.MonkeyPatch
):
    assert initial_a(run_of(monkeypatch, adapt(tiny, method, **options), method)) is None
