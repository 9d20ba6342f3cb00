"""A uniform random subset of a stream of samples, whatever its batches, and of several streams."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.hashing import hash_counters

_BLOCK = 2**22  # positions hashed at a time: 32 MB


class Reservoir(NamedTuple):
    """Which samples of a stream are held.

    `positions` (K,) are their places in the stream, int64, each at most once; `seen` counts the
    samples of the stream. Every position used so far is below `span`, which is `seen` unless
    reservoirs were merged.
    """

    positions: Tensor
    seen: int
    span: int

    @property
    def is_whole(self) -> bool:
        """Whether every sample of the stream is held."""
        return len(self.positions) == self.seen


def lowest(positions: Tensor, size: int, seed: int) -> Tensor:
    """Indices of the `size` positions (N,) that hash lowest, or of all, ascending by position.

    Whether a sample is kept depends on its position, the seed and the other positions only, so
    batches do not matter, and dropping early what is not among the lowest so far loses nothing
    (Cohen, Kaplan, Summarizing data using bottom-k sketches, 2007).

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
    """Reservoir of one stream followed by another, and where its samples are among those of both.

    A second stream that is held whole just follows, and nothing is dropped: the result is that of
    one stream. Otherwise both reservoirs have chosen by hashes of the same positions, so the union
    is drawn again: a uniform subset of all samples says how many to take of either, and each gives
    those that its own choice would keep last. Time O(N + M) then.
    """
    seen = first.seen + second.seen
    if second.is_whole:
        positions = torch.cat([first.positions, second.positions.to(first.positions) + first.span])
        kept = torch.arange(len(positions), device=positions.device)
        return Reservoir(positions, seen, first.span + second.span), kept

    # Positions that neither has used, so that their hashes know nothing of the old choices.
    start = max(first.span, second.span)
    positions = lowest_of_range(start, start + seen, size, seed, first.positions.device)
    from_first = int((positions < start + first.seen).sum())
    from_second = len(positions) - from_first

    of_first = lowest(first.positions, from_first, seed)
    of_second = lowest(second.positions.to(first.positions), from_second, seed)
    kept = torch.cat([of_first, of_second + len(first.positions)])
    return Reservoir(positions, seen, start + seen), kept


def lowest_of_range(start: int, stop: int, size: int, seed: int, device: torch.device) -> Tensor:
    """The positions in [start, stop) that hash lowest, ascending, in blocks that bound memory."""
    best = torch.empty(0, dtype=torch.int64, device=device)
    for low in range(start, stop, _BLOCK):
        candidates = torch.cat([best, torch.arange(low, min(low + _BLOCK, stop), device=device)])
        best = candidates[lowest(candidates, size, seed)]
    return best
