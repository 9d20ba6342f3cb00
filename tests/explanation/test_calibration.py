"""P-values equal those by definition, hold their level, and lists hold their rate."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from otmetrics.explanation.calibration import conformal_pvalues, discoveries

FEW = st.integers(0, 5).map(float)


@given(st.lists(FEW, min_size=1, max_size=30), st.lists(FEW, min_size=1, max_size=30))
def test_pvalues_by_their_definition(calibration, scores):
    found = conformal_pvalues(torch.tensor(calibration), torch.tensor(scores))
    wanted = [(1 + sum(c >= s for c in calibration)) / (len(calibration) + 1) for s in scores]
    assert found.tolist() == pytest.approx(wanted, abs=1e-12)


def test_ties_up_to_rounding_count_against_a_finding():
    calibration = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    above = torch.tensor([3 * (1 + 1e-12), 3 * (1 + 1e-6)], dtype=torch.float64)
    assert conformal_pvalues(calibration, above).tolist() == [0.5, 0.25]
    assert conformal_pvalues(-calibration, -torch.ones(1) * (1 - 1e-6)).tolist() == [0.25]
    assert conformal_pvalues(torch.zeros(9), torch.zeros(2)).tolist() == [1.0, 1.0]


def test_the_level_holds():
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(400):
        draws = torch.randn(200, generator=generator, dtype=torch.float64)
        shares.append(float((conformal_pvalues(draws[:100], draws[100:]) <= 0.05).double().mean()))
    assert np.mean(shares) == pytest.approx(5 / 101, abs=0.006)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.sampled_from([0.05, 0.1, 0.3]))
def test_lists_are_those_of_benjamini_and_hochberg(places, rate):
    pvalues = np.array(places) / 200
    wanted = scipy.stats.false_discovery_control(pvalues) <= rate * (1 + 1e-9)
    assert discoveries(torch.from_numpy(pvalues), rate).tolist() == wanted.tolist()


def test_lists_hold_their_rate():
    """200 of 1000 are strange: the false share of the list is the rate times that of the others."""
    generator = torch.Generator().manual_seed(1)
    false = []
    for _ in range(200):
        draws = torch.randn(2000, generator=generator, dtype=torch.float64)
        draws[1000:1200] += 4
        listed = discoveries(conformal_pvalues(draws[:1000], draws[1000:]), 0.1)
        false.append(float(listed[200:].sum()) / max(1, int(listed.sum())))
    assert np.mean(false) == pytest.approx(0.08, abs=0.015)


def test_equal_pvalues_are_listed_together():
    pvalues = torch.tensor([0.1, 0.1, 0.1, 0.9], dtype=torch.float64)
    assert discoveries(pvalues, 0.14).tolist() == [True, True, True, False]
    assert not discoveries(pvalues, 0.13).any()
