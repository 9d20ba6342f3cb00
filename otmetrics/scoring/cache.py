"""Features that were computed before, kept on disk under what they were computed from."""

import errno
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Collection, Iterator
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
VERSION = 3
VARIABLE = "OTMETRICS_CACHE"

# A shard is written when it holds this many images or has waited this long: what a kill costs.
SHARD_IMAGES = 4096
SHARD_SECONDS = 5.0

_SUFFIX = ".safetensors"
_RECORD = "shelf.json"
_SHARD = re.compile(rf"[0-9a-f]{{64}}\{_SUFFIX}")
_OWN = re.compile(rf"({_SHARD.pattern}|{re.escape(_RECORD)})|\..*\.[0-9a-f]{{16}}\.partial")
# The most that a shard holds: what is larger was not written here, and is not read.
_MOST_BYTES = 2**28
_MOST_ROWS = 2**16
_HEADER_BYTES = 4096

Stored = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Indices (n,), features (n, D), whether each image was transparent (n,), its facts (n, 8)."""


def cache_folder() -> Path:
    """The folder that OTMETRICS_CACHE names, else the user's cache folder of the system."""
    if folder := os.environ.get(VARIABLE):
        return user_path(folder)
    from platformdirs import user_cache_path

    return user_cache_path("otmetrics", appauthor=False) / "features"


class Shelf:
    """Features of one input by one extractor: rows, each under the key of its image.

    They lie in shards: safetensors files whose name is the hash of their content. A shard appears
    whole or not at all, any number of processes may write at once, and a damaged one is seen when
    it is read, thrown away, and its features are computed again.

    Shards are trusted as far as their owner is: a shelf is read and written only where it is a
    folder, not a link, of this user or of root, in which nobody else can write, and of the files in
    it only those that are regular and belong to one of the two.

    Args:
        source: Name of the input, for `cache info`.
        protocol: What the features depend on beside the images (JSON-able).
        dimension: D, where it is known: rows of another length are passed by.

    Attributes:
        notes: What went wrong in writing; a cache that cannot be written to is no reason to stop.
    """

    def __init__(self, source: str, protocol: dict[str, Any], dimension: int | None = None) -> None:
        self.protocol = {"version": VERSION, **protocol}
        self.source, self.dimension = source, dimension
        self.notes: list[str] = []
        # One folder for each input and protocol: what `cache info` lists and `cache clear` removes.
        name = _sha256(json.dumps([self.protocol, source], sort_keys=True).encode())
        self.path = cache_folder() / name[:32]
        self._waiting: list[tuple[list[bytes], np.ndarray, np.ndarray, np.ndarray]] = []
        self._since = time.monotonic()

    def find_stored(self, keys: list[bytes | None]) -> Iterator[Stored]:
        """What is known of images by their keys, 16 bytes each or None, from one shard at a time.

        Indices are places in `keys`; none comes twice.
        """
        wanted: dict[bytes, list[int]] = {}
        for index, key in enumerate(keys):
            if key is not None:
                # Copies of a file share a key where images are known by content.
                wanted.setdefault(key, []).append(index)

        dimension = self.dimension
        for path in self._shards():
            shard = _read_shard(path, wanted)
            if shard is None or dimension not in (None, shard["features"].shape[1]):
                continue
            # A shard under a right name may hold NaN all the same: such a row is computed again.
            sound = np.isfinite(shard["features"]).all(axis=1)
            found = [
                (row, index)
                for row, key in enumerate(shard["keys"])
                if sound[row]
                for index in wanted.pop(key.tobytes(), [])
            ]
            if not found:
                continue

            rows, indices = np.array(found).T
            dimension = shard["features"].shape[1]
            transparent = shard["transparent"][rows].astype(bool)
            yield indices, shard["features"][rows], transparent, shard["facts"][rows]

    def keep(
        self,
        keys: list[bytes | None],
        features: np.ndarray,
        transparent: np.ndarray,
        facts: np.ndarray,
    ) -> None:
        """Take in what was computed, and write it when it is much or has waited long.

        Images without a key, and features that are not finite, are not kept.
        """
        finite = np.isfinite(features).all(axis=1)
        known = {row: key for row, key in enumerate(keys) if key is not None and finite[row]}
        # A note says that writing failed: what waits would only grow.
        if known and not self.notes:
            rows = [*known]
            named = [*known.values()]
            self._waiting.append((named, features[rows], transparent[rows], facts[rows]))

        many = sum(len(part[0]) for part in self._waiting) >= SHARD_IMAGES
        if many or time.monotonic() - self._since >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits; what cannot be written is noted, and nothing is kept from then on."""
        waiting, self._waiting, self._since = self._waiting, [], time.monotonic()
        if not waiting:
            return

        keys, *columns = zip(*waiting, strict=True)
        try:
            self.store([key for part in keys for key in part], *map(np.concatenate, columns))
        except OSError as error:
            reason = error.strerror or str(error)
            self.notes.append(
                f"features are not kept: `{self.path}`: {reason}; name another folder in the "
                f"environment variable {VARIABLE}, or compute without a cache"
            )

    def store(
        self, keys: list[bytes], features: np.ndarray, transparent: np.ndarray, facts: np.ndarray
    ) -> None:
        """Write rows to one shard, or to several where they are many.

        OSError where the folder cannot be written to, or is not this user's alone.
        """
        from safetensors.numpy import save

        # No shard may be larger than what is read again.
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
        # Last: a shelf whose record is missing still serves, only its name is not known.
        record = {"source": self.source, "protocol": self.protocol}
        _write(self.path / _RECORD, json.dumps(record).encode())

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
        return "is a link, or not a folder"
    if not _is_owned(status):
        return "belongs to another user"
    if hasattr(os, "geteuid") and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written to by other users"
    return ""


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """Open a file of the cache: regular, of this user or root, through no link, without a wait."""
    # Not every system has all three.
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not (stat.S_ISREG(status.st_mode) and _is_owned(status)):
            raise OSError(errno.EPERM, "is not a file of this user's cache", str(path))
        if status.st_size > _MOST_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _read_shard(path: Path, wanted: Collection[bytes]) -> dict[str, np.ndarray] | None:
    """The arrays of a shard that holds a wanted key; one whose name is not its hash is removed."""
    from safetensors.numpy import load

    try:
        with _reading(path) as file:
            if not _may_hold(file, wanted):
                return None
            file.seek(0)
            content = file.read()
            is_whole = _sha256(content) == path.stem
            if is_whole:
                with suppress(OSError):  # a cache that may only be read serves as well
                    # The time of the last use, by which `cache clear --older-than` decides.
                    os.utime(file.fileno() if os.utime in os.supports_fd else path)
    except OSError:
        return None
    # Closed by now: some systems remove no open file.
    if not is_whole:
        with suppress(OSError):
            path.unlink()
        return None

    try:
        arrays = load(content)
        return arrays if _is_sound(**arrays) else None
    except Exception:  # what safetensors makes of other things under a name that is their hash
        return None


def _may_hold(file: BinaryIO, wanted: Collection[bytes]) -> bool:
    """Whether a shard has a wanted key, from its first bytes: most of a large shelf is not read."""
    try:
        length = int.from_bytes(file.read(8), "little")
        begin, end = json.loads(file.read(min(length, _HEADER_BYTES)))["keys"]["data_offsets"]
        # The header tells where the keys lie; features, most of a shard, are not read.
        file.seek(8 + length + begin)
        content = file.read(min(max(end - begin, 0), 16 * _MOST_ROWS))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return False  # gone, damaged, or not one of ours
    return any(content[start : start + 16] in wanted for start in range(0, len(content), 16))


def _is_sound(
    keys: np.ndarray, features: np.ndarray, transparent: np.ndarray, facts: np.ndarray
) -> bool:
    """Whether arrays are such as `Shelf.store` writes."""
    count = len(keys)
    return (
        0 < count <= _MOST_ROWS
        and (keys.shape, keys.dtype) == ((count, 16), np.uint8)
        and features.ndim == 2
        and len(features) == count
        and features.shape[1] > 0
        and features.dtype in (np.float32, np.float64)
        and (transparent.shape, transparent.dtype) == ((count,), np.uint8)
        and transparent.max() <= 1
        and len(facts) == count
        and valid_facts(facts)
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes, tries: int = 5) -> None:
    """Write a file that appears whole or not at all, though another process removes its folder."""
    try:
        # Both by themselves: `parents=True` gives folders above the last one the usual mode.
        for folder in (path.parent.parent, path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if fault := _fault(path.parent):
            raise OSError(errno.EPERM, fault, str(path.parent))

        # A pipe, a device or a link of that name, in a folder of our own: nobody waits for it.
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
        with replace_file(path) as file:
            file.write(content)
    except FileNotFoundError:
        # `cache clear` of another process removed the folder between the steps: make it again.
        if tries == 1:
            raise
        _write(path, content, tries - 1)


@dataclass(frozen=True)
class ShelfInfo:
    """What one shelf holds: its folder, its input and extractor, its shards and their bytes.

    `last_used` is when it was last written to or read, in seconds since 1970.
    """

    path: Path
    source: str
    extractor: str
    shards: int
    num_bytes: int
    last_used: float


def cache_info() -> list[ShelfInfo]:
    """What the cache holds, the shelf that was used last first."""
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
    # A shelf without a readable record still has a size, and can be removed.
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
    """Remove shelves that were not used for so many days; return what was removed."""
    limit = time.time() - 86400 * older_than_days
    removed = [info for info in cache_info() if info.last_used <= limit]
    for info in removed:
        _remove(info.path)
    return removed


def _remove(folder: Path) -> None:
    """Remove a shelf, which another process may do at the same time; other things in it stay."""
    try:
        # By name, not the whole tree: something of somebody else's may lie there too.
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
