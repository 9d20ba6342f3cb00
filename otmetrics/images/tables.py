"""Images in the columns of parquet files and of Hugging Face datasets on disk."""

import io
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from otmetrics.errors import DataError
from otmetrics.images.decode import DecodedImage, check_regular, decoded_from
from otmetrics.images.identity import digest, file_identity
from otmetrics.images.names import MAX_MEMBER_BYTES, check_member

_INSTALL = 'pip install "otmetrics[datasets]"'


class ImageColumn:
    """The images of one column: encoded files as bytes, as Hugging Face's `Image` stores them.

    The column is the one named `image`, else `img`, else the only one that holds images. A column
    `label` (or `labels`) gives the classes.

    Attributes:
        path: The file or folder.
        names: "path[12]" for row 12.
        labels: Class of each row, or None.
    """

    kind = "table"

    def __init__(
        self,
        path: Path,
        rows: "_ParquetRows | _DatasetRows",
        identities: dict[Path, bytes | None],
    ) -> None:
        self.path = path
        self._rows = rows
        self._identities = identities  # of the files before they were opened
        self.names = tuple(f"{path.name}[{index}]" for index in range(len(rows)))
        if not self.names:
            raise DataError(f"`{path}` has no rows: give a table with images.")
        self.labels = rows.labels()

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
                return _file_beside(self.path, str(path))
            value = content
        if not isinstance(value, bytes):
            raise DataError("holds no image: leave the row out, or pass --skip-corrupt.")
        return value


def _file_beside(table: Path, name: str) -> bytes:
    """Content of a file that a table names, which must not lead away from it."""
    check_member(name, is_link=False)
    file = table.parent / name
    check_regular(file)
    if file.stat().st_size > MAX_MEMBER_BYTES:
        raise DataError(f"is larger than the {MAX_MEMBER_BYTES} bytes that are read.")
    return file.read_bytes()


def parquet_images(paths: Iterable[Path]) -> ImageColumn:
    """Open parquet files that hold images.

    Args:
        paths: The files, one after the other.

    Returns:
        Their images. Memory: one row group at a time.

    Raises:
        DataError: A file cannot be read, or has no column of images, or pyarrow is missing.
    """
    files = list(paths)
    try:
        identities = {file: file_identity(file, content=False) for file in files}
        return ImageColumn(files[0], _ParquetRows(files), identities)
    except ImportError as error:
        raise DataError(f"`{files[0]}` needs the package pyarrow: {_INSTALL}.") from error


def dataset_images(folder: Path) -> ImageColumn:
    """Open a Hugging Face dataset that `save_to_disk` wrote.

    Args:
        folder: Its folder.

    Returns:
        Its images, mapped from disk.

    Raises:
        DataError: The folder holds several splits, or no column of images, or cannot be read, or
            the package is missing.
    """
    try:
        state = folder / "state.json"
        identities = {state: file_identity(state, content=False)}
        return ImageColumn(folder, _DatasetRows(folder), identities)
    except ImportError as error:
        raise DataError(f"`{folder}` needs the package datasets: {_INSTALL}.") from error


class _ParquetRows:
    """Rows of parquet files; the row group that was read last stays in memory."""

    def __init__(self, files: list[Path]) -> None:
        import pyarrow.parquet as parquet

        self._files = files
        self.embedded = True  # whether all images lie in the files
        self._groups: list[tuple[Path, int, int, int]] = []  # file, group, first row, row in file
        self.column, count = "", 0
        for file in files:
            try:
                if file.exists():
                    check_regular(file)  # a pipe would be waited for
                data = parquet.ParquetFile(file)
            except Exception as error:  # pyarrow's own errors, and those of the system
                detail = " ".join(str(error).split())
                raise DataError(
                    f"`{file}` is no readable parquet file ({detail}): write it again."
                ) from error
            column = _image_column(file, data.schema_arrow)
            if count and column != self.column:
                raise DataError(
                    f"`{file}` holds its images in `{column}`, `{files[0]}` in `{self.column}`: "
                    "give them one name."
                )
            self.column = column
            begin = count
            self.embedded = self.embedded and _no_nulls(data.metadata, column)
            for group in range(data.metadata.num_row_groups):
                self._groups.append((file, group, count, count - begin))
                count += data.metadata.row_group(group).num_rows
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

    def value(self, index: int) -> Any:
        """One cell."""
        number = self._group_of(index)
        with self._lock:
            if self._kept[0] != number:
                self._kept = number, self._read(number, [self.column])[self.column]
            return self._kept[1][index - self._groups[number][2]].as_py()

    def labels(self) -> tuple[str, ...] | None:
        """The column of classes, if there is one."""
        import pyarrow.parquet as parquet

        schema = parquet.ParquetFile(self._files[0]).schema_arrow
        name = next((name for name in ("label", "labels") if name in schema.names), None)
        if name is None:
            return None
        try:
            values = [
                self._read(number, [name])[name].to_pylist() for number in range(len(self._groups))
            ]
        except Exception as error:  # a later file without it, a damaged page
            detail = " ".join(str(error).split())
            raise DataError(
                f"`{self._files[0].parent}`: column `{name}` cannot be read in all files ({detail})"
                ": write it again, or leave it out."
            ) from error
        names = _class_names(schema, name)
        return tuple(_label(value, names) for group in values for value in group)

    def _group_of(self, index: int) -> int:
        """The row group that holds a row."""
        from bisect import bisect_right

        return bisect_right(self._groups, index, key=lambda group: group[2]) - 1

    def _read(self, number: int, columns: list[str]) -> Any:
        import pyarrow.parquet as parquet

        file, group, _, _ = self._groups[number]
        return parquet.ParquetFile(file).read_row_group(group, columns=columns)


class _DatasetRows:
    """Rows of a Hugging Face dataset, whose images stay encoded."""

    def __init__(self, folder: Path) -> None:
        import datasets

        self.folder = folder
        try:
            data = datasets.load_from_disk(str(folder))
        except Exception as error:
            detail = " ".join(str(error).split())
            raise DataError(f"`{folder}` is no readable dataset ({detail}).") from error
        if isinstance(data, datasets.DatasetDict):
            raise DataError(
                f"`{folder}` holds the splits {', '.join(data)}: give the folder of one of them."
            )
        self.column = _image_column(folder, data.features.arrow_schema)
        self.features = data.features
        if isinstance(data.features[self.column], datasets.Image):
            data = data.cast_column(self.column, datasets.Image(decode=False))
        self._data = data.with_format(None)
        chunks = self._data.data.column(self.column).chunks
        self.embedded = not any(_bytes_of(chunk).null_count for chunk in chunks)

    def __len__(self) -> int:
        return len(self._data)

    def place(self, index: int) -> tuple[Path, int]:
        """What stands for the age of all rows."""
        return self.folder / "state.json", index

    def value(self, index: int) -> Any:
        """One cell."""
        return self._data[index][self.column]

    def labels(self) -> tuple[str, ...] | None:
        """The column of classes, if there is one."""
        name = next((name for name in ("label", "labels") if name in self.features), None)
        if name is None:
            return None
        names = getattr(self.features[name], "names", None)
        return tuple(_label(value, names) for value in self._data[name])


def _no_nulls(metadata: Any, column: str) -> bool:
    """Whether a parquet file says that each row has the bytes of its image."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for leaf in map(group.column, range(group.num_columns)):
            if leaf.path_in_schema in {column, f"{column}.bytes"}:
                counted = leaf.statistics is not None and leaf.statistics.has_null_count
                if not counted or leaf.statistics.null_count:
                    return False
    return True


def _bytes_of(chunk: Any) -> Any:
    """The encoded images of a part of a column, which may have their paths beside them."""
    import pyarrow

    return chunk.field("bytes") if pyarrow.types.is_struct(chunk.type) else chunk


def _image_column(path: Path, schema: Any) -> str:
    """The column that holds images."""
    import pyarrow

    def holds_images(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)

    found = [field.name for field in schema if holds_images(field.type)]
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
            "`image`."
        )
    return found[0]


def _class_names(schema: Any, column: str) -> Sequence[str] | None:
    """Names of the classes, where a file of Hugging Face's says them."""
    import json

    try:
        info = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]
        return [str(name) for name in info["names"]]
    except (TypeError, KeyError, ValueError):
        return None


def _label(value: Any, names: Sequence[str] | None) -> str:
    """A class by its name, where it has one."""
    known = names is not None and isinstance(value, int) and 0 <= value < len(names)
    return str(names[value]) if known and names is not None else str(value)
