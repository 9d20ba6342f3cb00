"""The mixtures of the studies of mode collapse, and their scores."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from otmetrics.reference_models.modes import (
    HIGH_QUALITY_CEILING,
    Mixture,
    Scaling,
    divergence_floor,
    grid25,
    ring8,
    standardisation,
    uniform_divergence,
)

MIXTURES = pytest.mark.parametrize("mixture", [ring8(), grid25()], ids=lambda law: law.name)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive_scores(mixture, samples):
    """The rule in loops."""
    histogram = [0] * len(mixture.centres)
    for sample in samples.tolist():
        distances = [
            math.dist(sample, centre) / mixture.sigma for centre in mixture.centres.tolist()
        ]
        nearest = min(range(len(distances)), key=distances.__getitem__)
        if distances[nearest] < 3:
            histogram[nearest] += 1
    good = sum(histogram)
    shares = [count / good for count in histogram if count]
    kl = sum(share * math.log(share * len(histogram)) for share in shares)
    return sum(count > 0 for count in histogram), good / len(samples), kl


# --- the mixtures -----------------------------------------------------------------------------


def test_ring8_is_the_published_ring():
    law = ring8()
    assert (law.name, law.sigma, len(law.centres)) == ("ring8", 0.01, 8)
    torch.testing.assert_close(law.centres.norm(dim=1), torch.ones(8, dtype=torch.float64))
    gaps = torch.cdist(law.centres, law.centres).sort(1).values[:, 1]
    torch.testing.assert_close(gaps, torch.full_like(gaps, 2 * math.sin(math.pi / 8)))


def test_grid25_is_the_published_grid():
    law = grid25()
    assert (law.name, law.sigma) == ("grid25", 0.05)
    wanted = {(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)}
    assert {tuple(centre) for centre in law.centres.tolist()} == wanted


@MIXTURES
def test_samples_have_the_law(mixture):
    num = 200_000
    samples = mixture.sample(num, seeded(0))
    assert samples.shape == (num, 2)
    assert samples.dtype == torch.float64
    variance = {"ring8": 0.5 + 0.01**2, "grid25": 8 + 0.05**2}[mixture.name]
    torch.testing.assert_close(mixture.scaling.scale, torch.full((2,), variance).double().sqrt())
    assert not mixture.scaling.centre.any()
    # Both moments within five standard errors; fourth moments are below three variances squared.
    assert (samples.mean(0).abs() < 5 * math.sqrt(variance / num)).all()
    assert (samples.square().mean(0) / variance - 1).abs().max() < 5 * math.sqrt(2 / num)


def test_a_seed_is_a_set_of_samples():
    law = ring8()
    assert torch.equal(law.sample(50, seeded(3)), law.sample(50, seeded(3)))
    assert not torch.equal(law.sample(50, seeded(3)), law.sample(50, seeded(4)))


# --- the rule ---------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.01, 0.02, 0.05, 0.3]),
    num=st.integers(1, 60),
    grid=st.booleans(),
)
def test_scores_are_those_of_the_naive_loop(seed, spread, num, grid):
    law = grid25(sigma=0.1) if grid else ring8(sigma=0.02)
    blurred = Mixture("blurred", law.centres, spread)
    samples = torch.cat([blurred.sample(num, seeded(seed)), law.centres[:1]])
    covered, high_quality, kl = naive_scores(law, samples)
    scores = law.mode_scores(samples)
    assert (scores.covered, scores.num_modes) == (covered, len(law.centres))
    assert scores.high_quality == pytest.approx(high_quality, abs=1e-15)
    assert scores.kl == pytest.approx(kl, abs=1e-12)


@MIXTURES
def test_true_samples_reach_the_ceiling(mixture):
    num = 200_000
    scores = mixture.mode_scores(mixture.sample(num, seeded(1)))
    error = math.sqrt(HIGH_QUALITY_CEILING * (1 - HIGH_QUALITY_CEILING) / num)
    assert pytest.approx(0.98889, abs=1e-5) == HIGH_QUALITY_CEILING
    assert scores.high_quality == pytest.approx(HIGH_QUALITY_CEILING, abs=5 * error)
    assert scores.covered == scores.num_modes


@MIXTURES
def test_true_samples_reach_the_floor_of_the_divergence(mixture):
    """2 N KL is nearly chi-square with K - 1 degrees of freedom."""
    num, repetitions, modes = 2500, 200, len(mixture.centres)
    divergences = torch.tensor(
        [mixture.mode_scores(mixture.sample(num, seeded(seed))).kl for seed in range(repetitions)]
    )
    floor = divergence_floor(modes, num)
    error = math.sqrt(2 * (modes - 1) / repetitions) / (2 * num)
    assert floor == pytest.approx({8: 0.0014, 25: 0.0048}[modes])
    assert float(divergences.mean()) == pytest.approx(floor, abs=5 * error + 0.02 * floor)


@MIXTURES
def test_collapse_on_one_mode(mixture):
    modes = len(mixture.centres)
    scores = mixture.mode_scores(mixture.centres[3].expand(100, 2))
    assert scores == (1, modes, 1.0, pytest.approx(math.log(modes), abs=1e-12))


def test_collapse_on_half_the_modes():
    scores = ring8().mode_scores(ring8().centres[::2].repeat(5, 1))
    assert scores == (4, 8, 1.0, pytest.approx(math.log(2), abs=1e-12))


def test_quality_is_strict():
    law = Mixture("two", torch.tensor([[0.0, 0.0], [16.0, 0.0]], dtype=torch.float64), 0.5)
    inside = math.nextafter(1.5, 0)
    for x, good in ((1.5, False), (inside, True)):
        samples = torch.tensor([[x, 0.0], [16.0, 0.0]], dtype=torch.float64)
        scores = law.mode_scores(samples)
        assert (scores.covered, scores.high_quality) == (1 + good, (1 + good) / 2)


def test_poor_samples_count_for_the_share_but_not_for_the_histogram():
    law = ring8()
    poor = law.centres[:1].repeat(6, 1) * 1.5  # all beside the first mode
    scores = law.mode_scores(torch.cat([law.centres, poor]))
    assert scores == (8, 8, pytest.approx(8 / 14), 0.0)


def test_without_a_good_sample_there_is_no_histogram():
    assert ring8().mode_scores(torch.zeros(10, 2)) == (0, 8, 0.0, None)


def test_samples_on_a_device_with_a_graph(device):
    samples = ring8().centres.float().to(device).requires_grad_()
    assert ring8().mode_scores(samples).covered == 8


@pytest.mark.parametrize("shape", [(0, 2), (2,), (3, 3), (2, 2, 2)])
def test_samples_that_are_no_points_raise(shape):
    with pytest.raises(ValueError, match="`samples` must have shape"):
        ring8().mode_scores(torch.zeros(shape))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_samples_that_are_not_finite_raise(value):
    with pytest.raises(ValueError, match="`samples` must be finite"):
        ring8().mode_scores(torch.tensor([[0.0, value]]))


# --- histograms and units ---------------------------------------------------------------------


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40).filter(any))
def test_divergence_of_a_histogram(counts):
    total = sum(counts)
    expected = sum(c / total * math.log(c / total * len(counts)) for c in counts if c)
    value = uniform_divergence(torch.tensor(counts))
    assert value == pytest.approx(expected, abs=1e-12)
    assert 0 <= value <= math.log(len(counts)) + 1e-12


def test_equal_counts_are_uniform():
    """Shares of 1/49 sum to a divergence of -1e-16 unless that is caught."""
    values = [uniform_divergence(torch.ones(num)) for num in range(1, 60)]
    assert 0 <= min(values) <= max(values) < 1e-15


def test_an_empty_histogram_has_no_divergence():
    assert uniform_divergence(torch.zeros(5, dtype=torch.long)) is None


def test_standardised_points(device):
    points = torch.randn(500, 3, dtype=torch.float64, generator=seeded(0)) * 7 + 30
    points[:, 1] = 0.1  # the mean of many is not quite 0.1
    units = standardisation(points)
    inside = units.apply(points.to(device))
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside.mean(0).cpu(), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(inside.std(0, correction=0).cpu(), torch.tensor([1.0, 0.0, 1.0]))
    assert float(units.scale[1]) == 1
    torch.testing.assert_close(units.undone(inside).cpu(), points, atol=1e-5, rtol=0)


def test_scaling_by_hand():
    units = Scaling(torch.tensor([1.0]).double(), torch.tensor([2.0]).double())
    assert units.apply(torch.tensor([[5.0]])).item() == 2
    assert units.undone(torch.tensor([[2.0]])).item() == 5
