"""How much of the space that one run's A reads another run's A reads too, layer by layer.

Shapes: I in, R rank.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from scipy.linalg import subspace_angles

from mosld.reporting.inspection.inspected import Array, Inspected, layer_and_kind


def overlap(A_RI: Array, other_RI: Array) -> float:
    """How far the row spaces of two matrices are the same: the mean squared cosine of their principal angles.

    0: orthogonal; 1: the smaller lies in the larger. This is phi of LoRA (Hu et al. 2022, section 7.2) for all
    directions.
    """
    return float((cosines(A_RI, other_RI) ** 2).mean())


def cosines(A_RI: Array, other_RI: Array) -> Array:
    """The cosines of the principal angles between the row spaces, the largest first."""
    return np.cos(subspace_angles(A_RI.T, other_RI.T))[::-1]


def random_overlap(A_RI: Array, other_RI: Array) -> float:
    """The expected `overlap` of random subspaces of the same dimensions: the larger one / I."""
    return float(max(np.linalg.matrix_rank(A_RI), np.linalg.matrix_rank(other_RI)) / A_RI.shape[1])


def moved(A_RI: Array, start_RI: Array) -> float:
    """How far training moved A, as a part of its length at the start."""
    return float(np.linalg.norm(A_RI - start_RI) / np.linalg.norm(start_RI))


def overlaps(runs: Mapping[str, Inspected], starts: Mapping[str, Mapping[str, Array] | None]) -> list[dict[str, Any]]:
    """What every two runs with one A a layer have in common, in the layers that both adapt.

    Args:
        runs: by name; those of different base models, or without a common layer, make no pair.
        starts: by name, what `starting_A` gives.

    Returns:
        [{"a", "b", "modules": {key: {"layer", "module", "overlap", "random", "cosines", "start", "learned"}}}]:
        "start" is the overlap before training, "learned" that of what training added, A - A at the start; None where
        a start is unknown or nothing was added.
    """
    found = []
    for (name, run), (other_name, other) in combinations(runs.items(), 2):
        if not (run.one_A and other.one_A) or run.config.model.name != other.config.model.name:
            continue
        one, two = run.single_A, other.single_A
        shared = [key for key in one if key in two and one[key].shape[1] == two[key].shape[1]]
        modules = {key: _compare(key, one[key], two[key], starts[name], starts[other_name]) for key in shared}
        if modules:
            found.append({"a": name, "b": other_name, "modules": modules})
    return found


def _compare(
    key: str, A_RI: Array, other_RI: Array, start: Mapping[str, Array] | None, other: Mapping[str, Array] | None
) -> dict[str, Any]:
    layer, kind = layer_and_kind(key)
    before = learned = None
    if start is not None and other is not None:
        before = overlap(start[key], other[key])
        added, other_added = A_RI - start[key], other_RI - other[key]
        learned = overlap(added, other_added) if added.any() and other_added.any() else None
    return {
        "layer": layer,
        "module": kind,
        "overlap": overlap(A_RI, other_RI),
        "random": random_overlap(A_RI, other_RI),
        "cosines": [round(float(value), 6) for value in cosines(A_RI, other_RI)],
        "start": before,
        "learned": learned,
    }
