"""Images read and transformed ahead of the one who takes them, in threads or in processes."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from otmetrics.errors import DataError
from otmetrics.images.facts import ImageFacts, pixel_facts
from otmetrics.images.sources import ImageSource

Transform = Callable[[Tensor], Tensor]
_CHUNK = 16  # images that a process sends together


@dataclass(frozen=True)
class Read:
    """One transformed image, or why there is none.

    Attributes:
        index: Its place in the source.
        name: What messages call it.
        pixels: What the transform made of it.
        transparent: Whether it was composited on white.
        facts: What its file says of it; None where it could not be read.
        error: Why it could not be read.
    """

    index: int
    name: str
    pixels: Tensor = field(default_factory=lambda: torch.empty(0))
    transparent: bool = False
    facts: ImageFacts | None = None
    error: DataError | None = None


def read(source: ImageSource, transform: Transform, index: int) -> Read:
    """Read and transform one image.

    Args:
        source: The images.
        transform: Applied to its pixels.
        index: Its place in the source.

    Returns:
        The image, or the error of a file that cannot be read or transformed.
    """
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
    """Read images in threads, one image each; torch uses one core in each.

    Args:
        source: The images.
        transform: Applied to each of them.
        indices: Which, in this order.
        num_threads: How many at a time.
        ahead: How many may be under way before they are asked for.

    Yields:
        The images in order.
    """
    torch_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        num_threads,
        thread_name_prefix="otmetrics-images",
        # torch counts threads for each thread; those that start later begin with the last count.
        initializer=lambda: torch.set_num_threads(1),
    )
    try:
        waiting = iter(indices)
        pending = deque(
            pool.submit(read, source, transform, index) for index in islice(waiting, ahead)
        )
        while pending:
            result = pending.popleft().result()
            pending.extend(
                pool.submit(read, source, transform, index) for index in islice(waiting, 1)
            )
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch_threads)


class _Packed(NamedTuple):
    """Images with their pixels in one tensor, which goes from process to process as one."""

    reads: list[Read]
    shapes: list[torch.Size]
    flat: Tensor


class _Chunks(Dataset):
    """Several images by their indices."""

    def __init__(self, source: ImageSource, transform: Transform) -> None:
        self.source, self.transform = source, transform

    def __getitem__(self, indices: list[int]) -> _Packed:
        reads = [read(self.source, self.transform, index) for index in indices]
        flat = torch.cat([one.pixels.flatten() for one in reads if one.error is None] or [_NONE])
        bare = [replace(one, pixels=_NONE) for one in reads]
        return _Packed(bare, [one.pixels.shape for one in reads], flat)


_NONE = torch.empty(0)


class _Loader(DataLoader):
    """A loader that asks for as many processes as it was told, without a word."""

    def check_worker_number_rationality(self) -> None:
        """Say nothing of more processes than cores: filters of warnings are all threads'."""


def in_processes(
    source: ImageSource,
    transform: Transform,
    indices: Sequence[int],
    num_workers: int,
    pin_memory: bool = False,
) -> Generator[Read, None, None]:
    """Read images in processes of their own, which end with this one.

    Threads of one Python hinder each other before a GPU has enough to do. Starting the
    first of the processes takes seconds; a script that does it needs the usual
    `if __name__ == "__main__":`.

    Args:
        source: The images; it is sent to each process.
        transform: Applied to each of them; it is sent too.
        indices: Which, in this order.
        num_workers: Processes, each up to 48 images ahead.
        pin_memory: Put the images where a GPU copies them from without waiting.

    Yields:
        The images in order.

    Raises:
        DataError: A process is gone.
    """
    method = "spawn"
    if "forkserver" in multiprocessing.get_all_start_methods():
        method = "forkserver"  # starts from a process that has loaded this module, in no time
        multiprocessing.get_context(method).set_forkserver_preload([__name__])
    loader = _Loader(
        _Chunks(source, transform),
        batch_size=None,
        sampler=[indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)],
        collate_fn=_unchanged,
        worker_init_fn=_end_with_parent,
        num_workers=num_workers,
        pin_memory=pin_memory,
        multiprocessing_context=method,
        generator=torch.Generator().manual_seed(0),  # not a number of the caller's generator
    )
    for reads, shapes, flat in _received(loader):
        pixels = iter(flat.split([shape.numel() for shape in shapes]))
        for one, shape in zip(reads, shapes, strict=True):
            yield replace(one, pixels=next(pixels).view(shape))


def _received(loader: DataLoader) -> Generator[_Packed, None, None]:
    """What the processes send, as long as they live."""
    try:
        yield from loader
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise DataError(
            "a process that reads images is gone; it was killed, perhaps for the memory it took: "
            "ask for fewer with --workers, or for 0, which reads in threads."
        ) from error


def _unchanged(chunk: Any) -> Any:
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
