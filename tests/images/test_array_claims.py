"""What arrays claim: sizes, places and ends that are not so are told, in little time and memory."""

import errno
import os
import struct
import warnings
import zipfile

import numpy as np
import pytest
from claim_cases import (
    FEATURES,
    GIGABYTES,
    PIXELS,
    cheap,
    lying,
    npy,
    write_zip,
)

from otmetrics.errors import DataError
from otmetrics.images import (
    arrays,
    limits,
    open_input,
)

SHAPES = [(10, 3), (39, 3), (41, 3), (40, 4), (10**12, 3), (10**30, 10**30)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["npy", "stored", "deflated"])
@pytest.mark.parametrize("large", [False, True])
def test_a_header_that_does_not_fit_its_values(tmp_path, monkeypatch, shape, kind, large):
    if large:
        monkeypatch.setattr(limits, "MAPPED_BYTES", 1)
    path = tmp_path / ("a.npy" if kind == "npy" else "a.npz")
    if kind == "npy":
        path.write_bytes(npy(FEATURES, shape))
    else:
        method = zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED
        write_zip(path, {"features.npy": npy(FEATURES, shape)}, method)
    with cheap(), pytest.raises(DataError, match=r"its header says float64 .*and 960 follow"):
        open_input(path)


@pytest.mark.parametrize("extra", [-1, 1, 8])
def test_an_array_with_more_or_fewer_bytes(tmp_path, extra):
    path = tmp_path / "a.npy"
    np.save(path, FEATURES)
    content = path.read_bytes()
    path.write_bytes(content[:extra] if extra < 0 else content + bytes(extra))
    with pytest.raises(DataError, match="is truncated or corrupt"):
        open_input(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("entry", ["features", "labels", "protocol"])
def test_each_byte_that_is_read_is_checked(tmp_path, method, entry):
    content = {"features": FEATURES, "labels": np.arange(40), "protocol": np.array('{"a": 1}')}
    path = write_zip(tmp_path / "a.npz", {f"{k}.npy": npy(v) for k, v in content.items()}, method)
    assert len(open_input(path).labels) == 40
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{entry}.npy")
    end = whole.index(f"{entry}.npy".encode(), info.header_offset) + len(entry) + 4
    last = info.compress_size - 1 if method == zipfile.ZIP_STORED else 9  # the rest may be padding
    for place in (end + last, end + info.compress_size // 2):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.npz` "):
            open_input(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_entries_that_lie_about_their_size(tmp_path, method):
    for size in (10**6, 2**31, 200):
        shape = ((size - 128) // 24, 3)
        path = write_zip(tmp_path / "a.npz", {"x.npy": npy(FEATURES, shape)}, method)
        lying(path, "x.npy", 128 + 24 * shape[0])
        with cheap(), pytest.raises(DataError, match=r"is truncated or corrupt|times as many"):
            open_input(path)


def test_what_unpacks_to_far_more_than_there_is(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", np.zeros((10**5, 3)))
    assert open_input(tmp_path / "a.npz").features.shape == (10**5, 3)
    monkeypatch.setattr(limits, "FREE_BYTES", 10**5)
    with cheap(megabytes=1), pytest.raises(DataError, match="more than 100 times as many: save it"):
        open_input(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "b.npz", np.random.default_rng(0).normal(size=(10**4, 3)))
    assert open_input(tmp_path / "b.npz").features.shape == (10**4, 3)


def test_large_entries_are_unpacked_into_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAPPED_BYTES", 10**6)
    values = (np.arange(4 * 10**6, dtype=np.int16) % 251).reshape(-1, 2)
    for name, array in (("c", values), ("f", np.asfortranarray(values))):
        for write in (np.savez, np.savez_compressed):
            write(tmp_path / f"{name}.npz", array)
            with cheap(megabytes=6):
                found = open_input(tmp_path / f"{name}.npz").features
            assert isinstance(found, np.memmap)
            assert np.array_equal(found, values)


def test_arrays_that_unpack_to_more_than_is_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", FEATURES)
    np.save(tmp_path / "b.npy", FEATURES)
    monkeypatch.setattr(limits, "MAX_UNPACKED_BYTES", FEATURES.nbytes)
    assert np.array_equal(open_input(tmp_path / "a.npz").features, FEATURES)
    monkeypatch.setattr(limits, "MAX_UNPACKED_BYTES", FEATURES.nbytes - 1)
    with pytest.raises(DataError, match=r"a\.npz` unpacks to 960 bytes, more than the 959 that"):
        open_input(tmp_path / "a.npz")
    assert np.array_equal(open_input(tmp_path / "b.npy").features, FEATURES)  # read in place
    monkeypatch.undo()
    with pytest.raises(DataError, match="more than the 34359738368 that are unpacked"):
        limits.room_for(limits.MAX_UNPACKED_BYTES + 1)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs POSIX")
def test_why_a_file_for_what_is_unpacked_cannot_be_made(tmp_path, monkeypatch):
    import resource

    for code, told in ((errno.ENOSPC, "has no room"), (errno.EDQUOT, "has no room")):
        assert limits.lacks_room(OSError(code, "x")) == f"{told} (x)"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(DataError, match=r"takes no file \(File too large\): set TMPDIR"):
            limits.room_for(limits.MAPPED_BYTES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    monkeypatch.setattr(limits.tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"none` takes no file \(No such file or directory\)"):
        limits.room_for(limits.MAPPED_BYTES)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([None] * 40), "has an entry `labels` that holds pickled objects: save an array"),
        (np.zeros(40, [("a", int)]), "has an entry `labels` that holds a structured array"),
    ],
)
def test_labels_that_are_not_read_are_told(tmp_path, labels, message):
    np.savez(tmp_path / "a.npz", features=FEATURES, labels=labels)
    with pytest.raises(DataError, match=message):
        open_input(tmp_path / "a.npz")


def test_labels_that_are_no_array_are_damage(tmp_path):
    path = write_zip(tmp_path / "a.npz", {"features.npy": npy(FEATURES), "labels.npy": b"x" * 99})
    with pytest.raises(DataError, match="is truncated or corrupt"):
        open_input(path)


def test_only_warnings_of_headers_are_ignored(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    content = npy(FEATURES)
    path.write_bytes(content.replace(b"(40, 3)", b"(40,3L)"))  # as Python 2 wrote them
    assert np.array_equal(open_input(path).features, FEATURES)
    path.write_bytes(content.replace(b"'<f8'", rb"'\<f'"))
    with pytest.raises(DataError, match="is truncated or corrupt"):
        open_input(path)

    def warned(header, size):
        warnings.warn("something else", stacklevel=1)

    path.write_bytes(content)
    monkeypatch.setattr(arrays._Header, "check_size", warned)
    with pytest.warns(UserWarning, match="something else"):
        arrays.loaded_array(path)


def test_headers_beyond_reason(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\2\0" + struct.pack("<I", 2**31 - 1))
    os.truncate(path, GIGABYTES)
    with cheap(), pytest.raises(DataError, match=r"a\.npy` is truncated or corrupt"):
        open_input(path)
    os.truncate(path, 2**20)
    write_zip(tmp_path / "a.npz", {"features.npy": path.read_bytes()})
    with cheap(), pytest.raises(DataError, match=r"a\.npz` is truncated or corrupt"):
        open_input(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", ["zip", "npz"])
def test_directories_of_archives_beyond_reason(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"PK\3\4")
    os.truncate(path, 2**32 - 2**20)
    with path.open("ab") as file:
        file.write(struct.pack("<4s4HIIH", b"PK\5\6", 0, 0, 9, 9, 2**31, 2**30, 0))
    with cheap(), pytest.raises(DataError, match="has a header or directory of 2147483648 bytes"):
        open_input(path)


def test_labels_beyond_reason(tmp_path, monkeypatch):
    labels = np.array([f"class {index % 7}" for index in range(40)])
    np.savez_compressed(tmp_path / "a.npz", features=FEATURES, labels=labels)
    assert open_input(tmp_path / "a.npz").labels == tuple(labels.tolist())
    monkeypatch.setattr(limits, "MAX_LABEL_BYTES", labels.nbytes - 1)
    with pytest.raises(DataError, match="has an entry `labels` of more than 1119 bytes: leave it"):
        open_input(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "b.npz", features=FEATURES, labels=np.zeros(40, "U100000"))
    with cheap(), pytest.raises(DataError, match="has an entry `labels` of more than 1119 bytes"):
        open_input(tmp_path / "b.npz")
    monkeypatch.setattr(limits, "MAX_PROTOCOL_BYTES", 10)
    np.savez(tmp_path / "c.npz", features=FEATURES, protocol='{"x": 1}' + " " * 10)
    with pytest.raises(DataError, match="has an entry `protocol` of more than 10 bytes"):
        open_input(tmp_path / "c.npz")


def test_one_text_a_class_not_one_a_row(tmp_path):
    np.savez(tmp_path / "a.npz", features=np.zeros((10**5, 1)), labels=np.arange(10**5) % 3 + 1000)
    with cheap(megabytes=12):
        labels = open_input(tmp_path / "a.npz").labels
    assert labels[:4] == ("1000", "1001", "1002", "1000")
    assert len({id(label) for label in labels}) == 3


def test_rows_beyond_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ROWS", 5)
    np.save(tmp_path / "a.npy", PIXELS)
    with pytest.raises(DataError, match="holds 6 images, more than the 5 that are read: split it"):
        open_input(tmp_path / "a.npy")


def test_entries_that_occur_twice(tmp_path):
    write_zip(tmp_path / "a.npz", {"features.npy": npy(FEATURES)})
    twice = pytest.warns(UserWarning, match="Duplicate name")
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive, twice:
        archive.writestr("features.npy", npy(FEATURES + 1))
    with pytest.raises(DataError, match=r"has the entry `features\.npy` twice"):
        open_input(tmp_path / "a.npz")
