"""Flows between classes, and classes by vote."""

import numpy as np
import pytest
import torch

from otmetrics.explanation.classes import excess_flow, voted_classes
from otmetrics.explanation.pairs import optimal_pairs


def test_flow_has_the_shares_as_margins():
    generator = torch.Generator().manual_seed(0)
    real, other, fake = torch.randn(3, 90, 3, generator=generator, dtype=torch.float64)
    a, b, c = (torch.randint(3, (90,), generator=generator) for _ in range(3))
    flow = excess_flow(
        "xyz", (optimal_pairs(real, fake), a, c), (optimal_pairs(real, other), a, b), 90
    )
    excess = np.array(flow.excess)
    shares = [np.bincount(side, minlength=3) / 90 for side in (b, c)]
    assert excess.sum(1) == pytest.approx(0, abs=1e-12)  # both plans leave from the same samples
    assert excess.sum(0) == pytest.approx(shares[1] - shares[0])


def test_mass_of_a_missing_class_goes_to_another():
    """Class 1 is missing in fake: its mass must go to class 0, by a fifth of all."""
    generator = torch.Generator().manual_seed(1)

    def drawn(of_class: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(len(of_class), 2, generator=generator, dtype=torch.float64)
        return noise + 20 * of_class[:, None].double()

    both = torch.tensor([0] * 80 + [1] * 20)
    alone = torch.zeros(100, dtype=torch.int64)
    real, other, fake = drawn(both), drawn(both), drawn(alone)
    flow = excess_flow(
        ("zero", "one"),
        (optimal_pairs(real, fake), both, alone),
        (optimal_pairs(real, other), both, both),
        100,
    )
    assert flow.excess[1] == pytest.approx((0.2, -0.2))
    assert flow.largest() == [("one", "zero", pytest.approx(0.2))]


def test_no_flow_where_both_are_alike():
    """In 30 dimensions plans cross classes freely; of 6 flows few are beyond three errors."""
    seen = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        real, other, fake = torch.randn(3, 60, 30, generator=generator, dtype=torch.float64)
        classes = [
            (cloud[:, 0] > 0).long() + (cloud[:, 1] > 0).long() for cloud in (real, other, fake)
        ]
        flow = excess_flow(
            "abc",
            (optimal_pairs(real, fake), classes[0], classes[2]),
            (optimal_pairs(real, other), classes[0], classes[1]),
            60,
        )
        seen += len(flow.largest())
    assert seen <= 2


def test_no_flow_where_shares_differ_by_chance():
    """Of classes that lie apart a flow is what their shares differ by."""
    seen = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        classes = [torch.randint(2, (200,), generator=generator) for _ in range(3)]
        real, other, fake = (
            20.0 * one[:, None].double()
            + torch.randn(200, 1, generator=generator, dtype=torch.float64)
            for one in classes
        )
        flow = excess_flow(
            "ab",
            (optimal_pairs(real, fake), classes[0], classes[2]),
            (optimal_pairs(real, other), classes[0], classes[1]),
            200,
        )
        seen += len(flow.largest()) > 0
    # Of 40 chances of 10 % more than 11 come once in a thousand times.
    assert seen <= 11


def test_votes_are_those_of_the_nearest():
    generator = torch.Generator().manual_seed(2)
    reference = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    samples = torch.randn(25, 3, generator=generator, dtype=torch.float64)
    classes = np.arange(40) % 4
    found = voted_classes(reference, classes, samples)
    for row, one in enumerate(samples):
        nearest = (reference - one).norm(dim=1).argsort()[:5]
        votes = classes[nearest.numpy()]
        counts = np.bincount(votes, minlength=4)
        winners = np.flatnonzero(counts == counts.max())
        wanted = next(vote for vote in votes if vote in winners)
        assert found[row] == wanted


def test_fewer_references_than_voters():
    reference = torch.tensor([[0.0], [10.0]], dtype=torch.float64)
    found = voted_classes(reference, np.array([7, 3]), torch.tensor([[9.0], [1.0]]))
    assert found.tolist() == [3, 7]
