"""Autograd through the iterations: what it converges to, and derivatives of any order."""

import numpy as np
import oracles
import pytest
import torch
from cases import ORDERS, cloud

from otmetrics.functional import sinkhorn_divergence
from otmetrics.transport.sinkhorn.unrolled import unrolled_sinkhorn_divergence


@pytest.mark.parametrize("order", ORDERS)
def test_value_is_that_of_the_naive_loop(order: float) -> None:
    x, y = cloud(7, 3, seed=1), cloud(9, 3, seed=2)
    epsilon = 0.3 * float(np.mean(oracles.costs(x.numpy(), y.numpy(), order)))
    expected = oracles.sinkhorn_divergence(x.numpy(), y.numpy(), order, epsilon)
    found = unrolled_sinkhorn_divergence(x, y, order=order, epsilon=0.3, num_iterations=500)
    assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_value_and_gradient_meet_those_of_the_solved_problem(batch: tuple[int, ...]) -> None:
    x, y = cloud(*batch, 8, 3, seed=1).requires_grad_(), cloud(*batch, 6, 3, seed=2)
    solved = sinkhorn_divergence(x, y, epsilon=0.2, tolerance=1e-11)
    (expected,) = torch.autograd.grad(solved.sum(), x)
    errors = []
    for num in (2, 4, 8, 400):
        found = unrolled_sinkhorn_divergence(x, y, epsilon=0.2, num_iterations=num)
        (gradient,) = torch.autograd.grad(found.sum(), x)
        errors.append(float((gradient - expected).norm() / expected.norm()))
    assert found.shape == batch
    torch.testing.assert_close(found, solved, rtol=1e-8, atol=0)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3
    assert errors[-1] < 1e-8


def test_derivatives_of_the_truncated_iteration_of_second_order_too() -> None:
    x, y = cloud(4, 2, seed=1).requires_grad_(), cloud(3, 2, seed=2).requires_grad_()

    def divergence(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return unrolled_sinkhorn_divergence(u, v, epsilon=2.0, relative=False, num_iterations=3)

    assert torch.autograd.gradcheck(divergence, (x, y))
    assert torch.autograd.gradgradcheck(divergence, (x, y))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")  # torch's own use of it
@pytest.mark.parametrize("order", [1.0, 1.5, 3.0])
def test_forward_derivatives_are_those_of_the_backward_pass(order: float) -> None:
    x, along = cloud(6, 2, seed=1), cloud(6, 2, seed=2)
    y = torch.cat([x[:3], cloud(2, 2, seed=3)])  # some points coincide, all do in the self terms

    def divergence(z: torch.Tensor) -> torch.Tensor:
        return unrolled_sinkhorn_divergence(z, y, order=order, relative=False, num_iterations=9)

    _, forward = torch.func.jvp(divergence, (x,), (along,))
    backward = (torch.func.grad(divergence)(x) * along).sum()
    torch.testing.assert_close(forward, backward, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_iterations": 0}, "`num_iterations` must be"),
        ({"epsilon": 0.0}, "`epsilon` must be"),
        ({"relative": 1}, "`relative` must be"),
        ({"order": 0.5}, "`order` must be"),
    ],
)
def test_options_are_checked(option: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unrolled_sinkhorn_divergence(cloud(3, 2, seed=1), cloud(3, 2, seed=2), **option)
