"""Columns of parquet files and of the Arrow files of Hugging Face datasets, as pyarrow has them.

This imports pyarrow, which not everybody has: only `tables` imports it.
"""

import json
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import types

from otmetrics.errors import DataError
from otmetrics.images import limits
from otmetrics.images.damage import check_regular, check_start, open_without_waiting

# --- parquet files ----------------------------------------------------------------------------


def look_parquet(path: Path) -> tuple[Any, list[int]]:
    """Schema of a parquet file, and the rows of each row group."""
    data = _open_parquet(path)
    groups = [data.metadata.row_group(one) for one in range(data.metadata.num_row_groups)]
    # A damaged file may say less than none.
    return data.schema_arrow, [max(group.num_rows, 0) for group in groups]


def _open_parquet(path: Path) -> Any:
    """Open a parquet file, not of too long a description."""
    import pyarrow.parquet

    check_regular(path)
    with open_without_waiting(path) as file:
        check_start(file.read(512))
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 8))
        # A file ends in the length of its description and "PAR1". pyarrow takes as much memory as
        # these four bytes say.
        if int.from_bytes(file.read(4), "little") > min(end, limits.MAX_FOOTER_BYTES):
            raise ValueError("its description is longer than it is, or than what is read")
    return pyarrow.parquet.ParquetFile(path)


def read_parquet(path: Path, group: int, column: str) -> Any:
    """A column of a row group."""
    import pyarrow.parquet

    data = _open_parquet(path)
    size = data.metadata.row_group(group).total_byte_size
    limits.check_expansion(f"row group {group}", size, path.stat().st_size)

    # Texts and bytes stay in dictionaries: a file may hold a large one once, and say that it is
    # that of a million rows.
    leaves = [data.schema.column(index) for index in range(len(data.schema))]
    texts = [
        leaf.path
        for leaf in leaves
        if leaf.physical_type == "BYTE_ARRAY" and f"{leaf.path}.".startswith(f"{column}.")
    ]
    data = pyarrow.parquet.ParquetFile(path, metadata=data.metadata, read_dictionary=texts)
    try:
        return data.read_row_group(group, columns=[column])[column]
    except pyarrow.ArrowCapacityError as error:
        raise DataError(
            f"`{path}` has a row group of more than 2 GB: write it again with smaller ones."
        ) from error


# --- files of Hugging Face datasets -------------------------------------------------------------


def look_arrow(path: Path) -> tuple[Any, list[int]]:
    """Schema of a file that holds a stream of Arrow, and its rows, as one part."""
    with pyarrow.memory_map(str(path)) as source:
        schema = pyarrow.ipc.open_stream(source).schema
    column, _ = chosen_column(path, schema)
    return schema, [len(read_arrow(path, 0, column))]


def read_arrow(path: Path, group: int, column: str) -> Any:
    """A column of a file that holds a stream of Arrow, as it lies in the mapped file."""
    with pyarrow.memory_map(str(path)) as source:
        try:
            while message := pyarrow.ipc.read_message(source):
                if message.type in {"record batch", "dictionary"} and _is_compressed(message):
                    # They may unpack to any size. `save_to_disk` does not compress.
                    raise DataError(f"`{path}` is compressed: save it again with `save_to_disk`.")
        except EOFError:
            pass

        # Only the column that is asked for: damage in others does not matter.
        source.seek(0)
        schema = pyarrow.ipc.open_stream(source).schema
        index = schema.get_field_index(column)
        options = pyarrow.ipc.IpcReadOptions(included_fields=[index], use_threads=False)
        source.seek(0)
        kind, chunks = schema.field(index).type, []
        for batch in pyarrow.ipc.open_stream(source, options=options):
            batch.validate(full=True)
            chunks.append(batch.column(0))
    return pyarrow.chunked_array(chunks, kind)


def _is_compressed(message: Any) -> bool:
    """Whether the buffers of an Arrow message are compressed, of which pyarrow says nothing."""
    # These are tables of FlatBuffers: a table begins with the distance back to the list of its
    # fields, whose places follow two sizes.
    data = memoryview(message.metadata)

    def read(form: str, place: int) -> int:
        # struct would count it from the end.
        if place < 0:
            raise ValueError("a place before the start of a message")
        return int(struct.unpack_from(form, data, place)[0])

    def field(table: int, number: int) -> int:
        places = table - read("<i", table)
        there = 4 + 2 * number < read("<H", places)
        place = read("<H", places + 4 + 2 * number) if there else 0
        return table + place if place else 0

    def follow(place: int) -> int:
        return place + read("<I", place)

    batch = follow(field(follow(0), 2))  # Message.header
    if message.type == "dictionary":
        batch = follow(field(batch, 1))  # DictionaryBatch.data
    return field(batch, 3) != 0  # RecordBatch.compression


# --- columns ----------------------------------------------------------------------------------


def chosen_column(path: Path, schema: Any) -> tuple[str, bool]:
    """The column that is read, and whether it holds vectors instead of images."""
    images = [field.name for field in schema if _holds_images(field.type)]
    vectors = [field.name for field in schema if _holds_vectors(field.type)]
    if vectors and not images:
        # Other lists of numbers, such as boxes, may stand next to the features.
        named = [name for name in ("features", "embedding", "embeddings") if name in vectors]
        if not named and len(vectors) > 1:
            raise DataError(
                f"`{path}` has vectors in {', '.join(vectors)}: name the one to read `features`, "
                "or save it as a .npy file (N, D)."
            )
        return (named or vectors)[0], True

    for name in ("image", "img"):
        if name in images:
            return name, False
        if not images and name in schema.names:
            raise DataError(
                f"`{path}`: column `{name}` is of type {schema.field(name).type}: give the content "
                "of image files, as bytes."
            )
    if len(images) != 1:
        raise DataError(
            f"`{path}` has the columns {', '.join(schema.names)}: name the one with encoded images "
            "`image`, or save features as a .npy file (N, D)."
        )
    return images[0], False


def _holds_images(kind: Any) -> bool:
    """Whether values of a type may be encoded images: bytes, or a structure with bytes."""
    return is_bytes(kind) or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def is_bytes(kind: Any) -> bool:
    """Whether values of a type are bytes."""
    return types.is_binary(kind) or types.is_large_binary(kind)


def _holds_vectors(kind: Any) -> bool:
    """Whether values of a type are lists of numbers."""
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type))


def vectors_of(chunk: Any, where: str) -> np.ndarray:
    """Lists of one length as an array (n, D)."""
    if chunk.null_count or chunk.flatten().null_count:
        raise DataError(f"{where} has rows or values that are missing: leave them out.")
    # Checked first: what is flattened has no trace of where a list ended.
    lengths = np.unique(chunk.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) > 1:
        raise DataError(
            f"{where} has vectors of {lengths[0]} to {lengths[-1]} values: give all of them one "
            "length, features (N, D)."
        )
    values = chunk.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(chunk), int(lengths[0]) if len(lengths) else 0)


def values_of(column: Any) -> Iterator[Any]:
    """Yield the values of a column: those of a dictionary are made once, not once per row."""
    for chunk in column.chunks:
        if not types.is_dictionary(chunk.type):
            yield from (value.as_py() for value in chunk)
            continue
        values = chunk.dictionary.to_pylist()
        yield from (None if index is None else values[index] for index in chunk.indices.to_pylist())


def class_names(schema: Any, column: str | None) -> Sequence[str] | None:
    """Names of the classes in the order of their numbers, where Hugging Face's record has them."""
    try:
        info = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]
        names = info["names"]
    except (TypeError, KeyError, ValueError, RecursionError):
        return None
    # The letters of a text would pass for names.
    return [str(name) for name in names] if isinstance(names, list) else None


def label_of(value: Any, names: Sequence[str] | None) -> str:
    """A class by its name, where it has one."""
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)
