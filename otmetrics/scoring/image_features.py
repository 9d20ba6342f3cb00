"""Features of the images of one source: from the cache if they are there, else by the network."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.checks import check_at_least, check_positive
from otmetrics.errors import Argument, DataError, OptionError
from otmetrics.features import FrozenExtractor, Pipeline, pipeline
from otmetrics.images import ImageArray, Readers, ReadingReport, StoredImages, batches
from otmetrics.images.facts import WIDTH, facts_array
from otmetrics.machine import memory_budget
from otmetrics.scoring.cache import Shelf
from otmetrics.scoring.mapped import new_array
from otmetrics.scoring.ranks import ALONE, Ranks
from otmetrics.unknown_options import ToldOptions

Progress = Callable[[str, int, int], None]
"""Called with a task's name, the steps done and the steps in all."""

_ROWS_AT_A_TIME = 256


@dataclass(frozen=True, kw_only=True)
class Reading(ToldOptions):
    """How images are read, in what portions and how far ahead.

    Attributes:
        batch_size: Images per batch of the network.
        num_threads: Threads that read images; None for what suits the device.
        num_workers: Processes that read images instead; 0 for threads.
        skip_corrupt: Leave out images that cannot be read, instead of stopping.
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
            raise OptionError(Argument("cache_verify"), " needs ", Argument("cache"), ".")


@dataclass(frozen=True)
class ImageFeatures:
    """Features of the images that could be read."""

    features: Tensor  # (N, D), in source order, on the CPU; mapped from a file where they are many
    indices: list[int]  # where in the source the N images are
    transparent: np.ndarray  # (N,), whether each was composited on white
    facts: np.ndarray  # (N, 8), what the file of each says of it, as `images.facts.facts_array`
    skipped: list[tuple[int, str]]  # place and message of each image that was left out
    num_cached: int  # how many came from the cache
    notes: list[str]


class _Rows:
    """Features in the making: rows that are filled in any order."""

    def __init__(self, count: int, limit: float) -> None:
        self.filled = np.zeros(count, bool)
        self.transparent = np.zeros(count, bool)
        self.facts = np.zeros((count, WIDTH), np.int32)
        self._limit = limit
        self._values = np.empty((0, 0), np.float32)

    def put(
        self, places: np.ndarray, features: np.ndarray, transparent: np.ndarray, facts: np.ndarray
    ) -> None:
        if not len(places):
            return
        # Only the first features tell the dimension.
        if not self.filled.any():
            shape = len(self.filled), features.shape[1]
            self._values = new_array(shape, features.dtype, self._limit)
        if features.shape[1] != self._values.shape[1]:
            raise DataError(
                "the cache holds features of another dimension than the network gives: remove them "
                "with `otmetrics cache clear`, or give ",
                Argument("no_cache", "cache=False"),
                ".",
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
        # They move up over those of images that were left out, without a second array.
        for start in range(0, len(places), _ROWS_AT_A_TIME):
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
    """Features of the images `pick`, ascending, of a source that the user calls `path`.

    None on all processes but the first. Time is that of reading and of the network for images that
    are not in the cache; memory that of the features and a few batches.
    """
    task = _Task(source, path, ranks.share(pick), extractor, reading, progress, ranks)
    own = _own_features(task)
    return own if ranks.world == 1 else _gather(own, pick, task)


@dataclass(frozen=True)
class _Task:
    """What `image_features` was asked for, with the images that fall to this process."""

    source: StoredImages
    path: str | Path
    pick: list[int]
    extractor: FrozenExtractor
    reading: Reading
    progress: Progress | None
    ranks: Ranks

    @property
    def limit(self) -> float:
        """Bytes of features that all processes of a machine hold in memory."""
        return memory_budget(torch.device("cpu"), self.reading.memory_limit)

    def key(self, index: int) -> bytes | None:
        """What tells an image from all others now."""
        return self.source.identity(index, self.reading.cache_verify)

    def tell(self, num_done: int, step: str = "") -> None:
        if self.progress is not None:
            world = self.ranks.world
            part = f" (one of {world} parts)" if world > 1 else ""
            self.progress(f"features of {self.path}{part}{step}", num_done, len(self.pick))


def _own_features(task: _Task) -> ImageFeatures:
    """Features of the images that fall to this process."""
    # Processes on one machine each have a part in memory, and the first one has them all, too.
    world = task.ranks.world
    rows = _Rows(len(task.pick), task.limit / (1 if world == 1 else 2 * world))

    shelf, keys = _shelf_and_keys(task)
    for places, features, transparent, facts in shelf.find_stored(keys) if shelf else ():
        rows.put(places, features, transparent, facts)
    num_cached = int(rows.filled.sum())

    # A network takes seconds to compile, or to come onto a GPU.
    is_complete = num_cached == len(task.pick)
    task.tell(num_cached, ": from the cache" if is_complete else ": starting")

    report = ReadingReport()
    if not is_complete:
        runtime = task.extractor.runtime_name
        # Arrays are in memory, or mapped, and not decoded: nothing to gain by sending them.
        num_workers = 0 if isinstance(task.source, ImageArray) else task.reading.num_workers
        work = pipeline(task.extractor, task.reading.batch_size, in_processes=num_workers > 0)
        # It did not compile. torch gives other features, which the cache keeps under another name.
        if task.extractor.runtime_name != runtime:
            return _own_features(task)
        try:
            _compute(task, work, num_workers, report, rows, shelf, keys)
        finally:
            if shelf is not None:
                shelf.flush()

    skipped = list(zip(report.left_out, report.skipped, strict=True))
    return rows.features(task.pick, skipped, num_cached, shelf.notes if shelf else [])


def _shelf_and_keys(task: _Task) -> tuple[Shelf | None, list[bytes | None]]:
    """The place of the images in the cache, and the key of each; None where nothing is kept."""
    if not (task.reading.cache and is_kept(task.extractor)):
        return None, []

    keys = [task.key(index) for index in task.pick]
    # By content the same images are found again wherever they lie.
    by_content = task.reading.cache_verify
    where = "any, by content" if by_content else str(Path(task.path).absolute())
    # pillow decodes, timm makes networks: another version may give other features.
    protocol = {
        "extractor": task.extractor.protocol,
        "runtime": task.extractor.runtime_name,
        "versions": {name: version(name) for name in ("pillow", "timm")},
    }
    return Shelf(where, protocol, task.extractor.num_features), keys


def _compute(
    task: _Task,
    work: Pipeline,
    num_workers: int,
    report: ReadingReport,
    rows: _Rows,
    shelf: Shelf | None,
    keys: list[bytes | None],
) -> None:
    """Read the images that are missing, and fill their rows."""
    reading, missing = task.reading, np.flatnonzero(~rows.filled)
    num_threads = reading.num_threads or work.num_threads
    stream = batches(
        task.source,
        transform=work.prepare,
        batch_size=reading.batch_size,
        indices=[task.pick[place] for place in missing],
        skip_corrupt=reading.skip_corrupt,
        readers=Readers(num_threads, num_workers, work.pin_memory),
        uniform=work.uniform,
        report=report,
    )

    # `report` grows as images are read, which is ahead of the batches that come out.
    ordered, num_cached, done = np.array(task.pick), len(rows.filled) - len(missing), 0
    for batch in work.features(stream):
        part = slice(done, done + len(batch))
        indices, features = report.indices[part], batch.numpy()
        places = np.searchsorted(ordered, indices)
        transparent, facts = np.array(report.transparent[part]), facts_array(report.facts[part])
        rows.put(places, features, transparent, facts)

        if shelf is not None:
            # Asked again: a file that was replaced before it was read has another key.
            before, now = [keys[place] for place in places], map(task.key, indices)
            same = [key if key == old else None for key, old in zip(now, before, strict=True)]
            shelf.keep(same, features, transparent, facts)

        done = part.stop
        task.tell(num_cached + report.done)


def _gather(own: ImageFeatures, pick: list[int], task: _Task) -> ImageFeatures | None:
    """Features of all images, on the first process."""
    arrays = {
        "features": own.features.numpy(),
        "places": np.searchsorted(pick, np.array(own.indices, np.int64)),
        "transparent": own.transparent,
        "facts": own.facts,
    }
    known: dict[str, Any] = {"skipped": own.skipped, "cached": own.num_cached, "notes": own.notes}
    records = task.ranks.collect(known)

    # Of the limit, the process's own features take a quarter at most.
    rows = _Rows(len(pick), task.limit / 2)
    for part in task.ranks.gather(arrays):
        rows.put(**part)
    if records is None:
        return None

    return rows.features(
        pick,
        sorted((int(index), text) for record in records for index, text in record["skipped"]),
        sum(record["cached"] for record in records),
        [note for record in records for note in record["notes"]],
    )


def is_kept(extractor: FrozenExtractor) -> bool:
    """Whether the cache holds features of an extractor.

    Not of networks without weights, which are quicker than a disk, nor of modules of the user,
    whose code can change without their weights.
    """
    has_weights = any(True for _ in extractor.network.parameters())
    return has_weights and not extractor.name.startswith("module:")
