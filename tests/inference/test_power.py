"""How many samples show a difference: closed forms, and trials at the planned size."""

import pytest
import scipy.stats
import torch

from otmetrics import Planning, Scoring, sample_sizes, two_sample_test
from otmetrics.inference.influence import Influence
from otmetrics.inference.intervals import Estimate
from otmetrics.inference.power import (
    detectable_difference,
    samples_for_difference,
    samples_to_differ,
)
from otmetrics.inference.two_sample import PermutationTest


def effects(size, spread):
    values = torch.linspace(-1, 1, size, dtype=torch.float64)
    return spread * (values / values.std())[None]


def test_two_models_differ_by_what_their_own_samples_add():
    """The real samples are common to both."""
    estimate = Estimate(0.5, Influence(effects(30, 9.0), effects(100, 2.0)), "limit")
    wanted = (scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)) * (2 * 4 / 100) ** 0.5
    assert detectable_difference(estimate, 0.8) == pytest.approx(wanted)
    rooted = estimate._replace(order=2.0)
    assert detectable_difference(rooted, 0.8) == pytest.approx(wanted / (2 * 0.5**0.5))
    at_zero = rooted._replace(centre=-1.0)
    assert 0 < detectable_difference(at_zero, 0.8) < 10


def test_half_the_difference_takes_four_times_the_samples():
    assert samples_for_difference(0.2, 100, 0.1) == 400
    assert samples_for_difference(0.2, 100, 100.0) == 2


def test_samples_to_differ_have_the_power_that_was_asked():
    null = torch.linspace(-0.1, 0.1, 199, dtype=torch.float64)
    test = PermutationTest(0.4, 0.005, null, (100, 100))
    size = samples_to_differ(test, 0.5, 1.0, 0.8, two_sided=True)
    assert size is not None

    def power(samples):
        share = samples / 100
        reach = 0.095 / share
        return scipy.stats.norm.cdf((0.4 - reach) * share**0.5 / 0.5)

    assert power(size) >= 0.8 > power(size - 1)
    nothing = PermutationTest(0.0, 0.5, null, (100, 100))
    assert samples_to_differ(nothing, 0.5, 1.0, 0.8, two_sided=False) is None
    below = PermutationTest(-0.4, 0.005, null, (100, 100))
    assert samples_to_differ(below, 0.5, 1.0, 0.8, two_sided=True) == size
    assert samples_to_differ(below, 0.5, 1.0, 0.8, two_sided=False) is None


@pytest.mark.parametrize("name", ["kernel_distance", "sliced_wasserstein"])
def test_a_planned_size_shows_the_difference(name):
    """Fresh samples of the size that a pilot asks for, tested: four of five, roughly."""
    generator = torch.Generator().manual_seed(0)

    def sides(num):
        real, fake = torch.randn(2, num, 3, generator=generator, dtype=torch.float64)
        return real, fake + 0.2

    scoring = Scoring(metrics=(name,))
    found = [sample_sizes(*sides(1000), scoring=scoring).scores[name].to_differ for _ in range(5)]
    size = int(torch.tensor(found).median())
    seen = [
        two_sample_test(*sides(size), statistic=name, n_resamples=99, rng=seed).pvalue <= 0.05
        for seed in range(60)
    ]
    assert 0.55 <= sum(seen) / len(seen) <= 0.98


def test_one_seed_decides_and_options_have_rules():
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 60, 3, generator=generator)
    scoring = Scoring(metrics=("precision", "frechet_distance"))
    one, two = (sample_sizes(real, fake, scoring=scoring) for _ in range(2))
    assert one == two
    assert "precision" in str(one)
    with pytest.raises(ValueError, match="`difference` must"):
        Planning(difference=0.0)
    with pytest.raises(ValueError, match="`power` must"):
        Planning(power=1.0)
    with pytest.raises(ValueError, match="name that one in"):
        sample_sizes(real, fake, planning=Planning(difference=1.0), scoring=scoring)
