"""Images read and transformed ahead of the one who takes them, in threads or in processes."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from otmetrics.errors import Argument, DataError
from otmetrics.images.damage import ReplacedError
from otmetrics.images.facts import ImageFacts, pixel_facts
from otmetrics.images.files import ImageSource

Transform = Callable[[Tensor], Tensor]
_CHUNK = 16  # images that a process sends together
_NO_PIXELS = torch.empty(0)


@dataclass(frozen=True)
class Readers:
    """Who reads the images.

    Attributes:
        num_threads: How many images are decoded at a time; None for as many as torch has threads.
        num_workers: Read in that many processes instead of threads.
        pin_memory: Let processes put the images where a GPU copies them without waiting.
    """

    num_threads: int | None = None
    num_workers: int = 0
    pin_memory: bool = False

    def __post_init__(self) -> None:
        if self.num_threads is not None and self.num_threads < 1:
            raise ValueError(f"`num_threads` must be >= 1, got {self.num_threads}.")
        if self.num_workers < 0:
            raise ValueError(f"`num_workers` must be >= 0, got {self.num_workers}.")


@dataclass(frozen=True)
class Read:
    """One transformed image, or the error of one that cannot be read."""

    index: int
    name: str
    pixels: Tensor = _NO_PIXELS
    transparent: bool = False
    facts: ImageFacts | None = None
    error: DataError | None = None


def read(source: ImageSource, transform: Transform, index: int) -> Read:
    """Read and transform one image of a source."""
    name = source.names[index]
    try:
        pixels, transparent, facts = source.read(index)
    except DataError as error:
        return Read(index, name, error=error)
    try:
        facts = facts or pixel_facts(pixels)
        return Read(index, name, transform(pixels), transparent, facts)
    except ValueError as error:  # what a preprocessing says; networks fail in other ways
        message = f"`{name}` cannot be scored: {error}"
        return Read(index, name, error=DataError(message))


def in_threads(
    source: ImageSource,
    transform: Transform,
    indices: Sequence[int],
    num_threads: int,
    ahead: int,
) -> Generator[Read, None, None]:
    """Read images in threads, in the order of `indices`; `ahead` may wait to be asked for."""
    # One core in each thread: several that share all cores wait for each other.
    torch_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        num_threads,
        thread_name_prefix="otmetrics-images",
        initializer=lambda: torch.set_num_threads(1),
    )

    # Submitted when they are taken from here, lest all images are in memory at once.
    tasks = (pool.submit(read, source, transform, index) for index in indices)
    try:
        pending = deque(islice(tasks, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(islice(tasks, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
        # torch counts threads for each thread, and those that start later begin with the last
        # count: without this, with the one of the threads above.
        torch.set_num_threads(torch_threads)


class _Packed(NamedTuple):
    """Images with their pixels in one tensor: each tensor would take a file descriptor to send."""

    reads: list[Read]
    shapes: list[torch.Size]
    flat: Tensor


class _Chunks(Dataset):
    """Several images by their indices."""

    def __init__(self, source: ImageSource, transform: Transform) -> None:
        self.source, self.transform = source, transform

    def __getitem__(self, indices: list[int]) -> _Packed:
        reads = [read(self.source, self.transform, index) for index in indices]
        # Without the empty pixels of errors, whose dtype may be another than that of images.
        pixels = [one.pixels.flatten() for one in reads if one.error is None]
        bare = [replace(one, pixels=_NO_PIXELS) for one in reads]
        shapes = [one.pixels.shape for one in reads]
        return _Packed(bare, shapes, torch.cat(pixels or [_NO_PIXELS]))


class _Loader(DataLoader):
    """A loader that asks for as many processes as it was told, without a word."""

    def check_worker_number_rationality(self) -> None:
        """Say nothing of more processes than cores: filters of warnings are all threads'."""


def in_processes(
    source: ImageSource, transform: Transform, indices: Sequence[int], readers: Readers
) -> Generator[Read, None, None]:
    """Read images in processes, in the order of `indices`; they get source and transform.

    Threads of one Python hinder each other before a GPU has enough to do. Starting the
    first of the processes takes seconds; a script that does it needs the usual
    `if __name__ == "__main__":`. Each process is up to 48 images ahead.
    """
    # Never "fork": a copy of a process with threads may wait for ever for a lock of one of them.
    method = "spawn"
    if "forkserver" in multiprocessing.get_all_start_methods():
        # Starts from a process that has loaded this module, in no time.
        method = "forkserver"
        multiprocessing.get_context(method).set_forkserver_preload([__name__])

    loader = _Loader(
        _Chunks(source, transform),
        batch_size=None,
        sampler=[indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)],
        collate_fn=_identity,
        worker_init_fn=_end_with_parent,
        num_workers=readers.num_workers,
        pin_memory=readers.pin_memory,
        multiprocessing_context=method,
        generator=torch.Generator().manual_seed(0),  # not a number of the caller's generator
    )

    for reads, shapes, flat in _receive(loader):
        pixels = iter(flat.split([shape.numel() for shape in shapes]))
        for one, shape in zip(reads, shapes, strict=True):
            yield replace(one, pixels=next(pixels).view(shape))


def _receive(loader: DataLoader) -> Generator[_Packed, None, None]:
    """What the processes send, as long as they live."""
    try:
        yield from loader
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise DataError(
            "a process that reads images was killed, perhaps for the memory it took: lower ",
            Argument("num_workers"),
            ", or set it to 0, which reads in threads.",
        ) from error


def _identity(chunk: Any) -> Any:
    """What a process sends."""
    return chunk


def _end_with_parent(worker: int) -> None:
    """End this process when the one that asked for it is gone, however that was killed."""
    # The loader's own watch asks for the parent's number, which with a fork server is the server's.
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@dataclass
class ReadingReport:
    """What happened while images were read, complete once the batches are exhausted.

    Attributes:
        skipped: One message per image that was left out, file and reason, in source order.
        left_out: Where in the source these lie.
        indices: Where in the source the images that were handed out lie, in their order.
        transparent: For each of these, whether it had transparency, composited on white.
        facts: For each of these, what its file says of it.
    """

    skipped: list[str] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    transparent: list[bool] = field(default_factory=list)
    facts: list[ImageFacts] = field(default_factory=list)

    @property
    def done(self) -> int:
        """How many images were handed out or left out."""
        return len(self.indices) + len(self.skipped)


def batches(
    source: ImageSource,
    *,
    transform: Transform,
    batch_size: int,
    indices: Sequence[int] | None = None,
    skip_corrupt: bool = False,
    readers: Readers = Readers(),
    uniform: bool = True,
    report: ReadingReport | None = None,
) -> Iterator[list[Tensor]]:
    """Read and transform images in the order of the source.

    The images are the same for every `batch_size` and all `readers`. The last batch may be smaller.
    Closing the iterator waits for the images that are being decoded, no others. torch uses one core
    in each thread, so that threads do not wait for each other.

    Args:
        source: The images.
        transform: Takes one uint8 (3, H, W) image, whose size may differ from the next, to a
            tensor. Called in several threads at once.
        batch_size: Images per batch.
        indices: Which images to read, in this order; all by default.
        skip_corrupt: Leave out images that cannot be read instead of raising in their place.
        readers: How many threads or processes read.
        uniform: Whether `transform` must give tensors of one shape.
        report: Filled while batches are handed out.

    Returns:
        An iterator over lists of at most `batch_size` transformed images. Memory: two batches
        beyond the one handed out, or 48 images per process.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be >= 1, got {batch_size}.")

    wanted = range(len(source)) if indices is None else indices
    if readers.num_workers:
        results = in_processes(source, transform, wanted, readers)
    else:
        num_threads = readers.num_threads or torch.get_num_threads()
        # Two batches are ready while the one handed out is worked on, and every thread has work.
        ahead = 2 * batch_size + num_threads
        results = in_threads(source, transform, wanted, num_threads, ahead)
    report = ReadingReport() if report is None else report
    return _group(results, batch_size, skip_corrupt, uniform, report)


def _group(
    results: Generator[Read, None, None],
    batch_size: int,
    skip_corrupt: bool,
    uniform: bool,
    report: ReadingReport,
) -> Iterator[list[Tensor]]:
    """Group images; leave out unreadable ones or raise what is wrong with them."""
    first: Read | None = None
    batch: list[Tensor] = []
    known: dict[ImageFacts, ImageFacts] = {}  # many images share theirs, and their memory
    with closing(results):
        for result in results:
            if result.error is not None:
                if not skip_corrupt or isinstance(result.error, ReplacedError):
                    raise result.error
                # Without the remedy, which was just taken.
                message = str(result.error)
                report.skipped.append(message.rpartition(": ")[0] or message)
                report.left_out.append(result.index)
                continue

            first = first or result
            if uniform:
                _check_shapes(first, result)
            report.indices.append(result.index)
            report.transparent.append(result.transparent)
            assert result.facts is not None
            report.facts.append(known.setdefault(result.facts, result.facts))

            batch.append(result.pixels)
            if len(batch) == batch_size:
                yield batch
                batch = []
        if batch:
            yield batch


def _check_shapes(first: Read, other: Read) -> None:
    """Raise where an image does not stack with the first of the run, in its batch or not."""
    if first.pixels.shape != other.pixels.shape:
        raise DataError(
            f"all images must have one size for these features: `{first.name}` has the shape "
            f"{tuple(first.pixels.shape)}, `{other.name}` {tuple(other.pixels.shape)}; "
            "resize them to one size."
        )
