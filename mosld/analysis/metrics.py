"""Measures of adapters: how similar experts are, what two A's have in common, how tasks use experts.

Similarities are of the experts' updates P_i = B_i A_i, which are never formed: all is algebra of R x R blocks, since
<P_i, P_j> = sum (B_i' B_j) * (A_i A_j'). An expert's share in a task is its mean gate over the task's tokens divided by
the sum of all experts' mean gates, so that dense, top-k and capacity routers compare.
Shapes: I in, O out, R rank, E experts, T tasks.
"""

from functools import cache

import numpy as np
from scipy.linalg import subspace_angles
from scipy.special import entr

from mosld.analysis.adapter_files import Array, Bank, ExpertUsage

MEASURES = {
    "cosine": "cosine of B_i A_i",
    "cka": "linear CKA: what they tell apart",
    "cka_out": "linear CKA: where they write",
}
RANDOM_PAIRS = 100


def similarities(bank: Bank) -> dict[str, Array]:
    """The similarity of every pair of experts [E, E], NaN where an expert's update is zero.

        cosine   <P_i, P_j> / (|P_i| |P_j|), Frobenius product and norm
        cka      |P_i P_j'|^2 / (|P_i P_i'| |P_j P_j'|)
        cka_out  |P_i' P_j|^2 / (|P_i' P_i| |P_j' P_j|)

    `cka` is linear CKA (Kornblith et al. 2019, arXiv 1905.00414, section 3) of the experts' updates of white noise, in
    the limit of many inputs: whether two experts tell the same inputs apart, wherever they write. It is high if A is
    shared, since all experts then see the same R directions. `cka_out` is the same with inputs and outputs exchanged:
    whether they write into the same directions, whatever they read; it is high if B is shared. Compare both with
    `random_similarity`.
    """
    A_ERI = np.broadcast_to(bank.A_ERI, (bank.experts, *bank.A_ERI.shape[1:]))
    B_EOR = np.broadcast_to(bank.B_EOR, (bank.experts, *bank.B_EOR.shape[1:]))
    A_EERR = np.einsum("iam,jbm->ijab", A_ERI, A_ERI, optimize=True)
    B_EERR = np.einsum("ioa,job->ijab", B_EOR, B_EOR, optimize=True)
    A_ERR = np.einsum("iiab->iab", A_EERR)
    B_ERR = np.einsum("iiab->iab", B_EERR)
    products = {
        "cosine": (A_EERR * B_EERR).sum((-2, -1)),
        "cka": ((B_ERR[:, None] @ A_EERR) * (A_EERR @ B_ERR[None])).sum((-2, -1)),
        "cka_out": ((A_ERR[:, None] @ B_EERR) * (B_EERR @ A_ERR[None])).sum((-2, -1)),
    }
    return {measure: _normalised(product_EE) for measure, product_EE in products.items()}


def _normalised(product_EE: Array) -> Array:
    norm_E = np.sqrt(np.diagonal(product_EE))
    norms_EE = norm_E[:, None] * norm_E
    quotient_EE = np.divide(product_EE, norms_EE, out=np.full_like(norms_EE, np.nan), where=norms_EE > 0)
    return np.clip(quotient_EE, -1, 1)


def norms(bank: Bank, scale: float) -> list[float]:
    """The Frobenius norm of each expert's update, `scale` = alpha / R."""
    A_ERR = np.einsum("iam,ibm->iab", bank.A_ERI, bank.A_ERI)
    B_ERR = np.einsum("ioa,iob->iab", bank.B_EOR, bank.B_EOR)
    return [float(scale * np.sqrt(max(square, 0))) for square in (A_ERR * B_ERR).sum((-2, -1))]


def pair_mean(values_EE: Array) -> float | None:
    """The mean over pairs of different experts; None if no pair has a value."""
    pairs = values_EE[np.triu_indices(len(values_EE), 1)]
    return float(np.nanmean(pairs)) if np.isfinite(pairs).any() else None


def random_similarity(bank: Bank) -> dict[str, float]:
    """The `pair_mean` of random Gaussian experts with the shapes and the sharing of these, over at least 100 pairs."""
    return dict(_random_similarity(bank.A_ERI.shape, bank.B_EOR.shape))


@cache
def _random_similarity(A_shape: tuple[int, ...], B_shape: tuple[int, ...]) -> dict[str, float]:
    normal = np.random.default_rng(0).standard_normal
    experts = max(A_shape[0], B_shape[0])
    draws = -(-RANDOM_PAIRS // (experts * (experts - 1) // 2))
    banks = [Bank("", normal(A_shape), normal(B_shape)) for _ in range(draws)]
    by_draw = [similarities(bank) for bank in banks]
    return {measure: float(np.mean([pair_mean(values[measure]) for values in by_draw])) for measure in MEASURES}


def overlap(A_RI: Array, other_RI: Array) -> float:
    """How much of their row spaces two matrices share: the mean squared cosine of the principal angles.

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


def relative_change(A_RI: Array, initial_RI: Array) -> float:
    """|A - initial A| / |initial A|, Frobenius norms."""
    return float(np.linalg.norm(A_RI - initial_RI) / np.linalg.norm(initial_RI))


def divergence(usage: ExpertUsage) -> Array:
    """The Jensen-Shannon divergence of every two tasks' expert usage [T, T] in bits, mean over modules.

    0: they use the same experts equally often; 1: they have no expert in common.
    """
    tasks = list(usage)
    divergence_TT = np.zeros((len(tasks), len(tasks)))
    for i, one in enumerate(tasks):
        for j, other in enumerate(tasks[:i]):
            pairs = [np.stack([share_E, usage[other][module]]) for module, share_E in usage[one].items()]
            bits = np.mean([_information(pair_TE) for pair_TE in pairs]) / np.log(2)
            divergence_TT[i, j] = divergence_TT[j, i] = bits
    return divergence_TT


def specialisation(usage: ExpertUsage) -> dict[str, float | None]:
    """By module, how much the expert that a token uses says about the token's task, from 0 (nothing) to 1.

    The mutual information of task and expert, with all tasks equally likely, as a share of the largest possible,
    ln min(T, E). Mod-Squad (Chen et al. 2023, arXiv 2212.08066) trains towards this mutual information; the division
    is ours, so that layers with different numbers of experts compare. None for one task or one expert.
    """
    scores: dict[str, float | None] = {}
    for module in next(iter(usage.values()), {}):
        shares_TE = np.stack([modules[module] for modules in usage.values()])
        largest = np.log(min(shares_TE.shape))
        scores[module] = float(_information(shares_TE) / largest) if largest > 0 else None
    return scores


def _information(shares_TE: Array) -> float:
    """The mutual information of expert and row in nats, all rows equally likely: H(mean) - mean H."""
    return max(0.0, float(entr(shares_TE.mean(0)).sum() - entr(shares_TE).sum(-1).mean()))
