"""Planted outliers are found, by distance and by direction; real samples are not."""

import numpy as np
import pytest
import torch
from torch import Tensor

from otmetrics.explanation.outliers import Outliers, find_outliers


def drawn(num: int, dimension: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, dimension, generator=generator, dtype=torch.float64)


def listed(found: Outliers) -> list[int]:
    """The fakes that were found, the strangest first."""
    order = found.scores.argsort(descending=True, stable=True).tolist()
    return [row for row in order if found.found[row]]


def test_planted_outliers_are_found():
    real, fake = drawn(300, 8), drawn(200, 8, 1)
    fake[[3, 50, 120, 20, 30, 40, 60, 70]] *= torch.arange(15, 7, -1)[:, None]
    found = find_outliers(real, fake)
    assert set(listed(found)) >= {3, 20, 30, 40, 50, 60, 70, 120}
    assert len(listed(found)) <= 10

    worst = listed(found)[0]
    distances = torch.cdist(fake, real)[worst].sort()
    assert float(found.pvalues[worst]) == 1 / 301
    assert not found.by_direction[worst]
    assert int(found.nearest[worst]) == int(distances.indices[0])
    assert float(found.distances[worst]) == pytest.approx(float(distances.values[:10].mean()))
    others = torch.cdist(real, real).sort(1).values[:, 1:11].mean(1)
    assert found.usual == pytest.approx(float(others.median()))


def test_short_features_that_point_elsewhere_are_found():
    """Nearer to real samples than these are to each other."""
    real, fake = drawn(300, 32).abs(), drawn(300, 32, 1).abs()
    fake[:10, :16] *= 0.02
    found = find_outliers(real, fake)
    assert set(listed(found)) >= set(range(10))
    assert bool(found.by_direction[:10].all())
    assert float(found.distances[:10].max()) < 1.3 * found.usual


@pytest.mark.parametrize("dimension", [1, 2, 30])
def test_samples_of_one_distribution_are_rarely_found(dimension):
    lists = [
        find_outliers(drawn(120, dimension, 2 * seed), drawn(120, dimension, 2 * seed + 1))
        for seed in range(60)
    ]
    assert np.mean([bool(one.found.any()) for one in lists]) <= 0.1


@pytest.mark.parametrize("dimension", [1, 4])
def test_pvalues_hold_their_level(dimension):
    shares = []
    for seed in range(60):
        found = find_outliers(drawn(100, dimension, 2 * seed), drawn(100, dimension, 2 * seed + 1))
        shares.append(float((found.pvalues <= 0.1).double().mean()))
    assert np.mean(shares) <= 0.12


def test_repeated_real_samples_count_once():
    real, fake = drawn(100, 5), drawn(100, 5, 1)
    fake[:12] *= 9
    once, often = find_outliers(real, fake), find_outliers(real.repeat_interleave(7, 0), fake)
    often = often._replace(nearest=often.nearest // 7)
    assert all(torch.equal(a, b) for a, b in zip(once[:-2], often[:-2], strict=True))
    assert (once.repeated, often.repeated) == (0, 600)
    assert len(listed(once)) >= 10


def test_samples_along_one_line_have_no_directions():
    along = torch.linspace(1, 2, 5, dtype=torch.float64)
    real, fake = drawn(100, 1).abs() * along, drawn(100, 1, 1).abs() * along.float()
    assert not find_outliers(real, fake.float()).found.any()
    fake[:20] = -fake[:20] - 10
    found = find_outliers(real, fake)
    assert len(listed(found)) >= 20
    assert not found.by_direction.any()
    # Every real sample is as far from the others.
    grid = torch.eye(30, dtype=torch.float64)
    assert find_outliers(grid, grid * 5).found.all()


def test_fakes_that_are_real_samples_are_none():
    real = drawn(100, 5)
    assert not find_outliers(real, real).found.any()
    assert not find_outliers(real, real[:1].repeat(50, 1)).found.any()


def test_order_of_the_fakes_changes_rows_alone():
    real, fake = drawn(200, 6), drawn(90, 6, 1)
    fake[:8] *= 9
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    first, second = find_outliers(real, fake), find_outliers(real, fake[order])
    assert len(listed(first)) >= 8
    assert listed(first) == [int(order[row]) for row in listed(second)]
    torch.testing.assert_close(first.pvalues[order], second.pvalues)


def test_what_cannot_be_is_told():
    real, fake = drawn(20, 2), drawn(20, 2, 1)
    with pytest.raises(ValueError, match="`real` must hold at least 11 different samples"):
        find_outliers(real[:10], fake)
    with pytest.raises(ValueError, match="11 different samples, to have 10 neighbours each, got 1"):
        find_outliers(real[:1].repeat(20, 1), fake)
    with pytest.raises(ValueError, match="`rate`"):
        find_outliers(real, fake, rate=1.5)
    with pytest.raises(ValueError, match="`num_neighbors`"):
        find_outliers(real, fake, num_neighbors=0)
    with pytest.raises(ValueError, match="`real` must have shape"):
        find_outliers(real[None], fake[None])


def test_points_that_both_sides_have_are_no_outliers():
    """Blank images lie far from all others, and are as frequent among real ones."""
    lists = []
    for seed in range(20):
        real, fake = drawn(300, 8, 2 * seed), drawn(300, 8, 2 * seed + 1)
        real[:9], fake[:9] = 5.0, 5.0
        lists.append(find_outliers(real, fake))
    assert np.mean([bool(one.found.any()) for one in lists]) <= 0.1
