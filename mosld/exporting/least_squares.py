"""The one linear map that is nearest to a routed update, from sums over tokens.

Shapes: T tokens, F features, I in, O out, R rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# Features are computed in float32: directions whose mean square is smaller than this share of the largest are rounding
# errors. The fit leaves them at zero, as a pseudo-inverse does.
SMALLEST_EIGENVALUE = 1e-10


@dataclass(frozen=True)
class Fit:
    """A map of rank R in two factors: u is about ``B C z``.

    Attributes:
        C_RF: from features to R numbers.
        B_OR: from these to the update.
    """

    C_RF: Tensor
    B_OR: Tensor


class Moments:
    """Sums of z z^T, u z^T and |u|^2 over tokens in float64, z the features of a token and u its update."""

    def __init__(self, features: int, out_features: int, device: torch.device | None = None) -> None:
        self.zz_FF = torch.zeros(features, features, dtype=torch.float64, device=device)
        self.uz_OF = torch.zeros(out_features, features, dtype=torch.float64, device=device)
        self.uu = 0.0

    def add(self, z_TF: Tensor, u_TO: Tensor) -> None:
        z_TF, u_TO = z_TF.double(), u_TO.double()
        self.zz_FF += z_TF.T @ z_TF
        self.uz_OF += u_TO.T @ z_TF
        self.uu += u_TO.square().sum().item()

    def fit(self, rank: int) -> Fit:
        """The map of at most this rank with the least ``E|u - B C z|^2``.

        Without a bound that is ``E[u z^T] E[z z^T]^+``. With one it is that map projected on the R directions of u that
        it explains best: the left singular vectors of ``E[u z^T] E[z z^T]^(+1/2)`` (reduced-rank regression).
        """
        values_F, vectors_FF = torch.linalg.eigh(self.zz_FF)
        kept = values_F > SMALLEST_EIGENVALUE * values_F.max().clamp_min(0)
        # Whitened features: their sum of squares is the identity.
        whiten_FK = vectors_FF[:, kept] * values_F[kept].rsqrt()
        map_OK = self.uz_OF @ whiten_FK
        if rank >= len(self.zz_FF):
            return Fit(torch.eye(len(self.zz_FF)).to(self.zz_FF), map_OK @ whiten_FK.T)
        directions_OR = torch.linalg.svd(map_OK, full_matrices=False).U[:, :rank]
        return Fit(directions_OR.T @ map_OK @ whiten_FK.T, directions_OR)

    def error(self, fit: Fit) -> float:
        """``sqrt(E|u - B C z|^2 / E|u|^2)`` over the tokens of these sums; 0 where no update is."""
        if not self.uu:
            return 0.0
        map_OF = fit.B_OR @ fit.C_RF
        squares = self.uu - 2 * (map_OF * self.uz_OF).sum() + ((map_OF @ self.zz_FF) * map_OF).sum()
        return float((squares / self.uu).clamp_min(0).sqrt())
