"""Images -> transformed batches, read ahead in threads and handed out in order."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Tensor

from otmetrics.errors import DataError
from otmetrics.images.facts import ImageFacts
from otmetrics.images.reading import Read, Transform, in_processes, in_threads
from otmetrics.images.sources import ImageSource


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
    num_threads: int | None = None,
    num_workers: int = 0,
    pin_memory: bool = False,
    uniform: bool = True,
    report: ReadingReport | None = None,
) -> Iterator[list[Tensor]]:
    """Read and transform images in the order of the source.

    The images are the same for every `batch_size`, `num_threads` and `num_workers`. The last batch
    may be smaller. Closing the iterator waits for the images that are being decoded, no others.
    torch uses one core in each thread, so that threads do not wait for each other.

    Args:
        source: The images.
        transform: Takes one uint8 (3, H, W) image, whose size may differ from the next, to a
            tensor. Called in several threads at once.
        batch_size: Images per batch.
        indices: Which images to read, in this order; all by default.
        skip_corrupt: Leave out images that cannot be read instead of raising in their place.
        num_threads: How many images are decoded at a time; None for as many as torch has threads.
        num_workers: Read in that many processes instead of threads.
        pin_memory: Let them put the images where a GPU copies them from without waiting.
        uniform: Whether `transform` must give tensors of one shape.
        report: Filled while batches are handed out.

    Returns:
        An iterator over lists of at most `batch_size` transformed images. Memory: two batches
        beyond the one handed out, or 48 images a process.

    Raises:
        ValueError: `batch_size` or `num_threads` is below 1, or `num_workers` negative.
    """
    num_threads = torch.get_num_threads() if num_threads is None else num_threads
    for name, value in (("batch_size", batch_size), ("num_threads", num_threads)):
        if value < 1:
            raise ValueError(f"`{name}` must be >= 1, got {value}.")
    if num_workers < 0:
        raise ValueError(f"`num_workers` must be >= 0, got {num_workers}.")
    wanted = range(len(source)) if indices is None else indices
    if num_workers:
        results = in_processes(source, transform, wanted, num_workers, pin_memory)
    else:
        ahead = 2 * batch_size + num_threads
        results = in_threads(source, transform, wanted, num_threads, ahead)
    report = ReadingReport() if report is None else report
    return _grouped(results, batch_size, skip_corrupt, uniform, report)


def _grouped(
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
                if not skip_corrupt:
                    raise result.error
                report.skipped.append(_reason(result.error))
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


def _reason(error: DataError) -> str:
    """Which file and why, without the remedy that was just taken."""
    return str(error).rpartition(": ")[0] or str(error)


def _check_shapes(first: Read, other: Read) -> None:
    """Raise where an image does not stack with the first of the run, in its batch or not."""
    if first.pixels.shape != other.pixels.shape:
        raise DataError(
            f"all images must have one size for these features: `{first.name}` has the shape "
            f"{tuple(first.pixels.shape)}, `{other.name}` {tuple(other.pixels.shape)}; "
            "resize them to one size."
        )
