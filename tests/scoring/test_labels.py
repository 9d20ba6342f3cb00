"""Classes from a table."""

import numpy as np
import pytest
import torch

from otmetrics import DataError, Extraction, extracted
from otmetrics.images import write_png
from otmetrics.scoring.feature_set import FeatureSet, save_features
from otmetrics.scoring.labels import labels_from, labels_of, read_labels


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> FeatureSet:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for name in ("x/a.png", "x/b.png", "y/b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        write_png(folder / name, torch.from_numpy(generator.integers(0, 256, (3, 8, 8), np.uint8)))
    (found,) = extracted([folder], Extraction(features="pixels"))
    return found


def table(tmp_path, text: str):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode())
    return path


def test_by_whole_names_and_by_ends_that_are_one_of_a_kind(tmp_path, images):
    path = table(tmp_path, 'name,label\r\na.png,cat\r\nx/b.png,dog\r\ny/b.png,"cat, wild"\r\n')
    assert labels_from(read_labels(path), path, images) == ["cat", "dog", "cat, wild"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.png,cat\nb.png,dog\n", r"no class for 2 of 3 images .* first for `x/b.png`"),
        ("a.png,cat\na.png,dog\n", "two classes, `cat` and `dog`"),
        ("\n\na.png\n", "line 3, must have two columns"),
        ("a.png;cat\n", "separate them by a comma"),
        ("a.png,\n", "line 1, must have a class of 1 to 1000 characters, got 0"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, images, text, says):
    path = table(tmp_path, text)
    with pytest.raises(DataError, match=says):
        labels_from(read_labels(path), path, images)


def test_files_that_are_no_tables(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(DataError, match="UTF-8"):
        read_labels(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(tmp_path / "none.csv")


def test_features_have_no_names():
    item = FeatureSet(torch.zeros(3, 2), {"extractor": "none"}, {"path": "real.npz"})
    with pytest.raises(DataError, match="without names"):
        labels_from({"a": "b"}, "labels.csv", item)


def test_one_folder_is_a_class_where_the_other_side_has_it(tmp_path, images):
    for name, folder in (("x", "x"), ("z", "samples")):
        path = tmp_path / name / folder / "a.png"
        path.parent.mkdir(parents=True)
        for end in "ab":
            write_png(path.with_name(f"{end}.png"), torch.zeros(3, 8, 8, dtype=torch.uint8))
    known, other = extracted([tmp_path / "x", tmp_path / "z"], Extraction(features="pixels"))
    assert known.labels is None
    assert labels_of(known, images) == ["x", "x"]
    assert labels_of(other, images) is None
    assert labels_of(known, other) is None
    assert labels_of(images, known) == ["x", "x", "y"]
    save_features(known, tmp_path / "x.npz")
    (again,) = extracted([tmp_path / "x.npz"])
    assert labels_of(again, images) == ["x", "x"]
