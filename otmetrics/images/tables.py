"""Images in the columns of parquet files and of Hugging Face datasets on disk."""

import io
import json
import os
import struct
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from otmetrics.errors import DataError
from otmetrics.images.arrays import FeatureArray, checked_features
from otmetrics.images.columns import (
    beside,
    bytes_beside,
    bytes_in,
    class_names,
    column_of,
    image_column,
    labels_in,
    one_line,
    unblocked,
    values_in,
    vectors_in,
)
from otmetrics.images.decode import DecodedImage, check_regular, decoded_from
from otmetrics.images.files import RowNames, digest, file_identity, splits_of
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
    def is_embedded(self) -> bool:
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


MAX_JSON_BYTES = 2**26
"""The largest JSON file of a dataset."""


class DatasetRows:
    """Rows of a Hugging Face dataset, whose images stay encoded, in mapped files.

    The files are read without the package that wrote them: it would follow names that lead out of
    the folder, and compute with columns before anything has checked them.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow  # noqa: F401 - before the first file is looked at

        self.folder = folder
        if (folder / "dataset_dict.json").exists():
            splits = ", ".join(map(str, _json(folder / "dataset_dict.json")["splits"]))
            raise DataError(f"holds the splits {splits}: give the folder of one of them.")
        state = _json(folder / "state.json")
        info = _json(folder / "dataset_info.json").get("features") or {}
        if state.get("_indices_data_files") or state.get("_indices_files"):
            raise DataError("is a selection of rows: save it again with a newer `datasets`.")
        names = [str(item["filename"]) for item in state["_data_files"]]
        self._files = [beside(folder, name) for name in names]
        self.identities = {file: file_identity(file, content=False) for file in self._files}
        self._info = {str(key): value for key, value in info.items()}
        self._open()

    def _open(self) -> None:
        """Map the files, and check the columns that are used to the last value."""
        self._starts = [0]
        self._parts: list[Any] = []
        self._label_parts: list[Any] = []
        self._places: list[tuple[Path, int]] = []  # file of each part, first row there
        self.column, self.is_embedded = "", True
        self.label: str | None = None
        for file in self._files:
            rows = 0
            for batch in self._batches(file):
                images = batch.column(self.column)
                self._parts.append(images)
                if self.label is not None:
                    self._label_parts.append(batch.column(self.label))
                self.is_embedded = self.is_embedded and not bytes_in(images).null_count
                self._places.append((file, rows))
                rows += len(images)
                self._starts.append(self._starts[-1] + len(images))
                check_rows(self._starts[-1])

    def _batches(self, file: Path) -> Iterator[Any]:
        """Yield the columns that are used, in parts."""
        import pyarrow

        with pyarrow.memory_map(str(file)) as source:
            check_expansion(file.name, _unpacked_bytes(source), file.stat().st_size)
            source.seek(0)
            schema = pyarrow.ipc.open_stream(source).schema
            column = image_column(self.folder, schema)
            label = next((n for n in ("label", "labels") if n in schema.names), None)
            if self.column and (column, label) != (self.column, self.label):
                # Labels of some files would stand for the rows of others.
                raise DataError(
                    f"has the columns `{column}` and `{label}` in `{file.name}`, `{self.column}` "
                    f"and `{self.label}` before: save it as one data set."
                )
            self.column, self.label = column, label
            used = [schema.get_field_index(n) for n in (self.column, self.label) if n is not None]
            options = pyarrow.ipc.IpcReadOptions(included_fields=sorted(used), use_threads=False)
            source.seek(0)
            for batch in pyarrow.ipc.open_stream(source, options=options):
                batch.validate(full=True)
                yield batch

    def __getstate__(self) -> dict[str, Any]:
        mapped = {"_parts", "_label_parts"}
        return {key: value for key, value in self.__dict__.items() if key not in mapped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._open()

    def __len__(self) -> int:
        return self._starts[-1]

    def place(self, index: int) -> tuple[Path, int]:
        """File of a row, and its number there."""
        part = self._part_of(index)
        file, first = self._places[part]
        return file, first + index - self._starts[part]

    def value(self, index: int) -> Any:
        """One cell."""
        part = self._part_of(index)
        return self._parts[part][index - self._starts[part]].as_py()

    def _part_of(self, index: int) -> int:
        """The part that holds a row."""
        return bisect_right(self._starts, index) - 1

    def labels(self) -> tuple[str, ...] | None:
        """The column of classes, if there is one."""
        if self.label is None:
            return None
        kind = self._info.get(self.label)
        names = kind.get("names") if isinstance(kind, dict) else None
        return labels_in(self._label_parts, names if isinstance(names, list) else None)


def _unpacked_bytes(source: Any) -> int:
    """Bytes that the compressed parts of an Arrow stream say they unpack to."""
    import pyarrow

    total = 0
    while True:
        try:
            message = pyarrow.ipc.read_message(source)
        except EOFError:
            return total
        if message.type not in {"record batch", "dictionary"}:
            continue
        body = memoryview(message.body)
        for offset, length in _compressed_buffers(memoryview(message.metadata), message.type):
            if length:  # else there is not even a size
                (size,) = struct.unpack_from("<q", body[offset:])
                total += max(size, 0)  # -1: this one lies there as it is


def _compressed_buffers(metadata: memoryview, kind: str) -> Iterator[tuple[int, int]]:
    """Yield where the compressed buffers of an Arrow message lie, and their lengths."""

    # pyarrow shows neither: these are the tables of FlatBuffers. A table begins with the distance
    # back to the list of its fields, whose places follow two sizes.
    def read(form: str, place: int) -> int:
        if place < 0:
            raise ValueError("a place before the start of a message")
        return int(struct.unpack_from(form, metadata, place)[0])

    def field(table: int, number: int) -> int:
        places = table - read("<i", table)
        there = 4 + 2 * number < read("<H", places)
        place = read("<H", places + 4 + 2 * number) if there else 0
        return table + place if place else 0

    def followed(place: int) -> int:
        return place + read("<I", place)

    batch = followed(field(followed(0), 2))  # Message.header
    if kind == "dictionary":
        batch = followed(field(batch, 1))  # DictionaryBatch.data
    buffers = field(batch, 2)
    if not buffers or not field(batch, 3):  # RecordBatch.buffers, RecordBatch.compression
        return
    start = followed(buffers)
    for number in range(read("<I", start)):
        place = start + 4 + 16 * number
        yield read("<q", place), read("<q", place + 8)


def _json(path: Path) -> dict[str, Any]:
    """An object of a JSON file."""
    check_regular(path)
    with unblocked(path) as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise DataError(f"holds `{path.name}` of more than {MAX_JSON_BYTES} bytes: save it again.")
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return found


_INSTALL = 'pip install "otmetrics[datasets]"'


class ImageColumn:
    """The images of one column: encoded files as bytes, as Hugging Face's `Image` stores them.

    The column is the one named `image`, else `img`, else the only one that holds images. A column
    `label` (or `labels`) gives the classes.

    Attributes:
        path: The file or folder.
        names: "path[12]" for row 12.
        labels: Class of each row, or None.
        remarks: What else to know, a line each.
    """

    kind = "table"

    def __init__(self, path: Path, rows: ParquetRows | DatasetRows, files: list[Path]) -> None:
        self.path = path
        self._rows = rows
        self.names = RowNames(path.name, len(rows))
        if not self.names:
            raise DataError(f"`{path}` has no rows: give a table with images.")
        self._identities = rows.identities  # of the files before they were opened
        self.labels = rows.labels()
        self.remarks = _split_remarks(files)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> DecodedImage:
        """Decode one image.

        Args:
            index: Its row.

        Returns:
            The pixels and whether they were transparent.
        """
        return decoded_from(lambda: io.BytesIO(self._content(index)), f"{self.path}[{index}]")

    def identity(self, index: int, content: bool) -> bytes | None:
        """Tell one image from all others without decoding it.

        Args:
            index: Its row.
            content: Hash the encoded image instead of asking for path, size and time of the file.

        Returns:
            16 bytes; None where it cannot be read or the file was changed a moment ago.
        """
        if content or not self._rows.is_embedded:  # files beside the table change without it
            try:
                return digest("content", self._content(index))
            except Exception:  # reading it for its features will say what is wrong
                return None
        file, row = self._rows.place(index)
        whole = self._identities[file]
        if whole is None or file_identity(file, content=False) != whole:
            return None  # what was replaced since is not what is read
        return digest("row", whole, self._rows.column, str(row))

    def _content(self, index: int) -> bytes:
        """The encoded image of a row."""
        value = self._rows.value(index)
        if isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
            if content is None and path:
                file, _ = self._rows.place(index)
                return bytes_beside(file.parent, str(path))
            value = content
        if not isinstance(value, bytes):
            raise DataError("holds no image: leave the row out, or pass --skip-corrupt.")
        return value


def _split_remarks(files: list[Path]) -> list[str]:
    """Say that several parts of a data set are read as one."""
    splits = splits_of([file.name for file in files])
    if not splits:
        return []
    return [f"the splits {', '.join(splits)} are read as one set: give the files of one of them"]


class ColumnFeatures(FeatureArray):
    """Features that were the column of a table.

    Attributes:
        remarks: What else to know, a line each.
    """

    remarks: list[str]


def parquet_table(paths: Iterable[Path]) -> ImageColumn | ColumnFeatures:
    """Open parquet files that hold images, or vectors of one length where they hold no images.

    What files claim is limited: to `MAX_FOOTER_BYTES` of description, `limits.MAX_ROWS` rows, and
    columns that unpack as `limits.check_expansion` says.

    Args:
        paths: The files, one after the other.

    Returns:
        Their images. Memory: one row group at a time. Or features, in memory or in a mapped file.

    Raises:
        DataError: A file cannot be read, or has no column of images or vectors, or pyarrow is
            missing.
    """
    files = list(paths)
    try:
        rows = ParquetRows(files)
        return _features(files, rows) if rows.is_vector else ImageColumn(files[0], rows, files)
    except ImportError as error:
        raise DataError(f"`{files[0]}` needs the package pyarrow: {_INSTALL}.") from error
    except Exception as error:  # pyarrow's own errors, and names that are no text
        if isinstance(error, DataError) and str(error).startswith("`"):
            raise
        raise DataError(f"`{files[0]}` {unreadable(error)}") from error


def _features(files: list[Path], rows: ParquetRows) -> ColumnFeatures:
    """Features that are the rows of a column."""
    array = checked_features(rows.vectors(), files[0])
    found = ColumnFeatures(array, files[0], None, rows.labels())
    found.remarks = [f"features are those of its column `{rows.column}`", *_split_remarks(files)]
    return found


def dataset_images(folder: Path) -> ImageColumn:
    """Open a Hugging Face dataset that `save_to_disk` wrote; files outside of it are not read.

    Args:
        folder: Its folder.

    Returns:
        Its images, mapped from disk.

    Raises:
        DataError: The folder holds several splits, or no column of images, or cannot be read, or
            the package is missing.
    """
    try:
        return ImageColumn(folder, DatasetRows(folder), [])
    except ImportError as error:
        raise DataError(f"`{folder}` needs the package pyarrow: {_INSTALL}.") from error
    except Exception as error:  # pyarrow's own errors, those of the system, and of other JSON
        if isinstance(error, DataError):
            named = str(error).startswith("`")
            raise error if named else DataError(f"`{folder}` {error}") from error
        raise DataError(
            f"`{folder}` is no readable dataset ({one_line(error)}): save it again."
        ) from error
