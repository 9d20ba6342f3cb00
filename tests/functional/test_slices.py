"""Chunked slices: the gradient of the naive code, without its memory."""

from typing import Any

import pytest
import torch
from cases import ORDERS, cloud, weights

from otmetrics.functional import random_directions, sliced_result, slices


def naive(x: torch.Tensor, y: torch.Tensor, directions: torch.Tensor, order: float) -> torch.Tensor:
    """Sort everything at once and let autograd keep it."""
    along = [(cloud @ directions).sort(0).values for cloud in (x, y)]
    return (along[0] - along[1]).abs().pow(order).mean()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("chunk", [1, 40, 2**23])
def test_the_gradient_is_that_of_the_naive_code(
    chunk: int, order: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_CHUNK_ELEMENTS", chunk)
    x, y = cloud(9, 4, seed=1).requires_grad_(), cloud(9, 4, seed=2).requires_grad_()
    directions = random_directions(4, 20, generator=torch.Generator().manual_seed(0))
    found = sliced_result(x, y, order=order, directions=directions).cost
    expected = naive(x, y, directions, order)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradients = zip(
        torch.autograd.grad(found, (x, y)), torch.autograd.grad(expected, (x, y)), strict=True
    )
    for one, two in gradients:
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["uniform", "unequal", "weighted", "debiased", "batch"])
def test_gradcheck_with_control_variates(kind: str, order: float) -> None:
    """Enough directions for the regression: its coefficients have their gradient too."""
    if kind == "debiased" and order != 2:
        return
    batch = (2,) if kind == "batch" else ()
    x = cloud(*batch, 5, 3, seed=1).requires_grad_()
    y = cloud(*batch, 5 if kind == "uniform" else 7, 3, seed=2).requires_grad_()
    options: dict[str, Any] = {"order": order, "num_projections": 48}
    if kind == "weighted":
        options["fake_weights"] = weights(7, seed=3)
    if kind == "debiased":
        options["debiased"] = True
    for field in ("cost", "value"):
        assert torch.autograd.gradcheck(
            lambda u, v, f=field: getattr(sliced_result(u, v, **options), f), (x, y)
        )


def test_what_is_kept_for_the_gradient_does_not_grow_with_the_directions() -> None:
    """Of each direction only itself and a few numbers are kept, never its N + M projections."""

    def kept(num_projections: int) -> int:
        sizes = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            sliced_result(x, y, num_projections=num_projections)
        return sum(sizes.values())

    x, y = cloud(2000, 3, seed=1).requires_grad_(), cloud(1500, 3, seed=2)
    few, many = kept(64), kept(1024)
    assert many - few < 60 * (1024 - 64)
    assert few < 10 * 3500 * 3


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, y = cloud(9, 4, seed=1), cloud(7, 4, seed=2).requires_grad_()
    sliced_result(x, y, num_projections=40).value.backward()
    assert x.grad is None
    assert y.grad is not None
    assert y.grad.norm() > 0


def test_second_derivatives_are_refused() -> None:
    x, y = cloud(9, 4, seed=1).requires_grad_(), cloud(7, 4, seed=2)
    value = sliced_result(x, y, num_projections=8).value
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
