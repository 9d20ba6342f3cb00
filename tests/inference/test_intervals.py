"""Intervals hold what they aim at."""

import math

import pytest
import torch
from torch import Tensor

from otmetrics import Exact, Scoring, Sliced, score_features
from otmetrics.functional import manifold_scores
from otmetrics.inference.estimates import (
    frechet_estimate,
    kernel_estimate,
    manifold_estimates,
    sliced_estimate,
    transport_estimate,
)
from otmetrics.inference.influence import Influence
from otmetrics.inference.intervals import Estimate, Interval, Subsamples, difference_error
from otmetrics.statistics.frechet import frechet_in_float64, gaussian_pair
from otmetrics.statistics.kernel import kernel_sums

MANIFOLD = ("precision", "recall", "density", "coverage")


def estimates(real: Tensor, fake: Tensor, names: tuple[str, ...]) -> dict[str, Estimate]:
    found = {}
    if "sliced" in names:
        solver = Sliced(num_projections=128)
        found["sliced"] = sliced_estimate(real, fake, solver, solver.solve(real, fake))
    if "exact" in names:
        found["exact"] = transport_estimate(Exact().solve(real, fake), 2.0, rooted=True)
    if "frechet" in names:
        found["frechet"] = frechet_estimate(real, fake, gaussian_pair(real, fake))
    if "kernel" in names:
        found["kernel"] = kernel_estimate(kernel_sums(real, fake))
    if "precision" in names:
        values = [float(one) for one in manifold_scores(real, fake, num_neighbors=5)]
        of_all = manifold_estimates(real, fake, 5, values, 0, "both")
        found |= dict(zip(MANIFOLD, of_all, strict=True))
    return found


def kernel_limit(dimension: int, shift: float, scale: float) -> float:
    """MMD^2 of the cubic kernel between N(0, I) and N(shift, scale^2 I), by its moments."""
    # (w + 1)^3 = 1 + 3 w + 3 w^2 + w^3 with w = x.y / D; E w^k from independent normals.
    d, mean = dimension, dimension * shift**2

    def moments(m1: float, s1: float, m2: float, s2: float) -> float:
        # x = m1 e + s1 u, y = m2 e + s2 v per coordinate: products of coordinates are i.i.d.
        one = m1 * m2
        two = (m1**2 + s1**2) * (m2**2 + s2**2)
        three = (m1**3 + 3 * m1 * s1**2) * (m2**3 + 3 * m2 * s2**2)
        first = one
        second = two / d + one**2 * (d - 1) / d
        third = (three + 3 * (d - 1) * two * one + (d - 1) * (d - 2) * one**3) / d**2
        return 1 + 3 * first + 3 * second + third

    assert mean >= 0
    return (
        moments(0, 1, 0, 1) + moments(shift, scale, shift, scale) - 2 * moments(0, 1, shift, scale)
    )


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.2)])
@pytest.mark.parametrize("dimension", [2, 16])
def test_coverage_of_the_limit(dimension, shift, scale):
    """Of N(0, I) and N(t, s^2 I) all three limits are known in closed form."""
    generator = torch.Generator().manual_seed(dimension)
    limits = {
        "sliced": shift**2 + (scale - 1) ** 2,
        "frechet": dimension * (shift**2 + (scale - 1) ** 2),
        "kernel": kernel_limit(dimension, shift, scale),
    }
    held, repetitions = dict.fromkeys(limits, 0), 150
    for _ in range(repetitions):
        real, fake = torch.randn(2, 120, dimension, generator=generator, dtype=torch.float64)
        found = estimates(real, fake * scale + shift, tuple(limits))
        for name, estimate in found.items():
            assert estimate.target == "limit"
            interval = estimate.interval(0.95)
            limit = limits[name] ** (1 / estimate.order)
            held[name] += interval.low <= limit + 1e-12 and limit <= interval.high
    # The least that 150 draws show of 0.92, three of their errors below it.
    least = 0.92 - 3 * math.sqrt(0.92 * 0.08 / repetitions)
    shares = {name: count / repetitions for name, count in held.items()}
    assert min(shares.values()) >= least, shares


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.2)])
def test_coverage_of_the_mean_at_these_sizes(shift, scale):
    generator = torch.Generator().manual_seed(1)
    names, repetitions = ("exact", "precision"), 80
    found: dict[str, list[tuple[float, Interval]]] = {}
    for _ in range(repetitions):
        real, fake = torch.randn(2, 60, 8, generator=generator, dtype=torch.float64)
        for name, estimate in estimates(real, fake * scale + shift, names).items():
            value = estimate.centre ** (1 / estimate.order)
            found.setdefault(name, []).append((value, estimate.interval(0.95)))
    least = 0.92 - 3 * math.sqrt(0.92 * 0.08 / repetitions)
    for name, pairs in found.items():
        mean = sum(value for value, _ in pairs) / repetitions
        share = sum(one.low <= mean <= one.high for _, one in pairs) / repetitions
        assert share >= least, (name, share)


@pytest.mark.parametrize("scale", [1.0, 1.2])
def test_bias_is_taken_off(scale):
    """The mean of the centres is the limit, up to a twentieth of the bias of the values."""
    generator = torch.Generator().manual_seed(2)
    centres: dict[str, list[float]] = {"sliced": [], "frechet": []}
    values: dict[str, list[float]] = {"sliced": [], "frechet": []}
    for _ in range(60):
        real, fake = torch.randn(2, 200, 32, generator=generator, dtype=torch.float64)
        fake = fake * scale
        for name, estimate in estimates(real, fake, ("sliced", "frechet")).items():
            centres[name].append(estimate.centre)
        values["sliced"].append(float(Sliced(num_projections=128).solve(real, fake).cost))
        values["frechet"].append(float(frechet_in_float64(real, fake)))
    for name, limit in (("sliced", (scale - 1) ** 2), ("frechet", 32 * (scale - 1) ** 2)):
        centre, value = torch.tensor(centres[name]), torch.tensor(values[name])
        error = float(centre.std()) / math.sqrt(60)
        bias = float(value.mean()) - limit
        assert bias > 20 * error
        assert abs(float(centre.mean()) - limit) < 3 * error + bias / 20


@pytest.mark.parametrize("heavy", [False, True])
def test_the_limit_is_held_from_twice_as_many_samples_as_axes_on(heavy):
    """The bias of the Fréchet distance of heavy tails falls later, but its error covers it."""
    generator = torch.Generator().manual_seed(3)
    held, repetitions, dimension = 0, 100, 16
    for _ in range(repetitions):
        sides = torch.randn(2, 2 * dimension, dimension, generator=generator, dtype=torch.float64)
        if heavy:  # t with five degrees of freedom, of variance 1
            squares = torch.randn(2, 2 * dimension, 5, generator=generator, dtype=torch.float64)
            sides = sides * (3 / squares.square().sum(-1, keepdim=True)).sqrt()
        estimate = frechet_estimate(*sides, gaussian_pair(*sides))
        assert estimate.target == "limit"
        interval = estimate.interval(0.95)
        held += interval.low <= 0 <= interval.high
    assert held / repetitions >= 0.92


def test_too_few_samples_for_the_limit():
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 30, 20, generator=generator, dtype=torch.float64)
    value = float(frechet_in_float64(real, fake))
    estimate = frechet_estimate(real, fake, gaussian_pair(real, fake))
    assert estimate.target == "mean at these sizes"
    assert estimate.centre == value
    solver = Sliced(order=1.0, num_projections=64)
    estimate = sliced_estimate(real, fake, solver, solver.solve(real, fake))
    assert estimate.target == "mean at these sizes"


def influence(*, real: float, fake: float) -> Influence:
    """Effects with these variances of their means."""
    sides = (
        math.sqrt(variance * size / 2 * (size - 1)) * torch.tensor([[1.0, -1.0]]).double()
        for variance, size in ((real, 2), (fake, 2))
    )
    return Influence(*sides)


def test_ends_are_rooted_and_levels_widen():
    estimate = Estimate(0.09, influence(real=0.0003, fake=0.0001), "limit", order=2.0)
    assert estimate.standard_error() == pytest.approx(0.02)
    interval = estimate.interval(0.95)
    assert interval.low == pytest.approx(math.sqrt(0.09 - 1.959964 * 0.02))
    assert interval.high == pytest.approx(math.sqrt(0.09 + 1.959964 * 0.02))
    assert estimate.interval(0.99).high > interval.high
    assert estimate.standard_error("fake") == pytest.approx(0.01)
    near = estimate._replace(centre=0.01)
    assert near.interval(0.95).low == 0.0
    # Without a root, as for kernels, what is below 0 stays.
    assert near._replace(order=1.0).interval(0.95).low < 0


def test_ends_keep_to_what_a_score_can_be():
    halves = Subsamples(torch.tensor([0.9, 1.0]).double(), "both")
    estimate = Estimate(0.98, halves, "mean at these sizes", bounds=(0.0, 1.0))
    assert estimate.interval(0.95).high == 1.0
    assert estimate.interval(0.95).low < 0.9


def test_with_the_real_samples_fixed_fewer_things_vary():
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 80, 4, generator=generator, dtype=torch.float64)
    values = [float(one) for one in manifold_scores(real, fake, num_neighbors=5)]
    both, alone = (manifold_estimates(real, fake, 5, values, 0, over) for over in ("both", "fake"))
    density = 2
    assert alone[density].standard_error("fake") < 0.9 * both[density].standard_error("both")


def test_directions_add_their_error_in_squares():
    estimate = Estimate(1.0, influence(real=0.09, fake=0.0), "limit", error=0.4)
    assert estimate.standard_error() == pytest.approx(0.5)


def test_a_difference_against_the_same_real_samples():
    """What both have in common of the real samples cancels."""
    first = Estimate(1.0, influence(real=0.25, fake=0.01), "limit")
    second = Estimate(0.8, influence(real=0.25, fake=0.02), "limit")
    assert difference_error(first, second, "both") == pytest.approx(math.sqrt(0.03))
    opposite = influence(real=0.25, fake=0.02)
    opposite = opposite._replace(real=-opposite.real)
    apart = difference_error(first, second._replace(spread=opposite), "both")
    assert apart == pytest.approx(math.sqrt(1.03))
    assert difference_error(first, second, "fake") == pytest.approx(math.sqrt(0.03))


def test_the_error_of_the_excess_is_that_of_repetitions():
    """Of scores and floors whose first half of real is the same."""
    generator = torch.Generator().manual_seed(4)
    names = ("sliced_wasserstein", "wasserstein", "kernel_distance", "frechet_distance")
    scoring = Scoring(metrics=names, sliced=Sliced(num_projections=64))
    excesses: dict[str, list[float]] = {name: [] for name in names}
    errors: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(50):
        real = torch.randn(120, 6, generator=generator, dtype=torch.float64)
        fake = 1.3 * torch.randn(60, 6, generator=generator, dtype=torch.float64) + 0.3
        for name, score in score_features(real, fake, scoring=scoring).scores.items():
            assert score.floor is not None
            assert score.floor.excess_error is not None
            excesses[name].append(score.floor.excess)
            errors[name].append(score.floor.excess_error)
    for name in names:
        ratio = sum(errors[name]) / 50 / float(torch.tensor(excesses[name]).std())
        assert 0.8 < ratio < 1.8, (name, ratio)


def test_the_naive_bootstrap_fails_for_coverage():
    """Resampled with replacement, samples are their own neighbours: quantiles of such scores
    nearly never hold the mean of the score; intervals from random parts do."""
    generator = torch.Generator().manual_seed(6)
    values, naive, ours = [], [], []
    for _ in range(24):
        real, fake = torch.randn(2, 80, 4, generator=generator, dtype=torch.float64)
        found = manifold_scores(real, fake, num_neighbors=5)
        values.append(float(found.coverage))
        numbers = [float(one) for one in found]
        ours.append(manifold_estimates(real, fake, 5, numbers, 0, "both")[3].interval(0.95))
        again = []
        for _ in range(40):
            x, y = (side[torch.randint(80, (80,), generator=generator)] for side in (real, fake))
            again.append(float(manifold_scores(x, y, num_neighbors=5).coverage))
        naive.append(torch.tensor(again).quantile(torch.tensor([0.025, 0.975])).tolist())
    mean = sum(values) / len(values)
    assert sum(low <= mean <= high for low, high in naive) / 24 < 0.5
    assert sum(one.low <= mean <= one.high for one in ours) / 24 > 0.8


def test_an_interval_of_a_square_is_that_of_the_distance_squared():
    """Far from 0, on the upper side; the lower one stays where it is without that."""
    still = Influence(torch.zeros(1, 9).double(), torch.zeros(1, 9).double())
    estimate = Estimate(4.0, still, "limit", error=0.5, power=2.0)
    interval = estimate.interval(0.95)
    assert interval.low == pytest.approx(4 - 1.96 * 0.5, rel=1e-3)
    assert interval.high == pytest.approx((2 + 1.96 * 0.5 / 4) ** 2, rel=1e-3)
    plain = estimate._replace(power=1.0).interval(0.95)
    assert plain.high == pytest.approx(4 + 1.96 * 0.5, rel=1e-3)
    # Near 0 by a half of the reach at most.
    near = estimate._replace(centre=-3.0).interval(0.95)
    assert near.high == pytest.approx(-3 + 1.5 * 1.96 * 0.5, rel=1e-3)
    certain = Estimate(0.0, still, "limit", power=2.0).interval(0.95)
    assert (certain.low, certain.high) == (0, 0)


def test_coverage_of_a_square_that_few_samples_make_too_small():
    """Samples with a small kernel distance have a small error of it: 0.89 without the above."""
    generator = torch.Generator().manual_seed(3)
    limit, held, repetitions = kernel_limit(2, 0.3, 1.2), 0, 400
    for _ in range(repetitions):
        real, fake = torch.randn(2, 100, 2, generator=generator, dtype=torch.float64)
        estimate = kernel_estimate(kernel_sums(real, fake * 1.2 + 0.3))
        assert estimate is not None
        interval = estimate.interval(0.95)
        held += interval.low <= limit <= interval.high
    assert held / repetitions >= 0.92


def test_of_fake_samples_alone_the_interval_is_for_the_score_against_these_real_ones():
    """Its error has no share of the real side, whose bias therefore stays in the centre."""
    generator = torch.Generator().manual_seed(7)
    real = torch.randn(100, 8, generator=generator, dtype=torch.float64)
    scoring = Scoring(
        metrics=("sliced_wasserstein", "frechet_distance", "kernel_distance"),
        sliced=Sliced(num_projections=64),
        floor=False,
        over="fake",
    )
    found: dict[str, list] = {}
    for _ in range(60):
        fake = torch.randn(800, 8, generator=generator, dtype=torch.float64) + 0.3
        for name, score in score_features(real, fake, scoring=scoring).scores.items():
            assert score.interval is not None
            assert score.interval.target == "mean at these sizes"
            assert score.debiased is None
            assert score.differs is None
            found.setdefault(name, []).append((score.value, score.interval))
    for name, pairs in found.items():
        mean = sum(value for value, _ in pairs) / len(pairs)
        assert sum(one.low <= mean <= one.high for _, one in pairs) >= 0.87 * len(pairs), name


def test_few_fake_samples_next_to_many_real_ones_have_intervals():
    generator = torch.Generator().manual_seed(8)
    real = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    fake = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    values = [float(one) for one in manifold_scores(real, fake, num_neighbors=5)]
    assert all(one is not None for one in manifold_estimates(real, fake, 5, values, 0, "both"))


def test_samples_that_spread_too_little_differ_though_they_are_close():
    generator = torch.Generator().manual_seed(9)
    real = torch.randn(400, 64, generator=generator, dtype=torch.float64)
    fake = 0.9 * torch.randn(200, 64, generator=generator, dtype=torch.float64)
    scoring = Scoring(metrics=("wasserstein",))
    report = score_features(real, fake, scoring=scoring)
    score = report.scores["wasserstein"]
    assert score.floor is not None
    assert score.floor.excess < 0
    assert score.differs
    assert report.verdict() == ["Real and fake differ by exact Wasserstein."]
