"""Sliced Wasserstein: exact for given directions, honest about its error for random ones."""

import numpy as np
import oracles
import pytest
import torch
from cases import (
    ORDERS,
    TransportCase,
    cloud,
    relative_tolerance,
    sliced_translation,
    transport_cases,
    weights,
)

from otmetrics.functional import random_directions, sliced_wasserstein
from otmetrics.transport.sliced.directions import direction_generator
from otmetrics.transport.sliced.sliced import Sliced

SHAPES = [(1, 1, 3), (6, 6, 1), (9, 4, 5), (5, 15, 8)]
LINES = [case for case in transport_cases() if case.real.shape[1] == 1]
NOTHING = [case for case in transport_cases() if case.cost == 0]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_against_the_mean_over_directions(
    weighted: bool,
    shape: tuple[int, int, int],
    order: float,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    n, m, d = shape
    x, y = cloud(n, d, seed=1), cloud(m, d, seed=2)
    a = weights(n, seed=3, zeros=n // 4) if weighted else None
    b = weights(m, seed=4, zeros=m // 4) if weighted else None
    directions = random_directions(d, 7, generator=direction_generator(5))
    result = Sliced(order=order).solve(
        x.to(device, dtype),
        y.to(device, dtype),
        directions=directions,
        real_weights=a,
        fake_weights=b,
    )
    slices = [
        oracles.univariate(
            (x @ theta).numpy(),
            (y @ theta).numpy(),
            order,
            None if a is None else a.numpy(),
            None if b is None else b.numpy(),
        )
        for theta in directions.T
    ]
    rtol = relative_tolerance(dtype)
    assert result.cost.item() == pytest.approx(np.mean(slices), rel=rtol)
    assert result.value.item() == pytest.approx(np.mean(slices) ** (1 / order), rel=rtol)
    assert result.value.dtype == result.cost.dtype == dtype
    assert result.standard_error is None


@pytest.mark.parametrize("case", LINES, ids=lambda case: f"{case.name}-{case.order}")
def test_a_line_has_two_directions_that_agree(case: TransportCase) -> None:
    result = Sliced(order=case.order, num_projections=5).solve(case.real, case.fake)
    assert result.cost.item() == pytest.approx(case.cost, rel=1e-12)
    assert result.standard_error is not None
    assert result.standard_error.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("case", NOTHING, ids=lambda case: f"{case.name}-{case.order}")
def test_equal_laws(case: TransportCase) -> None:
    result = Sliced(order=case.order, num_projections=32).solve(case.real, case.fake)
    # The projection of a point may differ by a rounding between matrix products of two sizes.
    assert result.value.item() == pytest.approx(0, abs=1e-14)
    assert result.standard_error is not None
    assert result.standard_error.item() == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dimension", [1, 2, 16, 512])
def test_translation(dimension: int, order: float) -> None:
    shift = cloud(dimension, seed=2)
    x = cloud(20, dimension, seed=1)
    result = Sliced(order=order, num_projections=4096).solve(x, x.roll(1, 0) + shift)
    expected = sliced_translation(shift, order) ** (1 / order)
    assert result.standard_error is not None
    error = result.standard_error.item()
    # From 16 blocks: Student's law with 15 degrees of freedom passes 6 once in 40 000 runs.
    assert abs(result.value.item() - expected) <= 6 * error + 1e-12 * expected
    # It is a statement, too: the error is a few percent of the value at most.
    assert error <= 0.03 * expected


@pytest.mark.parametrize("dimension", [2, 32])
def test_scaling_about_the_mean(dimension: int) -> None:
    """SW_2^2 = (1 - s)^2 E|x|^2 / d, since projections of s x are s times those of x."""
    x = cloud(50, dimension)
    x = x - x.mean(0)
    result = Sliced(num_projections=4096).solve(x, 3 * x)
    expected = (4 * x.square().sum(1).mean() / dimension).item() ** 0.5
    assert result.standard_error is not None
    assert abs(result.value.item() - expected) < 4 * result.standard_error.item()


def test_one_seed_gives_one_set_of_directions() -> None:
    x, y = cloud(9, 4, seed=1), cloud(8, 4, seed=2)
    first = sliced_wasserstein(x, y, generator=direction_generator(3))
    assert torch.equal(first, sliced_wasserstein(x, y, generator=direction_generator(3)))
    assert not torch.equal(first, sliced_wasserstein(x, y, generator=direction_generator(4)))
    assert torch.equal(
        sliced_wasserstein(x, y), sliced_wasserstein(x, y, generator=direction_generator(0))
    )
    directions = random_directions(4, 1024, generator=direction_generator(3))
    plain = sliced_wasserstein(x, y, directions=directions)
    torch.testing.assert_close(first, plain, rtol=0.02, atol=0)  # but for the control variates


def test_data_of_the_same_seed_is_nothing_special() -> None:
    """Samples drawn with the seed of the directions are as random to them as any others."""
    values = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(64, 40, generator=generator, dtype=torch.float64)
        y = torch.randn(64, 40, generator=generator, dtype=torch.float64)
        values.append([Sliced(seed=s).solve(x, y).value.item() for s in (0, 1, 2)])
        assert values[-1] == pytest.approx([values[-1][0]] * 3, rel=0.03)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    sliced_wasserstein(cloud(5, 3, seed=1), cloud(5, 3, seed=2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("order", ORDERS)
def test_rotation_turns_the_directions(order: float) -> None:
    x, y = cloud(9, 4, seed=1), cloud(7, 4, seed=2)
    rotation = torch.linalg.qr(cloud(4, 4, seed=3)).Q
    directions = random_directions(4, 50, generator=direction_generator(0))
    turned = sliced_wasserstein(
        x @ rotation, y @ rotation, order=order, directions=rotation.T @ directions
    )
    expected = sliced_wasserstein(x, y, order=order, directions=directions)
    torch.testing.assert_close(turned, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_batch_equals_loop(weighted: bool, order: float) -> None:
    x, y = cloud(3, 9, 5, seed=1), cloud(3, 6, 5, seed=2)
    a = weights(3, 9, seed=3) if weighted else None
    b = weights(6, seed=4) if weighted else None
    batch = Sliced(order=order, num_projections=64).solve(x, y, real_weights=a, fake_weights=b)
    assert batch.standard_error is not None
    assert batch.value.shape == batch.cost.shape == batch.standard_error.shape == (3,)
    for i in range(3):
        alone = Sliced(order=order, num_projections=64).solve(
            x[i], y[i], real_weights=None if a is None else a[i], fake_weights=b
        )
        for name in ("value", "cost", "standard_error"):
            torch.testing.assert_close(
                getattr(batch, name)[i], getattr(alone, name), rtol=1e-12, atol=0
            )


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = cloud(9, 5, seed=1), cloud(6, 5, seed=2)
    whole = Sliced().solve(x, y)
    monkeypatch.setattr("otmetrics.transport.sliced.slices.CHUNK_ELEMENTS", 100)
    parts = Sliced().solve(x, y)
    torch.testing.assert_close(parts.cost, whole.cost, rtol=1e-13, atol=0)
    monkeypatch.setattr("otmetrics.transport.sliced.slices.CHUNK_ELEMENTS", 1)
    assert Sliced(num_projections=3).solve(x, y).cost > 0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("m", [6, 8])
def test_gradient(m: int, weighted: bool, order: float) -> None:
    x, y = cloud(6, 3, seed=1).requires_grad_(), cloud(m, 3, seed=2).requires_grad_()
    a = weights(6, seed=3) if weighted else None
    assert torch.autograd.gradcheck(
        lambda u, v: sliced_wasserstein(u, v, order=order, num_projections=16, real_weights=a),
        (x, y),
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("copies", [1, 2])
def test_gradient_at_equal_laws_is_zero(copies: int, order: float) -> None:
    x = cloud(7, 4).requires_grad_()
    value = sliced_wasserstein(x, x.detach().repeat(copies, 1), order=order, num_projections=16)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-14)
    assert x.grad is not None
    assert x.grad.isfinite().all()
    # p = 1 has a kink here: where projections differ by a rounding any subgradient is right.
    assert x.grad.norm(dim=1).max() <= 1


@pytest.mark.parametrize("place", [-1e9, 1e9])
def test_a_point_without_weight_does_not_exist(place: float) -> None:
    x, y, a = cloud(30, 4, seed=1), cloud(20, 4, seed=2), weights(30, seed=3, zeros=1)
    expected = sliced_wasserstein(x[1:], y, real_weights=a[1:])
    padded = torch.cat([torch.full((1, 4), place, dtype=x.dtype), x[1:]])
    # Centring moves by the far point's share, so a rounding of 1e9 / 50 is all that may be lost.
    torch.testing.assert_close(
        sliced_wasserstein(padded, y, real_weights=a), expected, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_offset_and_scale(scale: float, order: float) -> None:
    x, y = cloud(9, 5, seed=1), cloud(7, 5, seed=2)
    expected = scale * sliced_wasserstein(x, y, order=order)
    moved = sliced_wasserstein(scale * (x + 1e6), scale * (y + 1e6), order=order)
    # 1e6 rounds to 1e-10 in the input; nothing more is lost.
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=0)


def test_single_precision_far_from_the_origin() -> None:
    """float32 features at 1e6 hold multiples of 1/16; on those the answer has float32 digits."""
    x = (cloud(50, 8, seed=1) * 64).round() / 4
    y = (cloud(40, 8, seed=2) * 64).round() / 4
    far = sliced_wasserstein((x + 1e6).float(), (y + 1e6).float())
    torch.testing.assert_close(far.double(), sliced_wasserstein(x, y), rtol=1e-5, atol=0)


def test_single_direction_has_no_error() -> None:
    result = Sliced(num_projections=1).solve(cloud(5, 3, seed=1), cloud(5, 3, seed=2))
    assert result.standard_error is None
