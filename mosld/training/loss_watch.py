"""When a loss explodes: it is worse than that of a model that knows nothing, by more than any batch explains."""

import math

FACTOR = 2.0
STEPS_IN_A_ROW = 3
FACTOR_AT_ONCE = 10.0


class LossWatch:
    """Watches the cross entropy of each step.

    A model that gives all V tokens the same probability has a loss of ln V, on whatever rows; one that learns is below
    it. Random weights with sharp predictions may be above it, and then from the first step on, which no update has
    touched. So the loss explodes where it exceeds the larger of both `FACTOR` times, `STEPS_IN_A_ROW` steps long (one
    batch of odd rows is no explosion), or `FACTOR_AT_ONCE` times in one step (the next one may not be finite).

    Attributes:
        guessing: ln V.
        first: the loss of the first step; infinite before it.
    """

    def __init__(self, vocabulary: int) -> None:
        self.guessing = math.log(max(2, vocabulary))
        self.first = math.inf
        self._above = 0
        self._warned = False

    def explodes(self, loss: float) -> bool:
        """Whether the loss of this step shows it; True once."""
        if self.first == math.inf:
            self.first = loss
        reference = max(self.guessing, self.first)
        self._above = self._above + 1 if loss > FACTOR * reference else 0
        exploding = self._above >= STEPS_IN_A_ROW or loss > FACTOR_AT_ONCE * reference
        new = exploding and not self._warned
        self._warned = self._warned or exploding
        return new
