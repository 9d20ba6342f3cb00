"""Sketches against the exact sliced distance; merging, order and batches to the bit."""

import math

import pytest
import torch
from cases import cloud
from hypothesis import given
from hypothesis import strategies as st

from otmetrics import Sliced
from otmetrics.functional import random_directions
from otmetrics.transport.sliced.directions import block_size, direction_generator
from otmetrics.transport.sliced.sketch import (
    NUM_BINS,
    Sketch,
    merged_sketches,
    sketch,
    sketched_result,
)
from otmetrics.transport.sliced.sliced import controls_of_moments

ORDERS = (1.0, 1.5, 2.0, 3.0)
VALUES = st.floats(-1e30, 1e30, allow_subnormal=False)


def streamed(projected: torch.Tensor, sizes: list[int]) -> Sketch:
    parts = [sketch(part) for part in projected.split(sizes, dim=1)]
    total = parts[0]
    for part in parts[1:]:
        total = merged_sketches(total, part)
    return total


def same(first: Sketch, second: Sketch) -> bool:
    return first.counts.equal(second.counts) and first.window.equal(second.window)


@given(st.lists(VALUES, min_size=2, max_size=40), st.data())
def test_any_order_and_any_split_give_one_sketch(values: list[float], data: st.DataObject) -> None:
    projected = torch.tensor([values, [value**2 for value in values]], dtype=torch.float64)
    whole = sketch(projected)
    assert whole.num_samples == len(values)
    shuffled = projected[:, torch.tensor(data.draw(st.permutations(range(len(values)))))]
    cut = data.draw(st.integers(1, len(values) - 1))
    assert same(streamed(shuffled, [cut, len(values) - cut]), whole)
    assert same(streamed(shuffled, [1] * len(values)), whole)


def test_negative_numbers_stay_below_zero_however_small():
    values = torch.tensor([[4.7e21, -5.6e-306]], dtype=torch.float64)
    assert same(streamed(values, [1, 1]), sketch(values))


@given(st.lists(VALUES, min_size=1, max_size=40))
def test_bins_hold_their_values(values: list[float]) -> None:
    """Each value, divided by the width of its bin, is counted where it belongs."""
    found = sketch(torch.tensor([values], dtype=torch.float64))
    level, low, high = found.window[0].tolist()
    numbers = [math.floor(math.ldexp(value, -level)) for value in values]
    assert (low, high) == (min(numbers), max(numbers))
    assert high - low < NUM_BINS
    expected = torch.zeros(NUM_BINS, dtype=torch.int32)
    for number in numbers:
        expected[number % NUM_BINS] += 1
    assert found.counts[0].equal(expected)
    # The finest level that fits: one finer would not, or would number its bins beyond 2^41.
    finer = [math.floor(math.ldexp(value, 1 - level)) for value in values]
    assert max(finer) - min(finer) >= NUM_BINS or max(map(abs, finer)) >= 2**40 or level <= -1000


def pair(case: str) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = cloud(700, 6, seed=1), cloud(500, 6, seed=2)
    return {
        "one law": (x, y),
        "shifted": (x, y + 0.5),
        "scaled": (x, 3 * y),
        "far away": (x + 1e6, y + 1e6),
        "tiny": (x * 1e-9, y * 1e-9),
        "outlier": (torch.cat([x, 200 * torch.ones(1, 6)]), y),
        "constant": (torch.ones(9, 6), torch.ones(5, 6) * 2),
        "the same constant": (torch.ones(9, 6), torch.ones(5, 6)),
        "zero": (torch.zeros(3, 6), torch.zeros(3, 6)),
        "one sample": (x[:1], y[:1]),
        "discrete": (x.round(), y.round()),
        "heavy tails": (x**5, y**5),
    }[case]


CASES = (
    *("one law", "shifted", "scaled", "far away", "tiny", "outlier", "constant"),
    *("the same constant", "zero", "one sample", "discrete", "heavy tails"),
)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", CASES)
def test_the_bounds_hold_the_unsketched_cost(case: str, order: float) -> None:
    real, fake = (features.double() for features in pair(case))
    directions = random_directions(6, 50, generator=torch.Generator().manual_seed(0))
    exact = Sliced(order=order).solve(real, fake, directions=directions)
    sketches = (sketch((features @ directions).T) for features in (real, fake))
    found = sketched_result(*sketches, order)
    slack = 1e-9 * (1 + exact.cost)  # rounding, where the interval has no width
    assert found.lower_bound - slack <= exact.cost <= found.upper_bound + slack
    assert found.lower_bound <= found.cost <= found.upper_bound
    assert torch.isfinite(found.standard_error)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", [case for case in CASES if "constant" not in case])
def test_with_controls_cost_and_error_are_those_of_sliced(case: str, order: float) -> None:
    """And the bounds hold the cost that `Sliced` finds along the same directions.

    Of constant features the variances that `Sliced` takes as controls are rounding, no numbers.
    """
    real, fake = (features.double() for features in pair(case))
    solver = Sliced(order=order, num_projections=96)
    exact = solver.solve(real, fake)
    directions = random_directions(6, 96, generator=direction_generator(0))
    sketches = (sketch((features @ directions).T) for features in (real, fake))
    moments = [(side.mean(0), torch.cov(side.T, correction=0)) for side in (real, fake)]
    found = sketched_result(
        *sketches,
        order,
        block=block_size(6, 96),
        controls=controls_of_moments(directions.T.contiguous(), moments),
    )
    slack = 1e-9 * (1 + exact.cost)
    assert found.lower_bound - slack <= exact.cost <= found.upper_bound + slack
    assert found.lower_bound <= found.cost <= found.upper_bound
    assert found.direction_errors.square().sum() >= 0
    if case in {"one law", "shifted", "scaled", "heavy tails"}:
        assert found.value.item() == pytest.approx(exact.value.item(), rel=2e-3)
        assert found.standard_error.item() == pytest.approx(
            exact.standard_error.item(), rel=0.1, abs=1e-4 * exact.value.item()
        )


@pytest.mark.parametrize("order", ORDERS)
def test_error_is_far_below_one_percent_between_samples_of_one_law(order: float) -> None:
    """The smallest distance that N samples can have, so the largest relative error."""
    scales = torch.linspace(0.1, 3, 8, dtype=torch.float64)
    real, fake = cloud(100_000, 8, seed=3) * scales, cloud(90_000, 8, seed=4) * scales
    directions = random_directions(8, 16, generator=torch.Generator().manual_seed(0))
    exact = Sliced(order=order).solve(real, fake, directions=directions)
    sketches = [
        streamed((x @ directions).T, [10_000] * 9 + [len(x) - 90_000] * (len(x) > 90_000))
        for x in (real, fake)
    ]
    found = sketched_result(*sketches, order)
    assert found.value.item() == pytest.approx(exact.value.item(), rel=0.01)
    # The directions are the given ones, but their spread is that of the exact slices.
    assert found.standard_error > 0


def test_against_a_closed_form_of_uniform_bins() -> None:
    """Evenly spread mass on [0, 1) against [2, 6): W_p^p = int |2 + 3 t|^p dt."""
    real = (torch.arange(2**14, dtype=torch.float64) + 0.5)[None] / 2**14
    fake = 2 + 4 * real
    for order in ORDERS:
        expected = (5 ** (order + 1) - 2 ** (order + 1)) / (3 * (order + 1))
        found = sketched_result(sketch(real), sketch(fake), order)
        assert found.cost.item() == pytest.approx(expected, rel=1e-6)


def test_crossing_quantile_functions() -> None:
    """[-1, 1) against a point at 0: the difference changes its sign within an interval."""
    real = ((torch.arange(2**13, dtype=torch.float64) + 0.5)[None] / 2**12) - 1
    point = torch.zeros(1, 1, dtype=torch.float64)
    for order in ORDERS:
        found = sketched_result(sketch(real), sketch(point), order)
        assert found.cost.item() == pytest.approx(1 / (order + 1), rel=1e-5)


def test_state_does_not_grow() -> None:
    small, large = sketch(cloud(4, 10)), sketch(cloud(4, 100_000))
    assert [part.shape for part in small] == [part.shape for part in large]
    assert 2 * 1024 * (NUM_BINS * 4 + 3 * 8) < 64e6


def test_too_many_samples_are_refused() -> None:
    one = sketch(torch.zeros(1, 1, dtype=torch.float64))
    full = Sketch(one.counts * (2**31 - 1), one.window)
    with pytest.raises(ValueError, match="at most 2147483647 samples"):
        merged_sketches(full, one)


@pytest.mark.parametrize("order", ORDERS)
def test_a_tenth_of_the_bounds_would_not_hold(order: float) -> None:
    """All but two samples are at one edge of a bin: the histogram moves them by half of it."""
    ends = torch.tensor([-4096.0, 4095.0], dtype=torch.float64)
    real = torch.cat([torch.zeros(4000, dtype=torch.float64), ends])[None]
    fake = real + 10_000 + torch.arange(4002) * 1e-3  # bins of another level
    result = sketched_result(sketch(real), sketch(fake), order)

    cost = (fake.sort().values - real.sort().values).abs().pow(order).mean()
    assert result.lower_bound <= cost <= result.upper_bound
    off = abs(float(result.cost - cost))
    assert off > float(result.upper_bound - result.lower_bound) / 20
