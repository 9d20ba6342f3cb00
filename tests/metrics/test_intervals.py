"""Intervals and tests of metrics: those of the scores, on the samples that a metric holds."""

import dataclasses
import itertools

import pytest
import torch
from metric_cases import CASES, FAKE, REAL, SLICED, Case, filled, inferred

from otmetrics import (
    Exact,
    FrechetFeatureDistance,
    KernelFeatureDistance,
    MaxSliced,
    PrecisionRecall,
    Scoring,
    Sinkhorn,
    Sliced,
    WassersteinFeatureDistance,
    score_features,
    two_sample_test,
)
from otmetrics.summaries.reservoir import lowest

KNOWN = ("sliced", "exact", "sinkhorn", "reservoir", "kernel", "precision_recall")
KNOWN += ("density_coverage",)
SCORED = {
    "sliced": ("sliced_wasserstein",),
    "exact": ("wasserstein",),
    "sinkhorn": ("sinkhorn_divergence",),
    "reservoir": ("wasserstein",),
    "kernel": ("kernel_distance",),
    "precision_recall": ("precision", "recall"),
    "density_coverage": ("density", "coverage"),
}
SCORING = Scoring(
    sliced=SLICED,
    sinkhorn=Sinkhorn(epsilon=0.5),
    num_neighbors=2,
    test=39,
    floor=False,
)


@pytest.fixture(params=KNOWN)
def name(request) -> str:
    return request.param


def held(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The samples that the metric of a case holds."""
    if name != "reservoir":
        return REAL, FAKE
    real, fake = (side[lowest(torch.arange(len(side)), 12, seed=5)] for side in (REAL, FAKE))
    return real, fake


def as_dict(name: str, found) -> dict:
    return found if isinstance(found, dict) else {SCORED[name][0]: found}


@pytest.mark.parametrize("over", ["both", "fake"])
def test_the_interval_is_that_of_the_score(name, over):
    metric = filled(CASES[name])
    scoring = dataclasses.replace(
        SCORING, metrics=SCORED[name], confidence_level=0.9, over=over, seed=metric.seed
    )
    report = score_features(*held(name), scoring=scoring)
    found = as_dict(name, metric.interval(0.9, over))
    assert found.keys() == set(SCORED[name])
    for one, interval in found.items():
        other = report.scores[one].interval
        # The score is the divergence itself, the metric its root.
        power = 2 if name == "sinkhorn" else 1
        ends = interval.low**power, interval.high**power
        assert ends == pytest.approx((max(other.low, 0) if power == 2 else other.low, other.high))
        assert (interval.level, interval.target, interval.over) == (0.9, other.target, over)


def test_the_test_is_that_of_the_score(name):
    metric = filled(CASES[name])
    scoring = dataclasses.replace(SCORING, metrics=SCORED[name], seed=metric.seed)
    report = score_features(*held(name), scoring=scoring)
    for one, test in as_dict(name, metric.test(39)).items():
        other = report.scores[one].test
        assert (test.pvalue, test.sizes) == (other.pvalue, other.sizes)
        assert test.statistic == pytest.approx(other.statistic)
        assert len(test.null_distribution) == 39


def test_a_test_is_the_two_sample_test():
    metric = filled(Case(lambda **options: WassersteinFeatureDistance(seed=7, **options), None))
    one, other = metric.test(19), two_sample_test(REAL, FAKE, n_resamples=19, rng=7)
    assert one.null_distribution.tolist() == other.null_distribution.tolist()
    assert one[:2] == other[:2]


def test_solvers_test_by_their_own_options():
    """Another order or epsilon is another statistic."""
    methods = (Sliced(order=1), Exact(order=1), Sinkhorn(epsilon=1.0), Sinkhorn(epsilon=0.1))
    found = [
        filled(
            Case(lambda m=m, **options: WassersteinFeatureDistance(method=m, **options), None)
        ).test(3)
        for m in (*methods, "sliced", "exact", "sinkhorn")
    ]
    statistics = [test.statistic for test in found]
    assert len(set(statistics)) == len(statistics)
    assert statistics[1] == pytest.approx(float(Exact(order=1)(REAL, FAKE)))


def test_a_debiased_interval_is_one_of_the_distance():
    solver = Sliced(debiased=True, num_projections=64)
    metric = filled(
        Case(lambda **options: WassersteinFeatureDistance(method=solver, **options), None)
    )
    interval = metric.interval()
    scoring = Scoring(metrics=("sliced_wasserstein",), sliced=solver, floor=False)
    squared = score_features(REAL, FAKE, scoring=scoring).scores["sliced_wasserstein"].interval
    assert squared.low < 0  # of what has no root
    assert (interval.low, interval.high**2) == pytest.approx((0, squared.high))
    assert interval.low < metric.compute() < interval.high


def test_features_far_from_the_origin():
    """In float32, in which their digits would be lost."""
    case = Case(lambda **options: WassersteinFeatureDistance(method=SLICED, **options), None)
    near, far = case.make(feature=None), case.make(feature=None)
    for metric, shift in ((near, 0.0), (far, 2.0**14)):
        # Shifted by a power of two, and rounded before it: the same samples, exactly.
        for side, real in ((REAL, True), (FAKE, False)):
            metric.update(((side * 256).round() / 256 + shift).float(), real=real)
    one, other = near.interval(), far.interval()
    assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-4)


def test_batches_and_merging_do_not_matter(name):
    whole = inferred(filled(CASES[name]))
    if name != "reservoir":  # drawn again from both
        first, second = (CASES[name].make(feature=None) for _ in range(2))
        for metric, real, fake in ((first, REAL[:20], FAKE[:30]), (second, REAL[20:], FAKE[30:])):
            metric.update(fake, real=False)
            metric.update(real, real=True)
        first.merge_state(second)
        assert inferred(first) == whole

    metric = CASES[name].make(feature=None)
    for batch in itertools.chain(REAL.split(2), [REAL[:0]]):
        metric.update(batch, real=True)
    metric.update(FAKE, real=False)
    assert inferred(metric) == whole


def test_a_metric_goes_on_as_it_was(name):
    metric = filled(CASES[name])
    before, value = str(metric.metric_state), metric.compute()
    inferred(metric)
    if name == "reservoir" or str(metric.metric_state) == before:
        assert str(metric.compute()) == str(value)
    metric.update(FAKE[:1], real=False)
    again = filled(CASES[name])
    again.update(FAKE[:1], real=False)
    assert inferred(metric) == inferred(again)


def test_sorted_classes_are_shuffled_before_a_part_is_taken():
    """Both sides are the same classes: the first 500 of each would be of different ones."""
    size = 600
    low, high = torch.arange(size) < size // 2, torch.arange(size) >= size // 2
    generator = torch.Generator().manual_seed(3)
    real, fake = torch.randn(2, size, 2, generator=generator)
    metric = WassersteinFeatureDistance(feature=None, method="exact")
    metric.update(real + 9 * low[:, None], real=True)
    metric.update(fake + 9 * high[:, None], real=False)
    test = metric.test(19)
    assert test.sizes == (500, 500)
    assert test.pvalue > 0.1


@pytest.mark.parametrize("ask", ["interval", "test"])
@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (
            lambda: WassersteinFeatureDistance(feature=None, streaming=True),
            "WassersteinFeatureDistance has no .* without samples, .* streaming=False",
        ),
        (
            lambda: FrechetFeatureDistance(feature=None),
            "has no .* without samples, .*score_features",
        ),
        (
            lambda: WassersteinFeatureDistance(feature=None, method=MaxSliced()),
            "`method` must be .* for intervals and tests, got MaxSliced",
        ),
        (
            lambda: KernelFeatureDistance(feature=None, kernel="rbf"),
            "`kernel` must be \"polynomial\" for intervals and tests, got 'rbf'",
        ),
    ],
)
def test_what_has_no_inference_says_why(metric, message, ask):
    metric = metric()
    metric.update(REAL, real=True)
    metric.update(FAKE, real=False)
    with pytest.raises(ValueError, match=message):
        getattr(metric, ask)()


def test_arguments_and_samples_are_checked(name):
    metric = CASES[name].make(feature=None)
    metric.update(REAL[:3], real=True)
    for ask in (metric.interval, metric.test):
        with pytest.raises(ValueError, match="`fake` holds no samples"):
            ask()
    metric.update(FAKE, real=False)
    for wrong in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="`confidence_level`"):
            metric.interval(wrong)
    with pytest.raises(ValueError, match="`over` must be"):
        metric.interval(over="real")
    with pytest.raises(ValueError, match="`n_resamples`"):
        metric.test(0)


def test_too_few_samples_are_told():
    metric = PrecisionRecall(feature=None, num_neighbors=3)
    metric.update(REAL[:4], real=True)
    metric.update(FAKE, real=False)
    with pytest.raises(ValueError, match=r"`real` and `fake` must hold more samples .* got 4 and"):
        metric.interval()
    assert metric.test(3).keys() == {"precision", "recall"}
    few = PrecisionRecall(feature=None, num_neighbors=3)
    few.update(REAL[:3], real=True)
    few.update(FAKE, real=False)
    with pytest.raises(ValueError, match="`real` must"):
        few.test()
    kernel = KernelFeatureDistance(feature=None)
    kernel.update(REAL[:2], real=True)
    kernel.update(FAKE, real=False)
    with pytest.raises(ValueError, match="must hold more samples"):
        kernel.interval()
