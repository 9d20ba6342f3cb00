"""The extended map: naive in float64, breaks that no sample crosses, units, what is refused."""

import math
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from cases import cloud
from torch import Tensor

from otmetrics import SemiDiscrete
from otmetrics.functional import extended_map, neighbour_angles
from otmetrics.transport.semidiscrete.extended_map import face_normals
from otmetrics.transport.semidiscrete.sources import SOURCES, random_samples, second_moment


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(num: int, dimension: int, source: str = "cube", seed: int = 5) -> Tensor:
    return random_samples(source, dimension, num, generator=seeded(seed))


def clusters(num: int = 4, size: int = 4) -> tuple[Tensor, Tensor]:
    """Tight clusters on a circle, and which point belongs to which."""
    turns = torch.arange(num).double() * (2 * math.pi / num)
    centres = torch.stack([turns.cos(), turns.sin()], 1)
    labels = torch.arange(num).repeat_interleave(size)
    return centres[labels] + 0.02 * cloud(num * size, 2, seed=3), labels


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("rule", ["two-face", "inverse-distance"])
def test_it_is_the_formula(rule: str, source: str) -> None:
    points, samples = cloud(25, 3, seed=1), drawn(200, 3, source)
    result = SemiDiscrete(source=source, tolerance=0.5).solve(points)
    limit = neighbour_angles(points, num_neighbors=1, source=source).median().item()
    options: dict[str, Any] = {"rule": rule, "max_angle": limit, "num_faces": 6}
    options["share"] = 0.3 if rule == "two-face" else 0.0
    found = extended_map(
        samples, points, result.heights, centres=result.centres, source=source, **options
    )
    codes, kept, angles = oracles.extended_map(
        samples.numpy(),
        points.numpy(),
        result.heights.numpy(),
        result.centres.numpy(),
        moment=second_moment(source, 3),
        **options,
    )
    assert 0.1 < kept.mean() < 0.99  # both happen
    assert np.array_equal(found.kept.numpy(), kept)
    np.testing.assert_allclose(found.codes.numpy(), codes, atol=1e-12)
    np.testing.assert_allclose(found.angles.numpy(), angles, atol=1e-12)
    torch.testing.assert_close(found.shares.sum(1), torch.ones(len(codes)).double())
    mixed = (found.shares[:, :, None] * points[found.faces]).sum(1)
    torch.testing.assert_close(mixed, found.codes)


@pytest.mark.parametrize("rule", ["two-face", "inverse-distance"])
def test_no_sample_crosses_a_break(rule: str) -> None:
    """With the angle all faces of a sample are of one cluster, without it many are of two."""
    points, labels = clusters()
    result = SemiDiscrete(tolerance=0.3).solve(points)
    samples = drawn(2000, 2)
    crossing = {}
    for angle in (0.0, 0.3):
        found = extended_map(
            samples,
            points,
            result.heights,
            centres=result.centres,
            max_angle=angle,
            num_faces=5,
            rule=rule,
        )
        used = labels[found.faces].where(found.shares > 0, labels[found.faces[:, :1]])
        crossing[angle] = (used != used[:, :1]).any(1).double().mean().item()
        distances = torch.cdist(found.codes, points).min(1).values
        if angle:
            assert distances.max() < 0.2
            assert found.kept.double().mean() > 0.9
            assert set(labels[found.faces[:, 0]].tolist()) == {0, 1, 2, 3}
        else:
            assert found.kept.all()
            assert distances.max() > 0.3
    assert crossing[0.3] == 0
    assert crossing[0.0] > 0.005


def test_neighbour_angles_are_those_of_the_nearest_planes() -> None:
    points = cloud(60, 4, seed=2)
    whole = np.sort(oracles.face_angles(points.numpy(), second_moment("cube", 4)), axis=1)
    for k in (1, 5, 59):
        found = neighbour_angles(points, num_neighbors=k)
        np.testing.assert_allclose(found.numpy(), whole[:, k], atol=1e-12)
    torch.testing.assert_close(neighbour_angles(points, num_neighbors=99), found)
    nearest = neighbour_angles(points)
    torch.testing.assert_close(neighbour_angles(points, memory_limit=500), nearest)
    torch.testing.assert_close(neighbour_angles(7 * points - 3), nearest, rtol=1e-9, atol=0)
    twice = neighbour_angles(torch.cat([points, points[:1]]), num_neighbors=1)
    assert (twice == 0).nonzero().flatten().tolist() == [0, 60]
    tiny = torch.tensor([[0.0, 0.0], [1e-7, 0.0], [1.0, 0.0]], dtype=torch.float64)
    assert 0 < neighbour_angles(tiny, num_neighbors=1)[0] < 1e-6
    with pytest.raises(ValueError, match="`num_neighbors` must be"):
        neighbour_angles(points, num_neighbors=0)


def test_a_limit_for_each_face() -> None:
    """One number is that number for all; a face whose limit is tiny sends nothing on."""
    points = cloud(20, 2, seed=6)
    heights = SemiDiscrete(tolerance=0.5).solve(points).heights
    samples = drawn(500, 2)
    whole = extended_map(samples, points, heights, max_angle=0.7)
    limits = torch.full((20,), 0.7, dtype=torch.float64)
    each = extended_map(samples, points, heights, max_angle=limits)
    assert torch.equal(whole.codes, each.codes)
    limits[3] = 1e-9
    less = extended_map(samples, points, heights, max_angle=limits)
    assert 3 in whole.faces[:, 0]
    assert 3 not in less.faces[:, 0]
    assert 3 in less.faces[:, 1:]


def test_units_do_not_matter() -> None:
    points = cloud(30, 3, seed=4)
    result = SemiDiscrete(tolerance=0.5).solve(points)
    samples = drawn(300, 3)
    options: dict[str, Any] = {"max_angle": 0.8, "rule": "inverse-distance"}
    one = extended_map(samples, points, result.heights, centres=result.centres, **options)
    # Planes over 5 p + 1 are five times as high, and higher by <x, 1> everywhere.
    two = extended_map(
        samples, 5 * points + 1, 5 * result.heights, centres=result.centres, **options
    )
    assert torch.equal(one.kept, two.kept)
    torch.testing.assert_close(5 * one.codes + 1, two.codes)


def test_shares() -> None:
    points = cloud(30, 2, seed=4)
    heights = SemiDiscrete(tolerance=0.5).solve(points).heights
    samples = drawn(4000, 2)
    fixed = extended_map(samples, points, heights, share=0.75)
    assert fixed.shares[:, 0].unique().tolist() == [0.25]
    assert fixed.shares[:, 1].unique().tolist() == [0.75]
    assert not fixed.shares[:, 2:].any()
    uniform = extended_map(samples, points, heights, generator=seeded(1)).shares[:, 1]
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.02)
    assert uniform.var().item() == pytest.approx(1 / 12, abs=0.01)
    again = extended_map(samples, points, heights, generator=seeded(1)).shares[:, 1]
    assert torch.equal(uniform, again)
    other = extended_map(samples, points, heights, generator=seeded(2)).shares[:, 1]
    assert not torch.equal(uniform, other)


def test_faces_of_empty_cells_have_no_share_by_distance() -> None:
    points = cloud(10, 2, seed=4)
    result = SemiDiscrete(tolerance=0.5).solve(points)
    centres = result.centres.clone()
    centres[2] = float("nan")
    samples = drawn(400, 2)
    found = extended_map(samples, points, result.heights, centres=centres, rule="inverse-distance")
    assert found.codes.isfinite().all()
    assert not found.shares[found.faces == 2].any()


def test_float32_and_blocks() -> None:
    points = cloud(40, 3, seed=7)
    heights = SemiDiscrete(tolerance=0.5).solve(points).heights
    samples = drawn(300, 3)
    whole = extended_map(samples, points, heights, max_angle=0.8)
    parts = extended_map(samples, points, heights, max_angle=0.8, memory_limit=1000)
    torch.testing.assert_close(whole.codes, parts.codes)
    normals = face_normals(points)
    again = extended_map(samples, points, heights, max_angle=0.8, normals=normals)
    assert torch.equal(again.codes, whole.codes)
    single = extended_map(samples.float(), points.float(), heights, max_angle=0.8)
    assert single.codes.dtype == torch.float32
    assert torch.equal(single.kept, whole.kept)
    torch.testing.assert_close(single.codes.double(), whole.codes, rtol=1e-4, atol=1e-5)


def test_centres_are_those_of_the_cells() -> None:
    """On the line cells are intervals, in the plane polygons."""
    points = torch.tensor([[-1.0], [0.2], [2.0]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    found = SemiDiscrete(tolerance=0.02).solve(points, weights=weights)
    expected = torch.tensor([[-0.25], [0.15], [0.4]], dtype=torch.float64)
    torch.testing.assert_close(found.centres, expected, atol=3e-3, rtol=0)
    plane = SemiDiscrete(tolerance=0.05).solve(cloud(9, 2, seed=2))
    # The source's own mean is 0.
    torch.testing.assert_close(
        plane.volumes @ plane.centres, torch.zeros(2).double(), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"source": "disc"}, ValueError, "`source` must be one of"),
        ({"rule": "nearest"}, ValueError, "`rule` must be one of two-face, inverse-distance"),
        ({"max_angle": -0.1}, ValueError, "`max_angle` must be"),
        ({"max_angle": torch.ones(2)}, ValueError, "`max_angle` must"),
        ({"num_faces": 1}, ValueError, "`num_faces` must be an integer >= 2"),
        ({"share": 1.5}, ValueError, "`share` must be at most 1"),
        ({"share": -0.5}, ValueError, "`share` must be"),
        ({"rule": "inverse-distance"}, ValueError, "`centres` must have shape"),
        ({"memory_limit": 0}, ValueError, "`memory_limit` must be"),
        ({"heights": torch.zeros(2)}, ValueError, "`heights` must have shape"),
        ({"heights": torch.full((3,), math.nan)}, ValueError, "`heights` must be finite"),
        ({"normals": torch.zeros(3, 2)}, ValueError, "`normals` must be those of `points`"),
        ({"rule": "inverse-distance", "share": 0.5}, ValueError, "`share` must be 0 for inverse"),
        ({"points": torch.zeros(1, 2)}, ValueError, "M >= 2"),
        (
            {"samples": torch.zeros(4, 3)},
            ValueError,
            "`samples` and `points` must have the same number",
        ),
        ({"samples": torch.zeros(4, 2, dtype=torch.int64)}, TypeError, "`samples`"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type, message: str) -> None:
    given: dict[str, Any] = {
        "samples": torch.zeros(4, 2),
        "points": torch.eye(3)[:, :2],
        "heights": torch.zeros(3),
    }
    with pytest.raises(error, match=message):
        extended_map(**(given | options))


def test_one_point_has_no_neighbour() -> None:
    with pytest.raises(ValueError, match="M >= 2"):
        neighbour_angles(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="`source`"):
        neighbour_angles(torch.eye(2), source="disc")
