"""Sinkhorn's iterations with autograd through each of them: for study, not for training."""

import math

import torch
from torch import Tensor

from otmetrics.checks import check_at_least, checked_clouds
from otmetrics.transport.costs import cost_matrix
from otmetrics.transport.gradients import differentiable_once
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
from otmetrics.unknown_options import told_options


@told_options
def unrolled_sinkhorn_divergence(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = Sinkhorn.order,
    epsilon: float = Sinkhorn.epsilon,
    relative: bool = Sinkhorn.relative,
    num_iterations: int = 100,
) -> Tensor:
    """Sinkhorn divergence after so many plain iterations, differentiated through all of them.

    The gradient is that of the truncated iteration, of any order without `relative`, where
    `sinkhorn_divergence` gives the gradient of the solved problem, once. Both meet as the
    iterations converge. Time and memory O(K N M) for K iterations, all of which are kept.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D); M may differ from N.
        order: The order p >= 1 of the cost |x - y|^p.
        epsilon: Entropic regularisation > 0.
        relative: Whether `epsilon` is a share of the mean cost between real and fake; that mean is
            a constant for the gradient, which therefore is not differentiated again: that raises.
        num_iterations: Iterations K of each term, all from zero, in the log domain.

    Returns:
        Scalar or (B,), in units of the features to the power p. With few iterations it may be
        negative, and no bound says how far off it is.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a shape or an option breaks its rule.

    References:
        Genevay, Peyre, Cuturi, Learning generative models with Sinkhorn divergences, 2018, section
        3.2 (differentiation through the iterations); Pauwels and Vaiter, The derivatives of
        Sinkhorn-Knopp converge, 2023.

    Example:
        >>> x = torch.randn(8, 2, dtype=torch.float64)
        >>> abs(unrolled_sinkhorn_divergence(x, x.flip(0), epsilon=1.0).item()) < 1e-9
        True
    """
    Sinkhorn(order=order, epsilon=epsilon, relative=relative)  # their rules
    check_at_least("num_iterations", num_iterations, 1)
    real, fake = checked_clouds(real, fake, order=order)

    pairs = (real, fake), (real, real), (fake, fake)
    costs = [cost_matrix(x.double(), y.double(), order=order) for x, y in pairs]
    unit = costs[0].detach().mean((-2, -1)) if relative else torch.ones_like(costs[0][..., 0, 0])
    # All points of one side may be equal to those of the other: then any unit does.
    level = epsilon * torch.where(unit > 0, unit, 1.0)
    cross = _cross_value(costs[0], level, num_iterations)
    own = [_own_value(cost, level, num_iterations) for cost in costs[1:]]
    value = (cross - (own[0] + own[1]) / 2).to(real.dtype)
    return differentiable_once(value, real, fake) if relative and value.requires_grad else value


def _cross_value(cost: Tensor, epsilon: Tensor, num_iterations: int) -> Tensor:
    """Dual value (...) for uniform weights after K alternating updates; the last one is exact."""
    n, m = cost.shape[-2:]
    scaled = cost / epsilon[..., None, None]
    q = torch.zeros_like(scaled[..., 0, :])
    for _ in range(num_iterations):
        p = math.log(m) - (q[..., None, :] - scaled).logsumexp(-1)
        q = math.log(n) - (p[..., :, None] - scaled).logsumexp(-2)
    return epsilon * (p.mean(-1) + q.mean(-1))


def _own_value(cost: Tensor, epsilon: Tensor, num_iterations: int) -> Tensor:
    """The same of a self term after K symmetric updates of its one potential."""
    n = cost.shape[-1]
    scaled = cost / epsilon[..., None, None]
    p = torch.zeros_like(scaled[..., 0, :])
    for _ in range(num_iterations):
        p = (p + math.log(n) - (p[..., None, :] - scaled).logsumexp(-1)) / 2
    # No last update makes these marginals exact: what the plan misses of the mass one is paid.
    mass = (p[..., :, None] + p[..., None, :] - scaled).exp().mean((-2, -1))
    return epsilon * (2 * p.mean(-1) + 1 - mass)
