"""Semi-discrete transport against the line, polygons, dense samples, and itself in other units."""

import dataclasses
import math
import warnings
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from cases import cloud
from torch import Tensor

from otmetrics import Exact
from otmetrics.errors import ConvergenceWarning
from otmetrics.functional import (
    SemiDiscreteResult,
    SemiDiscreteStart,
    laguerre_cells,
)
from otmetrics.transport.semidiscrete.semidiscrete import SemiDiscrete
from otmetrics.transport.semidiscrete.sources import (
    SOURCES,
    random_samples,
    sample_parts,
    second_moment,
    source_samples,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shares(size: int, seed: int = 0) -> Tensor:
    weights = 0.5 + torch.rand(size, generator=seeded(seed), dtype=torch.float64)
    return weights / weights.sum()


def solve(
    points: Tensor,
    weights: Tensor | None = None,
    start: SemiDiscreteStart | None = None,
    **options: Any,
) -> SemiDiscreteResult:
    return SemiDiscrete(**options).solve(points, weights=weights, start=start)


# --- sources ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("dimension", [1, 2, 7])
def test_sources_have_their_moments(source: str, dimension: int) -> None:
    samples = source_samples(source, dimension, 2**14, generator=seeded())
    assert samples.dtype == torch.float64
    assert samples.mean(0).abs().max() < 5e-3
    second = samples.square().sum(1).mean().item()
    assert second == pytest.approx(second_moment(source, dimension), rel=5e-3)
    covariance = samples.T @ samples / len(samples)
    expected = torch.eye(dimension).double() * second_moment(source, dimension) / dimension
    torch.testing.assert_close(covariance, expected, atol=0.02 * expected.max().item(), rtol=0)


def test_sources_stay_in_their_support() -> None:
    assert source_samples("cube", 5, 1000, generator=seeded()).abs().max() <= 0.5
    lengths = source_samples("ball", 5, 4096, generator=seeded()).norm(dim=1)
    assert lengths.max() <= 1
    # |x|^D is uniform.
    quantiles = (lengths**5).quantile(torch.tensor([0.25, 0.5, 0.75]).double())
    assert quantiles.tolist() == pytest.approx([0.25, 0.5, 0.75], abs=0.01)


@pytest.mark.parametrize("drawn", [source_samples, random_samples])
def test_a_source_has_a_name(drawn: Any) -> None:
    with pytest.raises(ValueError, match="`source` must be one of cube, ball, gaussian, got 'no'"):
        drawn("no", 3, 10, generator=seeded())


def test_parts_are_the_whole_and_calls_are_fresh() -> None:
    whole = source_samples("gaussian", 3, 1000, generator=seeded(5))
    parts = list(sample_parts("gaussian", 3, 1000, 300, generator=seeded(5)))
    assert [len(part) for part in parts] == [300, 300, 300, 100]
    assert torch.equal(torch.cat(parts), whole)
    generator = seeded(5)
    source_samples("gaussian", 3, 1000, generator=generator)
    assert not torch.equal(source_samples("gaussian", 3, 1000, generator=generator), whole)


# --- closed forms and other ways --------------------------------------------------------------


def test_on_the_line_cells_are_intervals() -> None:
    points = torch.tensor([[2.0], [-1.0], [0.5], [4.0]], dtype=torch.float64)
    weights = torch.tensor([0.3, 0.2, 0.4, 0.1], dtype=torch.float64)
    found = solve(points, weights=weights, tolerance=0.02)
    order = points[:, 0].argsort()
    p, ends = points[order, 0], weights[order].cumsum(0) - 0.5
    # Neighbours are equally high where their intervals meet.
    heights = torch.cat([p.new_zeros(1), -(ends[:-1] * p.diff()).cumsum(0)])
    heights = heights - weights[order] @ heights
    torch.testing.assert_close(found.heights[order], heights, atol=4e-3, rtol=0)
    begins = torch.cat([p.new_tensor([-0.5]), ends[:-1]])
    cost = (((ends - p) ** 3 - (begins - p) ** 3) / 3).sum().item()
    assert found.cost.item() == pytest.approx(cost, abs=6 * found.standard_error.item() + 1e-4)
    assert found.value.item() == pytest.approx(math.sqrt(cost), rel=1e-3)
    assert found.converged
    assert found.residual <= 0.02
    moments = 1 / 12 + (weights @ points[:, 0].square()).item()
    assert found.cost.item() == pytest.approx(moments - 2 * found.energy.item(), abs=1e-3)


def test_in_the_plane_cells_are_the_polygons_of_the_power_diagram() -> None:
    points, weights = cloud(12, 2, seed=3), shares(12)
    found = solve(points, weights=weights, tolerance=0.05)
    assert found.converged
    areas = oracles.power_areas(points.numpy(), found.heights.numpy())
    assert areas.sum() == pytest.approx(1, abs=1e-12)
    error = np.abs(areas - found.volumes.numpy())
    assert (error < 5 * found.volume_errors.numpy()).all()
    assert np.abs(areas / weights.numpy() - 1).max() < 0.06


@pytest.mark.parametrize("source", SOURCES)
def test_it_is_the_limit_of_exact_transport(source: str) -> None:
    """A dense sample of the source costs what the source does, but for its own distance to it."""
    points, weights = 2 * cloud(30, 3, seed=1) + 1, shares(30)
    found = solve(points, weights=weights, source=source, tolerance=0.1)
    samples = source_samples(source, 3, 8192, generator=seeded(9))
    dense = Exact().solve(samples, points, fake_weights=weights).cost.item()
    assert found.cost.item() == pytest.approx(dense, rel=5e-3)
    # No heights have a larger dual value; those found are near it.
    assert found.cost.item() <= dense * (1 + 2e-3) + 4 * found.standard_error.item()


def test_the_map_sends_each_share_to_its_point() -> None:
    points = cloud(40, 5, seed=2)
    found = solve(points, source="ball", tolerance=0.2)
    samples = source_samples("ball", 5, 40_000, generator=seeded(77))
    cells = laguerre_cells(samples, points, found.heights)
    naive = (samples[:50, None] * points).sum(-1) + found.heights
    assert torch.equal(cells[:50], naive.argmax(1))
    counts = cells.bincount(minlength=40).double() / 40_000
    noise = (1 / 40 / 40_000) ** 0.5
    assert (counts - found.volumes).abs().max() < 5 * noise + 5 * found.volume_errors.max()
    small = laguerre_cells(samples, points, found.heights, memory_limit=4000)
    assert torch.equal(small, cells)
    with pytest.raises(ValueError, match="`memory_limit` must be"):
        laguerre_cells(samples, points, found.heights, memory_limit=-1)
    with pytest.raises(ValueError, match="`heights` must have shape"):
        laguerre_cells(samples, points, found.heights[:3])
    with pytest.raises(ValueError, match="`samples` and `points` must have the same number"):
        laguerre_cells(samples[:, :2], points, found.heights)


def test_rounds_fit_what_first_heights_do_not() -> None:
    """256 tight clusters in 16 dimensions, from the normal law."""
    centres = 3 * cloud(32, 16, seed=4)
    points = (centres[:, None] + 0.05 * cloud(256, 16, seed=5).view(32, 8, 16)).flatten(0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        first = solve(points, source="gaussian", max_rounds=0)
    found = solve(points, source="gaussian")
    assert found.num_iterations > 0
    assert found.converged
    assert found.residual < first.residual
    assert found.num_empty == 0
    # The heights minimise the energy.
    noise = found.standard_error + first.standard_error
    assert found.energy <= first.energy + 3 * noise


def test_rounds_one_by_one_are_those_at_once() -> None:
    """Also of points that are equal, whose heights are merged."""
    points = cloud(30, 4, seed=1)
    points = torch.cat([points, points[:3]])
    options: dict[str, Any] = {"tolerance": 0.015, "max_samples": 2**20}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        whole = solve(points, **options, max_rounds=2)
        found = solve(points, **options, max_rounds=0)
        assert found.start.num_iterations == 0
        for rounds in (1, 2):
            found = solve(points, **options, max_rounds=rounds, start=found.start)
            assert found.num_iterations == 60 * rounds
    assert whole.num_iterations == 120
    torch.testing.assert_close(found.heights, whole.heights)
    torch.testing.assert_close(found.cost, whole.cost)
    assert found.rate == pytest.approx(whole.rate)
    solver = SemiDiscrete(tolerance=0.5, max_rounds=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        more = solver.solve(points, start=SemiDiscrete(max_rounds=0).solve(points).start)
    assert more.num_iterations == 60


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ((torch.zeros(30), 0.1, 180), "`max_rounds` must be above the 3 of `start`, got 3"),
        ((torch.zeros(29), 0.1, 60), "`start` must have a height for each of 30 points"),
        ((torch.full((30,), math.nan), 0.1, 60), "`start` must have finite heights"),
        ((torch.zeros(30), -0.1, 60), "`start` must have finite heights, a rate >= 0"),
        ((torch.zeros(30), 0.1, 7), "whole rounds of 60 steps, got rate 0.1 and 7 steps"),
    ],
)
def test_a_start_is_that_of_a_result(start: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(cloud(30, 4, seed=1), max_rounds=3, start=SemiDiscreteStart(*start))


def test_a_result_is_no_start() -> None:
    points = cloud(30, 4, seed=1)
    result: Any = solve(points, tolerance=0.5)
    with pytest.raises(TypeError, match=r"pass `result\.start`"):
        solve(points, start=result)


def test_steps_end_where_the_misfit_is_noise() -> None:
    """Few samples cannot tell whether cells fit to the tolerance; more rounds would not help."""
    points = cloud(60, 6, seed=1)
    with pytest.warns(ConvergenceWarning, match="raise `max_samples` or `tolerance`"):
        found = solve(points, tolerance=0.02, max_samples=8192, max_rounds=50)
    assert found.num_iterations < 600
    assert 0.02 < found.residual <= found.residual_error
    assert not found.converged


# --- other units, equal points, seeds ---------------------------------------------------------


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 4.0), (3.0, -1.0), (1e-3, 0.0)])
def test_units_of_the_points(factor: float, shift: float) -> None:
    """W_2^2 to s p + c is (1 - s) E|x|^2 + s W_2^2 to p + ... by the same heights, times s."""
    points = cloud(20, 2, seed=6)
    points = points - points.mean(0)
    base = solve(points, tolerance=0.2)
    found = solve(factor * points + shift, tolerance=0.2)
    torch.testing.assert_close(found.heights, factor * base.heights, rtol=1e-6, atol=1e-9)
    moment = points.square().sum(1).mean()
    expected = 2 / 12 + factor**2 * moment + 2 * shift**2 - 2 * factor * base.energy
    assert found.cost.item() == pytest.approx(expected.item(), rel=2e-3)


def test_equal_points_share_a_cell() -> None:
    points = cloud(6, 2, seed=7)
    twice = torch.cat([points, points[:2]])
    weights = shares(8)
    found = solve(twice, weights=weights, tolerance=0.1)
    merged = weights[:6] + torch.cat([weights[6:], weights.new_zeros(4)])
    alone = solve(points, weights=merged, tolerance=0.1)
    torch.testing.assert_close(found.heights[:6], alone.heights)
    torch.testing.assert_close(found.heights[6:], found.heights[:2])
    ratio = weights[6:] / weights[:2]
    torch.testing.assert_close(found.volumes[6:] / found.volumes[:2], ratio)
    assert found.volumes.sum().item() == pytest.approx(1)
    torch.testing.assert_close(found.cost, alone.cost)


def test_one_point_has_it_all() -> None:
    found = solve(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    assert found.volumes.tolist() == [1.0]
    assert found.cost.item() == pytest.approx(2 / 12 + 25, rel=1e-3)
    assert found.converged


def test_one_seed_one_result() -> None:
    points = cloud(25, 3, seed=8)
    one, two = (solve(points, seed=4) for _ in range(2))
    assert torch.equal(one.heights, two.heights)
    assert torch.equal(one.cost, two.cost)
    other = solve(points, seed=5)
    assert not torch.equal(one.heights, other.heights)
    assert other.cost.item() == pytest.approx(one.cost.item(), rel=0.01)
    before = torch.random.get_rng_state()
    solve(points)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_value_is_that_of_the_result() -> None:
    points = cloud(15, 2, seed=8)
    assert torch.equal(SemiDiscrete(seed=3)(points), SemiDiscrete(seed=3).solve(points).value)
    assert SemiDiscrete(source="ball") == SemiDiscrete("ball")


def test_float32_points() -> None:
    points = cloud(30, 4, seed=9)
    found = solve(points.float())
    assert found.cost.dtype == torch.float32
    assert found.heights.dtype == torch.float64
    assert found.cost.item() == pytest.approx(solve(points).cost.item(), rel=1e-3)


# --- what is said -----------------------------------------------------------------------------


def test_the_noise_of_volumes_is_as_stated() -> None:
    """Of cells that fit exactly, the largest misfit stays below the stated noise."""
    points = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    found = solve(points, tolerance=0.2)
    ends = torch.arange(1, 20).double() / 20 - 0.5
    heights = torch.cat([ends.new_zeros(1), -(ends * points[:, 0].diff()).cumsum(0)])
    below = 0
    for seed in range(40):
        samples = torch.rand(found.num_samples, 1, generator=seeded(seed)).double() - 0.5
        counts = laguerre_cells(samples, points, heights).bincount(minlength=20).double()
        below += float((counts * 20 / found.num_samples - 1).abs().max()) < found.residual_error
    assert below >= 34  # 38 of 40 are expected


def test_what_does_not_fit_is_said() -> None:
    with pytest.warns(ConvergenceWarning, match="raise `max_samples`"):
        found = solve(cloud(60, 6, seed=1), max_samples=4096, max_rounds=0)
    assert not found.converged
    assert found.residual > 0.25
    assert found.num_samples == 4096
    assert "not within `tolerance` 0.25" in found.message


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"source": "disc"},
            ValueError,
            "`source` must be one of cube, ball, gaussian, got 'disc'",
        ),
        ({"seed": -1}, ValueError, "`seed`"),
        ({"tolerance": 0.0}, ValueError, "`tolerance` must be"),
        ({"max_samples": 10}, ValueError, "`max_samples` must be"),
        ({"max_rounds": -1}, ValueError, "`max_rounds` must be"),
        ({"memory_limit": 0}, ValueError, "`memory_limit` must be"),
        ({"weights": torch.tensor([1.0, 0.0])}, ValueError, "`weights` must be > 0"),
        ({"weights": torch.ones(3)}, ValueError, "`weights` must have shape"),
        ({"points": torch.zeros(3)}, ValueError, "`points` must have shape"),
        ({"points": torch.zeros(2, 2, dtype=torch.int64)}, TypeError, "`points`"),
        ({"points": torch.tensor([[math.nan], [0.0]])}, ValueError, "`points`"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type, message: str) -> None:
    if options.keys() <= {field.name for field in dataclasses.fields(SemiDiscrete)}:
        with pytest.raises(error, match=message):  # when the solver is made, not when it is used
            SemiDiscrete(**options)
    points = options.pop("points", torch.tensor([[0.0], [1.0]]))
    with pytest.raises(error, match=message):
        solve(points, **options)
