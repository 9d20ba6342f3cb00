"""Precision, recall, density, coverage: double loops, ties, and expectations."""

from collections.abc import Callable
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from cases import cloud, expected_coverage

from otmetrics.functional import density_coverage, manifold_scores, precision_recall

SHAPES = [(6, 6, 1), (30, 20, 2), (20, 30, 5), (25, 25, 40)]


def scores(x: torch.Tensor, y: torch.Tensor, k: int) -> tuple[float, ...]:
    return tuple(score.item() for score in manifold_scores(x, y, num_neighbors=k))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_against_loops(
    shift: float, k: int, shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype
) -> None:
    n, m, d = shape
    # From float32 values, so that both dtypes see one geometry.
    x, y = cloud(n, d, seed=1).float(), (cloud(m, d, seed=2) + shift).float()
    found = scores(x.to(device, dtype), y.to(device, dtype), k)
    expected = oracles.manifold(x.double().numpy(), y.double().numpy(), k)
    assert found == pytest.approx(expected, rel=1e-6)  # shares come in the dtype of the input


@pytest.mark.parametrize("k", [1, 2, 4])
def test_ties_on_a_lattice(k: int) -> None:
    """Integer coordinates: squared distances are exact and many lie on the border, inside."""
    for seed in range(10):
        x, y = cloud(20, 2, seed=seed).round(), cloud(15, 2, seed=50 + seed).round()
        expected = oracles.manifold(x.numpy(), y.numpy(), k)
        assert scores(x, y, k) == pytest.approx(expected, rel=1e-12)
        # The same lattice where nothing is exact: the tie survives its rounding.
        moved = scores(x / 3, y / 3, k)
        assert moved == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_constant_features_are_covered(value: float, k: int) -> None:
    """Every radius is 0 and every point lies on the border: a collapsed model of a constant."""
    x = torch.full((8, 5), value, dtype=torch.float64)
    assert scores(x, x[:6], k) == pytest.approx((1, 1, 8 / k, 1))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shape", [(12, 3), (12, 64)])
def test_a_cloud_covers_its_copies(shape: tuple[int, int], k: int) -> None:
    x = cloud(*shape, seed=1)
    for y in (x, x.flip(0), x.repeat(2, 1)):
        precision, recall, _, coverage = scores(x, y, k)
        assert precision == recall == coverage == 1


def test_duplicates_have_radius_zero_and_still_hold_their_copies() -> None:
    """Each point twice: the nearest other point is the copy, so only itself is within reach."""
    x = cloud(10, 3, seed=1)
    doubled = x.repeat(2, 1)
    precision, recall, density, coverage = scores(doubled, doubled, 1)
    assert (precision, recall, coverage) == (1, 1, 1)
    assert density == 2  # both copies' balls hold it
    assert scores(doubled, x[:5] + 1e-3, 1)[0] == 0


def test_self_is_excluded_by_index() -> None:
    """On the line 0, 1, 3, 7 the nearest other point is 1, 1, 2, 4 away."""
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
    # 12 is 5 from the last point: outside. 10.9 is inside its ball of 4, -1 in that of 0.
    y = torch.tensor([[12.0], [10.9], [-1.0], [-1.1]], dtype=torch.float64)
    found = manifold_scores(x, y, num_neighbors=1)
    assert found.precision.item() == 0.5
    # Balls: 0 holds -1; 1 holds nothing; 3 holds nothing; 7 holds 10.9.
    assert found.coverage.item() == 0.5
    assert found.density.item() == 0.5


def test_disjoint_supports() -> None:
    x = cloud(20, 3, seed=1)
    assert scores(x, x + 1e4, 5) == (0, 0, 0, 0)


def test_a_far_fake_does_not_blur_the_rest() -> None:
    """One outlier moves the common centre; the tie tolerance must not grow with it."""
    x, y = cloud(60, 2, seed=1), cloud(60, 2, seed=2) + 12
    for far in (1e3, 1e6, 1e8):
        y[0] = far
        assert manifold_scores(x, y).precision.item() == 0


@pytest.mark.parametrize("k", [1, 5])
def test_expectations_for_equal_laws(k: int) -> None:
    """Over 300 pairs: coverage as stated, density 1, precision and recall alike."""
    x, y = cloud(300, 20, 2, seed=1), cloud(300, 15, 2, seed=2)
    found = density_coverage(x, y, num_neighbors=k)
    for values, expected in ((found.coverage, expected_coverage(20, 15, k)), (found.density, 1.0)):
        error = values.std().item() / 300**0.5
        assert abs(values.mean().item() - expected) < 4 * error


@pytest.mark.parametrize("function", [manifold_scores, precision_recall, density_coverage])
def test_batch_equals_loop(function: Callable[..., Any]) -> None:
    x, y = cloud(3, 12, 4, seed=1), cloud(3, 9, 4, seed=2)
    batch = function(x, y, num_neighbors=3)
    assert all(score.shape == (3,) for score in batch)
    for i in range(3):
        alone = function(x[i], y[i], num_neighbors=3)
        assert [score[i].item() for score in batch] == [score.item() for score in alone]


def test_parts_agree_with_the_whole() -> None:
    x, y = cloud(40, 3, seed=1), cloud(30, 3, seed=2) + 0.5
    whole = manifold_scores(x, y, num_neighbors=4)
    parts = precision_recall(x, y, num_neighbors=4), density_coverage(x, y, num_neighbors=4)
    assert [score.item() for part in parts for score in part] == [s.item() for s in whole]


def test_roles_exchange() -> None:
    x, y = cloud(40, 3, seed=1), cloud(30, 3, seed=2) + 0.5
    forth, back = precision_recall(x, y), precision_recall(y, x)
    assert forth.precision == back.recall
    assert forth.recall == back.precision


@pytest.mark.parametrize("k", [1, 5])
def test_order_of_samples_does_not_matter(k: int) -> None:
    x, y = cloud(40, 3, seed=1), cloud(30, 3, seed=2) + 0.5
    mixed = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert scores(x[mixed], y.flip(0), k) == pytest.approx(scores(x, y, k), rel=1e-14)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = cloud(40, 3, seed=1), cloud(30, 3, seed=2) + 0.5
    whole = scores(x, y, 3)
    monkeypatch.setattr("otmetrics.transport.costs.BLOCK_ELEMENTS", 70)
    assert scores(x, y, 3) == pytest.approx(whole, rel=1e-14)


@pytest.mark.parametrize("offset", [1e3, 1e6])
@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_offset_and_scale(scale: float, offset: float) -> None:
    x, y = cloud(40, 3, seed=1), cloud(30, 3, seed=2) + 0.5
    moved = scores(scale * (x + offset), scale * (y + offset), 3)
    assert moved == pytest.approx(scores(x, y, 3), rel=1e-14)


def test_half_precision_is_upcast() -> None:
    x, y = cloud(20, 3, seed=1, dtype=torch.float16), cloud(20, 3, seed=2, dtype=torch.float16)
    found = manifold_scores(x, y)
    assert all(score.dtype == torch.float32 for score in found)
    expected = oracles.manifold(x.double().numpy(), y.double().numpy(), 5)
    assert np.array([s.item() for s in found]) == pytest.approx(np.array(expected), rel=1e-6)


def test_no_graph() -> None:
    """Counts have no gradient, and say so."""
    x = cloud(10, 3, seed=1).requires_grad_()
    assert not any(score.requires_grad for score in manifold_scores(x, cloud(10, 3, seed=2)))


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("apart", [1e3, 1e5, 1e7, 1e9])
@pytest.mark.parametrize("shape", [(30, 26, 2), (24, 40, 16)])
def test_tight_clusters_far_apart(shape: tuple[int, int, int], apart: float, k: int) -> None:
    """Wherever the origin is, it is far from most points: distances come from differences."""
    n, m, d = shape
    x, y = cloud(n, d, seed=1), 1.3 * cloud(m, d, seed=2)
    x[::2] += apart
    y[::2] += apart
    y[::5] -= 3 * apart
    assert scores(x, y, k) == pytest.approx(oracles.manifold(x.numpy(), y.numpy(), k), rel=1e-12)
    assert scores(y, x, k) == pytest.approx(oracles.manifold(y.numpy(), x.numpy(), k), rel=1e-12)


@pytest.mark.parametrize("k", [1, 2])
def test_ties_of_lattices_far_apart(k: int) -> None:
    for seed in range(5):
        x, y = cloud(20, 2, seed=seed).round(), cloud(15, 2, seed=50 + seed).round()
        x[::3] += 2.0**40
        y[::3] += 2.0**40
        expected = oracles.manifold(x.numpy(), y.numpy(), k)
        assert scores(x, y, k) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("spread", [1e-3, 1e-6, 1e-9])
def test_a_collapsed_generator_far_from_most_samples(spread: float) -> None:
    """Balls of the size of the collapsed cloud, told to the digit where real samples lie in it."""
    x, y = cloud(30, 4, seed=1), 2 + spread * cloud(25, 4, seed=2)
    x[:10] = 2 + spread * cloud(10, 4, seed=3)
    for pair in ((x, y), (y, x)):
        expected = oracles.manifold(*(side.numpy() for side in pair), 3)
        assert scores(*pair, 3) == pytest.approx(expected, rel=1e-12)
