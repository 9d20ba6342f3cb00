"""What every function owes to dtypes and to the caller's settings."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import cloud

from otmetrics import Exact, Sliced
from otmetrics.functional import (
    entropic_cost,
    exact_wasserstein,
    frechet_distance,
    kernel_distance,
    manifold_scores,
    sinkhorn_divergence,
    sliced_wasserstein,
)
from otmetrics.transport.sinkhorn import sinkhorn
from otmetrics.transport.sliced.max_sliced import MaxSliced


def rbf(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return kernel_distance(x, y, kernel="rbf")


def manifold(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.stack(manifold_scores(x, y))


def divergence(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return sinkhorn_divergence(x, y, epsilon=0.3)


FUNCTIONS: list[Callable[[torch.Tensor, torch.Tensor], Any]] = [
    sliced_wasserstein,
    exact_wasserstein,
    entropic_cost,
    divergence,
    frechet_distance,
    kernel_distance,
    rbf,
    manifold,
]


@pytest.fixture
def low_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_changes_nothing(
    dtype: torch.dtype, function: Callable[..., torch.Tensor], device: torch.device
) -> None:
    x = cloud(40, 16, seed=1, dtype=dtype, device=device)
    y = cloud(30, 16, seed=2, dtype=dtype, device=device)
    expected = function(x, y)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = function(x, y)
    assert found.dtype == expected.dtype == dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("function", FUNCTIONS[:-1])
def test_autocast_does_not_change_gradients(
    function: Callable[..., torch.Tensor], device: torch.device
) -> None:
    gradients = []
    for enabled in (False, True):
        x = cloud(20, 8, seed=1, dtype=torch.float32, device=device).requires_grad_()
        y = cloud(15, 8, seed=2, dtype=torch.float32, device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
            value = function(x, y)
        value.backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.usefixtures("low_precision")
def test_low_matmul_precision_changes_nothing(
    function: Callable[..., torch.Tensor], device: torch.device
) -> None:
    x = cloud(300, 64, seed=1, dtype=torch.float32, device=device)
    y = cloud(200, 64, seed=2, dtype=torch.float32, device=device)
    found = function(x, y)
    assert torch.get_float32_matmul_precision() == "medium"
    torch.set_float32_matmul_precision("highest")
    assert torch.equal(found, function(x, y))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.usefixtures("low_precision")
def test_settings_survive_an_error(
    function: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise MemoryError("inside")

    x, y = cloud(20, 4, seed=1, dtype=torch.float32), cloud(20, 4, seed=2, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with monkeypatch.context() as patch:
            for product in ("__matmul__", "addmm", "addmm_"):
                patch.setattr(torch.Tensor, product, fail)
            patch.setattr(torch, "mm", fail)
            with pytest.raises(MemoryError, match="inside"):
                function(x, y)
        assert torch.is_autocast_enabled("cpu")
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_is_upcast_first(
    half: torch.dtype, function: Callable[..., torch.Tensor], device: torch.device
) -> None:
    """The same numbers in float32 and in half precision give the same answer."""
    x, y = cloud(20, 6, seed=1, dtype=half), cloud(15, 6, seed=2, dtype=half)
    x, y = x.to(device), y.to(device)
    found = function(x, y)
    assert found.dtype == torch.float32
    assert torch.equal(found, function(x.float(), y.float()))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_dtypes_are_promoted(function: Callable[..., torch.Tensor]) -> None:
    x, y = cloud(20, 6, seed=1), cloud(15, 6, seed=2, dtype=torch.float32)
    assert torch.equal(function(x, y), function(x, y.double()))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_single_precision_agrees_with_double(function: Callable[..., torch.Tensor]) -> None:
    x, y = cloud(40, 6, seed=1, dtype=torch.float32), cloud(30, 6, seed=2, dtype=torch.float32)
    found, expected = function(x, y), function(x.double(), y.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_inputs_stay_as_they_are(function: Callable[..., torch.Tensor]) -> None:
    x, y = cloud(20, 6, seed=1), cloud(15, 6, seed=2)
    copies = x.clone(), y.clone()
    function(x, y)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_memory_layout_does_not_matter(function: Callable[..., torch.Tensor]) -> None:
    x, y = cloud(6, 20, seed=1).T, cloud(30, 6, seed=2)[::2]
    assert not x.is_contiguous()
    found, expected = function(x, y), function(x.contiguous(), y.contiguous())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_graph_in_inference(function: Callable[..., torch.Tensor]) -> None:
    """Parameters in a no_grad block, and tensors made in inference mode."""
    x, y = cloud(20, 6, seed=1), cloud(15, 6, seed=2)
    expected = function(x, y)
    with torch.no_grad():
        assert not function(x.clone().requires_grad_(), y).requires_grad
    with torch.inference_mode():
        found = function(cloud(20, 6, seed=1), y)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_autocast_changes_nothing_in_large_problems(
    order: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large entropic problems stay in float32, where autocast could reach; so do weighted means."""
    monkeypatch.setattr(sinkhorn, "_FEW_PAIRS", 0)
    x, y = cloud(40, 16, seed=1, dtype=torch.float32), cloud(30, 16, seed=2, dtype=torch.float32)
    a = torch.linspace(1, 2, 40)

    def values() -> list[torch.Tensor]:
        return [
            sinkhorn_divergence(x, y, order=order, epsilon=0.3, real_weights=a),
            entropic_cost(x, y, order=order, epsilon=0.3),
            sliced_wasserstein(x, y, order=order, real_weights=a),
        ]

    expected = values()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = values()
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
def test_large_entropic_problems_in_single_precision(
    order: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Costs and kernel in float32: value and gradient to some roundings of the mean cost."""
    x, y = cloud(3, 60, 16, seed=1), cloud(3, 50, 16, seed=2) + 0.5

    def found(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        fake = y.to(dtype).requires_grad_()
        cost = sinkhorn_divergence(x.to(dtype), fake, order=order, tolerance=2e-6)
        return cost.detach().double(), torch.autograd.grad(cost.sum(), fake)[0].double()

    cost, gradient = found(torch.float64)
    monkeypatch.setattr(sinkhorn, "_FEW_PAIRS", 0)
    single_cost, single_gradient = found(torch.float32)
    torch.testing.assert_close(single_cost, cost, rtol=1e-5, atol=0)
    assert (single_gradient - gradient).norm() < 1e-4 * gradient.norm()


def test_a_far_point_of_little_weight_takes_no_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, beside a point a million times as far with 1e-7 of the weight."""
    monkeypatch.setattr(sinkhorn, "_FEW_PAIRS", 0)
    x, y = cloud(40, 3, seed=1), cloud(50, 3, seed=2) + 0.5
    x[0] = 1e6
    a = torch.ones(40)
    a[0] = 1e-13
    monkeypatch.setattr(sinkhorn, "_UNEVEN", 0)
    found = sinkhorn_divergence(x.float(), y.float(), real_weights=a)
    expected = sinkhorn_divergence(x, y, real_weights=a)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("exponent", [12.0, 20.0, 30.0])
def test_uneven_weights_overflow_no_kernel(
    exponent: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinkhorn, "_FEW_PAIRS", 0)
    for seed in range(4):
        x, y = cloud(40, 3, seed=seed), cloud(50, 3, seed=100 + seed)
        random = torch.rand(40, generator=torch.Generator().manual_seed(seed))
        a = 10 ** (-exponent * random.double())
        found = sinkhorn_divergence(x.float(), y.float(), epsilon=0.01, real_weights=a)
        expected = sinkhorn_divergence(x, y, epsilon=0.01, real_weights=a)
        assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_one_problem_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of a collapsed, a wide, a heavy-tailed and an ordinary problem, and each alone."""
    x = torch.stack([cloud(30, 2, seed=seed) for seed in range(4)])
    y = torch.stack([cloud(25, 2, seed=10 + seed) for seed in range(4)])
    x[0], y[0] = 1.0, 1.0
    x[1], y[1] = 1e6 * x[1], 1e6 * y[1]
    x[2], y[2] = x[2] ** 5, y[2] ** 5
    batch = sinkhorn_divergence(x, y, epsilon=0.01, tolerance=1e-9)
    for i in range(4):
        alone = sinkhorn_divergence(x[i], y[i], epsilon=0.01, tolerance=1e-9)
        # The collapsed one costs nothing; alone, its equal points are one, which rounds otherwise.
        torch.testing.assert_close(batch[i], alone, rtol=1e-7, atol=1e-15)


@pytest.mark.parametrize("function", [sliced_wasserstein, divergence])
def test_training_after_inference_mode(function: Callable[..., torch.Tensor]) -> None:
    x, y = cloud(23, 4, seed=1), cloud(17, 4, seed=2)
    with torch.inference_mode():
        function(x, y)
    x.requires_grad_()
    function(x, y).backward()
    assert x.grad is not None
    assert x.grad.norm() > 0


RESULTS: list[Callable[..., Any]] = [
    lambda x, y: Exact().solve(x, y).cost,
    lambda x, y: Exact(order=1).solve(x, y).value,
    lambda x, y: Sliced(num_projections=32).solve(x, y).cost,
    lambda x, y: MaxSliced().solve(x, y).result.cost,
]


@pytest.mark.parametrize("function", [*FUNCTIONS, *RESULTS])
@pytest.mark.parametrize("scale", [2.0**30, 2.0**66, 2.0**100, 2.0**-40, 2.0**-66, 2.0**-100])
def test_float32_of_any_size_is_right_or_refused(
    function: Callable[..., torch.Tensor], scale: float
) -> None:
    """As in float64, or a `ValueError` that says so; only what is below its range becomes 0."""
    x, y = cloud(30, 8, seed=1).float() * scale, (cloud(25, 8, seed=2).float() + 0.3) * scale
    expected = function(x.double(), y.double())
    if function in FUNCTIONS and expected.abs().max() > torch.finfo(torch.float32).max:
        with pytest.raises(ValueError, match="scale both"):
            function(x, y)
    else:
        torch.testing.assert_close(function(x, y).double(), expected, rtol=1e-4, atol=1e-37)
