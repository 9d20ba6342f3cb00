"""Directions carry the cost that they are said to carry; noise is not taken for a difference."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from otmetrics.explanation.directions import (
    described_directions,
    excess_axes,
    widest_direction,
)
from otmetrics.explanation.pairs import optimal_pairs
from otmetrics.explanation.plane import cluster_nodes, transport_plane


def sides(num: int, dimension: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, num, dimension, generator=generator, dtype=torch.float64)


def matrix(pairs) -> torch.Tensor:
    return (pairs.moves * pairs.masses[:, None]).T @ pairs.moves


@pytest.mark.parametrize(("dimension", "count"), [(5, 3), (6, 6), (40, 4)])
def test_axes_are_the_eigenvectors_of_the_excess(dimension, count):
    real, other, fake = sides(60, dimension)
    fake = fake * torch.linspace(0.5, 2, dimension, dtype=torch.float64)
    pairs, floor = optimal_pairs(real, fake), optimal_pairs(real, other)
    axes = excess_axes(pairs, floor, count)
    wanted = torch.linalg.eigvalsh(matrix(pairs) - matrix(floor)).flip(0)[:count]
    above = pairs.cost - floor.cost
    torch.testing.assert_close(axes.excess * above, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        axes.vectors.T @ axes.vectors, torch.eye(count, dtype=torch.float64), rtol=0, atol=1e-9
    )
    along = ((axes.vectors.T @ matrix(pairs)) * axes.vectors.T).sum(1)
    torch.testing.assert_close(axes.shares, along / pairs.cost, rtol=1e-9, atol=0)


def test_shares_of_a_whole_basis_are_all_of_the_cost():
    real, other, fake = sides(50, 4)
    axes = excess_axes(optimal_pairs(real, fake + 1), optimal_pairs(real, other), 4)
    assert float(axes.shares.sum()) == pytest.approx(1)
    assert float(axes.excess.sum()) == pytest.approx(1)


def test_a_shift_is_found_and_fake_lies_on_its_larger_side():
    real, other, fake = sides(300, 20)
    fake[:, 7] += 3
    axes = excess_axes(optimal_pairs(real, fake), optimal_pairs(real, other), 3)
    assert float(axes.vectors[7, 0]) > 0.99
    assert float(axes.excess[0]) > 0.8


def test_described_by_quantiles_and_attributes():
    real, other, fake = sides(200, 6)
    fake[:, 2] += 4
    axes = excess_axes(optimal_pairs(real, fake), optimal_pairs(real, other), 2)
    bright = (real[:, 2].numpy(), fake[:, 2].numpy().copy())
    bright[1][:50] = np.nan
    generator = np.random.default_rng(0)
    looks = {"noise": tuple(generator.standard_normal((2, 200))), "bright": bright}
    first, _ = described_directions(axes, real, fake, looks)
    name, value = first.attributes[0]
    line = [cloud @ axes.vectors[:, 0] for cloud in (real, fake)]
    known = np.isfinite(np.concatenate(bright))
    wanted = spearmanr(torch.cat(line).numpy()[known], np.concatenate(bright)[known]).statistic
    assert name == "bright"
    assert value == pytest.approx(wanted)
    order = line[1].argsort()
    assert first.fake == tuple(order[[2, 50, 100, 149, 197]].tolist())


def test_one_value_has_no_correlation():
    real, other, fake = sides(30, 3)
    axes = excess_axes(optimal_pairs(real, fake), optimal_pairs(real, other), 1)
    (first,) = described_directions(axes, real, fake, {"flat": (np.ones(30), np.ones(30))})
    assert first.attributes == ()


def test_the_widest_direction_is_tested_on_samples_that_did_not_choose_it():
    """Of 40 directions of noise the widest looks wide on the half that chose it, and not beyond."""
    pvalues = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        a, b, c, d = torch.randn(4, 30, 40, generator=generator, dtype=torch.float64)
        found = widest_direction((a, b), (c, d), seed)
        assert found.found > 2 * found.held_out
        pvalues.append(found.pvalue)
    # Of 40 p-values of level 5 % more than 6 are below it once in a thousand times.
    assert sum(value <= 0.05 for value in pvalues) <= 6


def test_a_difference_is_seen_on_held_out_samples():
    real, other, fake = sides(100, 10)
    fake = fake + torch.eye(10, dtype=torch.float64)[3]
    found = widest_direction((real[:50], fake[:50]), (other[:50], fake[50:]), 0)
    assert found.pvalue == pytest.approx(1 / 200)
    assert found.held_out == pytest.approx(1, abs=0.4)


def test_the_plane_shows_samples_along_the_axes():
    real, other, fake = sides(500, 5)
    fake[:, 1] += 2
    pairs, floor = optimal_pairs(real, fake), optimal_pairs(real, other)
    axes = excess_axes(pairs, floor, 2)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    plane = transport_plane(real, fake, axes, (pairs, torch.arange(500), torch.arange(500)), floor)
    assert plane.rows[1] == tuple(range(400))
    assert set(range(400)) <= set(plane.rows[0])
    for cloud, rows, shown in zip((real, fake), plane.rows, (plane.real, plane.fake), strict=True):
        along = (cloud[list(rows)] - real.mean(0)) @ axes.vectors
        torch.testing.assert_close(torch.tensor(shown, dtype=torch.float64), along)
    # Of a plan between samples in another order the rows are those of the clouds.
    found = optimal_pairs(real[order], fake[order])
    moved = transport_plane(real, fake, axes, (found, order, order), floor)
    assert set(moved.rows[1]) == set(order[:400].tolist())
    partners = dict(zip(pairs.fake.tolist(), pairs.real.tolist(), strict=True))
    assert all(partners[y] == x for x, y in moved.moves)


def test_moves_of_the_plane_are_those_that_are_longer_than_between_real_samples():
    """A tenth of the fakes lies far away along one axis: these are moved, and hardly others."""
    real, other, fake = sides(300, 6)
    fake[:30, 4] += 8
    pairs, floor = optimal_pairs(real, fake), optimal_pairs(real, other)
    axes = excess_axes(pairs, floor, 2)
    every = torch.arange(300)
    plane = transport_plane(real, fake, axes, (pairs, every, every), floor)
    fakes = [y for _, y in plane.moves]
    assert set(range(30)) <= set(fakes)
    assert len(fakes) <= 40
    places = (plane.real, plane.fake)
    ends = [dict(zip(*one, strict=True)) for one in zip(plane.rows, places, strict=True)]
    lengths = [math.dist(ends[0][x], ends[1][y]) for x, y in plane.moves]
    assert lengths == sorted(lengths, reverse=True)
    none = transport_plane(real, other, axes, (floor, every, every), floor)
    assert len(none.moves) == 3  # of 300
    chance = axes._replace(excess=None)
    assert transport_plane(real, fake, chance, (pairs, every, every), floor).moves == ()


def test_nodes_of_a_plane_keep_their_distances():
    centres = torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 4, 0]], dtype=torch.float64)
    of_real = torch.tensor([0, 0, 1, 2])
    nodes = cluster_nodes(list("abc"), centres[of_real], of_real, torch.tensor([1, 1, 1, 2]))
    places = torch.tensor([one.place for one in nodes], dtype=torch.float64)
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(centres, centres))
    assert [(one.real, one.fake) for one in nodes] == [(0.5, 0.0), (0.25, 0.75), (0.25, 0.25)]
