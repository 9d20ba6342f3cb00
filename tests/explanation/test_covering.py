"""What is covered is what the score coverage counts."""

import pytest
import torch

from otmetrics import Comparing, Scoring, compare_features, density_coverage
from otmetrics.explanation.covering import coverage_change, reaches


def clouds():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 80, 3, generator=generator, dtype=torch.float64)


def test_the_share_that_is_reached_is_the_score():
    real, a, b = clouds()
    found = reaches(real, [a, b + 1], 5)
    for one, fake in zip(found, (a, b + 1), strict=True):
        wanted = density_coverage(real, fake, num_neighbors=5).coverage
        assert float((one <= 1).double().mean()) == pytest.approx(float(wanted))


def test_counts_and_the_clearest_rows():
    this = torch.tensor([0.5, 0.9, 2.0, 3.0, 0.1, 1.5])
    other = torch.tensor([0.5, 1.2, 0.5, 9.0, 4.0, 0.9])
    found = coverage_change(this, other, torch.arange(6) + 10)
    assert (found.gained, found.lost, found.both, found.neither) == (2, 2, 1, 1)
    assert found.gained_rows == (14, 11)
    assert found.lost_rows == (12, 15)


def test_repeated_samples_are_reached_by_themselves_alone():
    real = torch.zeros(20, 2, dtype=torch.float64)
    found = reaches(real, [real, real + 1], 3)
    assert (found[0] == 0).all()
    assert torch.isinf(found[1]).all()


def test_comparisons_say_what_changed():
    real, a, b = clouds()
    scoring = Scoring(metrics=("kernel_distance", "coverage"))
    models, comparing = {"near": a, "far": b + 2}, Comparing(changes=True)
    found = compare_features(real, models, comparing=comparing, scoring=scoring)
    change = found.changes["far"]
    assert found.decisive.reference == "near"
    far, near = (found.leaderboards["coverage"].standings[name].value for name in ("far", "near"))
    assert (change.gained + change.both) / 80 == pytest.approx(far)
    assert (change.lost + change.both) / 80 == pytest.approx(near)
    assert found.to_dict()["changes"]["far"]["lost"] == change.lost
    assert compare_features(real, models, scoring=scoring).changes == {}
