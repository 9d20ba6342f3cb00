"""Images from a Python function that yields batches: `python:package.module:function`."""

import importlib
import inspect
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from otmetrics.errors import DataError
from otmetrics.images.arrays import ImageArray

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
        for batch in _told(text, _batches(text)):
            rows = _checked(text, batch)
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


def _told(text: str, batches: Iterable[Any]) -> Iterator[Any]:
    """The batches; what the function raises is told as the function's."""
    iterator = iter(batches)
    while True:
        with _blamed(text):
            batch = next(iterator, _END)
        if batch is _END:
            return
        yield batch


@contextmanager
def _blamed(text: str) -> Iterator[None]:
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
    value = _imported(text)
    if callable(value):
        try:
            inspect.signature(value).bind()
        except TypeError as error:
            raise DataError(f"`{text}` must take no arguments ({error}): wrap it.") from error
        except ValueError:  # compiled code does not say what it takes
            pass
        with _blamed(text):
            value = value()
    if not isinstance(value, Iterable):
        raise DataError(
            f"`{text}` must yield batches of images, got {type(value).__name__}: "
            "make it a generator."
        )
    return value


def _imported(text: str) -> Any:
    """The function, or what else has the name."""
    module_name, _, attribute = text.removeprefix(PREFIX).partition(":")
    if not is_function(f"{module_name}:{attribute}"):
        raise DataError(f"`{text}` must have the form {PREFIX}package.module:function.")
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))  # which console scripts leave out
    try:
        with _blamed(text):
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


def _checked(text: str, batch: Any) -> np.ndarray:
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
