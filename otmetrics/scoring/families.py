"""The scores: which of them are computed together, by what, and on how many samples."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from otmetrics.functional import kernel_distance, manifold_scores
from otmetrics.inference.estimates import (
    frechet_estimate,
    kernel_estimate,
    manifold_estimates,
    sliced_estimate,
    transport_estimate,
)
from otmetrics.inference.intervals import Estimate
from otmetrics.machine import memory_budget
from otmetrics.scoring.mapped import transform_rows
from otmetrics.scoring.options import MANIFOLD, Scoring
from otmetrics.statistics.frechet import gaussian_pair
from otmetrics.statistics.kernel import kernel_sums
from otmetrics.transport.exact.exact import Exact
from otmetrics.transport.result import TransportResult
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
from otmetrics.transport.sliced.sliced import far_centre

_Solver = TypeVar("_Solver", Exact, Sinkhorn)


class Measured(NamedTuple):
    """One number as its function gave it."""

    value: float
    standard_error: float | None = None
    converged: bool = True
    message: str = ""
    estimate: Estimate | None = None  # where an interval was asked for


class Family(NamedTuple):
    """Scores that are computed together; `limit` names the option that bounds the samples.

    `measure` is told whether this is the comparison that was asked for, or one for its floor.
    """

    names: tuple[str, ...]
    measure: Callable[[Tensor, Tensor, Scoring, bool], list[Measured]]
    limit: str = ""

    def most(self, scoring: Scoring) -> float:
        """Most samples per side."""
        return getattr(scoring, self.limit) if self.limit else float("inf")

    def least(self, scoring: Scoring) -> int:
        """The fewest samples per side that have these scores."""
        return scoring.num_neighbors + 1 if self.names == MANIFOLD else 2


def mapped_above(cloud: Tensor, scoring: Scoring) -> float:
    """Bytes from which a copy of features goes to a file."""
    # Up to five are there at once, next to the blocks of a solver that may take most of the limit.
    return memory_budget(cloud.device, scoring.memory_limit) / 16


def near_origin(real: Tensor, fake: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Both clouds in one dtype, moved together where projections would lose digits."""
    centre, dtype = far_centre(real, fake), torch.promote_types(real.dtype, fake.dtype)
    if centre is None and real.dtype == fake.dtype:
        return real, fake
    shift = 0.0 if centre is None else centre.to(dtype)
    limit = mapped_above(real, scoring)
    moved_real, moved_fake = (
        transform_rows(cloud, lambda rows: rows.to(dtype) - shift, dtype, limit)
        for cloud in (real, fake)
    )
    return moved_real, moved_fake


def _measure_sliced(real: Tensor, fake: Tensor, scoring: Scoring, whole: bool) -> list[Measured]:
    """SW_p with its Monte-Carlo error; debiased SW_2^2, whose mean over samples is right."""
    # The solver would move both clouds by itself, to copies in memory.
    real, fake = near_origin(real, fake, scoring)
    result = scoring.sliced.solve(real, fake)
    estimate = sliced_estimate(real, fake, scoring.sliced, result) if scoring.interval else None
    if not scoring.sliced.debiased:
        return _measure_transport(result, result.value, estimate)

    # The error is that of the root, by the delta method: turned back into one of the square.
    value, error = float(result.value), result.standard_error
    spread = None if error is None else 2 * abs(value) * float(error)
    return [Measured(float(result.cost), spread, result.converged, result.message, estimate)]


def _measure_transport(
    result: TransportResult, value: Tensor, estimate: Estimate | None
) -> list[Measured]:
    """A solver's value with its error and state."""
    error = None if result.standard_error is None else float(result.standard_error)
    return [Measured(float(value), error, result.converged, result.message, estimate)]


def _within_memory(solver: _Solver, real: Tensor, fake: Tensor, scoring: Scoring) -> _Solver:
    """A solver that keeps to the memory of the scores, unless it has a limit of its own."""
    if scoring.memory_limit is None or solver.memory_limit is not None:
        return solver
    # Room for three copies of both clouds in float64, next to the costs that the limit is for; but
    # never all of it, since costs in tiny blocks take many times as long.
    copies = 48.0 * max(len(real), len(fake)) * real.shape[1]
    limit = scoring.memory_limit
    return replace(solver, memory_limit=max(limit / 4, limit - copies))


def _measure_exact(real: Tensor, fake: Tensor, scoring: Scoring, whole: bool) -> list[Measured]:
    """W_p."""
    result = _within_memory(scoring.exact, real, fake, scoring).solve(real, fake)
    estimate = None
    if scoring.interval:
        estimate = transport_estimate(result, scoring.exact.order, rooted=True)
    return _measure_transport(result, result.value, estimate)


def _measure_sinkhorn(real: Tensor, fake: Tensor, scoring: Scoring, whole: bool) -> list[Measured]:
    """The Sinkhorn divergence, unrooted as the field writes it."""
    result = _within_memory(scoring.sinkhorn, real, fake, scoring).solve(real, fake)
    estimate = None
    if scoring.interval:
        estimate = transport_estimate(result, scoring.sinkhorn.order, rooted=False)
    return _measure_transport(result, result.cost, estimate)


def _measure_frechet(real: Tensor, fake: Tensor, scoring: Scoring, whole: bool) -> list[Measured]:
    """|m - n|^2 + tr(A + B - 2 (AB)^1/2)."""
    pair = gaussian_pair(real, fake)
    estimate = frechet_estimate(real, fake, pair) if scoring.interval else None
    return [Measured(float(pair.distance), estimate=estimate)]


def _measure_kernel(real: Tensor, fake: Tensor, scoring: Scoring, whole: bool) -> list[Measured]:
    """Unbiased polynomial MMD^2."""
    if not scoring.interval:
        return [Measured(float(kernel_distance(real, fake)))]
    sums = kernel_sums(real, fake)
    return [Measured(float(sums.value), estimate=kernel_estimate(sums))]


def _measure_manifold(real: Tensor, fake: Tensor, scoring: Scoring, whole: bool) -> list[Measured]:
    """Precision, recall, density and coverage."""
    k = scoring.num_neighbors
    values = [float(value) for value in manifold_scores(real, fake, num_neighbors=k)]
    if not (scoring.interval and whole):  # parts of floors take as long as the score again
        return [Measured(value) for value in values]
    estimates = manifold_estimates(real, fake, k, values, scoring.seed, scoring.over)
    return [
        Measured(value, estimate=estimate)
        for value, estimate in zip(values, estimates, strict=True)
    ]


_FAMILIES = (
    Family(("sliced_wasserstein",), _measure_sliced),
    Family(("wasserstein",), _measure_exact, "exact_max"),
    Family(("sinkhorn_divergence",), _measure_sinkhorn, "sinkhorn_max"),
    Family(("frechet_distance",), _measure_frechet),
    Family(("kernel_distance",), _measure_kernel, "pairs_max"),
    Family(MANIFOLD, _measure_manifold, "pairs_max"),
)


def families_of(scoring: Scoring) -> list[Family]:
    """What has to be computed for the scores that were asked for, in the order of reports."""
    return [family for family in _FAMILIES if set(family.names) & set(scoring.metrics)]
