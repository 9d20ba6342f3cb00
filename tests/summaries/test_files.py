"""The file of a summary: read back as it was, read by others, and no file breaks the reader."""

import json
import os
import random
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import cloud
from fuzz_mutations import damage_bytes, damaged_array
from hypothesis import given
from hypothesis import strategies as st
from summary_cases import assert_same

from otmetrics.errors import DataError
from otmetrics.images.arrays import loaded_entries
from otmetrics.summaries.files import is_summary
from otmetrics.summaries.keeping import Keeping
from otmetrics.summaries.summary import Summary

KEEPING = Keeping(samples=6, num_projections=3, seed=5)
MUTATIONS = 1000
RECORD = {
    "extractor": {"extractor": "pixels", "size": [4, 4]},
    "source": {"path": "real/", "kind": "folder", "used": 9, "formats": {"png": 9}},
}
ODD = [
    "a'b\"c.png",
    "\u202eabc\u05d0.png",
    "\udcff\udc80.png",
    "nul\0in.png",
    "nul at the end\0\0",
    "",
    " two\nlines\t",
    "😀.png",
    "[" + "x" * 300,
]


def made(**options: Any) -> Summary:
    """Of nine samples, with names, classes and the records of an input."""
    labels = [str(index % 2) for index in range(9)]
    given: dict[str, Any] = {"names": list("abcdefghi"), "labels": labels, "keeping": KEEPING}
    return Summary.of(cloud(9, 4, seed=1).float(), **(given | RECORD | options))


def saved_and_loaded(summary: Summary, path: Path) -> Summary:
    summary.save(path, overwrite=True)
    return Summary.load(path)


# --- read back --------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [(), ("sketch",), ("samples",), ("sketch", "samples")])
@pytest.mark.parametrize("texts", [(), ("names",), ("labels",), ("names", "labels")])
@pytest.mark.parametrize("size", [0, 1, 5, 9])
def test_what_is_saved_is_loaded(tmp_path, parts, texts, size):
    options = {name: list("abcdefghi")[:size] for name in texts}
    whole = Summary.of(cloud(size, 4), keeping=KEEPING, **options, **RECORD)
    summary = whole.only(*parts)
    loaded = saved_and_loaded(summary, tmp_path / "x.npz")
    assert loaded.count == size
    assert torch.equal(loaded.mean, summary.mean)
    assert torch.equal(loaded.covariance, summary.covariance)
    assert_same(loaded, summary)
    if summary.samples is not None:
        assert loaded.samples.features.dtype == torch.float64


@pytest.mark.parametrize("size", [9, 6, 3])
def test_names_and_classes_may_be_any_text(tmp_path, size):
    summary = made(names=ODD, labels=ODD[::-1], keeping=replace(KEEPING, samples=size))
    loaded = saved_and_loaded(summary, tmp_path / "x.npz")
    assert_same(loaded, summary)
    assert set(loaded.samples.names) <= set(ODD)


@given(texts=st.lists(st.text(st.characters(exclude_categories=()), max_size=5), max_size=9))
def test_any_texts(tmp_path_factory, texts):
    x = torch.ones(len(texts), 2)
    summary = Summary.of(x, names=texts, labels=texts, keeping=replace(KEEPING, sketch=False))
    path = tmp_path_factory.getbasetemp() / "texts.npz"
    assert_same(saved_and_loaded(summary, path), summary)


@pytest.mark.parametrize("scale", [1e-140, 1.0, 1e140])
def test_tiny_and_huge_values(tmp_path, scale):
    summary = Summary.of(scale * cloud(9, 4), keeping=KEEPING)
    assert_same(saved_and_loaded(summary, tmp_path / "x.npz"), summary, 0.0)


def test_a_count_may_be_unknown_and_options_may_differ(tmp_path):
    keeping = Keeping(samples=4, num_projections=5, orthogonal=False, seed=2**40)
    summary = replace(made(keeping=keeping).only("samples"), count=None)
    loaded = saved_and_loaded(summary, tmp_path / "x.npz")
    assert_same(loaded, summary)
    assert not loaded.is_whole


def test_what_is_loaded_merges_as_if_it_had_never_been_a_file(tmp_path):
    parts = [made(names=list(names)) for names in ("abcdefghi", "jklmnopqr")]
    loaded = [
        saved_and_loaded(part, tmp_path / f"{number}.npz") for number, part in enumerate(parts)
    ]
    assert_same(loaded[0].merged(loaded[1]), parts[0].merged(parts[1]))


def test_equal_summaries_give_equal_bytes(tmp_path, monkeypatch):
    made().save(tmp_path / "a.npz")
    later = time.time() + 10**6
    monkeypatch.setattr(time, "time", lambda: later)
    made().save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()

    # Of whole numbers, four at a time, moments are exact in any order.
    x = torch.randint(-9, 9, (16, 3), generator=torch.Generator().manual_seed(0)).double()
    names = list(map(str, range(16)))
    parts = [Summary.of(x[i::4], names=names[i::4], keeping=KEEPING) for i in range(4)]
    pairs = [parts[0].merged(parts[1]), parts[2].merged(parts[3])]
    pairs[0].merged(pairs[1]).save(tmp_path / "c.npz")
    parts[3].merged(parts[1]).merged(parts[0].merged(parts[2])).save(tmp_path / "d.npz")
    Summary.of(x, names=names, keeping=KEEPING).save(tmp_path / "e.npz")
    contents = {(tmp_path / f"{name}.npz").read_bytes() for name in "cde"}
    assert len(contents) == 1


# --- others -----------------------------------------------------------------------------------


def test_others_read_the_mean_and_covariance(tmp_path):
    summary = made()
    summary.save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        assert {"mu", "sigma"} <= set(file.files)
        np.testing.assert_array_equal(file["mu"], summary.mean.numpy())
        np.testing.assert_array_equal(file["sigma"], summary.covariance.numpy())
        assert file["mu"].dtype == file["sigma"].dtype == np.float64
        np.testing.assert_allclose(file["sigma"], np.cov(cloud(9, 4, seed=1).numpy().T), rtol=1e-6)
    assert is_summary(tmp_path / "x.npz")


def test_pytorch_fid_reads_it(tmp_path):
    fid_score = pytest.importorskip("pytorch_fid.fid_score", reason="pytorch-fid is not installed")
    summary = made()
    summary.save(tmp_path / "x.npz")
    mean, covariance = fid_score.compute_statistics_of_path(
        str(tmp_path / "x.npz"), None, 1, summary.dimension, "cpu"
    )
    np.testing.assert_array_equal(mean, summary.mean.numpy())
    np.testing.assert_array_equal(covariance, summary.covariance.numpy())


@pytest.mark.parametrize("form", ["pytorch-fid", "clean-fid"])
def test_files_of_others(tmp_path, form):
    summary, with_samples = made(), form == "clean-fid"
    summary.export(tmp_path / "x.npz", form)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        assert set(file.files) == {"mu", "sigma"} | ({"feats"} if with_samples else set())
        np.testing.assert_array_equal(file["sigma"], summary.covariance.numpy())
        if with_samples:
            np.testing.assert_array_equal(file["feats"], summary.samples.features.numpy())
    assert not is_summary(tmp_path / "x.npz")
    again = Summary.load(tmp_path / "x.npz")
    assert again.count is None
    assert torch.equal(again.covariance, summary.covariance)
    one = Summary.of(torch.ones(1, 4), keeping=KEEPING)
    with pytest.raises(DataError, match="no covariance: summarise two samples or more"):
        one.export(tmp_path / "y.npz")
    with pytest.raises(ValueError, match="clean-fid needs samples"):
        summary.only("moments").export(tmp_path / "y.npz", "clean-fid")
    with pytest.raises(ValueError, match="must be pytorch-fid or clean-fid, got 'fadtk'"):
        summary.export(tmp_path / "y.npz", "fadtk")
    assert not (tmp_path / "y.npz").exists()


# --- targets ----------------------------------------------------------------------------------


def test_targets_are_checked(tmp_path):
    summary, path = made(), tmp_path / "x.npz"
    summary.save(path)
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"x\.npz` exists: choose another name, or pass `overwrite"):
        made(names=list("zyxwvutsr")).save(path)
    assert path.read_bytes() == before
    made(names=list("zyxwvutsr")).save(str(path), overwrite=True)
    assert path.read_bytes() != before
    with pytest.raises(DataError, match=r"must end in \.npz"):
        summary.save(tmp_path / "x.npy")
    with pytest.raises(DataError, match="is not a folder: create it first"):
        summary.save(tmp_path / "nowhere" / "x.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        summary.save(tmp_path / "folder.npz", overwrite=True)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["folder.npz", "x.npz"]


def test_what_fails_on_the_way_leaves_the_former_file(tmp_path, monkeypatch):
    made().save(tmp_path / "x.npz")
    before = (tmp_path / "x.npz").read_bytes()

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(DataError, match="cannot be written"):
        made().save(tmp_path / "x.npz", overwrite=True)
    assert (tmp_path / "x.npz").read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["x.npz"]


def test_what_is_no_file_of_a_summary(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "x.npy", np.ones((3, 2)))
    np.savez(tmp_path / "other.npz", features=np.ones((3, 2)))
    for name, said in (
        ("text.npz", "truncated or corrupt"),
        ("x.npy", "is no summary"),
        ("other.npz", "is no summary"),
        ("missing.npz", "does not exist"),
        (".", "and no images"),
    ):
        assert not is_summary(tmp_path / name)
        with pytest.raises(DataError, match=said):
            Summary.load(tmp_path / name)


# --- files that cannot be ---------------------------------------------------------------------

Entries = dict[str, Any]
Change = Callable[[Entries], Any]


def written(path: Path, entries: Entries) -> None:
    np.savez(path, **{name: value for name, value in entries.items() if value is not None})


def entry(name: str, change: Callable[[np.ndarray], Any]) -> Change:
    """Another array in the place of one."""

    def changed(entries: Entries) -> None:
        entries[name] = change(entries[name])

    return changed


def record(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Another record; what is returned stands in its place."""

    def changed(entries: Entries) -> None:
        found = json.loads(str(entries["summary"]))
        value = change(found)
        entries["summary"] = np.array(json.dumps(found if value is None else value))

    return changed


def told(**values: Any) -> Change:
    """Other values in the record."""
    return record(lambda found: found.update(values))


def kept(**values: Any) -> Change:
    """Other values of what is kept."""
    return record(lambda found: found["keeping"].update(values))


def at(place: tuple[int, ...], value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def changed(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[place] = value
        return array

    return changed


def texts(*values: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda _: np.array(json.dumps(list(values)))


NEEDED = ("mu", "sigma", "sketch_counts", "sketch_window", "samples", "keys")
DAMAGES: dict[str, Change] = {
    **{f"no {name}": entry(name, lambda _: None) for name in NEEDED},
    "version 2": told(version=2),
    "no version": record(lambda found: found.pop("version") and None),
    "no count": record(lambda found: found.pop("count") and None),
    "no keeping": record(lambda found: found.pop("keeping") and None),
    "no fingerprint": record(lambda found: found.pop("fingerprint") and None),
    "a list": record(lambda found: [found]),
    "a number": record(lambda found: 1),
    "no json": entry("summary", lambda _: np.array("{")),
    "deep json": entry("summary", lambda _: np.array("[" * 100_000)),
    "numbers for a record": entry("summary", lambda _: np.ones(3)),
    "a negative count": told(count=-9),
    "a text for a count": told(count="9"),
    "a float for a count": told(count=9.0),
    "true for a count": told(count=True),
    "another count": told(count=10),
    "no samples by count": told(count=0),
    "a count without end": told(count=2**70),
    "an unknown option": kept(more=1),
    "a negative size": kept(samples=-1),
    "a larger size": kept(samples=7),
    "a smaller size": kept(samples=5),
    "another number of directions": kept(num_projections=4),
    "directions without end": kept(num_projections=2**70),
    "a seed that is none": kept(seed="0"),
    "text for a fingerprint": told(fingerprint="xyz"),
    "a number for a fingerprint": told(fingerprint=1),
    "no extractor": told(extractor="pixels"),
    "an extractor without name": told(extractor={}),
    "control characters": told(extractor={"extractor": "a\x1b[31m"}),
    "a list for a source": told(source=[1]),
    "NaN in the source": told(source={"x": float("nan")}),
    "text for samples that were used": told(source={"used": "9"}),
    "parts that are none": told(source={"parts": [1]}),
    "parts of text": told(source={"parts": [["1", "2", 9, "a"]]}),
    "more parts than there are": told(source={"parts": [[3, 2, 9, "a"]]}),
    "part 0": told(source={"parts": [[0, 2, 9, "a"]]}),
    "a mean of another shape": entry("mu", lambda x: x[:, None]),
    "a mean of another dimension": entry("mu", lambda x: x[:-1]),
    "a mean of whole numbers": entry("mu", lambda x: x.astype(int)),
    "a complex mean": entry("mu", lambda x: x.astype(complex)),
    "a mean that is NaN": entry("mu", at((0,), np.nan)),
    "a huge mean": entry("mu", at((0,), 1e200)),
    "no dimension": lambda e: e.update(mu=np.zeros(0), sigma=np.zeros((0, 0))),
    "another dimension": lambda e: e.update(mu=np.zeros(3), sigma=np.eye(3)),
    "an infinite covariance": entry("sigma", at((0, 0), np.inf)),
    "a huge covariance": entry("sigma", at((0, 0), 1e300)),
    "half a covariance": entry("sigma", lambda x: x[:2]),
    "an asymmetric covariance": entry("sigma", at((0, 1), 99.0)),
    "a negative covariance": entry("sigma", lambda x: -x),
    "histograms of another dtype": entry("sketch_counts", lambda x: x.astype(np.int64)),
    "histograms of floats": entry("sketch_counts", lambda x: x.astype(np.float32)),
    "histograms of another shape": entry("sketch_counts", lambda x: x[:, ::2]),
    "fewer histograms": entry("sketch_counts", lambda x: x[:2]),
    "negative histograms": entry("sketch_counts", lambda x: -x),
    "histograms of other samples": entry("sketch_counts", lambda x: 2 * x),
    "histograms of uneven samples": entry("sketch_counts", at((1, 0), 40)),
    "windows of another dtype": entry("sketch_window", lambda x: x.astype(np.int32)),
    "windows of another shape": entry("sketch_window", lambda x: x[:, :2]),
    "a wide window": entry("sketch_window", at((0, 2), 2**20)),
    "a window that overflows": entry("sketch_window", at((0, 1), -(2**63))),
    "a window backwards": entry("sketch_window", at((0, 1), 2**30)),
    "a window far out": entry("sketch_window", lambda x: x + np.array([0, 2**60, 2**60])),
    "a level beyond float64": entry("sketch_window", at((0, 0), 1100)),
    "a sample less": entry("samples", lambda x: x[:-1]),
    "samples of another dimension": entry("samples", lambda x: x[:, :-1]),
    "samples of whole numbers": entry("samples", lambda x: x.astype(int)),
    "samples of half floats": entry("samples", lambda x: x.astype(np.float16)),
    "samples of another byte order": entry("samples", lambda x: x.astype(">f4")),
    "samples in one row": entry("samples", lambda x: x.ravel()),
    "samples in a cube": entry("samples", lambda x: x[..., None]),
    "a sample that is NaN": entry("samples", at((0, 0), np.nan)),
    "a key less": entry("keys", lambda x: x[:-1]),
    "keys of floats": entry("keys", lambda x: x.astype(float)),
    "negative keys": entry("keys", lambda x: -x),
    "keys of others": entry("keys", lambda x: x[::-1]),
    "a name less": entry("names", texts(*"abcde")),
    "other names": entry("names", texts(*"uvwxyz")),
    "numbers for names": entry("names", texts(*range(6))),
    "an object for names": entry("names", lambda _: np.array('{"a": 1}')),
    "an array of names": entry("names", lambda _: np.array(list("abcdef"))),
    "a class less": entry("labels", texts(*"01010")),
    "nested classes": entry("labels", texts(*([["0"]] * 6))),
    "a text for classes": entry("labels", lambda _: np.array('"010101"')),
}


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> Entries:
    path = tmp_path_factory.mktemp("sound") / "x.npz"
    made().save(path)
    return dict(loaded_entries(path))


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, entries, damage):
    path, changed = tmp_path / "x.npz", dict(entries)
    written(path, changed)
    assert_same(Summary.load(path), made())  # the sound entries, as numpy writes them
    DAMAGES[damage](changed)
    written(path, changed)
    with pytest.raises(DataError) as raised:
        Summary.load(path)
    message = str(raised.value)
    assert f"`{path}`" in message
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 500 + len(str(path))


def test_what_is_unknown_is_left_alone(tmp_path, entries):
    written(tmp_path / "x.npz", entries | {"more": np.ones(3)})
    assert_same(Summary.load(tmp_path / "x.npz"), made())


def test_an_entry_may_not_be_there_twice(tmp_path):
    made().save(tmp_path / "x.npz")
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "a") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.writestr("mu.npy", archive.read("mu.npy"))
    with pytest.raises(DataError, match="has an entry twice"):
        Summary.load(tmp_path / "x.npz")


class Malicious:
    """What touches a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", [*NEEDED, "names", "labels", "summary"])
def test_nothing_is_unpickled(tmp_path, entries, name):
    array = np.empty(1, object)
    array[0] = Malicious(tmp_path / "ran")
    written(tmp_path / "x.npz", entries | {name: array})
    with pytest.raises(DataError, match="pickled"):
        Summary.load(tmp_path / "x.npz")
    assert not (tmp_path / "ran").exists()
    with np.load(tmp_path / "x.npz", allow_pickle=True) as file:
        file[name]
    assert (tmp_path / "ran").exists()  # it would have run


def test_a_damaged_file_is_an_error_or_a_sound_summary(tmp_path):
    """What is loaded merges, is saved and is loaded again."""
    sound, path = made(), tmp_path / "x.npz"
    sound.save(path)
    content, other = path.read_bytes(), tmp_path / "other.npz"
    np.savez(other, features=np.ones((3, 2)))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    rng, counts = random.Random(0), {"refused": 0, "sound": 0}
    for _ in range(MUTATIONS):
        path.unlink()
        if rng.random() < 0.5:
            path.write_bytes(content)
            done = damage_bytes(path, rng, [other])
        else:
            done = rng.choice(sorted(members))
            with zipfile.ZipFile(path, "w") as archive:
                for name, array in members.items():
                    archive.writestr(name, damaged_array(array, rng) if name == done else array)
        try:
            found = Summary.load(path)
        except DataError:  # in one line, which the table above tests
            counts["refused"] += 1
            continue
        counts["sound"] += 1
        try:
            found = found.merged(sound)
        except ValueError as error:
            assert "to be merged" in str(error), done  # noqa: PT017 - others may merge
        assert np.isfinite(found.mean.numpy()).all(), done
        assert np.isfinite(found.covariance.numpy()).all(), done
        assert_same(saved_and_loaded(found, tmp_path / "y.npz"), found, 0.0)
    assert counts["refused"] > 500
    assert counts["sound"] > 20
