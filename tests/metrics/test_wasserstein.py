"""The Wasserstein metric: its results, options and streams; the others' own rules."""

import pytest
import torch
from cases import cloud
from metric_cases import CASES, FAKE, IS_REAL, REAL, TOGETHER, expected, filled

from otmetrics import (
    ConvergenceWarning,
    DensityCoverage,
    Exact,
    FrechetFeatureDistance,
    KernelFeatureDistance,
    MaxSliced,
    PrecisionRecall,
    SemiDiscrete,
    Sinkhorn,
    Sliced,
    WassersteinFeatureDistance,
    score_features,
)
from otmetrics.functional import random_directions
from otmetrics.transport.sliced.directions import direction_generator

SCORES = {
    "sliced_wasserstein": {},
    "wasserstein": {"method": "exact"},
    "sinkhorn_divergence": {"method": "sinkhorn"},
}


@pytest.mark.parametrize("name", SCORES)
def test_the_methods_are_the_scores(name):
    """One seed, one number, here and in `otmetrics score`."""
    metric = WassersteinFeatureDistance(feature=None, **SCORES[name])
    metric.update(TOGETHER, IS_REAL)
    score = score_features(REAL, FAKE).scores[name]
    value = metric.result().cost if name == "sinkhorn_divergence" else metric.compute()
    assert value.item() == pytest.approx(score.value, rel=1e-12)


def test_the_other_metrics_are_the_scores():
    report = score_features(REAL, FAKE).scores
    for metric, names in (
        (FrechetFeatureDistance(feature=None), ["frechet_distance"]),
        (KernelFeatureDistance(feature=None), ["kernel_distance"]),
        (PrecisionRecall(feature=None), ["precision", "recall"]),
        (DensityCoverage(feature=None), ["density", "coverage"]),
    ):
        metric.update(TOGETHER, IS_REAL)
        value = metric.compute()
        for name in names:
            found = value[name] if isinstance(value, dict) else value
            assert found.item() == pytest.approx(report[name].value, rel=1e-9)


def test_result_is_all_that_the_solver_knows():
    metric = filled(CASES["exact"])
    result = metric.result()
    assert result.plan.shape == (41, 37)
    assert result.lower_bound <= result.cost <= result.upper_bound
    assert metric.compute() == result.value
    assert metric.result() is result
    metric.update(FAKE, real=False)
    assert metric.result().plan.shape == (41, 74)
    metric.reset()
    with pytest.raises(ValueError, match="`real` holds no samples"):
        metric.result()
    assert filled(CASES["sliced"]).result().standard_error > 0


def test_the_largest_slice():
    solver = MaxSliced(num_starts=2, seed=3)
    metric = WassersteinFeatureDistance(feature=None, method=solver)
    metric.update(TOGETHER, IS_REAL)
    solved = solver.solve(REAL, FAKE)
    assert metric.compute() == solved.value
    assert metric.result().lower_bound == solved.result.lower_bound
    assert metric(TOGETHER, IS_REAL) == solved.value


@pytest.mark.parametrize("cached", [True, False])
def test_result_and_compute_solve_once(cached):
    calls = []

    class Solver:
        def solve(self, real, fake):
            calls.append(len(fake))
            return Exact().solve(real, fake)

    metric = WassersteinFeatureDistance(feature=None, method=Solver(), compute_with_cache=cached)
    metric.update(TOGETHER, IS_REAL)
    metric.compute()
    metric.result()
    assert len(calls) == (1 if cached else 2)
    metric(TOGETHER[30:], IS_REAL[30:])
    assert len(metric.result().potentials[1]) == 74
    metric.to("cpu")  # what lies on the old device is solved for again
    metric.result()
    assert calls[-1] == 74


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "emd"}, "`method` must be 'sliced', 'exact', 'sinkhorn' or a solver"),
        ({"method": "Sinkhorn"}, "got 'Sinkhorn': did you mean 'sinkhorn'"),
        ({"method": Sliced}, "`method` must be .*: did you mean 'sliced'"),
        ({"method": None}, "`method` must be"),
        ({"method": SemiDiscrete()}, "`method` must be .* got SemiDiscrete"),
        ({"num_projections": 64}, r"give method=otmetrics.Sliced\(num_projections=64\)"),
        ({"epsilon": 0.1}, r"give method=otmetrics.Sinkhorn\(epsilon=0.1\)"),
        ({"num_starts": 3}, r"give method=otmetrics.MaxSliced\(num_starts=3\)"),
        ({"max_samples": 1}, "`max_samples` must be an integer >= 2, got 1"),
        ({"max_samples": 5, "seed": -1}, "`seed` must be an integer >= 0"),
        (
            {"streaming": True, "method": "exact"},
            '`streaming` must be False unless `method` is "sl',
        ),
        ({"streaming": True, "max_samples": 9}, "`max_samples` must be None with streaming"),
        (
            {"streaming": True, "method": Sliced(tolerance=0.1)},
            "`method` must have neither `debiased` nor",
        ),
        (
            {"streaming": True, "method": Sliced(debiased=True)},
            "`method` must have neither `debiased` nor",
        ),
        ({"streaming": "yes"}, "`streaming` must be True or False, got 'yes'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        WassersteinFeatureDistance(feature=None, **options)


def test_bad_options_of_the_others():
    with pytest.raises(ValueError, match="`kernel` must be"):
        KernelFeatureDistance(feature=None, kernel="linear")
    with pytest.raises(ValueError, match='`bandwidth` belongs to the "rbf" kernel'):
        KernelFeatureDistance(feature=None, bandwidth=1.0)
    with pytest.raises(ValueError, match="`num_neighbors` must be an integer >= 1"):
        PrecisionRecall(feature=None, num_neighbors=0)


def test_too_few_samples():
    for metric, message in (
        (FrechetFeatureDistance(feature=None), "`fake` must hold at least 2 samples, got 1"),
        (KernelFeatureDistance(feature=None), r"`fake` must hold at least 2 sample\(s\), got 1"),
        (PrecisionRecall(feature=None), "`fake` must hold at least 6 samples for num_neighbors"),
    ):
        metric.update(REAL, real=True)
        metric.update(FAKE[:1], real=False)
        with pytest.raises(ValueError, match=message):
            metric.compute()


def test_the_seed_decides():
    values = {}
    for seed in (0, 0, 1):
        metric = WassersteinFeatureDistance(feature=None, seed=seed, max_samples=9)
        metric.update(TOGETHER, IS_REAL)
        values.setdefault(seed, set()).add(metric.compute().item())
    assert len(values[0]) == 1
    assert values[0] != values[1]


def test_a_reservoir_stays_small():
    metric = WassersteinFeatureDistance(feature=None, max_samples=10)
    metric.update(cloud(400, 3), real=True)
    assert sum(map(len, metric.real_features)) == 10
    metric.reset()
    for batch in cloud(500, 3).split(7):
        metric.update(batch, real=True)
        assert sum(map(len, metric.real_features)) <= 20 + 7
    metric.update(FAKE[:, :3], real=False)
    metric.compute()
    assert metric.protocol["sizes"] == {"real": 500, "fake": 37}


def size_of(metric) -> int:
    states = metric.metric_state.values()
    tensors = [t for state in states for t in (state if isinstance(state, list) else [state])]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_a_stream_of_any_length_fits():
    """1024 directions, more samples than are ever kept, and the same bytes at every length."""
    metric = WassersteinFeatureDistance(feature=None, streaming=True)
    sizes = set()
    for seed in range(4):
        metric.update(cloud(2000, 16, seed=seed), real=True)
        metric.update(cloud(2000, 16, seed=-1 - seed) + seed, real=False)
        sizes.add(size_of(metric))
    assert len(sizes) == 1
    assert max(sizes) < 40e6


@pytest.mark.parametrize(
    ("kind", "scale"), [("shifted", 1.0), ("scaled", 1.0), ("one law", 1.0), ("one law", 1e-6)]
)
def test_a_stream_errs_by_less_than_one_percent(kind, scale):
    """N = 100 000 against the exact sliced distance, and inside its own bounds.

    Two samples of one law are the smallest distance there is at this N.
    """
    real, fake = cloud(100_000, 4, seed=1) * scale, cloud(100_000, 4, seed=2) * scale
    fake = {"shifted": fake + scale, "scaled": 1.2 * fake, "one law": fake}[kind]
    solver = Sliced(num_projections=16)
    metric = WassersteinFeatureDistance(feature=None, method=solver, streaming=True)
    metric.update(real, real=True)
    for batch in fake.split(20_000):
        metric.update(batch, real=False)
    exact = solver.solve(real, fake)
    assert metric.compute().item() == pytest.approx(exact.value.item(), rel=0.01)
    result = metric.result()
    assert result.lower_bound <= exact.cost <= result.upper_bound
    assert result.standard_error.item() == pytest.approx(exact.standard_error.item(), rel=0.05)


def test_moments_lose_nothing_where_the_mean_is_far():
    """|mean| = 1e6 standard deviations, and many small batches."""
    real, fake = cloud(400, 5, seed=1), cloud(300, 5, seed=2) * 1.5
    metric = FrechetFeatureDistance(feature=None)
    for batch in (real + 1e6).split(7):
        metric.update(batch, real=True)
    for batch in (fake + 1e6).split(11):
        metric.update(batch, real=False)
    near = FrechetFeatureDistance(feature=None)
    near.update(real, real=True)
    near.update(fake, real=False)
    assert metric.compute().item() == pytest.approx(near.compute().item(), rel=1e-7)
    assert metric.real_num_samples.dtype == torch.int64
    assert metric.real_scatter.dtype == torch.float64


def test_no_convergence_is_said():
    metric = WassersteinFeatureDistance(
        feature=None, method=Sinkhorn(epsilon=1e-3, max_iterations=2)
    )
    metric.update(TOGETHER, IS_REAL)
    with pytest.warns(ConvergenceWarning, match="raise `max_iterations`"):
        metric.compute()
    assert not metric.result().converged


def test_directions_of_a_stream_are_those_of_the_solver():
    metric = filled(CASES["streaming"])
    directions = random_directions(REAL.shape[1], 40, generator=direction_generator(3))
    exact = Sliced().solve(REAL, FAKE, directions=directions)
    result = metric.result()
    assert result.lower_bound <= exact.cost <= result.upper_bound
    assert metric.compute() == expected(CASES["streaming"])
