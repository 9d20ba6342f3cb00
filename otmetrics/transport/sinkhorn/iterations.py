"""One entropic problem: Sinkhorn's iterations, and the bounds that they give."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.transport.sinkhorn.gibbs import GibbsKernel, Workspace, logarithm

_HISTORY = 16  # iterations that an extrapolation looks back on
_RIDGE = 1e-10  # of its least squares, as a share of the mean square
_LONGEST = 20.0  # change of a logarithm that an extrapolation may add to a step
_ABSORB_AT = 30.0  # size of a logarithm at which it moves into the kernel
_FIRST_EXPONENT = 10.0  # largest exponent of the first kernel
_FACTOR = 4.0  # from one epsilon to the next
_STEPS = 2  # iterations at each epsilon before the last
_ROUNDINGS = 16  # of the dual value, by which it may fall without an extrapolation being at fault


class Measure(NamedTuple):
    """Points (B, N, D), and their weights (B, N) in float64, which sum to one."""

    points: Tensor
    weights: Tensor


class Wanted(NamedTuple):
    """How far to iterate from where, and what to compute next to the value."""

    tolerance: float
    max_iterations: int
    debiased: bool = True
    bounds: bool = False
    gradients: tuple[bool, bool] = (False, False)  # in which cloud
    start: tuple[Tensor, Tensor] | None = None  # cross potentials (B, N), (B, M) of another problem


class Term(NamedTuple):
    """An entropic cost min <P, C> + epsilon KL(P | a x b), and what is known of it."""

    value: Tensor  # dual value (B,) in float64, a lower bound up to the rounding of the kernel
    upper: Tensor | None  # primal value (B,) of a plan with the right marginals, or None
    p: Tensor  # potentials f / epsilon (B, N)
    q: Tensor  # potentials g / epsilon (B, M)
    error: Tensor  # L1 error of a marginal (B,)
    num_iterations: Tensor  # (B,)
    # For the plan fixed; half of that of a self term.
    gradients: tuple[Tensor | None, Tensor | None]


class _Iterate(NamedTuple):
    """Where the iterations ended: p (B, N), q (B, M), L1 error of a marginal and number (B,)."""

    p: Tensor
    q: Tensor
    error: Tensor
    num_iterations: Tensor


class TermSolver:
    """One term, of measures near the origin in the dtype of the workspace, with an epsilon (B,).

    A self term has the very same object on both sides. All methods overwrite the kernel.
    """

    def __init__(
        self, real: Measure, fake: Measure, order: float, epsilon: Tensor, workspace: Workspace
    ) -> None:
        self.kernel = GibbsKernel(real.points, fake.points, order, workspace)
        self.a, self.b, self.epsilon = real.weights, fake.weights, epsilon
        self.symmetric = real is fake

    def solve(self, wanted: Wanted, rivals: list[tuple[Tensor, Tensor]]) -> Term:
        """Solve it; rivals are other potentials p, q to begin with, where they are better."""
        a, b, epsilon, kernel = self.a, self.b, self.epsilon, self.kernel
        if self.symmetric:
            # C_ii = 0, so that no row of the kernel is empty, however small epsilon is.
            first = torch.zeros_like(a), torch.zeros_like(b)
        else:
            first = self._best_potentials([self._anneal(), *rivals])
        found = self._iterate(first, wanted)

        # Of all pairs f + c, g - c that one of which both sides have the same mean.
        excess = ((a * found.p).sum(-1) - (b * found.q).sum(-1))[:, None] / 2
        # The potentials as the kernel has them, rounded: the value belongs to what it computes.
        p, q = kernel.build(found.p - excess, found.q + excess, epsilon)
        rows = kernel.rows(b)
        # Potentials that are not optimal give a plan of another mass, which their dual value pays.
        value = epsilon * (self._pair(p, q) + 1 - (a * rows).sum(-1))
        upper = torch.maximum(value, self._primal(p, q, rows)) if wanted.bounds else None
        gradients = kernel.gradients(a, b, wanted.gradients)
        return Term(value, upper, p, q, found.error, found.num_iterations, gradients)

    def _pair(self, p: Tensor, q: Tensor) -> Tensor:
        """<a, p> + <b, q> (B,), the dual value where the plan has the mass one."""
        return (self.a * p).sum(-1) + (self.b * q).sum(-1)

    def _anneal(self) -> tuple[Tensor, Tensor]:
        """Potentials p (B, N), q (B, M) from few iterations at each epsilon of a falling sequence.

        It begins where the optimal potentials are known, f = C b and g = C' a up to a constant for
        epsilon = infinity, at an epsilon of a tenth of the largest |f + g - C|; see Schmitzer,
        Stabilized sparse scaling algorithms for entropy regularized transport problems, 2019,
        section 3.
        """
        a, b, epsilon, kernel = self.a, self.b, self.epsilon, self.kernel
        # f + g - C has the weighted mean 0 with this constant.
        f, g = kernel.costs_times(b), kernel.transposed_costs_times(a)
        f = f - (a * f).sum(-1, keepdim=True)
        dtype, largest = kernel.x.dtype, torch.zeros_like(a[:, 0])
        for rows, costs in kernel.cost_blocks():
            spread = (costs - f[:, rows, None].to(dtype)).sub_(g[:, None].to(dtype)).abs_()
            largest = torch.maximum(largest, spread.amax((-2, -1)).double())

        # Exponents of the first kernel are modest, and each level hands potentials to the next: so
        # no kernel on the way under- or overflows.
        level = torch.maximum(epsilon, largest / _FIRST_EXPONENT)
        while bool((level > epsilon).any()):
            p, q = kernel.build(f / level[:, None], g / level[:, None], level)
            psi = torch.zeros_like(q)
            for _ in range(_STEPS):
                phi, psi = kernel.sweep(b * psi.exp(), a)
            f, g = level[:, None] * (p + phi), level[:, None] * (q + psi)
            level = torch.maximum(epsilon, level / _FACTOR)
        return f / epsilon[:, None], g / epsilon[:, None]

    def _best_potentials(self, candidates: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """The candidates with the highest dual value after one iteration, for each problem.

        The potentials of the self terms solve the cross term of equal clouds and nearly that of
        close ones, where iterations from elsewhere are slow.
        """
        best: tuple[Tensor, Tensor, Tensor] | None = None
        for candidate in candidates:
            p, q = self.kernel.build(*candidate, self.epsilon)
            phi, psi = self.kernel.sweep(self.b, self.a)
            p, q = p + phi, q + psi
            dual = self._pair(p, q)
            # Far clouds drive foreign potentials out of range: such an iteration is not exact.
            usable = torch.maximum(phi.abs().amax(-1), psi.abs().amax(-1)) < 2 * _ABSORB_AT
            dual = torch.where(usable, dual, -torch.inf)

            if best is not None:
                better = (dual > best[2])[:, None]
                p, q = torch.where(better, p, best[0]), torch.where(better, q, best[1])
                dual = torch.maximum(dual, best[2])
            best = p, q, dual
        assert best is not None
        return best[0], best[1]

    def _iterate(self, first: tuple[Tensor, Tensor], wanted: Wanted) -> _Iterate:
        """Iterate until every problem has the marginals a and b.

        The plan is a_i b_j exp(phi_i + psi_j) K_ij. One iteration maps psi to phi =
        -log K (b e^psi), which makes the rows exact, and to -log K' (a e^phi), which makes the
        columns exact; that of a symmetric problem to the mean of psi and phi. Anderson's
        extrapolation speeds the map up: where the dual value falls after it, the plain step is
        taken instead and the history forgotten, so that the dual value never ends below that of the
        plain iteration by more than rounding. A problem that has converged is frozen.

        The potentials come after a closing half-step, which makes the columns exact, or, of a
        symmetric problem, one and the same potential comes twice.

        References:
            Feydy et al., Interpolating between optimal transport and MMD using Sinkhorn
            divergences, 2019, section 3.1 (symmetric steps); Walker and Ni, Anderson acceleration
            for fixed-point iterations, 2011, equation (2.3).
        """
        a, b, epsilon, kernel = self.a, self.b, self.epsilon, self.kernel
        p, q = kernel.build(*first, epsilon)
        point, plain, history = q, q, _History()
        good = torch.zeros_like(p)
        done = torch.zeros(len(q), dtype=torch.bool, device=q.device)
        found = _Iterate(p, q, torch.full_like(q[:, 0], torch.inf), done.long())
        best = torch.full_like(found.error, -torch.inf)
        slack = _ROUNDINGS * torch.finfo(kernel.x.dtype).eps

        for iteration in range(1, wanted.max_iterations + 1):
            psi = point - q
            if self.symmetric:
                phi = -logarithm(kernel.rows(b * psi.exp()))
                image, ends = q + (psi + phi) / 2, psi - phi
                new_p = image
            else:
                phi, last = kernel.sweep(b * psi.exp(), a)
                image, ends = q + last, psi - last
                new_p = p + phi
            error = (b * ends.expm1().abs()).sum(-1)
            new = _Iterate(new_p, image, error, torch.full_like(found.num_iterations, iteration))
            found = _keep_done(done, found, new)
            done = done | (error <= wanted.tolerance)

            # Where the dual value fell, the extrapolation is at fault: back to the plain step.
            dual = self._pair(p + phi, point)
            fell = dual < best - slack * (1 + best.abs().clamp(max=1e6))
            best = torch.maximum(dual, best)
            following = history.extrapolate(point, image, fell)
            plain = torch.where(fell[:, None], plain, image)
            good = torch.where(fell[:, None], good, phi)
            point = torch.where((fell | done)[:, None], plain, following)

            # Both questions at once: each answer waits for the device.
            far = (good.abs() > _ABSORB_AT).any() | ((point - q).abs() > _ABSORB_AT).any()
            finished, far = torch.stack([done.all(), far]).tolist()
            if finished:
                break

            # Scalings this large would leave the range of float32: the kernel takes them up.
            if far:
                p, q = kernel.build(point if self.symmetric else p + good, point, epsilon)
                point, good = torch.where(done[:, None], point, q), torch.zeros_like(p)
        return found

    def _primal(self, p: Tensor, q: Tensor, rows: Tensor) -> Tensor:
        """Primal value (B,) of the plan rounded to its marginals, after Altschuler et al., 2017."""
        # Scaling rows, then columns, by at most one leaves masses e and h that are missing, d each.
        # The rounded plan, P + e h' / d, costs at most the mean of the costs of P / (1 - d) and
        # e h' / d^2, as the cost is convex; in that of P the costs C cancel.
        a, b, epsilon, kernel = self.a, self.b, self.epsilon, self.kernel
        s = 1 / rows.clamp_min(1)
        columns = kernel.columns(a * s)
        t = 1 / columns.clamp_min(1)
        row_mass, column_mass = a * s * kernel.rows(b * t), b * t * columns
        e, h = (a - row_mass).clamp_min(0), (b - column_mass).clamp_min(0)
        d = torch.minimum(e.sum(-1), h.sum(-1)).clamp(0, 1)
        scaled_part = (row_mass * (p + s.log())).sum(-1) + (column_mass * (q + t.log())).sum(-1)
        scaled_part = epsilon * (scaled_part - torch.special.xlog1py(1 - d, -d))

        # e and h sum to one and the same mass but for rounding: as distributions they do.
        e, h = _distribution(e, a), _distribution(h, b)
        missing = (e * kernel.costs_times(h)).sum(-1)
        missing = missing + epsilon * (_divergence(e, a) + _divergence(h, b))
        return scaled_part + d * missing


def _keep_done(done: Tensor, old: _Iterate, new: _Iterate) -> _Iterate:
    """The old state of problems that are done, the new one of others."""
    return _Iterate(
        torch.where(done[:, None], old.p, new.p),
        torch.where(done[:, None], old.q, new.q),
        torch.where(done, old.error, new.error),
        torch.where(done, old.num_iterations, new.num_iterations),
    )


class _History:
    """The last points of a fixed-point iteration (B, M): their images, residuals, and for whom."""

    def __init__(self) -> None:
        self.past: list[tuple[Tensor, Tensor, Tensor]] = []

    def extrapolate(self, point: Tensor, image: Tensor, forget: Tensor) -> Tensor:
        """Where the history says that the iteration goes; the plain image (B, M) with none.

        Problems (B,) to be forgotten lose their history, with this point.
        """
        residual = image - point
        shift = torch.zeros_like(image)
        if self.past:
            changes = torch.stack([(residual - old) * valid for _, old, valid in self.past], 1)
            moves = torch.stack([image - old for old, _, _ in self.past], 1)

            # Which combination of past changes cancels the residual: least squares, with a ridge
            # because changes become parallel near the end.
            gram = changes @ changes.mT
            ridge = _RIDGE * gram.diagonal(dim1=-2, dim2=-1).mean(-1) + torch.finfo(gram.dtype).tiny
            identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
            system = gram + ridge[:, None, None] * identity
            weights = torch.linalg.solve_ex(system, changes @ residual[..., None]).result
            shift = -(moves.mT @ weights)[..., 0]
            shift = torch.nan_to_num(shift, 0.0, 0.0, 0.0).clamp_(-_LONGEST, _LONGEST)

        kept = (~forget[:, None]).double()
        self.past.append((image, residual, torch.ones_like(kept)))
        self.past = [(old, step, valid * kept) for old, step, valid in self.past[-_HISTORY:]]
        return image + shift


def _distribution(masses: Tensor, otherwise: Tensor) -> Tensor:
    """Masses that sum to one; other weights where there are none."""
    total = masses.sum(-1, keepdim=True)
    return torch.where(total > 0, masses / total.clamp_min(1e-300), otherwise)


def _divergence(masses: Tensor, weights: Tensor) -> Tensor:
    """KL(masses | weights) of distributions; no mass lies where there is no weight."""
    ratio = torch.where(masses > 0, masses / torch.where(weights > 0, weights, 1.0), 1.0)
    return torch.xlogy(masses, ratio).sum(-1)
