"""Rows of parquet files."""

import os
import threading
from bisect import bisect_right
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from otmetrics.errors import DataError
from otmetrics.images.beside import one_line, unblocked
from otmetrics.images.columns import class_names, column_of, labels_in, values_in, vectors_in
from otmetrics.images.decode import check_regular
from otmetrics.images.identity import file_identity
from otmetrics.images.limits import bytes_for, check_expansion, check_rows, foreign_content

_BATCH_ROWS = 16

MAX_FOOTER_BYTES = 2**28
"""The longest description at the end of a parquet file."""


class ParquetRows:
    """Rows of parquet files; the row group that was read last stays in memory."""

    def __init__(self, files: list[Path]) -> None:
        import pyarrow  # noqa: F401 - before the first file is looked at

        self.identities = {file: file_identity(file, content=False) for file in files}
        self._files = files
        self._embedded: bool | None = None
        self._groups: list[tuple[Path, int, int, int]] = []  # file, group, first row, row in file
        self.column, self.is_vector, count = "", False, 0
        for file in files:
            try:
                data = _parquet(file)
            except Exception as error:  # pyarrow's own errors, and those of the system
                raise DataError(f"`{file}` {unreadable(error)}") from error
            column, is_vector = column_of(file, data.schema_arrow)
            if count and column != self.column:
                raise DataError(
                    f"`{file}` holds its images in `{column}`, `{files[0]}` in `{self.column}`: "
                    "give them one name."
                )
            self.column, self.is_vector = column, is_vector
            begin = count
            for group in range(data.metadata.num_row_groups):
                self._groups.append((file, group, count, count - begin))
                count += max(data.metadata.row_group(group).num_rows, 0)
                if not is_vector:
                    check_rows(count)
        self._count = count
        self._open()

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[int, Any] = (-1, None)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in {"_lock", "_kept"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._open()

    def __len__(self) -> int:
        return self._count

    def place(self, index: int) -> tuple[Path, int]:
        """File of a row, and its number there."""
        file, _, first, in_file = self._groups[self._group_of(index)]
        return file, in_file + index - first

    @property
    def embedded(self) -> bool:
        """Whether all images lie in the tables, for no name in them is that of a file beside them.

        How many rows lack their bytes stands in the description of each column, but pyarrow ends
        the process over a damaged one.
        """
        if self._embedded is None:
            try:
                self._embedded = not any(map(self._names_a_file, range(len(self._groups))))
            except Exception:  # reading the rows will say what is wrong
                self._embedded = False
        return self._embedded

    def _names_a_file(self, number: int) -> bool:
        """Whether a row group names what lies beside its file."""
        import pyarrow

        folder = self._groups[number][0].parent
        kind = _parquet(self._groups[number][0]).schema_arrow.field(self.column).type
        if not pyarrow.types.is_struct(kind) or kind.get_field_index("path") < 0:
            return False
        there = set(os.listdir(folder))  # noqa: PTH208 - names alone
        for chunk in self._read(number, self.column, ".path").chunks:
            for path in set(filter(None, values_in(chunk.field("path")))):
                if there.intersection(PurePath(path).parts[:1]):
                    return True
        return False

    def value(self, index: int) -> Any:
        """One cell."""
        number = self._group_of(index)
        with self._lock:
            if self._kept[0] != number:
                self._kept = number, self._read(number, self.column)
            return self._kept[1][index - self._groups[number][2]].as_py()

    def labels(self) -> tuple[str, ...] | None:
        """Read the column of classes, if there is one.

        Returns:
            Class of each row, or None.

        Raises:
            DataError: Not all files have it, or it cannot be read.
        """
        schema = _parquet(self._files[0]).schema_arrow
        name = next((name for name in ("label", "labels") if name in schema.names), None)
        if name is None:
            return None
        try:
            parts = (self._read(number, name) for number in range(len(self._groups)))
            return labels_in(parts, class_names(schema, name))
        except Exception as error:  # a later file without it, a damaged page
            raise DataError(
                f"`{self._files[0].parent}`: column `{name}` cannot be read in all files "
                f"({one_line(error)}): write it again, or leave it out."
            ) from error

    def vectors(self) -> np.ndarray:
        """Read the column as features (N, D), from lists of one length.

        Returns:
            The features, in a mapped file where they are large.

        Raises:
            DataError: They are not of one length and type, or claim to be far more than there is.
        """
        filled = 0
        features: np.ndarray = np.empty((0, 0))
        for number, (file, *_) in enumerate(self._groups):
            for chunk in self._read(number, self.column).chunks:
                part = vectors_in(chunk, f"`{file}`: column `{self.column}`")
                if not features.size and part.size:
                    shape, dtype = (self._count, part.shape[1]), part.dtype
                    size = self._count * part.shape[1] * dtype.itemsize
                    check_expansion(
                        self.column, size, sum(one.stat().st_size for one in self._files)
                    )
                    features = bytes_for(size).view(dtype).reshape(shape)
                if part.shape[1:] != features.shape[1:] or part.dtype != features.dtype:
                    raise DataError(
                        f"`{file}`: column `{self.column}` has vectors of {part.shape[1]} "
                        f"{part.dtype} values, and of {features.shape[1]} {features.dtype} values "
                        "before: give all of them one length and type."
                    )
                features[filled : filled + len(part)] = part
                filled += len(part)
        return features[:filled]

    def _group_of(self, index: int) -> int:
        """The row group that holds a row."""
        return bisect_right(self._groups, index, key=lambda group: group[2]) - 1

    def _read(self, number: int, column: str, leaf: str = "") -> Any:
        """A column of a row group, checked to the last value: readers trust what is in memory."""
        # Texts and bytes stay in dictionaries: a file may hold a large one once, and say that it
        # is that of a million rows.
        import pyarrow

        file, group, first, _ = self._groups[number]
        last = self._groups[number + 1][2] if number + 1 < len(self._groups) else self._count
        data = _parquet(file, column + leaf)
        size = data.metadata.row_group(group).total_byte_size
        check_expansion(f"row group {group}", size, file.stat().st_size)
        try:
            found = data.read_row_group(group, columns=[column + leaf])[column]
        except pyarrow.ArrowCapacityError:  # more than 2 GB of different ones fit no dictionary
            found = _in_batches(_parquet(file), group, column + leaf)[column]
        found.validate(full=True)
        if len(found) != last - first:
            raise DataError(f"holds {len(found)} rows where {last - first} were: write it again.")
        return found


def _in_batches(data: Any, group: int, column: str) -> Any:
    """Read a column of a row group a few rows at a time, while it is no larger than it may be."""
    import pyarrow

    batches, size = [], 0
    most = data.metadata.row_group(group).total_byte_size
    rows = data.iter_batches(_BATCH_ROWS, [group], columns=[column], use_threads=False)
    for batch in rows:
        size += batch.nbytes
        if size > 2 * most:  # with offsets, and values that several rows share
            raise DataError(
                f"has a row group {group} of more than the {most} bytes that it claims: write it "
                "again."
            )
        batches.append(batch)
    return pyarrow.Table.from_batches(batches)


def _parquet(path: Path, kept: str = "") -> Any:
    """Open a parquet file, not of too long a description; texts of one column as dictionaries."""
    import pyarrow.parquet as parquet

    check_regular(path)
    with unblocked(path) as file:
        start = file.read(512)
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 8))
        if found := foreign_content(start):
            raise DataError(found)
        if int.from_bytes(file.read(4), "little") > min(end, MAX_FOOTER_BYTES):
            raise ValueError("its description is longer than it is, or than what is read")
    data = parquet.ParquetFile(path)
    if not kept:
        return data
    leaves = [data.schema.column(index) for index in range(len(data.schema))]
    texts = [
        leaf.path
        for leaf in leaves
        if leaf.physical_type == "BYTE_ARRAY" and f"{leaf.path}.".startswith(f"{kept}.")
    ]
    return parquet.ParquetFile(path, metadata=data.metadata, read_dictionary=texts)


def unreadable(error: Exception) -> str:
    """Say why a file is no table.

    Args:
        error: What was raised.

    Returns:
        What follows the name of the file in a message.
    """
    if isinstance(error, DataError):
        return str(error)
    return f"is no readable parquet file ({one_line(error)}): write it again."
