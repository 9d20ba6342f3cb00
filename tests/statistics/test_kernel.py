"""Kernel distances against double loops, and their expectation where it is known."""

import math
from fractions import Fraction
from typing import Literal

import numpy as np
import oracles
import pytest
import torch
from cases import cloud, relative_tolerance
from hypothesis import given, settings
from hypothesis import strategies as st

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
    monkeypatch.setattr("otmetrics.transport.costs.BLOCK_ELEMENTS", 25)
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


def exact_cubic(x: torch.Tensor, y: torch.Tensor) -> float:
    """The unbiased estimate in rational numbers."""
    sides = [[[Fraction(v) for v in row] for row in side.tolist()] for side in (x, y)]

    def kernel(u: list[Fraction], v: list[Fraction]) -> Fraction:
        return (sum(p * q for p, q in zip(u, v, strict=True)) / len(u) + 1) ** 3

    def mean(rows: list, columns: list, own: bool) -> Fraction:
        total = sum(
            kernel(u, v) for i, u in enumerate(rows) for j, v in enumerate(columns) if own or i != j
        )
        return total / (len(rows) * (len(columns) - (not own)))

    left, right = sides
    within = mean(left, left, False) + mean(right, right, False)
    return float(within - 2 * mean(left, right, True))


@pytest.mark.parametrize("factor", [1e2, 1e6, -1e9])
@pytest.mark.parametrize("both", [False, True])
def test_a_row_far_larger_than_the_others(factor: float, both: bool) -> None:
    """A sample is not paired with itself: what it would give must not drown the rest."""
    x, y = cloud(9, 4, seed=1), cloud(7, 4, seed=2) + 0.5
    x[3] *= factor
    if both:
        y[2] *= factor / 3
    assert kernel_distance(x, y).item() == pytest.approx(exact_cubic(x, y), rel=1e-9)
    assert kernel_distance(y, x).item() == pytest.approx(exact_cubic(x, y), rel=1e-9)
    x.requires_grad_()
    assert kernel_distance(x, y).item() == pytest.approx(exact_cubic(x.detach(), y), rel=1e-9)


@pytest.mark.parametrize("offset", [1e1, 1e2, 1e4, 1e8, -1e10])
@pytest.mark.parametrize("shape", [(9, 7, 4), (5, 8, 1), (4, 4, 12)])
def test_far_from_the_origin(offset: float, shape: tuple[int, int, int]) -> None:
    """The cubic kernel is not invariant under translations: the answer there is its own."""
    n, m, d = shape
    x, y = cloud(n, d, seed=1) + offset, 1.5 * cloud(m, d, seed=2) + offset
    assert kernel_distance(x, y).item() == pytest.approx(exact_cubic(x, y), rel=1e-9)
    single = kernel_distance(x[:, :1].float(), y[:, :1].float())
    expected = exact_cubic(x[:, :1].float(), y[:, :1].float())
    assert single.item() == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_gradient_far_from_the_origin() -> None:
    """By differences of the rational answer."""
    x, y = cloud(5, 2, seed=1) + 1e6, cloud(4, 2, seed=2) + 1e6
    x.requires_grad_()
    (slope,) = torch.autograd.grad(kernel_distance(x, y), x)
    step = torch.zeros_like(y[:1]).expand(5, 2).clone()
    step[1, 0] = 2.0**-10
    difference = exact_cubic(x.detach() + step, y) - exact_cubic(x.detach() - step, y)
    assert slope[1, 0].item() == pytest.approx(difference * 2**9, rel=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    powers=st.lists(st.integers(-3, 9), min_size=8, max_size=8),
)
def test_rows_of_all_sizes(seed: int, powers: list[int]) -> None:
    """Up to the rounding of the largest kernel between two samples."""
    scales = 10.0 ** torch.tensor(powers, dtype=torch.float64)[:, None]
    x, y = scales[:4] * cloud(4, 3, seed=seed), scales[4:] * cloud(4, 3, seed=seed + 1)
    products = [x @ y.T, *((side @ side.T).fill_diagonal_(0) for side in (x, y))]
    largest = max(product.abs().max().item() for product in products)
    expected = pytest.approx(exact_cubic(x, y), rel=1e-9, abs=1e-13 * (largest / 3 + 1) ** 3)
    assert kernel_distance(x, y).item() == expected


def test_a_narrow_kernel_does_not_lose_its_sums() -> None:
    """Far below the ones of samples with themselves lie all other pairs."""
    x, y = cloud(4, 2, seed=1), cloud(5, 2, seed=2)
    distance = kernel_distance(x, y, kernel="rbf", bandwidth=0.03)

    def mean(a: torch.Tensor, b: torch.Tensor, own: bool) -> float:
        values = [
            math.exp(-(u - v).square().sum().item() / (2 * 0.03**2))
            for i, u in enumerate(a)
            for j, v in enumerate(b)
            if own or i != j
        ]
        return math.fsum(values) / len(values)

    expected = mean(x, x, False) + mean(y, y, False) - 2 * mean(x, y, True)
    assert distance.item() == pytest.approx(expected, rel=1e-9, abs=0)
