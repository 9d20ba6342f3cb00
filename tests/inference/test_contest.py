"""Several models by one score: differences, training runs, and what they are compared with."""

import pytest
import scipy.stats
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from otmetrics import Scoring, Sliced, compare_features
from otmetrics.inference.contest import Contest, contest_of
from otmetrics.inference.influence import Influence
from otmetrics.inference.intervals import Estimate, Subsamples, covariance_of

NOTHING = Influence(torch.zeros(1, 9).double(), torch.zeros(1, 9).double())


def estimate(centre, spread=NOTHING, **fields):
    return Estimate(centre, spread, "limit", **fields)


def drawn(seed, size=50, rows=1, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    values = scale * torch.randn(rows, size, generator=generator, dtype=torch.float64)
    return values - values.mean(1, keepdim=True)


def test_the_real_samples_and_the_directions_are_common():
    """The variance of a difference is that of the effects' difference, and of the directions'."""
    real = drawn(0, 80), drawn(0, 80) + 0.1 * drawn(1, 80)
    fake = drawn(2), drawn(3)
    along = drawn(4, 6, scale=0.1)[0], drawn(5, 6, scale=0.1)[0]
    pair = [
        estimate(0.0, Influence(real[i], fake[i]), drawn=along[i], error=0.01) for i in range(2)
    ]
    covariance = covariance_of(pair)
    found = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    wanted = (
        (real[0] - real[1]).var(correction=1) / 80
        + fake[0].var(correction=1) / 50
        + fake[1].var(correction=1) / 50
        + (along[0] - along[1]).square().sum()
        + 2 * 0.01**2
    )
    assert float(found) == pytest.approx(float(wanted))
    alone = covariance_of(pair, "fake")
    assert float(alone[0, 1]) == pytest.approx(float(along[0] @ along[1]))


def test_more_directions_continue_fewer():
    some, more = torch.tensor([0.1, -0.2]).double(), torch.tensor([0.1, -0.2, 0.3]).double()
    covariance = covariance_of([estimate(0.0, drawn=some), estimate(0.0, drawn=more)])
    assert covariance.flatten().tolist() == pytest.approx([0.05, 0.05, 0.05, 0.14])


def test_halves_of_the_same_real_samples_are_paired():
    common, own = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)).double()
    pair = [estimate(0.0, Subsamples(one, "both")) for one in (common, common + 0.1 * own)]
    contest = contest_of([[one] for one in pair], "both")
    assert contest.difference(0, 1, 0.95).detectable == pytest.approx(2.80 * 0.1, rel=0.05)


@pytest.mark.parametrize("sizes", [(3, 3), (3, 5), (2, 6)])
def test_training_runs_are_compared_as_welch_does(sizes):
    """Without errors of samples, runs are all that there is."""
    generator = torch.Generator().manual_seed(sum(sizes))
    first = torch.randn(sizes[0], generator=generator).double()
    second = 2 * torch.randn(sizes[1], generator=generator).double() + 1
    runs = [[estimate(float(value)) for value in side] for side in (first, second)]
    found = contest_of(runs, "both").difference(0, 1, 0.9)
    wanted = scipy.stats.ttest_ind(first, second, equal_var=False)
    low, high = wanted.confidence_interval(0.9)
    assert found.value == pytest.approx(float(first.mean() - second.mean()))
    assert found.pvalue == pytest.approx(wanted.pvalue)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_a_single_run_adds_what_its_samples_leave_open():
    """The other side's runs alone have degrees of freedom."""
    spread = Influence(torch.zeros(1, 9).double(), drawn(0, 40))
    contest = contest_of([[estimate(0.0, spread)], [estimate(v) for v in (1.0, 2.0, 3.0)]], "both")
    variance = float(spread.fake.var(correction=1)) / 40, 1 / 3
    assert contest.covariance.diagonal().tolist() == pytest.approx(list(variance))
    assert contest.freedom == pytest.approx(sum(variance) ** 2 / (variance[1] ** 2 / 2))
    assert contest.runs == [1, 3]


def test_runs_share_the_real_samples():
    """More runs do not take off what all of them have from the same real samples."""
    shared = Influence(drawn(0, 30), torch.zeros(1, 9).double())
    contest = contest_of([[estimate(0.0, shared)] * 4, [estimate(1.0, shared)] * 4], "both")
    wanted = float(shared.real.var(correction=1)) / 30
    assert contest.covariance.flatten().tolist() == pytest.approx([wanted] * 4)
    assert contest.difference(0, 1, 0.95).high == pytest.approx(-1.0)


def test_the_interval_of_one_model_over_runs_is_that_of_t():
    values = torch.tensor([1.0, 2.0, 4.0]).double()
    contest = contest_of([[estimate(float(v)) for v in values], [estimate(0.0)]], "both")
    reach = scipy.stats.t.ppf(0.975, 2) * float(values.std()) / 3**0.5
    assert contest.reach(0, 0.95) == pytest.approx(reach)


def test_many_models_against_one_as_dunnett_does():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(5, 4000, generator=generator).double().numpy()
    wanted = scipy.stats.dunnett(*samples[1:], control=samples[0], random_state=0)
    interval = wanted.confidence_interval(0.95)
    covariance = torch.eye(5).double() / 4000
    centres = torch.from_numpy(samples.mean(1))
    contest = Contest(centres, covariance, torch.zeros(5).double(), [1] * 5)
    found = contest.differences_from(0, 0.95, seed=0)
    assert found[0] is None
    for one, low, high, pvalue in zip(
        found[1:], interval.low, interval.high, wanted.pvalue, strict=True
    ):
        assert one is not None
        assert (one.low, one.high) == pytest.approx((low, high), rel=0.05, abs=0.002)
        assert one.pvalue == pytest.approx(pvalue, abs=0.03)


def test_differences_of_costs_become_those_of_scores():
    tiny = torch.eye(2).double() * 1e-12
    own = torch.zeros(2).double()
    contest = Contest(torch.tensor([0.09, 0.04]).double(), tiny, own, [1, 1], order=2.0)
    found = contest.difference(0, 1, 0.95)
    assert found.value == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(2 * 1.96 * (2e-12) ** 0.5 / 0.5, rel=1e-3)
    same = Contest(torch.tensor([0.09, 0.09]).double(), tiny, own, [1, 1], order=2.0)
    assert same.difference(0, 1, 0.95).high == pytest.approx(1.96 * (2e-12) ** 0.5 / 0.6, rel=1e-3)


def test_near_0_a_difference_reaches_from_one_end_to_the_other():
    """A root has any slope there, and what both models share does not cancel."""
    covariance = torch.tensor([[1e-4, 0.9e-4], [0.9e-4, 1e-4]]).double()
    own = torch.zeros(2).double()
    contest = Contest(torch.tensor([0.25, 0.0]).double(), covariance, own, [1, 1], order=2.0)
    found, reach = contest.difference(0, 1, 0.95), 1.96 * 1e-2
    assert found.value == 0.5
    assert found.low == pytest.approx((0.25 - reach) ** 0.5 - reach**0.5, rel=1e-3)
    assert found.high == pytest.approx((0.25 + reach) ** 0.5, rel=1e-3)
    below = contest._replace(centres=torch.tensor([-0.25, 0.0]).double())
    assert below.difference(0, 1, 0.95).value == 0


def test_a_model_that_is_as_good_as_real_is_compared_with_another():
    """Of one 0.3 away in every axis, as the sliced distance sees it."""
    generator = torch.Generator().manual_seed(0)
    scoring = Scoring(metrics=("sliced_wasserstein",), sliced=Sliced(num_projections=64))
    held, repetitions = 0, 60
    for _ in range(repetitions):
        real, a, b = torch.randn(3, 200, 8, generator=generator, dtype=torch.float64)
        found = compare_features(real, {"a": a, "b": b + 0.3}, scoring=scoring).decisive
        difference = found.difference("b", "a")
        held += difference.low <= 0.3 <= difference.high
    assert held / repetitions >= 0.9


def test_runs_that_are_close_by_chance_have_the_error_of_their_samples():
    spread = Influence(torch.zeros(1, 9).double(), drawn(0, 40))
    error = float(spread.fake.var(correction=1)) / 40
    contest = contest_of([[estimate(1.0, spread)] * 2, [estimate(1.0, spread)] * 2], "both")
    assert contest.covariance.diagonal().tolist() == pytest.approx([error / 2] * 2)
    found = contest.difference(0, 1, 0.95)
    reach = scipy.stats.t.ppf(0.975, 2) * error**0.5
    assert (found.low, found.high) == pytest.approx((-reach, reach))
    assert contest.reach(0, 0.95) == pytest.approx(scipy.stats.t.ppf(0.975, 1) * (error / 2) ** 0.5)


def test_what_is_seen_in_four_of_five_cases():
    """By the interval next to it, however many models there are."""
    generator = torch.Generator().manual_seed(1)
    contest = Contest(
        torch.zeros(6).double(), torch.eye(6).double(), torch.zeros(6).double(), [1] * 6
    )
    detectable = contest.differences_from(0, 0.95, 0)[1].detectable
    seen, repetitions = 0, 200
    truth = torch.tensor([0.0, detectable, 0, 0, 0, 0]).double()
    for seed in range(repetitions):
        centres = truth + torch.randn(6, generator=generator).double()
        seen += contest._replace(centres=centres).differences_from(0, 0.95, seed)[1].low > 0
    assert 0.7 <= seen / repetitions <= 0.9


def test_a_model_against_itself_is_no_difference():
    covariance = torch.ones(2, 2).double()
    contest = Contest(torch.ones(2).double(), covariance, torch.zeros(2).double(), [1, 1])
    found = contest.difference(0, 1, 0.95)
    assert (found.value, found.low, found.high, found.pvalue) == (0, 0, 0, 1)
    assert contest.differences_from(0, 0.95, 0)[1].pvalue == 1


def test_higher_is_better():
    covariance = torch.eye(3).double() * 1e-4
    centres = torch.tensor([0.1, 0.9, 0.5]).double()
    contest = Contest(centres, covariance, torch.zeros(3).double(), [1] * 3, higher_is_better=True)
    assert contest.ranking(0.95, 0).ranks.tolist() == [[3, 3], [1, 1], [2, 2]]


def test_few_runs_widen_rank_sets():
    values = [[0.0, 1.0, 2.0], [4.0, 5.0, 6.0]]
    runs = [[estimate(value) for value in model] for model in values]
    contest = contest_of(runs, "both")
    assert contest.freedom == pytest.approx(4)
    # After the first is told to be better one way is left to ask: one tail.
    assert contest.ranking(0.95, 0).quantile == pytest.approx(scipy.stats.t.ppf(0.95, 4), abs=0.2)
    # 4 apart at a standard error of 0.816: 4.9 errors, where t with 4 degrees has 8.6 in 0.1 %.
    assert contest.ranking(0.95, 0).best_set == [0]
    assert contest.ranking(0.999, 0).best_set == [0, 1]


@settings(max_examples=300)
@given(
    centres=st.lists(st.floats(-0.2, 2), min_size=2, max_size=2),
    errors=st.lists(st.floats(0.01, 0.5), min_size=2, max_size=2),
    correlation=st.floats(-0.9, 0.99),
    order=st.sampled_from([1.0, 2.0, 3.0]),
)
def test_an_interval_leaves_0_out_where_the_test_says_so(centres, errors, correlation, order):
    """Near 0 too, where a root has any slope."""
    covariance = torch.tensor(errors, dtype=torch.float64)[:, None] * torch.tensor(errors)
    covariance[0, 1] *= correlation
    covariance[1, 0] *= correlation
    zeros = torch.zeros(2, dtype=torch.float64)
    contest = Contest(torch.tensor(centres).double(), covariance, zeros, [1, 1], order)
    found = contest.difference(0, 1, 0.95)
    assume(abs(found.pvalue - 0.05) > 1e-6 and max(centres) > 0.01)
    assert (found.pvalue < 0.05) == (found.low > 0 or found.high < 0)
    assert found.low <= found.value <= found.high
