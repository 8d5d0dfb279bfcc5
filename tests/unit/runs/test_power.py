"""The smallest difference that a table claims to show is shown with the claimed power, by simulation."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest

from mosld.evaluation.scores import accuracy_score
from mosld.runs.power import (
    ALPHA,
    POWER,
    accuracy_text,
    independent_note,
    independent_variance,
    pooled_deviation,
    seeds_needed,
    smallest_over_items,
    smallest_over_seeds,
    wilson_interval,
)

SIMULATIONS = 10_000
# Five standard errors of a share of POWER among as many simulations: once in two million runs by chance.
BOUND = 5 * math.sqrt(POWER * (1 - POWER) / SIMULATIONS)


def shown_over_items(accuracies: list[float], difference: float, items: int) -> float:
    """The share of simulations whose z-test of the average over independent tasks is significant."""
    rng = np.random.default_rng(0)
    lower, upper = (
        np.stack([rng.binomial(items, p + sign * difference / 2, SIMULATIONS) for p in accuracies]) / items
        for sign in (-1, 1)
    )
    errors = np.sqrt((lower * (1 - lower) + upper * (1 - upper)).sum(axis=0) / (items - 1))
    return float(np.mean(np.abs((upper - lower).sum(axis=0) / errors) > stats.norm.isf(ALPHA / 2)))


@pytest.mark.parametrize("accuracies", [[0.5], [0.8], [0.3, 0.6, 0.7]])
def test_difference_over_items_is_shown_with_the_claimed_power(accuracies):
    # So many items that the variance at the two accuracies is that in the middle to a hundredth.
    items = 2000
    smallest = smallest_over_items([independent_variance(p, items) for p in accuracies], [items] * len(accuracies))
    assert shown_over_items(accuracies, smallest, items) == pytest.approx(POWER, abs=BOUND + 0.005)
    assert shown_over_items(accuracies, smallest / 2, items) < 0.5


def shown_over_seeds(difference: float, seeds: int) -> float:
    rng = np.random.default_rng(0)
    sides = (rng.normal(mean, 0.01, (SIMULATIONS, seeds)) for mean in (0.5, 0.5 + difference))
    return float(np.mean(stats.ttest_ind(*sides, axis=1).pvalue < ALPHA))


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
def test_difference_over_seeds_is_shown_with_the_claimed_power(seeds):
    assert shown_over_seeds(smallest_over_seeds(0.01, seeds), seeds) == pytest.approx(POWER, abs=BOUND)


@pytest.mark.parametrize("difference", [0.005, 0.01, 0.02, 0.04])
def test_seeds_needed_are_the_fewest_that_show_the_difference(difference):
    seeds = seeds_needed(-difference, 0.01)
    assert seeds is not None
    assert shown_over_seeds(difference, seeds) > POWER - BOUND
    assert seeds == 2 or shown_over_seeds(difference, seeds - 1) < POWER + BOUND


def test_no_number_of_seeds_shows_a_difference_of_zero_or_a_tiny_one():
    assert seeds_needed(0, 0.01) is None
    assert seeds_needed(1e-5, 0.01) is None


def test_a_deviation_is_pooled_over_groups_of_two_and_more():
    groups = [[1.0, 3.0], [5.0], [0.0, 0.0, 3.0]]
    assert pooled_deviation(groups) == pytest.approx(math.sqrt((2 + 6) / 3))
    assert pooled_deviation([[1.0], [2.0]]) is None


def test_note_of_a_run_names_tasks_and_average_even_where_nothing_is_wrong():
    note = independent_note({"obqa": {"accuracy": 0.5, "n": 500}, "csqa": {"accuracy": 1.0, "n": 20}})
    # 2.8016 sqrt(2 / 4 / 500) and, with an item of each outcome more, 2.8016 sqrt(2 (21/22) (1/22) / 20).
    assert "obqa 8.9, csqa 18.5, average 10.2 points over items" in note


def test_note_of_many_tasks_gives_their_range():
    scores = {f"task{i}": {"accuracy": 0.5, "n": items} for i, items in enumerate([100, 400] * 5)}
    # 2.8016 sqrt(2 / 4 / items).
    assert ": 9.9 to 19.8 points over items;" in independent_note(scores, average=False)
    # 2.8016 sqrt(5 (2 / 4 / 100 + 2 / 4 / 400)) / 10.
    assert ": 9.9 to 19.8, average 5.0 points over items;" in independent_note(scores)


@pytest.mark.parametrize(("right", "items"), [(0, 1), (1, 1), (0, 8), (8, 8), (3, 8), (0, 100)])
def test_wilson_interval_is_that_of_scipy(right, items):
    expected = binomtest(right, items).proportion_ci(confidence_level=1 - ALPHA, method="wilson")
    assert wilson_interval(right / items, items) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    ("right", "items", "text"),
    [(0, 1, "0.0 [0.0, 79.3]"), (1, 1, "100.0 [20.7, 100.0]"), (0, 8, "0.0 [0.0, 32.4]"), (4, 8, "50.0 ± 18.9")],
)
def test_no_accuracy_has_an_error_of_0(right, items, text):
    assert accuracy_text(accuracy_score([True] * right + [False] * (items - right))) == text
