"""Sliced Wasserstein: the mean one-dimensional transport cost over random directions."""

import torch
from torch import Tensor

from otmetrics.functional.checks import (
    check_at_least,
    check_order,
    check_tensor,
    checked_clouds,
    checked_weights,
)
from otmetrics.functional.cost import centred, ieee_matmul
from otmetrics.functional.result import TransportResult, root
from otmetrics.functional.univariate import line_costs

_CHUNK_ELEMENTS = 2**24


def random_directions(
    dimension: int, num_projections: int, *, generator: torch.Generator
) -> Tensor:
    """Independent directions, uniform on the unit sphere.

    Args:
        dimension: D.
        num_projections: L.
        generator: A CPU generator, so that one seed gives the same directions on every device.

    Returns:
        Directions (D, L) in float64, columns of length one.
    """
    normal = torch.randn(num_projections, dimension, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(normal, dim=1).T.contiguous()


def sliced_result(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    num_projections: int = 1024,
    directions: Tensor | None = None,
    generator: torch.Generator | None = None,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
) -> TransportResult:
    """Sliced Wasserstein cost SW_p^p = E_theta W_p^p(theta . real, theta . fake), estimated.

    Time O(L (N + M) (D + log(N + M))); memory O((N + M) (D + chunk)) without gradient.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D); M may differ from N.
        order: The order p >= 1.
        num_projections: Number L of random directions, ignored when `directions` are given.
        directions: Unit directions (D, L) to use instead of random ones.
        generator: CPU generator of the directions; None seeds one with 0.
        real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
        fake_weights: The same for `fake`.

    Returns:
        Value and cost with the standard error of the value over the random directions (None for
        given directions or a single one). Differentiable in both clouds.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a shape, a weight or an option breaks its rule.

    References:
        Rabin, Peyre, Delon, Bernot, Wasserstein barycenter and its application to texture mixing,
        2011; Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, 2015.
    """
    check_order(order)
    check_at_least("num_projections", num_projections, 1)
    real, fake = checked_clouds(real, fake, order=order)
    a = checked_weights("real_weights", real_weights, real)
    b = checked_weights("fake_weights", fake_weights, fake)
    given = directions is not None
    if directions is None:
        generator = generator or torch.Generator().manual_seed(0)
        directions = random_directions(real.shape[-1], num_projections, generator=generator)
    directions = _checked_directions(directions, real)
    slices = _slice_costs(*centred(real, fake), directions, order, a, b)
    cost = slices.mean(-1)
    value = root(cost, order)
    error = None if given or slices.shape[-1] < 2 else standard_error(slices, value, order)
    return TransportResult(
        value=value.to(real.dtype),
        cost=cost.to(real.dtype),
        standard_error=None if error is None else error.to(real.dtype),
        message=f"mean over {slices.shape[-1]} directions",
    )


def sliced_wasserstein(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    num_projections: int = 1024,
    directions: Tensor | None = None,
    generator: torch.Generator | None = None,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
) -> Tensor:
    """Sliced Wasserstein distance SW_p, the p-th root of the mean cost over directions.

    `sliced_result` has the same arguments, cost and references, and returns the error too.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D).
        order: The order p >= 1.
        num_projections: Number L of random directions.
        directions: Unit directions (D, L) to use instead of random ones.
        generator: CPU generator of the directions; None seeds one with 0.
        real_weights: Non-negative weights (N,) or (B, N); None for uniform.
        fake_weights: The same for `fake`.

    Returns:
        Scalar or (B,), in the units of the features, >= 0, differentiable in both clouds.

    Example:
        >>> x = torch.randn(100, 3, dtype=torch.float64)
        >>> round(sliced_wasserstein(x, x[torch.randperm(100)]).item(), 9)
        0.0
    """
    return sliced_result(
        real,
        fake,
        order=order,
        num_projections=num_projections,
        directions=directions,
        generator=generator,
        real_weights=real_weights,
        fake_weights=fake_weights,
    ).value


def _checked_directions(directions: Tensor, cloud: Tensor) -> Tensor:
    """Directions (D, L) of length one on the device and in the dtype of the cloud."""
    check_tensor("directions", directions)
    if directions.ndim != 2 or directions.shape[0] != cloud.shape[-1] or directions.shape[1] < 1:
        raise ValueError(
            f"`directions` must have shape (D, L) with D = {cloud.shape[-1]} and L >= 1, "
            f"got {tuple(directions.shape)}."
        )
    lengths = directions.detach().double().norm(dim=0)
    if not ((lengths - 1).abs() < 1e-3).all():  # also catches NaN
        raise ValueError(
            "`directions` must have columns of length 1, got lengths from "
            f"{lengths.min():.3g} to {lengths.max():.3g}: divide by them."
        )
    return directions.detach().to(cloud)


def _slice_costs(
    real: Tensor,
    fake: Tensor,
    directions: Tensor,
    order: float,
    real_weights: Tensor | None,
    fake_weights: Tensor | None,
) -> Tensor:
    """Costs (..., L) in float64, one a direction, in chunks that bound the memory."""
    a = None if real_weights is None else real_weights.unsqueeze(-2)
    b = None if fake_weights is None else fake_weights.unsqueeze(-2)
    rows = real[..., 0].numel() + fake[..., 0].numel()
    costs = []
    for chunk in directions.T.split(max(1, _CHUNK_ELEMENTS // rows)):
        with ieee_matmul(real.device):
            projected = chunk @ real.mT, chunk @ fake.mT
        costs.append(line_costs(*projected, order, a, b))
    return torch.cat(costs, -1)


def standard_error(slices: Tensor, value: Tensor, order: float) -> Tensor:
    """Standard error of the p-th root of the mean of independent slices, by the delta method.

    Args:
        slices: Costs (..., L), L >= 2, one a direction.
        value: The root of their mean (...).
        order: The order p.

    Returns:
        Errors (...).
    """
    error = slices.detach().std(-1) / slices.shape[-1] ** 0.5
    slope = order * value.detach() ** (order - 1)
    return torch.where(slope > 0, error / slope.clamp_min(torch.finfo(error.dtype).tiny), 0.0)
