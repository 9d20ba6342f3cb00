"""Exact transport against linear programming, and the certificate it carries."""

from typing import Any

import numpy as np
import oracles
import pytest
import torch
from cases import (
    ORDERS,
    TransportCase,
    cloud,
    relative_tolerance,
    transport_cases,
    weights,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from otmetrics import Exact
from otmetrics.errors import ConvergenceWarning
from otmetrics.functional import (
    TransportResult,
    cost_matrix,
    exact_transport,
    exact_wasserstein,
    univariate_cost,
)
from otmetrics.transport.exact import certificate, exact, problem, small

SHAPES = [(1, 1, 2), (1, 6, 3), (5, 1, 3), (6, 6, 1), (9, 4, 5), (12, 15, 8)]


def check_certificate(
    result: TransportResult, cost: np.ndarray, a: np.ndarray, b: np.ndarray, truth: float
) -> None:
    """Everything a result claims, checked against numpy."""
    assert result.converged
    assert result.plan is not None
    assert result.potentials is not None
    assert result.lower_bound is not None
    assert result.upper_bound is not None
    size = np.abs(cost).max()
    assert result.cost.item() == pytest.approx(truth, rel=1e-9, abs=1e-12 * size)
    assert result.lower_bound.item() <= truth + 1e-12 * size
    assert truth <= result.upper_bound.item() + 1e-12 * size
    assert result.lower_bound <= result.cost <= result.upper_bound
    assert result.gap is not None
    assert result.gap.item() <= 1e-6 * abs(truth) + 1e-12 * size
    plan = result.plan.to_dense().cpu().numpy()
    assert (plan >= 0).all()
    np.testing.assert_allclose(plan.sum(1), a / a.sum(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(plan.sum(0), b / b.sum(), rtol=0, atol=1e-12)
    assert (plan * cost).sum() == pytest.approx(result.upper_bound.item(), rel=1e-9, abs=1e-12)
    f, g = (potential.cpu().numpy() for potential in result.potentials)
    assert (f[:, None] + g <= cost + 1e-12 * size).all()
    dual = (a / a.sum()) @ f + (b / b.sum()) @ g
    assert dual == pytest.approx(result.lower_bound.item(), rel=1e-9, abs=1e-12 * size)


@pytest.mark.parametrize("case", transport_cases(), ids=lambda case: f"{case.name}-{case.order}")
def test_closed_forms(case: TransportCase, device: torch.device, dtype: torch.dtype) -> None:
    result = Exact(order=case.order).solve(
        case.real.to(device, dtype),
        case.fake.to(device, dtype),
        real_weights=case.real_weights,
        fake_weights=case.fake_weights,
    )
    # Costs of this size: where the answer is 0, the translated copies differ by their rounding.
    rtol = relative_tolerance(dtype)
    assert result.cost.item() == pytest.approx(case.cost, rel=rtol, abs=1e-14)
    assert result.value.item() == pytest.approx(case.cost ** (1 / case.order), rel=rtol, abs=1e-14)
    assert result.converged


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", ["none", "positive", "zeros"])
def test_against_linear_programming(
    weighted: str, shape: tuple[int, int, int], order: float
) -> None:
    n, m, d = shape
    x, y = cloud(n, d, seed=1), cloud(m, d, seed=2)
    a = b = None
    if weighted != "none":
        zeros = weighted == "zeros"
        a = weights(n, seed=3, zeros=n // 3 * zeros)
        b = weights(m, seed=4, zeros=m // 3 * zeros)
    result = Exact(order=order).solve(x, y, real_weights=a, fake_weights=b)
    mass_a = oracles.uniform(n) if a is None else a.numpy()
    mass_b = oracles.uniform(m) if b is None else b.numpy()
    cost = oracles.costs(x.numpy(), y.numpy(), order)
    truth, _ = oracles.transport(cost, mass_a, mass_b)
    check_certificate(result, cost, mass_a, mass_b, truth)
    assert result.value.item() == pytest.approx(truth ** (1 / order), rel=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 7), (10, 4)])
@pytest.mark.parametrize("offset", [-5.0, 0.0, 5.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_any_cost_matrix(weighted: bool, offset: float, shape: tuple[int, int]) -> None:
    """Costs of any sign, which need no distance behind them."""
    cost = cloud(*shape, seed=1) + offset
    a = weights(shape[0], seed=2) if weighted else None
    b = weights(shape[1], seed=3) if weighted else None
    result = exact_transport(cost, a, b)
    mass_a = oracles.uniform(shape[0]) if a is None else a.numpy()
    mass_b = oracles.uniform(shape[1]) if b is None else b.numpy()
    truth, _ = oracles.transport(cost.numpy(), mass_a, mass_b)
    check_certificate(result, cost.numpy(), mass_a, mass_b, truth)
    assert torch.equal(result.value, result.cost)


def test_a_constant_cost_is_its_own_optimum() -> None:
    for value in (-3.0, 0.0, 1e-300, 1e30):
        result = exact_transport(torch.full((4, 6), value, dtype=torch.float64))
        assert result.cost.item() == pytest.approx(value, rel=1e-12)
        assert result.converged


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bounds_hold_in_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    for seed in range(20):
        x, y = cloud(6, 4, seed=seed, dtype=dtype), cloud(8, 4, seed=99 - seed, dtype=dtype)
        result = Exact().solve(x, y)
        assert result.lower_bound is not None
        assert result.upper_bound is not None
        assert result.lower_bound <= result.cost <= result.upper_bound
        assert result.value.dtype == result.cost.dtype == torch.float32


@pytest.mark.parametrize("far", [1e3, 1e5, 1e8])
def test_the_certificate_does_not_hide_a_wrong_plan(far: float) -> None:
    """One shared outlier, far beyond the rest: it costs nothing, and all else is what counts."""
    x, y = 1e-3 * cloud(20, 3, seed=1), 1e-3 * cloud(20, 3, seed=2)
    outlier = torch.full((1, 3), far, dtype=torch.float64)
    truth = Exact().solve(x, y).cost.item() * 20 / 21
    try:
        result = Exact().solve(torch.cat([x, outlier]), torch.cat([y, outlier]))
    except (RuntimeError, UserWarning):
        return  # it says that it cannot
    assert result.lower_bound is not None
    assert result.upper_bound is not None
    # Rounding of a coordinate, 1e-16 * far, against 1e-3, may move the truth itself.
    slack = 1e-9 + 1e-12 * far
    assert result.lower_bound.item() <= truth * (1 + slack)
    assert result.upper_bound.item() >= truth * (1 - slack)
    assert result.cost.item() == pytest.approx(truth, rel=1e-3)


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_an_open_gap_is_said_aloud(order: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that is not optimal leaves the gap open: a warning, `converged`, and the message."""

    def worst(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.outer(a, b), np.zeros(len(b))

    monkeypatch.setattr(small, "dense_simplex", worst)
    with pytest.warns(ConvergenceWarning, match="gap") as caught:
        result = Exact(order=order).solve(cloud(6, 3, seed=1), cloud(5, 3, seed=2))
    assert len(caught) == 1
    assert not result.converged
    assert "gap" in result.message
    assert result.lower_bound is not None
    assert result.lower_bound < result.cost


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_batch_equals_loop(weighted: bool, order: float) -> None:
    x, y = cloud(3, 9, 4, seed=1), cloud(3, 6, 4, seed=2)
    a = weights(3, 9, seed=3, zeros=2) if weighted else None
    b = weights(6, seed=4) if weighted else None
    batch = Exact(order=order).solve(x, y, real_weights=a, fake_weights=b)
    assert batch.plan is not None
    assert batch.potentials is not None
    assert batch.plan.shape == (3, 9, 6)
    for i in range(3):
        alone = Exact(order=order).solve(
            x[i], y[i], real_weights=None if a is None else a[i], fake_weights=b
        )
        assert alone.plan is not None
        assert alone.potentials is not None
        for name in ("value", "cost", "lower_bound", "upper_bound"):
            assert torch.equal(getattr(batch, name)[i], getattr(alone, name))
        assert torch.equal(batch.plan[i].to_dense(), alone.plan.to_dense())
        assert torch.equal(batch.potentials[0][i], alone.potentials[0])
        assert torch.equal(batch.potentials[1][i], alone.potentials[1])
    assert batch.converged


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient(weighted: bool, order: float) -> None:
    x, y = cloud(5, 3, seed=1).requires_grad_(), cloud(6, 3, seed=2).requires_grad_()
    a = weights(5, seed=3) if weighted else None
    assert torch.autograd.gradcheck(
        lambda u, v: exact_wasserstein(u, v, order=order, real_weights=a), (x, y)
    )


def test_envelope_gradient_is_the_plan() -> None:
    """d W_2^2 / d x_i = sum_j P_ij 2 (x_i - y_j), which is 2 (x_i - y_s(i)) / N for equal sizes."""
    x, y = cloud(7, 4, seed=1).requires_grad_(), cloud(7, 4, seed=2)
    result = Exact().solve(x, y)
    assert result.plan is not None
    assert not result.plan.requires_grad
    (gradient,) = torch.autograd.grad(result.cost, x)
    matched = result.plan.to_dense().argmax(1)
    torch.testing.assert_close(gradient, 2 * (x.detach() - y[matched]) / 7, rtol=1e-12, atol=0)


def test_gradient_in_the_cost_is_the_plan() -> None:
    cost = cloud(4, 6, seed=1).abs().requires_grad_()
    result = exact_transport(cost, weights(4, seed=2), weights(6, seed=3))
    (gradient,) = torch.autograd.grad(result.cost, cost)
    assert result.plan is not None
    assert torch.equal(gradient, result.plan.to_dense())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("copies", [1, 2])
def test_gradient_at_equal_laws_is_zero(copies: int, order: float) -> None:
    x = cloud(7, 4).requires_grad_()
    value = exact_wasserstein(x, x.detach().repeat(copies, 1), order=order)
    value.backward()
    assert value.item() == 0
    assert x.grad is not None
    assert (x.grad == 0).all()


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_gradient_with_some_equal_points(order: float) -> None:
    x, y = cloud(8, 3, seed=1), cloud(8, 3, seed=2)
    y[:4] = x[:4]
    x.requires_grad_()
    exact_wasserstein(x, y, order=order).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.norm() > 0


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_offset_and_scale(scale: float, order: float) -> None:
    x, y = cloud(9, 5, seed=1), cloud(7, 5, seed=2)
    expected = scale * exact_wasserstein(x, y, order=order)
    moved = Exact(order=order).solve(scale * (x + 1e6), scale * (y + 1e6))
    # 1e6 rounds to 1e-10 in the input; nothing more is lost.
    torch.testing.assert_close(moved.value, expected, rtol=1e-9, atol=0)
    assert moved.converged


@pytest.mark.parametrize("place", [-1e9, 1e9])
def test_a_point_without_weight_does_not_exist(place: float) -> None:
    x, y, a = cloud(12, 4, seed=1), cloud(9, 4, seed=2), weights(12, seed=3, zeros=1)
    expected = exact_wasserstein(x[1:], y, real_weights=a[1:])
    padded = torch.cat([torch.full((1, 4), place, dtype=x.dtype), x[1:]])
    result = Exact().solve(padded, y, real_weights=a)
    torch.testing.assert_close(result.value, expected, rtol=1e-6, atol=0)
    assert result.plan is not None
    assert result.plan.to_dense()[0].sum() == 0


def test_tiny_weights_count() -> None:
    """A billionth of the mass, a million away: it is most of the cost."""
    x = torch.tensor([[0.0], [1e6]], dtype=torch.float64)
    weight = torch.tensor([1 - 1e-9, 1e-9], dtype=torch.float64)
    result = Exact().solve(x, x[:1], real_weights=weight)
    # Masses are good to a rounding of the whole, 1e-16, which is 1e-7 of this share.
    assert result.cost.item() == pytest.approx(1e3, rel=1e-6)


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_lattices(order: float) -> None:
    """Ties everywhere: many optimal plans, one optimum."""
    for seed in range(20):
        x, y = cloud(8, 2, seed=seed).round(), cloud(11, 2, seed=50 + seed).round()
        cost = oracles.costs(x.numpy(), y.numpy(), order)
        truth, _ = oracles.transport(cost)
        result = Exact(order=order).solve(x, y)
        check_certificate(result, cost, oracles.uniform(8), oracles.uniform(11), truth)


@pytest.mark.parametrize("order", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(7, 7), (8, 6), (1, 4), (30, 45)])
def test_on_the_line(shape: tuple[int, int], weighted: bool, order: float) -> None:
    x, y = cloud(shape[0], 1, seed=1), 2 * cloud(shape[1], 1, seed=2)
    x[: shape[0] // 2] = x[: shape[0] // 2].round()  # with ties
    a = weights(shape[0], seed=3, zeros=shape[0] // 4) if weighted else None
    b = weights(shape[1], seed=4, zeros=shape[1] // 4) if weighted else None
    result = Exact(order=order).solve(x, y, real_weights=a, fake_weights=b)
    masses = [
        oracles.uniform(size) if given is None else given.numpy()
        for size, given in zip(shape, (a, b), strict=True)
    ]
    cost = oracles.costs(x.numpy(), y.numpy(), order)
    truth, _ = oracles.transport(cost, *masses)
    check_certificate(result, cost, *masses, truth)


def test_a_long_line() -> None:
    """Between two sorted samples of a hundred thousand: no matrix fits, none is needed."""
    x, y = cloud(100_000, 1, seed=1), cloud(80_000, 1, seed=2) + 1
    result = Exact().solve(x, y)
    expected = univariate_cost(x[:, 0], y[:, 0])
    assert result.cost.item() == pytest.approx(expected.item(), rel=1e-12)
    assert result.converged
    f, g = result.potentials
    rows, columns = torch.randint(0, 80_000, (2, 1000), generator=torch.Generator().manual_seed(0))
    assert (f[rows] + g[columns] <= (x[rows] - y[columns])[:, 0].square() + 1e-9).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0}, "`tolerance` must be a positive finite number, got 0"),
        ({"memory_limit": -1}, "`memory_limit` must be a positive finite number, got -1"),
        ({"order": 300.0}, "`order` must be at most 256, got 300"),
        ({"time_limit": float("nan")}, "`time_limit` must be a positive finite number, got nan"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Exact(**options).solve(cloud(3, 2), cloud(3, 2))


@pytest.mark.filterwarnings("ignore:The duality gap:otmetrics.ConvergenceWarning")
@pytest.mark.parametrize(("weight", "far"), [(1e-12, 1e6), (1e-13, 1e7), (1e-15, 1e8)])
@pytest.mark.parametrize("forced", [False, True])
def test_masses_below_the_rounding_open_the_gap(
    weight: float, far: float, forced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A point with hardly any weight, so far away that it is most of the cost."""
    if forced:
        monkeypatch.setattr(problem, "DENSE", 0)
    x, y = 1e-3 * cloud(20, 3, seed=1), 1e-3 * cloud(20, 3, seed=2)
    x[0] = torch.tensor([far, 0, 0])
    a = torch.ones(20, dtype=torch.float64)
    a[0] = weight
    result = Exact().solve(x, y, real_weights=a)
    truth = weight / a.sum().item() * far**2  # all else is a millionth of it
    assert result.lower_bound.item() <= truth * (1 + 1e-3)
    assert result.upper_bound.item() >= truth * (1 - 1e-3)
    if result.converged:
        assert result.cost.item() == pytest.approx(truth, rel=1e-3)


@pytest.mark.filterwarnings("ignore:The duality gap:otmetrics.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["clouds", "matrix"])
@pytest.mark.parametrize("weighted", [False, True])
def test_faint_masses_widen_the_gap_of_weights_alone(
    kind: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uniform weights are whole numbers, which nothing rounds: no mass of theirs is doubtful."""
    x, y = cloud(6, 2, seed=1), cloud(9, 2, seed=2)
    a = torch.full((6,), 0.5, dtype=torch.float64)
    a[0] += 1e-3 * weighted
    for name in ("cloud_optimum", "matrix_optimum"):
        solve = getattr(exact, name)

        def loose(*given: Any, solve: Any = solve) -> certificate.Optimum:
            optimum = solve(*given)
            return optimum._replace(lower_bound=optimum.lower_bound / 2)

        monkeypatch.setattr(exact, name, loose)
    monkeypatch.setattr(exact, "faint", lambda optimum, a, b: optimum.masses > 0)
    if kind == "clouds":
        result = Exact().solve(x, y, real_weights=a)
    else:
        result = exact_transport(cost_matrix(x, y), a)
    assert result.converged == weighted


def test_an_outlier_on_both_sides_is_proved_to_cost_nothing() -> None:
    x, y = 1e-3 * cloud(63, 3, seed=1), 1e-3 * cloud(63, 3, seed=2)
    outlier = torch.full((1, 3), 1e8, dtype=torch.float64)
    result = Exact().solve(torch.cat([x, outlier]), torch.cat([y, outlier]))
    truth = Exact().solve(x, y).cost.item() * 63 / 64
    assert result.converged
    assert result.lower_bound.item() <= truth * (1 + 1e-12)
    assert result.cost.item() == pytest.approx(truth, rel=1e-9)


def near_pair(
    kind: str, n: int, d: int, noise: float, far: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """A cloud and nearly itself, whose points lie much farther apart than they move, and weights.

    The noise is one of whole numbers in a unit far below it, so that few coordinates are rounded.
    """
    x = (cloud(n, d, seed=1) * 2**20).round() / 2**20
    x = (x + far).to(dtype)
    y = (x.double() + noise * cloud(n, d, seed=2)).to(dtype)
    w = weights(n, seed=3)
    if kind == "shuffled":
        return x, y[torch.randperm(n, generator=torch.Generator().manual_seed(4))], {}
    if kind == "twice":
        return x, torch.cat([y, y.flip(0)]), {}
    if kind == "repeated":
        return torch.cat([x, x[: n // 2]]), torch.cat([y, y[: n // 2]]), {}
    if kind == "weights":
        return x, y, {"real_weights": w, "fake_weights": 3 * w}
    if kind == "split weights":
        y = torch.cat([y, y])
        return x, y, {"real_weights": w, "fake_weights": torch.cat([w / 4, 3 * w / 4])}
    return x, y, {}


def nearest_cost(x: torch.Tensor, y: torch.Tensor, a: torch.Tensor | None, order: float) -> float:
    """W_p^p where each point of y has one of x next to it, and gives it its whole weight."""
    # From differences of the coordinates: nothing cancels.
    exact = "donot_use_mm_for_euclid_dist"
    mean = torch.cdist(x.double(), y.double(), compute_mode=exact).amin(1) ** order
    return float(mean.mean() if a is None else mean @ (a / a.sum()))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("far", [0.0, 1000.0])
@pytest.mark.parametrize("noise", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize(
    "kind", ["in order", "shuffled", "twice", "repeated", "weights", "split weights"]
)
def test_nearly_equal_clouds_are_proved(kind: str, noise: float, far: float, order: float) -> None:
    """Features of the same images by two runtimes: the gap is relative to the small cost."""
    x, y, masses = near_pair(kind, 40, 6, noise, far, torch.float64)
    result = Exact(order=order).solve(x, y, **masses)
    if kind == "twice":
        y = y[: len(x)]
    truth = nearest_cost(x, y, masses.get("real_weights"), order)
    assert result.converged
    assert result.message.startswith("optimal")
    assert result.cost.item() == pytest.approx(truth, rel=1e-9)
    assert result.lower_bound.item() <= truth * (1 + 1e-12)
    assert result.upper_bound.item() >= truth * (1 - 1e-12)
    # The upper bound pays for the rounding of weights, at the length of the whole cloud.
    assert result.lower_bound.item() >= truth * (1 - 1e-6) - (1e-14 if masses else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n", "d", "order"), [(300, 16, 2.0), (300, 3, 3.0), (900, 16, 2.0), (900, 64, 1.0)]
)
@pytest.mark.parametrize("noise", [1e-5, 1e-7])
def test_larger_nearly_equal_clouds_are_proved(
    n: int, d: int, order: float, noise: float, dtype: torch.dtype
) -> None:
    x, y, _ = near_pair("shuffled", n, d, noise, 0.0, dtype)
    result = Exact(order=order).solve(x, y)
    assert result.converged
    truth = nearest_cost(x, y, None, order)
    assert result.cost.item() == pytest.approx(truth, rel=1e-6)
    assert result.lower_bound.item() <= truth <= result.upper_bound.item()
    assert result.gap.item() <= 2e-6 * truth


@pytest.mark.parametrize(("order", "noise"), [(1.0, 1e-7), (3.0, 1e-7)])
def test_tight_clusters_that_move_a_little_are_paired(
    order: float, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many points within reach of each point, at distances that float32 does not tell from 0."""
    monkeypatch.setattr(problem, "DENSE", 0)
    x = cloud(10, 3, seed=1)[torch.arange(200) % 10] + 1e-4 * cloud(200, 3, seed=2)
    y = x + noise * cloud(200, 3, seed=3)
    result = Exact(order=order).solve(x, y)
    truth = nearest_cost(x, y, None, order)
    assert result.converged
    assert result.cost.item() == pytest.approx(truth, rel=1e-6)
    assert result.lower_bound.item() <= truth * (1 + 1e-9)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 40),
    d=st.integers(1, 8),
    order=st.sampled_from(ORDERS),
)
def test_a_cloud_and_itself_with_weights(seed: int, n: int, d: int, order: float) -> None:
    x, w = cloud(n, d, seed=seed), weights(n, seed=seed + 1, zeros=n // 4) ** 2
    for other in (w, w / 3):
        result = Exact(order=order).solve(x, x, real_weights=w, fake_weights=other)
        assert result.converged
        assert result.lower_bound.item() <= 1e-300
        assert result.cost.item() <= 1e-13


@pytest.mark.parametrize(
    "cost",
    [
        [[-1.0, 1.0], [1.0, 1.0]],
        [[0.0, -1.0], [1.0, 0.0]],
        [[-1e6, 3.0], [5.0, 1e6]],
        [[1.0, -2.0, 4.0], [3.0, 5.0, -3.0]],
        [[0.0, 0.0], [0.0, 0.0]],
    ],
)
def test_signed_costs_of_optimum_zero(cost: list[list[float]]) -> None:
    costs = torch.tensor(cost, dtype=torch.float64)
    costs = costs - oracles.transport(costs.numpy())[0]
    truth = oracles.transport(costs.numpy())[0]
    result = exact_transport(costs)
    assert result.converged
    size = costs.abs().max().item()
    assert result.cost.item() == pytest.approx(truth, abs=1e-13 * size)
    assert result.lower_bound.item() <= truth + 1e-14 * size
    assert result.upper_bound.item() >= truth - 1e-14 * size
    assert result.gap.item() <= 1e-12 * size


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [1e308, 1e-310])
def test_costs_at_the_ends_of_float64(size: float, weighted: bool) -> None:
    a = torch.tensor([0.25, 0.75], dtype=torch.float64) if weighted else None
    cost = torch.tensor([[1.0, 1.7], [1.7, 1.0]], dtype=torch.float64) * size
    result = exact_transport(cost, a)
    truth = (1 + 0.7 / 4 * weighted) * size
    assert result.cost.item() == pytest.approx(truth, rel=1e-9, abs=0)
    assert result.lower_bound.item() == pytest.approx(truth, rel=1e-9, abs=0)
    assert result.upper_bound.item() == pytest.approx(truth, rel=1e-9, abs=0)
    assert result.converged


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6), n=st.integers(1, 12), m=st.integers(1, 12), weighted=st.booleans()
)
def test_signed_costs_around_zero(seed: int, n: int, m: int, weighted: bool) -> None:
    """Costs less their optimum, against linear programming: always an answer with its proof."""
    costs = cloud(n, m, seed=seed).round(decimals=1)
    a = weights(n, seed=seed + 1) if weighted else None
    b = weights(m, seed=seed + 2) if weighted else None
    sides = [None if side is None else side.numpy() for side in (a, b)]
    costs -= oracles.transport(costs.numpy(), *sides)[0]
    result = exact_transport(costs, a, b)
    assert result.converged
    assert result.cost.item() == pytest.approx(0, abs=1e-8)
    assert result.gap.item() <= 1e-10


@pytest.mark.parametrize("noise", [1e-2, 1e-6, 1e-10])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_wrong_plan_between_near_clouds_stays_open(
    noise: float, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two points that have changed places cost a millionth of the cloud, and far more than it."""

    def swapped(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        plan = np.diag(a)
        mass = min(a[0], a[1])
        plan[[0, 1], [0, 1]] -= mass
        plan[[0, 1], [1, 0]] += mass
        return plan, np.zeros(len(b))

    monkeypatch.setattr(small, "dense_simplex", swapped)
    uniform = torch.full((30,), 1 / 30, dtype=torch.float64)
    units = certificate.units(uniform, uniform)
    monkeypatch.setattr(problem, "assigned_optimum", lambda cost: small.dense_optimum(cost, units))
    x = cloud(30, 4, seed=1)
    x[1] = x[0] + 1e-3
    w = weights(30, seed=2) if weighted else None
    y = x + noise * 1e-3 * cloud(30, 4, seed=3)
    with pytest.warns(ConvergenceWarning, match="gap"):
        result = Exact().solve(x, y, real_weights=w, fake_weights=w)
    assert not result.converged
    assert result.lower_bound < result.cost


def test_the_advice_names_a_limit_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        small,
        "dense_simplex",
        lambda cost, a, b: (np.outer(a, b), np.zeros(len(b))),
    )
    for limit in (None, 60.0):
        with pytest.warns(ConvergenceWarning, match="stays open") as caught:
            Exact(time_limit=limit).solve(cloud(6, 3, seed=1), cloud(5, 3, seed=2))
        assert ("`time_limit` (60 s)" in str(caught[0].message)) == (limit is not None)
        assert "`tolerance`" not in str(caught[0].message)


def test_precision_comes_back_from_threads() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        x, y = cloud(8, 60, 4, dtype=torch.float32), cloud(8, 70, 4, dtype=torch.float32)
        for _ in range(5):
            Exact().solve(x, y)
            assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
