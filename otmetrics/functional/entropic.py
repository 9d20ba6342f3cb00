"""One term of entropic transport for a batch of problems: value, bounds, potentials, gradients."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.functional.gibbs import GibbsKernel, Workspace
from otmetrics.functional.scaling import annealed, better_start, scaled


class Term(NamedTuple):
    """An entropic cost min <P, C> + epsilon KL(P | a x b), and what is known of it.

    Attributes:
        value: Dual value (B,) in float64, a lower bound up to the rounding of the kernel.
        upper: Primal value (B,) of a plan with the right marginals, or None.
        p: Potentials f / epsilon (B, N).
        q: Potentials g / epsilon (B, M).
        error: L1 error of a marginal (B,).
        num_iterations: Iterations (B,).
        gradients: Gradients of the value in both clouds for the plan fixed, None where not wanted.
            That of a self term is half of its gradient in the one cloud that it has.
    """

    value: Tensor
    upper: Tensor | None
    p: Tensor
    q: Tensor
    error: Tensor
    num_iterations: Tensor
    gradients: tuple[Tensor | None, Tensor | None]


class Wanted(NamedTuple):
    """How far to iterate, and what to compute beside the value; gradients in which cloud."""

    tolerance: float
    max_iterations: int
    bounds: bool = False
    gradients: tuple[bool, bool] = (False, False)


def entropic_term(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    order: float,
    workspace: Workspace,
    wanted: Wanted,
    rivals: tuple[tuple[Tensor, Tensor], ...] = (),
) -> Term:
    """Solve one term.

    Args:
        x: Clouds (B, N, D) near the origin, in the dtype of the workspace.
        y: Clouds (B, M, D); the very object `x` for a self term.
        a: Weights (B, N) in float64.
        b: Weights (B, M); the very object `a` for a self term.
        epsilon: Regularisation (B,) in units of the cost.
        order: The order p of the cost.
        workspace: Memory for costs and kernel.
        wanted: What to compute.
        rivals: Other potentials to start from, where they are better than annealed ones.

    Returns:
        The term.
    """
    kernel = GibbsKernel(x, y, order, workspace)
    symmetric = x is y and a is b  # a self term, not a cloud against itself with new weights
    if symmetric:  # C_ii = 0, so that no row of the kernel is empty, however small epsilon is
        start = torch.zeros_like(a), torch.zeros_like(b)
    else:
        starts = [annealed(kernel, a, b, epsilon), *rivals]
        start = better_start(kernel, starts, a, b, epsilon)
    found = scaled(
        kernel,
        start,
        a,
        b,
        epsilon,
        tolerance=wanted.tolerance,
        max_iterations=wanted.max_iterations,
        symmetric=symmetric,
    )
    # Of all pairs f + c, g - c that one of which both sides have the same mean.
    excess = ((a * found.p).sum(-1) - (b * found.q).sum(-1))[:, None] / 2
    p, q = kernel.build(found.p - excess, found.q + excess, epsilon)
    rows = kernel.rows(b)
    mass = (a * rows).sum(-1)
    value = epsilon * ((a * p).sum(-1) + (b * q).sum(-1) + 1 - mass)
    upper = None
    if wanted.bounds:
        upper = torch.maximum(value, _primal(kernel, p, q, a, b, epsilon, rows))
    gradients = kernel.gradients(a, b, wanted.gradients)
    return Term(value, upper, p, q, found.error, found.num_iterations, gradients)


def _primal(
    kernel: GibbsKernel, p: Tensor, q: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, rows: Tensor
) -> Tensor:
    """Primal value (B,) of the plan rounded to its marginals, after Altschuler et al., 2017."""
    # Scaling rows, then columns, by at most one leaves masses e and h that are missing, d each. The
    # rounded plan, P + e h' / d, costs at most the mean of the costs of P / (1 - d) and e h' / d^2,
    # as the cost is convex; in that of P the costs C cancel.
    s = 1 / rows.clamp_min(1)
    columns = kernel.columns(a * s)
    t = 1 / columns.clamp_min(1)
    row_mass, column_mass = a * s * kernel.rows(b * t), b * t * columns
    e, h = (a - row_mass).clamp_min(0), (b - column_mass).clamp_min(0)
    d = torch.minimum(e.sum(-1), h.sum(-1)).clamp(0, 1)
    scaled_part = (row_mass * (p + s.log())).sum(-1) + (column_mass * (q + t.log())).sum(-1)
    scaled_part = epsilon * (scaled_part - torch.special.xlog1py(1 - d, -d))
    # e and h sum to one and the same mass but for rounding: as laws they do.
    e, h = _law(e, a), _law(h, b)
    missing = (e * kernel.costs_times(h)).sum(-1)
    missing = missing + epsilon * (_divergence(e, a) + _divergence(h, b))
    return scaled_part + d * missing


def _law(masses: Tensor, otherwise: Tensor) -> Tensor:
    """Masses that sum to one; other weights where there are none."""
    total = masses.sum(-1, keepdim=True)
    return torch.where(total > 0, masses / total.clamp_min(1e-300), otherwise)


def _divergence(law: Tensor, weights: Tensor) -> Tensor:
    """KL(law | weights); no mass lies where there is no weight."""
    ratio = torch.where(law > 0, law / torch.where(weights > 0, weights, 1.0), 1.0)
    return torch.xlogy(law, ratio).sum(-1)
