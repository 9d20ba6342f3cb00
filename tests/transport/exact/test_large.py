"""Column generation against linear programming, also when stopped at once, and its parts."""

import numpy as np
import oracles
import pytest
import torch
from cases import ORDERS, cloud, weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otmetrics import Exact
from otmetrics.errors import ConvergenceWarning
from otmetrics.functional import exact_transport
from otmetrics.transport.costs import Cloud, CloudPairs
from otmetrics.transport.exact import certificate, large, problem
from otmetrics.transport.exact.certificate import c_transform, units
from otmetrics.transport.exact.simplex import sparse_simplex
from otmetrics.transport.line import staircase
from otmetrics.transport.result import TransportResult

KINDS = ["normal", "lattice", "duplicates", "offset", "tiny", "huge", "same", "outlier"]
WAYS = ["matrix", "kept costs", "blocks"]


def clouds(kind: str, n: int, m: int, d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = cloud(n, d, seed=seed), cloud(m, d, seed=seed + 1)
    if kind == "lattice":
        return x.round(), y.round()
    if kind == "duplicates":
        generator = torch.Generator().manual_seed(seed)
        return tuple(
            side[torch.randint(0, max(1, len(side) // 3), (len(side),), generator=generator)]
            for side in (x, y)
        )
    if kind == "same":
        return x, x.flip(0)
    if kind == "outlier":
        x[0] *= 1e3
    scale = {"tiny": 1e-12, "huge": 1e12}.get(kind, 1.0)
    return x * scale, y * scale


@pytest.fixture
def forced(monkeypatch):
    """Column generation at any size."""
    monkeypatch.setattr(problem, "DENSE", 0)


def solved(
    way: str, x: torch.Tensor, y: torch.Tensor, order: float, time_limit: float | None, **weights
) -> TransportResult:
    """Column generation in one of its ways."""
    if way == "matrix":
        cost = torch.from_numpy(oracles.costs(x.numpy(), y.numpy(), order))
        return exact_transport(cost, **weights, time_limit=time_limit)
    limit = 1.0 if way == "blocks" else None
    return Exact(order=order, memory_limit=limit, time_limit=time_limit).solve(x, y, **weights)


def check(
    result: TransportResult, cost: np.ndarray, a: np.ndarray, b: np.ndarray, slack: float = 0.0
) -> None:
    """The interval holds the truth, the plan is one, and the potentials respect all pairs."""
    size = cost.max()
    truth = oracles.transport(cost / (size or 1), a, b)[0] * size
    near = 1e-9 * truth + (1e-12 + slack) * size
    assert result.lower_bound.item() <= truth + near
    assert truth - near <= result.upper_bound.item()
    if result.converged:
        assert result.cost.item() == pytest.approx(truth, rel=1e-6, abs=near)
    plan = result.plan.to_dense().numpy()
    assert (plan >= 0).all()
    np.testing.assert_allclose(plan.sum(1), a, rtol=0, atol=1e-14)
    np.testing.assert_allclose(plan.sum(0), b, rtol=0, atol=1e-14)
    f, g = (potential.numpy() for potential in result.potentials)
    assert (f[:, None] + g - cost).max() <= (1e-9 + slack) * size


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.usefixtures("forced")
def test_against_linear_programming(data: st.DataObject, monkeypatch) -> None:
    kind, way = data.draw(st.sampled_from(KINDS)), data.draw(st.sampled_from(WAYS))
    n, m = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 14))
    d, order = data.draw(st.sampled_from([2, 3, 40])), data.draw(st.sampled_from([*ORDERS, 3.0]))
    seed, weighted = data.draw(st.integers(0, 10**6)), data.draw(st.booleans())
    stopped = data.draw(st.booleans())
    monkeypatch.setattr(large, "_COARSE", data.draw(st.sampled_from([2, 5, 99])))
    for name in ("_FIRST", "_MORE"):
        monkeypatch.setattr(large, name, data.draw(st.sampled_from([1, 3])))
    x, y = clouds(kind, n, m, d, seed)
    a = weights(len(x), seed=seed, zeros=len(x) // 3) if weighted else None
    b = weights(len(y), seed=seed + 1, zeros=len(y) // 4) if weighted else None
    offset = 1e6 if kind == "offset" else 0.0
    clouds_far = x + offset, y + offset
    limit = 1e-9 if stopped else None
    try:
        result = solved(way, *clouds_far, order, limit, real_weights=a, fake_weights=b)
    except ConvergenceWarning:
        assert stopped
        return  # the next test looks at these
    cost = oracles.costs(x.numpy(), y.numpy(), order)
    masses = [
        oracles.uniform(len(side)) if given is None else (given / given.sum()).numpy()
        for side, given in ((x, a), (y, b))
    ]
    check(result, cost, *masses, slack=1e-9 if offset else 0.0)
    assert result.converged


@pytest.mark.filterwarnings("ignore:The duality gap:otmetrics.ConvergenceWarning")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.usefixtures("forced")
def test_a_stop_leaves_an_interval(way: str, order: float, weighted: bool, monkeypatch) -> None:
    """At every stop: the clock runs out after 0, 1, 2, ... of its readings."""
    monkeypatch.setattr(large, "_COARSE", 5)
    monkeypatch.setattr(large, "_FIRST", 1)
    monkeypatch.setattr(large, "_MORE", 1)
    x, y = cloud(30, 3, seed=1), cloud(25, 3, seed=2)
    a = weights(30, seed=3, zeros=4) if weighted else None
    b = weights(25, seed=4) if weighted else None
    masses = (
        (a / a.sum()).numpy() if weighted else oracles.uniform(30),
        (b / b.sum()).numpy() if weighted else oracles.uniform(25),
    )
    cost = oracles.costs(x.numpy(), y.numpy(), order)
    gaps = []
    for readings in range(40):
        ticks = iter([0.0] * (readings + 1) + [1e9] * 1000)
        monkeypatch.setattr(certificate.time, "monotonic", lambda ticks=ticks: next(ticks))
        result = solved(way, x, y, order, 1.0, real_weights=a, fake_weights=b)
        check(result, cost, *masses)
        gaps.append(float(result.gap))
        if result.converged:
            break
    assert result.converged
    assert len(gaps) > 2
    assert gaps[0] > 1e-3 * float(result.cost)


@pytest.mark.usefixtures("forced")
def test_a_stop_is_said() -> None:
    with pytest.warns(ConvergenceWarning, match=r"gap .* stays open: raise `time_limit`"):
        result = Exact(time_limit=1e-9).solve(cloud(300, 3, seed=1), cloud(300, 3, seed=2))
    assert not result.converged


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("shape", [(1000, 1000), (700, 1700)])
def test_larger_problems_as_they_are(shape: tuple[int, int], order: float) -> None:
    """Above the size of the dense simplex, against it."""
    import ot

    x, y = cloud(shape[0], 6, seed=1), 1.1 * cloud(shape[1], 6, seed=2) + 0.1
    cost = oracles.costs(x.numpy(), y.numpy(), order)
    a, b = oracles.uniform(shape[0]), oracles.uniform(shape[1])
    truth = ot.emd2(a, b, cost, numItermax=10**8)
    for options in ({}, {"memory_limit": 1.0}):
        result = Exact(order=order, **options).solve(x, y)
        assert result.cost.item() == pytest.approx(truth, rel=1e-6)
        assert result.converged
        assert result.gap.item() <= 1e-6 * truth
    matrix = exact_transport(torch.from_numpy(cost))
    assert matrix.cost.item() == pytest.approx(truth, rel=1e-6)
    f, g = (potential.numpy() for potential in matrix.potentials)
    assert (f[:, None] + g <= cost + 1e-9).all()


def test_kept_costs_and_blocks_agree_with_the_matrix() -> None:
    x, y = cloud(1200, 20, seed=1, dtype=torch.float32), cloud(1100, 20, seed=2) + 0.2
    y = y.float()
    expected = exact_transport(torch.from_numpy(oracles.costs(x.numpy(), y.numpy(), 2.0)).float())
    for limit in (None, 1.0):
        result = Exact(memory_limit=limit).solve(x, y)
        torch.testing.assert_close(result.cost, expected.cost, rtol=1e-6, atol=0)
        assert result.converged


def test_a_collapsed_generator() -> None:
    """All fake points in one place: every plan is optimal."""
    x, y = cloud(1000, 8, seed=1), cloud(1, 8, seed=2).repeat(950, 1)
    result = Exact().solve(x, y)
    assert result.cost.item() == pytest.approx((x - y[0]).square().sum(1).mean().item(), rel=1e-12)
    assert result.converged


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", [True, False])
def test_c_transform(stored: bool, kind: str, order: float) -> None:
    x, y = clouds(kind, 60, 50, 7, seed=1)
    pairs = CloudPairs(Cloud(x), Cloud(y), order, stored)
    cost = torch.from_numpy(oracles.costs(x.numpy(), y.numpy(), order)) / pairs.scale
    g = 0.3 * cost.max() * cloud(cost.shape[1], seed=5)
    found = c_transform(pairs, g)
    expected = (cost - g).amin(1)
    size = cost.max() + g.abs().max()
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-13 * float(size))
    torch.testing.assert_close(
        found.costs, cost[found.rows, found.columns], rtol=1e-12, atol=1e-300
    )
    # The pair of each minimum is among those that come back.
    reached = torch.full_like(expected, torch.inf)
    reached.scatter_reduce_(0, found.rows, found.costs - g[found.columns], "amin")
    torch.testing.assert_close(reached, found.values, rtol=0, atol=1e-13 * float(size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", [*ORDERS, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_lower_bounds_are_below_and_near(kind: str, order: float, dtype: torch.dtype) -> None:
    x, y = clouds(kind, 40, 30, 300, seed=3)
    pairs = CloudPairs(Cloud(x), Cloud(y), order, stored=False)
    cost = torch.from_numpy(oracles.costs(x.numpy(), y.numpy(), order)) / pairs.scale
    everyone = torch.arange(40)
    single = dtype == torch.float32
    lower = pairs.lower(slice(0, 40)) if single else pairs.lower_in_float64(everyone)
    # `c_transform` allows for the roundings of the power itself.
    assert (lower.double() <= cost * (1 + 8 * torch.finfo(dtype).eps)).all()
    norms = (x.square().sum(1)[:, None] + y.square().sum(1)).pow(order / 2) / pairs.scale
    share = (1000 * torch.finfo(dtype).eps) ** min(1.0, order / 2)
    assert (lower.double() >= cost - share * norms * 2).all()


def test_weights_in_units() -> None:
    a, b = weights(7, seed=1), weights(5, seed=2)
    found = units(a / a.sum(), b / b.sum())
    assert float(found.real.sum()) == float(found.fake.sum()) == found.total
    assert (found.real == found.real.round()).all()
    torch.testing.assert_close(found.real / found.total, a / a.sum(), rtol=0, atol=1e-15)
    uniform = units(torch.full((6,), 1 / 6), torch.full((4,), 1 / 4))
    assert (uniform.real.tolist(), uniform.fake.tolist(), uniform.total) == ([2] * 6, [3] * 4, 12)


@given(n=st.integers(1, 9), m=st.integers(1, 9), weighted=st.booleans(), seed=st.integers(0, 99))
def test_staircase(n: int, m: int, weighted: bool, seed: int) -> None:
    a = weights(n, seed=seed) if weighted else torch.ones(n, dtype=torch.float64)
    b = weights(m, seed=seed + 1) if weighted else torch.ones(m, dtype=torch.float64)
    whole = units(a / a.sum(), b / b.sum())
    path = staircase(*whole[:2])
    assert len(path.rows) == n + m - 1
    assert (path.rows.diff() + path.columns.diff() == 1).all()
    cells = path.rows, path.columns
    plan = torch.zeros(n, m, dtype=torch.float64).index_put(cells, path.flows / whole.total)
    torch.testing.assert_close(plan.sum(1), a / a.sum(), rtol=0, atol=1e-15)
    torch.testing.assert_close(plan.sum(0), b / b.sum(), rtol=0, atol=1e-15)


def test_the_sparse_simplex_needs_a_plan() -> None:
    halves = torch.full((2,), 0.5, dtype=torch.float64)
    ones = units(halves, halves)
    ids = torch.tensor([0, 1])
    moved, _, _ = sparse_simplex(ids, ids, torch.tensor([1.0, 2.0], dtype=torch.float64), ones)
    assert moved.tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="did not finish"):
        sparse_simplex(ids, torch.tensor([0, 0]), torch.ones(2, dtype=torch.float64), ones)


@pytest.mark.parametrize("scale", [1e-250, 1e-5, 1.0, 1e250])
def test_given_costs_of_any_sign_and_size(scale: float) -> None:
    from scipy.optimize import linear_sum_assignment

    square = cloud(910, 910, seed=1)
    rows, columns = linear_sum_assignment(square.numpy())
    expected = square.numpy()[rows, columns].mean()
    optimal = exact_transport(square * scale)
    assert optimal.cost.item() == pytest.approx(expected * scale, rel=2e-6)
    assert optimal.converged
    f, g = optimal.potentials
    assert (f[:, None] + g <= (square + 1e-9) * scale).all()


def test_given_costs_of_other_shapes() -> None:
    """Every real point twice on the fake side: the same optimum, for any constant more."""
    cost = cloud(900, 905, seed=1)
    once = exact_transport(cost)
    twice = exact_transport(torch.cat([cost, cost]) - 100)
    assert twice.cost.item() == pytest.approx(once.cost.item() - 100, rel=2e-6)


def test_faint_weights() -> None:
    x, y = cloud(950, 3, seed=1), cloud(960, 3, seed=2)
    a = torch.logspace(-60, 0, 950, dtype=torch.float64)
    result = Exact().solve(x, y, real_weights=a)
    kept = a > 1e-9
    expected = Exact().solve(x[kept], y, real_weights=a[kept])
    assert result.cost.item() == pytest.approx(expected.cost.item(), rel=1e-5)
    assert result.converged
