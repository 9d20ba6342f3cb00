"""A uniform random subset of a stream, decided by position and seed alone."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.functional.hashing import hashed

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
        kept = hashed(positions, seed).topk(size, largest=False).indices
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
