"""Features that were computed before, kept on disk under what they were computed from."""

import errno
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from otmetrics.errors import DataError, printable
from otmetrics.images.facts import WIDTH, valid_facts
from otmetrics.safe_files import replace_file, user_path

# Changes whenever the same image gives other features under the same protocol, or shards hold other
# things.
VERSION = 2
VARIABLE = "OTMETRICS_CACHE"
_SUFFIX = ".safetensors"
_RECORD = "shelf.json"
_SHARD = re.compile(rf"[0-9a-f]{{64}}\{_SUFFIX}")
_OWN = re.compile(rf"({_SHARD.pattern}|{re.escape(_RECORD)})|\..*\.[0-9a-f]{{16}}\.partial")
_MOST_BYTES = 2**28  # of a shard, and
_MOST_ROWS = 2**16  # its rows
_HEADER_BYTES = 4096

Stored = tuple[np.ndarray, np.ndarray, list[bool], np.ndarray]
"""Indices, features (n, D), whether each image was transparent, its facts (n, 8)."""


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
        return user_path(folder)
    from platformdirs import user_cache_path

    return user_cache_path("otmetrics", appauthor=False) / "features"


class Shelf:
    """Features of one input by one extractor: bags of rows, each under the key of its image.

    A bag is one safetensors file, a shard, whose name is the hash of its content: it appears whole
    or not at all, any number of processes may write at once, and a damaged one is seen when it is
    read, thrown away, and its features are computed anew.

    Shards are trusted as far as their owner is: a shelf is read and written only where it is a
    folder, no link, of this user or of root, in which nobody else can write, and of the files in
    it only such that are regular and belong to one of the two.

    Args:
        source: Name of the input, for `cache info`.
        protocol: What the features depend on beside the images (JSON-able).
        dimension: D, where it is known: rows of another length are passed by.
    """

    def __init__(self, source: str, protocol: dict[str, Any], dimension: int | None = None) -> None:
        self.protocol = {"version": VERSION, **protocol}
        self.source, self.dimension = source, dimension
        name = _sha256(json.dumps([self.protocol, source], sort_keys=True).encode())
        self.path = cache_folder() / name[:32]

    def find_stored(self, keys: list[bytes | None]) -> Iterator[Stored]:
        """Find the features of images.

        Args:
            keys: 16 bytes an image; None where there is no key.

        Yields:
            From one shard after the other: indices among `keys`, their features (n, D), whether
            each image was transparent, and its facts (n, 8). No index comes twice.
        """
        wanted: dict[bytes, list[int]] = {}
        for index, key in enumerate(keys):
            if key is not None:
                wanted.setdefault(key, []).append(index)  # copies of a file may share a key
        dimension = self.dimension
        for path in self._shards():
            there = _keys(path)
            if not any(key in wanted for key in there):
                continue
            content = _parse(_read_checked(path), there, dimension)
            if content is None:
                continue
            sound = np.isfinite(content["features"]).all(axis=1)
            known = [(row, key) for row, key in enumerate(there) if sound[row]]
            found = [(row, index) for row, key in known for index in wanted.pop(key, [])]
            if not found:
                continue
            rows, indices = (list(column) for column in zip(*found, strict=True))
            dimension = content["features"].shape[1]
            transparent = content["transparent"][rows].astype(bool).tolist()
            features, facts = content["features"][rows], content["facts"][rows]
            yield np.array(indices), features, transparent, facts

    def store(
        self, keys: list[bytes], features: np.ndarray, transparent: list[bool], facts: np.ndarray
    ) -> None:
        """Keep the features of images, in one shard, or in several where they are many.

        Args:
            keys: 16 bytes an image.
            features: (N, D).
            transparent: Whether each of them was.
            facts: What their files say of them, (N, 8), as `images.facts.facts_array` gives it.

        Raises:
            OSError: If the folder cannot be written to, or is not this user's alone.
        """
        from safetensors.numpy import save

        row_bytes = features.itemsize * features.shape[1] + 16 + 1 + 4 * WIDTH
        step = max(1, min(_MOST_ROWS, (_MOST_BYTES - _HEADER_BYTES) // row_bytes))
        for start in range(0, len(keys), step):
            part = slice(start, start + step)
            content = save(
                {
                    "keys": np.frombuffer(b"".join(keys[part]), np.uint8).reshape(-1, 16),
                    "features": np.ascontiguousarray(features[part]),
                    "transparent": np.array(transparent[part], np.uint8),
                    "facts": np.ascontiguousarray(facts[part]),
                }
            )
            _write(self.path / (_sha256(content) + _SUFFIX), content)
        _write(self.path / _RECORD, json.dumps(self._record).encode())

    @property
    def _record(self) -> dict[str, Any]:
        """What `cache info` says of it."""
        return {"source": self.source, "protocol": self.protocol}

    def _shards(self) -> list[Path]:
        """All shards, in an order that does not depend on the file system."""
        try:
            if _fault(self.path):
                return []
            names = sorted(entry.name for entry in os.scandir(self.path))
        except OSError:
            return []
        return [self.path / name for name in names if _SHARD.fullmatch(name)]


def _is_owned(status: os.stat_result) -> bool:
    """Whether something belongs to this user or to root, where systems know users."""
    return not hasattr(os, "geteuid") or status.st_uid in {0, os.geteuid()}


def _fault(folder: Path) -> str:
    """What keeps a shelf from being trusted, or nothing."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return "is a link, or no folder"
    if not _is_owned(status):
        return "belongs to another user"
    if hasattr(os, "geteuid") and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written to by other users"
    return ""


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """Open a file of the cache: regular, of this user or root, through no link, without a wait."""
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not (stat.S_ISREG(status.st_mode) and _is_owned(status)):
            raise OSError(errno.EPERM, "is no file of this user's cache", str(path))
        if status.st_size > _MOST_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _keys(path: Path) -> list[bytes]:
    """Keys of a shard, from its first bytes; none where it cannot be read."""
    try:
        with _reading(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _HEADER_BYTES:
                return []
            entry = json.loads(file.read(length))["keys"]
            (count, width), (begin, end) = entry["shape"], entry["data_offsets"]
            sound = width == 16 and 0 < count <= _MOST_ROWS and end - begin == 16 * count
            if not sound or entry["dtype"] != "U8":
                return []
            file.seek(8 + length + begin)
            content = file.read(16 * count)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return []  # gone, damaged, or none of ours
    if len(content) < 16 * count:
        return []
    return [content[start : start + 16] for start in range(0, 16 * count, 16)]


def _read_checked(path: Path) -> bytes | None:
    """Content of a shard; one whose name is not its hash is removed."""
    try:
        with _reading(path) as file:
            content = file.read()
            if whole := _sha256(content) == path.stem:
                with suppress(OSError):  # a cache that may only be read serves as well
                    os.utime(file.fileno() if os.utime in os.supports_fd else path)
    except OSError:
        return None
    if not whole:
        with suppress(OSError):
            path.unlink()
    return content if whole else None


def _parse(
    content: bytes | None, keys: list[bytes], dimension: int | None
) -> dict[str, np.ndarray] | None:
    """Arrays of a shard, or nothing where they are not such as `Shelf.store` writes."""
    from safetensors.numpy import load

    if content is None:
        return None
    try:
        arrays = load(content)
        features, facts = arrays["features"], arrays["facts"]
        whole = arrays["keys"].tobytes() == b"".join(keys)
        transparent = arrays["transparent"]
    except Exception:  # what safetensors makes of other things under a name that is their hash
        return None
    count = len(keys)
    sound = (
        whole
        and features.ndim == 2
        and len(features) == count
        and features.shape[1] == (dimension or features.shape[1]) > 0
        and features.dtype in (np.float32, np.float64)
        and (transparent.shape, transparent.dtype) == ((count,), np.uint8)
        and transparent.max() <= 1
        and len(facts) == count
        and valid_facts(facts)
    )
    return arrays if sound else None


def _sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _is_special(path: Path) -> bool:
    """Whether a pipe, a device or a link has the name."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode)


def _write(path: Path, content: bytes, tries: int = 5) -> None:
    """Write a file that appears whole or not at all, though another process removes its folder."""
    try:
        for folder in (path.parent.parent, path.parent):  # nobody else is to write there
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if fault := _fault(path.parent):
            raise OSError(errno.EPERM, fault, str(path.parent))
        if _is_special(path):
            path.unlink()  # in a folder of our own: nobody waits at its other end
        with replace_file(path) as file:
            file.write(content)
    except FileNotFoundError:
        if tries == 1:
            raise
        _write(path, content, tries - 1)


def cache_info() -> list[ShelfInfo]:
    """Look at what the cache holds.

    Returns:
        One entry a shelf, the one that was used last first.

    Raises:
        DataError: If the folder cannot be read.
    """
    folder = cache_folder()
    try:
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise DataError(
            f"`{folder}` cannot be read ({error.strerror}): check its permissions, or name another "
            f"folder in the environment variable {VARIABLE}."
        ) from error
    found = [_info(path, names) for path in paths if (names := _own_files(path))]
    return sorted(found, key=lambda info: -info.last_used)


def _own_files(folder: Path) -> list[str]:
    """Names of the files that the cache wrote to a shelf; none where a folder is something else."""
    if not re.fullmatch("[0-9a-f]{32}", folder.name):
        return []
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode) or not _is_owned(folder.lstat()):
            return []
        with os.scandir(folder) as entries:
            # A shard, or what a kill left of one, may lie there before the record does.
            return [
                e.name
                for e in entries
                if _OWN.fullmatch(e.name) and e.is_file(follow_symlinks=False)
            ]
    except OSError:
        return []


def _info(folder: Path, names: list[str]) -> ShelfInfo:
    """What one shelf holds."""
    source = extractor = "?"
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        with _reading(folder / _RECORD) as file:
            record = json.loads(file.read(2**20))
        source, extractor = str(record["source"]), str(record["protocol"]["extractor"]["extractor"])
    states = []
    for name in names:
        with suppress(OSError):  # gone meanwhile
            if _SHARD.fullmatch(name):
                states.append((folder / name).lstat())
    return ShelfInfo(
        folder,
        printable(source),
        printable(extractor),
        len(states),
        sum(state.st_size for state in states),
        max((state.st_mtime for state in states), default=0.0),
    )


def clear_cache(older_than_days: float = 0.0) -> list[ShelfInfo]:
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
    """Remove a shelf, which another process may do at the same time; other things in it stay."""
    try:
        for name in _own_files(folder):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return  # another process has written meanwhile, or somebody else's things lie there
        raise DataError(
            f"`{folder}` cannot be removed ({error.strerror}): check its permissions."
        ) from error
