"""The terms of a Sinkhorn divergence: scaled clouds, each term, and the units of the data again."""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.transport.costs import extended_potential
from otmetrics.transport.result import fieldwise
from otmetrics.transport.sinkhorn.gibbs import GibbsKernel, Workspace
from otmetrics.transport.sinkhorn.iterations import Measure, Term, TermSolver, Wanted

_SMALLEST = 1e-30  # epsilon, where the largest cost is one


class Solved(NamedTuple):
    """A batch of problems in the units of its clouds, in float64 but for the gradients."""

    cost: Tensor  # entropic cost or divergence (B,)
    lower: Tensor | None  # bounds on it (B,), or None
    upper: Tensor | None
    potentials: tuple[Tensor, Tensor]  # f (B, N) and g (B, M), the first variations in the weights
    error: Tensor  # largest L1 error of a marginal of any term (B,)
    num_iterations: Tensor  # most iterations of any term (B,)
    gradients: tuple[Tensor | None, Tensor | None]  # of the cost in both clouds, if wanted
    cross_potentials: tuple[Tensor, Tensor]  # from which a similar problem may begin


class Places(NamedTuple):
    """The different points of a measure that has each of them many times."""

    measure: Measure  # a point of each place, with the whole weight there
    ids: Tensor | slice  # these points (K,)
    of: Tensor | slice  # the place of each point (N,)
    shares: Tensor | None  # of each point in the weight of its place (1, N); None for all of it


def merge_repeated(measure: Measure) -> Places:
    """Equal points of a single problem as one, where that leaves at most half of the points."""
    alone = Places(measure, slice(None), slice(None), None)
    if len(measure.points) > 1:
        return alone
    cloud, weights = measure.points[0], measure.weights[0]
    # Sums that differ tell points apart much faster.
    if 2 * len(cloud.sum(1).unique()) > len(cloud):
        return alone
    _, of = cloud.unique(dim=0, return_inverse=True)
    count = int(of.max()) + 1
    if 2 * count > len(cloud):
        return alone

    # Any of the equal points may stand for its place.
    ids = torch.zeros(count, dtype=of.dtype, device=of.device)
    ids[of] = torch.arange(len(of), device=of.device)
    total = weights.new_zeros(count).index_add_(0, of, weights)
    shares = weights / torch.where(total > 0, total, 1.0)[of]
    return Places(Measure(cloud[None, ids], total[None]), ids, of, shares[None])


def spread(solved: Solved, places: tuple[Places, Places]) -> Solved:
    """Give every point the potential of its place, and its share of the gradient."""
    gradients: list[Tensor | None] = []
    for gradient, place in zip(solved.gradients, places, strict=True):
        if gradient is not None and place.shares is not None:
            gradient = gradient[:, place.of] * place.shares[..., None].to(gradient.dtype)
        gradients.append(gradient)

    def everywhere(potentials: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return potentials[0][:, places[0].of], potentials[1][:, places[1].of]

    return solved._replace(
        potentials=everywhere(solved.potentials),
        gradients=(gradients[0], gradients[1]),
        cross_potentials=everywhere(solved.cross_potentials),
    )


class Problem(NamedTuple):
    """Measures within a ball of diameter one around the origin, and where they come from."""

    sides: tuple[Measure, Measure]  # real and fake; points without weight lie on others
    order: float
    epsilon: Tensor  # (B,) in the units of these clouds
    unit: Tensor  # that of a cost (B,), in the units of the data
    length: Tensor  # that of a distance (B,)
    # Both clouds in float64 with all points in place; None if no weight is 0.
    places: tuple[Tensor, Tensor] | None
    workspace: Workspace


def scale_problem(
    real: Measure, fake: Measure, order: float, epsilon: float, relative: bool, workspace: Workspace
) -> Problem:
    """Measures in units in which no cost is above one, and epsilon in these units."""
    (real_cloud, a), (fake_cloud, b) = real, fake
    x, y = _move_weightless(*real), _move_weightless(*fake)
    moved = x is not real_cloud or y is not fake_cloud
    x, y = x.to(workspace.dtype), y.to(workspace.dtype)
    # The weighted mean: a far point of little weight must not take the digits of all others.
    centre = (a.to(x.dtype)[:, None] @ x + b.to(y.dtype)[:, None] @ y) / 2
    x, y = x - centre, y - centre

    # First by the largest coordinate: lengths of its multiples fit any dtype.
    largest = torch.maximum(*(cloud.abs().amax((-2, -1)) for cloud in (x, y)))
    largest = torch.where(largest > 0, largest, 1.0)
    x /= largest[:, None, None]
    y /= largest[:, None, None]
    radii = [torch.linalg.vector_norm(cloud, dim=-1).amax(-1) for cloud in (x, y)]
    radius = torch.maximum(*radii).clamp_min(1)
    x /= 2 * radius[:, None, None]
    y /= 2 * radius[:, None, None]
    length = 2 * radius.double() * largest.double()
    unit = length.pow(order)

    if relative:
        mean = _mean_cost(x, y, a, b, order, workspace)
        # Where all points are equal, any unit does.
        scaled = epsilon * torch.where(mean > 0, mean, 1.0)
    else:
        scaled = epsilon / unit

    places = None
    if moved:
        scale = length[:, None, None]
        places = (real_cloud.double() - centre) / scale, (fake_cloud.double() - centre) / scale
    sides, scaled = (Measure(x, a), Measure(y, b)), scaled.clamp_min(_SMALLEST)
    return Problem(sides, order, scaled, unit, length, places, workspace)


def _move_weightless(cloud: Tensor, weights: Tensor) -> Tensor:
    """The cloud with points that carry no weight moved onto one that does."""
    # To leave them out would give the problems of a batch different sizes.
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


def solve_terms(problem: Problem, wanted: Wanted) -> Solved:
    """The terms at one epsilon, in the units of the data."""
    unit, scale = problem.unit, (problem.epsilon * problem.unit)[:, None]
    rivals: list[tuple[Tensor, Tensor]] = []
    if wanted.start is not None:
        rivals.append((wanted.start[0] / scale, wanted.start[1] / scale))

    # Self terms first: their potentials nearly solve the cross term of clouds that are close.
    own: list[Term] = []
    if wanted.debiased:
        for side, needed in enumerate(wanted.gradients):
            mine = wanted._replace(gradients=(needed, False))
            own.append(_solve_term(problem, (side, side), mine, []))
        rivals.append((own[0].p, own[1].q))
    cross = _solve_term(problem, (0, 1), wanted, rivals)

    cross = _complete_potentials(cross, problem, (0, 1))
    own = [_complete_potentials(one, problem, (side, side)) for side, one in enumerate(own)]
    cross_potentials = cross.p * scale, cross.q * scale
    gradients = _gradients(cross, own, unit / problem.length)
    if not own:
        cost, found = cross.value * unit, (cross.error, cross.num_iterations)
        # The dual value of a single term is a lower bound itself.
        lower, upper = (None, None) if cross.upper is None else (cost, cross.upper * unit)
        return Solved(cost, lower, upper, cross_potentials, *found, gradients, cross_potentials)

    # A bound on a difference takes the opposite bound of what is subtracted.
    lower = upper = None
    values = (own[0].value + own[1].value) / 2
    if cross.upper is not None and own[0].upper is not None and own[1].upper is not None:
        lower = (cross.value - (own[0].upper + own[1].upper) / 2) * unit
        upper = (cross.upper - values) * unit
    terms = (cross, *own)
    return Solved(
        cost=(cross.value - values) * unit,
        lower=lower,
        upper=upper,
        potentials=((cross.p - own[0].p) * scale, (cross.q - own[1].q) * scale),
        error=torch.stack([one.error for one in terms]).amax(0),
        num_iterations=torch.stack([one.num_iterations for one in terms]).amax(0),
        gradients=gradients,
        cross_potentials=cross_potentials,
    )


def _solve_term(
    problem: Problem, sides: tuple[int, int], wanted: Wanted, rivals: list[tuple[Tensor, Tensor]]
) -> Term:
    """The term between two sides; of one and the same side a self term."""
    real, fake = (problem.sides[side] for side in sides)
    solver = TermSolver(real, fake, problem.order, problem.epsilon, problem.workspace)
    return solver.solve(wanted, rivals)


def _complete_potentials(term: Term, problem: Problem, sides: tuple[int, int]) -> Term:
    """The term with the potentials of points without weight, from where these really lie."""
    return term._replace(
        p=_complete(term.p, term.q, problem, sides),
        q=_complete(term.q, term.p, problem, sides[::-1]),
    )


def _complete(
    potential: Tensor, opposite: Tensor, problem: Problem, sides: tuple[int, int]
) -> Tensor:
    """One potential of a term, given that of the opposite side."""
    if problem.places is None:
        return potential
    potential, (here, there) = potential.clone(), sides
    others, weights = problem.sides[there]
    for i, epsilon in enumerate(problem.epsilon.tolist()):
        missing = problem.sides[here].weights[i] == 0
        points, g = problem.places[here][i, missing], epsilon * opposite[i]
        found = extended_potential(points, others[i], g, problem.order, weights[i].log(), epsilon)
        potential[i, missing] = found / epsilon
    return potential


def _gradients(cross: Term, own: list[Term], unit: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the cross term less those of the self terms, in the units of the data."""
    found: list[Tensor | None] = []
    for side, gradient in enumerate(cross.gradients):
        if gradient is not None:
            # S subtracts half of a self term, whose gradient comes as half of its own already.
            mine = own[side].gradients[0] if own else None
            gradient = gradient if mine is None else gradient - mine
            gradient = gradient * unit[:, None, None].to(gradient.dtype)
        found.append(gradient)
    return found[0], found[1]


def extrapolate(near: Solved, wide: Solved) -> Solved:
    """2 S_epsilon - S_(sqrt(2) epsilon), in which the terms in epsilon^2 cancel."""
    extrapolated: Solved = fieldwise(lambda pair: 2 * pair[0] - pair[1], [near, wide])
    return extrapolated._replace(
        # The lowest that it can be takes the highest of what is subtracted.
        lower=None if near.lower is None or wide.upper is None else 2 * near.lower - wide.upper,
        upper=None if near.upper is None or wide.lower is None else 2 * near.upper - wide.lower,
        error=torch.maximum(near.error, wide.error),
        num_iterations=torch.maximum(near.num_iterations, wide.num_iterations),
        cross_potentials=near.cross_potentials,
    )


def join_groups(groups: list[Solved]) -> Solved:
    """Groups of problems one behind the other."""
    joined: Solved = groups[0] if len(groups) == 1 else fieldwise(torch.cat, groups)
    return joined
