"""Relabelled scores equal the scores of relabelled samples, and p-values hold their level."""

import contextlib
import itertools
import math

import numpy as np
import ot
import prdc
import pytest
import scipy.stats
import torch
from torch import Tensor

from otmetrics import Exact, Sinkhorn
from otmetrics.functional import (
    frechet_distance,
    kernel_distance,
    manifold_scores,
    random_directions,
    sinkhorn_divergence,
    sliced_wasserstein,
)
from otmetrics.inference import neighbours
from otmetrics.inference.labels import first_of_each, relabellings
from otmetrics.inference.neighbours import (
    manifold_of_labels,
    manifold_of_parts,
    neighbour_lists,
)
from otmetrics.inference.relabelled import (
    relabelled_exact,
    relabelled_frechet,
    relabelled_kernel,
    relabelled_sinkhorn,
    relabelled_sliced,
)
from otmetrics.inference.two_sample import TESTED, permutation_tests, two_sample_test

SIZES = [(60, 60, 3), (60, 45, 5), (30, 80, 20), (60, 30, 4), (90, 30, 3), (20, 60, 2)]


def pooled(n: int, m: int, dimension: int, num: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + m)
    pool = torch.randn(n + m, dimension, generator=generator, dtype=torch.float64)
    pool[n:] = 1.1 * pool[n:] + 0.2
    return pool, relabellings((n, m), [], num, 1)


def direct(score, pool: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([score(pool[real], pool[~real]) for real in labels])


def test_labels_keep_their_numbers_in_every_nested_part():
    sizes, nested = (90, 70), [20, 50]
    labels = relabellings(sizes, nested, 200, 3)
    assert labels.shape == (201, 160)
    assert bool((labels[0] == (torch.arange(160) < 90)).all())
    for most in (*nested, 90):
        places = first_of_each(sizes, most)
        assert bool((labels[:, places].sum(1) == min(most, 90)).all())
    # Each sample of a part is real as often as the share of reals in it says.
    shares = labels[1:, first_of_each(sizes, 20)].double().mean(0)
    assert float((shares - 0.5).abs().max()) < 5 * math.sqrt(0.25 / 200)
    assert bool((labels[1:] != labels[0]).any(1).all())


def test_labels_follow_the_seed_alone():
    first, again, other = (relabellings((20, 30), [10], 5, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("n", "m", "dimension"), SIZES)
def test_kernel(n, m, dimension):
    pool, labels = pooled(n, m, dimension)
    wanted = direct(kernel_distance, pool, labels)
    assert torch.allclose(relabelled_kernel(pool, labels), wanted, rtol=1e-10)


def test_kernel_far_from_the_origin():
    pool, labels = pooled(40, 30, 4)
    found = relabelled_kernel(pool + 300.0, labels)
    assert torch.allclose(found, direct(kernel_distance, pool + 300.0, labels), rtol=1e-6)


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
@pytest.mark.parametrize(("n", "m", "dimension"), SIZES)
def test_sliced(n, m, dimension, order):
    pool, labels = pooled(n, m, dimension)
    directions = random_directions(dimension, 20, generator=torch.Generator().manual_seed(0))
    found = relabelled_sliced(pool, labels, directions.T.contiguous(), order)
    wanted = direct(
        lambda x, y: sliced_wasserstein(x, y, directions=directions, order=order) ** order,
        pool,
        labels,
    )
    assert torch.allclose(found, wanted, rtol=1e-10)


def test_transport_as_pot_computes_it():
    pool, labels = pooled(30, 20, 3, num=4)
    directions = random_directions(3, 16, generator=torch.Generator().manual_seed(0))
    sliced = relabelled_sliced(pool, labels, directions.T.contiguous(), 2.0)
    exact = relabelled_exact(pool, labels, 2.0)
    for real, one, other in zip(labels, sliced, exact, strict=True):
        x, y = pool[real].numpy(), pool[~real].numpy()
        wanted = ot.sliced_wasserstein_distance(x, y, projections=directions.numpy())
        assert float(one) == pytest.approx(wanted**2, rel=1e-9)
        assert float(other) == pytest.approx(ot.emd2([], [], ot.dist(x, y)), rel=1e-9)


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize(("n", "m", "dimension"), [(30, 30, 3), (30, 20, 3)])
def test_exact(n, m, dimension, order):
    pool, labels = pooled(n, m, dimension)
    found = relabelled_exact(pool, labels, order)
    wanted = direct(lambda x, y: Exact(order=order).solve(x, y).cost, pool, labels)
    assert torch.allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("epsilon", [0.02, 0.05, 0.5])
@pytest.mark.parametrize(("n", "m", "dimension"), SIZES)
def test_sinkhorn(n, m, dimension, epsilon):
    """To the tolerance of its iterations, which is far below what labels change."""
    pool, labels = pooled(n, m, dimension, num=30)
    found = relabelled_sinkhorn(pool, labels, Sinkhorn(epsilon=epsilon))
    squared = torch.cdist(pool, pool).square()
    mean = float(squared.sum()) / (len(pool) * (len(pool) - 1))
    wanted = direct(
        lambda x, y: sinkhorn_divergence(x, y, epsilon=epsilon * mean, relative=False),
        pool,
        labels,
    )
    assert torch.allclose(found, wanted, rtol=0.02)
    assert np.corrcoef(found, wanted)[0, 1] > 0.99


@pytest.mark.parametrize(("n", "m", "dimension"), [(150, 150, 6), (200, 100, 3)])
def test_frechet_to_second_order(n, m, dimension):
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(n + m, dimension, generator=generator, dtype=torch.float64)
    labels = relabellings((n, m), [], 60, 1)
    found, wanted = relabelled_frechet(pool, labels), direct(frechet_distance, pool, labels)
    assert torch.allclose(found, wanted, rtol=0.1)
    assert np.corrcoef(found, wanted)[0, 1] > 0.99


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("lists", ["long", "short", "short, row by row"])
@pytest.mark.parametrize(("n", "m", "dimension"), SIZES)
def test_manifold(n, m, dimension, lists, repeated, monkeypatch):
    """Also from lists that end before the balls do, and where samples are repeated."""
    pool, labels = pooled(n, m, dimension)
    if repeated:
        pool[:10], pool[n : n + 5] = pool[10:20].clone(), pool[:5].clone()
    rarer = min(n, m) if lists == "long" else 10 * len(pool)
    monkeypatch.setattr(neighbours, "_FEW_ROWS", 1000 if "row" in lists else 32)
    found = manifold_of_labels(neighbour_lists(pool, 5, rarer), labels, 5)
    wanted = direct(lambda x, y: torch.stack(manifold_scores(x, y, num_neighbors=5)), pool, labels)
    assert torch.allclose(found, wanted, atol=1e-12)


def test_manifold_where_both_sides_lie_apart():
    """No fake is near a real sample: lists of the truth end before the balls do of no one, those
    of many labels in which one side is rare would; long ones are as long as that needs."""
    pool, labels = pooled(6, 120, 3)
    pool[:6] += 20.0
    lists = neighbour_lists(pool, 5, 6)
    found = manifold_of_labels(lists, labels, 5)
    wanted = direct(lambda x, y: torch.stack(manifold_scores(x, y, num_neighbors=5)), pool, labels)
    assert torch.allclose(found, wanted, atol=1e-12)


def test_manifold_as_prdc_computes_it():
    """It counts the border as outside: the k-th neighbours themselves, which are of the own side,
    so that without ties nothing differs."""
    pool, labels = pooled(60, 45, 5)
    found = manifold_of_labels(neighbour_lists(pool, 5, 45), labels, 5)
    for row, real in zip(found, labels, strict=True):
        with contextlib.redirect_stdout(None):
            wanted = prdc.compute_prdc(pool[real].numpy(), pool[~real].numpy(), nearest_k=5)
        assert row.tolist() == pytest.approx(
            [wanted[name] for name in ("precision", "recall", "density", "coverage")]
        )


def test_places_in_long_lists():
    assert neighbours._places(30_000) == torch.int16
    assert neighbours._places(40_000) == torch.int32


@pytest.mark.parametrize("spread", [0.3, 1.0])
@pytest.mark.parametrize("repeated", [False, True])
def test_manifold_of_parts(spread, repeated):
    """Also where all fakes are nearer to a real sample than any other real one."""
    generator = torch.Generator().manual_seed(1)
    real = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    fake = spread * torch.randn(45, 6, generator=generator, dtype=torch.float64)
    if repeated:
        real[:10], fake[:5] = real[10:20].clone(), real[:5].clone()
    kept = [torch.rand(20, size, generator=generator) < 0.5 for size in (60, 45)]
    found = manifold_of_parts(real, fake, 3, (kept[0], kept[1]))
    for row, a, b in zip(found, *kept, strict=True):
        wanted = manifold_scores(real[a], fake[b], num_neighbors=3)
        assert torch.allclose(row, torch.stack(wanted), atol=1e-12)


@pytest.mark.parametrize("kind", ["outlier", "heavy", "one point"])
def test_sinkhorn_of_hard_samples(kind):
    generator = torch.Generator().manual_seed(2)
    pool = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    if kind == "outlier":
        pool[0] = 1e3
    elif kind == "heavy":
        pool = pool / torch.randn(60, 1, generator=generator, dtype=torch.float64).abs()
    else:
        pool[:] = 1.0
    labels = relabellings((30, 30), [], 9, 0)
    found = relabelled_sinkhorn(pool, labels, Sinkhorn())
    assert bool(torch.isfinite(found).all())
    if kind == "outlier":  # beyond what scalings hold: as the solver computes it
        squared = torch.cdist(pool, pool).square()
        epsilon = 0.05 * float(squared.sum()) / (60 * 59)
        wanted = direct(
            lambda x, y: sinkhorn_divergence(x, y, epsilon=epsilon, relative=False), pool, labels
        )
        assert torch.allclose(found, wanted, rtol=0.02)
    if kind == "one point":
        assert float(found.abs().max()) == 0.0


def test_scores_that_are_no_numbers_have_no_test():
    real, fake = 1e60 * torch.randn(2, 20, 3, dtype=torch.float64)
    tests, joint = permutation_tests(real, fake, ("kernel_distance",), 9, 0)
    assert tests == {}
    assert joint == 1.0
    with pytest.raises(ValueError, match="scale both clouds down"):
        two_sample_test(real * 1e-12, fake * 1e-12, statistic="kernel_distance", n_resamples=9)


def of_all_labels(score, pool: Tensor, num_real: int):
    """SciPy's test with all labels there are, which it deals to places in the pool."""
    places = np.arange(len(pool))
    return scipy.stats.permutation_test(
        (places[:num_real], places[num_real:]),
        lambda x, y: float(score(pool[x.astype(int).tolist()], pool[y.astype(int).tolist()])),
        n_resamples=np.inf,
        alternative="greater",
    )


def test_the_same_as_scipy():
    """SciPy goes through its own labels: with all of them both have the same distribution."""
    generator = torch.Generator().manual_seed(1)
    real = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    fake = torch.randn(4, 2, generator=generator, dtype=torch.float64) + 1
    everything = of_all_labels(kernel_distance, torch.cat([real, fake]), 5)
    found = two_sample_test(real, fake, statistic="kernel_distance", n_resamples=4000, rng=1)
    assert found.statistic == pytest.approx(everything.statistic, rel=1e-9)
    exact = float(everything.pvalue)
    assert abs(found.pvalue - exact) < 5 * math.sqrt(exact * (1 - exact) / 4000) + 1e-3
    # Every relabelled score is one of the 126 that there are.
    wanted = torch.from_numpy(np.asarray(everything.null_distribution))
    apart = (found.null_distribution[:, None] - wanted).abs().amin(1)
    assert float(apart.max()) < 1e-9 * float(wanted.abs().max())


def test_all_labels_as_scipy_goes_through_them():
    pool = torch.randn(9, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    directions = random_directions(2, 8, generator=torch.Generator().manual_seed(0))

    everything = of_all_labels(
        lambda x, y: sliced_wasserstein(x, y, directions=directions) ** 2, pool, 5
    )
    chosen = list(itertools.combinations(range(9), 5))
    labels = torch.zeros(len(chosen), 9, dtype=torch.bool)
    labels[torch.arange(len(chosen))[:, None], torch.tensor(chosen)] = True
    found = relabelled_sliced(pool, labels, directions.T.contiguous(), 2.0)
    assert sorted(found.tolist()) == pytest.approx(sorted(everything.null_distribution), rel=1e-9)
    assert float((found >= found[0] * (1 - 1e-9)).double().mean()) == everything.pvalue


@pytest.mark.parametrize("statistic", ["precision", "recall", "coverage"])
def test_ties_are_told_apart_by_the_density(statistic):
    """Of 30 samples a share has few values, and with ties as they are a test hardly rejects."""
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 30, 3, generator=generator)
    shares = []
    for seed in range(40):
        order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
        sides = torch.cat([real, fake])[order].split(30)
        shares.append(two_sample_test(*sides, statistic=statistic, n_resamples=99).pvalue)
    found = two_sample_test(real, fake, statistic=statistic, n_resamples=99)
    assert len(found.null_distribution.unique()) < 30
    assert 0.3 < sum(shares) / 40 < 0.7


@pytest.mark.parametrize(("n", "m"), [(24, 24), (30, 18)])
def test_level(n, m):
    """Of 120 pairs of samples of one distribution at most 5 % and what chance adds are told
    apart, by each score and by the smallest of all p-values."""
    generator = torch.Generator().manual_seed(n)
    hits, repetitions = dict.fromkeys((*TESTED, "any"), 0), 120
    for seed in range(repetitions):
        real = torch.randn(n, 3, generator=generator)
        fake = torch.randn(m, 3, generator=generator)
        # Exact transport between different sizes takes a simplex for each label.
        names = TESTED if n == m else [name for name in TESTED if name != "wasserstein"]
        tests, joint = permutation_tests(real, fake, names, 39, seed)
        hits["any"] += joint <= 0.05
        for name, test in tests.items():
            hits[name] += test.pvalue <= 0.05
    most = 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / repetitions)
    shares = {name: count / repetitions for name, count in hits.items()}
    assert max(shares.values()) < most, shares
    assert min(shares[name] for name in tests) > 0, shares


@pytest.mark.parametrize("statistic", TESTED)
def test_what_differs_is_seen(statistic):
    generator = torch.Generator().manual_seed(5)
    real = torch.randn(80, 4, generator=generator)
    fake = 0.3 * torch.randn(70, 4, generator=generator) + 0.4
    found = two_sample_test(real, fake, statistic=statistic, n_resamples=99)
    assert found.pvalue <= 0.02
    assert found.null_distribution.shape == (99,)
    assert found.sizes == (80, 70)
    again = two_sample_test(real, fake, statistic=statistic, n_resamples=99)
    assert again.pvalue == found.pvalue
    assert torch.equal(again.null_distribution, found.null_distribution)


def test_loss_of_diversity_raises_precision_above_its_null():
    """So both tails count."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(100, 20, generator=generator)
    fake = 0.5 * torch.randn(100, 20, generator=generator)
    found = two_sample_test(real, fake, statistic="precision", n_resamples=199)
    assert found.statistic > float(found.null_distribution.max())
    assert found.pvalue <= 0.01


def test_limited_scores_see_the_first_samples_of_each_side():
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 700, 2, generator=generator)
    tests, _ = permutation_tests(real, fake, ("wasserstein", "kernel_distance"), 9, 0)
    assert tests["wasserstein"].sizes == (500, 500)
    wanted = float(Exact().solve(real[:500], fake[:500]).value)
    assert tests["wasserstein"].statistic == pytest.approx(wanted, rel=1e-6)
    assert tests["kernel_distance"].sizes == (700, 700)
    wanted = float(kernel_distance(real.double(), fake.double()))
    assert tests["kernel_distance"].statistic == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"statistic": "fid"}, "`statistic` must be one of sliced_wasserstein"),
        ({"n_resamples": 0}, "`n_resamples` must be an integer >= 1"),
        ({"rng": -1}, "`rng` must be an integer >= 0"),
        ({"statistic": "recall", "num_neighbors": 9}, "`real` must hold at least 10 sample"),
        ({"alternative": "less"}, "no option `alternative`"),
    ],
)
def test_refused(options, words):
    real, fake = torch.randn(2, 8, 3)
    with pytest.raises((ValueError, TypeError), match=words):
        two_sample_test(real, fake, **options)
