"""The fit from sums over tokens, against numpy on the tokens themselves."""

import numpy as np
import pytest
import torch

from mosld.exporting.least_squares import Moments

TOKENS, FEATURES, OUT = 200, 6, 9


def sums(z: np.ndarray, u: np.ndarray) -> Moments:
    """The sums of these tokens, added in two parts."""
    moments = Moments(z.shape[1], u.shape[1])
    for part in (slice(0, 70), slice(70, None)):
        moments.add(torch.tensor(z[part]), torch.tensor(u[part]))
    return moments


def data(deficient: bool) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features, and updates that are no linear function of them; `deficient`: two features are others'."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(TOKENS, FEATURES)) @ rng.normal(size=(FEATURES, FEATURES))
    if deficient:
        z[:, 4], z[:, 5] = z[:, 0], z[:, 1] - 2 * z[:, 2]
    return z, z @ rng.normal(size=(FEATURES, OUT)) + np.abs(z) @ rng.normal(size=(FEATURES, OUT))


@pytest.mark.parametrize("deficient", [False, True])
def test_fit_is_that_of_least_squares(deficient):
    z, u = data(deficient)
    expected = np.linalg.lstsq(z, u, rcond=None)[0].T
    fit = sums(z, u).fit(FEATURES)
    np.testing.assert_allclose((fit.B_OR @ fit.C_RF).numpy(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("deficient", [False, True])
@pytest.mark.parametrize("rank", [1, 3])
def test_fit_of_a_lower_rank_keeps_the_largest_directions_of_the_fitted_updates(rank, deficient):
    z, u = data(deficient)
    full = np.linalg.lstsq(z, u, rcond=None)[0].T
    directions = np.linalg.svd(z @ full.T)[2][:rank]
    fit = sums(z, u).fit(rank)
    assert (fit.B_OR.shape, fit.C_RF.shape) == ((OUT, rank), (rank, FEATURES))
    np.testing.assert_allclose((fit.B_OR @ fit.C_RF).numpy(), directions.T @ directions @ full, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rank", [2, FEATURES])
def test_error_is_that_of_the_tokens(rank):
    z, u = data(False)
    fit = sums(z[:150], u[:150]).fit(rank)
    unseen_z, unseen_u = z[150:], u[150:]
    residual = unseen_u - unseen_z @ (fit.B_OR @ fit.C_RF).numpy().T
    moments = Moments(FEATURES, OUT)
    moments.add(torch.tensor(unseen_z), torch.tensor(unseen_u))
    assert moments.error(fit) == pytest.approx(np.linalg.norm(residual) / np.linalg.norm(unseen_u))
    assert moments.error(fit) > 0.1


def test_updates_that_are_zero_have_no_error():
    z = data(False)[0]
    moments = sums(z, np.zeros((TOKENS, OUT)))
    fit = moments.fit(2)
    assert not (fit.B_OR @ fit.C_RF).any()
    assert moments.error(fit) == 0
