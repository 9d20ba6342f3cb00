"""Each score with what its interval is made of: its centre, the effects of samples, its target."""

from collections.abc import Sequence

import torch
from torch import Tensor

from otmetrics.inference.influence import (
    frechet_effects,
    kernel_influence,
    sliced_effects,
    transport_influence,
)
from otmetrics.inference.intervals import Estimate, Over, Subsamples
from otmetrics.inference.neighbours import manifold_of_parts
from otmetrics.statistics.frechet import GaussianPair
from otmetrics.statistics.kernel import KernelSums
from otmetrics.transport.result import TransportResult
from otmetrics.transport.sliced.directions import (
    direction_generator,
    errors_of_blocks,
    random_directions,
)
from otmetrics.transport.sliced.sliced import Sliced

_BLOCKS, _PER_BLOCK = 8, 16
"""Directions of which the effects on the sliced distance come: an eighth of the default number, in
blocks that say how much of an effect is that of the directions."""
_FEWEST = 4  # samples per side that have two halves of two
_MOST_DIVIDED = 1500  # samples of a side whose parts are looked at
_RARE = 3 / 1.96  # standard errors that reach as far as the rule of three at 95 %
_PER_BALL = 10  # samples of the smaller side, for each of the k, that a part is made of at least
_PARTS = 100  # whose spread is that of a score: its own error is 7 %
_PART = 2 / 3  # share of the samples: of halves that of density is a tenth too small in places


def sliced_estimate(
    real: Tensor,
    fake: Tensor,
    solver: Sliced,
    result: TransportResult,
    sizes: tuple[int, int] | None = None,
) -> Estimate:
    """Of SW_p^p: at p = 2 an interval for its limit, for the mean at these sizes else.

    With `sizes` the result is that of so many samples, of which the clouds are a part.

    The bias of SW_2^2, the difference between the cost and the product of independent halves, is
    much the same along all directions, so that few of them tell it.
    """
    dimension = real.shape[1]
    generator = direction_generator(solver.seed)
    rows = random_directions(
        dimension, _BLOCKS * _PER_BLOCK, generator=generator, block=_PER_BLOCK
    ).T.to(real)
    seeds = None
    if solver.order == 2 and min(len(real), len(fake)) >= _FEWEST:
        seeds = torch.randint(2**62, (_BLOCKS,), generator=generator)
    blocks = max(1.0, solver.num_projections / _PER_BLOCK)
    found = sliced_effects(real, fake, rows, solver.order, _BLOCKS, blocks, seeds)

    drawn = result.direction_errors
    plain = Estimate(
        float(result.cost),
        found.influence.of_sizes(sizes),
        "mean at these sizes",
        drawn=drawn,
        order=solver.order,
        power=solver.order,
    )
    if solver.debiased:  # squared as it is
        return plain._replace(target="limit", order=1.0)
    if found.products is None:
        return plain._replace(bounds=(0.0, float("inf")))
    # It falls with 1/N + 1/M.
    share = 1.0
    if sizes is not None:
        share = sum(1 / size for size in sizes) / (1 / len(real) + 1 / len(fake))
    bias = share * (found.costs - found.products)
    unsure = errors_of_blocks(bias - bias.mean(), _PER_BLOCK)
    drawn = unsure if drawn is None else torch.cat([unsure, drawn.to(unsure)])
    taken = float(bias.mean())
    return plain._replace(centre=plain.centre - taken, target="limit", drawn=drawn, bias=taken)


def transport_estimate(result: TransportResult, power: float, *, rooted: bool) -> Estimate:
    """Of the cost of `Exact` or `Sinkhorn` of that order, and of its root where that is scored."""
    cost = float(result.cost)
    # Divergences of order above 2 may lie below 0; nothing else does.
    least = 0.0 if cost >= 0 else float("-inf")
    return Estimate(
        cost,
        transport_influence(result),
        "mean at these sizes",
        order=power if rooted else 1.0,
        power=power,
        bounds=(least, float("inf")),
    )


def frechet_estimate(
    real: Tensor | None,
    fake: Tensor,
    pair: GaussianPair,
    sizes: tuple[int, int] | None = None,
) -> Estimate:
    """Of the Fréchet distance: for its limit where both sides have twice as many samples as axes.

    There its bias falls with 1/n, and a jackknife tells it. With `sizes` the pair is that of so
    many samples, of which the clouds are a part; a real side without samples is fixed.
    """
    value, bounds = float(pair.distance), (0.0, float("inf"))
    found = frechet_effects(real, fake, pair, sizes)
    plain = Estimate(
        value, found.influence, "mean at these sizes", found.error, power=2.0, bounds=bounds
    )
    if real is None or min(sizes or (len(real), len(fake))) < max(2 * fake.shape[1], _FEWEST):
        return plain
    return plain._replace(centre=value - found.bias, target="limit", bias=found.bias)


def kernel_estimate(sums: KernelSums) -> Estimate | None:
    """Of MMD^2, which has no bias; None for two samples, of which a jackknife leaves one."""
    if min(len(sums.real.by_row), len(sums.fake.by_row)) < 3:
        return None
    return Estimate(float(sums.value), kernel_influence(sums), "limit", power=2.0)


def manifold_estimates(
    real: Tensor, fake: Tensor, num_neighbors: int, values: Sequence[float], seed: int, over: Over
) -> list[Estimate | None]:
    """Of precision, recall, density and coverage, from random parts of both sides, or of fake.

    Their effects are not those of independent samples, whose balls overlap: the binomial error is
    too small, and a bootstrap repeats samples, which then are their own neighbours. None where a
    part has too few samples for its balls.
    """
    # Of many samples a part: its variance is larger by its share of them.
    largest, smallest = max(len(real), len(fake)), min(len(real), len(fake))
    share = min(1.0, max(_MOST_DIVIDED / largest, _PER_BALL * num_neighbors / smallest))
    generator = torch.Generator().manual_seed(seed)
    sides = []
    for side in (real, fake):
        part = torch.randperm(len(side), generator=generator)[: round(share * len(side))]
        sides.append(side[part.sort().values.to(side.device)])
    if round(_PART * min(map(len, sides))) <= num_neighbors:
        return [None] * 4

    kept = [_parts(len(side), generator).to(side.device) for side in sides]
    if over == "fake":
        kept[0] = torch.ones_like(kept[0])
    scores = manifold_of_parts(sides[0], sides[1], num_neighbors, (kept[0], kept[1]))
    # Parts of a share r, without replacement, spread less than samples by (1 - r) / r.
    scale = (share * _PART / (1 - _PART)) ** 0.5
    spread = scale * (scores - scores.mean(0))
    found: list[Estimate | None] = []
    for place, value in enumerate(values):
        parts = Subsamples(spread[:, place], over)
        # Where no part differs, of n samples none in 3/n may be other than those that were seen.
        rare = _RARE / min(len(real), len(fake)) if parts.variance(over) == 0 else 0.0
        most = float("inf") if place == 2 else 1.0  # densities have no largest value
        found.append(Estimate(value, parts, "mean at these sizes", rare, bounds=(0.0, most)))
    return found


def _parts(size: int, generator: torch.Generator) -> Tensor:
    """Random parts (R, n) of n samples."""
    keys = torch.rand(_PARTS, size, generator=generator)
    return keys.argsort(1).argsort(1) < round(_PART * size)
