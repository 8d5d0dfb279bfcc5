"""How alike the experts of a layer are: cosine and linear CKA of their updates P_i = B_i A_i.

No product is formed: all is algebra of R x R blocks, since <P_i, P_j> = sum (B_i' B_j) * (A_i A_j').
Shapes: I in, O out, R rank, E experts.
"""

from functools import cache
from typing import Any

import numpy as np

from mosld.reporting.inspection.inspected import Array, Bank

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
