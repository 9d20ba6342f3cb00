"""Rows that grow: as concatenation, whoever else holds what."""

import torch
from cases import cloud
from hypothesis import given
from hypothesis import strategies as st

from otmetrics.metrics.stores import append_rows


@given(st.lists(st.integers(0, 300), max_size=12))
def test_equals_concatenation(sizes):
    parts = [cloud(size, 3, seed=size) for size in (1, *sizes)]
    rows = parts[0]
    for part in parts[1:]:
        rows = append_rows(rows, part)
    assert rows.equal(torch.cat(parts))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 40)), max_size=15))
def test_versions_do_not_touch_each_other(steps):
    """Append to any version so far, in any order: a tree of versions, each still what it was."""
    versions = [cloud(2, 2)]
    expected = [versions[0].clone()]
    for number, (choice, size) in enumerate(steps):
        index, more = choice % len(versions), cloud(size, 2, seed=number)
        versions.append(append_rows(versions[index], more))
        expected.append(torch.cat([expected[index], more]))
    assert all(map(torch.equal, versions, expected))


def test_copies_little():
    """Buffers are replaced a number of times that grows with the logarithm of the rows."""
    rows, buffers = cloud(1, 2), set()
    for _ in range(5000):
        rows = append_rows(rows, cloud(3, 2))
        buffers.add(rows.data_ptr())
    assert len(rows) == 15_001
    assert len(buffers) < 20
    assert rows.untyped_storage().nbytes() <= 1.5 * rows.nbytes + 64


def test_the_wider_dtype_wins():
    rows = append_rows(append_rows(cloud(2, 2).float(), cloud(2, 2).float()), cloud(1, 2))
    assert rows.dtype == torch.float64
    assert append_rows(rows, cloud(1, 2).float()).dtype == torch.float64


def test_a_clone_has_no_room():
    rows = append_rows(cloud(2, 2), cloud(2, 2))
    assert rows.clone().untyped_storage().nbytes() == rows.nbytes


def test_rows_of_inference_mode_grow_outside_of_it():
    with torch.inference_mode():
        rows = append_rows(cloud(2, 2), cloud(2, 2))
    assert len(append_rows(append_rows(rows, cloud(3, 2)), cloud(3, 2))) == 10
