"""Folders, lists and stores of image files: which there are, in which order, under which name."""

import hashlib
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Protocol

from otmetrics.errors import DataError
from otmetrics.images import limits
from otmetrics.images.damage import (
    ReplacedError,
    check_regular,
    check_start,
    name_errors,
    open_without_waiting,
)
from otmetrics.images.decode import DecodedImage, decoded_image

EXTENSIONS = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
"""The files of a folder or archive that are images; upper and lower case alike."""

SPLITS = ("dev", "extra", "test", "train", "unlabeled", "val", "valid", "validation")
"""What the parts of a data set are called that nobody scores as one."""


# --- names ------------------------------------------------------------------------------------


def is_image(name: str) -> bool:
    """Tell an image by the end of its name."""
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def is_hidden(name: str) -> bool:
    """Tell what nobody means: hidden files and folders, and what macOS keeps next to files."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def labels_of(names: Sequence[str]) -> tuple[str, ...] | None:
    """The first folder of each relative path, its class; None where a path has none, or all one."""
    parts = [PurePosixPath(name).parts for name in names]
    if any(len(part) < 2 for part in parts):
        return None
    labels = tuple(part[0] for part in parts)
    return labels if len(set(labels)) > 1 else None


def splits_remark(names: Iterable[str], remedy: str) -> list[str]:
    """Say in one line, if so, that files or folders are named after several parts of a data set."""
    # Shards of one part differ in their numbers alone: train-00000-of-00002, train-001.
    splits = {re.sub(r"-(\d+|\d+-of-\d+)$", "", name.split(".")[0]) for name in names}
    if len(splits) < 2 or not splits <= set(SPLITS):
        return []
    return [f"the splits {', '.join(sorted(splits))} are read as one set: give {remedy}"]


def check_member(name: str, *, is_link: bool) -> None:
    """Refuse a name in an archive or table that would mean another file somewhere else."""
    # Both kinds of slashes: what unpacks it may run on Windows.
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
        raise DataError(f"holds `{name}`, whose name leads out of it: pack it again without.")
    if is_link:
        raise DataError(f"holds `{name}`, a link, which is not followed: pack it again without.")


class RowNames(Sequence[str]):
    """Names of the rows of a file, "a.npy[12]" for row 12, made when they are asked for."""

    def __init__(self, file: str, count: int) -> None:
        self._file, self._rows = file, range(count)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(f"{self._file}[{row}]" for row in self._rows[index])
        return f"{self._file}[{self._rows[index]}]"


# --- what tells a file from all others --------------------------------------------------------

SETTLED_SECONDS = 2.0
"""A file that changed later may change again within one tick of its file system's clock."""

_TELLING = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
_READ_BYTES = 2**20


def digest(*parts: bytes | str) -> bytes:
    """Hash parts to 16 bytes (BLAKE2b), so that no two lists of parts give one hash."""
    return _hash_of(*parts).digest()


def _hash_of(*parts: bytes | str) -> Any:
    """A hash to which the parts were added, each after its length."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        hashed.update(len(data).to_bytes(8, "little"))
        hashed.update(data)
    return hashed


def file_identity(path: Path, content: bool) -> bytes | None:
    """Tell a file from all others by its content, or by its path, size and times of change.

    16 bytes; None where it cannot be read as an image, or changed so recently that its times cannot
    tell it from its next state. Memory: 1 MB.
    """
    try:
        if not content:
            return identity_of(path, path.stat())
        with open_without_waiting(path) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > limits.MAX_MEMBER_BYTES:
                return None

            # As `digest("content", ...)` of the whole, which is never in memory.
            hashed, left = _hash_of("content"), status.st_size
            hashed.update(left.to_bytes(8, "little"))
            while left and (part := file.read(min(left, _READ_BYTES))):
                hashed.update(part)
                left -= len(part)

            # What is cut or written to meanwhile has no content that could be told.
            return None if left or file.read(1) else hashed.digest()
    except OSError:
        return None


def identity_of(path: Path, status: os.stat_result) -> bytes | None:
    """Tell a file by path, size, number, device and times of change, as `file_identity` does.

    The time of its content can be set, as archivers do when they unpack; the time of its record
    (`st_ctime`) cannot, and a file that takes another's place has a number of its own.
    """
    if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED_SECONDS:
        return None
    where = os.path.abspath(path)  # noqa: PTH100 - without a question to the file system
    return digest("file", where, *(str(getattr(status, name)) for name in _TELLING))


def row_identity(path: Path, whole: bytes | None, *row: str) -> bytes | None:
    """Tell a row of a file by the identity that the file had when it was opened, and still has."""
    if whole is None or file_identity(path, content=False) != whole:
        return None  # what is read now may be another file, or a mapped one that was written to
    return digest("row", whole, *row)


@contextmanager
def unchanged(path: Path, before: os.stat_result) -> Iterator[None]:
    """Read a file that is still the one that it was: raise where it is replaced or written to."""
    # Before reading, lest another file is told as a damaged one; after it, to know what was read.
    _check_unchanged(path, before)
    yield
    _check_unchanged(path, before)


def _check_unchanged(path: Path, before: os.stat_result) -> None:
    now = path.stat()
    # Not the time of its record, which rights, links and backups change and its content does not.
    if any(getattr(now, name) != getattr(before, name) for name in _TELLING[:-1]):
        raise ReplacedError(f"`{path}` was replaced while it was read: run again.")


# --- sources of images ------------------------------------------------------------------------


class ImageSource(Protocol):
    """A sequence of images with names: what `batches` reads from."""

    @property
    def names(self) -> Sequence[str]:
        """What each image is called in messages."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> DecodedImage:
        """Decode one image; several threads may do so at once.

        Args:
            index: Its place in `names`.

        Returns:
            Its pixels, whether they were transparent, and what its file says of it.

        Raises:
            DataError: It cannot be read; it alone, so that it may be left out.
        """


class StoredImages(ImageSource, Protocol):
    """Images on disk, which can be told apart without decoding them."""

    kind: str  # what records call it

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class of each image, or None where nothing says it."""

    def size(self, index: int) -> int | None:
        """Bytes that an image takes where it is stored, without reading it.

        Args:
            index: Its place in `names`.

        Returns:
            The number; None where nothing but reading it would tell.
        """

    def identity(self, index: int, content: bool) -> bytes | None:
        """Tell one image from all others without decoding it.

        Args:
            index: Its place in `names`.
            content: Read its content instead of asking for the place and age of its file.

        Returns:
            16 bytes; None where it cannot be read, or its file was replaced or has just changed.
        """


class ImageFiles:
    """Image files by their paths, relative to the root or absolute."""

    kind: str

    def __init__(
        self, path: Path, root: Path, names: tuple[str, ...], labels: tuple[str, ...] | None
    ) -> None:
        self.path, self.names, self.labels = path, names, labels
        self._root, self._opened = root, time.time()

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> DecodedImage:
        """Decode one image."""
        return decoded_image(self._root / self.names[index])

    def size(self, index: int) -> int | None:
        """Bytes of a file; None where it is gone."""
        try:
            return (self._root / self.names[index]).stat().st_size
        except OSError:
            return None

    def identity(self, index: int, content: bool) -> bytes | None:
        """Tell one image from all others without decoding it, as `file_identity` does."""
        return file_identity(self._root / self.names[index], content)

    def file_size(self, index: int) -> int:
        """Bytes of the file of one image."""
        return (self._root / self.names[index]).stat().st_size

    def is_changed(self, index: int) -> bool:
        """Whether the file of one image is gone, or changed since the names were read."""
        try:
            status = (self._root / self.names[index]).stat()
        except OSError:
            return True
        # The time of its record too: what is moved to its place may be older.
        return max(status.st_mtime, status.st_ctime) > self._opened


class ImageFolder(ImageFiles):
    """The images in a folder and its subfolders, sorted by their relative POSIX path.

    Hidden files and folders (`.name`) are left out. Links to folders are followed, and left out
    where they lead back to a folder that contains them. Files are not opened before `read`.

    Args:
        path: The folder.

    Attributes:
        names: Relative POSIX paths, sorted.
        labels: Top folder of each image, where all of them lie in one; else None.
        num_others: How many visible files of other kinds lie among them.
        remarks: What else to know, a line each.

    Raises:
        DataError: The folder is missing, not a folder, not readable, holds no images, or has links
            that lead to more than a thousand of its folders again.
    """

    kind = "folder"

    def __init__(self, path: str | Path) -> None:
        root = Path(path)
        again: list[str] = []
        with name_errors(path, "cannot be read", "check the path"):
            try:
                files = list(_visible_files(root, again))
            except NotADirectoryError as error:
                raise DataError(f"is {_file_advice(root)}") from error
            names = tuple(sorted(filter(is_image, files)))
            if not names:
                raise DataError(_empty_advice(files))

        super().__init__(root, root, names, labels_of(names))
        self.num_others = len(files) - len(names)
        self.remarks = splits_remark({name.split("/")[0] for name in names}, "one of the folders")
        if again:
            self.remarks.append(
                f"links lead to {len(again)} folders again, such as `{again[0]}`: their images "
                "count twice"
            )


def _empty_advice(files: list[str]) -> str:
    """Say what lies in a folder instead of images, and what to give."""
    kinds = Counter(PurePath(file).suffix.lower() for file in files)

    arrays = kinds[".npy"] + kinds[".npz"]
    if arrays:
        return (
            f"holds {arrays} .npy or .npz files and no images: give one of them, or put them "
            "together with np.concatenate and np.save."
        )
    for kind in (".parquet", ".tar", ".zip"):
        if kinds[kind]:
            below = sorted({str(PurePath(file).parent) for file in files if file.endswith(kind)})
            return (
                f"holds no images but {kinds[kind]} {kind} files in {', '.join(below[:5])}: give "
                "the folder that holds them, or one of them."
            )
    return (
        f"holds no images ({len(files)} other files): "
        f"give a folder with {', '.join(EXTENSIONS)} files."
    )


def _visible_files(root: Path, again: list[str]) -> Iterator[str]:
    """Yield the relative paths of all files; folders that are reached again go to `again`."""
    # Folders to look into, each with those above it, by device and number: links may lead back.
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    seen: set[tuple[int, int]] = set()
    while pending:
        folder, above = pending.pop()
        status = (root / folder).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            continue  # a link to a folder that contains it
        if identity in seen:
            again.append(folder)
        seen.add(identity)

        # Two links per folder to the next one make 2^n paths of n folders.
        if len(again) > limits.MAX_REVISITS:
            raise DataError(
                f"has links that lead to more than {limits.MAX_REVISITS} of its folders again: "
                "remove them, or give a folder below it."
            )

        within = above | {identity}
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if is_folder(entry):
                    pending.append((f"{folder}{entry.name}/", within))
                else:
                    yield folder + entry.name


def is_folder(path: Path | os.DirEntry[str]) -> bool:
    """Whether a path is a folder, as far as one may look; a broken link counts as a file."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _file_advice(path: Path) -> str:
    """Say what to give instead of a file that is neither a folder nor an array."""
    if path.suffix.lower() in EXTENSIONS:
        return "one image file: give the folder that holds it."
    return (
        "not a folder, nor a kind of file that is read: give a folder of images, a .zip, .tar or "
        ".parquet of them, a .txt of paths, or a .npy, .npz, .pkl or .pt file of arrays."
    )


class ListedImages(ImageFiles):
    """The image files that a text file in UTF-8 names, one path a line, in its order.

    Relative paths start at the folder of the text file. Empty lines, and those that begin with
    `#`, are left out.
    """

    kind = "list"

    def __init__(self, path: str | Path) -> None:
        file = Path(path)
        with name_errors(path, "is not a text in UTF-8", "write one path per line"):
            check_regular(file)
            names = tuple(_lines(file))
            if not names:
                raise DataError("names no images")
        super().__init__(file, file.parent, names, None)


def _lines(path: Path) -> Iterator[str]:
    """Yield the paths that a text file names, each looked for as it comes."""
    if path.stat().st_size > limits.MAX_LIST_BYTES:
        raise DataError(
            f"has more than the {limits.MAX_LIST_BYTES} bytes that a list may have: split it."
        )
    with path.open(encoding="utf-8-sig") as file:
        first = True
        # Never more than a limit at a time: a file without line ends would be one line.
        while line := file.readline(limits.MAX_LINE + 1):
            name = line.strip()
            if not name or name.startswith("#"):
                continue
            if first:
                check_start(name.encode())
            first = False

            if len(line) > limits.MAX_LINE or not _exists(path.parent / name):
                shown = name if len(name) <= 100 else f"{name[:100]}..."
                raise DataError(
                    f"names `{shown}`, which does not exist: correct the line; relative paths "
                    "start at the folder of the text file."
                )
            yield name


def _exists(path: Path) -> bool:
    """Whether there is such a file; a line that can be no name says that there is not."""
    try:
        return path.exists()
    except OSError:
        return False
