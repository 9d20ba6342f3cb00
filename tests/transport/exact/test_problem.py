"""Equal points taken together, points without weight left out: the plan is between points again."""

import numpy as np
import oracles
import pytest
import torch
from cases import ORDERS, cloud, weights
from hypothesis import given
from hypothesis import strategies as st

from otmetrics import Exact
from otmetrics.functional import exact_transport
from otmetrics.transport import costs
from otmetrics.transport.exact import problem
from otmetrics.transport.exact.certificate import Units
from otmetrics.transport.exact.problem import place_weights, spread, supports


def repeated(places: int, size: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return cloud(places, d, seed=seed)[torch.randint(places, (size,), generator=generator)]


def test_places_and_their_weights() -> None:
    points = torch.tensor([[1.0, 2.0], [3.0, 0.0], [1.0, 2.0], [0.0, 3.0], [-0.0, 3.0], [9.0, 9.0]])
    a = torch.tensor([1, 2, 3, 1, 1, 0], dtype=torch.float64) / 8
    rows, columns = supports(points, points[:2], a, torch.full((2,), 0.5).double())
    assert rows.ids.tolist() == [0, 1, 3]
    assert rows.places.tolist() == [0, 1, 0, 2, 2]
    assert (rows.points.tolist(), rows.others.tolist()) == ([0, 1, 2, 3, 4], [5])
    assert columns.ids.tolist() == [0, 1]
    found = place_weights(rows, columns)
    assert (found.real / found.total).tolist() == [0.5, 0.25, 0.25]
    assert (found.fake / found.total).tolist() == [0.5, 0.5]


@given(
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    places=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    weighted=st.booleans(),
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 10**6),
)
def test_repeated_points(
    sizes: tuple[int, int], places: tuple[int, int], weighted: bool, order: float, seed: int
) -> None:
    x, y = (repeated(places[k], sizes[k], 2, seed + k) for k in (0, 1))
    a, b = (weights(len(side), seed=seed) if weighted else None for side in (x, y))
    result = Exact(order=order).solve(x, y, real_weights=a, fake_weights=b)
    masses = [
        oracles.uniform(len(side)) if given is None else (given / given.sum()).numpy()
        for side, given in ((x, a), (y, b))
    ]
    cost = oracles.costs(x.numpy(), y.numpy(), order)
    truth = oracles.transport(cost, *masses)[0]
    assert result.cost.item() == pytest.approx(truth, rel=1e-9, abs=1e-12)
    assert result.converged
    plan = result.plan.to_dense().numpy()
    np.testing.assert_allclose(plan.sum(1), masses[0], rtol=0, atol=1e-14)
    np.testing.assert_allclose(plan.sum(0), masses[1], rtol=0, atol=1e-14)
    assert (plan * cost).sum() == pytest.approx(truth, rel=1e-9, abs=1e-12)
    f, g = (potential.numpy() for potential in result.potentials)
    assert (f[:, None] + g <= cost + 1e-9).all()
    given_costs = exact_transport(torch.from_numpy(cost), a, b)
    assert given_costs.cost.item() == pytest.approx(truth, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("size", [40, 1000])
def test_repeated_points_are_assigned_one_to_one(size: int) -> None:
    x, y = repeated(7, size, 3, 1), repeated(5, size, 3, 2)
    columns = Exact().solve(x, y).assignment
    assert columns is not None
    assert columns.sort().values.tolist() == list(range(size))


def test_repeated_points_are_one_point_to_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """7 places against 5, not 1000 points against 1000."""
    shapes = []

    def solve(cost: torch.Tensor, weights: Units) -> problem.Optimum:
        shapes.append(tuple(cost.shape))
        return real_solver(cost, weights)

    real_solver = problem.dense_optimum
    monkeypatch.setattr(problem, "dense_optimum", solve)
    Exact().solve(repeated(7, 1000, 3, 1), repeated(5, 1000, 3, 2))
    assert shapes == [(7, 5)]


def test_masses_that_rounding_changed_stay_at_their_places() -> None:
    """A plan that is off by some 1e-13 pairs no point with the points of another place."""
    x, y = repeated(3, 9, 2, 1), repeated(4, 9, 2, 2)
    rows, columns = supports(
        x, y, weights(9, seed=1) / weights(9, seed=1).sum(), torch.full((9,), 1 / 9).double()
    )
    found = place_weights(rows, columns)
    moved = problem.dense_optimum(cloud(3, 4, seed=3), found)
    noise = 1 + 1e-13 * cloud(len(moved.masses), 1, seed=4)[:, 0]
    plan = spread(moved._replace(masses=moved.masses * noise), rows, columns, found.total)
    given = set(zip(moved.rows.tolist(), moved.columns.tolist(), strict=True))
    places = rows.places[plan.rows], columns.places[plan.columns]
    assert set(zip(*(side.tolist() for side in places), strict=True)) <= given
    assert plan.masses.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("far", [0.0, 5.0])
@pytest.mark.parametrize("block", [2**21, 1000])
def test_potentials_of_points_without_weight_fit(
    order: float, far: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """f + g <= C up to the last digit of f and g, in one block of costs or in many."""
    monkeypatch.setattr(costs, "_BLOCK", block)
    x, y = cloud(200, 3, seed=1) + far, cloud(150, 3, seed=2) + far
    a, b = ((torch.arange(len(side)) < 40).double() for side in (x, y))
    potentials = Exact(order=order).solve(x, y, real_weights=a, fake_weights=b).potentials
    assert potentials is not None
    f, g, u, v = (side.numpy().astype(np.longdouble) for side in (*potentials, x, y))
    slack = np.sqrt(((u[:, None] - v) ** 2).sum(-1)) ** order - f[:, None] - g
    slack[:40, :40] = np.inf
    last_digit = np.finfo(float).eps * np.maximum(abs(f[:, None]), abs(g))
    assert (slack >= -last_digit).all()
    assert max(slack[40:].min(1).max(), slack[:, 40:].min(0).max()) < 1e-12
