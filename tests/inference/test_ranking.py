"""Rank sets of several models, and the letters that tie them."""

import pytest
import scipy.stats
import torch

from otmetrics.inference.ranking import joint_draws, letters, rank_sets

SHARED = 0.002 + torch.diag(torch.arange(1, 7) * 0.0005).double()
OWN = torch.diag(torch.arange(1, 7) * 0.0015).double()
SIX = [0.30, 0.32, 0.50, 0.55, 0.90, 0.91]

# R 4.2.2, csranks: csranks(x, S, coverage = 0.95, cstype = "two-sided", stepdown = TRUE, R = 20000,
# simul = TRUE, seed = 101), whose largest x has rank 1; L and U of it.
CSRANKS = [
    ([1.0, 2, 3, 4, 5], 0.1 * torch.eye(5).double(), [4, 3, 2, 1, 1], [5, 5, 4, 3, 2]),
    (
        [1.0, 1.1, 1.15, 2.0, 2.05],
        0.02 * torch.eye(5).double(),
        [3, 3, 3, 1, 1],
        [5, 5, 5, 2, 2],
    ),
    (SIX, SHARED, [5, 5, 3, 3, 1, 1], [6, 6, 4, 4, 2, 2]),
    (SIX, OWN, [4, 3, 3, 3, 1, 1], [6, 6, 6, 5, 2, 2]),
]


@pytest.mark.parametrize(("scores", "covariance", "least", "greatest"), CSRANKS)
def test_the_same_as_csranks(scores, covariance, least, greatest):
    found = rank_sets(-torch.tensor(scores).double(), covariance, 0.95, seed=0)
    assert found.ranks.T.tolist() == [least, greatest]


def test_joint_coverage_with_ties():
    """Noise that all models share, from the real samples, does not hide their order."""
    truth = torch.tensor([0.0, 0.0, 1.0, 1.0, 3.0], dtype=torch.float64)
    covariance = 0.5 + torch.diag(torch.tensor([0.1, 0.2, 0.1, 0.3, 0.2])).double()
    root = torch.linalg.cholesky(covariance)
    generator = torch.Generator().manual_seed(0)
    least = torch.tensor([1, 1, 3, 3, 5])  # ranks that tied models may have
    greatest = torch.tensor([2, 2, 4, 4, 5])
    held, repetitions = 0, 300
    for seed in range(repetitions):
        scores = truth + root @ torch.randn(5, generator=generator, dtype=torch.float64)
        ranks = rank_sets(scores, covariance, 0.95, seed).ranks
        # A tied model has the best and the worst rank of its ties: the set holds both.
        held += bool((ranks[:, 0] <= least).all() and (ranks[:, 1] >= greatest).all())
    assert held / repetitions >= 0.93


def test_models_far_apart_are_all_told_apart():
    found = rank_sets(torch.arange(4).double() * 10, torch.eye(4).double(), 0.95, 0)
    assert found.ranks.tolist() == [[1, 1], [2, 2], [3, 3], [4, 4]]
    assert found.best_set == [0]
    assert letters(found.better, [0, 1, 2, 3]) == ["a", "b", "c", "d"]


def test_a_model_given_twice_is_tied_with_itself():
    covariance = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).double()
    found = rank_sets(torch.tensor([0.0, 0.0, 20.0]).double(), covariance, 0.95, 0)
    assert found.ranks.tolist() == [[1, 2], [1, 2], [3, 3]]
    assert found.best_set == [0, 1]


@pytest.mark.parametrize("seed", range(30))
def test_letters_say_exactly_who_is_told_apart(seed):
    generator = torch.Generator().manual_seed(seed)
    size = 3 + seed % 6
    scores = torch.rand(size, generator=generator, dtype=torch.float64) * 6
    found = rank_sets(scores, torch.eye(size).double(), 0.95, seed)
    shown = letters(found.better, scores.argsort().tolist())
    apart = found.better | found.better.T
    for one in range(size):
        for two in range(size):
            if one != two:
                assert bool(apart[one, two]) == (not set(shown[one]) & set(shown[two]))
    best = int(scores.argmin())
    assert "a" in shown[best]


def test_draws_have_the_covariance_and_the_tails_that_were_asked():
    covariance = torch.tensor([[2.0, 0.6], [0.6, 1.0]]).double()
    assert torch.cov(joint_draws(covariance, 0).T).numpy() == pytest.approx(
        covariance.numpy(), abs=0.1
    )
    few = joint_draws(torch.eye(1).double(), 0, freedom=5.0)
    quantile = float(few.quantile(torch.tensor(0.975).double()))
    assert quantile == pytest.approx(scipy.stats.t.ppf(0.975, 5), abs=0.15)


def test_a_quantile_for_all_scores_together():
    """Of one score that of the normal distribution; of independent ones Sidak's."""
    for size in (1, 8):
        largest = joint_draws(torch.eye(size).double(), 0).abs().amax(1)
        wanted = scipy.stats.norm.ppf((1 + 0.95 ** (1 / size)) / 2)
        assert float(largest.quantile(0.95)) == pytest.approx(wanted, abs=0.1)
