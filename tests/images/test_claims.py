"""What files claim: sizes, places and ends that are not so are told, in little time and memory."""

import errno
import io
import json
import os
import random
import struct
import tarfile
import time
import tracemalloc
import warnings
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from otmetrics.errors import DataError
from otmetrics.images import (
    ImageFolder,
    arrays,
    files,
    limits,
    open_input,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
GIGABYTES = 5 * 2**30


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@contextmanager
def cheap(seconds=2.0, megabytes=20):
    """Little time, and little memory as Python and numpy know of it."""
    tracemalloc.start()
    start = time.monotonic()
    try:
        yield
        assert time.monotonic() - start < seconds
        assert tracemalloc.get_traced_memory()[1] < megabytes * 1e6
    finally:
        tracemalloc.stop()


def write_tar(path, content):
    with tarfile.open(path, "w") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_zip(path, content, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


IMAGES = {f"{index}.png": png(pixels) for index, pixels in enumerate(PIXELS)}


# --- arrays ---------------------------------------------------------------------------------


def npy(array, shape=None):
    """A `.npy` file whose header may say another shape."""
    file = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(file, header | {"shape": shape or array.shape})
    return file.getvalue() + array.tobytes()


FEATURES = np.random.default_rng(0).normal(size=(40, 3))
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


def lying(path, entry, size):
    """Let the directory of an archive claim another size of its only entry."""
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(entry)
    old, new = (struct.pack("<II", info.compress_size, n) for n in (info.file_size, size))
    assert content.count(old) == 2
    path.write_bytes(content.replace(old, new))


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


# --- tar and zip ----------------------------------------------------------------------------


def test_a_tar_with_zeros_inside(tmp_path):
    path = write_tar(tmp_path / "a.tar", IMAGES)
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        third = archive.getmembers()[2].offset
    for length in (512, 1024, 2048):
        path.write_bytes(whole[:third] + bytes(length) + whole[third + length :])
        with pytest.raises(DataError, match=r"data follow the mark of its end\. Fetch it again"):
            open_input(path)


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_tar_without_a_file(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a.png", "b.png"):
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
    with pytest.raises(
        DataError, match=r"holds no images but pipes, devices or sparse files, .* `b\.png`"
    ):
        open_input(tmp_path / "a.tar")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_with_zeros_in_a_long_name(tmp_path, form):
    """They hide the name of a member, and with it that it is an image."""
    path, name = tmp_path / "a.tar", "x" * 120
    with tarfile.open(path, "w", format=form) as archive:
        for index in range(3):
            archive.addfile(tarfile.TarInfo(f"{index}{name}.png"))
    whole = path.read_bytes()
    assert len(open_input(path)) == 3
    place = whole.index(f"1{name}.png".encode()) // 512 * 512
    path.write_bytes(whole[:place] + bytes(512) + whole[place + 512 :])
    with pytest.raises(DataError, match="is incomplete or damaged: a header is full of zeros"):
        open_input(path)


def test_a_zip_whose_directory_swallows_files(tmp_path):
    path = write_zip(tmp_path / "a.zip", IMAGES)
    content = bytearray(path.read_bytes())
    first, second = (content.index(b"PK\1\2", start) for start in (0, content.index(b"PK\1\2") + 4))
    content[first + 32 : first + 34] = (second - first).to_bytes(2, "little")  # of its comment
    path.write_bytes(content)
    with pytest.raises(DataError, match="its directory does not have the 6 files that it says"):
        open_input(path)


def test_a_tar_whose_rest_was_never_written(tmp_path):
    path = write_tar(tmp_path / "a.tar", IMAGES)
    os.truncate(path, 3 * 1024)
    os.truncate(path, GIGABYTES)
    with (
        cheap(),
        pytest.raises(DataError, match=r"bytes follow the mark of its end\. Fetch it again"),
    ):
        open_input(path)


@pytest.mark.parametrize("writer", [write_tar, write_zip])
def test_archives_that_were_put_together(tmp_path, writer):
    path = writer(tmp_path / f"a.{writer.__name__[-3:]}", IMAGES)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(DataError, match="archives were put together, pack them as one"):
        open_input(path)


@pytest.mark.parametrize("data", [b"x", bytes(100), b"PK\5\6"])
def test_a_zip_with_data_behind_its_end(tmp_path, data):
    path = write_zip(tmp_path / "a.zip", IMAGES)
    with path.open("ab") as file:
        file.write(data)
    with pytest.raises(DataError, match=r"a\.zip` is"):
        open_input(path)


def test_comments_are_no_damage(tmp_path):
    path = write_zip(tmp_path / "a.zip", IMAGES)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"made by hand"
    assert len(open_input(path)) == 6


def test_each_place_where_a_tar_is_cut(tmp_path):
    path = write_tar(tmp_path / "a.tar", IMAGES)
    whole = path.read_bytes()
    end = 6 * 1024  # each member takes two blocks
    for length in range(600, end, 200):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.tar` "):
            open_input(path)


def header(name, size, kind=tarfile.REGTYPE):
    """A header of a tar archive that says any size."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block[:512])


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [2**31, -1024])
def test_headers_of_a_tar_beyond_reason(tmp_path, kind, size):
    path = tmp_path / "a.tar"
    path.write_bytes(header("x.png", size, kind))
    os.truncate(path, GIGABYTES)
    with cheap(), pytest.raises(DataError, match=r"has a header or directory of|negative size"):
        open_input(path)


def test_headers_of_a_tar_that_lead_back_or_out(tmp_path):
    path = tmp_path / "a.tar"
    for size, message in ((-512, "leads back"), (-1024, "leads back"), (2**40, "after its end")):
        path.write_bytes(header("x.png", 0) + header("y.png", size) + bytes(2048))
        with cheap(), pytest.raises(DataError, match=message):
            open_input(path)


def test_headers_of_a_tar_that_are_full_of_digits(tmp_path):
    path, size = tmp_path / "a.tar", 60_000
    data = b"1" * size + bytes(-size % 512)
    path.write_bytes(header("x", size, tarfile.XHDTYPE) + data + header("x.png", 0) + bytes(1024))
    with cheap(), pytest.raises(DataError, match="a header is full of digits"):
        open_input(path)


def test_members_unpack_to_what_they_say_at_most(tmp_path):
    data = bytes(5_000_000)
    path = write_zip(tmp_path / "a.zip", {"x.png": data}, zipfile.ZIP_DEFLATED)
    with cheap(megabytes=11):
        assert open_input(path)._members[0].read() == data
    lying(path, "x.png", 99)
    with cheap(megabytes=1), pytest.raises(zipfile.BadZipFile):
        open_input(path)._members[0].read()


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_names_that_occur_twice_are_told(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    (write_tar if suffix == "tar" else write_zip)(path, {"a.png": png(PIXELS[0]), "b.png": b""})
    assert open_input(path).remarks == []
    if suffix == "tar":
        with tarfile.open(path, "a") as archive:
            archive.addfile(tarfile.TarInfo("a.png"))
    else:
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", b"")
    assert len(open_input(path)) == 2
    (remark,) = open_input(path).remarks
    assert "holds 1 names more than once, such as `a.png`" in remark


# --- folders and lists ----------------------------------------------------------------------


def test_a_folder_of_links_with_billions_of_paths(tmp_path):
    for level in range(25):
        (tmp_path / str(level)).mkdir()
        for side in "ab":
            (tmp_path / str(level) / side).symlink_to(tmp_path / str(level + 1))
    (tmp_path / "25").mkdir()
    (tmp_path / "25" / "x.png").write_bytes(png(PIXELS[0]))
    with cheap(), pytest.raises(DataError, match=f"to more than {limits.MAX_REVISITS} of its"):
        open_input(tmp_path / "0")


def test_folders_that_are_reached_twice_are_told(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(png(PIXELS[0]))
    assert ImageFolder(tmp_path).remarks == []
    (tmp_path / "b").symlink_to("a")
    folder = ImageFolder(tmp_path)
    assert folder.names == ("a/x.png", "b/x.png")
    assert folder.remarks[0].startswith("links lead to 1 folders again, such as `")


def test_lists_beyond_reason(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.touch()
    os.truncate(path, GIGABYTES)
    with cheap(), pytest.raises(DataError, match="bytes that a list may have: split it"):
        open_input(path)
    os.truncate(path, 10**8)
    with cheap(), pytest.raises(DataError, match="which does not exist"):
        open_input(path)
    (tmp_path / "x.png").write_bytes(png(PIXELS[0]))
    path.write_text("x.png\n" * 3)
    monkeypatch.setattr(limits, "MAX_LIST_BYTES", 17)
    with pytest.raises(DataError, match="has more than the 17 bytes"):
        open_input(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["a.txt", "a.zip", "a.tar", "a.parquet", "set"])
def test_pipes_are_not_waited_for(tmp_path, name):
    path = tmp_path / name
    if name == "set":
        path.mkdir()
        (path / "dataset_info.json").write_text("{}")
        os.mkfifo(path / "state.json")
    else:
        os.mkfifo(path)
    with cheap(seconds=10), pytest.raises(DataError, match="device, pipe or socket"):
        open_input(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_among_images_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "a.txt").write_text("x.png")
    for source in (open_input(tmp_path), open_input(tmp_path / "a.txt")):
        with pytest.raises(DataError, match="device, pipe or socket"):
            source.read(0)
        assert source.identity(0, content=True) is None


# --- tables ---------------------------------------------------------------------------------


def write_dataset(folder, rows, **state):
    """What `save_to_disk` writes."""
    pyarrow = pytest.importorskip("pyarrow")
    folder.mkdir(exist_ok=True)
    table = pyarrow.table(rows)
    with pyarrow.ipc.new_stream(str(folder / "data.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=4)
    (folder / "dataset_info.json").write_text("{}")
    content = {"_data_files": [{"filename": "data.arrow"}]} | state
    (folder / "state.json").write_text(json.dumps(content))
    return folder


ROWS = {
    "image": [{"bytes": data, "path": name} for name, data in IMAGES.items()],
    "label": ["a", "b"] * 3,
}


def test_labels_of_one_file_do_not_stand_for_rows_of_another(tmp_path):
    folder = write_dataset(tmp_path / "first", {"image": ROWS["image"]})
    (folder / "data.arrow").rename(folder / "bare.arrow")
    names = [{"filename": "bare.arrow"}, {"filename": "data.arrow"}]
    write_dataset(folder, ROWS, _data_files=names)
    with pytest.raises(
        DataError,
        match=r"data\.arrow` has its samples in `image` and .* in `label`, .* and no column: give",
    ):
        open_input(folder)


@pytest.mark.parametrize("name", ["../x.arrow", "/tmp/x.arrow", "link.arrow", "up/x.arrow", "pipe"])
def test_a_dataset_cannot_name_files_elsewhere(tmp_path, name):
    inner = write_dataset(tmp_path / "in", ROWS, _data_files=[{"filename": name}])
    (tmp_path / "x.arrow").write_bytes((inner / "data.arrow").read_bytes())
    (inner / "link.arrow").symlink_to(tmp_path / "x.arrow")
    (inner / "up").symlink_to(tmp_path)
    os.mkfifo(inner / "pipe")
    with pytest.raises(DataError, match=r"leads out of it|is not a regular file") as error:
        open_input(inner)
    assert f"`{inner}`" in str(error.value)


@pytest.mark.parametrize("kind", ["parquet", "dataset"])
@pytest.mark.parametrize("name", ["../x.png", "/etc/hostname", "link.png", "up/x.png", "C:\\x.png"])
def test_rows_cannot_name_files_elsewhere(tmp_path, kind, name):
    parquet = pytest.importorskip("pyarrow.parquet")
    inner = tmp_path / "in"
    inner.mkdir()
    (tmp_path / "x.png").write_bytes(png(PIXELS[0]))
    (inner / "y.png").write_bytes(png(PIXELS[1]))
    (inner / "link.png").symlink_to(tmp_path / "x.png")
    (inner / "up").symlink_to(tmp_path)
    rows = {"image": [{"bytes": None, "path": name}, {"bytes": None, "path": "y.png"}]}
    rows["image"].append({"bytes": b"", "path": None})
    write_dataset(inner, rows)
    if kind == "parquet":
        import pyarrow

        parquet.write_table(pyarrow.table(rows), inner / "a.parquet")
    source = open_input(inner / "a.parquet" if kind == "parquet" else inner)
    with pytest.raises(DataError, match="leads out of it"):
        source.read(0)
    assert source.read(1).pixels.shape == (3, 5, 4)
    assert source.identity(0, content=True) is None


def test_files_of_a_dataset_that_are_replaced_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.0)
    keys = set()
    for order in (1, -1):
        rows = {"image": ROWS["image"][::order]}
        path = write_dataset(tmp_path / f"{order}", rows) / "data.arrow"
        path.replace(write_dataset(tmp_path / "set", rows) / "data.arrow")
        os.utime(tmp_path / "set" / "data.arrow", (1e9, 1e9))
        source = open_input(tmp_path / "set")
        keys |= {source.identity(index, content=False) for index in range(6)}
    assert len(keys) == 12
    assert None not in keys

    (tmp_path / "1" / "data.arrow").write_bytes((tmp_path / "set" / "data.arrow").read_bytes())
    (tmp_path / "1" / "data.arrow").replace(tmp_path / "set" / "data.arrow")
    assert source.identity(0, content=False) is None
    with pytest.raises(DataError, match=r"data\.arrow` was replaced while it was read: run again"):
        source.read(0)


STATES = ["", "{", "[]", "null", "{}", '{"_data_files": 3}', '{"_data_files": [3]}', "[" * 10**5]
STATES += ['{"_data_files": [{"filename": 3}]}', '{"_data_files": [{"filename": ""}]}', "\0\xff"]
STATES += ['{"_data_files": [{"filename": "none.arrow"}]}', '{"_data_files": []}']


@pytest.mark.parametrize("content", STATES, ids=range(len(STATES)))
@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_malformed_descriptions_of_a_dataset(tmp_path, name, content):
    write_dataset(tmp_path, ROWS)
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=r"` (is|has|does|holds)"):
        open_input(tmp_path)


HEADERS = ["", "[]", "[" * 10**5, '{"info": 3}', '{"info": {"features": [{"label": 3}]}}']
HEADERS += [f'{{"info": {{"features": {{"label": {{"names": {n}}}}}}}}}' for n in ("3", "null")]
HEADERS += ['{"info": {"features": {"label": {"names": "ab"}}}}', "\0\xff"]


@pytest.mark.parametrize("content", HEADERS, ids=range(len(HEADERS)))
def test_malformed_names_of_classes(tmp_path, content):
    """Classes then go by their numbers; letters of a text are no names."""
    pyarrow = pytest.importorskip("pyarrow")
    folder = write_dataset(tmp_path / "set", ROWS)
    table = pyarrow.table({**ROWS, "label": [0, 1] * 3})
    table = table.replace_schema_metadata({b"huggingface": content.encode("latin-1")})
    with pyarrow.ipc.new_stream(str(folder / "data.arrow"), table.schema) as stream:
        stream.write_table(table)
    assert open_input(folder).labels == ("0", "1") * 3


def test_descriptions_beyond_reason(tmp_path):
    write_dataset(tmp_path / "set", ROWS)
    os.truncate(tmp_path / "set" / "state.json", GIGABYTES)
    with (
        cheap(megabytes=150),
        pytest.raises(DataError, match=r"`state\.json` of more than 67108864"),
    ):
        open_input(tmp_path / "set")
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    os.truncate(path, GIGABYTES)
    with path.open("ab") as file:
        file.write(struct.pack("<I", 2**31) + b"PAR1")
    with cheap(), pytest.raises(DataError, match="its description is longer than"):
        open_input(path)


def test_tables_beyond_reason(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = pyarrow.table({"image": [bytes(1000)] * 6, "label": ["x" * 100] * 6})
    parquet.write_table(rows, tmp_path / "a.parquet", use_dictionary=False)
    assert len(open_input(tmp_path / "a.parquet")) == 6
    write_dataset(tmp_path / "set", ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(limits, "MAX_ROWS", 5)
        for path in (tmp_path / "a.parquet", tmp_path / "set"):
            with pytest.raises(DataError, match="holds 6 images, more than the 5 that are read"):
                open_input(path)
    monkeypatch.setattr(limits, "FREE_BYTES", 100)
    monkeypatch.setattr(limits, "MAX_EXPANSION", 1)
    with pytest.raises(DataError, match="more than 1 times as many: save it uncompressed"):
        open_input(tmp_path / "a.parquet")


POOLS = []  # which what was allocated in them needs


@contextmanager
def arrow_memory(megabytes):
    """Little memory as pyarrow knows of it."""
    pyarrow = pytest.importorskip("pyarrow")
    before = pyarrow.default_memory_pool()
    pool = pyarrow.proxy_memory_pool(before)
    POOLS.append(pool)
    pyarrow.set_memory_pool(pool)
    try:
        yield
        assert pool.max_memory() < megabytes * 1e6
    finally:
        pyarrow.set_memory_pool(before)


@pytest.mark.parametrize("embedded", [False, True])
def test_a_parquet_file_that_holds_one_image_a_thousand_times(tmp_path, monkeypatch, embedded):
    pyarrow = pytest.importorskip("pyarrow")
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.0)
    parquet = pytest.importorskip("pyarrow.parquet")
    content = IMAGES["0.png"] + bytes(900_000)  # behind the end of the image
    value = {"bytes": content, "path": "x" * 10_000} if embedded else content
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    image = pyarrow.array([value] * 20, kind if embedded else pyarrow.binary())
    image = pyarrow.chunked_array([image] * 50)
    table = pyarrow.table({"image": image, "label": ["y" * 100] * 999 + ["z"]})
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd")
    del table, image
    with arrow_memory(20):
        source = open_input(tmp_path / "a.parquet")
        assert np.array_equal(source.read(999).pixels.permute(1, 2, 0), PIXELS[0])
        assert source.identity(3, content=False) != source.identity(4, content=False)
    assert source.labels == ("y" * 100,) * 999 + ("z",)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_arrow_files_that_may_unpack_to_any_size(tmp_path, compression, dictionary):
    pyarrow = pytest.importorskip("pyarrow")
    folder = write_dataset(tmp_path, ROWS)
    label = pyarrow.array(["x" * 10**6, "y"] * 4)
    label = label.dictionary_encode() if dictionary else label
    table = pyarrow.table({"image": [IMAGES["0.png"] + bytes(10**6)] * 8, "label": label})
    for options, refused in ((None, False), (compression, True)):
        options = pyarrow.ipc.IpcWriteOptions(compression=options)
        path = str(folder / "data.arrow")
        with pyarrow.ipc.new_stream(path, table.schema, options=options) as stream:
            stream.write_table(table, max_chunksize=3)
        with arrow_memory(1):
            if not refused:
                assert open_input(folder).labels == ("x" * 10**6, "y") * 4
                continue
            with pytest.raises(DataError, match=r"data\.arrow` is compressed: save it again"):
                open_input(folder)


@pytest.mark.parametrize("kind", ["parquet", "dataset"])
def test_classes_of_tables_beyond_reason(tmp_path, monkeypatch, kind):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = ROWS | {"label": [f"{index}" * 100 for index in range(6)]}
    path = tmp_path / "a.parquet"
    if kind == "dataset":
        path = write_dataset(tmp_path / "set", rows)
    else:
        parquet.write_table(pyarrow.table(rows), path, row_group_size=2)
    assert open_input(path).labels == tuple(rows["label"])
    monkeypatch.setattr(limits, "MAX_LABEL_BYTES", 599)
    with pytest.raises(DataError, match="classes of more than the 599 bytes that are read: leave"):
        open_input(path)


def mutant(content, rng):
    """Flip bytes, write extreme numbers, or cut."""
    damaged = bytearray(content)
    kind = rng.randrange(3)
    if kind == 0:
        for _ in range(rng.choice([1, 4, 40])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    elif kind == 1:
        place, value = rng.randrange(len(damaged) - 8), rng.choice([2**31 - 1, 2**40, -1, -(2**40)])
        damaged[place : place + 8] = value.to_bytes(8, "little", signed=True)
    else:
        del damaged[rng.randrange(len(damaged)) :]
    return bytes(damaged)


@pytest.mark.parametrize("kind", ["dataset", "parquet", "vectors"])
def test_damaged_tables(tmp_path, kind):
    """Pyarrow trusts what is in memory: offsets of Arrow files lead anywhere, also out of it."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    if kind == "dataset":
        name = write_dataset(tmp_path / "set", ROWS)
        path = name / "data.arrow"
    else:
        vectors = {"v": [[1.0, 2.0]] * 6, "label": ["a", "b"] * 3}
        name = path = tmp_path / "a.parquet"
        rows = ROWS if kind == "parquet" else vectors
        parquet.write_table(pyarrow.table(rows), path, row_group_size=4)
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        path.write_bytes(mutant(whole, rng))
        try:
            source = open_input(name)
            if kind != "vectors":
                source.identity(0, content=False)
                for index in range(len(source)):
                    source.read(index)
        except DataError:
            refused += 1
    assert 50 < refused <= 150


# --- vectors, splits, repositories ----------------------------------------------------------


def write_parquet(path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path, row_group_size=16)
    return path


@pytest.mark.parametrize("kind", ["float", "double", "halffloat", "int32"])
@pytest.mark.parametrize("fixed", [False, True])
def test_vectors_in_parquet_are_features(tmp_path, monkeypatch, kind, fixed):
    pyarrow = pytest.importorskip("pyarrow")
    monkeypatch.setattr(limits, "MAPPED_BYTES", 100 if fixed else 2**26)
    value = getattr(pyarrow, {"float": "float32", "double": "float64", "halffloat": "float16"}.get(
        kind, kind))()  # fmt: skip
    wanted = (10 * FEATURES).astype(value.to_pandas_dtype())
    column = pyarrow.array(list(wanted), pyarrow.list_(value, 3 if fixed else -1))
    labels = [f"{index % 2}" for index in range(40)]
    write_parquet(tmp_path / "a.parquet", id=range(40), vector=column, label=labels)
    found = open_input(tmp_path / "a.parquet")
    assert np.array_equal(found.features, wanted)
    assert found.features.dtype == wanted.dtype
    assert found.labels == tuple(labels)
    assert found.remarks == ["features are those of its column `vector`"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [[1.0], [2.0]], "b": [[1.0], [2.0]]}, "has vectors in a, b: name the one to read"),
        ({"a": [[1.0], [2.0, 3.0]]}, "vectors of 1 to 2 values: give all of them one length"),
        ({"a": [[1.0], None]}, "has rows or values that are missing"),
        ({"a": [[1.0], [None]]}, "has rows or values that are missing"),
        ({"a": [[1.0], [float("nan")]]}, "row 1 has a NaN or infinite value"),
        ({"a": ["x"]}, r"has the columns a: name the one with encoded .*\.npy file \(N, D\)"),
    ],
)
def test_vectors_that_are_no_features(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        open_input(write_parquet(tmp_path / "a.parquet", **columns))


def test_images_come_before_vectors(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", image=list(IMAGES.values()), v=[[1.0]] * 6)
    assert len(open_input(path).names) == 6


def test_several_splits_are_told(tmp_path):
    for split in ("train", "test"):
        for shard in range(2):
            name = f"{split}-0000{shard}-of-00002.parquet"
            write_parquet(tmp_path / "both" / name, image=list(IMAGES.values()))
    assert open_input(tmp_path / "both").remarks == [
        "the splits test, train are read as one set: give the files of one of them"
    ]
    for name in ("train-00000-of-00002", "train-00001-of-00002"):
        write_parquet(tmp_path / "one" / f"{name}.parquet", image=list(IMAGES.values()))
    assert open_input(tmp_path / "one").remarks == []
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "images" / split / "x.png").write_bytes(png(PIXELS[0]))
        (tmp_path / "tars").mkdir(exist_ok=True)
        write_tar(tmp_path / "tars" / f"{split}-000.tar", IMAGES)
    for name in ("images", "tars"):
        assert open_input(tmp_path / name).remarks[0].startswith("the splits train, val are read")


def test_a_repository_of_parquet_files(tmp_path):
    for name in ("README.md", ".gitattributes", "data/extra.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", image=list(IMAGES.values()))
    source = open_input(tmp_path)
    assert len(source) == 6
    assert np.array_equal(source.read(2).pixels.permute(1, 2, 0), PIXELS[2])
    write_parquet(tmp_path / "other" / "a.parquet", image=list(IMAGES.values()))
    with pytest.raises(DataError, match=r"2 \.parquet files in data, other: give the folder that"):
        open_input(tmp_path)


def test_a_folder_of_arrays(tmp_path):
    for index in range(2):
        np.save(tmp_path / f"{index}.npy", FEATURES)
    with pytest.raises(DataError, match=r"holds 2 \.npy or \.npz files .* with np\.concatenate"):
        open_input(tmp_path)
