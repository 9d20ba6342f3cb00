"""Entropic costs and Sinkhorn divergences of a batch: scale, epsilon, terms, and back again."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from otmetrics.machine import ieee_float32, memory_budget
from otmetrics.transport.costs import pairwise_costs, row_blocks
from otmetrics.transport.exact.problem import Places, merge_repeated
from otmetrics.transport.sinkhorn.gibbs import GibbsKernel, Workspace
from otmetrics.transport.sinkhorn.iterations import Term, Wanted, entropic_term

_FEW_PAIRS = 2**20  # up to so many float64 costs next to nothing
# Beyond these float32 does not suffice.
_FINE = 1e-6  # tolerance
_HIGH = 4.0  # order
_WIDE = 10.0  # relative epsilon
_UNEVEN = 1e-8  # smallest weight
_SMALLEST = 1e-30  # epsilon, where the largest cost is one


class SinkhornOptions(NamedTuple):
    """Options that every entropic problem shares; see `sinkhorn_result`."""

    order: float = 2.0
    epsilon: float = 0.05
    relative: bool = True
    tolerance: float = 1e-5
    max_iterations: int = 2000
    memory_limit: float | None = None
    richardson: bool = False


class Solved(NamedTuple):
    """A batch of problems in the units of its clouds, in float64 but for the gradients.

    Attributes:
        cost: Entropic cost or divergence (B,).
        lower: Lower bound on it (B,), or None.
        upper: Upper bound on it (B,), or None.
        potentials: f (B, N) and g (B, M), the first variations of the cost in the weights.
        error: Largest L1 error of a marginal of any term (B,).
        num_iterations: Most iterations of any term (B,).
        gradients: Gradients of the cost in both clouds, None where not wanted.
        start: Potentials (B, N) and (B, M) of the cross term, to start a similar problem from.
    """

    cost: Tensor
    lower: Tensor | None
    upper: Tensor | None
    potentials: tuple[Tensor, Tensor]
    error: Tensor
    num_iterations: Tensor
    gradients: tuple[Tensor | None, Tensor | None]
    start: tuple[Tensor, Tensor]


class _Scaled(NamedTuple):
    """Clouds within a ball of diameter one around the origin, and where they come from."""

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor
    unit: Tensor  # of a cost, (B,)
    length: Tensor  # of a distance, (B,)
    epsilon: Tensor  # in this unit, (B,)
    weightless: tuple[Tensor, Tensor] | None  # both clouds in float64, with all points in place


@torch.no_grad()
def entropic_batch(
    real: Tensor,
    fake: Tensor,
    a: Tensor,
    b: Tensor,
    options: SinkhornOptions,
    *,
    debiased: bool,
    bounds: bool,
    gradients: tuple[bool, bool],
    start: tuple[Tensor, Tensor] | None = None,
) -> Solved:
    """Solve a batch, as much of it at once as fits the memory limit.

    Args:
        real: Clouds (B, N, D), checked.
        fake: Clouds (B, M, D).
        a: Weights (B, N) in float64 that sum to one.
        b: Weights (B, M).
        options: The options, checked.
        debiased: Whether to subtract both self terms.
        bounds: Whether to compute bounds.
        gradients: Whether to compute those in real and in fake.
        start: Potentials of the cross term of a similar problem, or None.

    Returns:
        The solutions.
    """
    if len(real) == 1:
        places = merge_repeated(real[0].detach(), a[0]), merge_repeated(fake[0].detach(), b[0])
        if any(place is not None for place in places):
            return _solved_at(places, real, fake, a, b, options, debiased, bounds, gradients, start)
    size = max(real.shape[1], fake.shape[1])
    dtype = real.dtype if _suffices_in_single(size, a, b, options) else torch.float64
    limit = memory_budget(real.device, options.memory_limit)
    workspace = Workspace(dtype, real.device, limit)
    num = max(1, int(limit / (2 * size**2 * dtype.itemsize)))
    solved = []
    for part in (slice(first, first + num) for first in range(0, len(real), num)):
        group = real[part].detach(), fake[part].detach(), a[part], b[part]
        warm = None if start is None else (start[0][part], start[1][part])
        wanted = Wanted(options.tolerance, options.max_iterations, bounds, gradients)
        with ieee_float32(real.device):
            solved.append(_group(*group, options, wanted, workspace, debiased, warm))
    return solved[0] if len(solved) == 1 else _join_groups(solved)


def _solved_at(
    places: tuple[Places | None, Places | None],
    real: Tensor,
    fake: Tensor,
    a: Tensor,
    b: Tensor,
    options: SinkhornOptions,
    debiased: bool,
    bounds: bool,
    gradients: tuple[bool, bool],
    start: tuple[Tensor, Tensor] | None,
) -> Solved:
    """Solve between places, and give every point the potential and its share of the gradient."""
    x, y = (
        cloud if place is None else cloud[:, place.ids]
        for cloud, place in zip((real, fake), places, strict=True)
    )
    c, d = (
        weights if place is None else place.weights
        for weights, place in zip((a, b), places, strict=True)
    )
    if start is not None:
        f, g = (
            potential if place is None else potential[:, place.ids]
            for potential, place in zip(start, places, strict=True)
        )
        start = f, g

    solved = entropic_batch(
        x, y, c, d, options, debiased=debiased, bounds=bounds, gradients=gradients, start=start
    )

    def spread(values: tuple[Any, Any]) -> tuple[Any, Any]:
        return tuple(
            value if place is None or value is None else value[:, place.of]
            for value, place in zip(values, places, strict=True)
        )

    slopes = tuple(
        slope if place is None or slope is None else slope * place.shares[..., None].to(slope.dtype)
        for slope, place in zip(spread(solved.gradients), places, strict=True)
    )
    return solved._replace(
        potentials=spread(solved.potentials), gradients=slopes, start=spread(solved.start)
    )


def _suffices_in_single(size: int, a: Tensor, b: Tensor, options: SinkhornOptions) -> bool:
    """Whether costs and kernel need no float64, and are too many to have it for nothing."""
    smallest = min(float(torch.where(w > 0, w, 1.0).min()) for w in (a, b))
    return (
        len(a) * size**2 > _FEW_PAIRS
        and options.tolerance >= _FINE
        and options.order <= _HIGH
        and not (options.relative and options.epsilon > _WIDE)
        and smallest >= _UNEVEN
    )


def _group(
    real: Tensor,
    fake: Tensor,
    a: Tensor,
    b: Tensor,
    options: SinkhornOptions,
    wanted: Wanted,
    workspace: Workspace,
    debiased: bool,
    warm: tuple[Tensor, Tensor] | None,
) -> Solved:
    """Solve problems that fit into memory together."""
    clouds = _scale_clouds(real, fake, a, b, options, workspace)
    solved = _solve_terms(clouds, options, wanted, workspace, debiased, warm)
    if options.richardson and debiased:
        wider = clouds._replace(epsilon=2**0.5 * clouds.epsilon)
        solved = _extrapolate(solved, _solve_terms(wider, options, wanted, workspace, True, warm))
    return solved


def _scale_clouds(
    real: Tensor,
    fake: Tensor,
    a: Tensor,
    b: Tensor,
    options: SinkhornOptions,
    workspace: Workspace,
) -> _Scaled:
    """Clouds in units in which no cost is above one; points without weight moved onto others."""
    x, y = _move_weightless(real, a), _move_weightless(fake, b)
    moved = x is not real or y is not fake
    x, y = x.to(workspace.dtype), y.to(workspace.dtype)
    # The weighted mean: a far point of little weight must not take the digits of all others.
    centre = (a.to(x.dtype)[:, None] @ x + b.to(y.dtype)[:, None] @ y) / 2
    x, y = x - centre, y - centre
    largest = torch.maximum(*(cloud.abs().amax((-2, -1)) for cloud in (x, y)))
    largest = torch.where(largest > 0, largest, 1.0)  # lengths of its multiples fit any dtype
    x /= largest[:, None, None]
    y /= largest[:, None, None]
    radii = [torch.linalg.vector_norm(cloud, dim=-1).amax(-1) for cloud in (x, y)]
    radius = torch.maximum(*radii).clamp_min(1)
    x /= 2 * radius[:, None, None]
    y /= 2 * radius[:, None, None]
    length = 2 * radius.double() * largest.double()
    unit = length.pow(options.order)
    if options.relative:
        mean = _mean_cost(x, y, a, b, options.order, workspace)
        epsilon = options.epsilon * torch.where(mean > 0, mean, 1.0)
    else:
        epsilon = options.epsilon / unit
    weightless = None
    if moved:
        scale = length[:, None, None]
        weightless = (real.double() - centre) / scale, (fake.double() - centre) / scale
    epsilon = epsilon.clamp_min(_SMALLEST)
    return _Scaled(x, y, a, b, unit, length, epsilon, weightless)


def _move_weightless(cloud: Tensor, weights: Tensor) -> Tensor:
    """The cloud with points that carry no weight moved onto one that does."""
    weightless = weights == 0
    if not bool(weightless.any()):
        return cloud
    heaviest = weights.argmax(1)[:, None, None].expand(-1, 1, cloud.shape[2])
    return torch.where(weightless[..., None], cloud.gather(1, heaviest), cloud)


def _mean_cost(
    x: Tensor, y: Tensor, a: Tensor, b: Tensor, order: float, workspace: Workspace
) -> Tensor:
    """Mean cost (B,) between the clouds; at p = 2 their moments tell it."""
    if order != 2:
        return (a * GibbsKernel(x, y, order, workspace).costs_times(b)).sum(-1)
    sides = (x, a), (y, b)
    squares = sum(
        (w * torch.linalg.vector_norm(c, dim=-1).double().square()).sum(-1) for c, w in sides
    )
    means = [(w.to(c.dtype)[:, None] @ c)[:, 0].double() for c, w in sides]
    return (squares - 2 * (means[0] * means[1]).sum(-1)).clamp_min(0)


def _solve_terms(
    clouds: _Scaled,
    options: SinkhornOptions,
    wanted: Wanted,
    workspace: Workspace,
    debiased: bool,
    warm: tuple[Tensor, Tensor] | None,
) -> Solved:
    """All terms at one epsilon, in the units of the data."""
    x, y, a, b, unit, length, epsilon, _ = clouds

    def term(
        u: Tensor, v: Tensor, c: Tensor, d: Tensor, wanted: Wanted, *rivals: tuple[Tensor, Tensor]
    ) -> Term:
        return entropic_term(u, v, c, d, epsilon, options.order, workspace, wanted, rivals)

    def own_term(side: int) -> Term:
        cloud, weights = ((x, a), (y, b))[side]
        needed = wanted._replace(gradients=(wanted.gradients[side], False))
        return term(cloud, cloud, weights, weights, needed)

    scale = (epsilon * unit)[:, None]
    rivals = [] if warm is None else [(warm[0] / scale, warm[1] / scale)]
    if not debiased:
        cross = _complete_potentials(term(x, y, a, b, wanted, *rivals), clouds, options.order, 0, 1)
        start = cross.p * scale, cross.q * scale
        low, high = cross.value * unit, None if cross.upper is None else cross.upper * unit
        lower = low if wanted.bounds else None
        return Solved(
            low,
            lower,
            high,
            start,
            cross.error,
            cross.num_iterations,
            _gradients(cross, None, unit / length),
            start,
        )
    own = own_term(0), own_term(1)
    cross = term(x, y, a, b, wanted, *rivals, (own[0].p, own[1].q))
    cross = _complete_potentials(cross, clouds, options.order, 0, 1)
    own = (
        _complete_potentials(own[0], clouds, options.order, 0, 0),
        _complete_potentials(own[1], clouds, options.order, 1, 1),
    )
    terms = (cross, *own)
    cost = (cross.value - (own[0].value + own[1].value) / 2) * unit
    lower = upper = None
    if cross.upper is not None and own[0].upper is not None and own[1].upper is not None:
        lower = (cross.value - (own[0].upper + own[1].upper) / 2) * unit
        upper = (cross.upper - (own[0].value + own[1].value) / 2) * unit
    return Solved(
        cost,
        lower,
        upper,
        ((cross.p - own[0].p) * scale, (cross.q - own[1].q) * scale),
        torch.stack([one.error for one in terms]).amax(0),
        torch.stack([one.num_iterations for one in terms]).amax(0),
        _gradients(cross, own, unit / length),
        (cross.p * scale, cross.q * scale),
    )


def _gradients(
    cross: Term, own: tuple[Term, Term] | None, unit: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the cross term less those of the self terms, in the units of the data."""
    found: list[Tensor | None] = []
    for side, gradient in enumerate(cross.gradients):
        if gradient is not None:
            mine = None if own is None else own[side].gradients[0]
            gradient = gradient if mine is None else gradient - mine
            gradient = gradient * unit[:, None, None].to(gradient.dtype)
        found.append(gradient)
    return found[0], found[1]


def _extrapolate(near: Solved, wide: Solved) -> Solved:
    """2 S_epsilon - S_(sqrt(2) epsilon), in which the terms in epsilon^2 cancel."""

    def both(one: Any, two: Any) -> Any:
        if isinstance(one, tuple):
            return both(one[0], two[0]), both(one[1], two[1])
        return None if one is None else 2 * one - two

    return Solved(
        both(near.cost, wide.cost),
        both(near.lower, wide.upper),
        both(near.upper, wide.lower),
        both(near.potentials, wide.potentials),
        torch.maximum(near.error, wide.error),
        torch.maximum(near.num_iterations, wide.num_iterations),
        both(near.gradients, wide.gradients),
        near.start,
    )


def _complete_potentials(term: Term, clouds: _Scaled, order: float, side: int, other: int) -> Term:
    """The term with the potentials of points without weight, from where these really lie."""
    if clouds.weightless is None:
        return term
    sides = (clouds.x, clouds.a), (clouds.y, clouds.b)
    p, q = term.p.clone(), term.q.clone()
    for potential, opposite, here, there in ((p, term.q, side, other), (q, term.p, other, side)):
        cloud, weights = sides[there]
        for i, epsilon in enumerate(clouds.epsilon):
            everyone = (sides[here][1][i] == 0).nonzero()[:, 0]
            for part in row_blocks(len(everyone), cloud.shape[1]):
                rows = everyone[part]
                points = clouds.weightless[here][i, rows]
                costs = pairwise_costs(points, cloud[i].double(), order)
                exponents = opposite[i] + weights[i].log() - costs / epsilon
                potential[i, rows] = -exponents.logsumexp(1)
    return term._replace(p=p, q=q)


def _join_groups(parts: list[Solved]) -> Solved:
    """Groups of problems one behind the other."""

    def cat(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if values[0] is None:
            return None
        if isinstance(values[0], tuple):
            sides = zip(*values, strict=True)
            return tuple(None if side[0] is None else torch.cat(side) for side in sides)
        return torch.cat(values)

    return Solved(**{name: cat(name) for name in Solved._fields})
