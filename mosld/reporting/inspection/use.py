"""Which experts the tasks take, how far two tasks differ in it, and how much an expert says of the task.

Out of routing.json. An expert's part in a task is its mean gate over the task's tokens, divided by the sum of all
experts' mean gates, so that dense, top-k and capacity routers read alike.
Shapes: T tasks, E experts.
"""

from collections.abc import Mapping

import numpy as np
from scipy.special import entr

from mosld.reporting.inspection.inspected import Array

Use = Mapping[str, Mapping[str, Array]]
"""By task and module, the part of each expert [E]."""


def divergence(use: Use) -> Array:
    """The Jensen-Shannon divergence of every two tasks' expert use [T, T] in bits, mean over modules.

    0: they take the same experts equally often; 1: they have no expert in common.
    """
    tasks = list(use)
    found_TT = np.zeros((len(tasks), len(tasks)))
    for i, one in enumerate(tasks):
        for j, other in enumerate(tasks[:i]):
            pairs = [np.stack([part_E, use[other][module]]) for module, part_E in use[one].items()]
            found_TT[i, j] = found_TT[j, i] = np.mean([_information(pair_TE) for pair_TE in pairs]) / np.log(2)
    return found_TT


def specialisation(use: Use) -> dict[str, float | None]:
    """By module, how much the expert that a token takes says of the token's task, from 0 (nothing) to 1.

    The mutual information of task and expert, with all tasks equally likely, as a share of the largest possible,
    ln min(T, E). Mod-Squad (Chen et al. 2023, arXiv 2212.08066) trains towards this mutual information; the division
    is ours, so that layers with different numbers of experts compare. None for one task or one expert.
    """
    found: dict[str, float | None] = {}
    for module, first in next(iter(use.values()), {}).items():
        parts_TE = np.stack([own[module] for own in use.values()])
        most = np.log(min(len(parts_TE), len(first)))
        found[module] = float(_information(parts_TE) / most) if most > 0 else None
    return found


def _information(parts_TE: Array) -> float:
    """The mutual information in nats of an expert and a row, all rows equally likely: H(mean) - mean H."""
    return max(0.0, float(entr(parts_TE.mean(0)).sum() - entr(parts_TE).sum(-1).mean()))
