"""Features of the images of one source: from the cache if they are there, else by the network."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.checks import check_at_least, check_positive
from otmetrics.errors import DataError
from otmetrics.features import FrozenExtractor, pipeline
from otmetrics.images import ImageArray, ReadingReport, StoredImages, batches
from otmetrics.images.facts import WIDTH, facts_array
from otmetrics.machine import memory_budget
from otmetrics.scoring.cache import Shelf, Stored
from otmetrics.scoring.mapped import new_array
from otmetrics.scoring.ranks import ALONE, Ranks
from otmetrics.unknown_options import ToldOptions

Progress = Callable[[str, int, int], None]
"""Called with a task's name, the steps done and the steps in all."""

SHARD_IMAGES = 4096
SHARD_SECONDS = 5.0
"""A shard is written when it holds this many images or has waited this long: what a kill costs."""

_ROWS_AT_A_TIME = 256


@dataclass(frozen=True, kw_only=True)
class Reading(ToldOptions):
    """How images are read, in what portions and how far ahead.

    Attributes:
        batch_size: Images a batch of the network.
        num_threads: Reading threads; None for what suits the device.
        num_workers: Reading processes instead; 0 for threads.
        skip_corrupt: Leave out unreadable images.
        cache: Take features from the cache, and keep them there.
        cache_verify: Know images by their content, not by path, size, number and times of change.
        memory_limit: Bytes of features that are held in memory; more go to a file that is mapped.
            None for half of the machine's memory.

    Raises:
        ValueError: If a number breaks its rule, or `cache_verify` comes without `cache`.
    """

    batch_size: int = 32
    num_threads: int | None = None
    num_workers: int = 0
    skip_corrupt: bool = False
    cache: bool = False
    cache_verify: bool = False
    memory_limit: float | None = None

    def __post_init__(self) -> None:
        check_at_least("batch_size", self.batch_size, 1)
        check_at_least("num_workers", self.num_workers, 0)
        if self.num_threads is not None:
            check_at_least("num_threads", self.num_threads, 1)
        if self.memory_limit is not None:
            check_positive("memory_limit", self.memory_limit)
        if self.cache_verify and not self.cache:
            raise ValueError("`cache_verify` needs `cache`.")


@dataclass(frozen=True)
class ImageFeatures:
    """Features of the images that could be read.

    Attributes:
        features: (N, D), in source order, on the CPU; mapped from a file where they are many.
        indices: Where in the source the N images are.
        transparent: Whether each of them was composited on white.
        facts: What the file of each says of it, as `images.facts.facts_array` gives it.
        skipped: Place and message of each image that was left out.
        num_cached: How many came from the cache.
        notes: What else to know.
    """

    features: Tensor
    indices: list[int]
    transparent: np.ndarray
    facts: np.ndarray
    skipped: list[tuple[int, str]]
    num_cached: int
    notes: list[str]


class _Rows:
    """Features in the making: rows that are filled in any order."""

    def __init__(self, count: int, limit: float) -> None:
        self.filled = np.zeros(count, bool)
        self.transparent = np.zeros(count, bool)
        self.facts = np.zeros((count, WIDTH), np.int32)
        self.limit = limit
        self._values = np.empty((0, 0), np.float32)

    def put(
        self, places: np.ndarray, features: np.ndarray, transparent: Any, facts: np.ndarray
    ) -> None:
        """Fill some rows."""
        if not len(places):
            return
        if not self.filled.any():
            shape = len(self.filled), features.shape[1]
            self._values = new_array(shape, features.dtype, self.limit)
        if features.shape[1] != self._values.shape[1]:
            raise DataError(
                "the cache holds features of another dimension than the network gives: remove them "
                "by `otmetrics cache clear`, or go without by --no-cache."
            )
        self._values[places] = features
        self.transparent[places] = transparent
        self.facts[places] = facts
        self.filled[places] = True

    def features(
        self, pick: list[int], skipped: list[tuple[int, str]], num_cached: int, notes: list[str]
    ) -> ImageFeatures:
        """All rows that were filled, and what else is known of them."""
        places, values = np.flatnonzero(self.filled), self._values
        for start in range(0, len(places), _ROWS_AT_A_TIME):  # they move up, without a second array
            part = places[start : start + _ROWS_AT_A_TIME]
            if part[-1] >= start + len(part):
                values[start : start + len(part)] = values[part]
        return ImageFeatures(
            torch.from_numpy(values[: len(places)]),
            [pick[place] for place in places],
            self.transparent[self.filled],
            self.facts[self.filled],
            skipped,
            num_cached,
            notes,
        )


def image_features(
    source: StoredImages,
    path: str | Path,
    pick: list[int],
    extractor: FrozenExtractor,
    reading: Reading = Reading(),
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> ImageFeatures | None:
    """Features of some images of a source.

    Args:
        source: The images.
        path: What the user calls it.
        pick: Indices of the images, ascending.
        extractor: What makes their features.
        reading: How they are read, and whether features are kept.
        progress: Called after each batch.
        ranks: The processes that share the images.

    Returns:
        The features; None on all processes but the first. Time is that of reading and of the
        network for images that are not in the cache; memory that of the features and a few batches.

    Raises:
        DataError: If an image cannot be read and none may be left out, or a process is missed.
    """
    own = _own_features(source, path, ranks.share(pick), extractor, reading, progress, ranks)
    return own if ranks.world == 1 else _gather(own, pick, reading, ranks)


def _gather(
    own: ImageFeatures, pick: list[int], reading: Reading, ranks: Ranks
) -> ImageFeatures | None:
    """Features of all processes, on the first one."""
    arrays = [own.features.numpy(), np.array(own.indices, np.int64), own.transparent, own.facts]
    known = {"skipped": own.skipped, "cached": own.num_cached, "notes": own.notes}
    limit = _limit(reading)  # of which the process's own features take a quarter at most
    rows, ordered, records = _Rows(len(pick), limit / 2), np.array(pick), []
    room = partial(new_array, limit=limit / 4)
    for (features, indices, transparent, facts), record in ranks.gather(arrays, known, room):
        rows.put(np.searchsorted(ordered, indices), features, transparent, facts)
        records.append(record)
        del features  # before the next ones come
        ranks.alive()
    if not ranks.first:
        return None
    return rows.features(
        pick,
        sorted((int(index), text) for record in records for index, text in record["skipped"]),
        sum(record["cached"] for record in records),
        [note for record in records for note in record["notes"]],
    )


def _limit(reading: Reading) -> float:
    """Bytes of features of an input that are held in memory."""
    return memory_budget(torch.device("cpu"), reading.memory_limit)


def _own_features(
    source: StoredImages,
    path: str | Path,
    pick: list[int],
    extractor: FrozenExtractor,
    reading: Reading,
    progress: Progress | None,
    ranks: Ranks,
) -> ImageFeatures:
    """Features of the images that fall to this process."""
    # Processes on one machine each have a part in memory, and the first one has them all, too.
    rows = _Rows(len(pick), _limit(reading) / (1 if ranks.world == 1 else 2 * ranks.world))
    shelf = _Shelved(source, path, pick, extractor, reading, ranks)
    for places, features, transparent, facts in shelf.find_stored():
        rows.put(places, features, transparent, facts)
    num_cached = int(rows.filled.sum())
    missing = np.flatnonzero(~rows.filled)
    task = f"features of {path}" + (f" (one of {ranks.world} parts)" if ranks.world > 1 else "")
    if progress is not None:
        # A network takes seconds to compile, or to come onto a GPU.
        step = "starting" if len(missing) else "from the cache"
        progress(f"{task}: {step}", num_cached, len(pick))
    report = ReadingReport()
    if len(missing):
        runtime = extractor.runtime_name
        # Arrays are in memory, or mapped, and not decoded: nothing to gain by sending them.
        num_workers = 0 if isinstance(source, ImageArray) else reading.num_workers
        work = pipeline(extractor, reading.batch_size, in_processes=num_workers > 0)
        if extractor.runtime_name != runtime:  # it did not compile: other features are kept
            return _own_features(source, path, pick, extractor, reading, progress, ranks)
        stream = batches(
            source,
            transform=work.prepare,
            batch_size=reading.batch_size,
            indices=[pick[place] for place in missing],
            skip_corrupt=reading.skip_corrupt,
            num_threads=reading.num_threads or work.num_threads,
            num_workers=num_workers,
            pin_memory=work.pin_memory,
            uniform=work.uniform,
            report=report,
        )
        ordered, done = np.array(pick), 0
        with shelf:
            for batch in work.features(stream):
                values, end = batch.numpy(), done + len(batch)
                places = np.searchsorted(ordered, report.indices[done:end])
                transparent, facts = (
                    report.transparent[done:end],
                    facts_array(report.facts[done:end]),
                )
                rows.put(places, values, transparent, facts)
                shelf.keep(places, values, transparent, facts)
                done = end
                ranks.alive()
                if progress is not None:
                    progress(task, num_cached + report.done, len(pick))
    skipped = list(zip(report.left_out, report.skipped, strict=True))
    return rows.features(pick, skipped, num_cached, shelf.notes)


class _Shelved:
    """The place of some images in the cache, or nothing where there is none for them."""

    def __init__(
        self,
        source: StoredImages,
        path: str | Path,
        pick: list[int],
        extractor: FrozenExtractor,
        reading: Reading,
        ranks: Ranks,
    ) -> None:
        self.notes: list[str] = []
        self._shelf: Shelf | None = None
        self._keys: list[bytes | None] = []
        self._source, self._pick, self._verify = source, pick, reading.cache_verify
        self._waiting: list[tuple[bytes, np.ndarray, bool, np.ndarray]] = []
        self._since = time.monotonic()
        if reading.cache and is_kept(extractor):
            where = "any, by content" if reading.cache_verify else str(Path(path).absolute())
            self._shelf = Shelf(where, cache_protocol(extractor), extractor.num_features)
            for place in range(len(pick)):
                self._keys.append(self._identity(place))
                if place % 1024 == 0:  # hashing takes its time
                    ranks.alive()

    def _identity(self, place: int) -> bytes | None:
        """What tells an image from all others now."""
        return self._source.identity(self._pick[place], self._verify)

    def find_stored(self) -> Iterator[Stored]:
        """What is there: places in the pick, features, transparency, facts."""
        return self._shelf.find_stored(self._keys) if self._shelf else iter(())

    def keep(
        self,
        places: np.ndarray,
        features: np.ndarray,
        transparent: list[bool],
        facts: np.ndarray,
    ) -> None:
        """Take in features, and write them when they are many or have waited long."""
        if self._shelf is None:
            return
        for place, row, flag, known in zip(places, features, transparent, facts, strict=True):
            key = self._keys[place]
            # Asked again: a file that was replaced before it was read has another one.
            same = key is not None and key == self._identity(int(place))
            if key is not None and same and np.isfinite(row).all():
                self._waiting.append((key, row, flag, known))
        if len(self._waiting) >= SHARD_IMAGES or time.monotonic() - self._since >= SHARD_SECONDS:
            self._write()

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self._write()

    def _write(self) -> None:
        """Write a shard; a cache that cannot be written to is no reason to stop."""
        waiting, self._waiting, self._since = self._waiting, [], time.monotonic()
        if not waiting or self._shelf is None:
            return
        keys, rows, transparent, facts = (list(column) for column in zip(*waiting, strict=True))
        try:
            self._shelf.store(keys, np.stack(rows), transparent, np.stack(facts))
        except OSError as error:
            reason = error.strerror or str(error)
            self.notes.append(
                f"features are not kept: `{self._shelf.path}`: {reason}; name another folder in "
                "the environment variable OTMETRICS_CACHE, or go without by --no-cache"
            )
            self._shelf = None


def is_kept(extractor: FrozenExtractor) -> bool:
    """Tell whether the cache holds features of an extractor.

    Args:
        extractor: The extractor.

    Returns:
        False for networks without weights, which are quicker than a disk, and for modules of the
        user, whose code can change without their weights.
    """
    has_weights = any(True for _ in extractor.network.parameters())
    return has_weights and not extractor.name.startswith("module:")


def cache_protocol(extractor: FrozenExtractor) -> dict[str, Any]:
    """Describe all that features depend on beside the images.

    Args:
        extractor: The extractor.

    Returns:
        Its protocol, what runs it and what decodes images, with their versions (JSON-able).
    """
    return {
        "extractor": extractor.protocol,
        "runtime": extractor.runtime_name,
        "versions": {name: version(name) for name in ("pillow", "timm")},
    }
