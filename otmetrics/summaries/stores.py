"""What is remembered of one side, real or fake, and how two memories become one.

A memory is a dictionary of torchmetrics states: tensors, or lists of tensors that are read as one.
Stores never change what a memory holds, so that states may be shared and restored by reference.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from otmetrics.checks import check_at_least, check_seed
from otmetrics.machine import ieee_float32
from otmetrics.statistics.frechet import Moments, merged_moments, moments
from otmetrics.summaries.reservoir import Reservoir, lowest, merged_reservoirs
from otmetrics.transport.sliced.directions import direction_generator, random_directions
from otmetrics.transport.sliced.sketch import NUM_BINS, Sketch, merged_sketches, sketch

Memory = dict[str, Any]

_LEVELS = 1000  # bins of a sketch are 2^level wide, with levels that float64 has
_NUMBERS = 2**40  # of bins: they are at least 2^-40 of the largest value
_CHUNK_NUMBERS = 2**20  # projected values at a time: 8 MB
_JOINED_NUMBERS = 2**18  # features that small batches are joined to: 1 MB in float32


class Store(ABC):
    """A way to remember samples; its fields are the options that decide the memory."""

    @abstractmethod
    def empty(self) -> Memory:
        """Memory of nothing, of any dimension."""

    @abstractmethod
    def of(self, features: Tensor) -> Memory:
        """Memory of a batch (N, D), N >= 0."""

    def _merge(self, first: Memory, second: Memory) -> Memory:
        """Memory of one stream followed by another, both with samples."""
        raise NotImplementedError

    @abstractmethod
    def count(self, memory: Memory) -> int:
        """Number of samples seen, kept or not."""

    @abstractmethod
    def collect(self, memory: Memory) -> Any:
        """What the maths takes: features (N, D), their moments or their sketch."""

    def check(self, memory: Memory) -> None:  # noqa: B027 - samples alone cannot disagree
        """Raise ValueError, with the rest of a sentence, where numbers of right shapes disagree."""

    def merge(self, first: Memory, second: Memory) -> Memory:
        """Memory of one stream followed by another."""
        if not self.count(second):
            return first
        if not self.count(first):
            return second
        return self._merge(first, second)


@dataclass(frozen=True)
class AllSamples(Store):
    """Every sample, in order."""

    def empty(self) -> Memory:
        """No samples."""
        return {"features": []}

    def of(self, features: Tensor) -> Memory:
        """The batch itself."""
        return {"features": [features]}

    def merge(self, first: Memory, second: Memory) -> Memory:
        """The batches of both."""
        return {"features": add_chunks(first["features"], second["features"])}

    def count(self, memory: Memory) -> int:
        """Number of samples."""
        return sum(map(len, memory["features"]))

    def collect(self, memory: Memory) -> Tensor:
        """Features (N, D)."""
        chunks = memory["features"]
        # In place of the batches, for whoever shares the list: joined once, and held once.
        chunks[:] = [join_chunks(chunks)]
        return chunks[0]


@dataclass(frozen=True)
class SampleReservoir(Store):
    """A uniform random subset of `max_samples`; memory holds up to twice as many, and a batch."""

    max_samples: int
    seed: int

    def empty(self) -> Memory:
        """No samples; `stream` is the seen and the span of a `Reservoir`."""
        return {"features": [], "positions": [], "stream": torch.zeros(2, dtype=torch.int64)}

    def of(self, features: Tensor) -> Memory:
        """A batch, at the first positions."""
        positions = torch.arange(len(features), device=features.device)
        stream = torch.full((2,), len(features), device=features.device)
        return {"features": [features], "positions": [positions], "stream": stream}

    def merge(self, first: Memory, second: Memory) -> Memory:
        """Reservoir of both streams, cut to `max_samples` once it holds more than twice as many."""
        # Not after every batch: cutting copies what is kept.
        memory = super().merge(first, second)
        if sum(map(len, memory["positions"])) <= 2 * self.max_samples:
            return memory

        positions = join_chunks(memory["positions"])
        kept = lowest(positions, self.max_samples, self.seed)
        features = join_chunks(memory["features"])[kept]
        return memory | {"features": [features], "positions": [positions[kept]]}

    def _merge(self, first: Memory, second: Memory) -> Memory:
        """Reservoir of both streams."""
        held = first["positions"]
        other = Reservoir(join_chunks(second["positions"]), *second["stream"].tolist())
        # All that is held stays where the other just follows: a batch is not worth a copy of it.
        choice = held[0][:0] if other.is_whole else join_chunks(held)
        one = Reservoir(choice, *first["stream"].tolist())
        merged, kept = merged_reservoirs(one, other, self.max_samples, self.seed)

        stream = first["stream"].new_tensor([merged.seen, merged.span])
        if other.is_whole:
            positions = add_chunks(held, [merged.positions])
            features = add_chunks(first["features"], second["features"])
        else:
            positions = [merged.positions]
            features = [join_chunks(first["features"] + second["features"])[kept]]
        return {"features": features, "positions": positions, "stream": stream}

    def count(self, memory: Memory) -> int:
        """Number of samples seen, kept or not."""
        return int(memory["stream"][0])

    def collect(self, memory: Memory) -> Tensor:
        """Features (min(N, max_samples), D), in the order of the stream."""
        kept = lowest(join_chunks(memory["positions"]), self.max_samples, self.seed)
        return join_chunks(memory["features"])[kept]

    def check(self, memory: Memory) -> None:
        """As many features as positions, all of them in the stream and none twice."""
        seen, span = memory["stream"].tolist()
        num_features = sum(map(len, memory["features"]))
        places = torch.cat([rows.cpu() for rows in memory["positions"]] or [torch.zeros(0)])

        enough = min(seen, self.max_samples) <= len(places) <= seen <= span
        inside = not len(places) or (places.min() >= 0 and places.max() < span)
        is_sound = enough and inside and len(places.unique()) == len(places) == num_features
        if not is_sound:
            raise ValueError("samples are not at places of a stream")


def samples(max_samples: int | None, seed: int) -> AllSamples | SampleReservoir:
    """The store of at most so many samples per side; None keeps all."""
    check_seed(seed)
    if max_samples is None:
        return AllSamples()

    # Of one sample no score has a variance.
    check_at_least("max_samples", max_samples, 2)
    return SampleReservoir(max_samples, seed)


@dataclass(frozen=True)
class GaussianMoments(Store):
    """Count, mean and scatter in float64, merged by Chan's formula."""

    def empty(self) -> Memory:
        """No samples."""
        return self.of(torch.zeros(0, 0))

    def of(self, features: Tensor) -> Memory:
        """Moments of a batch."""
        if len(features):
            return moments(features)._asdict()

        # The mean of nothing would be NaN.
        dimension, rows = features.shape[1], features.double()
        count = torch.zeros((), dtype=torch.int64, device=rows.device)
        nothing = Moments(count, rows.new_zeros(dimension), rows.new_zeros(dimension, dimension))
        return nothing._asdict()

    def _merge(self, first: Memory, second: Memory) -> Memory:
        """Moments of all samples."""
        return merged_moments(self.collect(first), self.collect(second))._asdict()

    def count(self, memory: Memory) -> int:
        """Number of samples."""
        return int(memory["num_samples"])

    def collect(self, memory: Memory) -> Moments:
        """The moments."""
        return Moments(**memory)

    def check(self, memory: Memory) -> None:
        """Moments are those of a number of samples, with variances that are not negative."""
        if memory["num_samples"] < 0 or (memory["num_samples"] and not len(memory["mean"])):
            raise ValueError("moments are not of a number of samples")
        if (memory["scatter"].diagonal() < 0).any():
            raise ValueError("variances are negative")


@dataclass(frozen=True)
class QuantileSketch(Store):
    """A histogram along each of L fixed directions, those of `Sliced` with this seed."""

    num_projections: int
    seed: int
    orthogonal: bool

    def empty(self) -> Memory:
        """No samples."""
        return self._nothing(0, torch.device("cpu"))

    def of(self, features: Tensor) -> Memory:
        """Sketch of a batch."""
        if not len(features):
            return self._nothing(self.num_projections, features.device)

        directions = self.directions(features.shape[1], features.device)
        rows, at_a_time = features.double(), max(1, _CHUNK_NUMBERS // len(features))

        with ieee_float32(features.device):
            parts = [sketch(some @ rows.T) for some in directions.split(at_a_time)]
        return Sketch(*map(torch.cat, zip(*parts, strict=True)))._asdict()

    def _merge(self, first: Memory, second: Memory) -> Memory:
        """Sketch of all samples."""
        return merged_sketches(self.collect(first), self.collect(second))._asdict()

    def count(self, memory: Memory) -> int:
        """Number of samples."""
        return int(memory["counts"][:1].sum())  # every direction counts each sample once

    def collect(self, memory: Memory) -> Sketch:
        """The sketch."""
        return Sketch(**memory)

    def check(self, memory: Memory) -> None:
        """All histograms hold the same number of samples, in the bins that their windows name."""
        counts, window = memory["counts"], memory["window"]
        totals = counts.sum(1, dtype=torch.int64)
        if (counts < 0).any() or (totals != totals[:1]).any():
            raise ValueError("histograms do not hold one number of samples")

        levels, low, high = window.unbind(1)
        is_sound = (levels.abs() <= _LEVELS) & (low >= -_NUMBERS) & (high <= _NUMBERS)
        is_sound &= (low <= high) & (high - low < NUM_BINS)
        if not is_sound.all():
            raise ValueError("histograms have no windows")

    def directions(self, dimension: int, device: torch.device) -> Tensor:
        """The directions (L, D) in float64."""
        return _directions(self, dimension, device)

    def _nothing(self, rows: int, device: torch.device) -> Memory:
        """A sketch without samples."""
        counts = torch.zeros(rows, NUM_BINS, dtype=torch.int32, device=device)
        return {"counts": counts, "window": torch.zeros(rows, 3, dtype=torch.int64, device=device)}


@lru_cache(maxsize=2)
def _directions(store: QuantileSketch, dimension: int, device: torch.device) -> Tensor:
    """Directions (L, D) in float64."""
    with torch.inference_mode(False):  # kept for calls outside of it too
        directions = random_directions(
            dimension,
            store.num_projections,
            generator=direction_generator(store.seed),
            orthogonal=store.orthogonal,
        )
        return directions.T.contiguous().to(device)


def add_chunks(chunks: list[Tensor], more: list[Tensor]) -> list[Tensor]:
    """The tensors (N, ...) of a list state and then those of another, as a new list.

    Small tensors are joined with what follows them, as the digits of a number that counts up carry:
    the list stays short however many batches come, and each row is copied a few times only.
    """
    added = list(chunks)
    for rows in more:
        start, size, numbers = len(added), len(rows), rows.numel()

        # What is left is more than twice as long as what follows it, or too large to be copied.
        while start:
            last = added[start - 1]
            if len(last) > 2 * size or numbers + last.numel() > _JOINED_NUMBERS:
                break
            start, size, numbers = start - 1, size + len(last), numbers + last.numel()
        added[start:] = [join_chunks([*added[start:], rows])]
    return added


def join_chunks(chunks: list[Tensor]) -> Tensor:
    """The tensors (N, ...) of a list state as one: on the first's device, in the widest dtype."""
    if len(chunks) == 1:
        return chunks[0]
    return torch.cat([chunk.to(chunks[0].device) for chunk in chunks])
