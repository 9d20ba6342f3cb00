"""Columns of images, and files that a table names."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from otmetrics.errors import DataError
from otmetrics.images.decode import check_regular
from otmetrics.images.files import check_member
from otmetrics.images.limits import MAX_MEMBER_BYTES


def beside(folder: Path, name: str) -> Path:
    """Find a file that a table names.

    Args:
        folder: Where the table lies.
        name: What it calls the file.

    Returns:
        The file, without links.

    Raises:
        DataError: It lies outside of the folder, also where a link leads there, or is no regular
            file.
    """
    check_member(name, is_link=False)
    file = (folder / name).resolve()
    if folder.resolve() not in file.parents:
        raise DataError(f"holds `{name}`, a link that leads out of it: copy the file there.")
    check_regular(file)
    return file


def bytes_beside(folder: Path, name: str) -> bytes:
    """Read a file that a table names.

    Args:
        folder: Where the table lies.
        name: What it calls the file.

    Returns:
        Its content.

    Raises:
        DataError: As `beside`, or it is larger than `MAX_MEMBER_BYTES`.
    """
    with unblocked(beside(folder, name)) as file:
        if os.fstat(file.fileno()).st_size > MAX_MEMBER_BYTES:
            raise DataError(f"is larger than the {MAX_MEMBER_BYTES} bytes that are read.")
        return file.read(MAX_MEMBER_BYTES)


def unblocked(path: Path) -> BinaryIO:
    """Open a file without waiting for a pipe that took its place meanwhile.

    Args:
        path: The file.

    Returns:
        The file, open for reading.
    """
    return os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")


def one_line(error: Exception) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


MAX_LABEL_BYTES = 2**28
"""The largest column of classes, of all parts together."""


def labels_in(parts: Iterable[Any], names: Sequence[str] | None) -> tuple[str, ...]:
    """Write out the classes of rows: one text a class, not one a row.

    Args:
        parts: Arrays of pyarrow, one after the other.
        names: Names of the classes that are numbers; None where there are none.

    Returns:
        Class of each row.

    Raises:
        DataError: They take more than `MAX_LABEL_BYTES`.
    """
    known: dict[str, str] = {}
    found: list[str] = []
    size = 0
    for part in parts:
        size += part.nbytes
        if size > MAX_LABEL_BYTES:
            raise DataError(
                f"has classes of more than the {MAX_LABEL_BYTES} bytes that are read: leave the "
                "column out, or give each class a short name."
            )
        labels = (_label(value, names) for value in values_in(part))
        found += (known.setdefault(label, label) for label in labels)
    return tuple(found)


def values_in(part: Any) -> Iterator[Any]:
    """Yield the values of a part of a column: of a dictionary each is made once, not once a row.

    Args:
        part: An array of pyarrow, perhaps in chunks.

    Yields:
        The value of each row; None where there is none.
    """
    import pyarrow

    for chunk in part.chunks if isinstance(part, pyarrow.ChunkedArray) else [part]:
        if not pyarrow.types.is_dictionary(chunk.type):
            yield from (value.as_py() for value in chunk)
            continue
        values = chunk.dictionary.to_pylist()
        yield from (None if index is None else values[index] for index in chunk.indices.to_pylist())


def bytes_in(chunk: Any) -> Any:
    """Return the encoded images of a part of a column, which may have their paths beside them.

    Args:
        chunk: An array of structures, or of bytes.

    Returns:
        An array of bytes.
    """
    import pyarrow

    return chunk.field("bytes") if pyarrow.types.is_struct(chunk.type) else chunk


def column_of(path: Path, schema: Any) -> tuple[str, bool]:
    """Choose the column that is read, and say whether it holds vectors instead of images.

    Args:
        path: The table, for messages.
        schema: Its schema.

    Returns:
        The name, and whether it is that of vectors.

    Raises:
        DataError: There is none, or it is not clear which.
    """
    import pyarrow

    def holds_vectors(kind: Any) -> bool:
        lists = (
            pyarrow.types.is_list,
            pyarrow.types.is_large_list,
            pyarrow.types.is_fixed_size_list,
        )
        numbers = (pyarrow.types.is_floating, pyarrow.types.is_integer)
        return any(f(kind) for f in lists) and any(f(kind.value_type) for f in numbers)

    vectors = [field.name for field in schema if holds_vectors(field.type)]
    if not vectors or _image_columns(schema):
        return image_column(path, schema), False
    named = [name for name in ("features", "embedding", "embeddings") if name in vectors]
    if not named and len(vectors) > 1:
        raise DataError(
            f"`{path}` has vectors in {', '.join(vectors)}: name the one to read `features`, or "
            "save it as a .npy file (N, D)."
        )
    return (named or vectors)[0], True


def vectors_in(chunk: Any, where: str) -> np.ndarray:
    """Return the vectors of a part of a column.

    Args:
        chunk: An array of lists.
        where: What messages call the column.

    Returns:
        (n, D).

    Raises:
        DataError: Some are missing, or not of the length of the others.
    """
    if chunk.null_count or chunk.flatten().null_count:
        raise DataError(f"{where} has rows or values that are missing: leave them out.")
    lengths = np.unique(chunk.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) > 1:
        raise DataError(
            f"{where} has vectors of {lengths[0]} to {lengths[-1]} values: give all of them one "
            "length, features (N, D)."
        )
    values = chunk.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(chunk), int(lengths[0]) if len(lengths) else 0)


def _image_columns(schema: Any) -> list[str]:
    """The columns that may hold images."""
    import pyarrow

    def holds_images(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)

    return [field.name for field in schema if holds_images(field.type)]


def image_column(path: Path, schema: Any) -> str:
    """Choose the column that holds images.

    Args:
        path: The table, for messages.
        schema: Its schema.

    Returns:
        Its name.

    Raises:
        DataError: There is none, or it is not clear which.
    """
    found = _image_columns(schema)
    for name in ("image", "img"):
        if name in found:
            return name
    for field in schema:
        if not found and field.name in {"image", "img"}:
            raise DataError(
                f"`{path}`: column `{field.name}` is of type {field.type}: give the content of "
                "image files, as bytes."
            )
    if len(found) != 1:
        raise DataError(
            f"`{path}` has the columns {', '.join(schema.names)}: name the one with encoded images "
            "`image`, or save features as a .npy file (N, D)."
        )
    return found[0]


def class_names(schema: Any, column: str) -> Sequence[str] | None:
    """Find the names of classes, where a file of Hugging Face's says them.

    Args:
        schema: Schema of a table.
        column: The column of classes.

    Returns:
        The names in the order of their numbers, or None.
    """
    try:
        info = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]
        return [str(name) for name in info["names"]]
    except (TypeError, KeyError, ValueError):
        return None


def _label(value: Any, names: Sequence[str] | None) -> str:
    """A class by its name, where it has one."""
    known = names is not None and isinstance(value, int) and 0 <= value < len(names)
    return str(names[value]) if known and names is not None else str(value)
