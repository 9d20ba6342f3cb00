"""Pairwise costs keep their digits, near and far from the origin."""

import oracles
import pytest
import torch
from cases import ORDERS, cloud, relative_tolerance

from otmetrics.functional import cost_matrix
from otmetrics.machine import ieee_float32
from otmetrics.transport.costs import (
    BLOCK_ELEMENTS,
    centre_clouds,
    extended_potential,
    pairwise_costs,
    power_of_two,
    refine_cancelled,
    row_blocks,
    squared_distances,
)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 3), (9, 4, 1), (20, 30, 64)])
def test_against_differences(
    shape: tuple[int, int, int], order: float, device: torch.device, dtype: torch.dtype
) -> None:
    n, m, d = shape
    x, y = cloud(n, d, seed=1), cloud(m, d, seed=2)
    costs = cost_matrix(x.to(device, dtype), y.to(device, dtype), order=order)
    expected = torch.from_numpy(oracles.costs(x.numpy(), y.numpy(), order))
    torch.testing.assert_close(
        costs.cpu().double(), expected, rtol=relative_tolerance(dtype), atol=0
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("spread", [1e-2, 1e-6, 1e-12])
def test_near_duplicates(spread: float, order: float) -> None:
    """Points `spread` apart at distance 1 from the centre: the product form alone has no digits."""
    x = torch.cat([cloud(6, 4, seed=1) * spread + 1, cloud(6, 4, seed=2) * spread - 1])
    y = torch.cat([cloud(5, 4, seed=3) * spread + 1, cloud(5, 4, seed=4) * spread - 1])
    expected = torch.from_numpy(oracles.costs(x.numpy(), y.numpy(), order))
    # The product form is left where 1e-6 of the norms remain: 1e6 roundings, to the power p / 2.
    # Below that the centring moves each point by a rounding of 1, against `spread`.
    rtol = max(1e-9, 1e-15 / spread) * 2 * order
    torch.testing.assert_close(cost_matrix(x, y, order=order), expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coinciding_points_cost_exactly_nothing(order: float, dtype: torch.dtype) -> None:
    x = cloud(50, 17, dtype=dtype) * 1e3 + 1e6
    assert (cost_matrix(x, x, order=order).diagonal() == 0).all()


def test_single_precision_keeps_its_digits() -> None:
    """1e-2 apart at norm 3: the cancelled entries of the product form would be off by percents."""
    x = cloud(300, 8, dtype=torch.float32)
    y = x + 1e-2
    expected = (x.double()[:, None] - y.double()).square().sum(-1)
    # Each coordinate of y - x carries a rounding of 4 against 1e-2: 5e-5, and the square twice.
    torch.testing.assert_close(cost_matrix(x, y).double(), expected, rtol=2e-4, atol=0)


@pytest.mark.parametrize("offset", [1e3, 1e6])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_offset_and_scale(scale: float, offset: float) -> None:
    x, y = cloud(10, 6, seed=1) * scale, cloud(12, 6, seed=2) * scale
    moved = cost_matrix(x + offset * scale, y + offset * scale)
    # Adding the offset rounds each coordinate by 1e-16 * offset, which is all that may be lost.
    torch.testing.assert_close(moved, cost_matrix(x, y), rtol=1e-15 * offset, atol=0)


@pytest.mark.parametrize("order", ORDERS)
def test_gradient(order: float) -> None:
    x, y = cloud(4, 3, seed=1).requires_grad_(), cloud(5, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: cost_matrix(a, b, order=order), (x, y))


@pytest.mark.parametrize("order", ORDERS)
def test_gradient_at_coinciding_points_is_zero(order: float) -> None:
    x = cloud(6, 3).requires_grad_()
    cost_matrix(x, x.detach(), order=order).diagonal().sum().backward()
    assert x.grad is not None
    assert (x.grad == 0).all()


def test_centring_changes_no_difference() -> None:
    x, y = cloud(2, 5, 3, seed=1), cloud(2, 7, 3, seed=2)
    a, b = centre_clouds(x + 100, y + 100)
    assert torch.cat([a, b], 1).mean(1).abs().max() < 1e-12
    torch.testing.assert_close(a[:, :, None] - b[:, None], x[:, :, None] - y[:, None])


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")  # torch's own use of it
@pytest.mark.parametrize(("order", "slope"), [(1, 0.6), (1.5, 1.5 * 5**0.5 * 0.6), (3, 45.0)])
def test_forward_derivative_at_coinciding_points_is_zero(order: float, slope: float) -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    along = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    costs, slopes = torch.func.jvp(lambda z: cost_matrix(z, x[:1], order=order), (x,), (along,))
    torch.testing.assert_close(costs, torch.tensor([[0.0], [5.0**order]], dtype=torch.float64))
    torch.testing.assert_close(slopes, torch.tensor([[0.0], [slope]], dtype=torch.float64))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (10, 2**21), (10, 2**23), (1000, 3)])
def test_row_blocks_cover_every_row_once(rows: int, columns: int) -> None:
    blocks = list(row_blocks(rows, columns))
    assert [i for block in blocks for i in range(rows)[block]] == list(range(rows))
    assert all(
        block.stop - block.start == 1 or (block.stop - block.start) * columns <= BLOCK_ELEMENTS
        for block in blocks
    )


def test_autocast_does_not_reach_inside() -> None:
    x, y = cloud(9, 4, seed=1, dtype=torch.float32), cloud(8, 4, seed=2, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = squared_distances(x, y)
        with pytest.raises(RuntimeError, match="inside"), ieee_float32(torch.device("cpu")):
            raise RuntimeError("inside")
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(inside, squared_distances(x, y))


def test_costs_that_float32_cannot_hold_are_refused() -> None:
    x, y = 1e20 * cloud(5, 3, seed=1), 1e20 * cloud(4, 3, seed=2)
    with pytest.raises(ValueError, match=r"does not fit torch.float32: give both sides in float64"):
        cost_matrix(x.float(), y.float())
    with pytest.raises(ValueError, match=r"does not fit torch.float32"):
        cost_matrix(x[None].float(), y[None].float())
    found = cost_matrix(x.float(), y.float(), order=1)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.double(), cost_matrix(x, y, order=1), rtol=1e-6, atol=0)
    assert torch.isfinite(cost_matrix(x, y)).all()


@pytest.mark.parametrize("order", ORDERS)
def test_potentials_of_points_without_weight(order: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft minimum of C - g, in whatever blocks."""
    monkeypatch.setattr("otmetrics.transport.costs.BLOCK_ELEMENTS", 13)
    points, others, g = cloud(7, 3, seed=1), cloud(5, 3, seed=2), cloud(5, seed=3)
    log_weights, costs = cloud(5, seed=4), pairwise_costs(points, others, order)
    soft = extended_potential(points, others, g, order, log_weights, 0.3)
    sums = (log_weights.exp() * ((g - costs) / 0.3).exp()).sum(1)
    torch.testing.assert_close(soft, -0.3 * sums.log())
    assert extended_potential(points[:0], others, g, order, log_weights, 0.3).shape == (0,)


@pytest.mark.parametrize("repeated", [1, 6])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_cancelled_distances_are_refined_in_a_batch_as_alone(
    batch: tuple[int, ...], repeated: int
) -> None:
    """Few pairs one by one, many at once; distances that kept their digits are left."""
    x = 1e4 + cloud(*batch, 6, 3, seed=1)
    y = torch.cat([x[..., :1, :]] * repeated + [x[..., 1:, :] + 1.0], -2)
    x = torch.cat([x[..., :1, :]] * repeated + [x[..., 1:, :]], -2)
    squares = x.square().sum(-1), y.square().sum(-1)
    exact = (x[..., :, None, :] - y[..., None, :, :]).square().sum(-1)
    wrong = exact + 1e-3
    refined = refine_cancelled(wrong.clone(), x, y, squares)
    torch.testing.assert_close(refined, exact, rtol=1e-12, atol=0)
    assert torch.equal(refine_cancelled(wrong.clone(), x, y, squares, share=0.0), wrong)


@pytest.mark.parametrize("size", [1e-307, 1e-30, 0.5, 1.0, 3.0, 2.0**40, 8e307])
def test_a_power_of_two_brings_a_size_below_one(size: float) -> None:
    unit = power_of_two(size)
    assert 0.5 <= size * unit < 1
    assert (size * unit) / unit == size


@pytest.mark.parametrize(
    ("size", "scaled"), [(1.7e308, 1.7e308 / 2.0**1023), (1e-310, 1e-310 * 2.0**1023), (0.0, 0.0)]
)
def test_a_power_of_two_at_the_ends_of_float64(size: float, scaled: float) -> None:
    unit = power_of_two(size)
    assert size * unit == scaled
    assert size * unit * (1 / unit) == size
