"""Images, or features, in the columns of parquet files and of Hugging Face datasets on disk.

The package `datasets` would read both, but it opens whatever file a folder names, inside of it or
not; it copies parquet files to disk unpacked, where 461 bytes became 360 MB; and it hands out the
rows of damaged files as they are, though offsets in them may lead anywhere, also out of the memory.
So the tables are read with pyarrow, which comes with it: what a file claims is bounded before it is
unpacked, and what was read is validated to the last value before anything computes with it.
"""

import io
import json
import os
import threading
from bisect import bisect_right
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from otmetrics.errors import DataError
from otmetrics.images import arrow, limits
from otmetrics.images.arrays import FeatureArray, checked_features
from otmetrics.images.damage import (
    check_regular,
    name_errors,
    open_without_waiting,
)
from otmetrics.images.decode import DecodedImage, decoded_from
from otmetrics.images.files import (
    RowNames,
    check_member,
    digest,
    identity_of,
    is_folder,
    is_hidden,
    row_identity,
    splits_remark,
    unchanged,
)

_TABLE_FILES = {".arrow", ".json", ".md", ".parquet"}
"""What lies next to tables without being an image that a row may name."""


class ImageColumn:
    """The images of one column: encoded files as bytes, as Hugging Face's `Image` stores them.

    The column is the one named `image`, else `img`, else the only one that holds images. A column
    `label` (or `labels`) gives the classes.
    """

    kind = "table"

    def __init__(self, path: Path, rows: "_Rows") -> None:
        self.path, self._rows = path, rows
        self.names = RowNames(path.name, len(rows))
        if not self.names:
            raise DataError(f"`{path}` has no rows: give a table with images.")
        self.labels = rows.labels()
        self.remarks = rows.remarks()

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> DecodedImage:
        """Decode one image."""
        return decoded_from(lambda: io.BytesIO(self._content(index)), f"{self.path}[{index}]")

    def size(self, index: int) -> None:
        """None: a table does not say it."""

    def identity(self, index: int, content: bool) -> bytes | None:
        """Tell one image from all others, by its bytes or by its file and row."""
        if content or not self._rows.is_embedded:  # files next to the table change without it
            try:
                return digest("content", self._content(index))
            except Exception:  # reading it for its features will say what is wrong
                return None
        file, row = self._rows.place(index)
        return row_identity(file, self._rows.identities[file], self._rows.column, str(row))

    def _content(self, index: int) -> bytes:
        """The encoded image of a row."""
        value = self._rows.value(index)
        if isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
            if content is None and path:
                file, _ = self._rows.place(index)
                return _read_beside(file.parent, str(path))
            value = content
        if not isinstance(value, bytes):
            raise DataError("holds no image: leave the row out.")
        return value


def parquet_table(files: list[Path]) -> ImageColumn | FeatureArray:
    """Open parquet files, one after the other, that hold images, or else vectors of one length.

    Memory: one row group of images at a time; features in memory or in a mapped file.
    """
    return _open(files[0], lambda: _Rows(files, arrow.look_parquet, arrow.read_parquet))


def dataset_images(folder: Path) -> ImageColumn | FeatureArray:
    """Open a Hugging Face dataset that `save_to_disk` wrote; its images stay in mapped files."""
    return _open(folder, lambda: _Rows(_dataset_files(folder), arrow.look_arrow, arrow.read_arrow))


def _open(path: Path, rows_of: Callable[[], "_Rows"]) -> ImageColumn | FeatureArray:
    """Open a table; whatever goes wrong is told with the name of a file or folder."""
    with _name_errors(path):
        rows = rows_of()
        if not rows.is_vector:
            return ImageColumn(path, rows)
        features = checked_features(rows.vectors(), path)
        remarks = [f"features are those of its column `{rows.column}`", *rows.remarks()]
        return FeatureArray(features, path, None, rows.labels(), remarks=remarks)


def _name_errors(path: Path) -> AbstractContextManager[None]:
    return name_errors(path, "is not a readable table", "write it again")


# --- rows of any table ------------------------------------------------------------------------


class _Part(NamedTuple):
    """Rows that are read together: a row group of a parquet file, or a whole Arrow file."""

    file: Path
    group: int
    start: int  # of the table
    start_in_file: int
    rows: int


class _Rows:
    """Rows of one or several files, one after the other; the part read last stays in memory.

    `look` takes a file to its schema and the rows of each of its parts; `read` takes a file, the
    number of a part and a column to its values, as pyarrow has them.
    """

    def __init__(
        self,
        files: list[Path],
        look: Callable[[Path], tuple[Any, list[int]]],
        read: Callable[[Path, int, str], Any],
    ) -> None:
        self._files, self._read_part = files, read
        self._states: dict[Path, os.stat_result] = {}  # when they were opened
        self.identities: dict[Path, bytes | None] = {}
        self.column, self.is_vector = "", False
        self.label: str | None = None
        self._has_paths = False
        self._parts: list[_Part] = []
        self._count = 0
        self._keep_nothing()
        for file in files:
            with _name_errors(file):
                self._states[file] = file.stat()
                self.identities[file] = identity_of(file, self._states[file])
                with unchanged(file, self._states[file]):
                    schema, sizes = look(file)
                self._choose_columns(file, schema)

            before = self._count
            for group, rows in enumerate(sizes):
                self._parts.append(_Part(file, group, self._count, self._count - before, rows))
                self._count += rows
                # Each image has an entry in lists of its own; vectors are numbers in one array,
                # whose bytes are bounded.
                if not self.is_vector:
                    limits.check_rows(self._count)

        # A structure of bytes and a path may name a file, but there is none where only tables lie.
        self.is_embedded = not self._has_paths or not any(
            _may_be_named(there)
            for folder in {file.parent for file in files}
            for there in folder.iterdir()
        )

    def _choose_columns(self, file: Path, schema: Any) -> None:
        """Choose the columns of images or vectors and of classes, which all files must share."""
        column, is_vector = arrow.chosen_column(file, schema)
        label = next((name for name in ("label", "labels") if name in schema.names), None)
        self._has_paths = self._has_paths or not arrow.is_bytes(schema.field(column).type)

        if file == self._files[0]:
            self.column, self.is_vector, self.label = column, is_vector, label
            self._class_names = arrow.class_names(schema, label)
        elif (column, label) != (self.column, self.label):
            # Classes of some files would stand for the rows of others.
            raise DataError(
                f"has its samples in `{column}` and their classes in {_shown(label)}, "
                f"`{self._files[0]}` in `{self.column}` and {_shown(self.label)}: give all files "
                "the same columns."
            )

    def _keep_nothing(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[int, Any] = (-1, None)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in {"_lock", "_kept"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._keep_nothing()

    def __len__(self) -> int:
        return self._count

    def _part_of(self, index: int) -> int:
        return bisect_right(self._parts, index, key=lambda part: part.start) - 1

    def place(self, index: int) -> tuple[Path, int]:
        """File of a row, and its number there."""
        part = self._parts[self._part_of(index)]
        return part.file, part.start_in_file + index - part.start

    def value(self, index: int) -> Any:
        """One cell of the column of images."""
        number = self._part_of(index)
        # Threads ask for neighbours: without the lock each of them would read the part again.
        with self._lock:
            if self._kept[0] != number:
                self._kept = number, self._read(self._parts[number], self.column)
            return self._kept[1][index - self._parts[number].start].as_py()

    def _read(self, part: _Part, column: str) -> Any:
        """A column of a part, validated to the last value."""
        with unchanged(part.file, self._states[part.file]):
            found = self._read_part(part.file, part.group, column)
            # Offsets may lead out of the memory, which nothing after this looks at again.
            found.validate(full=True)
        if len(found) != part.rows:
            raise DataError(f"holds {len(found)} rows where {part.rows} were: write it again.")
        return found

    def labels(self) -> tuple[str, ...] | None:
        """Class of each row, or None; one text per class, not one per row."""
        if self.label is None:
            return None
        known: dict[str, str] = {}
        found: list[str] = []
        size = 0
        for part in self._parts:
            # A file may claim more classes than memory holds, so that their bytes are counted.
            values = self._read(part, self.label)
            size += values.nbytes
            if size > limits.MAX_LABEL_BYTES:
                raise DataError(
                    f"has classes of more than the {limits.MAX_LABEL_BYTES} bytes that are read: "
                    "leave the column out, or give each class a short name."
                )

            labels = (arrow.label_of(value, self._class_names) for value in arrow.values_of(values))
            found += (known.setdefault(label, label) for label in labels)
        return tuple(found)

    def vectors(self) -> np.ndarray:
        """The column as features (N, D), from lists of one length; a mapped file where large."""
        features: np.ndarray = np.empty((0, 0))
        filled = 0
        for part in self._parts:
            for chunk in self._read(part, self.column).chunks:
                rows = arrow.vectors_of(chunk, f"`{part.file}`: column `{self.column}`")
                # Their length is known from the first ones, and with it the size of all.
                if not features.size and rows.size:
                    features = self._room_for_vectors(rows)

                if rows.shape[1:] != features.shape[1:] or rows.dtype != features.dtype:
                    raise DataError(
                        f"`{part.file}`: column `{self.column}` has vectors of {rows.shape[1]} "
                        f"{rows.dtype} values, and of {features.shape[1]} {features.dtype} values "
                        "before: give all of them one length and type."
                    )
                features[filled : filled + len(rows)] = rows
                filled += len(rows)
        return features[:filled]

    def _room_for_vectors(self, rows: np.ndarray) -> np.ndarray:
        """Room for as many vectors as there are rows, if the files can hold them."""
        size = self._count * rows.shape[1] * rows.dtype.itemsize
        packed = sum(file.stat().st_size for file in self._files)
        limits.check_expansion(self.column, size, packed)
        return limits.room_for(size).view(rows.dtype).reshape(self._count, rows.shape[1])

    def remarks(self) -> list[str]:
        """What to know about the files, a line each."""
        return splits_remark([file.name for file in self._files], "the files of one of them")


def _shown(label: str | None) -> str:
    return "no column" if label is None else f"`{label}`"


# --- files that a table names -----------------------------------------------------------------


def _dataset_files(folder: Path) -> list[Path]:
    """The Arrow files of a dataset, none of them outside of its folder."""
    if (folder / "dataset_dict.json").exists():
        splits = ", ".join(map(str, _load_json(folder / "dataset_dict.json")["splits"]))
        raise DataError(f"holds the splits {splits}: give the folder of one of them.")
    state = _load_json(folder / "state.json")
    # Older versions wrote all rows, and which of them are meant into a file of its own.
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError("is a selection of rows: save it again with a newer `datasets`.")
    return [_find_beside(folder, str(item["filename"])) for item in state["_data_files"]]


def _load_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file."""
    check_regular(path)
    with open_without_waiting(path) as file:
        content = file.read(limits.MAX_JSON_BYTES + 1)
    if len(content) > limits.MAX_JSON_BYTES:
        raise DataError(
            f"holds `{path.name}` of more than {limits.MAX_JSON_BYTES} bytes: save it again."
        )
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} does not hold a JSON object")
    return found


def _may_be_named(path: Path) -> bool:
    """Whether a row may name a file, or one in a folder, as its image; `_read_beside` agrees."""
    if is_hidden(path.name):
        return False
    return path.suffix.lower() not in _TABLE_FILES or is_folder(path)


def _find_beside(folder: Path, name: str) -> Path:
    """A file that a table names, which must lie in its folder, also where a link leads."""
    check_member(name, is_link=False)
    file = (folder / name).resolve()
    if folder.resolve() not in file.parents:
        raise DataError(f"holds `{name}`, a link that leads out of it: copy the file there.")
    check_regular(file)
    return file


def _read_beside(folder: Path, name: str) -> bytes:
    """Content of an image file that a table names."""
    file = _find_beside(folder, name)
    # Where nothing else lies next to a table, its rows are known by their numbers.
    if is_hidden(name) or Path(name).suffix.lower() in _TABLE_FILES:
        raise DataError(f"names `{name}`, which is hidden or no image by its name: rename it.")
    with open_without_waiting(file) as content:
        if os.fstat(content.fileno()).st_size > limits.MAX_MEMBER_BYTES:
            raise DataError(f"is larger than the {limits.MAX_MEMBER_BYTES} bytes that are read.")
        return content.read(limits.MAX_MEMBER_BYTES)
