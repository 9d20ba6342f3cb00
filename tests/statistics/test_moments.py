"""Moments of a stream against numpy on the whole, and where naive sums would cancel."""

import numpy as np
import torch
from cases import cloud
from hypothesis import given
from hypothesis import strategies as st

from otmetrics.statistics.frechet import Moments, merged_moments, moments


def streamed(features: torch.Tensor, sizes: list[int]) -> Moments:
    parts = [moments(part) for part in features.split(sizes)]
    total = parts[0]
    for part in parts[1:]:
        total = merged_moments(total, part)
    return total


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.sampled_from([0.0, 1.0, 1e7]))
def test_any_split_equals_numpy(sizes: list[int], offset: float) -> None:
    features = cloud(sum(sizes), 3, seed=len(sizes)) + offset
    found = streamed(features, sizes)
    assert found.num_samples.dtype == torch.int64
    assert found.num_samples.item() == sum(sizes)
    np.testing.assert_allclose(found.mean, features.numpy().mean(0), rtol=1e-12, atol=1e-12)
    if sum(sizes) > 1:
        # Centred before, so that the oracle does not cancel either.
        expected = np.cov((features - offset).numpy(), rowvar=False)
        np.testing.assert_allclose(found.covariance, expected, rtol=1e-6, atol=1e-9 * (1 + offset))


def test_mean_far_beyond_the_spread() -> None:
    """Sums of squares around zero have no correct digit left here, in float64 either."""
    features = cloud(1000, 2, seed=1) + 1e9
    naive = features.T @ features / 1000 - torch.outer(features.mean(0), features.mean(0))
    covariance = streamed(features, [100] * 10).covariance
    assert (covariance - torch.eye(2)).abs().max() < 0.2
    assert (naive - torch.eye(2)).abs().max() > 10


def test_float32_features_are_accumulated_in_float64() -> None:
    features = cloud(64, 4, dtype=torch.float32) * 1e-3 + 1.0
    found = streamed(features, [16] * 4)
    assert found.scatter.dtype == found.mean.dtype == torch.float64
    whole = moments(features.double())
    torch.testing.assert_close(found.scatter, whole.scatter, rtol=1e-12, atol=0)
