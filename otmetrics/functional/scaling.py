"""Sinkhorn's iterations on an absorbed kernel, from large epsilon down, with Anderson's steps."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.functional.gibbs import GibbsKernel, logarithm

_HISTORY = 16  # iterations that an extrapolation looks back on
_RIDGE = 1e-10  # of its least squares, as a share of the mean square
_LONGEST = 20.0  # change of a logarithm that an extrapolation may add to a step
_ABSORB_AT = 30.0  # size of a logarithm at which it moves into the kernel
_FIRST_EXPONENT = 10.0  # largest exponent of the first kernel
_FACTOR = 4.0  # from one epsilon to the next
_STEPS = 2  # iterations at each epsilon before the last
_ROUNDINGS = 16  # of the dual value, by which it may fall without an extrapolation being at fault


class Scaled(NamedTuple):
    """Where the iterations ended.

    Attributes:
        p: f / epsilon (B, N).
        q: g / epsilon (B, M).
        error: L1 error of a marginal of the plan (B,), before the closing half-step.
        num_iterations: Iterations of each problem (B,).
    """

    p: Tensor
    q: Tensor
    error: Tensor
    num_iterations: Tensor


def annealed(kernel: GibbsKernel, a: Tensor, b: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
    """Potentials from a few iterations at each epsilon of a falling sequence.

    It begins where the optimal potentials are known, f = C b and g = C' a up to a constant for
    epsilon = infinity, at an epsilon of a tenth of the largest |f + g - C|.

    Args:
        kernel: Kernel (B, N, M), which this overwrites.
        a: Weights (B, N), no row all zero.
        b: Weights (B, M).
        epsilon: The last epsilon (B,).

    Returns:
        p (B, N) and q (B, M).

    References:
        Schmitzer, Stabilized sparse scaling algorithms for entropy regularized transport problems,
        2019, section 3.
    """
    f, g, largest = _at_infinity(kernel, a, b)
    level = torch.maximum(epsilon, largest / _FIRST_EXPONENT)
    while bool((level > epsilon).any()):
        p, q = kernel.build(f / level[:, None], g / level[:, None], level)
        psi = torch.zeros_like(q)
        for _ in range(_STEPS):
            phi, psi = kernel.sweep(b * psi.exp(), a)
        f, g = level[:, None] * (p + phi), level[:, None] * (q + psi)
        level = torch.maximum(epsilon, level / _FACTOR)
    return f / epsilon[:, None], g / epsilon[:, None]


def _at_infinity(kernel: GibbsKernel, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Potentials for epsilon = infinity, and the largest |f + g - C| (B,)."""
    f, g = kernel.costs_times(b), kernel.transposed_costs_times(a)
    f = f - (a * f).sum(-1, keepdim=True)
    dtype, largest = kernel.x.dtype, torch.zeros_like(a[:, 0])
    for rows, costs in kernel.cost_blocks():
        spread = (costs - f[:, rows, None].to(dtype)).sub_(g[:, None].to(dtype)).abs_()
        largest = torch.maximum(largest, spread.amax((-2, -1)).double())
    return f, g, largest


def better_start(
    kernel: GibbsKernel,
    starts: list[tuple[Tensor, Tensor]],
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
) -> tuple[Tensor, Tensor]:
    """Of several starts that with the highest dual value after one iteration, for each problem.

    The potentials of the self terms solve the cross term of equal clouds and nearly that of close
    ones, where iterations from elsewhere are slow.

    Args:
        kernel: Kernel (B, N, M), which this overwrites.
        starts: Pairs p (B, N), q (B, M).
        a: Weights (B, N).
        b: Weights (B, M).
        epsilon: Regularisation (B,).

    Returns:
        p and q after that iteration.
    """
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for start in starts:
        p, q = kernel.build(*start, epsilon)
        phi, psi = kernel.sweep(b, a)
        p, q = p + phi, q + psi
        dual = (a * p).sum(-1) + (b * q).sum(-1)
        # Far clouds drive a foreign start out of range: such an iteration is not exact.
        usable = torch.maximum(phi.abs().amax(-1), psi.abs().amax(-1)) < 2 * _ABSORB_AT
        dual = torch.where(usable, dual, -torch.inf)
        if best is None:
            best = p, q, dual
        else:
            chosen = (dual > best[2])[:, None]
            best = (
                torch.where(chosen, p, best[0]),
                torch.where(chosen, q, best[1]),
                torch.maximum(dual, best[2]),
            )
    assert best is not None
    return best[0], best[1]


def scaled(
    kernel: GibbsKernel,
    start: tuple[Tensor, Tensor],
    a: Tensor,
    b: Tensor,
    epsilon: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    symmetric: bool,
) -> Scaled:
    """Iterate until every problem has the marginals a and b.

    The plan is a_i b_j exp(phi_i + psi_j) K_ij. One iteration maps psi to phi = -log K (b e^psi),
    which makes the rows exact, and to -log K' (a e^phi), which makes the columns exact; that of a
    symmetric problem to the mean of psi and phi. Anderson's extrapolation speeds the map up: where
    the dual value falls after it, the plain step is taken instead and the history forgotten, so
    that the dual value never ends below that of the plain iteration by more than rounding. A
    problem that has converged is frozen.

    Args:
        kernel: Kernel (B, N, M), which this overwrites.
        start: p (B, N) and q (B, M); one and the same for a symmetric problem.
        a: Weights (B, N).
        b: Weights (B, M).
        epsilon: Regularisation (B,).
        tolerance: Largest L1 error of the marginals.
        max_iterations: Most iterations.
        symmetric: Whether both clouds and weights are the same.

    Returns:
        Potentials after a closing half-step, which makes the columns exact, or, of a symmetric
        problem, one and the same potential twice; errors and iterations.

    References:
        Feydy et al., Interpolating between optimal transport and MMD using Sinkhorn divergences,
        2019, section 3.1 (symmetric steps); Walker and Ni, Anderson acceleration for fixed-point
        iterations, 2011, equation (2.3).
    """
    p, q = kernel.build(*start, epsilon)
    point, plain, history = q, q, _History()
    good = torch.zeros_like(p)
    done = torch.zeros(len(q), dtype=torch.bool, device=q.device)
    found = Scaled(p, q, torch.full_like(q[:, 0], torch.inf), done.long())
    best = torch.full_like(found.error, -torch.inf)
    slack = _ROUNDINGS * torch.finfo(kernel.x.dtype).eps
    for iteration in range(1, max_iterations + 1):
        psi = point - q
        if symmetric:
            phi = -logarithm(kernel.rows(b * psi.exp()))
            image, ends = q + (psi + phi) / 2, psi - phi
            first = image
        else:
            phi, last = kernel.sweep(b * psi.exp(), a)
            image, ends = q + last, psi - last
            first = p + phi
        error = (b * ends.expm1().abs()).sum(-1)
        found = _unless(
            done,
            found,
            Scaled(first, image, error, torch.full_like(done, iteration, dtype=torch.int64)),
        )
        done = done | (error <= tolerance)
        dual = (a * (p + phi)).sum(-1) + (b * point).sum(-1)
        fell = dual < best - slack * (1 + best.abs().clamp(max=1e6))
        best = torch.maximum(dual, best)
        following = history.extrapolated(point, image, fell)
        plain = torch.where(fell[:, None], plain, image)
        good = torch.where(fell[:, None], good, phi)
        point = torch.where((fell | done)[:, None], plain, following)
        far = (good.abs() > _ABSORB_AT).any() | ((point - q).abs() > _ABSORB_AT).any()
        finished, far = torch.stack([done.all(), far]).tolist()
        if finished:
            break
        if far:
            p, q = kernel.build(point if symmetric else p + good, point, epsilon)
            point, good = torch.where(done[:, None], point, q), torch.zeros_like(p)
    return found


def _unless(done: Tensor, old: Scaled, new: Scaled) -> Scaled:
    """The old state of problems that are done, the new one of others."""
    return Scaled(
        torch.where(done[:, None], old.p, new.p),
        torch.where(done[:, None], old.q, new.q),
        torch.where(done, old.error, new.error),
        torch.where(done, old.num_iterations, new.num_iterations),
    )


class _History:
    """The last points of a fixed-point iteration (B, M): their images, residuals, and for whom."""

    def __init__(self) -> None:
        self.past: list[tuple[Tensor, Tensor, Tensor]] = []

    def extrapolated(self, point: Tensor, image: Tensor, forget: Tensor) -> Tensor:
        """Where the history says that the iteration goes; the plain image with none.

        Args:
            point: The last point (B, M).
            image: Its image.
            forget: Problems (B,) whose history, with this point, is to be forgotten.

        Returns:
            The next point (B, M).
        """
        residual = image - point
        shift = torch.zeros_like(image)
        if self.past:
            changes = torch.stack([(residual - old) * valid for _, old, valid in self.past], 1)
            moves = torch.stack([image - old for old, _, _ in self.past], 1)
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
