"""Where to cut a row of things."""

from collections.abc import Callable


def cheapest_cuts(count: int, cost: Callable[[int, int], int], most: int | None = None) -> list[tuple[int, int]]:
    """Cut `count` things in a row into runs that cost least together.

    Args:
        count: how many there are.
        cost: of the run from one index up to another.
        most: longest run (default: any).

    Returns:
        Start and end of each run, in order.
    """
    least, starts = [0], [0]  # of the first n things: least cost, and where their last run starts
    for stop in range(1, count + 1):
        found = min((least[start] + cost(start, stop), start) for start in range(max(0, stop - (most or stop)), stop))
        least.append(found[0])
        starts.append(found[1])
    cuts, stop = list[tuple[int, int]](), count
    while stop:
        cuts.append((starts[stop], stop))
        stop = starts[stop]
    return cuts[::-1]
