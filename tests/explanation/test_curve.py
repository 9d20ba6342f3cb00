"""The curve against the number of samples is that of the solver."""

import torch

from otmetrics import Sliced
from otmetrics.explanation.curve import sample_curve


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


def test_of_few_samples_the_curve_is_short():
    points = sample_curve(torch.zeros(20, 2), torch.zeros(25, 2), torch.ones(30, 2), Sliced())
    assert [one.size for one in points] == [10, 20]
