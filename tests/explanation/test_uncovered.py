"""Clusters are those of the samples; missing and crowded ones are found, with honest intervals."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from otmetrics.explanation.clusters import (
    adjusted_rand_index,
    along_axes,
    cluster_centres,
    find_clusters,
)
from otmetrics.explanation.shares import ratio_interval
from otmetrics.explanation.uncovered import find_uncovered


def islands(sizes: list[int], seed: int = 0, dimension: int = 6) -> tuple[Tensor, Tensor]:
    """Samples (n, D) of islands far apart, and the island of each, in random order."""
    generator = torch.Generator().manual_seed(seed)
    centres = 20 * torch.eye(len(sizes), dimension, dtype=torch.float64)
    which = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    which = which[torch.randperm(len(which), generator=generator)]
    spread = torch.randn(len(which), dimension, generator=generator, dtype=torch.float64)
    return centres[which] + spread, which


def test_clusters_are_islands_from_the_largest_down():
    real, which = islands([300, 40, 160])
    fake, which_fake = islands([10, 20, 30], 1)
    found = find_clusters(real, fake, num_clusters=3)
    place = torch.tensor([0, 2, 1])
    assert (found.real == place[which]).all()
    assert (found.fake == place[which_fake]).all()
    assert int(found.held_out.sum()) == 250
    for cluster, medoid in enumerate(found.medoids.tolist()):
        rows = real[found.real == cluster]
        own = (real[medoid] - rows.mean(0)).norm()
        assert own <= (rows - rows.mean(0)).norm(dim=1).quantile(0.05)


def test_one_seed_decides_all_whatever_the_fakes_and_threads():
    real, _ = islands([200, 200], dimension=80)
    fake, _ = islands([50, 50], 1, dimension=80)
    threads = torch.get_num_threads()
    first = find_clusters(real, fake, seed=3)
    try:
        torch.set_num_threads(3)
        again = find_clusters(real, fake.flip(0), seed=3)
    finally:
        torch.set_num_threads(threads)
    assert (first.real == again.real).all()
    assert (first.medoids == again.medoids).all()
    assert (first.fake == again.fake.flip(0)).all()
    assert (first.held_out != find_clusters(real, fake, seed=4).held_out).any()


def test_fewer_clusters_where_there_is_little_to_see():
    real, fake = torch.randn(90, 3, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)
    assert len(find_clusters(real, fake).medoids) <= 4
    # Three different samples, and one.
    few = torch.arange(3.0).repeat(200)[:, None]
    assert len(find_clusters(few, few).medoids) == 3
    one = find_clusters(torch.ones(500, 2), torch.ones(3, 2))
    assert len(one.medoids) == 1
    assert not one.fake.any()
    assert len(find_clusters(torch.tensor([[0.0], [1.0]]), fake[:, :1].float()).medoids) == 1


@pytest.mark.parametrize("shape", [(200, 90), (90, 200), (50_000, 90)])
def test_axes_are_principal(shape):
    cloud = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cloud *= torch.linspace(0.1, 3, shape[1])
    (found,) = along_axes(cloud, cloud)
    values = torch.linalg.svdvals(cloud - cloud.mean(0))[:64]
    torch.testing.assert_close(found.norm(dim=0).flip(0), values)


def test_centres_are_better_than_any_start():
    points, _ = islands([50, 50, 50, 50])
    centres = cluster_centres(points, 4, 0)
    assert float(torch.cdist(points, centres).amin(1).square().mean()) < 7


def test_missing_and_crowded_islands_are_found():
    real, which = islands([400, 400, 400, 400])
    fake, which_fake = islands([400, 800, 12, 400], 1)
    clusters = find_clusters(real, fake, num_clusters=4)
    found = find_uncovered(real, fake, clusters=clusters)
    (gap,), (crowd, *_) = found.gaps, found.crowded
    assert which[gap.medoid] == 2
    assert which[crowd.medoid] == 1
    assert (found.clusters, found.real, found.fake, found.rate) == (4, 800, 1612, 0.1)

    held_out = int((which[clusters.held_out] == 2).sum())
    assert (gap.real, gap.fake) == (held_out, 12)
    assert gap.ratio == pytest.approx(12 / 1612 / (held_out / 800))
    assert gap.low < gap.ratio < gap.high < 0.1
    table = [[held_out, 12], [800 - held_out, 1600]]
    assert gap.pvalue == pytest.approx(scipy.stats.fisher_exact(table).pvalue)
    assert crowd.low > 1.5

    number = len(found.gaps) + len(found.crowded)
    wanted = ratio_interval((gap.real, gap.fake), (800, 1612), 1 - 0.05 * number / 4)
    assert (gap.low, gap.high) == pytest.approx(wanted)

    distances = torch.cdist(real[gap.medoid : gap.medoid + 1], fake)[0]
    assert gap.nearest_fake == int(distances.argmin())
    assert gap.distance == pytest.approx(float(distances.min()))
    others = torch.cdist(real[gap.medoid : gap.medoid + 1], real)[0]
    assert gap.usual == pytest.approx(float(others.sort().values[1]))
    assert all(which[row] == 2 for row in gap.examples)
    assert len(set(gap.examples)) == 8
    assert all(which_fake[row] == 2 for row in gap.fakes)
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_examples_that_no_fake_is_near_come_first():
    real, which = islands([200, 200])
    fake, _ = islands([200, 200], 1)
    cut = real[which == 1, 0].median()
    # Of the second island fakes fill one half, sparsely.
    inside = (fake[:, 1] > 10) & (fake[:, 0] < cut)
    fake = fake[(fake[:, 1] < 10) | (inside & (inside.cumsum(0) <= 50))]
    (gap,) = find_uncovered(real, fake, clusters=find_clusters(real, fake, num_clusters=2)).gaps
    examples = real[list(gap.examples)]
    balls = torch.cdist(examples, real).sort(1).values[:, 5]
    covered = torch.cdist(examples, fake).amin(1) <= balls
    assert not covered.any()
    around = torch.cdist(real[gap.medoid : gap.medoid + 1], real)[0].argsort()[:8].tolist()
    assert set(around) != set(gap.examples)


def test_centres_without_a_point_are_dropped(monkeypatch):
    centres = np.array([[0.0], [500.0], [10.0]])
    monkeypatch.setattr(
        "otmetrics.explanation.clusters.kmeans2", lambda *_, **__: (centres, np.zeros(40))
    )
    points = torch.cat([torch.zeros(10), 10 + torch.arange(30.0) / 100])[:, None]
    assert cluster_centres(points, 3, 0).flatten().tolist() == [10.0, 0.0]


def test_an_island_without_fakes_and_one_of_fakes_alone():
    real, which = islands([300, 300, 300, 12])
    fake, _ = islands([300, 300, 0, 300], 1)
    clusters = find_clusters(real, fake, num_clusters=4)
    # As if all of the small island were in the half that clusters were made on.
    clusters = clusters._replace(held_out=clusters.held_out & (which != 3))
    found = find_uncovered(real, fake, clusters=clusters)
    (gap,) = (one for one in found.gaps if one.fake == 0)
    assert (gap.ratio, gap.low, gap.fakes) == (0.0, 0.0, ())
    assert 0 < gap.high < 0.05
    crowd = found.crowded[0]
    assert (crowd.real, crowd.ratio, crowd.high) == (0, None, None)
    assert crowd.low > 40
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_of_one_distribution_nothing_is_found_most_of_the_time():
    lists = []
    for seed in range(40):
        (real, _), (fake, _) = islands([200, 200], 2 * seed), islands([200, 200], 2 * seed + 1)
        generator = torch.Generator().manual_seed(seed)  # as many of each, but by chance
        fake = fake[torch.randint(400, (400,), generator=generator)]
        found = find_uncovered(real, fake, clusters=find_clusters(real, fake, seed=seed))
        lists.append(len(found.gaps) + len(found.crowded))
    assert np.mean([number > 0 for number in lists]) <= 0.15


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.0, 2.0])
def test_intervals_hold_the_ratio(share, ratio):
    rng = np.random.default_rng(0)
    sizes = 150, 300
    held = []
    for real, fake in zip(
        rng.binomial(sizes[0], share, 1000),
        rng.binomial(sizes[1], share * ratio, 1000),
        strict=True,
    ):
        low, high = ratio_interval((int(real), int(fake)), sizes)
        held.append(low <= ratio and (high is None or ratio <= high))
    assert np.mean(held) >= 0.93


def test_what_cannot_be_is_told():
    real, fake = torch.randn(30, 2), torch.randn(20, 2)
    with pytest.raises(ValueError, match="`real` must hold at least 2 samples"):
        find_clusters(real[:1], fake)
    with pytest.raises(ValueError, match="`num_clusters`"):
        find_clusters(real, fake, num_clusters=0)
    with pytest.raises(ValueError, match="`clusters` must be of these 30 real and 20 fake"):
        find_uncovered(real, fake, clusters=find_clusters(real, fake[:5]))
    with pytest.raises(ValueError, match="`rate`"):
        find_uncovered(real, fake, clusters=find_clusters(real, fake), rate=0)


def test_agreement_is_the_adjusted_rand_index():
    """Of five samples: pairs together in both, in either, and what chance gives."""
    first, second = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 1, 1])
    pairs = list(itertools.combinations(range(5), 2))
    same = [[bool(side[i] == side[j]) for i, j in pairs] for side in (first, second)]
    both = sum(a and b for a, b in zip(*same, strict=True))
    chance = sum(same[0]) * sum(same[1]) / len(pairs)
    wanted = (both - chance) / ((sum(same[0]) + sum(same[1])) / 2 - chance)
    assert adjusted_rand_index(first, second) == pytest.approx(wanted)
    assert adjusted_rand_index(first, 1 - first) == 1.0
    assert adjusted_rand_index(torch.zeros(4, dtype=torch.int64), torch.zeros(4).long()) == 1.0
    generator = torch.Generator().manual_seed(0)
    sides = torch.randint(4, (2, 4000), generator=generator)
    assert adjusted_rand_index(*sides) == pytest.approx(0, abs=0.01)


def test_islands_are_stable_and_slices_of_one_are_not():
    real, _ = islands([300, 300, 300, 300])
    fake, _ = islands([10, 10], 1)
    stable = find_clusters(real, fake, num_clusters=4)
    assert stable.agreement == pytest.approx(1)
    assert find_uncovered(real, fake, clusters=stable).agreement == stable.agreement
    one, _ = islands([1200])
    assert find_clusters(one, fake, num_clusters=12).agreement < 0.6
