"""What is made of exact plans: assignments, alone and in batches, and maps."""

import warnings

import pytest
import torch
from cases import ORDERS, cloud, weights
from hypothesis import given
from hypothesis import strategies as st

from otmetrics import Exact
from otmetrics.errors import ConvergenceWarning
from otmetrics.functional import (
    TransportResult,
    barycentric_projection,
    exact_wasserstein,
)
from otmetrics.transport.exact.small import assigned_optimum


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["normal", "offset", "lattice", "same"])
def test_batches_of_one_size_are_assignments(kind: str, order: float) -> None:
    x, y = cloud(6, 15, 4, seed=1), cloud(6, 15, 4, seed=2)
    if kind == "offset":
        x, y = x + 1e6, y + 1e6
    if kind == "lattice":
        x, y = x.round(), y.round()
    if kind == "same":
        y = x.flip(1)
    x.requires_grad_()
    batch = Exact(order=order).solve(x, y)
    assert batch.assignment is not None
    for i in range(6):
        alone = Exact(order=order).solve(x[i], y[i])
        torch.testing.assert_close(batch.cost[i], alone.cost, rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(batch.value[i], alone.value, rtol=1e-9, atol=1e-14)
        assert batch.assignment[i].sort().values.tolist() == list(range(15))
    if kind in ("normal", "offset"):  # one optimum, one gradient
        (together,) = torch.autograd.grad(batch.value.sum(), x, retain_graph=True)
        alone = [exact_wasserstein(p, q, order=order) for p, q in zip(x, y, strict=True)]
        (apart,) = torch.autograd.grad(torch.stack(alone).sum(), x)
        torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-12)
    plan = batch.plan.to_dense()
    torch.testing.assert_close(plan.sum(1), torch.full((6, 15), 1 / 15, dtype=plan.dtype))
    picked = plan[torch.arange(6)[:, None], torch.arange(15), batch.assignment]
    assert (picked == 1 / 15).all()
    # What an assignment does not know is not made up.
    assert batch.lower_bound is None
    assert batch.potentials is None


@given(
    n=st.integers(2, 60),
    kind=st.sampled_from(["normal", "integers", "constant"]),
    seed=st.integers(0, 10**6),
)
def test_an_assignment_is_proved(n: int, kind: str, seed: int) -> None:
    """Potentials from shortest paths respect all pairs and meet the cost of scipy's assignment."""
    from scipy.optimize import linear_sum_assignment

    cost = cloud(n, n, seed=seed)
    if kind == "integers":  # ties
        cost = cost.round()
    if kind == "constant":
        cost = torch.full_like(cost, -3.0)
    rows, columns = linear_sum_assignment(cost.numpy())
    truth = cost[rows, columns].mean().item()
    found = assigned_optimum(cost)
    size = cost.abs().amax().item()
    assert found.upper_bound.item() == pytest.approx(truth, rel=1e-12, abs=1e-14 * size)
    f, g = found.potentials
    assert (f[:, None] + g - cost).amax() <= 1e-14 * size
    assert truth - 1e-12 * size <= found.lower_bound.item() <= truth + 1e-14 * size
    assert found.columns.sort().values.tolist() == list(range(n))


def test_a_batch_in_no_grad_mode_has_no_graph() -> None:
    x, y = cloud(3, 8, 2, seed=1).requires_grad_(), cloud(3, 5, 2, seed=2)
    with torch.no_grad():
        assert not Exact().solve(x, y).cost.requires_grad
    assert Exact().solve(x, y).cost.requires_grad


def test_assignment() -> None:
    x = cloud(6, 3, seed=1)
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    assert torch.equal(Exact().solve(x[order], x).assignment, order)
    assert Exact().solve(x, x[:4]).assignment is None
    assert Exact().solve(x, cloud(6, 3), real_weights=weights(6)).assignment is None
    assert TransportResult(torch.ones(()), torch.ones(())).assignment is None


def test_barycentric_projection() -> None:
    real, fake = cloud(5, 3, seed=1), cloud(8, 3, seed=2).requires_grad_()
    plan = Exact().solve(real, fake, fake_weights=weights(8, seed=3)).plan
    dense = plan.to_dense()
    expected = dense @ fake / dense.sum(1, keepdim=True)
    for form in (plan, dense):
        torch.testing.assert_close(barycentric_projection(form, fake), expected)
    assert torch.autograd.gradcheck(lambda y: barycentric_projection(dense, y), fake)
    assert barycentric_projection(plan, fake.float()).dtype == torch.float32
    for arguments, message in (
        ((dense, fake[:5]), r"`plan` must be \(N, M\) and `fake` \(M, D\), got \(5, 8\) and"),
        (
            (dense * torch.tensor([[1.0], [0], [1], [0], [1]]), fake),
            "none from 2 of them, first from number 1",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            barycentric_projection(*arguments)
    with pytest.raises(TypeError, match=r"`plan` must be a torch\.Tensor"):
        barycentric_projection(dense.tolist(), fake)
    with pytest.raises(TypeError, match=r"`fake` must be floating, got torch\.int64"):
        barycentric_projection(dense, fake.long())


def test_a_translation_is_its_own_barycentric_projection() -> None:
    real = cloud(40, 5, seed=1)
    fake = real.flip(0) + 3
    torch.testing.assert_close(
        barycentric_projection(Exact().solve(real, fake).plan, fake), real + 3
    )


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("far", [1e4, 1e6])
def test_a_batch_with_an_outlier(far: float, order: float) -> None:
    x, y = 1e-3 * cloud(3, 40, 3, seed=1), 1e-3 * cloud(3, 40, 3, seed=2)
    x[1, 0] = y[1, 7] = far
    batch = Exact(order=order).solve(x, y)
    for i in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            alone = Exact(order=order).solve(x[i], y[i])
        assert batch.cost[i].item() == pytest.approx(alone.cost.item(), rel=1e-6)
