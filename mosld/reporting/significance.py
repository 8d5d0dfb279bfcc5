"""Whether a difference is more than chance: bootstrap over items, t-tests over seeds, Holm's correction.

Shapes: N items, R compared rows, D bootstrap resamples.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CHUNK = 1_000_000  # most drawn items held at a time: 4 MB


def bootstrap_means(values_NR: Floats, resamples: int, seed: int = 0) -> Floats:
    """Means over items drawn with replacement, as often as there are items [D, R].

    All columns see the same draws, and so do calls with as many items: what is drawn depends on (N, seed) alone.
    """
    items = len(values_NR)
    step = max(1, CHUNK // items)
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


def interval(means_D: Floats, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of a bootstrapped mean."""
    low, high = np.quantile(means_D, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_p(observed: float, means_D: Floats) -> float:
    """Two-sided p of a mean of zero: how often the bootstrap, moved to zero, is as far from it as what was observed.

    (1 + hits) / (1 + D), so that no p is zero (Davison and Hinkley 1997, section 4.2.5).
    """
    far = np.abs(means_D - observed) >= abs(observed) - 1e-12
    return (1 + int(far.sum())) / (1 + len(means_D))


def paired_t(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of Student's paired t-test; None of fewer than two pairs, or where all differ by the same."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    if len(differences) < 2:
        return None
    error = math.sqrt(_variance(differences) / len(differences))
    return _two_sided(_mean(differences), error, len(differences) - 1)


def welch_t(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of Welch's t-test; None of fewer than two values on a side, or where neither side varies."""
    if min(len(a), len(b)) < 2:
        return None
    share_a, share_b = _variance(a) / len(a), _variance(b) / len(b)
    error = math.sqrt(share_a + share_b)
    if error < 1e-12:
        return None
    freedom = (share_a + share_b) ** 2 / (share_a**2 / (len(a) - 1) + share_b**2 / (len(b) - 1))
    return _two_sided(_mean(a) - _mean(b), error, freedom)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (1979) over all p values that there are."""
    order = sorted((value, i) for i, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        corrected[i] = largest
    return corrected


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None where there is one value."""
    return _mean(values), math.sqrt(_variance(values)) if len(values) > 1 else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    middle = _mean(values)
    return math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)


def _two_sided(difference: float, error: float, freedom: float) -> float | None:
    """The share of Student's t beyond difference / error; equal differences are equal up to rounding alone."""
    if error < 1e-12:
        return None
    from scipy.special import stdtr  # a second to import; only needed where there are several seeds

    return float(2 * stdtr(freedom, -abs(difference / error)))
