"""Tests of a difference in accuracy: bootstrap over items, t-tests over seeds, Holm's correction.

Shapes: N items, R compared rows, D bootstrap resamples.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

Floats = NDArray[np.float64]
# Held in memory at a time: 4 MB.
MAX_DRAWN_ITEMS = 1_000_000
# Of a difference of accuracies.
ROUNDING_ERROR = 1e-12


def bootstrap_means(values_NR: Floats, resamples: int, seed: int = 0) -> Floats:
    """Means over N items drawn with replacement [D, R].

    The draws depend only on (N, seed): all columns see the same ones, and so do calls with as many items.
    """
    items = len(values_NR)
    step = max(1, MAX_DRAWN_ITEMS // items)
    return np.concatenate(
        [
            _draws(items, min(step, resamples - start), start, seed) @ values_NR / items
            for start in range(0, resamples, step)
        ]
    )


@lru_cache(maxsize=16)
def _draws(items: int, count: int, start: int, seed: int) -> NDArray[np.float32]:
    """How often each item is drawn in each of `count` resamples [count, N]."""
    rng = np.random.default_rng([seed, items, start])
    drawn = rng.integers(0, items, (count, items)) + items * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * items).reshape(count, items).astype(np.float32)


def percentile_interval(means_D: Floats) -> tuple[float, float]:
    """The 95 % percentile interval of a bootstrapped mean."""
    low, high = np.quantile(means_D, [0.025, 0.975])
    return float(low), float(high)


def bootstrap_p(observed: float, means_D: Floats) -> float:
    """Two-sided p of a mean of zero: how often the bootstrap, centred at zero, is as far from it as the observed mean.

    (1 + hits) / (1 + D), so that no p is zero (Davison and Hinkley 1997, section 4.2.5).
    """
    hits = np.abs(means_D - observed) >= abs(observed) - ROUNDING_ERROR
    return (1 + int(hits.sum())) / (1 + len(means_D))


def paired_t(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of Student's paired t-test; None for fewer than two pairs, or if all differences are equal."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    if len(differences) < 2:
        return None
    error = math.sqrt(_variance(differences) / len(differences))
    return _two_sided(_mean(differences), error, len(differences) - 1)


def welch_t(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of Welch's t-test; None for fewer than two values on a side, or if neither side varies."""
    if min(len(a), len(b)) < 2:
        return None
    share_a, share_b = _variance(a) / len(a), _variance(b) / len(b)
    error = math.sqrt(share_a + share_b)
    if error < ROUNDING_ERROR:
        return None
    freedom = (share_a + share_b) ** 2 / (share_a**2 / (len(a) - 1) + share_b**2 / (len(b) - 1))
    return _two_sided(_mean(a) - _mean(b), error, freedom)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (1979) over all p values that are not None."""
    order = sorted((value, i) for i, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        corrected[i] = largest
    return corrected


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation, which is None for one value."""
    return _mean(values), math.sqrt(_variance(values)) if len(values) > 1 else None


def mean_difference(here: Mapping[int, float], there: Mapping[int, float]) -> float:
    """Of two sides by seed, over the seeds of both; without any, the difference of the means."""
    shared = here.keys() & there.keys()
    sides = [[side[seed] for seed in sorted(shared)] if shared else list(side.values()) for side in (here, there)]
    return _mean(sides[0]) - _mean(sides[1])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _two_sided(difference: float, error: float, freedom: float) -> float | None:
    """The share of Student's t distribution beyond difference / error; None if the error is zero up to rounding."""
    if error < ROUNDING_ERROR:
        return None
    return float(2 * stdtr(freedom, -abs(difference / error)))
