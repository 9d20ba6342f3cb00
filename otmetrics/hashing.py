"""Random numbers without a state: the same for the i-th sample, in whatever batch it comes."""

import torch
from torch import Tensor

# Of SplitMix64, as the int64 that have their bits: not every torch multiplies uint64.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def hash_counters(counters: Tensor, seed: int) -> Tensor:
    """Uniform integers in [0, 2^63), one per counter: a counter-based random number generator.

    Equal int64 counters give equal numbers, on every device; a seed in [0, 2^63) selects an
    unrelated sequence. SplitMix64 of Steele, Lea, Flood, Fast splittable pseudorandom number
    generators, 2014.
    """
    start = _mix(torch.tensor(seed, dtype=torch.int64, device=counters.device))
    return _shift_right(_mix(start + counters * _GOLDEN), 1)


def _mix(state: Tensor) -> Tensor:
    """The output function of SplitMix64; int64 products wrap around as unsigned ones do."""
    state = state + _GOLDEN
    state = (state ^ _shift_right(state, 30)) * _FIRST
    state = (state ^ _shift_right(state, 27)) * _SECOND
    return state ^ _shift_right(state, 31)


def _shift_right(state: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros; torch's own shift repeats the sign."""
    return (state >> bits) & (2 ** (64 - bits) - 1)
