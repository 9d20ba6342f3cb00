"""Richardson's extrapolation in epsilon: its order, and that it is what it says."""

import math
from typing import Any

import pytest
import torch
from cases import cloud, gaussian_grid

from otmetrics import Sinkhorn
from otmetrics.functional import sinkhorn_divergence

TIGHT: dict[str, Any] = {"relative": False, "tolerance": 1e-12, "max_iterations": 20_000}


def test_its_error_is_of_fourth_order_in_epsilon() -> None:
    """Normal laws with variances 1 and 4, W_2^2 = 1: halving epsilon divides the error by 16.

    That of the divergence is divided by 4.
    """
    (x, a), (y, b) = gaussian_grid(0, 1.0), gaussian_grid(0, 4.0)
    errors: dict[bool, list[float]] = {False: [], True: []}
    for epsilon in (2.0, 1.0, 0.5):
        for richardson in errors:
            found = sinkhorn_divergence(
                x,
                y,
                epsilon=epsilon,
                richardson=richardson,
                real_weights=a,
                fake_weights=b,
                **TIGHT,
            )
            errors[richardson].append(abs(found.item() - 1))
    orders = {key: math.log2(values[1] / values[2]) for key, values in errors.items()}
    assert orders[False] == pytest.approx(2, abs=0.1)
    assert orders[True] == pytest.approx(4, abs=0.3)
    assert errors[True][2] < errors[False][2] / 50


def test_it_is_the_combination_of_two_divergences() -> None:
    x, y = cloud(2, 9, 3, seed=1).requires_grad_(), cloud(2, 7, 3, seed=2).requires_grad_()
    found = Sinkhorn(epsilon=0.5, richardson=True, **TIGHT).solve(x, y)
    near = Sinkhorn(epsilon=0.5, **TIGHT).solve(x, y)
    wide = Sinkhorn(epsilon=0.5 * 2**0.5, **TIGHT).solve(x, y)
    torch.testing.assert_close(found.cost, 2 * near.cost - wide.cost, rtol=1e-12, atol=1e-12)
    assert found.potentials is not None
    assert near.potentials is not None
    assert wide.potentials is not None
    for one, two, three in zip(found.potentials, near.potentials, wide.potentials, strict=True):
        torch.testing.assert_close(one, 2 * two - three, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(r.cost.sum(), (x, y)) for r in (found, near, wide)]
    for one, two, three in zip(*gradients, strict=True):
        torch.testing.assert_close(one, 2 * two - three, rtol=1e-9, atol=1e-9)


def test_its_bounds_hold_the_limit() -> None:
    """Stopped early the interval is wide, and still holds the converged value."""
    x, y = cloud(30, 3, seed=1), cloud(25, 3, seed=2)
    options: dict[str, Any] = {"epsilon": 0.2, "relative": False, "richardson": True}
    truth = sinkhorn_divergence(x, y, tolerance=1e-12, **options)
    for tolerance in (0.3, 0.01, 1e-5):
        result = Sinkhorn(tolerance=tolerance, **options).solve(x, y)
        assert result.lower_bound is not None
        assert result.upper_bound is not None
        assert result.lower_bound - 1e-12 <= truth <= result.upper_bound + 1e-12
        assert result.lower_bound <= result.cost <= result.upper_bound


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_gradient(order: float) -> None:
    x, y = cloud(4, 2, seed=1).requires_grad_(), cloud(5, 2, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda u, v: sinkhorn_divergence(u, v, order=order, epsilon=0.5, richardson=True, **TIGHT),
        (x, y),
    )


@pytest.mark.parametrize("epsilon", [0.01, 0.1])
@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_bounds_of_the_divergence_hold_when_stopped_early(
    weighted: bool, order: float, epsilon: float
) -> None:
    """Whatever the tolerance, the converged divergence lies between the bounds."""
    x, y = cloud(40, 3, seed=1), cloud(30, 3, seed=2)
    options: dict[str, Any] = {"order": order, "epsilon": epsilon, "max_iterations": 50_000}
    a = torch.linspace(0, 1, 40) if weighted else None
    truth = sinkhorn_divergence(x, y, real_weights=a, tolerance=1e-11, **options)
    for tolerance in (0.5, 0.05, 1e-3):
        result = Sinkhorn(tolerance=tolerance, **options).solve(x, y, real_weights=a)
        assert result.lower_bound is not None
        assert result.upper_bound is not None
        slack = 1e-9 * truth.abs()
        assert result.lower_bound - slack <= truth <= result.upper_bound + slack
        assert result.lower_bound <= result.cost <= result.upper_bound


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_bad_memory_limits(limit: float) -> None:
    with pytest.raises(ValueError, match="`memory_limit`"):
        sinkhorn_divergence(cloud(3, 2), cloud(3, 2), memory_limit=limit)
