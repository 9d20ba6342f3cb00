"""Rows of Hugging Face datasets on disk."""

import json
import struct
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otmetrics.errors import DataError
from otmetrics.images.beside import beside, unblocked
from otmetrics.images.columns import bytes_in, image_column, labels_in
from otmetrics.images.decode import check_regular
from otmetrics.images.identity import file_identity
from otmetrics.images.limits import check_expansion, check_rows

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
        self.column, self.embedded = "", True
        self.label: str | None = None
        for file in self._files:
            rows = 0
            for batch in self._batches(file):
                images = batch.column(self.column)
                self._parts.append(images)
                if self.label is not None:
                    self._label_parts.append(batch.column(self.label))
                self.embedded = self.embedded and not bytes_in(images).null_count
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
