"""Scores under many labels of the same pooled samples, each at a fraction of the score's price.

Statistics (B,) of labels (B, n) of the pool (n, D), with the same number of reals in every row.
Whatever depends on the samples besides (directions, bandwidths, bases) comes from the whole pool:
only so do all labels count alike, and p-values hold their level at any size.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from otmetrics.machine import ieee_float32, in_threads
from otmetrics.statistics.kernel import pooled_kernel
from otmetrics.transport.costs import cost_matrix
from otmetrics.transport.exact.exact import exact_transport
from otmetrics.transport.line import merged_quantiles
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn

_SETTLED = 1e-3  # error of a marginal at which iterations stop: labels differ by far more
_MOST_ITERATIONS = 200
_TAKEN = 2**21  # values of a line that are taken for several labels at once
_ROWS = 4096  # of a block in float64
_ABSORBED = 10  # iterations whose potentials the kernel takes up


def relabelled_kernel(pool: Tensor, labels: Tensor) -> Tensor:
    """Unbiased MMD^2 with the cubic kernel: one pass over all pairs, whatever B."""
    z = labels.double()
    n, m = int(labels[0].sum()), int((~labels[0]).sum())
    own, blocks = pooled_kernel(pool)
    within, sums = z.new_zeros(len(z)), z.new_zeros(z.shape[1])
    for rows, block in blocks:
        within += ((block @ z.T) * z[:, rows].T).sum(0)
        sums[rows] = block.sum(1)

    # Sums over pairs of two reals, of a real and any, and of two fakes.
    with_any, total = z @ sums, sums.sum()
    across = with_any - within
    others = total - with_any - across
    within = within - z @ own
    others = others - (1 - z) @ own
    return within / (n * (n - 1)) + others / (m * (m - 1)) - 2 * across / (n * m)


def relabelled_sliced(pool: Tensor, labels: Tensor, directions: Tensor, order: float) -> Tensor:
    """SW_p^p along directions (L, D): the pool is sorted once along each."""
    with ieee_float32(pool.device):
        lines = (directions @ pool.T).cpu().numpy()
    real = labels.cpu().numpy()
    n, m = int(real[0].sum()), int((~real[0]).sum())
    rows, columns, widths = (part.numpy() for part in merged_quantiles(n, m))

    step = max(1, _TAKEN // (n + m))

    def costs_along(line: np.ndarray) -> np.ndarray:
        ranking = np.argsort(line)
        values, costs = line[ranking].astype(np.float64), []
        for start in range(0, len(real), step):
            some = real[start : start + step].take(ranking, axis=1)
            # Every row has the same number of reals, and what is taken of a sorted line is sorted.
            x, y = (values.take(_places(side)) for side in (some, ~some))
            if n != m:  # quantiles of two sizes meet on a finer grid
                x, y = x.take(rows, axis=1), y.take(columns, axis=1)
            difference = x - y
            power = np.square(difference) if order == 2 else np.abs(difference) ** order
            costs.append(power @ widths)
        return np.concatenate(costs)

    costs = in_threads(costs_along, list(lines), torch.get_num_threads())
    return torch.from_numpy(np.mean(costs, axis=0))


def _places(chosen: np.ndarray) -> np.ndarray:
    """Where each row of (B, n) is True: the same number of places (B, N) in all of them."""
    places = np.flatnonzero(chosen).reshape(len(chosen), -1)
    places -= (np.arange(len(chosen)) * chosen.shape[1])[:, None]
    return places


def relabelled_frechet(pool: Tensor, labels: Tensor, num_axes: int = 256) -> Tensor:
    """The Fréchet distance to second order around the pool, along its leading principal axes.

    |d|^2 + sum_ab H_ab^2 / (l_a + l_b) / 2, with the differences d and H of means and covariances
    in the basis of the pooled covariance and its eigenvalues l: the metric of Bures at the pool.
    """
    n, m = int(labels[0].sum()), int((~labels[0]).sum())
    weights = labels.double() / n - (~labels).double() / m
    # Labels differ by far more than products round off; points keep the dtype of the features.
    dtype = torch.promote_types(pool.dtype, torch.float32)
    with ieee_float32(pool.device):
        mean, blocks = pool.mean(0, dtype=torch.float64), pool.split(_ROWS)
        shift, scatter = weights.new_zeros(()), weights.new_zeros(())
        for block, part in zip(blocks, weights.split(_ROWS, 1), strict=True):
            rows = block.double() - mean
            shift, scatter = shift + part @ rows, scatter + rows.T @ rows

        values, axes = torch.linalg.eigh(scatter / (len(pool) - 1))
        values, axes = values[-num_axes:], axes[:, -num_axes:]
        kept = values > 1e-10 * values[-1]
        values, axes = values[kept], axes[:, kept]
        points = torch.cat([((block.double() - mean) @ axes).to(dtype) for block in blocks])
        stretch = 1 / (values[:, None] + values) / 2
        scatter, costs = values.diag() * (len(pool) - 1), []
        sums = (labels.to(dtype) @ points).double()
        rests = points.sum(0, dtype=torch.float64) - sums
        for real, of_real, of_fake in zip(labels, sums, rests, strict=True):
            x = points.index_select(0, real.nonzero()[:, 0])
            own = (x.T @ x).double()
            change = (own - of_real.outer(of_real) / n) / (n - 1)
            change -= (scatter - own - of_fake.outer(of_fake) / m) / (m - 1)
            costs.append((change.square() * stretch).sum())
    return shift.square().sum(1) + torch.stack(costs)


def relabelled_sinkhorn(pool: Tensor, labels: Tensor, solver: Sinkhorn) -> Tensor:
    """The Sinkhorn divergence, with Sinkhorn's iterations for all labels at once.

    Each is a product of one kernel (n, n) with weights (n, B), until marginals are met to 1e-3:
    divergences are right to some percent of how much labels differ. A relative epsilon is a share
    of the mean cost between all pooled samples. Time O(n^2 B) per iteration.
    """
    costs = cost_matrix(pool.double(), pool.double(), order=solver.order)
    epsilon = solver.epsilon
    if solver.relative:
        epsilon *= float(costs.sum()) / (len(costs) * (len(costs) - 1))
    if epsilon == 0:  # all samples are one point
        return costs.new_zeros(len(labels))
    exponents = costs / epsilon
    real, fake = labels.double().T, (~labels).double().T
    sides = real / real.sum(0), fake / fake.sum(0)

    # Potentials of the pool without the pairs of samples with themselves, absorbed: between two
    # sides there are none, and the scalings that remain are modest.
    apart = exponents.clone().fill_diagonal_(torch.inf)
    p = _symmetric_potential(apart)
    across = _cross_cost((p[:, None] + p - apart).exp(), *sides)
    p_own = _symmetric_potential(exponents)
    kernel = (p_own[:, None] + p_own - exponents).exp()
    own = sum(_self_cost(kernel, side) + 2 * p_own @ side for side in sides)
    found = epsilon * (across + p @ (sides[0] + sides[1]) - own / 2)
    if bool(torch.isfinite(found).all()):
        # Where iterations ended early: up to order 2 there are no divergences below 0.
        return found.clamp_min(0) if solver.order <= 2 else found

    # Scalings beyond float64, as of a sample far from all others: a solve for each labelling, of
    # all of them, so that none is told from the others by the way that it went.
    alone = replace(solver, epsilon=epsilon, relative=False)
    return torch.stack([alone.solve(pool[one], pool[~one]).cost.double() for one in labels])


def _symmetric_potential(exponents: Tensor) -> Tensor:
    """P (n,) such that the kernel exp(p_i + p_j - E_ij) has rows of mean about 1."""
    p, log_size = exponents.new_zeros(len(exponents)), math.log(len(exponents))
    for _ in range(_ABSORBED):
        p = (p + log_size - (p - exponents).logsumexp(1)) / 2
    return p


def _cross_cost(kernel: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Entropic costs (B,) over epsilon between weights (n, B), less what was absorbed."""
    u = torch.ones_like(a)
    for _ in range(_MOST_ITERATIONS):
        v = 1 / (kernel @ (a * u))
        found = 1 / (kernel @ (b * v))
        change, u = _change(a, found, u), found
        if change < _SETTLED:
            break
    return _mean_log(a, u) + _mean_log(b, v)


def _self_cost(kernel: Tensor, a: Tensor) -> Tensor:
    """The same between weights (n, B) and themselves."""
    u = torch.ones_like(a)
    for _ in range(_MOST_ITERATIONS):
        found = (u / (kernel @ (a * u))).sqrt()
        change, u = _change(a, found, u), found
        if change < _SETTLED:
            break
    return 2 * _mean_log(a, u)


def _change(weights: Tensor, after: Tensor, before: Tensor) -> float:
    """Largest change of a marginal that an iteration of these scalings has mended."""
    return float((weights * (after / before - 1)).abs().sum(0).max())


def _mean_log(weights: Tensor, scalings: Tensor) -> Tensor:
    """Weighted means (B,) of the logarithms of scalings; those without weight do not count."""
    return (weights * torch.where(weights > 0, scalings, 1.0).log()).sum(0)


def relabelled_exact(pool: Tensor, labels: Tensor, order: float) -> Tensor:
    """W_p^p by a solve for each labelling, on one matrix of costs. Time O(B n^3)."""
    costs = cost_matrix(pool.double(), pool.double(), order=order)

    def optimum(real: Tensor) -> Tensor:
        between = costs[real][:, ~real]
        if between.shape[0] == between.shape[1]:
            rows, columns = linear_sum_assignment(between.cpu().numpy())
            return between[rows, columns].mean()
        return exact_transport(between).cost

    return torch.stack(in_threads(optimum, list(labels.cpu()), torch.get_num_threads()))
