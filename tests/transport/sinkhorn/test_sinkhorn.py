"""Entropic transport: closed forms, bounds, small epsilon, honest convergence."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from cases import (
    ORDERS,
    TransportCase,
    cloud,
    entropic_gaussian,
    gaussian_grid,
    relative_tolerance,
    transport_cases,
    weights,
)

from otmetrics import Exact, Sinkhorn
from otmetrics.errors import ConvergenceWarning
from otmetrics.functional import (
    cost_matrix,
    entropic_cost,
    sinkhorn_divergence,
)
from otmetrics.transport.sinkhorn import sinkhorn
from otmetrics.transport.sinkhorn.gibbs import GibbsKernel, Workspace
from otmetrics.transport.sinkhorn.iterations import Measure
from otmetrics.transport.sinkhorn.sinkhorn import entropic_batch
from otmetrics.transport.sinkhorn.terms import Places

SHAPES = [(1, 1, 2), (1, 6, 3), (5, 1, 3), (6, 6, 1), (9, 4, 5)]
NOTHING = [case for case in transport_cases() if case.cost == 0]
DIRACS = [case for case in transport_cases() if case.name == "diracs"]
TIGHT: dict[str, Any] = {"tolerance": 1e-12, "max_iterations": 20_000}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", ["none", "positive", "zeros"])
def test_entropic_cost_against_loops(
    weighted: str,
    shape: tuple[int, int, int],
    order: float,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    n, m, d = shape
    x, y = cloud(n, d, seed=1), cloud(m, d, seed=2)
    zeros = weighted == "zeros"
    a = None if weighted == "none" else weights(n, seed=3, zeros=n // 3 * zeros)
    b = None if weighted == "none" else weights(m, seed=4, zeros=m // 3 * zeros)
    cost = entropic_cost(
        x.to(device, dtype),
        y.to(device, dtype),
        order=order,
        epsilon=0.7,
        relative=False,
        tolerance=1e-10,
        real_weights=a,
        fake_weights=b,
    )
    expected, _ = oracles.entropic(
        oracles.costs(x.numpy(), y.numpy(), order),
        oracles.uniform(n) if a is None else (a / a.sum()).numpy(),
        oracles.uniform(m) if b is None else (b / b.sum()).numpy(),
        0.7,
    )
    # The dual value errs by at most the marginal error times the spread of the potentials.
    assert cost.item() == pytest.approx(expected, rel=max(1e-8, relative_tolerance(dtype)))
    assert cost.dtype == dtype


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_divergence_against_loops(shape: tuple[int, int, int], order: float) -> None:
    n, m, d = shape
    x, y = cloud(n, d, seed=1), cloud(m, d, seed=2)
    epsilon = 0.5 * cost_matrix(x, y, order=order).mean().item()
    result = Sinkhorn(
        order=order, epsilon=epsilon, relative=False, tolerance=1e-8, max_iterations=20_000
    ).solve(x, y)
    expected = oracles.sinkhorn_divergence(x.numpy(), y.numpy(), order, epsilon)
    assert result.cost.item() == pytest.approx(expected, rel=1e-6)
    assert result.value.item() == pytest.approx(expected ** (1 / order), rel=1e-6)
    assert result.converged
    assert result.standard_error is result.plan is None
    assert result.lower_bound <= result.cost <= result.upper_bound


@pytest.mark.parametrize("case", DIRACS, ids=lambda case: str(case.order))
@pytest.mark.parametrize("epsilon", [1e-4, 1.0, 100.0])
def test_diracs_have_one_plan(case: TransportCase, epsilon: float) -> None:
    options: dict[str, Any] = {"order": case.order, "epsilon": epsilon}
    assert entropic_cost(case.real, case.fake, **options).item() == pytest.approx(case.cost)
    assert sinkhorn_divergence(case.real, case.fake, **options).item() == pytest.approx(case.cost)


@pytest.mark.parametrize("epsilon", [0.25, 1.0, 4.0])
@pytest.mark.parametrize(
    ("variance_a", "variance_b", "shift"), [(1, 1, 0), (1, 2, 1), (0.5, 3, -2)]
)
def test_gaussians_on_the_line(
    variance_a: float, variance_b: float, shift: float, epsilon: float
) -> None:
    x, a = gaussian_grid(0, variance_a)
    y, b = gaussian_grid(shift, variance_b)
    options: dict[str, Any] = {"epsilon": epsilon, "relative": False, "tolerance": 1e-10}
    cost = entropic_cost(x, y, real_weights=a, fake_weights=b, **options)
    expected = entropic_gaussian(0, variance_a, shift, variance_b, epsilon)
    assert cost.item() == pytest.approx(expected, rel=1e-7)
    divergence = sinkhorn_divergence(x, y, real_weights=a, fake_weights=b, **options)
    self_terms = [
        entropic_gaussian(0, v, 0, v, epsilon) for v in (float(variance_a), float(variance_b))
    ]
    assert divergence.item() == pytest.approx(expected - sum(self_terms) / 2, abs=1e-7)


def test_translation_is_not_biased() -> None:
    """Of equal shapes the divergence is |t|^2 for every epsilon: the shift leaves every plan."""
    x, shift = cloud(9, 4, seed=1), cloud(4, seed=2)
    for epsilon in (1.0, 10.0):
        divergence = sinkhorn_divergence(
            x, x + shift, epsilon=epsilon, relative=False, tolerance=1e-9, max_iterations=20_000
        )
        assert divergence.item() == pytest.approx(shift.square().sum().item(), rel=1e-7)


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-1, 1.0])
@pytest.mark.parametrize("sizes", [(8, 8), (6, 11)])
def test_sandwich(sizes: tuple[int, int], epsilon: float, order: float) -> None:
    """W <= OT_eps <= W + eps log min(n, m)."""
    n, m = sizes
    x, y = cloud(n, 3, seed=1), cloud(m, 3, seed=2)
    cost = cost_matrix(x, y, order=order)
    absolute = epsilon * cost.mean().item()
    entropic = entropic_cost(
        x, y, order=order, epsilon=epsilon, tolerance=1e-4, max_iterations=20_000
    ).item()
    truth, _ = oracles.transport(cost.numpy())
    # The dual value falls short by the marginal error times the spread of the potentials.
    slack = 2e-4 * cost.max().item()
    assert truth - slack <= entropic <= truth + absolute * math.log(min(n, m)) + slack


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("num_iterations", [1, 5, 20_000])
def test_bounds_of_a_single_term_enclose_it(num_iterations: int, order: float) -> None:
    x, y = cloud(9, 3, seed=1), cloud(7, 3, seed=2)
    a, b = weights(9, seed=3), weights(7, seed=4)
    a, b = a / a.sum(), b / b.sum()
    costs, epsilon = cost_matrix(x, y, order=order), 0.1
    solver = Sinkhorn(
        order=order, epsilon=epsilon, relative=False, tolerance=1e-9, max_iterations=num_iterations
    )
    sides = Measure(x[None], a[None]), Measure(y[None], b[None])
    result = entropic_batch(solver, *sides, debiased=False, bounds=True)
    assert result.lower is not None
    assert result.upper is not None

    exact, _ = oracles.entropic(costs.numpy(), a.numpy(), b.numpy(), epsilon)
    unregularised, _ = oracles.transport(costs.numpy(), a.numpy(), b.numpy())
    slack = 1e-9 * exact
    lower, upper = result.lower.item(), result.upper.item()
    assert lower <= result.cost.item() <= upper
    assert lower - slack <= exact <= upper + slack
    assert unregularised <= upper + slack
    if num_iterations == 20_000:
        assert upper - lower < 1e-6 * exact
    else:
        assert upper - lower > 1e-6 * exact
    assert entropic_batch(solver, *sides, debiased=False).upper is None


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_small_epsilon_approaches_exact_transport(order: float) -> None:
    x, y = cloud(12, 3, seed=1), cloud(12, 3, seed=2)
    cost = entropic_cost(
        x, y, order=order, epsilon=1e-3, tolerance=1e-4, max_iterations=100_000
    ).item()
    mean = cost_matrix(x, y, order=order).mean().item()
    truth = Exact(order=order).solve(x, y).cost.item()
    assert abs(cost - truth) <= 1e-3 * mean * math.log(12) + 1e-4 * mean * 10


def test_large_epsilon_approaches_the_product_plan() -> None:
    x, y = cloud(7, 3, seed=1), cloud(9, 3, seed=2)
    cost = entropic_cost(x, y, epsilon=1e6)
    # The next term is of order mean cost / epsilon.
    assert cost.item() == pytest.approx(cost_matrix(x, y).mean().item(), rel=1e-5)


@pytest.mark.parametrize("case", NOTHING, ids=lambda case: f"{case.name}-{case.order}")
@pytest.mark.parametrize("epsilon", [0.02, 0.05, 0.5])
def test_equal_laws(case: TransportCase, epsilon: float) -> None:
    """With the default tolerance, and quietly: this is the question every user asks first."""
    result = Sinkhorn(order=case.order, epsilon=epsilon).solve(case.real, case.fake)
    scale = cost_matrix(case.real, case.fake, order=case.order).mean().item()
    assert result.cost.item() == pytest.approx(0, abs=1e-9 * scale)
    assert result.converged


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.5])
def test_more_equal_laws(epsilon: float, order: float) -> None:
    x = cloud(40, 3, seed=1)
    scale = cost_matrix(x, x, order=order).mean().item()
    divergence = sinkhorn_divergence(x, x.flip(0), order=order, epsilon=epsilon)
    assert divergence.item() == pytest.approx(0, abs=1e-9 * scale)


@pytest.mark.parametrize("order", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_divergence_is_not_negative(epsilon: float, order: float) -> None:
    """The kernel exp(-|x - y|^p / eps) is positive definite up to p = 2, so S >= 0 in theory."""
    for seed in range(12):
        x = cloud(6, 2, seed=seed)
        y = x[:5] + 1e-3 * cloud(5, 2, seed=100 + seed)
        divergence = sinkhorn_divergence(
            x, y, order=order, epsilon=epsilon, tolerance=1e-8, max_iterations=100_000
        )
        assert divergence.item() >= -1e-9


def test_debiased_potentials_are_the_first_variation() -> None:
    """Moving mass h from real point 1 to point 0 changes S by h (f_0 - f_1)."""
    x, y, a = cloud(6, 3, seed=1), cloud(7, 3, seed=2), weights(6, seed=3)
    a = a / a.sum()
    options: dict[str, Any] = {"epsilon": 0.5, "relative": False} | TIGHT
    result = Sinkhorn(**options).solve(x, y, real_weights=a)
    assert result.potentials is not None
    f, g = result.potentials
    assert f.shape == (6,)
    assert g.shape == (7,)
    h = 1e-5
    step = torch.zeros(6, dtype=torch.float64)
    step[0], step[1] = h, -h
    up = sinkhorn_divergence(x, y, real_weights=a + step, **options)
    down = sinkhorn_divergence(x, y, real_weights=a - step, **options)
    assert ((up - down) / (2 * h)).item() == pytest.approx((f[0] - f[1]).item(), rel=1e-5)


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_small_epsilon_stays_finite(scale: float, epsilon: float, order: float) -> None:
    x = (cloud(20, 3, seed=1) * scale).requires_grad_()
    y = cloud(15, 3, seed=2) * scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 50 steps: only overflow matters
        result = Sinkhorn(order=order, epsilon=epsilon, max_iterations=50).solve(x, y)
    assert result.potentials is not None
    (gradient,) = torch.autograd.grad(result.value, x)
    for tensor in (result.value, result.cost, *result.potentials, gradient):
        assert tensor.isfinite().all()
    # Whatever the number of steps, the dual value lies below its optimum.
    exact = Exact(order=order).solve(x.detach(), y)
    bound = epsilon * cost_matrix(x.detach(), y, order=order).mean() * math.log(20)
    assert result.cost <= exact.cost + bound


def test_long_runs_at_small_epsilon_stay_finite_and_go_on() -> None:
    """Potentials travel far from where annealing left them: the scalings must be absorbed."""
    x, y = cloud(20, 3, seed=1), cloud(15, 3, seed=2)
    costs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for iterations in (300, 3000):
            result = Sinkhorn(epsilon=1e-5, max_iterations=iterations).solve(x, y)
            assert result.potentials is not None
            assert all(t.isfinite().all() for t in (result.cost, *result.potentials))
            costs.append(result.cost.item())
    # The dual value rises to that of the exact plan; unabsorbed it stands still at 1.8907.
    assert 1.9 < costs[0] < costs[1] - 0.01
    assert costs[1] < Exact().solve(x, y).cost.item() == pytest.approx(1.95034, abs=1e-5)


@pytest.mark.parametrize("epsilon", [1e-1, 1e-2, 1e-3])
def test_tight_clusters_stay_finite(epsilon: float) -> None:
    x = torch.cat([cloud(9, 3, seed=1) * 1e-3 + 100, cloud(9, 3, seed=2) * 1e-3 - 100])
    y = torch.cat([cloud(5, 3, seed=3) * 1e-3 + 100, cloud(13, 3, seed=4) * 1e-3 - 100])
    result = Sinkhorn(epsilon=epsilon).solve(x, y)
    # 4 of 18 parts cross a distance of 200 in each coordinate.
    assert result.cost.item() == pytest.approx(4 / 18 * 3 * 200**2, rel=0.3)


@pytest.mark.parametrize("epsilon", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("far", [10.0, 1e3, 1e6])
def test_a_point_without_weight_does_not_exist(far: float, epsilon: float) -> None:
    x, y = cloud(10, 3, seed=1), cloud(8, 3, seed=2)
    a, b = weights(10, seed=3, zeros=1), weights(8, seed=4, zeros=1)
    x[0], y[0] = far, -far
    options: dict[str, Any] = {"epsilon": epsilon, "tolerance": 1e-4, "max_iterations": 50_000}
    result = Sinkhorn(**options).solve(x, y, real_weights=a, fake_weights=b)
    expected = sinkhorn_divergence(x[1:], y[1:], real_weights=a[1:], fake_weights=b[1:], **options)
    # Both stop within 1e-4 of the marginals.
    assert result.cost.item() == pytest.approx(expected.item(), rel=1e-3)
    assert result.potentials is not None
    assert all(potential.isfinite().all() for potential in result.potentials)


@pytest.mark.parametrize("function", [sinkhorn_divergence, entropic_cost])
def test_stopping_early_warns_once(function: Callable[..., torch.Tensor]) -> None:
    """Once for a batch of three, with what to raise, at the caller's line."""
    x, y = cloud(3, 12, 3, seed=1), cloud(3, 12, 3, seed=2)
    with pytest.warns(ConvergenceWarning, match="raise `max_iterations`") as caught:
        function(x, y, epsilon=1e-3, max_iterations=3)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_stopping_early_shows_in_the_result() -> None:
    x, y = cloud(12, 3, seed=1), cloud(12, 3, seed=2)
    with pytest.warns(ConvergenceWarning):
        result = Sinkhorn(epsilon=1e-3, max_iterations=3).solve(x, y)
    assert not result.converged
    assert result.num_iterations == 3
    assert "marginal error" in result.message
    assert Sinkhorn(epsilon=0.5).solve(x, y).converged


def test_one_failure_marks_the_batch() -> None:
    easy = cloud(1, 12, 3, seed=1)
    x = torch.cat([easy * 0, easy])
    y = torch.cat([easy * 0, cloud(1, 12, 3, seed=2)])
    with pytest.warns(ConvergenceWarning):
        result = Sinkhorn(epsilon=1e-3, max_iterations=3).solve(x, y)
    assert not result.converged


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_convergence_means_the_marginals(tolerance: float) -> None:
    """The plan of the returned potentials, rebuilt, has the marginals that it claims."""
    x, y, a = cloud(9, 3, seed=1), cloud(7, 3, seed=2), weights(9, seed=3)
    a = a / a.sum()
    epsilon = 0.3
    solver = Sinkhorn(2.0, epsilon, False, tolerance, 10_000)
    uniform = torch.full((1, 7), 1 / 7, dtype=torch.float64)
    measures = Measure(x[None], a[None]), Measure(y[None], uniform)
    solved = entropic_batch(solver, *measures, debiased=False)
    f, g = (potential[0] for potential in solved.potentials)
    plan = ((f[:, None] + g - cost_matrix(x, y)) / epsilon).exp() * a[:, None] / 7
    assert (plan.sum(1) - a).abs().sum().item() <= tolerance
    assert (plan.sum(0) - 1 / 7).abs().sum().item() <= 1e-12
    _, expected = oracles.entropic(
        cost_matrix(x, y).numpy(), a.numpy(), oracles.uniform(7), epsilon
    )
    # A marginal error moves the plan by itself times the condition of the problem, here below 50.
    np.testing.assert_allclose(plan.numpy(), expected, rtol=0, atol=50 * tolerance)


@pytest.mark.parametrize("function", [sinkhorn_divergence, entropic_cost])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient(weighted: bool, order: float, function: Callable[..., torch.Tensor]) -> None:
    x, y = cloud(4, 2, seed=1).requires_grad_(), cloud(5, 2, seed=2).requires_grad_()
    a = weights(4, seed=3) if weighted else None
    assert torch.autograd.gradcheck(
        lambda u, v: function(
            u, v, order=order, epsilon=0.5, relative=False, real_weights=a, **TIGHT
        ),
        (x, y),
    )


def test_relative_epsilon_is_a_constant_for_the_gradient() -> None:
    x, y = cloud(6, 3, seed=1).requires_grad_(), cloud(5, 3, seed=2)
    absolute = 0.1 * cost_matrix(x.detach(), y).mean().item()
    relative_value = sinkhorn_divergence(x, y, epsilon=0.1, **TIGHT)
    absolute_value = sinkhorn_divergence(x, y, epsilon=absolute, relative=False, **TIGHT)
    torch.testing.assert_close(relative_value, absolute_value, rtol=1e-10, atol=0)
    gradients = [torch.autograd.grad(v, x)[0] for v in (relative_value, absolute_value)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("rooted", [False, True])
def test_gradient_at_equal_laws_is_finite(rooted: bool, copies: int, order: float) -> None:
    x = cloud(7, 4).requires_grad_()
    result = Sinkhorn(order=order, epsilon=0.5).solve(x, x.detach().repeat(copies, 1))
    (gradient,) = torch.autograd.grad(result.value if rooted else result.cost, x)
    assert gradient.isfinite().all()
    if not rooted:
        # S is smooth at its minimum, so its gradient there is what the tolerance leaves.
        assert gradient.abs().max() < 1e-4


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_constant_features(order: float) -> None:
    x = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
    result = Sinkhorn(order=order).solve(x, torch.ones(4, 3, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(result.value, x)
    assert result.cost.item() == pytest.approx(0, abs=1e-15)
    assert (gradient == 0).all()


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_batch_equals_loop(weighted: bool, order: float) -> None:
    x, y = cloud(3, 9, 4, seed=1), cloud(3, 6, 4, seed=2)
    a = weights(3, 9, seed=3) if weighted else None
    b = weights(6, seed=4) if weighted else None
    options: dict[str, Any] = {"order": order, "epsilon": 0.3}
    batch = Sinkhorn(**options).solve(x, y, real_weights=a, fake_weights=b)
    assert batch.potentials is not None
    alone = [
        Sinkhorn(**options).solve(
            x[i], y[i], real_weights=None if a is None else a[i], fake_weights=b
        )
        for i in range(3)
    ]
    for i, result in enumerate(alone):
        assert result.potentials is not None
        # Both stop at a marginal error of 1e-5, a batched solver perhaps a step later.
        torch.testing.assert_close(batch.cost[i], result.cost, rtol=1e-4, atol=0)
        torch.testing.assert_close(batch.value[i], result.value, rtol=1e-4, atol=0)
        torch.testing.assert_close(
            batch.potentials[0][i], result.potentials[0], rtol=1e-3, atol=1e-3
        )
    assert batch.num_iterations is not None
    assert batch.num_iterations >= max(result.num_iterations or 0 for result in alone)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_offset_and_scale(scale: float) -> None:
    x, y = cloud(9, 5, seed=1), cloud(7, 5, seed=2)
    expected = scale**2 * sinkhorn_divergence(x, y, epsilon=0.3)
    moved = sinkhorn_divergence(scale * (x + 1e6), scale * (y + 1e6), epsilon=0.3)
    # 1e6 rounds to 1e-10 in the input, against costs of order one.
    torch.testing.assert_close(moved, expected, rtol=1e-8, atol=0)


def test_one_cloud_with_two_sets_of_weights() -> None:
    # The very same tensor on both sides is a self term only if the weights agree too.
    x, a, b = cloud(12, 3, seed=1), weights(12, seed=2), weights(12, seed=3)
    same = sinkhorn_divergence(x, x, real_weights=a, fake_weights=b)
    copied = sinkhorn_divergence(x, x.clone(), real_weights=a, fake_weights=b)
    assert same.item() == copied.item() > 1e-3


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sides", ["real", "fake", "both"])
def test_repeated_points_are_solved_as_one(
    sides: str, weighted: bool, order: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values, potentials and gradients are those of the points one by one."""
    x, y = cloud(40, 3, seed=1), cloud(30, 3, seed=2) + 0.5
    if sides != "fake":
        x = x[torch.randint(0, 6, (40,), generator=torch.Generator().manual_seed(3))]
    if sides != "real":
        y[3:] = y[0].clone()
    options = {"order": order, "epsilon": 0.1, **TIGHT}
    masses = {}
    if weighted:
        masses = {"real_weights": weights(40, seed=4, zeros=9), "fake_weights": weights(30, seed=5)}
    found = []
    for merged in (True, False):
        if not merged:
            monkeypatch.setattr(
                sinkhorn,
                "merge_repeated",
                lambda measure: Places(measure, slice(None), slice(None), None),
            )
        x, y = (side.detach().requires_grad_() for side in (x, y))
        result = Sinkhorn(**options).solve(x, y, **masses)
        slopes = torch.autograd.grad(result.cost, (x, y))
        assert result.potentials is not None
        plain = entropic_cost(x, y, **options, **masses)
        found.append((result.cost, plain, *result.potentials, *slopes))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_hardly_any_different_points_take_hardly_any_time(
    order: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One point of a hundred differs: kernels are of the different ones, whatever N is."""
    largest = []
    build = GibbsKernel.__init__

    def watched(self, x, y, *rest):
        largest.append(max(x.shape[1], y.shape[1]))
        build(self, x, y, *rest)

    monkeypatch.setattr(GibbsKernel, "__init__", watched)
    x, y = cloud(20_000, 8, seed=1).float(), cloud(50, 8, seed=2).float() + 0.5
    x[200:] = x[0].clone()
    result = Sinkhorn(order=order).solve(x, y)
    assert result.converged
    assert max(largest) == 200
    a = torch.ones(200)
    a[0] += len(x) - 200
    expected = Sinkhorn(order=order).solve(x[:200], y, real_weights=a)
    torch.testing.assert_close(result.cost, expected.cost, rtol=1e-5, atol=0)


def test_many_close_pairs_are_told_from_differences() -> None:
    x = cloud(60, 5, seed=1)
    x[:40] = x[0] + 1e-6 * cloud(40, 5, seed=2)
    for dtype, precision in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
        points = x.to(dtype)[None]
        workspace = Workspace(dtype, points.device, 1e9)
        kernel = GibbsKernel(points, points.clone(), 1.0, workspace)
        expected = oracles.costs(points[0].double().numpy(), points[0].double().numpy(), 1.0)
        found = kernel.costs[0].double().numpy()
        np.testing.assert_allclose(found, expected, rtol=10 * precision, atol=1e-12)
