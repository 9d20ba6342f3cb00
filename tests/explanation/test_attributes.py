"""Attributes that differ are found, and others rarely."""

import numpy as np
import pytest
from scipy.stats import fisher_exact, ks_2samp

from otmetrics.explanation.attributes import compared_attributes


def drawn(seed, shift=0.0, kinds=5):
    generator = np.random.default_rng(seed)
    sides = generator.standard_normal((2, kinds, 200))
    sides[1, 0] += shift
    return {f"kind {i}": (sides[0, i], sides[1, i]) for i in range(kinds)}


def test_one_of_five_is_shifted():
    given = drawn(0, 0.5)
    first, *others = compared_attributes(given, 0.1)
    assert (first.name, first.found) == ("kind 0", True)
    x, y = given["kind 0"]
    assert first.pvalue == pytest.approx(ks_2samp(x, y).pvalue)
    assert first.shift == pytest.approx((np.median(y) - np.median(x)) / x.std())
    assert not any(one.found for one in others)


def test_of_twenty_attributes_few_are_found_by_chance():
    """Without a correction some would be in nearly nine of ten cases."""
    lists = [compared_attributes(drawn(seed, kinds=20), 0.1) for seed in range(60)]
    assert np.mean([any(one.found for one in found) for found in lists]) <= 0.22


def test_images_that_were_not_looked_at_do_not_count():
    x, y = drawn(1)["kind 0"]
    gaps = y.copy()
    gaps[:50] = np.nan
    (found,) = compared_attributes({"a": (x, gaps)}, 0.1)
    assert found.images == (200, 150)
    assert found.pvalue == pytest.approx(ks_2samp(x, y[50:]).pvalue)
    assert compared_attributes({"a": (x, np.full(200, np.nan))}, 0.1) == ()


def test_what_all_real_images_share_has_no_standard_deviation():
    (found,) = compared_attributes({"grey": (np.zeros(50), np.full(50, 0.2))}, 0.1)
    assert (found.found, found.shift) == (True, None)


def test_formats_by_exact_tests():
    formats = ["png"] * 60 + ["jpg"] * 40, ["png"] * 40 + ["jpg"] * 60
    (found,) = compared_attributes({}, 0.1, formats)
    assert found.pvalue == pytest.approx(fisher_exact([[60, 40], [40, 60]]).pvalue)
    assert found.found
    assert (found.images, found.real, found.shift) == ((100, 100), None, None)
    # A third format on both sides: the least of three tests, times three.
    formats = formats[0] + ["gif"] * 10, formats[1] + ["gif"] * 10
    (found,) = compared_attributes({}, 0.1, formats)
    assert found.pvalue == pytest.approx(3 * fisher_exact([[60, 50], [40, 70]]).pvalue)
    assert found.formats[2] == ("gif", 10 / 110, 10 / 110)


def test_one_format_is_no_row():
    assert compared_attributes({}, 0.1, (["png"] * 5, ["png"] * 9)) == ()
    assert compared_attributes({}, 0.1, (["png"] * 5, [])) == ()


def test_formats_and_numbers_share_one_list():
    given = drawn(0, 0.28, kinds=1)
    (alone,) = compared_attributes(given, 0.05)
    formats = ["png"] * 60 + ["jpg"] * 40, ["png"] * 55 + ["jpg"] * 45
    first, second = compared_attributes(given, 0.05, formats)
    assert (first.name, second.name) == ("kind 0", "file format")
    assert alone.found == (alone.pvalue <= 0.05)
    assert first.found == (first.pvalue <= 0.025)
