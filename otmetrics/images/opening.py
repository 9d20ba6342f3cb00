"""From what the user names to a source of images or features."""

import os
from pathlib import Path

import numpy as np

from otmetrics.errors import DataError
from otmetrics.images.archives import PackedImages, expand_braces
from otmetrics.images.arrays import (
    MAGIC,
    FeatureArray,
    ImageArray,
    checked_features,
    loaded_array,
)
from otmetrics.images.damage import check_regular, name_errors, open_without_waiting
from otmetrics.images.files import (
    EXTENSIONS,
    ImageFolder,
    ListedImages,
    StoredImages,
    is_folder,
)
from otmetrics.images.named import (
    DATA_SETS,
    FOR_TRAINING,
    PREFIX,
    OfficialImages,
    generated_images,
)
from otmetrics.images.statistics import Statistics, checked_statistics
from otmetrics.user_code import is_object_name

_ARRAYS = {".npy", ".npz", ".pkl", ".pickle", ".pt", ".pth"}
_PAIR = ("mu.npy", "cov.npy")


def open_input(path: str | Path, most: int | None = None) -> StoredImages | FeatureArray:
    """Open what holds images or features; no code of a file is run, nothing is unpacked.

    ====================================  =========================================================
    what is named                         what is read
    ====================================  =========================================================
    a folder                              its images, recursively; or its .tar, .zip or .parquet
                                          files, those of the one folder in it that has any, or
                                          the Hugging Face dataset that it is
    `.zip`, `.tar`, `name-{00..12}.tar`   images in archives, such as the shards of a webdataset
    `.parquet`                            a column of encoded images, or one of vectors: features
    `.txt`                                the image files that it names, one per line
    `.npy`, `.npz`                        uint8 images (N, H, W, C), or features (N, D); an `.npz`
                                          at its entry `features`, else `images`, else `arr_0`,
                                          else its only one; or statistics `mu` and `sigma`
    `.pkl`, `.pt`, `.pth`                 arrays as above, and statistics of StyleGAN, EDM2 and
                                          others, if nothing but arrays and plain containers is
                                          in it; `file.pkl[fid]` where it has several
    a folder of `mu.npy` and `cov.npy`    statistics
    `cifar10:test` and the like           a data set that torchvision reads, in the folder that the
                                          environment variable OTMETRICS_DATA names, else `data`
    `python:package.module:function`      batches of images that the function yields
    ====================================  =========================================================

    Args:
        path: What the user names.
        most: How many images to take from a function, which has no end of its own.

    Returns:
        Images or features. Cost: one look at all names, or one pass over features, which are
        checked for NaN and infinity; images are read later.

    Raises:
        DataError: There is nothing that can be scored; the message says what was found instead.
    """
    text, path = str(path), Path(path)
    # A file or folder comes before any other meaning of its name.
    if not os.path.lexists(path):
        name, colon, _ = text.partition(":")  # the names of data sets are no names of files
        if not colon and name in DATA_SETS:
            splits = " or ".join(f"{name}:{split}" for split in DATA_SETS[name][1])
            raise DataError(f"`{name}` is a data set of several parts: give {splits}.")
        if colon and name in DATA_SETS:
            return OfficialImages(text)
        if text.startswith(PREFIX):
            return generated_images(text, most)
        if name in FOR_TRAINING:
            raise DataError(
                f"`{text}` is a data set that the bundled models train on: give the folder of its "
                "images."
            )
        # A name alone, which may come out of a folder, imports nothing.
        if is_object_name(text):
            raise DataError(
                f"`{text}` is not a file, a folder or a data set that is read by name: check it. "
                f"Images that a function yields are named as {PREFIX}{text}."
            )

        # One of several statistics in a file, such as `edm2.pkl[fid]`.
        base, bracket, network = text.removesuffix("]").rpartition("[")
        if bracket and text.endswith("]") and Path(base).is_file():
            return _array(Path(base), network)

    if is_folder(path):
        return _folder(path)
    suffix = path.suffix.lower()
    if suffix in _ARRAYS or _is_array(path):
        return _array(path)
    if suffix in {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz"}:
        return PackedImages(expand_braces(path))
    if suffix == ".parquet":
        return _table(expand_braces(path))
    return ListedImages(path) if suffix == ".txt" else ImageFolder(path)


def _folder(path: Path) -> StoredImages | FeatureArray:
    """A folder by what it holds; one that cannot be read says so as a folder of images."""
    try:
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError:
        return ImageFolder(path)
    if {"state.json", "dataset_info.json"} <= set(names) or "dataset_dict.json" in names:
        return _table([path], is_dataset=True)

    suffixes = {Path(name).suffix.lower() for name in names}
    shards = suffixes & {".tar", ".parquet"} or suffixes & {".zip"}
    others = suffixes & set(EXTENSIONS) or any((path / name).is_dir() for name in names)
    if set(_PAIR) <= set(names) and not others:
        return _pair(path)
    if not shards or others:
        return _image_folder(path)

    files = [path / name for name in names if Path(name).suffix.lower() in shards]
    if ".parquet" not in shards:
        return PackedImages(files)
    if len(shards) > 1:
        raise DataError(f"`{path}` holds archives and .parquet files: give one kind of them.")
    return _table(files)


def _image_folder(path: Path) -> StoredImages | FeatureArray:
    """A folder of images; or, where it has none, the one folder in it that has .parquet files."""
    try:
        return ImageFolder(path)
    except DataError:
        below = {file.parent for file in path.glob("[!.]*/[!.]*.parquet")}
        if len(below) != 1:
            raise
    return _folder(below.pop())


def _table(paths: list[Path], is_dataset: bool = False) -> StoredImages | FeatureArray:
    """The images or features of parquet files, or of the folder of a dataset."""
    try:
        import pyarrow  # noqa: F401 - an extra, told before the first file is looked at
    except ImportError as error:
        raise DataError(
            f'`{paths[0]}` needs the package pyarrow: pip install "otmetrics[datasets]".'
        ) from error

    from otmetrics.images.tables import dataset_images, parquet_table

    return dataset_images(paths[0]) if is_dataset else parquet_table(paths)


def _array(path: Path, network: str | None = None) -> ImageArray | FeatureArray:
    """The array of a file: images where it has four axes, features where it has two."""
    array, protocol, labels, identity, moments, remarks = loaded_array(path, network)
    if array is None:
        assert moments is not None
        return _statistics(path, moments)
    if array.ndim != 2:
        return ImageArray(array, path, labels, identity, moments, remarks)
    told = [*remarks, *([] if moments is None else moments.remarks)]
    return FeatureArray(checked_features(array, path), path, protocol, labels, moments, told)


def _statistics(path: Path, moments: Statistics) -> FeatureArray:
    """Statistics without samples."""
    nothing = np.empty((0, len(moments.mean)))
    return FeatureArray(nothing, path, None, moments=moments, remarks=moments.remarks)


def _pair(folder: Path) -> FeatureArray:
    """Statistics in two files of a folder, as fadtk keeps them."""
    mean, covariance = [np.asarray(loaded_array(folder / name).array) for name in _PAIR]
    kind = f"mean and covariance ({', '.join(_PAIR)})"
    with name_errors(folder, "cannot be read", "write it again"):
        found = checked_statistics(Statistics(mean, covariance, None, kind))
    return _statistics(folder, found)


def _is_array(path: Path) -> bool:
    """Whether a file of any name begins as an array or a pickle does."""
    try:
        check_regular(path)
        with open_without_waiting(path) as file:
            start = file.read(len(MAGIC))
    except (OSError, DataError):
        return False
    return start == MAGIC or (start[:1] == b"\x80" and start[1:2] in {b"\2", b"\3", b"\4", b"\5"})
