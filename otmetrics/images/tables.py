"""Images in the columns of parquet files and of Hugging Face datasets on disk."""

import io
from collections.abc import Iterable
from pathlib import Path

from otmetrics.errors import DataError
from otmetrics.images.arrays import FeatureArray, checked_features
from otmetrics.images.beside import bytes_beside, one_line
from otmetrics.images.dataset import DatasetRows
from otmetrics.images.decode import DecodedImage, decoded_from
from otmetrics.images.identity import digest, file_identity
from otmetrics.images.names import RowNames, splits_of
from otmetrics.images.parquet import ParquetRows, unreadable

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
