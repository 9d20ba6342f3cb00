"""MIND against its definition, written out."""

import math

import numpy as np
import pytest
import torch
from cases import cloud, relative_tolerance
from torch import Tensor

from otmetrics.functional import sliced_wasserstein
from otmetrics.transport.sliced.mind import monge_inception_distance

FLOAT32 = relative_tolerance(torch.float32)


def definition(real: Tensor, fake: Tensor, num_projections: int = 1000, seed: int = 2020) -> float:
    """One direction at a time, the projections in float64; random numbers as published."""
    generator = torch.Generator("cpu")
    generator.manual_seed(seed)
    n, m = len(real), len(fake)
    if n > m:
        real = real[torch.randperm(n, generator=generator)[:m]]
    elif m > n:
        fake = fake[torch.randperm(m, generator=generator)[:n]]
    shape = num_projections, real.shape[1]
    directions = torch.randn(shape, generator=generator, dtype=torch.float32).double().numpy()
    x, y = real.float().double().numpy(), fake.float().double().numpy()
    total = 0.0
    for direction in directions:
        theta = direction / np.sqrt((direction**2).sum())
        total += float(((np.sort(x @ theta) - np.sort(y @ theta)) ** 2).mean())
    return 3 * real.shape[1] * total / num_projections


@pytest.mark.parametrize("seed", [0, 2020])
@pytest.mark.parametrize("shape", [(20, 20, 8), (30, 11, 8), (7, 40, 3), (1, 1, 5), (9, 2, 1)])
def test_definition(
    shape: tuple[int, int, int], seed: int, device: torch.device, dtype: torch.dtype
) -> None:
    n, m, d = shape
    x, y = cloud(n, d, seed=1), cloud(m, d, seed=2) + 0.5
    value = monge_inception_distance(
        x.to(device, dtype), y.to(device, dtype), num_projections=37, seed=seed
    )
    assert value.item() == pytest.approx(definition(x, y, 37, seed), rel=FLOAT32)
    assert value.dtype == torch.float32


def test_defaults_are_the_published_ones() -> None:
    x, y = cloud(60, 16, seed=1), cloud(50, 16, seed=2)
    assert monge_inception_distance(x, y).item() == pytest.approx(definition(x, y), rel=FLOAT32)


@pytest.mark.parametrize("length", [0.1, 3.0])
@pytest.mark.parametrize("dimension", [1, 4, 256])
def test_translation(dimension: int, length: float) -> None:
    """3 D mean (theta . t)^2 = 3 |t|^2; its relative error is sqrt(2 (D - 1) / (D + 2) / L)."""
    x, shift = cloud(30, dimension, seed=1), cloud(dimension, seed=2)
    shift = length * shift / shift.norm()
    value = monge_inception_distance(x, x.flip(0) + shift).item()
    error = math.sqrt(2 * (dimension - 1) / (dimension + 2) / 1000)
    assert value == pytest.approx(3 * length**2, rel=4 * error + 1e-4)


def test_scale_of_the_sliced_distance() -> None:
    x, y = cloud(40, 16, seed=1), cloud(40, 16, seed=2) + 1
    sliced = sliced_wasserstein(x, y, num_projections=4096).item()
    # The coefficient of variation of a slice is below 1.5, so 1000 of them are good to 5 %.
    assert monge_inception_distance(x, y).item() == pytest.approx(3 * 16 * sliced**2, rel=0.15)


def test_bias_falls_with_the_sample_size() -> None:
    """Two samples of one law: about c / N, as the documentation says."""
    small, large = (
        np.mean(
            [
                monge_inception_distance(
                    cloud(n, 8, seed=seed), cloud(n, 8, seed=seed + 100), num_projections=100
                ).item()
                for seed in range(20)
            ]
        )
        for n in (50, 800)
    )
    assert 8 < small / large < 20


@pytest.mark.parametrize("n", [1, 50])
def test_equal_clouds_give_zero(n: int) -> None:
    x = cloud(n, 8).requires_grad_()
    value = monge_inception_distance(x, x.detach(), num_projections=50)
    assert value.item() == 0
    value.backward()
    assert x.grad is not None
    assert not x.grad.any()


@pytest.mark.parametrize("m", [30, 17])
def test_symmetric(m: int) -> None:
    """Also for unequal sizes: the larger side is the one that is cut, with the same numbers."""
    x, y = cloud(30, 8, seed=1), cloud(m, 8, seed=2)
    assert torch.equal(monge_inception_distance(x, y), monge_inception_distance(y, x))


def test_the_larger_side_is_cut_before_directions_are_drawn() -> None:
    x, y = cloud(20, 4, seed=1), cloud(12, 4, seed=2)
    kept = torch.randperm(20, generator=torch.Generator().manual_seed(2020))[:12]
    others = torch.ones(20, dtype=torch.bool)
    others[kept] = False
    changed = x.clone()
    changed[others] += 100
    assert torch.equal(monge_inception_distance(changed, y), monge_inception_distance(x, y))
    # The permutation uses up random numbers, so the directions are not those of equal sizes.
    cut = monge_inception_distance(x[kept], y)
    assert not torch.isclose(cut, monge_inception_distance(x, y), rtol=1e-5, atol=0)


def test_the_seed_alone_matters() -> None:
    x, y = cloud(20, 4, seed=1), cloud(20, 4, seed=2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = monge_inception_distance(x, y)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, monge_inception_distance(x, y, seed=2020))
    assert not torch.equal(first, monge_inception_distance(x, y, seed=2021))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = cloud(9, 5, seed=1), cloud(6, 5, seed=2)
    whole = monge_inception_distance(x, y)
    monkeypatch.setattr("otmetrics.transport.sliced.slices.CHUNK_ELEMENTS", 100)
    torch.testing.assert_close(monge_inception_distance(x, y), whole, rtol=FLOAT32, atol=0)


@pytest.mark.parametrize("m", [9, 6])
def test_batch_equals_loop(m: int) -> None:
    x, y = cloud(3, 9, 5, seed=1), cloud(3, m, 5, seed=2)
    batch = monge_inception_distance(x, y, num_projections=64)
    loop = [monge_inception_distance(*pair, num_projections=64) for pair in zip(x, y, strict=True)]
    torch.testing.assert_close(batch, torch.stack(loop), rtol=FLOAT32, atol=0)


def test_gradient() -> None:
    """Against differences of the definition, on points far enough apart to keep their order."""
    x, y = cloud(5, 3, seed=1).requires_grad_(), cloud(8, 3, seed=2).requires_grad_()
    monge_inception_distance(x, y, num_projections=20).backward()
    for leaf, other in ((x, y), (y, x)):
        assert leaf.grad is not None
        way, step = cloud(*leaf.shape, seed=3), 1e-3
        ends = (
            definition(leaf.detach() + s * step * way, other.detach(), num_projections=20)
            for s in (1, -1)
        )
        slope = next(ends) - next(ends)
        assert (leaf.grad * way).sum().item() == pytest.approx(slope / (2 * step), rel=1e-2)


def test_far_from_the_origin() -> None:
    """float32 features at 1e5 hold multiples of 1/128; on those the answer has its digits."""
    x, y = (cloud(50, 8, seed=s).mul(64).round() / 64 for s in (1, 2))
    far = monge_inception_distance((x + 1e5).float(), (y + 1e5).float())
    torch.testing.assert_close(far, monge_inception_distance(x, y), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_projections": 0}, r"`num_projections` must be an integer >= 1, got 0\."),
        ({"num_projections": 10.0}, "`num_projections` must be an integer"),
        ({"seed": -1}, r"`seed` must be an integer >= 0, got -1\."),
        ({"seed": 2**63}, "`seed` must be below"),
    ],
)
def test_options_that_raise(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        monge_inception_distance(cloud(5, 3, seed=1), cloud(5, 3, seed=2), **options)


def test_clouds_that_raise() -> None:
    x = cloud(5, 3)
    with pytest.raises(ValueError, match="same number of features"):
        monge_inception_distance(x, cloud(5, 4))
    with pytest.raises(ValueError, match="NaN"):
        monge_inception_distance(x, x * math.nan)
    with pytest.raises(ValueError, match="at least 1 sample"):
        monge_inception_distance(x[:0], x)
    with pytest.raises(TypeError, match="floating"):
        monge_inception_distance(x, x.long())
    for size in (1e30, 1e60):  # beyond float32, though within float64
        with pytest.raises(ValueError, match="must fit float32"):
            monge_inception_distance(x, size * x)
