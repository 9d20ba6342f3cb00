"""What names of files say: images, classes, and what must not be followed."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from otmetrics.errors import DataError

EXTENSIONS = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
"""The files of a folder or archive that are images; upper and lower case alike."""

SPLITS = ("dev", "extra", "test", "train", "unlabeled", "val", "valid", "validation")
"""What the parts of a data set are called that nobody scores as one."""

MAX_MEMBER_BYTES = 2**29
"""The largest member that is read: what an archive says of itself may be a trap."""


def is_image(name: str) -> bool:
    """Tell an image by its name.

    Args:
        name: A POSIX path.

    Returns:
        Whether it ends as images do.
    """
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def is_hidden(name: str) -> bool:
    """Tell files that nobody means.

    Args:
        name: A POSIX path inside an archive.

    Returns:
        Whether it or a folder above it is hidden, or what macOS keeps beside files.
    """
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def labels_of(names: Sequence[str]) -> tuple[str, ...] | None:
    """Take the folder that each image lies in as its class.

    Args:
        names: Relative POSIX paths.

    Returns:
        The first folder of each path; None where a path has none, or all have the same.
    """
    parts = [PurePosixPath(name).parts for name in names]
    if any(len(part) < 2 for part in parts):
        return None
    labels = tuple(part[0] for part in parts)
    return labels if len(set(labels)) > 1 else None


def splits_of(names: Sequence[str]) -> list[str]:
    """Find out whether files or folders are several parts of one data set, such as train and test.

    Args:
        names: Names of files or folders in one folder.

    Returns:
        The parts, sorted; none where there are not several, or where names say other things.
    """
    stems = {re.sub(r"-(\d+|\d+-of-\d+)$", "", name.split(".")[0]) for name in names}
    return sorted(stems) if len(stems) > 1 and stems <= set(SPLITS) else []


def check_member(name: str, *, is_link: bool) -> None:
    """Refuse what would mean another file somewhere else.

    Args:
        name: What an archive or table calls a file.
        is_link: Whether it is a link.

    Raises:
        DataError: The name is absolute or climbs out, or leads through a link.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
        raise DataError(f"holds `{name}`, whose name leads out of it: pack it again without.")
    if is_link:
        raise DataError(f"holds `{name}`, a link, which is not followed: pack it again without.")


class RowNames(Sequence[str]):
    """Names of rows, "a.npy[12]" for row 12, made when they are asked for.

    Args:
        file: Name of the file.
        count: How many rows it has.
    """

    def __init__(self, file: str, count: int) -> None:
        self._file, self._rows = file, range(count)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(f"{self._file}[{row}]" for row in self._rows[index])
        return f"{self._file}[{self._rows[index]}]"
