"""What a metric remembers of one side, real or fake, and how two memories become one.

A memory is a dictionary of torchmetrics states: tensors, or lists of tensors that are read as one.
Stores never change a memory in place, so that states may be shared and restored by reference.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from otmetrics.checks import check_at_least, check_seed
from otmetrics.hashing import hash_counters
from otmetrics.machine import ieee_float32
from otmetrics.statistics.frechet import Moments, merged_moments, moments
from otmetrics.transport.sliced.directions import direction_generator, random_directions
from otmetrics.transport.sliced.sketch import NUM_BINS, Sketch, merged_sketches, sketch

_LEAST = 256


class _Buffer:
    """A tensor with room behind its first `taken` rows."""

    def __init__(self, rows: Tensor, taken: int) -> None:
        self.rows = rows
        self.taken = taken


_BUFFERS = WeakTensorKeyDictionary()


def append_rows(rows: Tensor, more: Tensor) -> Tensor:
    """Rows followed by more of them; both stay as they are.

    The result is the beginning of a buffer with room to spare. Appending to the result writes into
    that room, which nobody else sees; appending to the same rows a second time copies them. Time
    is O(M D), amortised; the room is at most half of the rows.

    Args:
        rows: Rows (N, ...).
        more: Rows (M, ...), on any device.

    Returns:
        Rows (N + M, ...) on the device of the first, in the wider dtype of both.
    """
    count, total = len(rows), len(rows) + len(more)
    dtype = torch.promote_types(rows.dtype, more.dtype)
    buffer = _BUFFERS.get(rows)
    if (
        buffer is None
        or buffer.taken != count
        or len(buffer.rows) < total
        or buffer.rows.dtype != dtype
    ):
        room = max(total + total // 2, _LEAST)
        with torch.inference_mode(False):  # a buffer made inside could not be written to outside
            buffer = _Buffer(
                torch.empty((room, *rows.shape[1:]), dtype=dtype, device=rows.device), total
            )
        buffer.rows[:count] = rows
    buffer.rows[count:total] = more
    buffer.taken = total
    result = buffer.rows[:total]
    _BUFFERS[result] = buffer
    return result


_BLOCK = 2**22


class Reservoir(NamedTuple):
    """Which samples of a stream are held.

    Attributes:
        positions: Their positions in the stream, int64 (K,), each at most once.
        seen: Samples in the stream.
        span: Every position used so far is below it; `seen`, unless reservoirs were merged.
    """

    positions: Tensor
    seen: int
    span: int

    @property
    def is_whole(self) -> bool:
        """Whether every sample of the stream is held."""
        return len(self.positions) == self.seen


def lowest(positions: Tensor, size: int, seed: int) -> Tensor:
    """The samples to keep of those at some positions: the ones whose positions hash lowest.

    Whether a sample is kept depends on its position, the seed and the other positions only, so
    batches do not matter, and dropping early what is not among the lowest so far loses nothing.

    Args:
        positions: Positions (N,) in the stream, int64.
        size: The most samples to keep.
        seed: Selects the random subset.

    Returns:
        Indices into `positions`, int64, in ascending order of position.

    References:
        Cohen, Kaplan, Summarizing data using bottom-k sketches, 2007.

    Example:
        >>> lowest(torch.arange(10), 20, seed=0).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    kept = torch.arange(len(positions), device=positions.device)
    if len(positions) > size:
        kept = hash_counters(positions, seed).topk(size, largest=False).indices
    return kept[positions[kept].argsort()]


def merged_reservoirs(
    first: Reservoir, second: Reservoir, size: int, seed: int
) -> tuple[Reservoir, Tensor]:
    """Reservoir of one stream followed by another.

    A second stream that is held whole just follows: the result is that of one stream. Otherwise
    both reservoirs have chosen by hashes of the same positions, so the union is drawn afresh: a
    uniform subset of all samples says how many to take of either, and each gives those that its
    own choice would keep last. Time O(N + M) then.

    Args:
        first: Reservoir of N samples that holds at least min(N, size) of them.
        second: The same of M samples.
        size: The most samples to keep where anything has to be drawn.
        seed: The seed of both.

    Returns:
        The reservoir of the union, and the indices of its samples among those of `first` followed
        by those of `second`. Where `second` is whole nothing is dropped.
    """
    seen = first.seen + second.seen
    if second.is_whole:
        positions = torch.cat([first.positions, second.positions.to(first.positions) + first.span])
        kept = torch.arange(len(positions), device=positions.device)
        return Reservoir(positions, seen, first.span + second.span), kept
    # Positions that neither has used, so that their hashes know nothing of the old choices.
    start = max(first.span, second.span)
    positions = _lowest_of_range(start, start + seen, size, seed, first.positions.device)
    from_first = int((positions < start + first.seen).sum())
    from_second = len(positions) - from_first
    kept = torch.cat(
        [
            lowest(first.positions, from_first, seed),
            lowest(second.positions.to(first.positions), from_second, seed) + len(first.positions),
        ]
    )
    return Reservoir(positions, seen, start + seen), kept


def _lowest_of_range(start: int, stop: int, size: int, seed: int, device: torch.device) -> Tensor:
    """The positions in [start, stop) that hash lowest, ascending, in blocks that bound memory."""
    best = torch.empty(0, dtype=torch.int64, device=device)
    for low in range(start, stop, _BLOCK):
        candidates = torch.cat([best, torch.arange(low, min(low + _BLOCK, stop), device=device)])
        best = candidates[lowest(candidates, size, seed)]
    return best


Memory = dict[str, Any]

_LEVELS = 1100  # bins are 2^level wide, as float64 has them
_CHUNK_NUMBERS = 2**20  # projected values at a time: 8 MB


class Store(Protocol):
    """A way to remember samples; its fields are the options that decide the memory."""

    def empty(self) -> Memory:
        """Memory of nothing, of any dimension."""

    def of(self, features: Tensor) -> Memory:
        """Memory of a batch (N, D), N >= 0."""

    def merge(self, first: Memory, second: Memory) -> Memory:
        """Memory of one stream followed by another; the first is no shorter than `empty`."""

    def count(self, memory: Memory) -> int:
        """Number of samples seen."""

    def collect(self, memory: Memory) -> Any:
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

    def merge(self, first: Memory, second: Memory) -> Memory:
        """Both, one after the other."""
        return {"features": chain_states(first["features"], second["features"])}

    def count(self, memory: Memory) -> int:
        """Number of samples."""
        return sum(map(len, memory["features"]))

    def collect(self, memory: Memory) -> Tensor:
        """Features (N, D)."""
        return join_chunks(memory["features"])

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

    def merge(self, first: Memory, second: Memory) -> Memory:
        """Reservoir of both streams."""
        if not self.count(second):
            return first
        if not self.count(first):
            return self._trim(second)
        merged, kept = merged_reservoirs(
            self._reservoir(first), self._reservoir(second), self.max_samples, self.seed
        )
        features = chain_states(first["features"], second["features"])
        if len(kept) < sum(map(len, features)):  # copied only where something is dropped
            features = [join_chunks(features)[kept]]
        stream = first["stream"].new_tensor([merged.seen, merged.span])
        memory = {"features": features, "positions": [merged.positions], "stream": stream}
        return self._trim(memory)

    def count(self, memory: Memory) -> int:
        """Number of samples seen, kept or not."""
        return int(memory["stream"][0])

    def collect(self, memory: Memory) -> Tensor:
        """Features (min(N, max_samples), D), in the order of the stream."""
        kept = lowest(join_chunks(memory["positions"]), self.max_samples, self.seed)
        return join_chunks(memory["features"])[kept]

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

    def _trim(self, memory: Memory) -> Memory:
        """Drop what a full reservoir would, once that is half of the rows."""
        positions = join_chunks(memory["positions"])
        if len(positions) <= 2 * self.max_samples:
            return memory
        kept = lowest(positions, self.max_samples, self.seed)
        rows = join_chunks(memory["features"])[kept]
        return memory | {"features": [rows], "positions": [positions[kept]]}

    def _reservoir(self, memory: Memory) -> Reservoir:
        """Which samples a memory holds."""
        return Reservoir(join_chunks(memory["positions"]), *memory["stream"].tolist())


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

    def merge(self, first: Memory, second: Memory) -> Memory:
        """Moments of all samples."""
        if not self.count(second):
            return first
        if not self.count(first):
            return second
        return self._memory(merged_moments(self.collect(first), self.collect(second)))

    def count(self, memory: Memory) -> int:
        """Number of samples."""
        return int(memory["num_samples"])

    def collect(self, memory: Memory) -> Moments:
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

    def merge(self, first: Memory, second: Memory) -> Memory:
        """Sketch of all samples."""
        if not self.count(second):
            return first
        if not self.count(first):
            return second
        return merged_sketches(self.collect(first), self.collect(second))._asdict()

    def count(self, memory: Memory) -> int:
        """Number of samples."""
        return int(memory["counts"][:1].sum())

    def collect(self, memory: Memory) -> Sketch:
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


def chain_states(first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
    """Two list states as one, which holds one tensor.

    Args:
        first: Tensors (N, ...), or none.
        second: Tensors behind them, or none.

    Returns:
        A new list.
    """
    if not first or not second:
        return [*first, *second]
    return [append_rows(join_chunks(first), join_chunks(second))]


def join_chunks(chunks: list[Tensor]) -> Tensor:
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
            dimension, num_projections, generator=direction_generator(seed), orthogonal=orthogonal
        )
        return directions.T.contiguous().to(device)
