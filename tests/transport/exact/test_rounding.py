"""The interval against rational arithmetic, and at the edge of what float64 holds."""

import itertools
from fractions import Fraction

import pytest
import torch
from cases import cloud
from hypothesis import given
from hypothesis import strategies as st

from otmetrics import Exact
from otmetrics.functional import exact_transport
from otmetrics.transport.costs import Cloud, CloudPairs
from otmetrics.transport.exact import problem
from otmetrics.transport.exact.certificate import c_transform


def squared(x: torch.Tensor, y: torch.Tensor) -> list[list[Fraction]]:
    """Squared distances without rounding."""
    rows, columns = (
        [[Fraction(value) for value in point] for point in side.tolist()] for side in (x, y)
    )
    return [[sum((p - q) ** 2 for p, q in zip(r, c, strict=True)) for c in columns] for r in rows]


@pytest.mark.parametrize("way", ["few", "kept costs", "blocks"])
@given(
    n=st.integers(2, 5),
    d=st.integers(2, 9),
    far=st.sampled_from([0, 10, 1e5]),
    seed=st.integers(0, 10**6),
)
def test_assignments(way: str, n: int, d: int, far: float, seed: int) -> None:
    x, y = cloud(n, d, seed=seed), cloud(n, d, seed=seed + 1) + far
    cost = squared(x, y)
    orders = itertools.permutations(range(n))
    truth = min(sum(cost[i][j] for i, j in enumerate(order)) for order in orders) / n
    with pytest.MonkeyPatch.context() as patch:
        if way != "few":
            patch.setattr(problem, "DENSE", 0)
        result = Exact(memory_limit=1.0 if way == "blocks" else None).solve(x, y)
    assert Fraction(result.lower_bound.item()) <= truth <= Fraction(result.upper_bound.item())
    assert result.converged


@pytest.mark.parametrize("size", [300, 20_000])
@pytest.mark.parametrize("places", [1, 2])
def test_many_faint_weights_and_a_heavy_one_far_away(size: int, places: int) -> None:
    """What weights lose as whole units is not asked of a single point, whose potential is large."""
    x = 1e-3 * cloud(size, 2, seed=1)
    x[0] = torch.tensor([1.0, 0.0])
    y = torch.tensor([[0.0, 0.0], [2.0**-6, 0.0]], dtype=torch.float64)[:places]
    weights = torch.ones(size, dtype=torch.float64)
    weights[0] = 2
    cost, total = squared(x, y), size + 1
    first = sum(Fraction(int(w)) * row[0] for w, row in zip(weights.tolist(), cost, strict=True))
    if places == 2:  # half of the mass goes where it gains most
        gains = sorted((row[1] - row[0], int(w)) for w, row in zip(weights, cost, strict=True))
        left = Fraction(total, 2)
        for gain, weight in gains:
            moved = min(left, Fraction(weight))
            first, left = first + moved * gain, left - moved
    truth = first / total
    result = Exact().solve(x, y, real_weights=weights)
    assert Fraction(result.lower_bound.item()) <= truth <= Fraction(result.upper_bound.item())
    assert result.converged
    moved = result.plan.to_dense().sum(1) * total
    torch.testing.assert_close(moved, weights, rtol=1e-10, atol=0)


@pytest.mark.parametrize("seed", range(20))
def test_potentials_from_below(seed: int) -> None:
    """The c-transform of clouds never exceeds what the exact costs allow."""
    x, y, g = cloud(6, 12, seed=seed), cloud(5, 12, seed=seed + 50), cloud(5, 1, seed=99)[:, 0]
    found = c_transform(CloudPairs(Cloud(x), Cloud(y), 2.0, stored=False), g).values
    prices = [Fraction(value) for value in g.tolist()]
    for value, row in zip(found.tolist(), squared(x, y), strict=True):
        least = min(cost - price for cost, price in zip(row, prices, strict=True))
        # The subtraction itself is counted with the dual value.
        assert Fraction(value) <= least + Fraction(2.0**-52) * (abs(least) + 3)
        assert least - Fraction(value) <= Fraction(1e-13) * (abs(least) + 3)


@pytest.mark.parametrize("seed", [15, 16, 17])
def test_costs_over_many_orders_of_magnitude(seed: int) -> None:
    """A wrong assignment is noticed where the optimum lies far below the largest costs."""
    generator = torch.Generator().manual_seed(seed)
    cost = (15 * torch.randn(30, 30, generator=generator, dtype=torch.float64)).exp()
    result = exact_transport(cost)
    assert result.converged
    assert result.gap <= 1e-6 * result.cost


@pytest.mark.parametrize(
    ("order", "scale"), [(3.0, 1e-95), (100.0, 3e-3), (100, 0.3), (2.0, 1e-143), (1.0, 1e-140)]
)
@pytest.mark.parametrize("size", [40, 720])
@pytest.mark.filterwarnings("ignore:The duality gap:otmetrics.ConvergenceWarning")
def test_costs_at_the_edge_of_float64(order: float, scale: float, size: int) -> None:
    result = Exact(order=order).solve(cloud(size, 2, seed=1) * scale, cloud(700, 2, seed=2) * scale)
    assert 0 <= result.lower_bound <= result.cost <= result.upper_bound
    assert not result.potentials[0].isnan().any()


def test_a_cost_near_the_largest_float() -> None:
    cost = torch.tensor([[1.5e308, 1.0, 2.0], [3.0, 4.0, 1.0]], dtype=torch.float64)
    result = exact_transport(cost, torch.tensor([0.5, 0.5]), torch.tensor([0.0, 0.5, 0.5]))
    assert result.cost.item() == pytest.approx(1.0)


@pytest.mark.parametrize(("order", "scale"), [(2.0, 1e-200), (1.0, 1e-200), (100.0, 1e-4)])
def test_costs_below_float64_are_refused(order: float, scale: float) -> None:
    x, y = cloud(5, 2, seed=1) * scale, cloud(4, 2, seed=2) * scale
    with pytest.raises(ValueError, match=r"large enough for .* scale both clouds up"):
        Exact(order=order).solve(x, y)
    assert Exact(order=order).solve(0 * x, 0 * y).value == 0
