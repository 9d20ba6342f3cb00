"""Data sets by name, and images that a function of the user generates."""

import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from otmetrics.errors import Argument, DataError, ignored_warnings
from otmetrics.images.arrays import ImageArray
from otmetrics.images.decode import DecodedImage, image_tensor
from otmetrics.images.facts import pixel_facts
from otmetrics.images.files import digest
from otmetrics.safe_files import user_path
from otmetrics.user_code import (
    NoSuchObjectError,
    check_takes_no_arguments,
    import_object,
    is_object_name,
)

ROOT_VARIABLE = "OTMETRICS_DATA"
"""The environment variable that names the folder of torchvision's data sets."""

_TRAIN_OR_TEST = {"train": {"train": True}, "test": {"train": False}}


def _by_split(*splits: str) -> dict[str, dict[str, Any]]:
    return {split: {"split": split} for split in splits}


DATA_SETS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "mnist": ("MNIST", _TRAIN_OR_TEST),
    "fashion_mnist": ("FashionMNIST", _TRAIN_OR_TEST),
    "kmnist": ("KMNIST", _TRAIN_OR_TEST),
    "cifar10": ("CIFAR10", _TRAIN_OR_TEST),
    "cifar100": ("CIFAR100", _TRAIN_OR_TEST),
    "svhn": ("SVHN", _by_split("train", "test", "extra")),
    "stl10": ("STL10", _by_split("train", "test", "unlabeled")),
}
"""Name -> torchvision's class, and what it takes for each split: what is scored by name.

torchvision has their pixels in memory once they are open.
"""

# Its files are opened one by one by torchvision, without our limits and checks: not to be scored.
FOR_TRAINING = {"celeba": ("CelebA", _by_split("train", "valid", "test", "all"))}

_REMEDY = (
    "check ",
    Argument("data_root", in_python="root"),
    ", or pass ",
    Argument("download"),
    " to fetch them.",
)


def open_torchvision(
    name: str,
    split: str,
    root: str | Path,
    *,
    download: bool = False,
    remedy: tuple[str, ...] = _REMEDY,
) -> Any:
    """Open a split of a data set as torchvision does, without a word on stdout.

    Args:
        name: A key of `DATA_SETS`, or celeba.
        split: A key of its splits.
        root: The folder in which torchvision keeps the data set.
        download: Fetch what is missing there.
        remedy: What the message says to do where the files are missing or damaged, in parts.

    Returns:
        torchvision's data set.

    Raises:
        DataError: torchvision is missing, or the files are missing, damaged or cannot be fetched.
    """
    class_name, splits = (DATA_SETS | FOR_TRAINING)[name]
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise DataError(
            f"`{name}` needs the package torchvision, which cannot be imported ({error}): "
            'pip install "otmetrics[torchvision]".'
        ) from error

    kind = getattr(torchvision.datasets, class_name)
    # The usual mistake is to name the folder of one data set, in which there is no other.
    too_deep = Path(root).name in {class_name, getattr(kind, "base_folder", class_name)}
    try:
        # numpy warns of old pickles, and some versions report a download on stdout.
        with ignored_warnings(), redirect_stdout(sys.stderr):
            return kind(str(root), download=download, **splits[split])
    except Exception as error:  # torchvision raises nearly anything on damaged files
        detail = " ".join(str(error).split()) or type(error).__name__
        if download:
            raise DataError(
                f"`{name}` could not be fetched into `{root}` or read there ({detail}): check the "
                "connection, or put its files there as torchvision lays them out."
            ) from error

        # A RuntimeError only says that files are missing, and names a remedy of torchvision's.
        why = "" if isinstance(error, RuntimeError) else f" ({detail})"
        if too_deep:
            remedy = (f"give its parent, `{Path(root).absolute().parent}`.",)
        raise DataError(
            f"`{root}` does not hold the files of {name}, intact and as torchvision lays them "
            f"out{why}: ",
            *remedy,
        ) from error


class OfficialImages:
    """A split of a data set that torchvision reads, named as in `cifar10:test`."""

    kind = "data set"

    def __init__(self, text: str) -> None:
        self.path = Path(text)
        name, _, split = text.partition(":")
        splits = DATA_SETS[name][1]
        if split not in splits:
            raise DataError(f"`{text}` must end in {' or '.join(f':{one}' for one in splits)}.")
        root = user_path(os.environ.get(ROOT_VARIABLE, "data"))
        remedy = f"name the folder of its files in the environment variable {ROOT_VARIABLE}."
        self._data = open_torchvision(name, split, root, remedy=(remedy,))

        self.names = tuple(f"{text}[{index}]" for index in range(len(self._data)))
        classes = getattr(self._data, "classes", None)
        targets = getattr(self._data, "targets", getattr(self._data, "labels", None))
        self.labels = None
        if targets is not None:
            numbers = [int(target) for target in targets]
            # STL-10 gives -1 to what has no class.
            self.labels = tuple(str(classes[n] if classes and n >= 0 else n) for n in numbers)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> DecodedImage:
        """Return one image; nothing is transparent."""
        image = self._image(index)
        pixels = image_tensor(np.asarray(image.convert("RGB")))
        colour = "grey" if image.mode == "L" else "RGB"
        return DecodedImage(pixels, False, pixel_facts(pixels, colour))

    def size(self, index: int) -> None:
        """None: torchvision has all images in memory."""

    def identity(self, index: int, content: bool) -> bytes:
        """Tell one image from all others: by its pixels, whatever `content` says."""
        pixels = np.asarray(self._image(index).convert("RGB"))
        return digest("pixels", str(pixels.shape), pixels.tobytes())

    def _image(self, index: int) -> Image.Image:
        """An image as torchvision gives it."""
        image = self._data[index][0]
        assert isinstance(image, Image.Image)
        return image


# --- functions of the user --------------------------------------------------------------------

PREFIX = "python:"
"""What the user says to have code imported: no file name does that by itself."""

_END = object()


def generated_images(text: str, most: int | None = None) -> ImageArray:
    """Call `python:package.module:function` and keep the images that it yields.

    Called without arguments it gives batches of uint8 images of one size: tensors (N, 3, H, W) or
    (N, 1, H, W), or arrays (N, H, W, C). The images are mapped from a file without a name, which
    ends with the process. `most` stops after so many images.
    """
    stored, shape = 0, None
    with tempfile.TemporaryFile() as file:
        for batch in _batches(text):
            rows = _check_batch(text, batch)
            shape = rows.shape[1:] if shape is None else shape
            if rows.shape[1:] != shape:
                raise DataError(
                    f"`{text}` yields images {shape} and {rows.shape[1:]}: give them one size."
                )

            rows = rows if most is None else rows[: most - stored]
            try:
                file.write(np.ascontiguousarray(rows).tobytes())
            except OSError as error:
                raise DataError(
                    f"`{text}`: its images cannot be kept ({error.strerror}): name a larger "
                    "folder in the environment variable TMPDIR."
                ) from error
            stored += len(rows)
            if most is not None and stored >= most:
                break

        if shape is None or not stored:
            raise DataError(f"`{text}` yields no images.")

        file.flush()
        # Writable, since torch warns of memory that is not.
        array = np.memmap(file, np.uint8, "r+", shape=(stored, *shape))
    source = ImageArray(array, text)
    source.kind = "function"
    return source


def _batches(text: str) -> Iterator[Any]:
    """Yield what the function yields; what it raises is told as the function's."""
    if not is_object_name(text.removeprefix(PREFIX)):
        raise DataError(f"`{text}` must have the form {PREFIX}package.module:function.")
    with _blame_function(text):
        value = import_object(text.removeprefix(PREFIX))
        if callable(value):
            check_takes_no_arguments(value)
            value = value()
    if not isinstance(value, Iterable):
        raise DataError(
            f"`{text}` must yield batches of images, got {type(value).__name__}: "
            "make it a generator."
        )

    # A generator runs the user's code in each step.
    iterator = iter(value)
    while True:
        with _blame_function(text):
            batch = next(iterator, _END)
        if batch is _END:
            return
        yield batch


@contextmanager
def _blame_function(text: str) -> Iterator[None]:
    """Tell what the user's code raises as its own."""
    try:
        yield
    except NoSuchObjectError as error:
        raise DataError(f"`{text}` {error}.") from error
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"`{text}` raised {type(error).__name__}: {error} ({last.filename}, line "
            f"{last.lineno}): correct it."
        ) from error


def _check_batch(text: str, batch: Any) -> np.ndarray:
    """A batch as uint8 (N, H, W, C)."""
    rows = batch
    # torch has the channels first, numpy last.
    if isinstance(batch, torch.Tensor) and batch.ndim == 4 and batch.dtype == torch.uint8:
        rows = batch.detach().cpu().movedim(1, -1).numpy()

    if not (
        isinstance(rows, np.ndarray)
        and rows.dtype == np.uint8
        and rows.ndim == 4
        and rows.shape[-1] in {1, 3, 4}
    ):
        kind = f"{batch.dtype} {tuple(batch.shape)}" if hasattr(batch, "shape") else type(batch)
        raise DataError(
            f"`{text}` must yield uint8 tensors (N, 3, H, W) or arrays (N, H, W, C), got {kind}: "
            "convert or transpose them."
        )
    return rows
