"""Overlap of what two A's read, and the A that a run began with."""

from pathlib import Path

import numpy as np
import pytest

from mosld.adapters.adapt import adapt
from mosld.analysis.adapter_files import AdapterRun
from mosld.analysis.initial_weights import starting_A
from mosld.analysis.metrics import cosines, moved, overlap, random_overlap
from mosld.config.compose import load_config
from mosld.runs.saved import SavedRun

INPUTS = 40


def draw(rank: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rank, INPUTS))


def projector(A: np.ndarray) -> np.ndarray:
    return np.linalg.pinv(A) @ A


@pytest.mark.parametrize(("one", "other"), [(4, 4), (3, 6)])
def test_overlap_is_that_of_the_projections_on_the_row_spaces(one, other):
    A, B = draw(one, 0), draw(other, 1)
    shared = np.linalg.norm(projector(A) @ projector(B)) ** 2 / min(one, other)
    assert overlap(A, B) == pytest.approx(shared)
    assert (cosines(A, B) ** 2).mean() == pytest.approx(shared)
    assert sorted(cosines(A, B), reverse=True) == list(cosines(A, B))


def test_its_ends_and_that_the_basis_does_not_matter():
    A, mix = draw(4, 0), np.random.default_rng(2).standard_normal((4, 4))
    assert overlap(A, mix @ A) == pytest.approx(1)
    assert overlap(A, np.concatenate([draw(2, 3), A])) == pytest.approx(1)  # the smaller lies in the larger
    assert overlap(np.eye(INPUTS)[:4], np.eye(INPUTS)[4:9]) == pytest.approx(0)


@pytest.mark.parametrize(("one", "other"), [(4, 4), (3, 6)])
def test_the_reference_is_the_mean_of_random_subspaces(one, other):
    found = [overlap(draw(one, seed), draw(other, 1000 + seed)) for seed in range(300)]
    error = np.std(found) / np.sqrt(len(found))
    assert random_overlap(draw(one, 0), draw(other, 1)) == pytest.approx(np.mean(found), abs=4 * error)


def trained(monkeypatch, model, method: str, **options) -> AdapterRun:
    """A run whose A is that of this model."""
    config = load_config(
        [f"method={method}", "model=tiny", *(f"method.{key}={value}" for key, value in options.items())]
    )
    run = AdapterRun(SavedRun(Path("nowhere"), Path("nowhere"), False, {}), config)
    found = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    ends = (".mosld_mixture.default.A", ".lora_A.default.weight")
    own = {
        name.removeprefix("base_model.model.").removesuffix(end): A
        for name, A in found.items() for end in ends if name.endswith(end)
    }  # fmt: skip
    monkeypatch.setattr(AdapterRun, "single_A", own)
    return run


@pytest.mark.parametrize("method", ["lora", "mosl", "mosld", "hydralora"])
def test_the_start_is_drawn_again_to_the_last_bit(method, tiny, monkeypatch):
    run = trained(monkeypatch, adapt(tiny, method, seed=0), method)
    start = starting_A(run)
    assert len(start) == 8  # q and v of four layers
    assert all(np.array_equal(start[key], A) for key, A in run.single_A.items())
    assert all(moved(A, start[key]) == 0 for key, A in run.single_A.items())


def test_a_start_is_known_also_where_training_moved_A_by_twice_its_length(tiny, monkeypatch):
    run = trained(monkeypatch, adapt(tiny, "mosl", seed=0), "mosl")
    before = run.single_A
    draw = np.random.default_rng(0).standard_normal
    steps = {key: draw(A.shape) for key, A in before.items()}
    after = {key: A + 2 * steps[key] * np.linalg.norm(A) / np.linalg.norm(steps[key]) for key, A in before.items()}
    monkeypatch.setattr(AdapterRun, "single_A", after)
    start = starting_A(run)
    assert all(np.array_equal(start[key], A) for key, A in before.items())
    assert [moved(A, start[key]) for key, A in after.items()] == pytest.approx([2] * 8)


@pytest.mark.parametrize(("method", "given"), [("mosl", {"seed": 1}), ("lora", {"seed": 0, "rank": 4})])
def test_a_start_that_cannot_be_this_one_is_not_given(method, given, tiny, monkeypatch):
    run = trained(monkeypatch, adapt(tiny, method, **given), method)  # the config says seed 0 and rank 8
    assert starting_A(run) is None
