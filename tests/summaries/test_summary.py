"""Summaries merge: in any order, tree and sharding they are what one pass makes of all samples."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pytest
import torch
from cases import cloud
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from summary_cases import assert_same, assert_same_moments, assert_same_samples
from torch import Tensor

from otmetrics.summaries.keeping import Keeping
from otmetrics.summaries.records import checked_record, merged_records
from otmetrics.summaries.summary import Summary
from otmetrics.transport.sliced.directions import direction_generator, random_directions
from otmetrics.transport.sliced.sketch import sketch

KEEPING = Keeping(samples=6, num_projections=3)
BARE = Keeping(samples=10, sketch=False)


class Data(NamedTuple):
    """Samples of a side, which of the shards each goes to, and in what order these are merged."""

    features: Tensor
    names: list[str] | None
    labels: list[str] | None
    shards: list[list[int]]
    pairs: list[tuple[int, int]]
    dtypes: list[torch.dtype]
    keeping: Keeping


@st.composite
def data(draw: st.DrawFn, named: bool = True) -> Data:
    """Any scale and place, copies, constant features, names of several samples, empty shards."""
    size, dimension = draw(st.integers(0, 30)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    features = torch.randn(size, dimension, generator=generator)
    if draw(st.booleans()):  # a lattice, where most samples are there several times
        features = features.round()
    if draw(st.booleans()):
        features[:, 0] = 3.0
    features = features + draw(st.sampled_from([0.0, 1.0, -1000.0]))
    # Values that both dtypes hold.
    power = draw(st.sampled_from([-60, -10, 0, 20, 60]))
    features = features.double() * 2.0**power

    num_names = draw(st.sampled_from([1, 5, 1000]))
    numbers = torch.randint(num_names, (size,), generator=generator).tolist()
    names = [f"{number}.png" for number in numbers] if named else None
    # What is told of a sample goes with it.
    labels = [f"class {row}" for row in features.tolist()] if draw(st.booleans()) else None

    count = draw(st.integers(1, 5))
    places = torch.randint(count, (size,), generator=generator)
    shards = [(places == shard).nonzero().flatten().tolist() for shard in range(count)]
    pairs = [
        (draw(st.integers(0, left - 1)), draw(st.integers(0, left - 2)))
        for left in range(count, 1, -1)
    ]
    dtypes = draw(
        st.lists(st.sampled_from([torch.float32, torch.float64]), min_size=count, max_size=count)
    )
    keeping = replace(KEEPING, samples=draw(st.sampled_from([1, 6, 100])))
    return Data(features, names, labels, shards, pairs, dtypes, keeping)


def summarised(
    given: Data, rows: Sequence[int] | None = None, dtype: torch.dtype = torch.float64
) -> Summary:
    """Of all samples, or of some of them in their order."""
    chosen = list(range(len(given.features))) if rows is None else list(rows)
    texts = {
        name: None if texts is None else [texts[row] for row in chosen]
        for name, texts in (("names", given.names), ("labels", given.labels))
    }
    return Summary.of(given.features[chosen].to(dtype), **texts, keeping=given.keeping)


def joined(parts: list[Summary], pairs: list[tuple[int, int]]) -> Summary:
    """Two at a time, in the order that the pairs say: any tree."""
    parts = list(parts)
    for first, second in pairs:
        one = parts.pop(first)
        parts.append(one.merged(parts.pop(second)))
    (whole,) = parts
    return whole


# --- one pass ---------------------------------------------------------------------------------


def mixed(state: int) -> int:
    """The output function of SplitMix64, as published with the generator."""
    mask = 2**64 - 1
    state = (state + 0x9E3779B97F4A7C15) & mask
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return state ^ (state >> 31)


def test_one_pass_against_numpy_and_python() -> None:
    """Of more rows than are read at a time: every part by another program."""
    x = cloud(9000, 5, seed=1) * torch.tensor([1.0, 2.0, 0.0, 1e-3, 1e3]) + 7
    names = [f"ß{index}.png" for index in range(len(x))]
    keeping = Keeping(samples=50, num_projections=7, orthogonal=False, seed=11)
    labels = [str(index % 3) for index in range(len(x))]
    found = Summary.of(x, names=names, labels=labels, keeping=keeping)
    assert (found.count, found.dimension, found.is_whole) == (9000, 5, False)

    rows = x.numpy()
    np.testing.assert_allclose(found.mean.numpy(), rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(rows, rowvar=False), atol=1e-8)
    assert torch.equal(found.covariance[2], torch.zeros(5, dtype=torch.float64))

    directions = random_directions(5, 7, generator=direction_generator(11), orthogonal=False)
    expected = sketch(directions.T @ x.T)
    assert found.sketch is not None
    assert torch.equal(found.sketch.counts.sum(1), torch.full((7,), 9000))
    assert torch.equal(found.sketch.window, expected.window)
    # A product of another shape is rounded in another way: a value may be in the next bin.
    assert (found.sketch.counts - expected.counts).abs().sum() <= 8

    def key(name: str) -> int:
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") & (2**63 - 1)

    def place(name: str) -> int:
        return mixed((mixed(11) + key(name) * 0x9E3779B97F4A7C15) & (2**64 - 1)) >> 1

    chosen = sorted(range(9000), key=lambda index: place(names[index]))[:50]
    assert found.samples is not None
    assert found.samples.names == tuple(names[index] for index in chosen)
    assert found.samples.labels == tuple(labels[index] for index in chosen)
    assert found.samples.keys.tolist() == [key(names[index]) for index in chosen]
    assert torch.equal(found.samples.features, x[chosen])

    total = sum(
        int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little") % 2**63
        for row in rows
    )
    assert found.fingerprint == total % 2**64


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    x = cloud(20, 3).to(dtype)
    found = Summary.of(x, keeping=replace(KEEPING, samples=30))
    assert found.samples is not None
    assert found.samples.features.dtype == torch.promote_types(dtype, torch.float32)
    assert found.fingerprint == Summary.of(x.double(), keeping=KEEPING).fingerprint
    assert found.is_whole
    of_array = Summary.of(x.numpy(), keeping=replace(KEEPING, samples=30))
    assert_same(of_array, found)


def test_one_sample_and_none() -> None:
    one = Summary.of(torch.ones(1, 3), names=["a"], labels=["b"], keeping=KEEPING)
    assert (one.count, one.is_whole) == (1, True)
    assert torch.equal(one.covariance, torch.zeros(3, 3, dtype=torch.float64))
    nothing = Summary.of(torch.ones(0, 3), keeping=KEEPING)
    assert (nothing.count, nothing.fingerprint, nothing.dimension) == (0, 0, 3)
    assert not torch.cat([nothing.mean, nothing.covariance.flatten()]).any()
    assert nothing.sketch is not None
    assert nothing.sketch.num_samples == 0
    # An empty shard has no names and classes to take away from the others.
    for merged in (nothing.merged(one), one.merged(nothing)):
        assert_same(merged, one)
    assert_same(nothing.merged(nothing), nothing)


@pytest.mark.parametrize("size", [3, 6, 20])
def test_as_many_samples_are_kept_as_there_are_or_as_were_asked_for(size: int) -> None:
    found = Summary.of(cloud(size, 2), keeping=KEEPING)
    assert found.samples is not None
    assert len(found.samples) == min(size, 6)
    assert found.is_whole == (size <= 6)


def test_summaries_leave_what_they_are_made_of_alone() -> None:
    x = cloud(10, 3).requires_grad_()
    before = x.detach().clone()
    one, other = (Summary.of(rows, keeping=KEEPING) for rows in x.split(5))
    parts = [torch.equal(x, before), one.mean.clone(), one.covariance.clone()]
    assert not one.mean.requires_grad
    one.merged(other)
    assert torch.equal(x, before)
    assert torch.equal(one.mean, parts[1])
    assert torch.equal(one.covariance, parts[2])


# --- merging ----------------------------------------------------------------------------------


@given(given=data())
def test_merged_in_any_way_equals_one_pass(given: Data) -> None:
    shards = zip(given.shards, given.dtypes, strict=True)
    parts = [summarised(given, rows, dtype) for rows, dtype in shards]
    scale = float(given.features.abs().max()) if len(given.features) else 1.0
    assert_same(joined(parts, given.pairs), summarised(given), scale)


@given(given=data(named=False))
def test_without_names_the_parts_decide_and_their_order_does_not(given: Data) -> None:
    parts = [summarised(given, rows) for rows in given.shards]
    found, straight = joined(parts, given.pairs), reduce(Summary.merged, parts)
    scale = float(given.features.abs().max()) if len(given.features) else 1.0
    assert_same_moments(found, summarised(given), scale)
    assert found.fingerprint == summarised(given).fingerprint
    assert torch.equal(found.sketch.counts, summarised(given).sketch.counts)
    # Samples without names in batches of the same content are one to each other.
    contents = [tuple(map(tuple, given.features[rows].tolist())) for rows in given.shards if rows]
    if len({*contents}) == len(contents):
        assert_same_samples(found, straight)


@given(given=data(), seed=st.integers(0, 2**16))
def test_the_order_of_samples_does_not_matter(given: Data, seed: int) -> None:
    order = torch.randperm(len(given.features), generator=torch.Generator().manual_seed(seed))
    scale = float(given.features.abs().max()) if len(given.features) else 1.0
    assert_same(summarised(given, order.tolist()), summarised(given), scale)


def test_far_from_the_origin_merging_loses_no_digits() -> None:
    """Squares around 0 would have none left."""
    x = cloud(3000, 4, seed=2) + 1e8
    parts = [Summary.of(rows, keeping=KEEPING) for rows in x.split(7)]
    found = reduce(Summary.merged, parts)
    expected = np.cov((x - 1e8).numpy(), rowvar=False)
    np.testing.assert_allclose(found.covariance.numpy(), expected, atol=1e-7)
    np.testing.assert_allclose((found.mean - 1e8).numpy(), (x - 1e8).mean(0).numpy(), atol=1e-7)


@pytest.mark.parametrize("scale", [1e-140, 1e140])
def test_tiny_and_huge_values(scale: float) -> None:
    x = scale * cloud(40, 3, seed=3)
    names = list(map(str, range(40)))
    parts = [Summary.of(x[i::3], names=names[i::3], keeping=KEEPING) for i in range(3)]
    found = reduce(Summary.merged, parts)
    assert_same(found, Summary.of(x, names=names, keeping=KEEPING), scale)
    assert float(found.covariance.diagonal().min()) > 0.1 * scale**2


def test_of_what_two_keep_the_common_part_is_kept() -> None:
    x, names = cloud(40, 3), list(map(str, range(40)))
    kinds = {
        "all": Keeping(samples=9, num_projections=3),
        "fewer": Keeping(samples=4, num_projections=3),
        "no sketch": Keeping(samples=9, num_projections=5, sketch=False),
        "no samples": Keeping(samples=0, num_projections=3),
    }
    parts = {
        name: Summary.of(x[i::4], names=names[i::4], keeping=keeping)
        for i, (name, keeping) in enumerate(kinds.items())
    }
    for order in permutations(["all", "fewer", "no sketch"]):
        found = reduce(Summary.merged, [parts[name] for name in order])
        assert (found.keeping.samples, found.sketch) == (4, None)
        rows = [row for row in range(40) if row % 4 < 3]
        whole = Summary.of(x[rows], names=[names[row] for row in rows], keeping=kinds["fewer"])
        assert_same_samples(found, whole)
    for one, other in permutations(["all", "no samples"]):
        found = parts[one].merged(parts[other])
        assert found.samples is None
        assert found.sketch is not None
        assert found.sketch.num_samples == 20
        assert found.keeping == kinds["no samples"]


def test_names_and_classes_stay_where_both_have_them() -> None:
    x = cloud(8, 2)
    told = Summary.of(x[:4], names=list("abcd"), labels=list("0101"), keeping=KEEPING)
    named = Summary.of(x[4:], names=list("efgh"), keeping=KEEPING)
    bare = Summary.of(x[4:], keeping=KEEPING)
    for found in (told.merged(named), named.merged(told)):
        assert found.samples is not None
        assert set(found.samples.names) <= set("abcdefgh")
        assert found.samples.labels is None
    for found in (told.merged(bare), bare.merged(told)):
        assert found.samples is not None
        assert found.samples.names is None


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Summary.of(cloud(5, 2), keeping=KEEPING), "the dimension 3 to be merged, got 2"),
        (
            Summary.of(cloud(5, 3), keeping=KEEPING, extractor={"extractor": "pixels"}),
            "the extractor {'extractor': 'none'} to be merged, got {'extractor': 'pixels'}",
        ),
        (
            Summary.of(cloud(5, 3), keeping=replace(KEEPING, seed=1)),
            "the seed 0 to be merged, got 1",
        ),
        (
            Summary.of(cloud(5, 3), keeping=replace(KEEPING, num_projections=4)),
            "the num_projections 3 to be merged, got 4",
        ),
        (
            Summary.of(cloud(5, 3), keeping=replace(KEEPING, orthogonal=False)),
            "the orthogonal True to be merged, got False",
        ),
    ],
)
def test_what_does_not_fit_is_not_merged(other: Summary, said: str) -> None:
    one = Summary.of(cloud(5, 3), keeping=KEEPING)
    with pytest.raises(ValueError, match=f"`other` must have {said}") as raised:
        one.merged(other)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="`other` must have"):
        other.merged(one)


def test_what_has_no_count_is_not_merged() -> None:
    one = Summary.of(cloud(5, 3), keeping=KEEPING)
    unknown = replace(one, count=None, source={"path": "a.npz"})
    for first, second in ((one, unknown), (unknown, one)):
        with pytest.raises(ValueError, match="must say how many samples"):
            first.merged(second)
    with pytest.raises(TypeError, match="`other` must be a Summary, got Tensor"):
        one.merged(one.mean)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("features", "options", "said"),
    [
        (torch.ones(3), {}, r"`features` must have shape \(N, D\), got \(3,\)"),
        (torch.ones(3, 0), {}, r"`features` must have shape"),
        (torch.ones(3, 2).long(), {}, "`features` must be floating"),
        (torch.full((3, 2), torch.nan), {}, "`features` must be finite"),
        (torch.full((3, 2), 1e200, dtype=torch.float64), {}, "`features` must be small enough"),
        (torch.ones(3, 2), {"names": ["a"]}, "`names` must be 3, one per sample, got 1"),
        (torch.ones(3, 2), {"labels": list("abcd")}, "`labels` must be 3, one per sample, got 4"),
    ],
)
def test_what_cannot_be_summarised(features: Tensor, options: dict, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        Summary.of(features, **options)


def test_names_may_be_anything_that_has_a_text() -> None:
    x = cloud(4, 2)
    found = Summary.of(x, names=[0, 1, 2, 3], keeping=KEEPING)  # type: ignore[list-item]
    assert_same(found, Summary.of(x, names=list("0123"), keeping=KEEPING))


# --- the choice -------------------------------------------------------------------------------


def chosen(parts: Sequence[Tensor], named: bool, seed: int) -> list[int]:
    """Which samples stay of parts that are merged."""
    keeping, made, start = replace(BARE, seed=seed), [], 0
    for rows in parts:
        numbers = [str(start + row) for row in range(len(rows))]
        start += len(rows)
        names = numbers if named else None
        made.append(Summary.of(rows, names=names, labels=numbers, keeping=keeping))
    samples = reduce(Summary.merged, made).samples
    assert samples is not None
    assert samples.labels is not None
    assert len(samples) == 10
    return list(map(int, samples.labels))


@pytest.mark.parametrize("content", ["other", "equal"])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("sizes", [(40,), (8, 25, 7)])
def test_every_sample_is_as_likely(content: str, named: bool, sizes: tuple[int, ...]) -> None:
    x = cloud(40, 2) if content == "other" else torch.ones(40, 2)
    counts = np.zeros(40)
    for seed in range(200):
        counts[chosen(x.split(sizes), named, seed)] += 1
    assert counts.sum() == 2000
    assert chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("named", [True, False])
def test_pairs_are_as_likely(named: bool) -> None:
    """The choice of one says nothing of that of another."""
    x, counts = cloud(12, 2), np.zeros((12, 12))
    for seed in range(250):
        rows = chosen(x.split((5, 7)), named, seed)
        counts[np.ix_(rows, rows)] += 1
    pairs = counts[np.triu_indices(12, 1)]
    # Of 66 pairs 45 are kept: a hypergeometric choice, with less variance than chi-square has.
    assert chisquare(pairs).pvalue > 0.001


# --- parts of a summary -----------------------------------------------------------------------


def test_only() -> None:
    whole = Summary.of(cloud(9, 3), labels=list("abcabcabc"), keeping=KEEPING)
    assert_same(whole.only("moments", "sketch", "samples"), whole)
    moments, without = whole.only("moments"), whole.only()
    assert (moments.sketch, moments.samples) == (without.sketch, without.samples) == (None, None)
    assert (moments.keeping.sketch, moments.keeping.samples) == (False, 0)
    assert whole.only("sketch").sketch is whole.sketch
    assert whole.only("sketch").samples is None
    assert whole.only("samples").samples is whole.samples
    for one in (moments, whole.only("sketch"), whole.only("samples")):
        assert_same_moments(one, whole, 1.0)
        assert one.fingerprint == whole.fingerprint
    with pytest.raises(ValueError, match="`parts` must be of moments, sketch, samples, got 'mean'"):
        whole.only("mean")


@given(given=data(), parts=st.sets(st.sampled_from(["sketch", "samples"])))
def test_leaving_out_and_merging_may_change_places(given: Data, parts: set[str]) -> None:
    made = [summarised(given, rows) for rows in given.shards]
    late = reduce(Summary.merged, made).only(*parts)
    early = reduce(Summary.merged, [one.only(*parts) for one in made])
    scale = float(given.features.abs().max()) if len(given.features) else 1.0
    assert_same(early, late, scale)


@pytest.mark.parametrize(
    "options", [{"samples": -1}, {"samples": 1.5}, {"num_projections": 0}, {"seed": -1}]
)
def test_keeping_checks_its_numbers(options: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
        Keeping(**options)


# --- records ----------------------------------------------------------------------------------

counted = st.dictionaries(st.sampled_from(["png", "jpg", "RGB", "é"]), st.integers(0, 9))
lines = st.lists(st.sampled_from(["`a` cut", "`b` cut", "x, y"]), max_size=3)
records = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {"path": st.sampled_from(["a", "b/c", "d, e"]), "kind": st.sampled_from(["folder", "zip"])},
        optional={
            "available": st.integers(0, 99),
            "used": st.integers(0, 99),
            "transparent": st.integers(0, 9),
            "formats": counted,
            "classes": counted,
            "skipped": lines,
            "remarks": lines,
            "runtime": st.sampled_from(["torch 2", "onnx"]),
            "top_folder": st.sampled_from(["x", "y"]),
            "sizes": st.just({"smallest": [1, 1]}),
            "parts": st.lists(
                st.sampled_from([[1, 3, 9, "a"], [2, 3, 9, "a"], [3, 3, 9, "b"], [1, 2, 9, "a"]]),
                max_size=3,
            ),
        },
    ),
)


@given(records, records, records)
def test_records_merge_in_any_order(first: dict, second: dict, third: dict) -> None:
    left = merged_records(merged_records(first, second), third)
    right = merged_records(first, merged_records(second, third))
    assert left == right
    assert merged_records(first, second) == merged_records(second, first)
    assert merged_records(first, {}) == first
    checked_record({"source": left}, "a.npz")  # what is merged can be written and read


def test_a_merged_record_adds_counts_and_joins_texts() -> None:
    one = {"path": "a", "used": 2, "formats": {"png": 2}, "remarks": ["r"], "sizes": {"n": 1}}
    other = {"path": "b", "used": 3, "formats": {"png": 1, "jpg": 2}, "remarks": ["r", "s"]}
    assert merged_records(one | {"skipped": ["z"]}, other | {"skipped": ["y"]}) == {
        "path": "a, b",
        "used": 5,
        "formats": {"png": 3, "jpg": 2},
        "remarks": ["r", "s"],
        "skipped": ["y", "z"],
    }
