r"""What a table of scores can show: the smallest difference of two accuracies, and the seeds that a difference needs.

Two-sided tests at level ALPHA that show a true difference with probability POWER (Cohen 1988).

Over N items the difference of two accuracies is about normal with the variance v / N, where v is that of the difference
on one item: p_1 (1 - p_1) + p_2 (1 - p_2) for independent answers, the share of items that only one of both gets right
for answers to the same items. The smallest difference is
(z_{1 - ALPHA/2} + z_POWER) sqrt(v / N).

Over K seeds a side, with the standard deviation s among seeds, Student's t has 2K - 2 degrees of freedom and, at a true
difference d, the noncentrality d / (s sqrt(2 / K)).
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist

from mosld.common.files import JsonObject

ALPHA = 0.05
POWER = 0.8
MAX_SEEDS = 1000
# Tasks that a note names; of more it gives the range.
MAX_LISTED = 9
SMALLEST = f"Smallest difference that could be shown (power {POWER:g}, alpha {ALPHA:g})"


def accuracy_text(score: JsonObject) -> str:
    """An accuracy in per cent with its standard error; where that is 0, with the 95 % interval of Wilson (1927).

    The standard error is 0 where no answer or every answer is right, also of a single item, which proves nothing.
    """
    accuracy = f"{100 * score['accuracy']:.1f}"
    error = f"{100 * score['stderr']:.1f}"
    if error != "0.0":
        return f"{accuracy} ± {error}"
    low, high = wilson_interval(score["accuracy"], score["n"])
    return f"{accuracy} [{100 * low:.1f}, {100 * high:.1f}]"


def wilson_interval(accuracy: float, items: int) -> tuple[float, float]:
    """The shares of right answers from which this accuracy does not differ at level ALPHA."""
    z_squared = NormalDist().inv_cdf(1 - ALPHA / 2) ** 2
    centre = accuracy + z_squared / (2 * items)
    reach = math.sqrt(z_squared * (accuracy * (1 - accuracy) / items + z_squared / (4 * items**2)))
    scale = 1 + z_squared / items
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def smallest_over_items(variances: Sequence[float], items: Sequence[int]) -> float:
    """The smallest difference of accuracy that the items of one task, or of some on average, can show.

    Args:
        variances: of the difference on one item, by task.
        items: how many there are, by task.
    """
    variance = sum(variance / count for variance, count in zip(variances, items, strict=True)) / len(items) ** 2
    return smallest_for_error(math.sqrt(variance))


def smallest_for_error(error: float) -> float:
    """The smallest difference that is shown where its estimate has this standard error, and is about normal."""
    return min(1.0, (NormalDist().inv_cdf(1 - ALPHA / 2) + NormalDist().inv_cdf(POWER)) * error)


def independent_variance(accuracy: float, items: int) -> float:
    """The variance of the difference of two answers to one item, if both are right equally often, on their own.

    An item of each outcome is added (Laplace), so that a task without a wrong answer does not look like a sure one.
    """
    share = (accuracy * items + 1) / (items + 2)
    return 2 * share * (1 - share)


def smallest_over_seeds(deviation: float, seeds: int) -> float:
    """The smallest difference of the means of two sides that `seeds` runs a side can show, by a t-test."""
    # A run needs only the differences over items, and starts 0.2 s earlier without scipy.
    from scipy.special import nctdtrinc, stdtrit

    freedom = 2 * seeds - 2
    noncentrality = float(nctdtrinc(freedom, 1 - POWER, stdtrit(freedom, 1 - ALPHA / 2)))
    return min(1.0, noncentrality * deviation * math.sqrt(2 / seeds))


def seeds_needed(difference: float, deviation: float) -> int | None:
    """The fewest runs a side that show this difference of means by a t-test; None for more than MAX_SEEDS."""
    if not difference:
        return None
    numbers = range(2, MAX_SEEDS + 1)
    # The more runs, the smaller a difference they show.
    i = bisect_left(numbers, True, key=lambda seeds: smallest_over_seeds(deviation, seeds) <= abs(difference))
    return numbers[i] if i < len(numbers) else None


def pooled_deviation(groups: Iterable[Sequence[float]]) -> float | None:
    """The standard deviation within groups of two values or more; None without one."""
    squares, freedom = 0.0, 0
    for values in groups:
        mean = math.fsum(values) / len(values)
        squares += math.fsum((value - mean) ** 2 for value in values)
        freedom += len(values) - 1
    return math.sqrt(squares / freedom) if freedom else None


def smallest_on_average(tasks: Sequence[tuple[float, int]]) -> float:
    """The smallest difference that one run can show from another on average over tasks, of accuracy and items each."""
    variances = [independent_variance(accuracy, items) for accuracy, items in tasks]
    return smallest_over_items(variances, [items for _, items in tasks])


def independent_note(scores: Mapping[str, JsonObject], average: bool = True) -> str:
    """What the items of one run can show of a difference from another run, by task and on average.

    Args:
        scores: by task, or by subject of a task.
        average: whether their average is shown, too.
    """
    tasks = {name: (score["accuracy"], score["n"]) for name, score in scores.items()}
    sizes = {name: 100 * smallest_on_average([task]) for name, task in tasks.items()}
    if len(sizes) <= MAX_LISTED:
        listed = [f"{name} {size:.1f}" for name, size in sizes.items()]
    else:
        listed = [f"{min(sizes.values()):.1f} to {max(sizes.values()):.1f}"]
    if average and len(sizes) > 1:
        listed.append(f"average {100 * smallest_on_average(list(tasks.values())):.1f}")
    return f"{SMALLEST}: {', '.join(listed)} points over items; over seeds: one run cannot tell"
