"""The reservoir: the same for any batches, uniform, and uniform again after merging."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from otmetrics.hashing import hash_counters
from otmetrics.summaries.reservoir import Reservoir, lowest, merged_reservoirs


def test_hash_is_splitmix64() -> None:
    """The published generator in Python's integers, one increment a counter, top 63 bits."""
    mask = 2**64 - 1

    def mixed(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        return state ^ (state >> 31)

    # First output of SplitMix64 seeded with 0, as published with the generator.
    assert mixed(0) == 0xE220A8397B1DCDAF
    for seed in (0, 1, 2**63 - 1):
        expected = [
            mixed((mixed(seed) + i * 0x9E3779B97F4A7C15) & mask) >> 1 for i in range(-3, 50)
        ]
        assert hash_counters(torch.arange(-3, 50), seed).tolist() == expected


def test_hash_is_uniform() -> None:
    numbers = hash_counters(torch.arange(100_000), seed=5).double() / 2**63
    assert kstest(numbers.numpy(), "uniform").pvalue > 0.01
    lag = torch.corrcoef(torch.stack([numbers[1:], numbers[:-1]]))[0, 1]
    assert abs(lag) < 4 / 100_000**0.5


@given(
    st.integers(1, 200),
    st.integers(1, 50),
    st.lists(st.integers(1, 60), max_size=6),
    st.integers(0),
)
def test_batches_do_not_matter(total: int, size: int, cuts: list[int], seed: int) -> None:
    seed %= 2**63
    whole = torch.arange(total)[lowest(torch.arange(total), size, seed)]
    kept, start = torch.empty(0, dtype=torch.int64), 0
    for cut in [*cuts, total]:
        stop = min(start + cut, total)
        candidates = torch.cat([kept, torch.arange(start, stop)])
        kept, start = candidates[lowest(candidates, size, seed)], stop
    assert kept.tolist() == whole.tolist()
    assert len(whole) == min(size, total)


def test_every_sample_is_as_likely() -> None:
    counts = torch.zeros(40)
    for seed in range(2000):
        counts[lowest(torch.arange(40), 10, seed)] += 1
    assert chisquare(counts.numpy()).pvalue > 0.01


def drawn(total: int, size: int, seed: int) -> Reservoir:
    return Reservoir(lowest(torch.arange(total), size, seed), total, total)


@pytest.mark.parametrize(("first", "second"), [(25, 60), (60, 25), (5, 60), (60, 5)])
def test_after_merging_every_sample_is_as_likely(first: int, second: int) -> None:
    size, later = 10, 15
    counts = torch.zeros(first + second + later)
    for seed in range(4000):
        parts = drawn(first, size, seed), drawn(second, size, seed)
        merged, kept = merged_reservoirs(*parts, size, seed)
        samples = torch.cat([parts[0].positions, parts[1].positions + first])[kept]
        assert len(samples) == len(merged.positions) == len(set(merged.positions.tolist()))
        # And the merged reservoir goes on.
        batch = Reservoir(torch.arange(later), later, later)
        merged, kept = merged_reservoirs(merged, batch, size, seed)
        samples = torch.cat([samples, torch.arange(later) + first + second])[kept]
        counts[samples[lowest(merged.positions, size, seed)]] += 1
    assert counts.sum() == 4000 * size
    assert chisquare(counts.numpy()).pvalue > 0.01


def test_a_stream_that_is_held_whole_just_follows() -> None:
    first, second = drawn(30, 10, seed=3), drawn(20, 30, seed=3)
    merged, kept = merged_reservoirs(first, second, 10, seed=3)
    positions = merged.positions[lowest(merged.positions, 10, seed=3)]
    assert positions.tolist() == lowest(torch.arange(50), 10, seed=3).tolist()
    assert kept.tolist() == list(range(30))
    assert (merged.seen, merged.span) == (50, 50)


def test_merging_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = drawn(40, 7, seed=1), drawn(100, 7, seed=1)
    whole, kept = merged_reservoirs(*parts, 7, seed=1)
    monkeypatch.setattr("otmetrics.summaries.reservoir._BLOCK", 13)
    again, kept_again = merged_reservoirs(*parts, 7, seed=1)
    assert again.positions.tolist() == whole.positions.tolist()
    assert kept.tolist() == kept_again.tolist()
    assert whole.positions.min() >= 100
    assert (whole.seen, whole.span) == (140, 240)
