"""Similarity of experts against full products in float64, without ever making one in the code itself."""

import numpy as np
import pytest

from mosld.analysis.adapter_files import Bank
from mosld.analysis.metrics import norms, pair_mean, random_similarity, similarities

RANK, INPUTS, OUTPUTS = 3, 12, 9


def bank(share: str, experts: int, inputs: int = INPUTS, outputs: int = OUTPUTS, seed: int = 0) -> Bank:
    draw = np.random.default_rng(seed).standard_normal
    As, Bs = (1 if share == side else experts for side in "AB")
    return Bank("model.layers.0.self_attn.q_proj", draw((As, RANK, inputs)), draw((Bs, outputs, RANK)))


def products(bank: Bank) -> list[np.ndarray]:
    """B_i A_i, whole."""
    A, B = (list(own) * (bank.experts // len(own)) for own in (bank.A_ERI, bank.B_EOR))
    return [B_i @ A_i for A_i, B_i in zip(A, B, strict=True)]


def naive_cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.vdot(one, other) / np.sqrt(np.vdot(one, one) * np.vdot(other, other)))


def naive_cka(one: np.ndarray, other: np.ndarray) -> float:
    """Kornblith et al., of the kernels of white inputs."""
    kernels = [product.T @ product for product in (one, other)]
    return naive_cosine(*kernels)


@pytest.mark.parametrize("experts", [2, 5])
@pytest.mark.parametrize("share", ["A", "B", "none"])
def test_it_equals_the_full_products(share, experts):
    made = bank(share, experts)
    full, found = products(made), similarities(made)
    for i in range(experts):
        for j in range(experts):
            assert found["cosine"][i, j] == pytest.approx(naive_cosine(full[i], full[j]), abs=1e-12)
            assert found["cka"][i, j] == pytest.approx(naive_cka(full[i], full[j]), abs=1e-12)
            assert found["cka_out"][i, j] == pytest.approx(naive_cka(full[i].T, full[j].T), abs=1e-12)
    assert norms(made, 2.0) == pytest.approx([2 * np.linalg.norm(product) for product in full])


def test_cka_is_that_of_the_updates_of_many_white_inputs():
    full = products(bank("none", 2))
    inputs = np.random.default_rng(1).standard_normal((50_000, INPUTS))
    updates = [inputs @ product.T for product in full]
    centred = [update - update.mean(0) for update in updates]
    cross = [np.linalg.norm(one.T @ other) ** 2 for one in centred for other in centred]
    assert similarities(bank("none", 2))["cka"][0, 1] == pytest.approx(
        cross[1] / np.sqrt(cross[0] * cross[3]), abs=0.01
    )


def test_what_each_measure_does_not_see():
    A, B = np.random.default_rng(0).standard_normal((2, RANK, INPUTS)), np.random.default_rng(1)
    turn_out = np.linalg.qr(B.standard_normal((OUTPUTS, OUTPUTS)))[0]
    turn_in = np.linalg.qr(B.standard_normal((INPUTS, INPUTS)))[0]
    B_OR = B.standard_normal((OUTPUTS, RANK))
    written_elsewhere = similarities(Bank("", A[:1], np.stack([B_OR, turn_out @ B_OR])))
    assert written_elsewhere["cka"][0, 1] == pytest.approx(1)
    assert written_elsewhere["cka_out"][0, 1] < 0.9
    read_elsewhere = similarities(Bank("", np.stack([A[0], A[0] @ turn_in]), B_OR[None]))
    assert read_elsewhere["cka_out"][0, 1] == pytest.approx(1)
    assert read_elsewhere["cka"][0, 1] < 0.9
    scaled = similarities(Bank("", A[:1], np.stack([B_OR, -3 * B_OR])))
    assert [scaled[name][0, 1] for name in ("cosine", "cka", "cka_out")] == pytest.approx([-1, 1, 1])


def test_an_expert_that_holds_nothing_has_no_similarity():
    made = bank("A", 3)
    made.B_EOR[1] = 0
    found = similarities(made)
    for values in found.values():
        assert np.isnan(values[1]).all()
        assert np.isfinite(values[[0, 2]][:, [0, 2]]).all()
        assert pair_mean(values) == pytest.approx(values[0, 2])
    made.B_EOR[:] = 0
    assert pair_mean(similarities(made)["cosine"]) is None


def test_no_product_is_formed():
    wide = bank("none", 4, inputs=200_000, outputs=200_000)  # a product would take 320 GB
    assert similarities(wide)["cosine"].shape == (4, 4)


@pytest.mark.parametrize("share", ["A", "none"])
def test_random_experts_are_what_independent_draws_give_on_average(share):
    draws = [pair_mean(similarities(bank(share, 4, seed=seed))["cka"]) for seed in range(200)]
    error = np.std(draws) * np.sqrt(1 / 200 + 1 / 17)  # the reference is itself the mean of 17 draws of 6 pairs
    assert random_similarity(bank(share, 4))["cka"] == pytest.approx(np.mean(draws), abs=4 * error)
    assert random_similarity(bank(share, 4)) == random_similarity(bank(share, 4, seed=9))
