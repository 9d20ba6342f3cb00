"""What tables claim: rows, files and sizes that are not so are told, in little time and memory."""

import os
import random
import struct
from contextlib import contextmanager

import numpy as np
import pytest
from claim_cases import (
    FEATURES,
    GIGABYTES,
    IMAGES,
    PIXELS,
    ROWS,
    cheap,
    png,
    write_dataset,
    write_tar,
)

from otmetrics.errors import DataError
from otmetrics.images import (
    files,
    limits,
    open_input,
)


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
