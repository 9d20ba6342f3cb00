"""Max-sliced Wasserstein: the maximum where it is known, a lower bound where it is not."""

import math

import numpy as np
import oracles
import pytest
import torch
from cases import ORDERS, TransportCase, cloud, relative_tolerance, transport_cases, weights
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from otmetrics.errors import ConvergenceWarning
from otmetrics.transport.sliced.max_sliced import MaxSliced, max_sliced_wasserstein

LINES = [case for case in transport_cases() if case.real.shape[1] == 1]
NOTHING = [case for case in transport_cases() if case.cost == 0]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def along(
    x: Tensor,
    y: Tensor,
    directions: Tensor,
    order: float,
    a: Tensor | None = None,
    b: Tensor | None = None,
) -> np.ndarray:
    """W_p^p along each direction, a column."""
    sides = (None if a is None else a.numpy()), (None if b is None else b.numpy())
    if len(x) == len(y) and a is b is None:
        pairs = (x @ directions).sort(0).values - (y @ directions).sort(0).values
        return pairs.abs().pow(order).mean(0).numpy()
    return np.array(
        [
            oracles.univariate((x @ theta).numpy(), (y @ theta).numpy(), order, *sides)
            for theta in directions.T
        ]
    )


def on_the_sphere(dimension: int, count: int, seed: int) -> Tensor:
    directions = cloud(dimension, count, seed=seed)
    return directions / directions.norm(dim=0)


def circle(count: int) -> Tensor:
    angles = torch.arange(count, dtype=torch.float64) * math.pi / count
    return torch.stack([angles.cos(), angles.sin()])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("length", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("n", [1, 200, 1000])
def test_finds_a_translation_in_many_dimensions(
    n: int, length: float, order: float, device: torch.device, dtype: torch.dtype
) -> None:
    """Along the shift the cost is its length, which W_p is too; no direction reaches more."""
    x = cloud(n, 512, seed=1, dtype=dtype, device=device)
    shift = cloud(512, seed=2, dtype=dtype, device=device)
    shift = length * shift / shift.norm()
    result, direction = MaxSliced(order=order).solve(x, x.flip(0) + shift)
    assert result.value.item() == pytest.approx(length, rel=1e-3)
    assert result.value.dtype == direction.dtype == dtype
    assert (direction @ shift).item() == pytest.approx(length, rel=1e-3)
    assert result.converged


def test_random_directions_alone_miss_that_translation() -> None:
    x, shift = cloud(50, 512, seed=1), cloud(512, seed=2)
    best = along(x, x + shift, on_the_sphere(512, 1000, seed=3), 2).max()
    assert best < 0.1 * shift.norm().item() ** 2


@pytest.mark.parametrize("factor", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("dimension", [2, 64])
def test_scaling_about_the_mean(dimension: int, factor: float) -> None:
    """Points move by (s - 1) x and keep their order: (s - 1)^2 lambda_max of the covariance."""
    x = cloud(300, dimension) * torch.linspace(0.2, 3, dimension, dtype=torch.float64)
    x = x - x.mean(0)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    result, direction = MaxSliced().solve(x, factor * x)
    expected = ((factor - 1) ** 2 * values[-1]).item()
    assert result.cost.item() == pytest.approx(expected, rel=1e-5)
    assert (direction @ vectors[:, -1]).abs().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("change", ["mean", "spread"])
def test_finds_the_one_coordinate_that_differs(change: str) -> None:
    x, y = cloud(500, 40, seed=1), cloud(500, 40, seed=2)
    if change == "mean":
        y[:, 3] += 3
    else:
        y[:, 3] *= 4
    result, direction = MaxSliced().solve(x, y)
    # Both change W_2 along that coordinate by 3 in the limit; samples add to it elsewhere.
    assert result.value.item() == pytest.approx(3, rel=0.15)
    assert result.cost.item() >= along(x, y, torch.eye(40, dtype=x.dtype), 2).max()
    assert direction[3].abs() > 0.95
    assert direction.norm().item() == pytest.approx(1, abs=1e-12)
    if change == "mean":
        assert direction[3] > 0  # it points from real to fake


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(7, 7), (40, 40), (12, 9)])
def test_against_all_angles_of_the_plane(shape: tuple[int, int], order: float) -> None:
    n, m = shape
    x, y = cloud(n, 2, seed=1), 1.3 * cloud(m, 2, seed=2)
    result, direction = MaxSliced(order=order).solve(x, y)
    best = along(x, y, circle(2000), order).max()
    # The grid is 1.6e-3 wide, so it may miss the top of a kink by about as much.
    assert best * (1 - 1e-5) <= result.cost.item() <= best * (1 + 5e-3)
    reached = along(x, y, direction[:, None], order)[0]
    assert result.cost.item() == pytest.approx(reached, rel=1e-12)


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("dimension", [2, 3, 10, 100])
@pytest.mark.parametrize("n", [5, 60])
def test_never_below_random_directions(n: int, dimension: int, order: float) -> None:
    x, y = cloud(n, dimension, seed=1), 1.1 * cloud(n, dimension, seed=2)
    best = along(x, y, on_the_sphere(dimension, 1000, seed=3), order).max()
    cost = MaxSliced(order=order).solve(x, y).result.cost.item()
    assert cost >= best * (1 - 1e-5)
    if dimension >= 10:
        assert cost > 1.1 * best  # a search is worth it


@pytest.mark.parametrize("dimension", [3, 20])
def test_more_starts_find_little_more(dimension: int) -> None:
    for seed in range(5):
        x, y = cloud(60, dimension, seed=2 * seed), 1.1 * cloud(60, dimension, seed=2 * seed + 1)
        few, many = (MaxSliced(num_starts=k).solve(x, y).result.cost.item() for k in (8, 100))
        assert many * 0.99 <= few <= many * (1 + 1e-4)


@pytest.mark.parametrize("num_starts", [1, 2, 3, 9, 400])
def test_any_number_of_starts(num_starts: int) -> None:
    x, y = cloud(12, 4, seed=1), cloud(12, 4, seed=2)
    result = MaxSliced(num_starts=num_starts).solve(x, y).result
    # The difference of the means is always there, and no start ends below where it began.
    mean = y.mean(0) - x.mean(0)
    assert result.cost.item() >= along(x, y, (mean / mean.norm())[:, None], 2)[0]
    centred = x - x.mean(0), y - y.mean(0)
    assert max_sliced_wasserstein(*centred, num_starts=num_starts) > 0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(8, 8), (9, 5), (4, 12)])
@pytest.mark.parametrize("weighted", [False, True])
def test_below_the_exact_distance(weighted: bool, shape: tuple[int, int], order: float) -> None:
    n, m = shape
    x, y = cloud(n, 4, seed=1), cloud(m, 4, seed=2)
    a = weights(n, seed=3, zeros=n // 4) if weighted else None
    b = weights(m, seed=4, zeros=m // 4) if weighted else None
    result, direction = MaxSliced(order=order).solve(x, y, real_weights=a, fake_weights=b)
    exact, _ = oracles.transport(
        oracles.costs(x.numpy(), y.numpy(), order),
        None if a is None else a.numpy(),
        None if b is None else b.numpy(),
    )
    assert result.cost.item() <= exact * (1 + 1e-9)
    assert result.value.item() == pytest.approx(result.cost.item() ** (1 / order), rel=1e-12)
    reached = along(x, y, direction[:, None], order, a, b)[0]
    assert result.cost.item() == pytest.approx(reached, rel=1e-10)
    some = along(x, y, on_the_sphere(4, 200, seed=5), order, a, b)
    assert result.cost.item() >= some.max() * (1 - 1e-5)
    assert result.lower_bound is not None
    assert torch.equal(result.lower_bound, result.cost)
    assert result.upper_bound is None


@pytest.mark.parametrize("case", LINES, ids=lambda case: f"{case.name}-{case.order}")
def test_a_line_has_one_direction(case: TransportCase) -> None:
    result, direction = MaxSliced(order=case.order).solve(case.real, case.fake)
    assert result.cost.item() == pytest.approx(case.cost, rel=1e-12)
    assert direction.abs().item() == 1


@pytest.mark.parametrize("case", NOTHING, ids=lambda case: f"{case.name}-{case.order}")
def test_equal_laws(case: TransportCase) -> None:
    x = case.real.clone().requires_grad_()
    result, direction = MaxSliced(order=case.order).solve(x, case.fake)
    # The projection of a point may differ by a rounding between matrix products of two sizes.
    assert result.value.item() == pytest.approx(0, abs=1e-14)
    assert result.converged
    assert direction.norm().item() == pytest.approx(1, abs=1e-12)
    result.value.backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.norm(dim=1).max() <= 1


def test_one_place() -> None:
    result, direction = MaxSliced().solve(torch.ones(3, 5), torch.ones(4, 5))
    assert result.value == 0
    assert direction.isfinite().all()


def test_weights_are_repetitions() -> None:
    x, y = cloud(3, 5, seed=1), cloud(7, 5, seed=2)
    counts = torch.tensor([1.0, 3.0, 2.0])
    expected = max_sliced_wasserstein(x.repeat_interleave(counts.long(), 0), y)
    weighted = max_sliced_wasserstein(x, y, real_weights=counts)
    # Weights change the rounding of the path, not the top.
    torch.testing.assert_close(weighted, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("place", [-1e9, 1e9])
def test_a_point_without_weight_does_not_exist(place: float) -> None:
    x, y, a = cloud(30, 4, seed=1), cloud(20, 4, seed=2), weights(30, seed=3, zeros=1)
    expected = max_sliced_wasserstein(x[1:], y, real_weights=a[1:])
    padded = torch.cat([torch.full((1, 4), place, dtype=x.dtype), x[1:]])
    assert torch.equal(max_sliced_wasserstein(padded, y, real_weights=a), expected)


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_rotation(order: float) -> None:
    """A clear maximum turns with the clouds; the random starts do not, so only up to tolerance."""
    x, y = cloud(100, 6, seed=1), cloud(80, 6, seed=2)
    y[:, 0] = 3 * y[:, 0] + 1
    rotation = torch.linalg.qr(cloud(6, 6, seed=3)).Q
    result, direction = MaxSliced(order=order).solve(x, y)
    turned, turned_direction = MaxSliced(order=order).solve(x @ rotation, y @ rotation)
    assert turned.value.item() == pytest.approx(result.value.item(), rel=1e-3)
    torch.testing.assert_close(turned_direction, direction @ rotation, rtol=0, atol=0.03)


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_offset_and_scale(scale: float, order: float) -> None:
    x, y = cloud(9, 5, seed=1), cloud(7, 5, seed=2)
    expected = scale * max_sliced_wasserstein(x, y, order=order)
    moved = max_sliced_wasserstein(scale * (x + 1e6), scale * (y + 1e6), order=order)
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_batch_equals_loop(weighted: bool, order: float) -> None:
    x, y = cloud(3, 9, 5, seed=1), cloud(3, 6, 5, seed=2)
    a = weights(3, 9, seed=3) if weighted else None
    b = weights(6, seed=4) if weighted else None
    batch = MaxSliced(order=order).solve(x, y, real_weights=a, fake_weights=b)
    assert batch.result.value.shape == batch.result.cost.shape == (3,)
    assert batch.direction.shape == (3, 5)
    for i in range(3):
        alone = MaxSliced(order=order).solve(
            x[i], y[i], real_weights=None if a is None else a[i], fake_weights=b
        )
        for name in ("value", "cost", "lower_bound"):
            assert torch.equal(getattr(batch.result, name)[i], getattr(alone.result, name))
        assert torch.equal(batch.direction[i], alone.direction)


def test_one_seed_gives_one_answer() -> None:
    x, y = cloud(30, 8, seed=1), cloud(20, 8, seed=2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = MaxSliced().solve(x, y)
    assert torch.equal(before, torch.get_rng_state())
    for again in (MaxSliced().solve(x, y), MaxSliced().solve(x, y, generator=seeded(0))):
        assert torch.equal(first.result.value, again.result.value)
        assert torch.equal(first.direction, again.direction)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = cloud(9, 5, seed=1), cloud(6, 5, seed=2)
    whole = max_sliced_wasserstein(x, y)
    monkeypatch.setattr("otmetrics.transport.sliced.max_sliced._CHUNK_ELEMENTS", 1)
    torch.testing.assert_close(max_sliced_wasserstein(x, y), whole, rtol=1e-4, atol=0)


@pytest.mark.parametrize("order", ORDERS)
def test_gradient_of_a_smooth_maximum(order: float) -> None:
    """Where no direction changes the pairs, the cost is smooth and the envelope theorem exact."""
    x = cloud(6, 3, seed=1)
    y = (3 * x + torch.tensor([1.0, 2.0, -1.0])).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda u, v: max_sliced_wasserstein(
            u, v, order=order, num_starts=2, tolerance=1e-14, max_iterations=5000
        ),
        (x.requires_grad_(), y),
    )


@pytest.mark.parametrize("shape", [(9, 9), (9, 6)])
@pytest.mark.parametrize("order", ORDERS)
def test_gradient_is_that_of_the_direction(order: float, shape: tuple[int, int]) -> None:
    """d cost / d x_i = m_i theta: every point is pushed along the direction, or not at all."""
    n, m = shape
    x, y = cloud(n, 4, seed=1).requires_grad_(), cloud(m, 4, seed=2).requires_grad_()
    result, direction = MaxSliced(order=order).solve(x, y)
    result.cost.backward()
    assert not direction.requires_grad
    total = 0.0
    for leaf in (x, y):
        assert leaf.grad is not None
        pushes = leaf.grad @ direction
        torch.testing.assert_close(leaf.grad, pushes[:, None] * direction)
        total += (leaf.grad * leaf.detach()).sum().item()
    # Euler: the cost is homogeneous of degree p in both clouds together.
    assert total == pytest.approx(order * result.cost.item(), rel=1e-9)


def test_single_precision() -> None:
    x, y = cloud(80, 20, seed=1), 1.2 * cloud(60, 20, seed=2) + 0.5
    single = max_sliced_wasserstein(x.float(), y.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), max_sliced_wasserstein(x, y), rtol=1e-3, atol=0)
    half = max_sliced_wasserstein(x.half(), y.half())
    assert half.dtype == torch.float32
    # The answer along the direction found is right to the digits of its dtype.
    result, direction = MaxSliced().solve(x.float(), y.float())
    theta = direction.double() / direction.double().norm()
    reached = along(x.float().double(), y.float().double(), theta[:, None], 2)[0]
    assert result.cost.item() == pytest.approx(reached, rel=relative_tolerance(torch.float32))


def test_autocast_changes_nothing() -> None:
    x, y = cloud(40, 8, seed=1).float(), cloud(40, 8, seed=2).float()
    expected = max_sliced_wasserstein(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(max_sliced_wasserstein(x, y), expected)


def test_too_few_iterations_warn() -> None:
    x, y = cloud(50, 20, seed=1), cloud(50, 20, seed=2)
    with pytest.warns(ConvergenceWarning, match=r"after 1 iterations.*raise `max_iterations`"):
        result = MaxSliced(max_iterations=1).solve(x, y).result
    assert not result.converged
    assert result.num_iterations == 1
    full = MaxSliced().solve(x, y).result
    assert full.converged
    assert full.num_iterations is not None
    assert 1 < full.num_iterations < 500
    assert result.cost < full.cost
    assert "8 ascents" in full.message


@given(
    n=st.integers(1, 12),
    m=st.integers(1, 12),
    dimension=st.integers(1, 6),
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 2**16),
    rounded=st.booleans(),
)
def test_bounds_on_any_shape(
    n: int, m: int, dimension: int, order: float, seed: int, rounded: bool
) -> None:
    """Between any direction and W_p, also on lattices, where ties abound."""
    x, y = cloud(n, dimension, seed=seed), cloud(m, dimension, seed=seed + 1)
    if rounded:
        x, y = x.round(), y.round()
    result, direction = MaxSliced(order=order).solve(x, y)
    assert direction.norm().item() == pytest.approx(1, abs=1e-12)
    exact, _ = oracles.transport(oracles.costs(x.numpy(), y.numpy(), order))
    assert result.cost.item() <= exact * (1 + 1e-9) + 1e-12
    axes = along(x, y, torch.eye(dimension, dtype=x.dtype), order)
    assert result.cost.item() >= 0.98 * axes.max() - 1e-12
    swapped = MaxSliced(order=order).solve(y, x).result
    assert swapped.cost.item() == pytest.approx(result.cost.item(), rel=0.02, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 0.5}, r"`order` must be a finite number >= 1, got 0\.5\."),
        ({"num_starts": 0}, r"`num_starts` must be an integer >= 1, got 0\."),
        ({"num_starts": 2.0}, "`num_starts` must be an integer"),
        ({"max_iterations": 0}, r"`max_iterations` must be an integer >= 1, got 0\."),
        ({"tolerance": 0.0}, "`tolerance` must be"),
        ({"tolerance": 1.0}, "`tolerance` must be"),
        ({"tolerance": math.nan}, "`tolerance` must be"),
        ({"real_weights": torch.ones(4)}, r"`real_weights` must have shape \(5,\)"),
        ({"fake_weights": -torch.ones(5)}, "`fake_weights` must be finite and >= 0"),
    ],
)
def test_options_that_raise(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        max_sliced_wasserstein(cloud(5, 3, seed=1), cloud(5, 3, seed=2), **options)


def test_clouds_that_raise() -> None:
    x = cloud(5, 3)
    with pytest.raises(ValueError, match="same number of features"):
        max_sliced_wasserstein(x, cloud(5, 4))
    with pytest.raises(ValueError, match="NaN"):
        max_sliced_wasserstein(x, x * math.nan)
    with pytest.raises(ValueError, match="at least 1 sample"):
        max_sliced_wasserstein(x[:0], x)
    with pytest.raises(TypeError, match="floating"):
        max_sliced_wasserstein(x, x.long())
