"""Shares of classes with intervals that hold for those that are found."""

import numpy as np
import pytest

from otmetrics.explanation.shares import compared_shares, ratio_interval


def test_intervals_of_found_classes_hold_their_ratio():
    """20 classes, some of them rarer or more frequent by 30 %; barely any is found for sure."""
    rng = np.random.default_rng(0)
    names, held, at_95 = [str(number) for number in range(20)], [], []
    for _ in range(150):
        ratios = rng.choice([0.7, 1, 1, 1.3], 20)
        ratios /= ratios.mean()
        real, fake = rng.multinomial(1000, np.full(20, 0.05)), rng.multinomial(1000, ratios / 20)
        found = [one for one in compared_shares(names, real, fake, rate=0.1) if one.found]
        inside = [one.low <= ratios[int(one.name)] <= one.high for one in found]
        held.append(np.mean(inside or [1.0]))
        usual = [ratio_interval((one.real, one.fake), (1000, 1000)) for one in found]
        inside = [
            low <= ratios[int(one.name)] <= high
            for one, (low, high) in zip(found, usual, strict=True)
        ]
        at_95.append(np.mean(inside or [1.0]))
    assert np.mean(held) >= 0.95
    assert np.mean(at_95) <= 0.85


def test_only_the_found_ones_have_wider_intervals():
    shares = compared_shares(
        "abcd", np.array([500, 100, 200, 200]), np.array([500, 10, 250, 240]), rate=0.001
    )
    assert [one.found for one in shares] == [True, False, False, False]
    for share, level in zip(shares, [1 - 0.05 / 4, 0.95, 0.95, 0.95], strict=True):
        wanted = ratio_interval((share.real, share.fake), (1000, 1000), level)
        assert (share.low, share.high) == pytest.approx(wanted)
