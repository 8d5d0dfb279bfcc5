"""How alike the experts of a layer are: cosine and linear CKA of their updates P_i = B_i A_i.

No product is formed: all is algebra of R x R blocks, since <P_i, P_j> = sum (B_i' B_j) * (A_i A_j').
Shapes: I in, O out, R rank, E experts.
"""

from collections.abc import Mapping
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from scipy.linalg import subspace_angles
from scipy.special import entr

from mosld.analysis.adapter_files import AdapterRun, Array, Bank, layer_and_kind

# PART: How alike the experts of a layer are: cosine and linear CKA of their updates P_i = B_i A_i. No product is
# formed: all is algebra of R x R blocks, since <P_i, P_j> = sum (B_i' B_j) * (A_i A_j'). Shapes: I in, O out, R
# rank, E experts.


MEASURES = {
    "cosine": "cosine of B_i A_i",
    "cka": "linear CKA: what they tell apart",
    "cka_out": "linear CKA: where they write",
}


def similarities(bank: Bank) -> dict[str, Array]:
    """The similarity of every pair of experts [E, E], NaN where an expert's update is zero.

        cosine   <P_i, P_j> / (|P_i| |P_j|), Frobenius product and norm
        cka      |P_i P_j'|^2 / (|P_i P_i'| |P_j P_j'|)
        cka_out  |P_i' P_j|^2 / (|P_i' P_i| |P_j' P_j|)

    `cka` is linear CKA (Kornblith et al. 2019, arXiv 1905.00414, section 3) of the experts' updates of endlessly many
    inputs of white noise, whose mean is zero: whether two experts tell the same inputs apart, wherever they write. It
    is high by nature where A is shared, since all then see the same R directions. `cka_out` is the same with inputs
    and outputs exchanged: whether they write into the same directions, whatever they read (high by nature where B is
    shared). So each is to be held against `random_similarity`.
    """
    A_EERR = np.einsum("iam,jbm->ijab", *[_all(bank.A_ERI, bank.experts)] * 2, optimize=True)
    B_EERR = np.einsum("ioa,job->ijab", *[_all(bank.B_EOR, bank.experts)] * 2, optimize=True)
    ownA_ERR, ownB_ERR = (np.einsum("iiab->iab", blocks) for blocks in (A_EERR, B_EERR))
    inner = {
        "cosine": (A_EERR * B_EERR).sum((-2, -1)),
        "cka": ((ownB_ERR[:, None] @ A_EERR) * (A_EERR @ ownB_ERR[None])).sum((-2, -1)),
        "cka_out": ((ownA_ERR[:, None] @ B_EERR) * (B_EERR @ ownA_ERR[None])).sum((-2, -1)),
    }
    return {name: _normalised(product_EE) for name, product_EE in inner.items()}


def norms(bank: Bank, scale: float) -> list[float]:
    """The Frobenius norm of each expert's update, `scale` = alpha / R."""
    A_ERR = np.einsum("iam,ibm->iab", bank.A_ERI, bank.A_ERI)
    B_ERR = np.einsum("ioa,iob->iab", bank.B_EOR, bank.B_EOR)
    return [float(scale * np.sqrt(max(square, 0))) for square in (A_ERR * B_ERR).sum((-2, -1))]


def pair_mean(values_EE: Array) -> float | None:
    """The mean over pairs of different experts; None where there is no pair with a value."""
    pairs = values_EE[np.triu_indices(len(values_EE), 1)]
    return float(np.nanmean(pairs)) if np.isfinite(pairs).any() else None


def random_similarity(bank: Bank) -> dict[str, float]:
    """What `pair_mean` gives for random Gaussian experts of the same shapes, sharing what these share.

    Over at least a hundred pairs of them, always the same.
    """
    return dict(_random_similarity(bank.A_ERI.shape, bank.B_EOR.shape))


@cache
def _random_similarity(A_shape: tuple[int, ...], B_shape: tuple[int, ...]) -> dict[str, float]:
    made = np.random.default_rng(0)
    experts = max(A_shape[0], B_shape[0])
    draws = -(-100 // (experts * (experts - 1) // 2))
    banks = [Bank("", made.standard_normal(A_shape), made.standard_normal(B_shape)) for _ in range(draws)]
    found = [similarities(bank) for bank in banks]
    return {name: float(np.mean([pair_mean(values[name]) for values in found])) for name in MEASURES}


def _all(own: Array, experts: int) -> Array:
    """One factor of each expert; a shared one stands for all without a copy."""
    return np.broadcast_to(own, (experts, *own.shape[1:]))


def _normalised(product_EE: Array) -> Array:
    size_E = np.sqrt(np.diagonal(product_EE))
    bound_EE = size_E[:, None] * size_E
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient_EE: Any = np.where(bound_EE > 0, product_EE / bound_EE, np.nan)
    return np.clip(quotient_EE, -1, 1)


# PART: How much of the space that one run's A reads another run's A reads too, layer by layer. Shapes: I in, R
# rank.


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


def overlaps(runs: Mapping[str, AdapterRun], starts: Mapping[str, Mapping[str, Array] | None]) -> list[dict[str, Any]]:
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


# PART: Which experts the tasks take, how far two tasks differ in it, and how much an expert says of the task. Out
# of routing.json. An expert's part in a task is its mean gate over the task's tokens, divided by the sum of all
# experts' mean gates, so that dense, top-k and capacity routers read alike. Shapes: T tasks, E experts.


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
