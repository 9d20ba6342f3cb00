"""The parts of W_2^2 add up to it, and each is what its name says."""

import pytest
import torch

from otmetrics.explanation.pairs import optimal_pairs
from otmetrics.explanation.waterfall import CostParts, Waterfall, cost_parts


def clouds(num: int = 60, dimension: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, num, dimension, generator=generator, dtype=torch.float64)
    return real, fake


def test_a_translation_is_all_mean():
    real, _ = clouds()
    shift = torch.tensor([3.0, 0.0, -4.0, 0.0], dtype=torch.float64)
    parts = cost_parts(real, real + shift, 25.0)
    assert parts.mean == pytest.approx(25)
    assert parts.covariance == pytest.approx(0, abs=1e-9)
    assert parts.shape == pytest.approx(0, abs=1e-9)


def test_a_scaling_is_all_covariance():
    real, _ = clouds()
    centred = real - real.mean(0)
    cost = optimal_pairs(centred, 2 * centred).cost
    parts = cost_parts(centred, 2 * centred, cost)
    assert cost == pytest.approx(float(centred.square().sum(1).mean()))
    assert parts.covariance == pytest.approx(cost)
    assert parts.shape == pytest.approx(0, abs=1e-9)


def test_another_shape_of_the_same_moments_is_all_shape():
    """Two points at -1 and 1 against three of mean 0 and the same variance."""
    real = torch.tensor([[-1.0], [1.0]], dtype=torch.float64).repeat(3, 1)
    far = 1.5**0.5
    fake = torch.tensor([[-far], [0.0], [far]], dtype=torch.float64).repeat(2, 1)
    cost = optimal_pairs(real, fake).cost
    parts = cost_parts(real, fake, cost)
    assert (parts.mean, parts.covariance) == pytest.approx((0, 0), abs=1e-12)
    assert parts.shape == pytest.approx(cost)
    assert cost > 0.1


@pytest.mark.parametrize("sizes", [(60, 60), (50, 20), (5, 40)])
def test_parts_add_up_and_none_is_negative(sizes):
    generator = torch.Generator().manual_seed(1)
    real, fake = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in sizes)
    cost = optimal_pairs(real, fake + 0.3).cost
    parts = cost_parts(real, fake + 0.3, cost)
    assert parts.total == pytest.approx(cost, rel=1e-12)
    assert min(parts.mean, parts.covariance, parts.shape) >= 0


def test_excess_is_part_by_part():
    found = Waterfall(10, CostParts(3.0, 2.0, 5.0), CostParts(0.5, 1.0, 5.5)).excess
    assert (found.mean, found.covariance, found.shape) == (2.5, 1.0, -0.5)
    assert found.total == 3.0


@pytest.mark.parametrize("sizes", [(40, 40), (30, 45)])
def test_pairs_carry_the_cost(sizes):
    generator = torch.Generator().manual_seed(2)
    real, fake = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in sizes)
    pairs = optimal_pairs(real, fake)
    assert float(pairs.masses.sum()) == pytest.approx(1)
    for side, size in ((pairs.real, sizes[0]), (pairs.fake, sizes[1])):
        masses = torch.zeros(size, dtype=torch.float64).index_add_(0, side, pairs.masses)
        torch.testing.assert_close(masses, torch.full_like(masses, 1 / size))
    torch.testing.assert_close(pairs.moves, fake[pairs.fake] - real[pairs.real])
    assert float(pairs.effects.mean()) == pytest.approx(0, abs=1e-12)


def test_effects_are_slopes_of_the_cost():
    """More mass at a fake sample, less at all others: the cost grows by its effect."""
    generator = torch.Generator().manual_seed(3)
    real, fake = torch.randn(2, 12, 2, generator=generator, dtype=torch.float64)
    from otmetrics import Exact

    effects, step = optimal_pairs(real, fake).effects, 1e-4
    before = Exact().solve(real, fake).cost
    for place in (0, 5):
        weights = torch.full((12,), (1 - step) / 12, dtype=torch.float64)
        weights[place] += step
        after = Exact().solve(real, fake, fake_weights=weights).cost
        # The cost is convex and has a kink: the slope lies between those of both sides.
        back = weights.clone()
        back[place] -= 2 * step * (1 - 1 / 12)
        back[torch.arange(12) != place] += 2 * step / 12
        behind = Exact().solve(real, fake, fake_weights=back).cost
        slopes = (float(before - behind) / step, float(after - before) / step)
        assert slopes[0] - 1e-6 <= float(effects[place]) <= slopes[1] + 1e-6
