"""Features that were computed before, kept on disk under what they were computed from."""

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otmetrics.errors import DataError
from otmetrics.safe_files import replaced

VERSION = 1  # changes whenever the same image gives other features under the same protocol
VARIABLE = "OTMETRICS_CACHE"
_SUFFIX = ".safetensors"
_RECORD = "shelf.json"


Stored = tuple[np.ndarray, np.ndarray, list[bool]]
"""Indices, features (n, D), whether each image was transparent."""


@dataclass(frozen=True)
class ShelfInfo:
    """What one shelf of the cache holds.

    Attributes:
        path: Its folder.
        source: The input that its features were computed from.
        extractor: Name of the extractor.
        shards: How many files it has.
        num_bytes: Their size.
        last_used: When it was last written to or read, seconds since 1970.
    """

    path: Path
    source: str
    extractor: str
    shards: int
    num_bytes: int
    last_used: float


def cache_folder() -> Path:
    """Return where features are kept.

    Returns:
        The folder that the environment variable OTMETRICS_CACHE names, else the user's cache
        folder of the operating system.
    """
    if folder := os.environ.get(VARIABLE):
        with suppress(RuntimeError):  # a user who has no folder, or is none
            return Path(folder).expanduser()
        return Path(folder)
    from platformdirs import user_cache_path

    return user_cache_path("otmetrics", appauthor=False) / "features"


class Shelf:
    """Features of one input by one extractor: bags of rows, each under the key of its image.

    A bag is one safetensors file, a shard, whose name is the hash of its content: it appears whole
    or not at all, any number of processes may write at once, and a damaged one is seen when it is
    read, thrown away, and its features are computed anew.

    Args:
        source: Name of the input, for `cache info`.
        protocol: What the features depend on beside the images (JSON-able).
    """

    def __init__(self, source: str, protocol: dict[str, Any]) -> None:
        self.protocol = {"version": VERSION, **protocol}
        self.source = source
        name = _hashed(json.dumps([self.protocol, source], sort_keys=True).encode())
        self.path = cache_folder() / name[:32]

    def stored(self, keys: list[bytes | None]) -> Iterator[Stored]:
        """Find the features of images.

        Args:
            keys: 16 bytes an image; None where there is no key.

        Yields:
            From one shard after the other: indices among `keys`, their features (n, D), and whether
            each image was transparent. No index comes twice.
        """
        wanted: dict[bytes, list[int]] = {}
        for index, key in enumerate(keys):
            if key is not None:
                wanted.setdefault(key, []).append(index)  # copies of a file may share a key
        for path in self._shards():
            there = _keys(path)
            content = _checked(path) if any(key in wanted for key in there) else None
            if content is None:
                continue
            found = [(row, index) for row, key in enumerate(there) for index in wanted.pop(key, [])]
            rows, indices = (list(column) for column in zip(*found, strict=True))
            transparent = content["transparent"][rows].astype(bool).tolist()
            yield np.array(indices), content["features"][rows], transparent

    def store(self, keys: list[bytes], features: np.ndarray, transparent: list[bool]) -> None:
        """Keep the features of images, in one shard.

        Args:
            keys: 16 bytes an image.
            features: (N, D).
            transparent: Whether each of them was.

        Raises:
            OSError: If the folder cannot be written to.
        """
        from safetensors.numpy import save

        content = save(
            {
                "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 16),
                "features": np.ascontiguousarray(features),
                "transparent": np.array(transparent, np.uint8),
            }
        )
        _written(self.path / (_hashed(content) + _SUFFIX), content)
        _written(self.path / _RECORD, json.dumps(self._record).encode())

    @property
    def _record(self) -> dict[str, Any]:
        """What `cache info` says of it."""
        return {"source": self.source, "protocol": self.protocol}

    def _shards(self) -> list[Path]:
        """All shards, in an order that does not depend on the file system."""
        try:
            return sorted(self.path.glob(f"*{_SUFFIX}"))
        except OSError:
            return []


def _keys(path: Path) -> list[bytes]:
    """Keys of a shard, from its first bytes; none where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            keys = file.get_tensor("keys")
    except (OSError, SafetensorError):
        return []  # gone, or damaged
    return [row.tobytes() for row in keys] if keys.ndim == 2 and keys.shape[1] == 16 else []


def _checked(path: Path) -> dict[str, np.ndarray] | None:
    """Content of a shard; one whose name is not its hash is removed."""
    from safetensors.numpy import load

    try:
        content = path.read_bytes()
    except OSError:
        return None
    whole = _hashed(content) == path.stem
    with suppress(OSError):  # a cache that may only be read serves as well
        os.utime(path) if whole else path.unlink()  # the time of its last use
    return load(content) if whole else None


def _hashed(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _written(path: Path, content: bytes, tries: int = 5) -> None:
    """Write a file that appears whole or not at all, though another process removes its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as file:
            file.write(content)
    except FileNotFoundError:
        if tries == 1:
            raise
        _written(path, content, tries - 1)


def cache_info() -> list[ShelfInfo]:
    """Look at what the cache holds.

    Returns:
        One entry a shelf, the one that was used last first.
    """
    folder = cache_folder()
    found = [_info(path) for path in folder.iterdir() if _is_shelf(path)] if folder.is_dir() else []
    return sorted(found, key=lambda info: -info.last_used)


def _is_shelf(path: Path) -> bool:
    """Whether a folder is one of the cache's own, and not what else lies where it was put."""
    named = re.fullmatch("[0-9a-f]{32}", path.name) is not None
    if not named or not path.is_dir() or path.is_symlink():
        return False
    # A shard, or what a kill left of one, may lie there before the record does.
    shard = re.compile(rf"\.?[0-9a-f]{{64}}\{_SUFFIX}(\.[0-9a-f]{{16}}\.partial)?")
    return (path / _RECORD).is_file() or any(shard.fullmatch(f.name) for f in path.iterdir())


def _info(path: Path) -> ShelfInfo:
    """What one shelf holds."""
    try:
        record = json.loads((path / _RECORD).read_text())
        source, extractor = record["source"], record["protocol"]["extractor"]["extractor"]
    except (OSError, ValueError, KeyError, TypeError):
        source = extractor = "?"
    states = []
    for file in path.glob(f"*{_SUFFIX}"):
        with suppress(OSError):  # gone meanwhile
            states.append(file.stat())
    return ShelfInfo(
        path,
        str(source),
        str(extractor),
        len(states),
        sum(state.st_size for state in states),
        max((state.st_mtime for state in states), default=0.0),
    )


def cleared(older_than_days: float = 0.0) -> list[ShelfInfo]:
    """Remove shelves from the cache.

    Args:
        older_than_days: Leave those that were used since.

    Returns:
        What was removed.

    Raises:
        DataError: If a folder cannot be removed.
    """
    limit = time.time() - 86400 * older_than_days
    removed = [info for info in cache_info() if info.last_used <= limit]
    for info in removed:
        _remove(info.path)
    return removed


def _remove(folder: Path) -> None:
    """Remove a shelf, which another process may do at the same time."""
    own = [*folder.glob(f"*{_SUFFIX}"), *folder.glob(".*"), folder / _RECORD]
    try:
        for path in own:
            path.unlink(missing_ok=True)
        folder.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            return  # another process has written meanwhile
        raise DataError(
            f"`{folder}` cannot be removed ({error.strerror}): check its permissions."
        ) from error
