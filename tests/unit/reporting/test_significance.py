"""Tests of significance against scipy, against numbers worked out by hand, and against exact distributions."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from mosld.reporting.significance import (
    bootstrap_means,
    bootstrap_p,
    holm,
    mean_and_spread,
    paired_t,
    percentile_interval,
    welch_t,
)

SAMPLES = [random.Random(seed).choices(range(100), k=7) for seed in range(8)]
PAIRS = list(zip(SAMPLES[:4], SAMPLES[4:], strict=True))


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_paired_t_equals_scipy(a: list[float], b: list[float]):
    assert paired_t(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-12)


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("size", [2, 3, 7])
def test_welch_t_equals_scipy(a: list[float], b: list[float], size: int):
    assert welch_t(a[:size], b) == pytest.approx(stats.ttest_ind(a[:size], b, equal_var=False).pvalue, rel=1e-12)


def test_paired_t_of_two_pairs_equals_the_cauchy_distribution():
    # Differences 1 and 3: mean 2, deviation sqrt 2, t = 2 / (sqrt 2 / sqrt 2) = 2; with one degree of freedom the
    # distribution is Cauchy's, so p = 1 - 2 atan(2) / pi.
    assert paired_t([2, 5], [1, 2]) == pytest.approx(1 - 2 * math.atan(2) / math.pi)


@pytest.mark.parametrize(("a", "b"), [([1.0], [2.0]), ([], []), ([0.5, 0.6], [0.4, 0.5])])
def test_paired_t_of_one_pair_or_equal_differences_is_none(a: list[float], b: list[float]):
    assert paired_t(a, b) is None


@pytest.mark.parametrize(("a", "b"), [([1.0], [2.0, 3.0]), ([0.5, 0.5], [0.4, 0.4])])
def test_welch_t_of_one_value_or_constant_sides_is_none(a: list[float], b: list[float]):
    assert welch_t(a, b) is None


@pytest.mark.parametrize(
    ("values", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.02, None, 0.01], [0.02, None, 0.02]),
        ([0.9, 0.5, 0.6], [1.0, 1.0, 1.0]),
    ],
    ids=["by hand", "a test is missing", "at most 1"],
)
def test_holm(values: list[float | None], corrected: list[float | None]):
    assert holm(values) == pytest.approx(corrected)


def test_bootstrap_of_one_differing_item_has_its_exact_p():
    # One of 24 items differs: a resample draws it k times, k being Binomial(24, 1/24), and is as far from what was
    # observed as zero is wherever k is not 1.
    values = np.array([[-1.0]] + [[0.0]] * 23)
    exact = 1 - stats.binom.pmf(1, 24, 1 / 24)
    means = bootstrap_means(values, 20_000)[:, 0]
    assert bootstrap_p(-1 / 24, means) == pytest.approx(exact, abs=0.012)  # 3.5 standard errors of 20,000 resamples


def test_bootstrapped_interval_equals_scipy():
    rng = np.random.default_rng(1)
    values = rng.choice([-1.0, 0.0, 1.0], 400, p=[0.1, 0.6, 0.3])
    means = bootstrap_means(values[:, None], 20_000)[:, 0]
    scipy = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    assert percentile_interval(means) == pytest.approx((scipy.low, scipy.high), abs=0.003)


def test_clear_difference_is_significant_and_no_difference_is_not():
    clear, none = [1.0] * 60 + [0.0] * 40, [1.0] * 50 + [-1.0] * 50
    means = bootstrap_means(np.array([clear, none]).T, 5000)
    assert (bootstrap_p(0.6, means[:, 0]) < 0.001, bootstrap_p(0.0, means[:, 1])) == (True, 1.0)


def test_no_p_is_zero():
    assert bootstrap_p(1.0, np.ones(99)) == pytest.approx(0.01)


def test_bootstrap_calls_5_percent_of_null_differences_significant():
    # Of 400 comparisons without a difference, about 5 % are called significant: 3 to 7.5 % is within 2.3 deviations.
    rng = np.random.default_rng(0)
    values = rng.choice([-1.0, 0.0, 1.0], (100, 400), p=[0.2, 0.6, 0.2])
    means = bootstrap_means(values, 2000)
    significant = [bootstrap_p(float(values[:, i].mean()), means[:, i]) < 0.05 for i in range(400)]
    assert 0.03 <= sum(significant) / 400 <= 0.075


def test_every_column_and_call_sees_the_same_draws():
    values = np.arange(6.0)[:, None]
    both = bootstrap_means(np.hstack([values, 2 * values]), 50)
    assert np.allclose(both[:, 1], 2 * both[:, 0])
    assert np.array_equal(bootstrap_means(values, 50)[:, 0], both[:, 0])


def test_drawing_in_chunks_gives_all_resamples(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mosld.reporting.significance.MAX_DRAWN_ITEMS", 20)
    means = bootstrap_means(np.ones((10, 3)), 7)
    assert (means.shape, means.min(), means.max()) == ((7, 3), 1.0, 1.0)


def test_mean_and_sample_deviation():
    assert mean_and_spread([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
    assert mean_and_spread([5.0]) == (5.0, None)
