"""Chunked slices: the gradient of the naive code, without its memory."""

import pytest
import torch
from cases import ORDERS, cloud, weights

from otmetrics import Sliced
from otmetrics.functional import random_directions
from otmetrics.transport import line
from otmetrics.transport.sliced import slices


def naive(x: torch.Tensor, y: torch.Tensor, directions: torch.Tensor, order: float) -> torch.Tensor:
    """Sort everything at once and let autograd keep it."""
    along = [(cloud @ directions).sort(0).values for cloud in (x, y)]
    return (along[0] - along[1]).abs().pow(order).mean()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("chunk", [1, 40, 2**23])
def test_the_gradient_is_that_of_the_naive_code(
    chunk: int, order: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "CHUNK_ELEMENTS", chunk)
    x, y = cloud(9, 4, seed=1).requires_grad_(), cloud(9, 4, seed=2).requires_grad_()
    directions = random_directions(4, 20, generator=torch.Generator().manual_seed(0))
    found = Sliced(order=order).solve(x, y, directions=directions).cost
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
    b = weights(7, seed=3) if kind == "weighted" else None
    solver = Sliced(order=order, num_projections=48, debiased=kind == "debiased")
    for field in ("cost", "value"):
        assert torch.autograd.gradcheck(
            lambda u, v, f=field: getattr(solver.solve(u, v, fake_weights=b), f), (x, y)
        )


def test_what_is_kept_for_the_gradient_does_not_grow_with_the_directions() -> None:
    """Of each direction only itself and a few numbers are kept, never its N + M projections."""

    def kept(num_projections: int) -> int:
        sizes = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            Sliced(num_projections=num_projections).solve(x, y)
        return sum(sizes.values())

    x, y = cloud(2000, 3, seed=1).requires_grad_(), cloud(1500, 3, seed=2)
    few, many = kept(64), kept(1024)
    assert many - few < 60 * (1024 - 64)
    assert few < 10 * 3500 * 3


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, y = cloud(9, 4, seed=1), cloud(7, 4, seed=2).requires_grad_()
    Sliced(num_projections=40).solve(x, y).value.backward()
    assert x.grad is None
    assert y.grad is not None
    assert y.grad.norm() > 0


def test_second_derivatives_are_refused() -> None:
    x, y = cloud(9, 4, seed=1).requires_grad_(), cloud(7, 4, seed=2)
    value = Sliced(num_projections=8).solve(x, y).value
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_threads_and_pieces_change_nothing(
    order: float, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for layouts whose rows are not one behind the other, and the clouds stay as they are."""
    x = cloud(5, 9, 2, seed=1).permute(2, 1, 0)  # (2, 9, 5), strided
    y = cloud(1, 9, 5, seed=2).expand(2, 9, 5)
    solver = Sliced(order=order, num_projections=40)
    a = weights(9, seed=3) if weighted else None
    before = x.clone(), y.clone()

    def found() -> list[torch.Tensor]:
        u, v = x.clone().requires_grad_(), y.clone().requires_grad_()
        cost = solver.solve(u, v, real_weights=a).cost
        shorter = solver.solve(x, y[:, :7]).cost
        gradients = torch.autograd.grad(cost.sum(), (u, v))
        return [solver.solve(x, y, real_weights=a).cost, shorter, *gradients]

    expected = found()
    for many, cached, threads in ((1, 1, 3), (1, 2**16, 2), (2**17, 1, 1)):
        monkeypatch.setattr(line, "_MANY", many)
        monkeypatch.setattr(line, "_CACHED", cached)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        for one, two in zip(found(), expected, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_clouds_of_inference_mode_can_be_compared_with_those_that_train() -> None:
    with torch.inference_mode():
        real = cloud(9, 4, seed=1)
    fake = cloud(9, 4, seed=2).requires_grad_()
    cost = Sliced(num_projections=8).solve(real, fake).cost
    (gradient,) = torch.autograd.grad(cost, fake)
    ordinary = Sliced(num_projections=8).solve(cloud(9, 4, seed=1), fake).cost
    torch.testing.assert_close(gradient, torch.autograd.grad(ordinary, fake)[0])


@pytest.mark.parametrize("num", [1000, 5000])
def test_far_clouds_keep_their_digits_whatever_their_order(num: int) -> None:
    """Position is told by some of the points; here they are sorted, and one lies far out."""
    x, y = cloud(num, 6, seed=1), 1.5 * cloud(num, 6, seed=2)
    x = x[x.norm(dim=1).argsort()]
    x[-1] *= 100
    expected = Sliced(num_projections=64).solve(x, y).value
    offset = torch.full((6,), 1e5).double()
    single = [(side + offset).float() for side in (x, y)]
    rounded = [side.double() - offset for side in single]  # what float32 leaves of them
    exact = Sliced(num_projections=64).solve(*rounded).value
    found = Sliced(num_projections=64).solve(*single).value
    assert found.item() == pytest.approx(exact.item(), rel=1e-5)
    assert exact.item() == pytest.approx(expected.item(), rel=1e-2)
