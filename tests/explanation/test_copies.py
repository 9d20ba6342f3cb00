"""Planted copies are found, and next to nothing among honest samples; statistics are as defined."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from otmetrics.explanation.copies import copying_test, difference_interval, find_copies


def drawn(num: int, dimension: int = 10, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, dimension, generator=generator, dtype=torch.float64)


def sides(seed: int, dimension: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    return (
        drawn(200, dimension, 3 * seed),
        drawn(150, dimension, 3 * seed + 1),
        drawn(400, dimension, 3 * seed + 2),
    )


@pytest.mark.parametrize("noise", [0.0, 1e-9, 0.2])
def test_planted_copies_are_found(noise):
    real, fake, train = sides(0)
    fake[:15] = train[100:115] + noise * drawn(15, seed=9)
    found = find_copies(real, fake, train=train)
    planted = {(row, 100 + row) for row in range(15)}
    pairs = {(one.fake, one.train) for one in found.rows}
    assert pairs >= planted
    assert len(pairs - planted) <= 4
    ratios = [one.ratio for one in found.rows]
    assert ratios == sorted(ratios)
    assert found.number == len(ratios)
    assert all(one.ratio < 0.6 * found.usual for one in found.rows if one.fake < 15)

    near = torch.cdist(fake[:1], train)[0].sort().values
    first = next(one for one in found.rows if one.fake == 0)
    assert first.ratio == pytest.approx(float(near[0] / near[1:50].mean()), abs=1e-9)
    assert first.pvalue == 1 / 201
    assert found.shared == ()
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_a_single_duplicate_is_listed():
    """Its p-value is too large for a list of many; it is one all the same."""
    real, fake, train = sides(1)
    fake[70] = train[3] + 1e-6
    found = find_copies(real, fake, train=train)
    assert [(one.fake, one.train) for one in found.rows] == [(70, 3)]


@pytest.mark.parametrize("dimension", [1, 2, 40])
def test_of_one_distribution_nothing_is_found_most_of_the_time(dimension):
    found = []
    for seed in range(40):
        real, fake, train = sides(seed, dimension)
        found.append(find_copies(real, fake, train=train, num_permutations=99))
    assert np.mean([one.number > 0 for one in found]) <= 0.1
    assert np.mean([len(one.shared) > 0 for one in found]) <= 0.05
    assert np.mean([one.c_t_pvalue <= 0.1 for one in found]) <= 0.2
    held = [one.difference[0] <= 0 <= one.difference[1] for one in found]
    assert np.mean(held) >= 0.85


def test_duplicates_of_real_samples_are_told_and_left_out():
    real, fake, train = sides(2)
    alone = find_copies(real[60:], fake, train=train)
    real[:30], real[30:60] = train[:30], train[30:60] * (1 + 1e-4)
    found = find_copies(real, fake, train=train)
    assert found.shared == tuple((row, row) for row in range(60))
    numbers = (found.number, found.c_t_pvalue, found.authentic, found.authentic_held_out)
    assert numbers == (alone.number, alone.c_t_pvalue, alone.authentic, alone.authentic_held_out)
    assert (found.c_t, found.usual) == pytest.approx((alone.c_t, alone.usual))
    # They do not hide copies that are no duplicates.
    fake[:15] = train[100:115] + 0.2 * drawn(15, seed=9)
    assert find_copies(real, fake, train=train).number >= 15


def test_repeated_training_samples_and_points():
    real, fake, train = sides(3)
    fake[:15] = train[:15]
    found = find_copies(real, fake, train=train.repeat(60, 1))
    assert {one.fake for one in found.rows} == set(range(15))
    one = torch.ones(50, 2, dtype=torch.float64)
    same = find_copies(real[:, :2], one, train=one)
    assert same.number == 50
    assert same.authentic == 0
    with pytest.raises(ValueError, match="`real` must hold samples that are not in `train`"):
        find_copies(one, fake[:, :2], train=one)


def test_authentic_by_its_definition():
    real, fake, train = sides(4)
    found = find_copies(real, fake, train=train)
    others = torch.cdist(train, train).fill_diagonal_(torch.inf).amin(1)
    for side, share in ((fake, found.authentic), (real, found.authentic_held_out)):
        near = torch.cdist(side, train).min(1)
        assert share == float((near.values > others[near.indices]).double().mean())


def test_copying_test_in_one_cell_is_that_of_mann_and_whitney():
    rng = np.random.default_rng(0)
    real, fake = rng.integers(0, 30, 60), rng.integers(0, 25, 50)  # with ties
    values = torch.from_numpy(np.concatenate([real, fake])).double()
    c_t, pvalue = copying_test(values, torch.zeros(110, dtype=torch.int64), 60, 999, 0)
    known = scipy.stats.mannwhitneyu(fake, real, alternative="less", method="asymptotic")
    assert c_t == pytest.approx((known.statistic - 1500) / np.sqrt(3000 * 111 / 12))
    assert c_t < 0
    assert pvalue == pytest.approx(known.pvalue, abs=0.03)


def test_copying_test_weighs_cells_by_their_real_samples():
    """Fake are nearer in the first cell, further in the second; the third has too few to count."""
    cells = torch.tensor([0] * 30 + [1] * 10 + [2] * 7 + [0] * 20 + [1] * 20 + [2] * 19)
    real = [2.0] * 30 + [2.0] * 10 + [2.0] * 7
    fake = [1.0] * 20 + [3.0] * 20 + [1.0] * 19
    c_t, _ = copying_test(torch.tensor(real + fake, dtype=torch.float64), cells, 47, 9, 0)
    first = -(30 * 20 / 2) / np.sqrt(30 * 20 * 51 / 12)
    second = (10 * 20 / 2) / np.sqrt(10 * 20 * 31 / 12)
    assert c_t == pytest.approx((30 * first + 10 * second) / 40)
    assert copying_test(torch.ones(30), torch.zeros(30, dtype=torch.int64), 15, 9, 0) == (
        None,
        None,
    )


def test_samples_nearer_to_train_have_a_negative_statistic():
    real, fake, train = sides(5)
    near = find_copies(real, train[:150] + 0.5 * fake, train=train)
    assert near.c_t < -3
    assert near.c_t_pvalue == 1 / 1000
    assert near.authentic < near.authentic_held_out
    assert near.difference[1] < 0
    far = find_copies(real, 2 * fake, train=train)
    assert far.c_t > 3
    assert far.c_t_pvalue > 0.9


def test_order_of_the_fakes_changes_rows_alone():
    real, fake, train = sides(6)
    fake[:15] = train[:15] + 0.1 * drawn(15, seed=9)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    first = find_copies(real, fake, train=train)
    second = find_copies(real, fake[order], train=train)
    assert [one.fake for one in first.rows] == [int(order[one.fake]) for one in second.rows]
    assert (first.c_t, first.authentic) == pytest.approx((second.c_t, second.authentic))
    assert first == find_copies(real, fake, train=train)


def test_interval_of_a_difference():
    """56/70 against 48/80: method 10 of Newcombe's paper, table II, case (a)."""
    found = difference_interval((56 / 70, 70), (48 / 80, 80))
    assert found == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_what_cannot_be_is_told():
    real, fake, train = sides(7)
    with pytest.raises(ValueError, match="`train` must hold at least 2 samples of 10 features"):
        find_copies(real, fake, train=train[:, :3])
    with pytest.raises(ValueError, match="`train` must hold at least 2"):
        find_copies(real, fake, train=train[:1])
    with pytest.raises(ValueError, match="`train` must be finite"):
        find_copies(real, fake, train=train * torch.nan)
    with pytest.raises(ValueError, match="`num_permutations`"):
        find_copies(real, fake, train=train, num_permutations=0)


def test_duplicates_that_both_sides_have_are_no_copies():
    """Blank images, which are in the training samples too."""
    listed = 0
    for seed in range(10):
        real, fake, train = sides(10 + seed)
        for one in (real, fake, train):
            one[: len(one) // 20] = 0.0
        found = find_copies(real, fake, train=train, num_permutations=9)
        listed += found.number > 0
        assert len(found.shared) == len(real) // 20
    assert listed <= 2
