"""Images in the columns of parquet files and of Hugging Face datasets on disk."""

import io
import json
import os
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np

from otmetrics.errors import DataError
from otmetrics.images.arrays import FeatureArray, checked_features
from otmetrics.images.decode import DecodedImage, check_regular, decoded_from
from otmetrics.images.identity import digest, file_identity
from otmetrics.images.limits import bytes_for, check_expansion, check_rows, foreign_content
from otmetrics.images.names import MAX_MEMBER_BYTES, RowNames, check_member, splits_of

MAX_FOOTER_BYTES = 2**28
"""The longest description at the end of a parquet file."""

MAX_JSON_BYTES = 2**26
"""The largest JSON file of a dataset."""

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

    def __init__(self, path: Path, rows: "_ParquetRows | _DatasetRows", files: list[Path]) -> None:
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
        if content or not self._rows.embedded:  # files beside the table change without it
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
                return _bytes_beside(file.parent, str(path))
            value = content
        if not isinstance(value, bytes):
            raise DataError("holds no image: leave the row out, or pass --skip-corrupt.")
        return value


def _beside(folder: Path, name: str) -> Path:
    """A file that a table in a folder names, which must lie in that folder, also behind links."""
    check_member(name, is_link=False)
    file = (folder / name).resolve()
    if folder.resolve() not in file.parents:
        raise DataError(f"holds `{name}`, a link that leads out of it: copy the file there.")
    check_regular(file)
    return file


def _bytes_beside(folder: Path, name: str) -> bytes:
    """Content of a file that a table names."""
    with _opened(_beside(folder, name)) as file:
        if os.fstat(file.fileno()).st_size > MAX_MEMBER_BYTES:
            raise DataError(f"is larger than the {MAX_MEMBER_BYTES} bytes that are read.")
        return file.read(MAX_MEMBER_BYTES)


def _opened(path: Path) -> BinaryIO:
    """Open a file without waiting for a pipe that took its place meanwhile."""
    return os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")


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


def parquet_table(paths: Iterable[Path]) -> "ImageColumn | ColumnFeatures":
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
        rows = _ParquetRows(files)
        return _features(files, rows) if rows.is_vector else ImageColumn(files[0], rows, files)
    except ImportError as error:
        raise DataError(f"`{files[0]}` needs the package pyarrow: {_INSTALL}.") from error
    except Exception as error:  # pyarrow's own errors, and names that are no text
        if isinstance(error, DataError) and str(error).startswith("`"):
            raise
        raise DataError(f"`{files[0]}` {_unreadable(error)}") from error


def _features(files: list[Path], rows: "_ParquetRows") -> ColumnFeatures:
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
        return ImageColumn(folder, _DatasetRows(folder), [])
    except ImportError as error:
        raise DataError(f"`{folder}` needs the package pyarrow: {_INSTALL}.") from error
    except Exception as error:  # pyarrow's own errors, those of the system, and of other JSON
        if isinstance(error, DataError):
            named = str(error).startswith("`")
            raise error if named else DataError(f"`{folder}` {error}") from error
        raise DataError(
            f"`{folder}` is no readable dataset ({_one_line(error)}): save it again."
        ) from error


class _ParquetRows:
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
                raise DataError(f"`{file}` {_unreadable(error)}") from error
            column, is_vector = _column(file, data.schema_arrow)
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
            for path in filter(None, chunk.field("path").to_pylist()):
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
        """The column of classes, if there is one."""
        schema = _parquet(self._files[0]).schema_arrow
        name = next((name for name in ("label", "labels") if name in schema.names), None)
        if name is None:
            return None
        try:
            parts = (self._read(number, name) for number in range(len(self._groups)))
            return _labels(parts, _class_names(schema, name))
        except Exception as error:  # a later file without it, a damaged page
            raise DataError(
                f"`{self._files[0].parent}`: column `{name}` cannot be read in all files "
                f"({_one_line(error)}): write it again, or leave it out."
            ) from error

    def vectors(self) -> np.ndarray:
        """The column as features (N, D), from lists of one length."""
        filled, features = 0, np.empty((0, 0))
        for number, (file, *_) in enumerate(self._groups):
            for chunk in self._read(number, self.column).chunks:
                part = _vectors(chunk, f"`{file}`: column `{self.column}`")
                if not features.size and part.size:
                    shape, dtype = (self._count, part.shape[1]), part.dtype
                    room = bytes_for(self._count * part.shape[1] * dtype.itemsize)
                    features = room.view(dtype).reshape(shape)
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
        file, group, first, _ = self._groups[number]
        last = self._groups[number + 1][2] if number + 1 < len(self._groups) else self._count
        data = _parquet(file)
        size = data.metadata.row_group(group).total_byte_size
        check_expansion(f"row group {group}", size, file.stat().st_size)
        found = data.read_row_group(group, columns=[column + leaf])[column]
        found.validate(full=True)
        if len(found) != last - first:
            raise DataError(f"holds {len(found)} rows where {last - first} were: write it again.")
        return found


def _parquet(path: Path) -> Any:
    """Open a parquet file whose description is not too long to be read."""
    import pyarrow.parquet as parquet

    check_regular(path)
    with _opened(path) as file:
        start = file.read(512)
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 8))
        if found := foreign_content(start):
            raise DataError(found)
        if int.from_bytes(file.read(4), "little") > min(end, MAX_FOOTER_BYTES):
            raise ValueError("its description is longer than it is, or than what is read")
    return parquet.ParquetFile(path)


def _unreadable(error: Exception) -> str:
    """Say why a file is no table."""
    if isinstance(error, DataError):
        return str(error)
    return f"is no readable parquet file ({_one_line(error)}): write it again."


def _one_line(error: Exception) -> str:
    """What an error says."""
    return " ".join(str(error).split()) or type(error).__name__


class _DatasetRows:
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
        self._files = [_beside(folder, name) for name in names]
        self.identities = {file: file_identity(file, content=False) for file in self._files}
        self._info = {str(key): value for key, value in info.items()}
        self._open()

    def _open(self) -> None:
        """Map the files, and check the columns that are used to the last value."""
        self._starts, self._parts, self._label_parts = [0], [], []
        self._places: list[tuple[Path, int]] = []  # file of each part, first row there
        self.column, self.label, self.embedded = "", None, True
        for file in self._files:
            rows = 0
            for batch in self._batches(file):
                images = batch.column(self.column)
                self._parts.append(images)
                if self.label is not None:
                    self._label_parts.append(batch.column(self.label))
                self.embedded = self.embedded and not _bytes_of(images).null_count
                self._places.append((file, rows))
                rows += len(images)
                self._starts.append(self._starts[-1] + len(images))
                check_rows(self._starts[-1])

    def _batches(self, file: Path) -> Iterator[Any]:
        """Yield the columns that are used, in parts."""
        import pyarrow

        with pyarrow.memory_map(str(file)) as source:
            schema = pyarrow.ipc.open_stream(source).schema
            self.column = _image_column(self.folder, schema)
            self.label = next((n for n in ("label", "labels") if n in schema.names), None)
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
        return _labels(self._label_parts, names if isinstance(names, list) else None)


def _json(path: Path) -> dict[str, Any]:
    """An object of a JSON file."""
    check_regular(path)
    with _opened(path) as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise DataError(f"holds `{path.name}` of more than {MAX_JSON_BYTES} bytes: save it again.")
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return found


def _labels(parts: Iterable[Any], names: Sequence[str] | None) -> tuple[str, ...]:
    """Classes of rows, by their names where they have some; one text a class, not one a row."""
    known: dict[str, str] = {}
    found = (_label(value, names) for part in parts for value in part.to_pylist())
    return tuple(known.setdefault(label, label) for label in found)


def _bytes_of(chunk: Any) -> Any:
    """The encoded images of a part of a column, which may have their paths beside them."""
    import pyarrow

    return chunk.field("bytes") if pyarrow.types.is_struct(chunk.type) else chunk


def _column(path: Path, schema: Any) -> tuple[str, bool]:
    """The column that is read, and whether it holds vectors instead of images."""
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
        return _image_column(path, schema), False
    named = [name for name in ("features", "embedding", "embeddings") if name in vectors]
    if not named and len(vectors) > 1:
        raise DataError(
            f"`{path}` has vectors in {', '.join(vectors)}: name the one to read `features`, or "
            "save it as a .npy file (N, D)."
        )
    return (named or vectors)[0], True


def _vectors(chunk: Any, where: str) -> np.ndarray:
    """Vectors (n, D) of a part of a column."""
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


def _image_column(path: Path, schema: Any) -> str:
    """The column that holds images."""
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


def _class_names(schema: Any, column: str) -> Sequence[str] | None:
    """Names of the classes, where a file of Hugging Face's says them."""
    try:
        info = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]
        return [str(name) for name in info["names"]]
    except (TypeError, KeyError, ValueError):
        return None


def _label(value: Any, names: Sequence[str] | None) -> str:
    """A class by its name, where it has one."""
    known = names is not None and isinstance(value, int) and 0 <= value < len(names)
    return str(names[value]) if known and names is not None else str(value)
