"""One array out of a `.npy` or `.npz` file, without unpickling anything."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from otmetrics.errors import DataError
from otmetrics.images.decode import check_regular

_ENTRIES = ("features", "images", "arr_0")

LoadedArray = tuple[np.ndarray, dict[str, Any] | None]


def loaded_array(path: Path) -> LoadedArray:
    """Load the array of a file and, from an archive, its protocol.

    Args:
        path: A `.npy` file, which is mapped (copy on write: torch warns of read-only memory), or a
            `.npz` file, whose chosen entry is read whole.

    Returns:
        The array and the protocol, or None.

    Raises:
        DataError: The file is missing, corrupt, pickled, or an archive without a clear entry.
    """
    try:
        with warnings.catch_warnings():  # a damaged header makes Python's parser warn
            warnings.simplefilter("ignore")
            return _loaded(path)
    except Exception as error:  # numpy and zipfile raise nearly anything on a damaged file
        raise DataError(f"`{path}` {_explained(error)}") from error


def _explained(error: Exception) -> str:
    """Say in one line what is wrong with a file and what to do about it."""
    detail = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, DataError):
        return detail
    if isinstance(error, FileNotFoundError):
        return "does not exist: check the path."
    if isinstance(error, OSError) and error.errno:
        return f"cannot be read ({error.strerror}): check its permissions."
    if "allow_pickle" in detail or "Python objects" in detail:
        return "holds pickled objects or is corrupt: save an array of a plain dtype with np.save."
    return f"is truncated or corrupt ({detail}): write it again."


def _loaded(path: Path) -> LoadedArray:
    """Load a file as what its content says it is."""
    check_regular(path)
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return np.load(path, mmap_mode="c", allow_pickle=False), None
        file.seek(0)  # numpy would leave a corrupt archive open if it opened it itself
        archive = np.load(file, allow_pickle=False)
        array = archive[_entry(archive.files)]
        if not isinstance(array, np.ndarray):  # numpy hands out the bytes of what is no array
            raise DataError("has an entry that is no array: write it again with np.savez.")
        return array, _protocol(archive) if "protocol" in archive.files else None


def _entry(names: list[str]) -> str:
    """Choose the entry that holds the images or features."""
    arrays = [name for name in names if name != "protocol"]
    for name in _ENTRIES:
        if name in arrays:
            return name
    if len(arrays) != 1:
        raise DataError(
            f"has the entries {', '.join(sorted(arrays)) or '(none)'}: "
            "save the one to read as 'features' or 'images'."
        )
    return arrays[0]


def _protocol(archive: Any) -> dict[str, Any]:
    """Parse the protocol of an archive of features."""
    protocol = json.loads(str(archive["protocol"]))
    if not isinstance(protocol, dict):
        raise DataError("has a `protocol` entry that is no JSON object: leave it out.")
    return protocol
