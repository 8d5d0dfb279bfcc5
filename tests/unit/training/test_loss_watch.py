"""A loss that explodes is told once, and early; losses of ordinary runs are not taken for one."""

import math

import pytest

from mosld.training.loop import LossWatch

# Measured: the cross entropy of the first steps, the size of the vocabulary, and the step that is warned of.
RUNS = {
    "SmolLM2, lora, 3e-3": ([5.5, 4.8, 2.8, 2.2, 2.4, 4.1, 2, 2.9, 1.8, 3.7, 3, 1.1, 2.8, 1.2], 49152, None),
    "SmolLM2, lora, 0.1": ([5.5, 4.7, 16, 48, 37, 24, 33, 25, 21, 17, 12, 16, 19], 49152, 6),
    "SmolLM2, lora, 1": ([5.5, 9.4, 16, 18, 18, 17, 19, 17, 23, 25, 22, 27, 20, 27], 49152, 11),
    "SmolLM2, lora, 10, diverges at step 6": ([5.5, 25, 38, 28, 28], 49152, 4),
    "tiny, lora, 3e-3": ([6.9, 7, 6.8, 6.8, 6.7, 6.4, 6.3, 6.3, 5.9, 5.8, 5.9, 6, 5.7, 5.6], 260, None),
    "tiny, lora, 3": ([6.9, 6.4, 6.1, 5.7, 5.7, 6, 5.7, 5.5, 6, 5.6, 5.3, 5.7, 6, 5.5, 4.8], 260, None),
    "tiny, full, 1": ([6.9, 4, 13, 22, 22, 21, 18, 9.9, 11, 12, 7.6, 3.7, 3.9, 2.9], 260, 6),
    "tiny, full, 30": ([6.9, 4.4e3, 2.4e4, 2.1e4, 2.3e4], 260, 2),
    "one odd batch": ([2, 1, 1, 30, 1, 1, 25, 28, 1], 49152, None),
    "a loss that is infinite": ([2, math.inf], 49152, 2),
}


@pytest.mark.parametrize(("losses", "vocabulary", "step"), RUNS.values(), ids=RUNS)
def test_explosion_is_told_once(losses, vocabulary, step):
    watch = LossWatch(vocabulary)
    assert [number for number, loss in enumerate(losses, 1) if watch.explodes(loss)] == ([step] if step else [])
