"""Lists of paths, tables, data sets by name and functions as sources of images."""

import io
import os
import pickle
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from otmetrics.errors import DataError
from otmetrics.images import FeatureArray, ImageArray, ImageFolder, files, open_input
from otmetrics.images.files import labels_of
from otmetrics.scoring.extraction import Extraction, extracted
from otmetrics.user_code import is_object_name

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
EXPECTED = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def assert_all(source):
    assert len(source) == len(source.names) == 6
    found = torch.stack([source.read(index).pixels for index in range(6)])
    assert torch.equal(found, EXPECTED)


@pytest.fixture
def folder(tmp_path):
    for index, pixels in enumerate(PIXELS):
        path = tmp_path / "images" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(pixels))
    return tmp_path / "images"


# --- labels ---------------------------------------------------------------------------------


def test_top_folders_are_classes_where_every_image_has_one():
    assert labels_of(["a/x.png", "b/c/y.png"]) == ("a", "b")
    assert labels_of(["a/x.png", "y.png"]) is None
    assert labels_of(["a/x.png", "a/y.png"]) is None
    assert labels_of(["x.png"]) is None


def test_labels_reach_the_feature_set_and_its_file(tmp_path):
    from otmetrics.scoring.feature_set import save_features

    for index, label in enumerate("abb"):
        path = tmp_path / "images" / label / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(PIXELS[index]))
    (found,) = extracted([tmp_path / "images"], Extraction(features="pixels"))
    assert found.labels == ["a", "b", "b"]
    assert found.source["classes"] == {"a": 1, "b": 2}
    save_features(found, tmp_path / "a.npz")
    (again,) = extracted([tmp_path / "a.npz"])
    assert again.labels == ["a", "b", "b"]
    assert isinstance(open_input(tmp_path / "a.npz"), FeatureArray)


def test_labels_of_an_array_of_images(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=np.arange(6))
    assert open_input(tmp_path / "a.npz").labels == tuple("012345")
    np.savez(tmp_path / "b.npz", images=PIXELS, labels=np.arange(6)[:, None])
    assert open_input(tmp_path / "b.npz").labels == tuple("012345")


@pytest.mark.parametrize(
    ("labels", "remedy"),
    [
        (np.eye(6, dtype=int), r"int64 of shape \(6, 6\), .* labels.argmax\(1\) of one-hot rows"),
        (np.full(6, np.nan), r"float64 of shape \(6,\), .* labels.astype\(int\)"),
        (np.full(6, "a", "S1"), "are not read: classes are one whole number or text per row"),
    ],
)
@pytest.mark.parametrize("entry", ["images", "features"])
def test_labels_that_are_no_classes_are_told(tmp_path, labels, remedy, entry):
    values = PIXELS if entry == "images" else np.random.default_rng(0).normal(size=(6, 3))
    np.savez(tmp_path / "a.npz", **{entry: values}, labels=labels)
    features = "pixels" if entry == "images" else None
    (found,) = extracted([tmp_path / "a.npz"], Extraction(features=features))
    assert found.labels is None
    (line,) = [line for line in found.notes if "`labels`" in line]
    assert re.search(remedy, line)


@pytest.mark.parametrize("shape", [(), (5,), (7, 1)])
def test_labels_of_other_rows_are_refused(tmp_path, shape):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=np.zeros(shape, int))
    with pytest.raises(DataError, match=r"a\.npz` has `labels` of shape .*: give one per row, or"):
        open_input(tmp_path / "a.npz")


# --- progress -------------------------------------------------------------------------------


def test_progress_starts_before_the_network_and_counts_what_is_kept(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("OTMETRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.0)
    for path in folder.glob("*.png"):
        os.utime(path, (time.time() - 60,) * 2)

    def calls(**options):
        found = []
        options = Extraction(batch_size=4, **options)
        extracted([folder], options, progress=lambda *call: found.append(call))
        return found

    task = f"features of {folder}"
    expected = [(f"{task}: starting", 0, 6), (task, 4, 6), (task, 6, 6)]
    assert calls(features="pixels") == expected
    assert calls(num=4, cache=True) == [(f"{task}: starting", 0, 4), (task, 4, 4)]
    assert calls(cache=True) == [(f"{task}: starting", 4, 6), (task, 6, 6)]
    assert calls(cache=True) == [(f"{task}: from the cache", 6, 6)]


# --- lists ----------------------------------------------------------------------------------


def test_a_text_file_names_images_in_its_order(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.0)
    lines = ["# first", "images/3.png", "", f"  {folder / '1.png'}  ", "images/3.png"]
    path = tmp_path / "list.txt"
    path.write_text("\n".join(lines))
    source = open_input(path)
    assert source.names == ("images/3.png", str(folder / "1.png"), "images/3.png")
    found = torch.stack([source.read(index).pixels for index in range(3)])
    assert torch.equal(found, EXPECTED[[3, 1, 3]])
    os.utime(folder / "1.png", (time.time() - 60,) * 2)
    assert source.identity(1, content=False) == ImageFolder(folder).identity(1, content=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no images: write one path per line"),
        (b"# nothing\n", "names no images"),
        (b"images/9.png", r"names `images/9\.png`, which does not exist"),
        (b"\xff\xfe\x00", "is not a text in UTF-8"),
        (b"a" * 300, "which does not exist"),
    ],
)
def test_lists_that_say_nothing_usable_are_refused(folder, tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_input(tmp_path / "list.txt")
    with pytest.raises(DataError, match="does not exist: check the path"):
        open_input(tmp_path / "none.txt")


# --- tables ---------------------------------------------------------------------------------


@pytest.fixture
def dataset():
    datasets = pytest.importorskip("datasets")
    classes = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"image": datasets.Image(), "label": classes})
    images = [{"bytes": png(pixels), "path": None} for pixels in PIXELS]
    return datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 3}, features=features)


def test_a_dataset_on_disk(dataset, tmp_path):
    dataset.save_to_disk(tmp_path / "data")
    source = open_input(tmp_path / "data")
    assert_all(source)
    assert source.labels == ("cat", "dog") * 3
    assert source.names[2] == "data[2]"
    assert_all(pickle.loads(pickle.dumps(source)))
    keys = {source.identity(index, content=True) for index in range(6)}
    assert len(keys) == 6
    assert None not in keys


def test_splits_must_be_chosen(dataset, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict(train=dataset, test=dataset).save_to_disk(tmp_path / "data")
    with pytest.raises(DataError, match="holds the splits train, test: give the folder of one"):
        open_input(tmp_path / "data")
    assert_all(open_input(tmp_path / "data" / "test"))


def test_parquet_in_small_row_groups_and_several_files(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.0)
    dataset.select(range(4)).to_parquet(tmp_path / "p-0.parquet", batch_size=3)
    dataset.select(range(4, 6)).to_parquet(tmp_path / "p-1.parquet")
    for source in (open_input(tmp_path), open_input(tmp_path / "p-{0..1}.parquet")):
        assert_all(source)
        assert source.labels == ("cat", "dog") * 3
        assert_all(pickle.loads(pickle.dumps(source)))
        for index in (5, 0, 4, 1):
            assert torch.equal(source.read(index).pixels, EXPECTED[index])
    for path in tmp_path.glob("*.parquet"):
        os.utime(path, (time.time() - 60,) * 2)
    assert source.identity(0, content=False) is None  # it changed since
    with pytest.raises(DataError, match=r"p-1\.parquet` was replaced while it was read: run again"):
        pickle.loads(pickle.dumps(source)).read(5)
    source = open_input(tmp_path)
    keys = {source.identity(index, content) for index in range(6) for content in (True, False)}
    assert len(keys) == 12
    alone = open_input(tmp_path / "p-1.parquet")
    assert alone.identity(0, content=False) == source.identity(4, content=False)


def test_tables_without_images_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"x": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has the columns x: name the one with encoded"):
        open_input(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"file": [b"no image", None]}), tmp_path / "b.parquet")
    source = open_input(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet\[0\]` is not a readable image"):
        source.read(0)
    with pytest.raises(DataError, match=r"b\.parquet\[1\]` holds no image: leave the row out"):
        source.read(1)
    (tmp_path / "c.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="is not a readable table"):
        open_input(tmp_path / "c.parquet")
    with pytest.raises(DataError, match="does not exist: check the path"):
        open_input(tmp_path / "d.parquet")


def test_tables_that_do_not_belong_together_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    first = {"image": [png(PIXELS[0])], "label": [1]}
    parquet.write_table(pyarrow.table(first), tmp_path / "a.parquet")
    for second, message in (
        (
            {"image": first["image"]},
            "classes in no column, .* and `label`: give all files the same",
        ),
        (
            {"img": first["image"], "label": [1]},
            r"b\.parquet` has its samples in `img` and .*, `.*` in `image` and",
        ),
    ):
        parquet.write_table(pyarrow.table(second), tmp_path / "b.parquet")
        with pytest.raises(DataError, match=message):
            open_input(tmp_path)
    (tmp_path / "c.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds archives and \.parquet files"):
        open_input(tmp_path)


def test_files_beside_a_table_are_known_by_their_content(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.0)
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def written(rows, name):
        parquet.write_table(pyarrow.table({"image": rows}), tmp_path / name)
        for path in tmp_path.iterdir():
            os.utime(path, (time.time() - 60,) * 2)
        return open_input(tmp_path / name)

    (tmp_path / "0.png").write_bytes(png(PIXELS[0]))
    inside = {"bytes": png(PIXELS[1]), "path": "0.png"}
    mixed = written([inside, {"bytes": None, "path": "0.png"}], "a.parquet")
    before = [mixed.identity(index, content=False) for index in (0, 1)]
    assert None not in before
    (tmp_path / "0.png").write_bytes(png(PIXELS[2]))
    os.utime(tmp_path / "0.png", (time.time() - 60,) * 2)
    after = [mixed.identity(index, content=False) for index in (0, 1)]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]
    (tmp_path / "0.png").unlink()  # and so all images lie in the tables
    (tmp_path / ".DS_Store").write_bytes(b"")
    whole = written([inside, inside], "b.parquet")
    assert whole.identity(0, content=False) not in (None, whole.identity(0, content=True))

    # What could not be told from a table, and what is hidden, is not read as an image.
    for name in (".0.png", "0.json", ".x/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(PIXELS[0]))
        with pytest.raises(DataError, match="which is hidden or no image by its name: rename it"):
            written([inside, {"bytes": None, "path": name}], "b.parquet").read(1)
    (tmp_path / "c.json").mkdir()
    whole = written([inside, inside], "b.parquet")
    assert whole.identity(0, content=False) == whole.identity(0, content=True)


@pytest.mark.parametrize("name", ["/etc/hostname", "../x.png", "pipe"])
def test_a_table_cannot_name_files_elsewhere(tmp_path, name):
    (tmp_path / "x.png").write_bytes(png(PIXELS[0]))
    tmp_path = tmp_path / "inner"
    tmp_path.mkdir()
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
    rows = pyarrow.table({"image": [{"bytes": None, "path": name}, {"bytes": b"", "path": None}]})
    parquet.write_table(rows, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"leads out of it|is not a regular file"):
        open_input(tmp_path / "a.parquet").read(0)


@pytest.mark.parametrize("name", ["a.parquet", "data"])
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, name):
    for module in [one for one in sys.modules if one.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "data").mkdir()
    for part in ("state", "dataset_info"):
        (tmp_path / "data" / f"{part}.json").write_text("{}")
    with pytest.raises(DataError, match=r'needs the package pyarrow: pip install "otmetrics\[d'):
        open_input(tmp_path / name)


# --- data sets of torchvision ---------------------------------------------------------------


@pytest.mark.skipif(not (DATA / "MNIST").exists(), reason="needs MNIST beside the project")
def test_mnist_by_name(monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setenv("OTMETRICS_DATA", str(DATA))
    source = open_input("mnist:test")
    assert len(source) == 10_000
    digit = str(int(torchvision.datasets.MNIST(str(DATA), train=False).targets[0]))
    assert source.labels[0].startswith(digit)
    assert source.read(0).pixels.shape == (3, 28, 28)
    assert source.names[3] == "mnist:test[3]"
    assert source.identity(0, content=False) == source.identity(0, content=True)
    (found,) = extracted(["mnist:test"], Extraction(features="pixels", num=5))
    assert found.source["kind"] == "data set"


def test_cifar_and_fashion_by_name(monkeypatch, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setenv("OTMETRICS_DATA", str(tmp_path))
    # torchvision's own reader, but no checksums of the published files.
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "test_list", [["test_batch", None]])
    monkeypatch.setattr(kind, "train_list", [])
    monkeypatch.setattr(kind, "meta", {"filename": "meta", "key": "label_names", "md5": None})
    root = tmp_path / kind.base_folder
    root.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    batch = {"data": pixels.reshape(4, -1), "labels": [1, 0, 1, 1]}
    (root / "test_batch").write_bytes(pickle.dumps(batch))
    (root / "meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}))
    source = open_input("cifar10:test")
    assert source.labels == ("dog", "cat", "dog", "dog")
    assert torch.equal(source.read(2).pixels, torch.from_numpy(pixels[2]))

    root = tmp_path / "FashionMNIST" / "raw"
    root.mkdir(parents=True)
    grey = np.random.default_rng(2).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        for name, values in (("images-idx3", grey), ("labels-idx1", np.uint8([9, 0, 9]))):
            header = b"\0\0\x08" + bytes([values.ndim])
            header += b"".join(size.to_bytes(4, "big") for size in values.shape)
            (root / f"{part}-{name}-ubyte").write_bytes(header + values.tobytes())
    source = open_input("fashion_mnist:test")
    assert source.labels == ("Ankle boot", "T-shirt/top", "Ankle boot")
    assert torch.equal(source.read(1).pixels, torch.from_numpy(grey[1]).expand(3, 28, 28))


def test_a_data_set_that_is_not_there_says_where_it_looked(monkeypatch, tmp_path):
    monkeypatch.setenv("OTMETRICS_DATA", str(tmp_path))
    with pytest.raises(
        DataError,
        match=r"not hold the files of cifar10, intact .*: name the folder of its files in .*DATA",
    ):
        open_input("cifar10:test")
    with pytest.raises(DataError, match="`svhn` is a data set of several parts"):
        open_input("svhn")
    # torchvision opens its images one by one, without our limits: it is for training only.
    for name in ("celeba", "celeba:test"):
        with pytest.raises(DataError, match=f"`{name}` is .* train on: give the folder of its im"):
            open_input(name)
    with pytest.raises(DataError, match="`cifar10:tset` must end in :train or :test"):
        open_input("cifar10:tset")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataError, match="needs the package torchvision"):
        open_input("cifar10:test")


# --- functions ------------------------------------------------------------------------------

MODULE = """
import numpy as np, torch

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)

def tensors():
    for part in (PIXELS[:4], PIXELS[4:]):
        yield torch.from_numpy(part).permute(0, 3, 1, 2)

def arrays():
    yield from np.split(PIXELS, 3)

def endless():
    while True:
        yield PIXELS

def grey():
    yield torch.zeros(2, 1, 5, 4, dtype=torch.uint8)

def floats():
    yield torch.zeros(2, 3, 5, 4)

def sizes():
    yield PIXELS
    yield PIXELS[:, :3]

def nothing():
    return []

def needs(seed):
    yield PIXELS

def text():
    yield "images"

def broken():
    yield PIXELS
    raise KeyError("weights")

def plain():
    raise ValueError("no weights")

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_samples.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield "my_samples"
    sys.modules.pop("my_samples", None)


@pytest.mark.parametrize("function", ["tensors", "arrays"])
def test_a_function_that_yields_batches(module, function):
    source = open_input(f"python:{module}:{function}")
    assert isinstance(source, ImageArray)
    assert_all(source)
    assert source.identity(0, content=False) is None
    assert source.identity(0, content=True) is not None


def test_an_endless_function_is_asked_for_what_is_used(module):
    (found,) = extracted([f"python:{module}:endless"], Extraction(features="pixels", num=20))
    assert len(found) == 20
    assert torch.equal(found.features[:6], found.features[6:12])


def test_a_grey_function(module):
    assert open_input(f"python:{module}:grey").read(1).pixels.shape == (3, 5, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "python:my_samples:floats",
            r"must yield uint8 tensors .* got torch.float32 \(2, 3, 5, 4\)",
        ),
        (
            "python:my_samples:needs",
            r"must take no arguments .*'seed'.*; wrap it in a function that fills them in\.$",
        ),
        ("python:my_samples:broken", r"raised KeyError: 'weights' \(.*my_samples.py, line \d+\)"),
        ("python:my_samples:text", "must yield uint8 tensors"),
        (
            "python:my_samples:sizes",
            r"yields images \(5, 4, 3\) and \(3, 4, 3\): give them one size",
        ),
        ("python:my_samples:nothing", "yields no images"),
        ("python:my_samples:number", "must yield batches of images, got int"),
        ("python:my_samples:missing", "has no 'missing'; choose from"),
        (
            "python:no_such_module:f",
            r"imported here .*no_such_module.*; check the name, or run where it can be imported\.$",
        ),
        ("python:my_samples", "must have the form python:package.module:function"),
        ("python:my_samples:a b", "must have the form python:package.module:function"),
    ],
)
def test_functions_that_do_not_yield_images_are_refused(module, name, message):
    with pytest.raises(DataError, match=message):
        open_input(name)


def test_what_looks_like_a_function():
    assert is_object_name("a.b:c.d")
    for text in ("a", "a:", ":b", "a/b:c", "C:\\x", "a b:c", "a:b:c"):
        assert not is_object_name(text)
    with pytest.raises(DataError, match="`nothing` does not exist"):
        open_input("nothing")
