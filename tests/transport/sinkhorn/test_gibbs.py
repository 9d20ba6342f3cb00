"""The Gibbs kernel: stored, half stored or in blocks, its products and gradients are the same."""

import math
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from cases import ORDERS, cloud, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from otmetrics import Sinkhorn
from otmetrics.functional import cost_matrix
from otmetrics.transport.sinkhorn import gibbs
from otmetrics.transport.sinkhorn.gibbs import GibbsKernel, Workspace

CPU = torch.device("cpu")
# Bytes for two matrices of (2, 9, 7) in float64, for one, and for none.
LIMITS = {"stored": 2 * 2 * 63 * 8, "costs stored": 2 * 63 * 8, "blocks": 0}


def kernel(
    limit: float, order: float = 2.0, batch: int = 2
) -> tuple[GibbsKernel, torch.Tensor, torch.Tensor]:
    x, y = cloud(batch, 9, 3, seed=1), cloud(batch, 7, 3, seed=2)
    return GibbsKernel(x, y, order, Workspace(torch.float64, CPU, limit)), x, y


@pytest.fixture(params=[2**25, 100])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """One block of rows, and several."""
    monkeypatch.setattr(gibbs, "_BLOCK", request.param)
    monkeypatch.setattr(gibbs, "_CACHED", 30 if request.param < 2**20 else 2**19)
    return request.param


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_products(limit: float, order: float, block: int) -> None:
    operator, x, y = kernel(limit, order)
    costs = cost_matrix(x, y, order=order)
    epsilon = torch.tensor([0.7, 1.3], dtype=torch.float64)
    p, q = cloud(2, 9, seed=3), cloud(2, 7, seed=4)
    a, v = weights(2, 9, seed=5), weights(2, 7, seed=6)
    operator.build(p, q, epsilon)
    dense = (p[:, :, None] + q[:, None] - costs / epsilon[:, None, None]).exp()
    rows = (dense @ v[..., None])[..., 0]
    close = {"rtol": 1e-11, "atol": 1e-13}
    torch.testing.assert_close(operator.rows(v), rows, **close)
    torch.testing.assert_close(operator.columns(a), (a[:, None] @ dense)[:, 0], **close)
    torch.testing.assert_close(operator.costs_times(v), (costs @ v[..., None])[..., 0], **close)
    torch.testing.assert_close(
        operator.transposed_costs_times(a), (a[:, None] @ costs)[:, 0], **close
    )
    phi, psi = operator.sweep(v, a)
    torch.testing.assert_close(phi, -rows.log(), **close)
    expected = -((a / rows)[:, None] @ dense)[:, 0].log()
    torch.testing.assert_close(psi, expected, **close)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_gradients_of_a_fixed_plan(limit: float, order: float, block: int) -> None:
    operator, x, y = kernel(limit, order)
    epsilon = torch.tensor([0.7, 1.3], dtype=torch.float64)
    p, q = cloud(2, 9, seed=3), cloud(2, 7, seed=4)
    a, b = weights(2, 9, seed=5), weights(2, 7, seed=6)
    operator.build(p, q, epsilon)
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    costs = cost_matrix(x, y, order=order)
    dense = (p[:, :, None] + q[:, None] - costs / epsilon[:, None, None]).exp().detach()
    total = (a[:, :, None] * dense * b[:, None] * costs).sum()
    for found, expected in zip(
        operator.gradients(a, b, (True, True)), torch.autograd.grad(total, (x, y)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert operator.gradients(a, b, (False, False)) == (None, None)


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_that_meet_cost_nothing(dtype: torch.dtype, order: float) -> None:
    """Copies of one cloud, far from the origin of the other copies: exactly zero below p = 2."""
    x = (cloud(1, 30, 50, seed=1) * 10).to(dtype)
    workspace = Workspace(dtype, CPU, 1e9)
    costs = GibbsKernel(x, x.flip(1), order, workspace).costs
    assert costs is not None
    meeting = costs[0].flip(1).diagonal()
    scale = costs.max() * torch.finfo(dtype).eps
    assert meeting.abs().max() <= (4 * scale if order == 2 else 0)
    own = GibbsKernel(x, x, order, workspace).costs
    assert own is not None
    assert (own[0].diagonal() == 0).all()


def test_a_small_share_of_close_pairs_is_computed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once takes ten times as long for a hundred tight clusters in 1024 dimensions."""
    centres = cloud(50, 4, seed=1)
    x, y = (centres.repeat(8, 1) + 1e-7 * cloud(400, 4, seed=seed) for seed in (2, 3))
    pairs = (x[:, None] - y).norm(dim=2) < 1e-5
    assert len(x) + len(y) < pairs.sum() < 0.05 * pairs.numel()
    monkeypatch.delattr(torch, "cdist")
    costs = GibbsKernel(x[None], y[None], 1.0, Workspace(torch.float64, CPU, 1e9)).costs
    assert costs is not None
    torch.testing.assert_close(costs[0], (x[:, None] - y).norm(dim=2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
@pytest.mark.parametrize(
    "limit", [1.0, 15 * 15 * 8, 2 * 15 * 15 * 8], ids=["blocks", "costs stored", "one stored"]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_memory_changes_nothing(weighted: bool, limit: float, order: float, block: int) -> None:
    """Value, bounds, potentials and gradient, with costs and kernel stored or not."""
    x, y = cloud(3, 15, 3, seed=1), cloud(3, 11, 3, seed=2)
    options: dict[str, Any] = {"order": order, "epsilon": 0.1, "tolerance": 1e-10}
    a = weights(3, 15, seed=3, zeros=4) if weighted else None
    results = []
    for memory_limit in (None, limit):
        clouds = x.clone().requires_grad_(), y.clone().requires_grad_()
        result = Sinkhorn(memory_limit=memory_limit, **options).solve(*clouds, real_weights=a)
        assert result.lower_bound is not None
        assert result.potentials is not None
        gradient = torch.autograd.grad(result.cost.sum(), clouds)
        results.append([result.cost, result.lower_bound, *result.potentials, *gradient])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)


def test_peak_memory_is_that_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit no tensor of N M entries is ever taken."""
    monkeypatch.setattr(gibbs, "_BLOCK", 500)
    taken = []
    take = Workspace.take

    def counted(self: Workspace, name: str, *shape: int) -> torch.Tensor:
        taken.append(math.prod(shape))
        return take(self, name, *shape)

    monkeypatch.setattr(Workspace, "take", counted)
    x = cloud(100, 3, seed=1).requires_grad_()
    Sinkhorn(memory_limit=1000.0).solve(x, cloud(80, 3, seed=2)).cost.backward()
    assert max(taken) <= 500


@settings(max_examples=40)  # the loops of the oracle take their time
@given(
    n=st.integers(1, 8),
    m=st.integers(1, 8),
    d=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([1e-3, 1.0, 1e6]),
    offset=st.sampled_from([0.0, 1.0, 1e3]),
    copies=st.booleans(),
    epsilon=st.sampled_from([0.1, 0.3, 1.0]),
    order=st.sampled_from([1.0, 1.5, 2.0, 3.0]),
)
def test_against_log_domain_loops(
    n: int,
    m: int,
    d: int,
    seed: int,
    scale: float,
    offset: float,
    copies: bool,
    epsilon: float,
    order: float,
) -> None:
    """Shapes, scales, offsets, duplicates: the oracle's value lies between the bounds."""
    x, y = cloud(n, d, seed=seed) + offset, cloud(m, d, seed=seed + 1) + offset
    if copies:
        y[: min(n, m)] = x[: min(n, m)]
    mean = cost_matrix(x, y, order=order).mean().item()
    absolute = epsilon * mean if mean > 0 else epsilon
    result = Sinkhorn(
        order=order,
        epsilon=absolute * scale**order,
        relative=False,
        tolerance=1e-8,
        max_iterations=20_000,
    ).solve(scale * x, scale * y)

    def term(u: torch.Tensor, v: torch.Tensor) -> float:
        a, b = oracles.uniform(len(u)), oracles.uniform(len(v))
        costs = oracles.costs(u.numpy(), v.numpy(), order)
        return oracles.entropic(costs, a, b, absolute, iterations=2000)[0]

    expected = term(x, y) - (term(x, x) + term(y, y)) / 2
    unit = scale**order
    slack = 1e-7 * max(mean, np.abs(expected))
    assert result.lower_bound is not None
    assert result.upper_bound is not None
    assert result.lower_bound.item() / unit <= expected + slack
    assert result.upper_bound.item() / unit >= expected - slack
    assert result.cost.item() / unit == pytest.approx(expected, abs=slack)
    if order <= 2:
        assert result.cost.item() / unit >= -slack
    assert result.converged
