"""Transport on the line: sizes, weights, orders, ties."""

import oracles
import pytest
import torch
from cases import ORDERS, TransportCase, cloud, transport_cases, weights

from otmetrics.functional import univariate_cost
from otmetrics.transport.line import merged_quantiles

SIZES = [(1, 1), (1, 7), (6, 6), (4, 6), (5, 12), (13, 7)]
LINES = [case for case in transport_cases() if case.real.shape[1] == 1]


def normalised(values: torch.Tensor) -> torch.Tensor:
    return values / values.sum(-1, keepdim=True)


@pytest.mark.parametrize("case", LINES, ids=lambda case: f"{case.name}-{case.order}")
def test_closed_forms(case: TransportCase) -> None:
    cost = univariate_cost(case.real[:, 0], case.fake[:, 0], order=case.order)
    assert cost.item() == pytest.approx(case.cost, rel=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("weighted", ["none", "real", "fake", "both"])
def test_against_merging(weighted: str, sizes: tuple[int, int], order: float) -> None:
    n, m = sizes
    x, y = cloud(n, seed=1), cloud(m, seed=2)
    a = normalised(weights(n, seed=3, zeros=n // 3)) if weighted in ("real", "both") else None
    b = normalised(weights(m, seed=4, zeros=m // 3)) if weighted in ("fake", "both") else None
    cost = univariate_cost(x, y, order=order, real_weights=a, fake_weights=b)
    expected = oracles.univariate(
        x.numpy(),
        y.numpy(),
        order,
        None if a is None else a.numpy(),
        None if b is None else b.numpy(),
    )
    assert cost.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sizes", SIZES)
def test_ties(sizes: tuple[int, int]) -> None:
    """Many equal values on both sides, and equal cumulative weights."""
    n, m = sizes
    x, y = (cloud(n, seed=1) * 2).round(), (cloud(m, seed=2) * 2).round()
    for a, b in ((None, None), (torch.full((n,), 1 / n).double(), None)):
        cost = univariate_cost(x, y, order=1, real_weights=a, fake_weights=b)
        assert cost.item() == pytest.approx(oracles.univariate(x.numpy(), y.numpy(), 1), abs=1e-7)


@pytest.mark.parametrize("order", ORDERS)
def test_rows_are_problems(order: float) -> None:
    x, y = cloud(3, 7, seed=1), cloud(3, 5, seed=2)
    a, b = weights(3, 7, seed=3), weights(5, seed=4)
    uniform = univariate_cost(x, y, order=order)
    weighted = univariate_cost(x, y, order=order, real_weights=a, fake_weights=b)
    assert uniform.shape == weighted.shape == (3,)
    for i in range(3):
        alone = univariate_cost(x[i], y[i], order=order)
        assert uniform[i].item() == pytest.approx(alone.item(), rel=1e-12)
        alone = univariate_cost(x[i], y[i], order=order, real_weights=a[i], fake_weights=b)
        assert weighted[i].item() == pytest.approx(alone.item(), rel=1e-12)


@pytest.mark.parametrize("sizes", SIZES)
def test_equal_weights_are_uniform(sizes: tuple[int, int]) -> None:
    n, m = sizes
    x, y = cloud(n, seed=1), cloud(m, seed=2)
    a = torch.full((n,), 1 / n, dtype=torch.float64)
    weighted = univariate_cost(x, y, real_weights=a)
    torch.testing.assert_close(weighted, univariate_cost(x, y), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("place", [-1e9, 0.5, 1e9])
def test_a_point_without_weight_does_not_exist(place: float, order: float) -> None:
    """Wherever it lies: cumulative weights that end an ulp below one must not reach it."""
    outlier = torch.tensor([place], dtype=torch.float64)
    nothing = torch.zeros(1, dtype=torch.float64)
    for seed in range(40):
        x, y = cloud(19, seed=seed), cloud(14, seed=100 + seed)
        a = normalised(weights(19, seed=seed))
        cost = univariate_cost(
            torch.cat([x, outlier]), y, order=order, real_weights=torch.cat([a, nothing])
        )
        expected = univariate_cost(x, y, order=order, real_weights=a)
        torch.testing.assert_close(cost, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("sizes", [*SIZES, (1000, 999), (64, 4096)])
def test_merged_quantiles(sizes: tuple[int, int]) -> None:
    """Widths sum to one, and every sample keeps its 1/N."""
    n, m = sizes
    rows, columns, widths = merged_quantiles(n, m)
    assert (widths > 0).all()
    for index, size in ((rows, n), (columns, m)):
        mass = torch.zeros(size, dtype=torch.float64).index_add_(0, index, widths)
        torch.testing.assert_close(mass, torch.full_like(mass, 1 / size), rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sizes", [(6, 6), (5, 8)])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient(weighted: bool, sizes: tuple[int, int], order: float) -> None:
    n, m = sizes
    x, y = cloud(n, seed=1).requires_grad_(), cloud(m, seed=2).requires_grad_()
    a = normalised(weights(n, seed=3)) if weighted else None
    assert torch.autograd.gradcheck(
        lambda u, v: univariate_cost(u, v, order=order, real_weights=a), (x, y)
    )


@pytest.mark.parametrize("order", ORDERS)
def test_gradient_at_equal_samples_is_zero(order: float) -> None:
    x = cloud(9).requires_grad_()
    univariate_cost(x, x.detach().flip(0), order=order).backward()
    assert x.grad is not None
    assert (x.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_in_double(dtype: torch.dtype) -> None:
    """Values that `dtype` holds exactly, whose sum it does not."""
    x = torch.arange(100, dtype=dtype)
    cost = univariate_cost(x, x + 1)
    assert cost.dtype == torch.float64
    assert cost.item() == 1.0


def test_the_inputs_stay_as_they_are() -> None:
    x, y = cloud(9, seed=1), cloud(9, seed=2)
    copies = x.clone(), y.clone()
    univariate_cost(x, y)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])


def test_mean_cost_of_two_uniform_samples() -> None:
    """E W_2^2 of two n-samples of U[0, 1] is 1 / (3 (n + 1)); 4000 pairs of n = 9."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 4000, 9, generator=generator, dtype=torch.float64)
    costs = univariate_cost(x, y)
    error = costs.std().item() / 4000**0.5
    assert abs(costs.mean().item() - 1 / 30) < 4 * error
