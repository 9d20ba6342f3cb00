"""What a metric remembers of one side, real or fake, and how two memories become one.

A memory is a dictionary of torchmetrics states: tensors, or lists of tensors that are read as one.
Stores never change a memory in place, so that states may be shared and restored by reference.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from otmetrics.functional.checks import check_at_least, check_seed
from otmetrics.functional.directions import random_directions, seeded
from otmetrics.functional.moments import Moments, merged_moments, moments
from otmetrics.functional.reservoir import Reservoir, lowest, merged_reservoirs
from otmetrics.functional.sketch import NUM_BINS, Sketch, merged_sketches, sketch
from otmetrics.metrics.rows import appended
from otmetrics.precision import ieee_float32

Memory = dict[str, Any]

_LEVELS = 1100  # bins are 2^level wide, as float64 has them
_CHUNK_NUMBERS = 2**20  # projected values at a time: 8 MB


class Store(Protocol):
    """A way to remember samples; its fields are the options that decide the memory."""

    def empty(self) -> Memory:
        """Memory of nothing, of any dimension."""

    def of(self, features: Tensor) -> Memory:
        """Memory of a batch (N, D), N >= 0."""

    def merged(self, first: Memory, second: Memory) -> Memory:
        """Memory of one stream followed by another; the first is no shorter than `empty`."""

    def count(self, memory: Memory) -> int:
        """Number of samples seen."""

    def collected(self, memory: Memory) -> Any:
        """What the maths takes."""

    def check(self, memory: Memory) -> None:
        """Raise ValueError with the rest of a sentence where a memory of right shapes is none."""


@dataclass(frozen=True)
class AllSamples:
    """Every sample, in order."""

    def empty(self) -> Memory:
        """No samples."""
        return {"features": []}

    def of(self, features: Tensor) -> Memory:
        """The batch itself."""
        return {"features": [features]}

    def merged(self, first: Memory, second: Memory) -> Memory:
        """Both, one after the other."""
        return {"features": chained(first["features"], second["features"])}

    def count(self, memory: Memory) -> int:
        """Number of samples."""
        return sum(map(len, memory["features"]))

    def collected(self, memory: Memory) -> Tensor:
        """Features (N, D)."""
        return joined(memory["features"])

    def check(self, memory: Memory) -> None:
        """Features are finite."""
        _check_finite("features", *memory["features"])


@dataclass(frozen=True)
class SampleReservoir:
    """A uniform random subset of at most `max_samples`; see `functional.reservoir`.

    Attributes:
        max_samples: Its size; memory holds up to twice as many.
        seed: Selects the subset.
    """

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

    def merged(self, first: Memory, second: Memory) -> Memory:
        """Reservoir of both streams."""
        if not self.count(second):
            return first
        if not self.count(first):
            return self._trimmed(second)
        merged, kept = merged_reservoirs(
            self._reservoir(first), self._reservoir(second), self.max_samples, self.seed
        )
        features = chained(first["features"], second["features"])
        if len(kept) < sum(map(len, features)):  # copied only where something is dropped
            features = [joined(features)[kept]]
        stream = first["stream"].new_tensor([merged.seen, merged.span])
        memory = {"features": features, "positions": [merged.positions], "stream": stream}
        return self._trimmed(memory)

    def count(self, memory: Memory) -> int:
        """Number of samples seen, kept or not."""
        return int(memory["stream"][0])

    def collected(self, memory: Memory) -> Tensor:
        """Features (min(N, max_samples), D), in the order of the stream."""
        kept = lowest(joined(memory["positions"]), self.max_samples, self.seed)
        return joined(memory["features"])[kept]

    def check(self, memory: Memory) -> None:
        """As many features as positions, all in the stream and none twice."""
        _check_finite("features", *memory["features"])
        seen, span = memory["stream"].tolist()
        counts = [sum(map(len, memory[name])) for name in ("features", "positions")]
        places = torch.cat([rows.cpu() for rows in memory["positions"]] or [torch.zeros(0)])
        kept = min(seen, self.max_samples) <= len(places) <= seen <= span
        inside = not len(places) or (places.min() >= 0 and places.max() < span)
        if counts[0] != counts[1] or not kept or not inside or len(places.unique()) != len(places):
            raise ValueError("samples are not at places of a stream")

    def _trimmed(self, memory: Memory) -> Memory:
        """Drop what a full reservoir would, once that is half of the rows."""
        positions = joined(memory["positions"])
        if len(positions) <= 2 * self.max_samples:
            return memory
        kept = lowest(positions, self.max_samples, self.seed)
        rows = joined(memory["features"])[kept]
        return memory | {"features": [rows], "positions": [positions[kept]]}

    def _reservoir(self, memory: Memory) -> Reservoir:
        """Which samples a memory holds."""
        return Reservoir(joined(memory["positions"]), *memory["stream"].tolist())


def samples(max_samples: int | None, seed: int) -> AllSamples | SampleReservoir:
    """The store of samples themselves.

    Args:
        max_samples: Most samples a side; None for all.
        seed: Selects them.

    Returns:
        The store.

    Raises:
        ValueError: If an option breaks its rule.
    """
    check_seed(seed)
    if max_samples is None:
        return AllSamples()
    check_at_least("max_samples", max_samples, 2)
    return SampleReservoir(max_samples, seed)


@dataclass(frozen=True)
class GaussianMoments:
    """Count, mean and scatter in float64, merged by Chan's formula."""

    def empty(self) -> Memory:
        """No samples."""
        return self._memory(self._nothing(torch.zeros(0, 0)))

    def of(self, features: Tensor) -> Memory:
        """Moments of a batch."""
        return self._memory(moments(features) if len(features) else self._nothing(features))

    def merged(self, first: Memory, second: Memory) -> Memory:
        """Moments of all samples."""
        if not self.count(second):
            return first
        if not self.count(first):
            return second
        return self._memory(merged_moments(self.collected(first), self.collected(second)))

    def count(self, memory: Memory) -> int:
        """Number of samples."""
        return int(memory["num_samples"])

    def collected(self, memory: Memory) -> Moments:
        """The moments."""
        return Moments(**memory)

    def check(self, memory: Memory) -> None:
        """Moments are finite, and those of a number of samples."""
        _check_finite("moments", memory["mean"], memory["scatter"])
        if memory["num_samples"] < 0 or (memory["num_samples"] and not len(memory["mean"])):
            raise ValueError("moments are not of a number of samples")
        if (memory["scatter"].diagonal() < 0).any():
            raise ValueError("variances are negative")

    def _nothing(self, features: Tensor) -> Moments:
        """Moments of no samples."""
        dimension, rows = features.shape[1], features.double()
        return Moments(
            torch.zeros((), dtype=torch.int64, device=rows.device),
            rows.new_zeros(dimension),
            rows.new_zeros(dimension, dimension),
        )

    def _memory(self, one: Moments) -> Memory:
        """As states."""
        return one._asdict()


@dataclass(frozen=True)
class QuantileSketch:
    """A histogram along each of L fixed directions; see `functional.sketch`.

    Attributes:
        num_projections: L.
        seed: Of the directions.
        orthogonal: Whether they come in blocks of orthonormal ones.
    """

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
        options = (
            features.shape[1],
            self.num_projections,
            self.seed,
            self.orthogonal,
            features.device,
        )
        rows, columns = features.double(), max(1, _CHUNK_NUMBERS // len(features))
        with ieee_float32(features.device):
            parts = [sketch(some @ rows.T) for some in _directions(*options).split(columns)]
        return Sketch(*map(torch.cat, zip(*parts, strict=True)))._asdict()

    def merged(self, first: Memory, second: Memory) -> Memory:
        """Sketch of all samples."""
        if not self.count(second):
            return first
        if not self.count(first):
            return second
        return merged_sketches(self.collected(first), self.collected(second))._asdict()

    def count(self, memory: Memory) -> int:
        """Number of samples."""
        return int(memory["counts"][:1].sum())

    def collected(self, memory: Memory) -> Sketch:
        """The sketch."""
        return Sketch(**memory)

    def check(self, memory: Memory) -> None:
        """All histograms hold as many samples, in the bins that their windows name."""
        counts, window = memory["counts"], memory["window"]
        totals = counts.sum(1, dtype=torch.int64)
        if (counts < 0).any() or (totals != totals[:1]).any():
            raise ValueError("histograms do not hold one number of samples")
        spans = window[:, 2] - window[:, 1]
        if ((spans < 0) | (spans >= NUM_BINS)).any() or (window[:, 0].abs() > _LEVELS).any():
            raise ValueError("histograms have no windows")

    def _nothing(self, rows: int, device: torch.device) -> Memory:
        """A sketch without samples."""
        counts = torch.zeros(rows, NUM_BINS, dtype=torch.int32, device=device)
        return {"counts": counts, "window": torch.zeros(rows, 3, dtype=torch.int64, device=device)}


def _check_finite(what: str, *values: Tensor) -> None:
    """Raise unless all numbers are finite."""
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise ValueError(f"{what} must be finite")


def chained(first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
    """Two list states as one, which holds one tensor.

    Args:
        first: Tensors (N, ...), or none.
        second: Tensors behind them, or none.

    Returns:
        A new list.
    """
    if not first or not second:
        return [*first, *second]
    return [appended(joined(first), joined(second))]


def joined(chunks: list[Tensor]) -> Tensor:
    """The chunks of a list state as one tensor, on the device of the first.

    Args:
        chunks: Tensors (N, ...), at least one.

    Returns:
        Their concatenation.
    """
    if len(chunks) == 1:
        return chunks[0]
    return torch.cat([chunk.to(chunks[0].device) for chunk in chunks])


@lru_cache(maxsize=2)
def _directions(
    dimension: int, num_projections: int, seed: int, orthogonal: bool, device: torch.device
) -> Tensor:
    """Directions (L, D) in float64, those of `Sliced` with this seed."""
    with torch.inference_mode(False):  # kept for calls outside of it too
        directions = random_directions(
            dimension, num_projections, generator=seeded(seed), orthogonal=orthogonal
        )
        return directions.T.contiguous().to(device)
