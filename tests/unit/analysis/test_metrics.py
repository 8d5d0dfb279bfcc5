"""Measures of adapters against full products in float64, projections, scipy, and sums over tasks and experts."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from mosld.analysis.adapter_files import Array, Bank
from mosld.analysis.metrics import (
    cosines,
    divergence,
    norms,
    overlap,
    pair_mean,
    random_overlap,
    random_similarity,
    similarities,
    specialisation,
)

RANK, INPUTS, OUTPUTS = 3, 12, 9
LAYER_INPUTS = 40


def random_bank(share: str, experts: int, inputs: int = INPUTS, outputs: int = OUTPUTS, seed: int = 0) -> Bank:
    normal = np.random.default_rng(seed).standard_normal
    A_count, B_count = (1 if share == side else experts for side in "AB")
    return Bank("model.layers.0.self_attn.q_proj", normal((A_count, RANK, inputs)), normal((B_count, outputs, RANK)))


def products(bank: Bank) -> list[Array]:
    """B_i A_i of every expert."""
    A, B = (list(factors) * (bank.experts // len(factors)) for factors in (bank.A_ERI, bank.B_EOR))
    return [B_i @ A_i for A_i, B_i in zip(A, B, strict=True)]


def naive_cosine(one: Array, other: Array) -> float:
    return float(np.vdot(one, other) / np.sqrt(np.vdot(one, one) * np.vdot(other, other)))


def naive_cka(one: Array, other: Array) -> float:
    """Kornblith et al., of the kernels of white inputs."""
    return naive_cosine(one.T @ one, other.T @ other)


@pytest.mark.parametrize("experts", [2, 5])
@pytest.mark.parametrize("share", ["A", "B", "none"])
def test_similarities_and_norms_equal_those_of_the_full_products(share: str, experts: int):
    bank = random_bank(share, experts)
    full, values = products(bank), similarities(bank)
    for i in range(experts):
        for j in range(experts):
            assert values["cosine"][i, j] == pytest.approx(naive_cosine(full[i], full[j]), abs=1e-12)
            assert values["cka"][i, j] == pytest.approx(naive_cka(full[i], full[j]), abs=1e-12)
            assert values["cka_out"][i, j] == pytest.approx(naive_cka(full[i].T, full[j].T), abs=1e-12)
    assert norms(bank, 2.0) == pytest.approx([2 * np.linalg.norm(product) for product in full])


def test_cka_is_that_of_the_updates_of_many_white_inputs():
    bank = random_bank("none", 2)
    inputs = np.random.default_rng(1).standard_normal((50_000, INPUTS))
    updates = [inputs @ product.T for product in products(bank)]
    centred = [update - update.mean(0) for update in updates]
    cross = [np.linalg.norm(one.T @ other) ** 2 for one in centred for other in centred]
    assert similarities(bank)["cka"][0, 1] == pytest.approx(cross[1] / np.sqrt(cross[0] * cross[3]), abs=0.01)


def test_cka_ignores_outputs_and_cka_out_ignores_inputs_and_both_ignore_scale():
    A, rng = np.random.default_rng(0).standard_normal((2, RANK, INPUTS)), np.random.default_rng(1)
    rotate_outputs = np.linalg.qr(rng.standard_normal((OUTPUTS, OUTPUTS)))[0]
    rotate_inputs = np.linalg.qr(rng.standard_normal((INPUTS, INPUTS)))[0]
    B = rng.standard_normal((OUTPUTS, RANK))
    other_outputs = similarities(Bank("", A[:1], np.stack([B, rotate_outputs @ B])))
    assert other_outputs["cka"][0, 1] == pytest.approx(1)
    assert other_outputs["cka_out"][0, 1] < 0.9
    other_inputs = similarities(Bank("", np.stack([A[0], A[0] @ rotate_inputs]), B[None]))
    assert other_inputs["cka_out"][0, 1] == pytest.approx(1)
    assert other_inputs["cka"][0, 1] < 0.9
    scaled = similarities(Bank("", A[:1], np.stack([B, -3 * B])))
    assert [scaled[measure][0, 1] for measure in ("cosine", "cka", "cka_out")] == pytest.approx([-1, 1, 1])


def test_expert_that_is_zero_has_no_similarity():
    bank = random_bank("A", 3)
    bank.B_EOR[1] = 0
    for values in similarities(bank).values():
        assert np.isnan(values[1]).all()
        assert np.isfinite(values[[0, 2]][:, [0, 2]]).all()
        assert pair_mean(values) == pytest.approx(values[0, 2])
    bank.B_EOR[:] = 0
    assert pair_mean(similarities(bank)["cosine"]) is None


def test_no_full_product_is_formed():
    bank = random_bank("none", 4, inputs=200_000, outputs=200_000)  # a product would take 320 GB
    assert similarities(bank)["cosine"].shape == (4, 4)


@pytest.mark.parametrize("share", ["A", "none"])
def test_random_similarity_is_the_mean_of_independent_draws(share: str):
    draws = [pair_mean(similarities(random_bank(share, 4, seed=seed))["cka"]) for seed in range(200)]
    error = np.std(draws) * np.sqrt(1 / 200 + 1 / 17)  # the reference is itself the mean of 17 draws of 6 pairs
    assert random_similarity(random_bank(share, 4))["cka"] == pytest.approx(np.mean(draws), abs=4 * error)
    assert random_similarity(random_bank(share, 4)) == random_similarity(random_bank(share, 4, seed=9))


def random_A(rank: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((rank, LAYER_INPUTS))


@pytest.mark.parametrize(("rank", "other_rank"), [(4, 4), (3, 6)])
def test_overlap_is_that_of_the_projections_on_the_row_spaces(rank: int, other_rank: int):
    A, other = random_A(rank, 0), random_A(other_rank, 1)
    projections = np.linalg.pinv(A) @ A @ np.linalg.pinv(other) @ other
    assert overlap(A, other) == pytest.approx(np.linalg.norm(projections) ** 2 / min(rank, other_rank))
    assert (cosines(A, other) ** 2).mean() == pytest.approx(overlap(A, other))
    assert sorted(cosines(A, other), reverse=True) == list(cosines(A, other))


def test_overlap_is_1_of_contained_and_0_of_orthogonal_row_spaces():
    A, basis = random_A(4, 0), np.random.default_rng(2).standard_normal((4, 4))
    assert overlap(A, basis @ A) == pytest.approx(1)
    assert overlap(A, np.concatenate([random_A(2, 3), A])) == pytest.approx(1)
    assert overlap(np.eye(LAYER_INPUTS)[:4], np.eye(LAYER_INPUTS)[4:9]) == pytest.approx(0)


@pytest.mark.parametrize(("rank", "other_rank"), [(4, 4), (3, 6)])
def test_random_overlap_is_the_mean_of_random_subspaces(rank: int, other_rank: int):
    draws = [overlap(random_A(rank, seed), random_A(other_rank, 1000 + seed)) for seed in range(300)]
    error = np.std(draws) / np.sqrt(len(draws))
    assert random_overlap(random_A(rank, 0), random_A(other_rank, 1)) == pytest.approx(np.mean(draws), abs=4 * error)


def random_usage(tasks: int, experts: int, modules: int = 3) -> dict[str, dict[str, Array]]:
    rng = np.random.default_rng(0)
    return {f"t{t}": {f"m{m}": rng.dirichlet(np.ones(experts)) for m in range(modules)} for t in range(tasks)}


def test_divergence_is_the_mean_over_modules_of_jensen_shannon():
    usage = random_usage(4, 5)
    values = divergence(usage)
    for i in range(4):
        for j in range(4):
            modules = [jensenshannon(usage[f"t{i}"][m], usage[f"t{j}"][m], base=2) ** 2 for m in usage["t0"]]
            assert values[i, j] == pytest.approx(np.mean(modules), abs=1e-9)


def test_divergence_is_0_of_equal_usage_and_1_without_a_common_expert():
    one, other = {"m": np.array([0.5, 0.5, 0, 0])}, {"m": np.array([0, 0, 0.3, 0.7])}
    assert divergence({"a": one, "b": other})[0, 1] == pytest.approx(1)
    assert divergence({"a": one, "b": one})[0, 1] == 0


@pytest.mark.parametrize(("tasks", "experts"), [(4, 4), (2, 5), (6, 3)])
def test_specialisation_equals_a_sum_over_tasks_and_experts(tasks: int, experts: int):
    usage = random_usage(tasks, experts)
    for module, score in specialisation(usage).items():
        joint = np.stack([modules[module] for modules in usage.values()]) / tasks
        information = 0.0
        for t in range(tasks):
            for e in range(experts):
                information += joint[t, e] * np.log(joint[t, e] / (joint[t].sum() * joint[:, e].sum()))
        assert score == pytest.approx(information / np.log(min(tasks, experts)))


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (np.eye(6)[:4], {"m": pytest.approx(1)}),
        (np.eye(2), {"m": pytest.approx(1)}),
        (np.full((2, 3), 1 / 3), {"m": pytest.approx(0)}),
        (np.array([[0.2, 0.8]]), {"m": None}),
        (np.ones((2, 1)), {"m": None}),
        (np.ones((0, 2)), {}),
    ],
    ids=["one expert a task", "two", "equal usage", "one task", "one expert", "no task"],
)
def test_specialisation_at_its_ends(shares: Array, expected: dict[str, float | None]):
    assert specialisation({f"t{t}": {"m": share_E} for t, share_E in enumerate(shares)}) == expected
