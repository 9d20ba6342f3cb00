"""Second derivatives are right or raise, and weights have gradients: both against differences."""

from collections.abc import Callable

import pytest
import torch
from cases import cloud, weights
from torch import Tensor

from otmetrics import (
    Exact,
    ExactWassersteinLoss,
    Sinkhorn,
    SinkhornLoss,
    Sliced,
    SlicedWassersteinLoss,
)
from otmetrics.functional import (
    barycentric_projection,
    cost_matrix,
    entropic_cost,
    exact_transport,
    exact_wasserstein,
    frechet_distance,
    frechet_distance_from_moments,
    kernel_distance,
    max_sliced_wasserstein,
    monge_inception_distance,
    random_directions,
    sinkhorn_divergence,
    sliced_wasserstein,
    univariate_cost,
    unrolled_sinkhorn_divergence,
)
from otmetrics.transport.sliced.max_sliced import MaxSliced

X, Y = cloud(6, 3, seed=1), cloud(7, 3, seed=2) + 0.5
XS, YS = cloud(2, 4, 2, seed=3), cloud(2, 4, 2, seed=4)
A, B = weights(6, seed=5), weights(7, seed=6)
AS = torch.stack([A[:4], A[2:]])
FEW = Sliced(num_projections=48)
THETA = random_directions(3, 5, generator=torch.Generator().manual_seed(0))
EPSILON = {"epsilon": 0.5, "relative": False, "tolerance": 1e-10}


def moments(points: Tensor) -> tuple[Tensor, Tensor]:
    return points.mean(0), points.T.cov()


TWICE: dict[str, Callable[[Tensor], Tensor]] = {
    "exact cost": lambda y: Exact().solve(X, y).cost,
    "exact": lambda y: exact_wasserstein(X, y),
    "exact of order 1": lambda y: exact_wasserstein(X, y, order=1),
    "exact with weights": lambda y: Exact().solve(X, y, fake_weights=B).cost,
    "exact in batches": lambda y: Exact(order=3).solve(XS, y).cost,
    "exact of a matrix": lambda y: exact_transport(cost_matrix(X, y)).cost,
    "exact loss": lambda y: ExactWassersteinLoss()(X, y),
    "line": lambda y: univariate_cost(X.flatten(), y.flatten()),
    "line with weights": lambda y: univariate_cost(X.T, y.T, order=3, fake_weights=B),
    "line of order 1": lambda y: univariate_cost(X.T, y.T, order=1, fake_weights=B),
    "costs": lambda y: cost_matrix(X, y, order=1),
    "barycentric map": lambda y: barycentric_projection(Exact().solve(X, y).plan, y).square(),
    "frechet": lambda y: frechet_distance(X, y),
    "kernel": lambda y: kernel_distance(X, y),
    "kernel of a width": lambda y: kernel_distance(X, y, kernel="rbf", bandwidth=1.0),
    "unrolled": lambda y: unrolled_sinkhorn_divergence(
        X, y, epsilon=1.0, relative=False, num_iterations=10
    ),
}
ONCE: dict[str, Callable[[Tensor], Tensor]] = {
    "sliced": lambda y: FEW(X, y),
    "sliced cost": lambda y: FEW.solve(X, y).cost,
    "sliced, few": lambda y: Sliced(num_projections=3).solve(X, y).cost,
    "sliced of order 1": lambda y: Sliced(order=1, num_projections=48)(X, y),
    "sliced, debiased": lambda y: Sliced(debiased=True, num_projections=48).solve(X, y).cost,
    "sliced along": lambda y: Sliced().solve(X, y, directions=THETA).cost,
    "sliced with weights": lambda y: sliced_wasserstein(X, y, fake_weights=B, num_projections=48),
    "sliced to a tolerance": lambda y: Sliced(tolerance=0.2).solve(X, y).cost,
    "sliced in batches": lambda y: sliced_wasserstein(XS, y, num_projections=8),
    "sliced loss": lambda y: SlicedWassersteinLoss()(X, y),
    "sliced loss, rooted": lambda y: SlicedWassersteinLoss(FEW, root=True, resample=False)(X, y),
    "max-sliced": lambda y: max_sliced_wasserstein(X, y, num_starts=2),
    "max-sliced cost": lambda y: MaxSliced(num_starts=2).solve(X, y).result.cost,
    "sinkhorn": lambda y: sinkhorn_divergence(X, y),
    "sinkhorn value": lambda y: Sinkhorn(**EPSILON).solve(X, y).value,
    "sinkhorn in batches": lambda y: sinkhorn_divergence(XS, y),
    "richardson": lambda y: sinkhorn_divergence(X, y, richardson=True),
    "entropic": lambda y: entropic_cost(X, y, **EPSILON),
    "sinkhorn loss": lambda y: SinkhornLoss()(X, y),
    "mind": lambda y: monge_inception_distance(X, y, num_projections=8),
    "frechet of moments": lambda y: frechet_distance_from_moments(*moments(X), *moments(y)),
    "kernel of its own width": lambda y: kernel_distance(X, y, kernel="rbf"),
    "unrolled, relative": lambda y: unrolled_sinkhorn_divergence(X, y, num_iterations=5),
}


def points(name: str) -> Tensor:
    return YS if name.endswith("in batches") else Y


def slope(function: Callable[[Tensor], Tensor], y: Tensor, beside: float, **kept: bool) -> Tensor:
    """Gradient of the function, next to a term with second derivatives of its own or not."""
    value = function(y).sum() + beside * y.pow(4).sum()
    return torch.autograd.grad(value, y, **kept)[0]


@pytest.mark.parametrize("beside", [0.0, 1.0])
@pytest.mark.parametrize("name", TWICE)
def test_a_second_derivative_is_right(name: str, beside: float) -> None:
    """Of the squared gradient, along a random way, against central differences."""
    function, y = TWICE[name], points(name).clone().requires_grad_()
    found = slope(function, y, beside, create_graph=True).square().sum()
    if found.requires_grad:
        (second,) = torch.autograd.grad(found, y)
    else:  # a gradient that is constant, whose derivative autograd knows to be 0
        second = torch.zeros_like(y)
    way, step = cloud(*y.shape, seed=9), 1e-5
    ends = [(y.detach() + sign * step * way).requires_grad_() for sign in (1, -1)]
    up, down = (slope(function, end, beside).square().sum() for end in ends)
    torch.testing.assert_close((second * way).sum(), (up - down) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("beside", [0.0, 1.0])
@pytest.mark.parametrize("by_leaves", [False, True])
@pytest.mark.parametrize("name", ONCE)
def test_what_has_no_second_derivative_says_so(name: str, by_leaves: bool, beside: float) -> None:
    """Also where another term has one, and only the leaves that are asked for are visited."""
    y = points(name).clone().requires_grad_()
    gradient = slope(ONCE[name], y, beside, create_graph=True)
    torch.testing.assert_close(gradient.detach(), slope(ONCE[name], y, beside))
    penalty = gradient.square().sum()
    with pytest.raises(RuntimeError, match="differentiable once"):
        penalty.backward() if by_leaves else torch.autograd.grad(penalty, y)


def test_a_graph_that_is_not_differentiated_again_is_left_alone() -> None:
    y = Y.clone().requires_grad_()
    other = torch.ones((), dtype=torch.float64, requires_grad=True)
    gradient = slope(lambda y: sinkhorn_divergence(X, y) * other, y, 0.0, create_graph=True)
    (along,) = torch.autograd.grad(gradient.sum(), other)  # d/dc of c g is g
    torch.testing.assert_close(along, slope(lambda y: sinkhorn_divergence(X, y), y, 0.0).sum())


# Weights

Weighted = Callable[[Tensor, Tensor], Tensor]
LINE = X[:, 0], Y[:, 0]
WEIGHTED: dict[str, Callable[[float], Weighted]] = {
    "line": lambda p: lambda a, b: univariate_cost(*LINE, order=p, real_weights=a, fake_weights=b),
    "lines": lambda p: (
        lambda a, b: univariate_cost(
            XS[..., 0], YS[..., 0], order=p, real_weights=a, fake_weights=b[:4]
        )
    ),
    "exact": lambda p: (
        lambda a, b: exact_wasserstein(X, Y, order=p, real_weights=a, fake_weights=b)
    ),
    "exact on the line": lambda p: (
        lambda a, b: Exact(order=p).solve(X[:, :1], Y[:, :1], real_weights=a, fake_weights=b).cost
    ),
    "exact in batches": lambda p: (
        lambda a, b: exact_wasserstein(XS, YS, order=p, real_weights=a, fake_weights=b[:4])
    ),
    "exact of a matrix": lambda p: (
        lambda a, b: exact_transport(cost_matrix(X, Y, order=p), a, b).cost
    ),
    "sliced": lambda p: (
        lambda a, b: sliced_wasserstein(
            X, Y, order=p, num_projections=48, real_weights=a, fake_weights=b
        )
    ),
    "sliced in batches": lambda p: (
        lambda a, b: (
            Sliced(order=p)
            .solve(
                XS,
                YS,
                directions=THETA[:2] / THETA[:2].norm(dim=0),
                real_weights=a,
                fake_weights=b[:4],
            )
            .cost
        )
    ),
    "max-sliced": lambda p: (
        lambda a, b: max_sliced_wasserstein(
            X, Y, order=p, tolerance=1e-12, num_starts=2, real_weights=a, fake_weights=b
        )
    ),
    "sinkhorn": lambda p: (
        lambda a, b: sinkhorn_divergence(X, Y, order=p, **EPSILON, real_weights=a, fake_weights=b)
    ),
    "entropic": lambda p: (
        lambda a, b: entropic_cost(X, Y, order=p, **EPSILON, real_weights=a, fake_weights=b)
    ),
    "sinkhorn value": lambda p: (
        lambda a, b: Sinkhorn(order=p, **EPSILON).solve(X, Y, real_weights=a, fake_weights=b).value
    ),
    "sinkhorn in batches": lambda p: (
        lambda a, b: entropic_cost(XS, YS, order=p, **EPSILON, real_weights=a, fake_weights=b[:4])
    ),
    "richardson": lambda p: (
        lambda a, b: sinkhorn_divergence(
            X, Y, order=p, **EPSILON, richardson=True, real_weights=a, fake_weights=b
        )
    ),
}


@pytest.mark.parametrize("order", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("name", [name for name in WEIGHTED if name != "max-sliced"])
def test_the_gradient_in_weights(name: str, order: float) -> None:
    """Against differences in the weights as they are given, which do not sum to one."""
    function = WEIGHTED[name](order)
    batched = name.endswith(("lines", "in batches"))
    a, b = (AS if batched else A).clone().requires_grad_(), B.clone().requires_grad_()
    gradients = torch.autograd.grad(function(a, b).sum(), (a, b))
    step = (
        1e-4 if name.startswith(("sinkhorn", "richardson", "entropic")) else 1e-6
    )  # values to a tolerance
    for seed in (5, 6):
        ways = [cloud(*one.shape, seed=seed + len(one)) for one in (a, b)]
        up, down = (
            function(*(one.detach() + sign * step * w for one, w in zip((a, b), ways, strict=True)))
            for sign in (1, -1)
        )
        found = sum((g * w).sum() for g, w in zip(gradients, ways, strict=True))
        torch.testing.assert_close(found, (up - down).sum() / (2 * step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batched", [False, True])
def test_the_gradient_in_weights_of_max_sliced_is_that_along_its_direction(batched: bool) -> None:
    x, y, a, b = (XS, YS, AS, B[:4]) if batched else (X, Y, A, B)
    a, b = a.clone(), b.clone()
    a[..., 1] = 0
    for one in (a, b):
        one.requires_grad_()
    found = MaxSliced(order=1.5, num_starts=2).solve(x, y, real_weights=a, fake_weights=b)
    lines = ((side @ found.direction[..., None]).squeeze(-1) for side in (x, y))
    along = univariate_cost(*lines, order=1.5, real_weights=a, fake_weights=b)
    torch.testing.assert_close(found.result.cost, along)
    gradients = (torch.autograd.grad(one.sum(), (a, b)) for one in (found.result.cost, along))
    for one, two in zip(*gradients, strict=True):
        assert one.norm() > 0
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("order", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("sizes", [(6, 6), (6, 4), (5, 7)])
def test_equal_weights_on_a_line_have_a_subgradient(sizes: tuple[int, int], order: float) -> None:
    """Their levels meet, where a cost has a corner: no other weights may lie below its plane."""
    n, m = sizes
    x, y = cloud(n, seed=1), cloud(m, seed=2)
    a, b = (torch.ones(k, dtype=torch.float64, requires_grad=True) for k in sizes)
    cost = univariate_cost(x, y, order=order, real_weights=a, fake_weights=b)
    gradients = torch.autograd.grad(cost, (a, b))
    assert torch.allclose(cost, univariate_cost(x, y, order=order))
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        others = [torch.rand(k, generator=generator, dtype=torch.float64) for k in sizes]
        others = [w * len(w) / w.sum() for w in others]
        there = univariate_cost(x, y, order=order, real_weights=others[0], fake_weights=others[1])
        plane = cost + sum((g * (w - 1)).sum() for g, w in zip(gradients, others, strict=True))
        assert there >= plane - 1e-12


def test_points_without_weight_have_a_gradient() -> None:
    """How much the cost rises once they get some: one-sided, from inside."""
    a = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    for name in ("exact", "line", "sliced", "entropic"):
        function, given = WEIGHTED[name](2.0), a.clone().requires_grad_()
        value = function(given, B)
        (gradient,) = torch.autograd.grad(value, given)
        more = a.clone()
        more[1] += 1e-6
        rise = (function(more, B) - value).detach() / 1e-6
        torch.testing.assert_close(gradient[1], rise, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["exact", "exact of a matrix", "sliced", "max-sliced", "sinkhorn"])
def test_mixed_second_derivatives_in_weights_and_points_raise(name: str) -> None:
    a, x = A.clone().requires_grad_(), X.clone().requires_grad_()
    functions = {
        "exact": lambda: exact_wasserstein(x, Y, real_weights=a),
        "exact of a matrix": lambda: exact_transport(cost_matrix(x, Y), a).cost,
        "sliced": lambda: sliced_wasserstein(x, Y, real_weights=a, num_projections=8),
        "max-sliced": lambda: max_sliced_wasserstein(x, Y, real_weights=a, num_starts=2),
        "sinkhorn": lambda: sinkhorn_divergence(x, Y, real_weights=a),
    }
    for first, second in ((a, x), (x, a), (a, a)):
        beside = a.pow(3).sum() * x.pow(3).sum()
        (gradient,) = torch.autograd.grad(functions[name]() + beside, first, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiable once"):
            torch.autograd.grad(gradient.square().sum(), second)


@pytest.mark.parametrize("order", [1.0, 3.0])
def test_on_the_line_weights_and_points_have_all_second_derivatives(order: float) -> None:
    inputs = (LINE[0].clone(), A.clone(), B.clone())

    def cost(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return univariate_cost(x, LINE[1], order=order, real_weights=a, fake_weights=b)

    assert torch.autograd.gradgradcheck(cost, [one.requires_grad_() for one in inputs])


def test_weights_in_float32_get_float32_gradients_and_none_without_a_graph() -> None:
    a = A.float().requires_grad_()
    for name in ("exact", "sliced", "max-sliced", "sinkhorn", "line"):
        (gradient,) = torch.autograd.grad(WEIGHTED[name](2.0)(a, B), a)
        assert gradient.dtype == torch.float32
        with torch.no_grad():
            assert not WEIGHTED[name](2.0)(a, B).requires_grad
