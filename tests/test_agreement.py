"""The same numbers as POT, geomloss, torchmetrics, prdc and scikit-learn on the same features."""

import contextlib
import io
import math
import warnings

import geomloss
import numpy as np
import ot
import prdc
import pytest
import torch
from cases import cloud
from sklearn.neighbors import NearestNeighbors
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from otmetrics import Exact
from otmetrics.functional import (
    cost_matrix,
    density_coverage,
    entropic_cost,
    frechet_distance,
    frechet_distance_from_moments,
    kernel_distance,
    precision_recall,
    random_directions,
    sinkhorn_divergence,
    sliced_wasserstein,
)
from otmetrics.statistics import manifold

N, M, D = 300, 260, 48
REAL = cloud(N, D, seed=1)
FAKE = 0.9 * cloud(M, D, seed=2) + 0.2


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_exact_against_pot(order: float) -> None:
    expected = ot.emd2([], [], cost_matrix(REAL, FAKE, order=order).numpy(), numItermax=10**7)
    result = Exact(order=order).solve(REAL, FAKE)
    assert result.cost.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_sliced_against_pot(order: int) -> None:
    directions = random_directions(D, 100, generator=torch.Generator().manual_seed(0))
    expected = ot.sliced_wasserstein_distance(
        REAL.numpy(), FAKE.numpy(), projections=directions.numpy(), p=order
    )
    found = sliced_wasserstein(REAL, FAKE, order=order, directions=directions)
    assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_entropic_cost_against_pot(order: float) -> None:
    """POT's plan, put into <P, C> + epsilon KL(P | a x b)."""
    cost = cost_matrix(REAL, FAKE, order=order).numpy()
    epsilon = 0.05 * cost.mean()
    plan = ot.sinkhorn(
        [], [], cost, epsilon, method="sinkhorn_log", stopThr=1e-11, numItermax=20_000
    )
    expected = (plan * cost).sum() + epsilon * (plan * np.log(plan * N * M)).sum()
    found = entropic_cost(REAL, FAKE, order=order, tolerance=1e-9, max_iterations=20_000)
    assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("order", "factor"), [(1, 1.0), (2, 2.0)])
def test_sinkhorn_divergence_against_geomloss(order: int, factor: float) -> None:
    """geomloss takes |x - y|^p / p and blur^p for epsilon, so both are p times as large here.

    It runs a fixed schedule of epsilons, one step at each, and a last one: no stopping rule. A slow
    schedule (scaling 0.99) leaves about 1e-4 of its value.
    """
    epsilon = 0.1 * cost_matrix(REAL, FAKE, order=order).mean().item()
    blur = (epsilon / factor) ** (1 / order)
    loss = geomloss.SamplesLoss("sinkhorn", p=order, blur=blur, scaling=0.99, backend="tensorized")
    expected = factor * loss(REAL, FAKE).item()
    found = sinkhorn_divergence(
        REAL, FAKE, order=order, epsilon=epsilon, relative=False, tolerance=1e-9
    )
    assert found.item() == pytest.approx(expected, rel=1e-3)


def test_frechet_against_torchmetrics() -> None:
    expected = _compute_fid(REAL.mean(0), torch.cov(REAL.T), FAKE.mean(0), torch.cov(FAKE.T))
    found = frechet_distance(REAL, FAKE)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    from_moments = frechet_distance_from_moments(
        REAL.mean(0), torch.cov(REAL.T), FAKE.mean(0), torch.cov(FAKE.T)
    )
    assert from_moments.item() == pytest.approx(expected.item(), rel=1e-6)


def test_kernel_distance_against_torchmetrics() -> None:
    """poly_mmd wants equal sizes."""
    expected = poly_mmd(REAL[:M], FAKE).item()
    assert kernel_distance(REAL[:M], FAKE).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("k", [3, 5])
def test_manifold_scores_against_prdc(k: int) -> None:
    """No ties here, so its strict border makes no difference."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # It asks joblib for eight workers, which warns on machines with fewer.
        warnings.simplefilter("ignore")
        expected = prdc.compute_prdc(REAL.numpy(), FAKE.numpy(), nearest_k=k)
    found = {
        **precision_recall(REAL, FAKE, num_neighbors=k)._asdict(),
        **density_coverage(REAL, FAKE, num_neighbors=k)._asdict(),
    }
    assert {name: score.item() for name, score in found.items()} == pytest.approx(expected)
    assert 0 < expected["precision"] < 1
    assert 0 < expected["coverage"] < 1


@pytest.mark.parametrize("k", [1, 5])
def test_radii_against_scikit_learn(k: int) -> None:
    # The first neighbour is the point itself.
    distances, _ = NearestNeighbors(n_neighbors=k + 1).fit(REAL.numpy()).kneighbors(REAL.numpy())
    found = manifold._radii(REAL, k).sqrt().numpy()
    np.testing.assert_allclose(found, distances[:, -1], rtol=1e-9)


def test_the_orders_of_magnitude_are_those_of_the_problem() -> None:
    """A guard on the data: none of the comparisons above compares two zeros."""
    values = [
        Exact().solve(REAL, FAKE).value.item(),
        sliced_wasserstein(REAL, FAKE).item(),
        frechet_distance(REAL, FAKE).item(),
        kernel_distance(REAL, FAKE).item(),
    ]
    assert all(math.isfinite(value) and value > 0.01 for value in values)
