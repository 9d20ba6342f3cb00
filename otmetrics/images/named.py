"""Data sets by name, and images that a function of the user generates."""

import importlib
import inspect
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from otmetrics.errors import DataError
from otmetrics.images.arrays import ImageArray
from otmetrics.images.decode import DecodedImage, image_tensor
from otmetrics.images.facts import pixel_facts
from otmetrics.images.files import digest
from otmetrics.safe_files import user_path

ROOT_VARIABLE = "OTMETRICS_DATA"

_TRAIN_OR_TEST = {"train": {"train": True}, "test": {"train": False}}
_BY_SPLIT = {name: {"split": name} for name in ("train", "test")}
DATA_SETS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "mnist": ("MNIST", _TRAIN_OR_TEST),
    "fashion_mnist": ("FashionMNIST", _TRAIN_OR_TEST),
    "kmnist": ("KMNIST", _TRAIN_OR_TEST),
    "cifar10": ("CIFAR10", _TRAIN_OR_TEST),
    "cifar100": ("CIFAR100", _TRAIN_OR_TEST),
    "svhn": ("SVHN", _BY_SPLIT | {"extra": {"split": "extra"}}),
    "stl10": ("STL10", _BY_SPLIT | {"unlabeled": {"split": "unlabeled"}}),
}
"""Name -> torchvision's class, and what it takes for each split."""


class OfficialImages:
    """A split of a data set in torchvision's layout.

    Args:
        text: Name and split, as in `cifar10:test`.

    Attributes:
        path: What was asked for.
        names: "cifar10:test[12]" for image 12.
        labels: Class of each image by its name, or None.

    Raises:
        DataError: The split is unknown, torchvision is missing, or the files are.
    """

    kind = "data set"

    def __init__(self, text: str) -> None:
        self.path = Path(text)
        name, _, split = text.partition(":")
        class_name, splits = DATA_SETS[name]
        if split not in splits:
            raise DataError(f"`{text}` must end in {' or '.join(f':{one}' for one in splits)}.")
        try:
            import torchvision
        except ImportError as error:
            raise DataError(
                f'`{text}` needs the package torchvision: pip install "otmetrics[torchvision]".'
            ) from error
        root = user_path(os.environ.get(ROOT_VARIABLE, "data"))
        try:
            self._data = getattr(torchvision.datasets, class_name)(str(root), **splits[split])
        except Exception as error:  # a damaged file raises what its reader raises
            detail = " ".join(str(error).split())
            if isinstance(error, RuntimeError):  # whose words name an option that is not ours
                detail = "its files are missing or damaged"
            raise DataError(
                f"`{text}` is not in `{root}` in torchvision's layout ({detail}): name the folder "
                f"of its files in the environment variable {ROOT_VARIABLE}."
            ) from error
        self.names = tuple(f"{text}[{index}]" for index in range(len(self._data)))
        classes = getattr(self._data, "classes", None)
        targets = getattr(self._data, "targets", getattr(self._data, "labels", None))
        self.labels = None
        if targets is not None:
            numbers = [int(target) for target in targets]
            self.labels = tuple(str(classes[n] if classes and n >= 0 else n) for n in numbers)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> DecodedImage:
        """Return one image.

        Args:
            index: Its place.

        Returns:
            The pixels; nothing is transparent.
        """
        image = self._image(index)
        pixels = image_tensor(np.asarray(image.convert("RGB")))
        colour = "grey" if image.mode == "L" else "RGB"
        return DecodedImage(pixels, False, pixel_facts(pixels, colour))

    def identity(self, index: int, content: bool) -> bytes:
        """Tell one image from all others: by its pixels, which are in memory.

        Args:
            index: Its place.
            content: Makes no difference.

        Returns:
            16 bytes.
        """
        pixels = np.asarray(self._image(index).convert("RGB"))
        return digest("pixels", str(pixels.shape), pixels.tobytes())

    def _image(self, index: int) -> Image.Image:
        """An image as torchvision gives it."""
        image = self._data[index][0]
        assert isinstance(image, Image.Image)
        return image


PREFIX = "python:"
"""What the user says to have code imported: no file name does that by itself."""

_END = object()


def is_function(text: str) -> bool:
    """Tell whether a text has the form `package.module:function`.

    Args:
        text: What the user gave.

    Returns:
        Whether both sides of one colon are dotted names.
    """
    module, colon, function = text.partition(":")
    return bool(colon) and all(
        part.isidentifier() for name in (module, function) for part in name.split(".")
    )


def generated_images(text: str, most: int | None = None) -> ImageArray:
    """Call a function and keep the images that it yields, in a file without a name.

    Args:
        text: `python:package.module:function`, importable from here or the working directory.
            Called without arguments it gives batches of uint8 images of one size: tensors
            (N, 3, H, W) or (N, 1, H, W), or arrays (N, H, W, C).
        most: Stop after this many images; None for all.

    Returns:
        The images, mapped from the file, which ends with the process.

    Raises:
        DataError: There is no such function, it yields something else or nothing, or there is no
            room for the images.
    """
    stored, shape = 0, None
    with tempfile.TemporaryFile() as file:
        for batch in _guard_batches(text, _batches(text)):
            rows = _check_batch(text, batch)
            if shape is None:
                shape = rows.shape[1:]
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
        array = np.memmap(file, np.uint8, "r+", shape=(stored, *shape))
    source = ImageArray(array, text)
    source.kind = "function"
    return source


def _guard_batches(text: str, batches: Iterable[Any]) -> Iterator[Any]:
    """The batches; what the function raises is told as the function's."""
    iterator = iter(batches)
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
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"`{text}` raised {type(error).__name__}: {error} ({last.filename}, line "
            f"{last.lineno}): mend it."
        ) from error


def _batches(text: str) -> Iterable[Any]:
    """What the function gives."""
    value = _import_function(text)
    if callable(value):
        try:
            inspect.signature(value).bind()
        except TypeError as error:
            raise DataError(f"`{text}` must take no arguments ({error}): wrap it.") from error
        except ValueError:  # compiled code does not say what it takes
            pass
        with _blame_function(text):
            value = value()
    if not isinstance(value, Iterable):
        raise DataError(
            f"`{text}` must yield batches of images, got {type(value).__name__}: "
            "make it a generator."
        )
    return value


def _import_function(text: str) -> Any:
    """The function, or what else has the name."""
    module_name, _, attribute = text.removeprefix(PREFIX).partition(":")
    if not is_function(f"{module_name}:{attribute}"):
        raise DataError(f"`{text}` must have the form {PREFIX}package.module:function.")
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))  # which console scripts leave out
    try:
        with _blame_function(text):
            try:
                value: Any = importlib.import_module(module_name)
                for part in attribute.split("."):
                    value = getattr(value, part)
            except (ModuleNotFoundError, AttributeError) as error:
                missing = error
            else:
                return value
    finally:
        sys.path[:] = before
    raise DataError(
        f"`{text}` is no function that can be imported ({missing}): check the name, or run where "
        "it can be imported."
    ) from missing


def _check_batch(text: str, batch: Any) -> np.ndarray:
    """A batch as uint8 (N, H, W, C)."""
    rows = batch
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
