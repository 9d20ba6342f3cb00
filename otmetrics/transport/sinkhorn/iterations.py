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
    """How far to iterate, and what to compute next to the value; gradients in which cloud."""

    tolerance: float
    max_iterations: int
    debiased: bool
    bounds: bool
    gradients: tuple[bool, bool]


class Term(NamedTuple):
    """An entropic cost min <P, C> + epsilon KL(P | a x b), and what is known of it."""

    value: Tensor  # dual value (B,) in float64, a lower bound up to the rounding of the kernel
    upper: Tensor | None  # primal value (B,) of a plan with the right marginals, or None
    p: Tensor  # potentials f / epsilon (B, N)
    q: Tensor  # potentials g / epsilon (B, M)
    error: Tensor  # L1 error of a marginal (B,)
    num_iterations: Tensor  # (B,)
    gradients: tuple[
        Tensor | None, Tensor | None
    ]  # for the plan fixed; half of that of a self term


def entropic_term(
    real: Measure,
    fake: Measure,
    epsilon: Tensor,
    order: float,
    workspace: Workspace,
    wanted: Wanted,
    rivals: tuple[tuple[Tensor, Tensor], ...] = (),
) -> Term:
    """Solve one term, of measures near the origin in the dtype of the workspace.

    A self term has the very same object on both sides. Rivals are other potentials p (B, N) and
    q (B, M) to begin with, where they are better than annealed ones; epsilon is one of each problem
    (B,).
    """
    (x, a), (y, b) = real, fake
    kernel = GibbsKernel(x, y, order, workspace)
    symmetric = real is fake
    if symmetric:  # C_ii = 0, so that no row of the kernel is empty, however small epsilon is
        first = torch.zeros_like(a), torch.zeros_like(b)
    else:
        candidates = [_anneal(kernel, a, b, epsilon), *rivals]
        first = _best_potentials(kernel, candidates, a, b, epsilon)
    found = _iterate(kernel, first, a, b, epsilon, wanted, symmetric)

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


def _anneal(kernel: GibbsKernel, a: Tensor, b: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
    """Potentials p (B, N) and q (B, M) from a few iterations at each epsilon of a falling sequence.

    It begins where the optimal potentials are known, f = C b and g = C' a up to a constant for
    epsilon = infinity, at an epsilon of a tenth of the largest |f + g - C|; see Schmitzer,
    Stabilized sparse scaling algorithms for entropy regularized transport problems, 2019, section
    3. Overwrites the kernel.
    """
    # f + g - C has the weighted mean 0 with this constant.
    f, g = kernel.costs_times(b), kernel.transposed_costs_times(a)
    f = f - (a * f).sum(-1, keepdim=True)
    dtype, largest = kernel.x.dtype, torch.zeros_like(a[:, 0])
    for rows, costs in kernel.cost_blocks():
        spread = (costs - f[:, rows, None].to(dtype)).sub_(g[:, None].to(dtype)).abs_()
        largest = torch.maximum(largest, spread.amax((-2, -1)).double())

    level = torch.maximum(epsilon, largest / _FIRST_EXPONENT)
    # Exponents of the first kernel are modest, and each level hands potentials to the next: so no
    # kernel on the way under- or overflows.
    while bool((level > epsilon).any()):
        p, q = kernel.build(f / level[:, None], g / level[:, None], level)
        psi = torch.zeros_like(q)
        for _ in range(_STEPS):
            phi, psi = kernel.sweep(b * psi.exp(), a)
        f, g = level[:, None] * (p + phi), level[:, None] * (q + psi)
        level = torch.maximum(epsilon, level / _FACTOR)
    return f / epsilon[:, None], g / epsilon[:, None]


def _best_potentials(
    kernel: GibbsKernel,
    candidates: list[tuple[Tensor, Tensor]],
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
) -> tuple[Tensor, Tensor]:
    """The candidates with the highest dual value after one iteration, for each problem.

    The potentials of the self terms solve the cross term of equal clouds and nearly that of close
    ones, where iterations from elsewhere are slow. Overwrites the kernel.
    """
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for candidate in candidates:
        p, q = kernel.build(*candidate, epsilon)
        phi, psi = kernel.sweep(b, a)
        p, q = p + phi, q + psi
        dual = (a * p).sum(-1) + (b * q).sum(-1)
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


class _Iterate(NamedTuple):
    """Where the iterations ended: p (B, N), q (B, M), L1 error of a marginal and number (B,)."""

    p: Tensor
    q: Tensor
    error: Tensor
    num_iterations: Tensor


def _iterate(
    kernel: GibbsKernel,
    first: tuple[Tensor, Tensor],
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    wanted: Wanted,
    symmetric: bool,
) -> _Iterate:
    """Iterate until every problem has the marginals a and b. Overwrites the kernel.

    The plan is a_i b_j exp(phi_i + psi_j) K_ij. One iteration maps psi to phi = -log K (b e^psi),
    which makes the rows exact, and to -log K' (a e^phi), which makes the columns exact; that of a
    symmetric problem to the mean of psi and phi. Anderson's extrapolation speeds the map up: where
    the dual value falls after it, the plain step is taken instead and the history forgotten, so
    that the dual value never ends below that of the plain iteration by more than rounding. A
    problem that has converged is frozen.

    The potentials come after a closing half-step, which makes the columns exact, or, of a symmetric
    problem, one and the same potential comes twice.

    References:
        Feydy et al., Interpolating between optimal transport and MMD using Sinkhorn divergences,
        2019, section 3.1 (symmetric steps); Walker and Ni, Anderson acceleration for fixed-point
        iterations, 2011, equation (2.3).
    """
    p, q = kernel.build(*first, epsilon)
    point, plain, history = q, q, _History()
    good = torch.zeros_like(p)
    done = torch.zeros(len(q), dtype=torch.bool, device=q.device)
    found = _Iterate(p, q, torch.full_like(q[:, 0], torch.inf), done.long())
    best = torch.full_like(found.error, -torch.inf)
    slack = _ROUNDINGS * torch.finfo(kernel.x.dtype).eps

    for iteration in range(1, wanted.max_iterations + 1):
        psi = point - q
        if symmetric:
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
        dual = (a * (p + phi)).sum(-1) + (b * point).sum(-1)
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
            p, q = kernel.build(point if symmetric else p + good, point, epsilon)
            point, good = torch.where(done[:, None], point, q), torch.zeros_like(p)
    return found


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
    # e and h sum to one and the same mass but for rounding: as distributions they do.
    e, h = _distribution(e, a), _distribution(h, b)
    missing = (e * kernel.costs_times(h)).sum(-1)
    missing = missing + epsilon * (_divergence(e, a) + _divergence(h, b))
    return scaled_part + d * missing


def _distribution(masses: Tensor, otherwise: Tensor) -> Tensor:
    """Masses that sum to one; other weights where there are none."""
    total = masses.sum(-1, keepdim=True)
    return torch.where(total > 0, masses / total.clamp_min(1e-300), otherwise)


def _divergence(masses: Tensor, weights: Tensor) -> Tensor:
    """KL(masses | weights) of distributions; no mass lies where there is no weight."""
    ratio = torch.where(masses > 0, masses / torch.where(weights > 0, weights, 1.0), 1.0)
    return torch.xlogy(masses, ratio).sum(-1)
