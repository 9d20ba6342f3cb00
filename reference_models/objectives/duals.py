"""Regularised transport between two batches: its duals, their gap, and the density of its plan."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.transport.sinkhorn.iterations import Measure
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn, entropic_batch

_RIDGE = 1e-9  # of a Newton step, as a share of the largest second derivative
_HALVINGS = 8  # of a step that does not raise the dual


class Smoothing(NamedTuple):
    """A regulariser of plans, lambda I(pi), between batches with uniform weights.

    "kl":  I = KL(pi | p x q),                     density M = exp(V / lambda);
    "l2":  I = E_(p x q) (d pi / d(p x q))^2 / 2,  density M = (V)_+ / lambda;  V = phi + psi - c.

    Both are 1-strongly convex in the L1 distance of plans, the first by Pinsker's inequality. This
    is what ties the error of a gradient to the gap of a dual.
    """

    kind: str  # "kl" or "l2"
    lam: float

    def density(self, excess: Tensor) -> Tensor:
        """Density (..., N, M) of the plan that potentials stand for, of V (..., N, M).

        It is one against the product of both distributions.
        """
        scaled = excess / self.lam
        return scaled.exp() if self.kind == "kl" else scaled.clamp_min(0)

    def conjugate(self, density: Tensor) -> Tensor:
        """What the dual subtracts: means (...) of lambda (M - 1), or of lambda M^2 / 2."""
        paid = density - 1 if self.kind == "kl" else density.square() / 2
        return self.lam * paid.mean((-2, -1))

    def dual(self, phi: Tensor, psi: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        """Dual values (...), E phi + E psi minus the conjugate, and the density (..., N, M).

        Potentials are phi (..., N) and psi (..., M), costs (..., N, M).
        """
        density = self.density(phi[..., :, None] + psi[..., None, :] - cost)
        return phi.mean(-1) + psi.mean(-1) - self.conjugate(density), density

    def primal(self, density: Tensor, cost: Tensor) -> Tensor:
        """Upper bounds (...) on the optimum: E c + lambda I of a plan with the right marginals.

        It is the plan that `round_marginals` makes of the density.
        """
        plan = round_marginals(density)
        own = torch.xlogy(plan, plan) if self.kind == "kl" else plan.square() / 2
        return (plan * cost + self.lam * own).mean((-2, -1))


def round_marginals(density: Tensor) -> Tensor:
    """A density (..., N, M) >= 0 with both marginals made uniform: rows and columns of mean 1.

    Rows, then columns, that are too heavy are scaled down; what is then missing is added as a
    product. It moves about as much mass as the marginals are off.

    References:
        Altschuler, Weed, Rigollet, Near-linear time approximation algorithms for optimal transport
        via Sinkhorn iteration, 2017, algorithm 2.
    """
    plan = density / density.mean(-1, keepdim=True).clamp_min(1)
    plan = plan / plan.mean(-2, keepdim=True).clamp_min(1)

    rows = (1 - plan.mean(-1, keepdim=True)).clamp_min(0)
    columns = (1 - plan.mean(-2, keepdim=True)).clamp_min(0)
    # Where nothing is missing rows are zero: 0 / tiny adds nothing, 0 / 0 would be NaN.
    missing = rows.mean(-2, keepdim=True).clamp_min(torch.finfo(plan.dtype).tiny)
    return plan + rows * columns / missing


@torch.no_grad()
def solve_potentials(
    smoothing: Smoothing,
    real: Tensor,
    fake: Tensor,
    cost: Tensor,
    tolerance: float,
    order: float = 2.0,
) -> tuple[Tensor, Tensor]:
    """Potentials phi (B, N) and psi (B, M) that solve each of a batch of problems, in float64.

    Points are (B, N, D) and (B, M, D), costs |x - y|^p (B, N, M) in float64; the tolerance is the
    largest L1 error of a marginal.
    """
    if smoothing.kind == "kl":
        return kl_potentials(real, fake, smoothing.lam, tolerance, order=order)
    solved = [l2_potentials(matrix, smoothing.lam, tolerance) for matrix in cost]
    phi, psi = zip(*solved, strict=True)
    return torch.stack(phi), torch.stack(psi)


def kl_potentials(
    real: Tensor,
    fake: Tensor,
    lam: float,
    tolerance: float,
    max_iterations: int = 1000,
    *,
    order: float = 2.0,
) -> tuple[Tensor, Tensor]:
    """Potentials (B, N) and (B, M) of entropic transport, by the library's solver, in float64.

    Their density has mass one.
    """
    # An absolute epsilon: lambda is a share of the mean cost already.
    solver = Sinkhorn(order, lam, False, tolerance, max_iterations)
    measures = (
        Measure(side, side.new_full(side.shape[:2], 1 / side.shape[1], dtype=torch.float64))
        for side in (real, fake)
    )
    return entropic_batch(solver, *measures, debiased=False).potentials


@torch.no_grad()
def l2_potentials(
    cost: Tensor, lam: float, tolerance: float, max_iterations: int = 100
) -> tuple[Tensor, Tensor]:
    """Potentials (N,), (M,) of quadratically regularised transport of float64 costs (N, M).

    By semi-smooth Newton steps: each solves the linear equations on the pairs that the density does
    not leave empty, and is halved until the dual rises; it is followed by exact maximisation over
    phi, then over psi, so that the density has mass one. Time O(N^3) a step.

    References:
        Lorenz, Manns, Meyer, Quadratically regularized optimal transport, 2021 (Newton steps in
        both potentials; here in one, at the best other one).
    """
    scaled = cost / lam
    q = torch.zeros_like(cost[0])
    for _ in range(max_iterations):
        p = _water_levels(scaled - q)
        q = _water_levels(scaled.T - p)

        # Columns fit their marginal now; the rows tell how far the plan is from its own.
        density = (p[:, None] + q - scaled).clamp_min(0)
        rows = density.mean(1) - 1
        if float(rows.abs().mean()) <= tolerance:
            break
        p = _newton(p, scaled, density, rows)
        q = _water_levels(scaled.T - p)
    return lam * p, lam * q


def _water_levels(prices: Tensor) -> Tensor:
    """Potentials (N,) that give each row of (potential - prices)_+ the mean 1: water levels."""
    ascending = prices.sort(1).values
    # With the k lowest prices covered, sum (level - price) = M gives (M + their sum) / k.
    count = torch.arange(1, prices.shape[1] + 1, dtype=prices.dtype, device=prices.device)
    levels = (prices.shape[1] + ascending.cumsum(1)) / count
    covered = (levels > ascending).sum(1, keepdim=True)  # a level above the next price covers it
    return levels.gather(1, covered - 1)[:, 0]


def _newton(p: Tensor, scaled: Tensor, density: Tensor, rows: Tensor) -> Tensor:
    """The next p of the dual at its best q, whose second derivative is a graph Laplacian."""
    pairs = (density > 0).to(p)
    laplacian = torch.diag(pairs.sum(1)) - pairs @ (pairs.T / pairs.sum(0)[:, None])
    laplacian.diagonal().add_(_RIDGE * pairs.shape[1])  # singular where a plan falls into parts
    step = torch.linalg.solve(laplacian, -scaled.shape[1] * rows)

    # The dual is quadratic only as long as the same pairs have mass: a full step may overshoot.
    before = _semidual(p, scaled)
    for halvings in range(_HALVINGS):
        trial = p + step / 2**halvings
        if _semidual(trial, scaled) > before:
            return trial
    return p


def _semidual(p: Tensor, scaled: Tensor) -> float:
    """Dual value over lambda at p and the best q for it."""
    q = _water_levels(scaled.T - p)
    density = (p[:, None] + q - scaled).clamp_min(0)
    return float(p.mean() + q.mean() - density.square().mean() / 2)
