"""Along which directions real and fake differ, and how much of the cost each of them carries."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.stats import rankdata
from torch import Tensor

from otmetrics.errors import unconverged_untold
from otmetrics.explanation.pairs import Pairs
from otmetrics.inference.labels import relabellings
from otmetrics.inference.relabelled import relabelled_sliced
from otmetrics.transport.sliced.max_sliced import MaxSliced

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
"""Where along a direction samples are shown."""

_RESAMPLES = 199
_COARSE: dict[str, Any] = {"num_starts": 4, "max_iterations": 100, "tolerance": 1e-3}
_TOLD = 2.0  # standard errors from which on an excess is divided among directions
_TOLERANCE = 1e-6  # of eigenvalues, relative
_NAMED = 0.1  # the least correlation with an attribute that is worth a word


class Axes(NamedTuple):
    """Orthonormal directions along which pairs are further apart than those of the floor.

    Attributes:
        vectors: The directions (D, K), that of the largest excess first.
        shares: The share (K,) of the cost along each: those of a whole basis sum to 1.
        excess: The share (K,) of what the cost has above its floor, which may be above 1; None
            where it has no more above it than chance may give.
    """

    vectors: Tensor
    shares: Tensor
    excess: Tensor | None


@dataclass(frozen=True)
class Direction:
    """One direction of features.

    Attributes:
        share: The part of the cost W_2^2 that lies along it.
        excess: The part of what W_2^2 has above its floor, above 1 where others make up for it;
            None where it has no more above it than chance may give.
        real: Real samples at the quantiles 1, 25, 50, 75 and 99 % along it.
        fake: Fake samples at the same quantiles.
        attributes: Attributes of images and their rank correlations with it, the largest first.
    """

    share: float
    excess: float | None
    real: tuple[int, ...]
    fake: tuple[int, ...]
    attributes: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class WidestDirection:
    """The direction along which both sides differ most, found on one half and tested on another.

    Attributes:
        found: W_2 along it, of the half that it was found on: the largest that was found.
        held_out: W_2 along it of the other half, which did not choose it.
        pvalue: Of a permutation test on the other half.
    """

    found: float
    held_out: float
    pvalue: float


def excess_axes(pairs: Pairs, floor: Pairs, count: int) -> Axes:
    """Eigenvectors of the matrix of displacements less that of the floor, V - V_0.

    V = sum_ij P_ij (x_i - y_j)(x_i - y_j)', of trace W_2^2 (Paty and Cuturi, Subspace robust
    Wasserstein distances, 2019). Neither matrix is formed.
    """
    dimension = pairs.moves.shape[1]
    sides = [(one.moves * one.masses.sqrt()[:, None]).cpu().numpy() for one in (pairs, floor)]

    def apply(vector: np.ndarray) -> np.ndarray:
        there, noise = (side.T @ (side @ vector) for side in sides)
        return there - noise

    if dimension <= max(8, 2 * count):  # ARPACK needs more room
        values, vectors = np.linalg.eigh(apply(np.eye(dimension)))
    else:
        operator = LinearOperator((dimension, dimension), matvec=apply, dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(dimension)
        values, vectors = eigsh(operator, count, which="LA", v0=start, tol=_TOLERANCE)
    order = np.argsort(values)[::-1][:count]

    # Eigenvectors have no sign of their own: fake lies on the larger side.
    found = torch.from_numpy(np.ascontiguousarray(vectors[:, order])).to(pairs.moves)
    means = (pairs.masses @ pairs.moves) @ found
    found = torch.where(means < 0, -found, found)
    along, noise = ((one.masses @ (one.moves @ found).square()).cpu() for one in (pairs, floor))
    above, error = pairs.cost - floor.cost, math.hypot(pairs.error, floor.error)
    excess = (along - noise) / above if above > _TOLD * error else None
    shares = along / pairs.cost if pairs.cost > 0 else torch.zeros_like(along)
    return Axes(found, shares, excess)


def described_directions(
    axes: Axes,
    real: Tensor,
    fake: Tensor,
    attributes: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> tuple[Direction, ...]:
    """What lies along each direction: samples at quantiles, and attributes that go with it.

    Attributes are values (N,) and (M,) of both sides, NaN where an image was not looked at.
    """
    sides = [(cloud.double() @ axes.vectors).T.cpu().numpy() for cloud in (real, fake)]
    found = []
    for place, lines in enumerate(zip(*sides, strict=True)):
        rows = [
            tuple(int(row) for row in np.argsort(line, kind="stable")[_places(len(line))])
            for line in lines
        ]
        correlations = {
            name: _rank_correlation(np.concatenate(lines), np.concatenate(values))
            for name, values in attributes.items()
        }
        named = sorted(correlations.items(), key=lambda item: -abs(item[1]))
        found.append(
            Direction(
                float(axes.shares[place]),
                None if axes.excess is None else float(axes.excess[place]),
                rows[0],
                rows[1],
                tuple((name, value) for name, value in named if abs(value) >= _NAMED),
            )
        )
    return tuple(found)


def _places(size: int) -> np.ndarray:
    """Where in an order of so many samples the quantiles are."""
    return np.round(np.array(QUANTILES) * (size - 1)).astype(int)


def _rank_correlation(line: np.ndarray, values: np.ndarray) -> float:
    """Spearman's correlation of what is known; 0 where nothing varies."""
    known = np.isfinite(values)
    if known.sum() < 3:
        return 0.0
    ranks = [rankdata(one[known]) for one in (line, values)]
    if min(one.std() for one in ranks) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def widest_direction(
    chosen_on: tuple[Tensor, Tensor], tested_on: tuple[Tensor, Tensor], seed: int
) -> WidestDirection:
    """Look for the widest direction on one pair of clouds, and test it on another."""
    # A test holds for any direction that the tested half did not choose: near the best is enough.
    with unconverged_untold():
        best = MaxSliced(seed=seed, **_COARSE).solve(*chosen_on)
    real, fake = tested_on
    labels = relabellings((len(real), len(fake)), [], _RESAMPLES, seed).to(real.device)
    pool, line = torch.cat([real, fake]), best.direction[None].to(real)
    costs = relabelled_sliced(pool, labels, line, 2.0)
    slack = 1e-9 * float(costs.abs().max())
    pvalue = float((costs >= costs[0] - slack).double().mean())
    return WidestDirection(float(best.value), float(costs[0]) ** 0.5, pvalue)
