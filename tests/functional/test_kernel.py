"""Kernel distances against double loops, and their expectation where it is known."""

import math
from typing import Literal

import numpy as np
import oracles
import pytest
import torch
from cases import cloud, relative_tolerance

from otmetrics.functional import kernel_distance

Kernel = Literal["polynomial", "rbf"]
KERNELS: list[Kernel] = ["polynomial", "rbf"]
SHAPES = [(2, 2, 1), (6, 6, 3), (9, 4, 5), (5, 12, 16)]


def polynomial(x: np.ndarray, y: np.ndarray) -> float:
    return float((x @ y / len(x) + 1) ** 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_polynomial_against_loops(
    shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype
) -> None:
    n, m, d = shape
    x, y = cloud(n, d, seed=1), cloud(m, d, seed=2) + 1
    distance = kernel_distance(x.to(device, dtype), y.to(device, dtype))
    expected = oracles.mmd(x.numpy(), y.numpy(), polynomial)
    assert distance.item() == pytest.approx(expected, rel=max(1e-11, relative_tolerance(dtype)))
    assert distance.dtype == dtype


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bandwidth", [None, 0.3, 5.0])
def test_rbf_against_loops(bandwidth: float | None, shape: tuple[int, int, int]) -> None:
    n, m, d = shape
    x, y = cloud(n, d, seed=1), cloud(m, d, seed=2) + 1
    distance = kernel_distance(x, y, kernel="rbf", bandwidth=bandwidth)
    # The stated default: the root of half the mean squared distance between real and fake.
    width = bandwidth or (oracles.costs(x.numpy(), y.numpy(), 2).mean() / 2) ** 0.5
    expected = oracles.mmd(
        x.numpy(), y.numpy(), lambda u, v: math.exp(-((u - v) ** 2).sum() / (2 * width**2))
    )
    assert distance.item() == pytest.approx(expected, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("kernel", KERNELS)
def test_batch_equals_loop(kernel: Kernel) -> None:
    x, y = cloud(3, 7, 4, seed=1), cloud(3, 5, 4, seed=2)
    batch = kernel_distance(x, y, kernel=kernel)
    for i in range(3):
        assert torch.equal(batch[i], kernel_distance(x[i], y[i], kernel=kernel))


@pytest.mark.parametrize("kernel", KERNELS)
def test_blocks_change_nothing(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = cloud(17, 4, seed=1), cloud(11, 4, seed=2)
    whole = kernel_distance(x, y, kernel=kernel)
    monkeypatch.setattr("otmetrics.functional.cost.BLOCK_ELEMENTS", 25)
    torch.testing.assert_close(kernel_distance(x, y, kernel=kernel), whole, rtol=1e-11, atol=0)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")  # torch's own use of it
@pytest.mark.parametrize("kernel", KERNELS)
def test_forward_derivatives(kernel: Kernel) -> None:
    x, y, along = cloud(7, 3, seed=1), cloud(5, 3, seed=2), cloud(7, 3, seed=3)

    def value(points: torch.Tensor) -> torch.Tensor:
        return kernel_distance(points, y, kernel=kernel, bandwidth=2.0 if kernel == "rbf" else None)

    _, forward = torch.func.jvp(value, (x,), (along,))
    backward = (torch.func.grad(value)(x) * along).sum()
    torch.testing.assert_close(forward, backward)


def test_unbiased_for_equal_laws() -> None:
    """The mean over 400 pairs of samples is 0 within four of its standard errors."""
    x, y = cloud(400, 10, 3, seed=1), cloud(400, 15, 3, seed=2)
    for kernel in KERNELS:
        bandwidth = 2.0 if kernel == "rbf" else None
        values = kernel_distance(x, y, kernel=kernel, bandwidth=bandwidth)
        assert abs(values.mean().item()) < 4 * values.std().item() / 400**0.5
        assert (values < 0).any()


@pytest.mark.parametrize("scale", [2.0, 0.5])
def test_expectation_between_gaussians(scale: float) -> None:
    """N(0, I) against N(0, s^2 I): 3 (1 - s^2)^2 / d for the polynomial kernel."""
    d = 8
    values = kernel_distance(cloud(400, 20, d, seed=1), scale * cloud(400, 20, d, seed=2))
    expected = 3 * (1 - scale**2) ** 2 / d
    assert abs(values.mean().item() - expected) < 4 * values.std().item() / 400**0.5


def test_expectation_of_rbf_between_gaussians() -> None:
    """E exp(-|z|^2 / (2 w^2)) for z ~ N(t, v I) is (w^2/(w^2+v))^(d/2) exp(-|t|^2/(2(w^2+v)))."""
    d, width, shift = 3, 1.5, 0.8
    values = kernel_distance(
        cloud(400, 20, d, seed=1),
        cloud(400, 20, d, seed=2) + shift,
        kernel="rbf",
        bandwidth=width,
    )
    ratio = (width**2 / (width**2 + 2)) ** (d / 2)
    expected = 2 * ratio * (1 - math.exp(-d * shift**2 / (2 * (width**2 + 2))))
    assert abs(values.mean().item() - expected) < 4 * values.std().item() / 400**0.5


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(5, 5, 3), (4, 6, 2)])
def test_gradient(shape: tuple[int, int, int], kernel: Kernel) -> None:
    n, m, d = shape
    x, y = cloud(n, d, seed=1).requires_grad_(), cloud(m, d, seed=2).requires_grad_()
    bandwidth = 1.3 if kernel == "rbf" else None
    assert torch.autograd.gradcheck(
        lambda u, v: kernel_distance(u, v, kernel=kernel, bandwidth=bandwidth), (x, y)
    )


def test_default_bandwidth_is_a_constant_for_the_gradient() -> None:
    x, y = cloud(5, 3, seed=1).requires_grad_(), cloud(6, 3, seed=2)
    width = (oracles.costs(x.detach().numpy(), y.numpy(), 2).mean() / 2) ** 0.5
    gradients = [
        torch.autograd.grad(kernel_distance(x, y, kernel="rbf", bandwidth=w), x)[0]
        for w in (None, float(width))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kernel", KERNELS)
def test_constant_features(kernel: Kernel) -> None:
    x = torch.ones(5, 3, dtype=torch.float64, requires_grad=True)
    distance = kernel_distance(x, torch.ones(4, 3, dtype=torch.float64), kernel=kernel)
    distance.backward()
    assert distance.item() == pytest.approx(0, abs=1e-13)
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_rbf_takes_its_width_from_the_data(offset: float, scale: float) -> None:
    x, y = cloud(7, 4, seed=1), cloud(9, 4, seed=2) + 1
    expected = kernel_distance(x, y, kernel="rbf")
    moved = kernel_distance(scale * (x + offset), scale * (y + offset), kernel="rbf")
    torch.testing.assert_close(moved, expected, rtol=1e-8, atol=1e-12)


def test_far_apart_laws_share_nothing() -> None:
    """Kernel values across are 0: what remains are the means within, here 1."""
    x = torch.zeros(4, 2, dtype=torch.float64)
    assert kernel_distance(x, x + 100, kernel="rbf", bandwidth=1.0).item() == pytest.approx(2)
