"""The curve against the number of samples is that of the solver."""

import numpy as np
import pytest
import torch

from otmetrics import Sliced
from otmetrics.explanation.curve import _distance, sample_curve


def test_each_point_is_a_solve():
    generator = torch.Generator().manual_seed(0)
    reference, held_out, fake = torch.randn(3, 80, 4, generator=generator, dtype=torch.float64)
    solver = Sliced(num_projections=64)
    points = sample_curve(reference, held_out, fake + 1, solver)
    assert [one.size for one in points] == [10, 20, 40, 80]
    for one in points:
        part = slice(one.size)
        assert one.value == float(solver(reference[part], fake[part] + 1))
        assert one.floor == float(solver(reference[part], held_out[part]))
    assert points[-1].floor < points[0].floor
    assert points[-1].value > 0.8


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_intervals_hold_the_mean_of_new_samples(order):
    generator = torch.Generator().manual_seed(1)
    solver = Sliced(num_projections=32, order=order)
    clouds = torch.randn(25, 3, 40, 4, generator=generator, dtype=torch.float64)
    for shift in (0.0, 1.0):
        found = [_distance(real, fake + shift, solver) for real, fake, _ in clouds]
        values, intervals = zip(*found, strict=True)
        mean, spread = float(np.mean(values)), float(np.std(values))
        # Of 25 of 95 % fewer than 20 hold it once in a thousand times.
        assert sum(low <= mean <= high for low, high in intervals) >= 20
        assert 2 * spread < float(np.mean([high - low for low, high in intervals])) < 8 * spread


def test_of_a_debiased_distance_intervals_are_in_its_units():
    """Halves have a mean of 0 where nothing differs: what is below it is drawn at 0."""
    generator = torch.Generator().manual_seed(2)
    sides = torch.randn(3, 80, 4, generator=generator, dtype=torch.float64)
    *_, point = sample_curve(sides[0], sides[1], sides[2] + 5, Sliced(debiased=True))
    assert 4.5 < point.value_interval[0] < point.value < point.value_interval[1] < 6
    assert 0 <= point.floor_interval[0] <= point.floor <= point.floor_interval[1] < 1


def test_of_few_samples_the_curve_is_short():
    points = sample_curve(torch.zeros(20, 2), torch.zeros(25, 2), torch.ones(30, 2), Sliced())
    assert [one.size for one in points] == [10, 20]
