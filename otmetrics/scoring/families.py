"""The scores: their names, their options, and which of them are computed together."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import NamedTuple, TypeVar

from torch import Tensor

from otmetrics.checks import check_at_least, check_device, check_positive, check_seed
from otmetrics.errors import unconverged_untold
from otmetrics.functional import kernel_distance, manifold_scores
from otmetrics.machine import memory_budget
from otmetrics.scoring.mapped import transform_rows
from otmetrics.statistics.frechet import frechet_in_float64
from otmetrics.transport.costs import BLOCK_ELEMENTS
from otmetrics.transport.exact.exact import Exact
from otmetrics.transport.result import TransportResult
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
from otmetrics.transport.sliced.sliced import Sliced, far_centre
from otmetrics.transport.sliced.slices import CHUNK_ELEMENTS, PRODUCT_ELEMENTS
from otmetrics.unknown_options import ToldOptions

_Solver = TypeVar("_Solver", Exact, Sinkhorn)

METRICS = (
    "sliced_wasserstein",
    "wasserstein",
    "sinkhorn_divergence",
    "frechet_distance",
    "kernel_distance",
    "precision",
    "recall",
    "density",
    "coverage",
)
"""Every score, in the order in which reports show them."""


@dataclass(frozen=True)
class Scoring(ToldOptions):
    """What to compute on the features.

    Attributes:
        metrics: Names among `METRICS`, in any order.
        sliced: Solver of `sliced_wasserstein`; a debiased one makes it SW_2^2, in squared units.
        exact: Solver of `wasserstein`.
        sinkhorn: Solver of `sinkhorn_divergence`.
        num_neighbors: k of precision, recall, density and coverage.
        exact_max: Most samples a side for the exact distance; more are subsampled.
        sinkhorn_max: The same for the Sinkhorn divergence.
        pairs_max: The same for the scores of all pairs of samples: kernel distance, precision,
            recall, density and coverage.
        memory_limit: Bytes that a score may take beside the features; None for half of the memory
            of the device. Parts of large features go to files that are mapped; a solver's own limit
            goes before this one.
        floor: Whether to compute noise floors.
        seed: Seed of all subsampling.
        device: Where the maths runs: "cpu", "cuda" or "cuda:i".

    Raises:
        ValueError: If an option breaks its rule.
    """

    metrics: tuple[str, ...] = METRICS
    sliced: Sliced = Sliced()
    exact: Exact = Exact()
    sinkhorn: Sinkhorn = Sinkhorn()
    num_neighbors: int = 5
    exact_max: int = 10_000
    sinkhorn_max: int = 10_000
    pairs_max: int = 50_000
    memory_limit: float | None = None
    floor: bool = True
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if isinstance(self.metrics, str):
            raise ValueError(f"`metrics` must be a tuple of names, got {self.metrics!r}.")
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics:
            close = [name for word in unknown for name in get_close_matches(word, METRICS, n=1)]
            hint = f" Did you mean {', '.join(close)}?" if close else ""
            raise ValueError(
                f"`metrics` must be among {', '.join(METRICS)}; got {', '.join(unknown) or 'none'}."
                + hint
            )
        check_at_least("num_neighbors", self.num_neighbors, 1)
        check_at_least("exact_max", self.exact_max, 2)
        check_at_least("sinkhorn_max", self.sinkhorn_max, 2)
        check_at_least("pairs_max", self.pairs_max, 2)
        if self.pairs_max < least_samples(self):
            raise ValueError(
                f"`pairs_max` must be larger than `num_neighbors`, {self.num_neighbors}, for "
                f"precision, recall, density and coverage, got {self.pairs_max}."
            )
        if self.memory_limit is not None:
            check_positive("memory_limit", self.memory_limit)
        check_seed(self.seed)
        check_device(self.device)


class Measured(NamedTuple):
    """One number as its function gave it."""

    value: float
    standard_error: float | None = None
    converged: bool = True
    message: str = ""


class Family(NamedTuple):
    """Scores that are computed together.

    `limit` names the option that bounds the samples a side, `least` the fewest that it takes;
    `working_bytes` of n samples a side in D dimensions is what it takes beside the features, with
    parts drawn from them where there is a limit.
    """

    names: tuple[str, ...]
    measure: Callable[[Tensor, Tensor, Scoring], list[Measured]]
    working_bytes: Callable[[int, int, Scoring], float]
    limit: str | None = None
    least: Callable[[Scoring], int] = lambda scoring: 2

    def most(self, scoring: Scoring) -> float:
        """Most samples a side."""
        return float("inf") if self.limit is None else getattr(scoring, self.limit)

    def part_bytes(self, num: int, cloud: Tensor, scoring: Scoring) -> float:
        """Bytes of a part of clouds of so many samples that stays in memory; more go to a file."""
        budget = memory_budget(cloud.device, scoring.memory_limit)
        if self.limit is not None:
            return budget
        return max(0.0, budget - self.working_bytes(num, cloud.shape[1], scoring)) / 4

    def compute(self, real: Tensor, fake: Tensor, scoring: Scoring) -> list[Measured]:
        """The scores of two clouds, of which few enough samples go through in float64."""
        if self.limit is not None:
            real, fake = real.double(), fake.double()
        return self.measure(real, fake, scoring)


def _sliced_bytes(size: int, dimension: int, scoring: Scoring) -> float:
    """Projections by one product, those of a chunk of directions sorted and merged, directions."""
    solver = scoring.sliced
    num = solver.num_projections if solver.tolerance is None else solver.max_projections
    values = 2 * size * num
    chunk = 64.0 * max(min(CHUNK_ELEMENTS, values), 2 * size)
    return chunk + 8.0 * min(PRODUCT_ELEMENTS, values) + 32.0 * num * dimension


def _frechet_bytes(size: int, dimension: int, scoring: Scoring) -> float:
    """A block of rows, its factors, and the product of those of both sides."""
    return 192.0 * dimension**2


def _costs_bytes(size: int, dimension: int, scoring: Scoring) -> float:
    """Clouds in float64 and blocks of costs, where none are kept."""
    return 48.0 * size * dimension + 96.0 * min(BLOCK_ELEMENTS, size**2)


def _pairs_bytes(size: int, dimension: int, scoring: Scoring) -> float:
    """Clouds in float64, moved, and what is asked of a block of pairs."""
    return 48.0 * size * dimension + 64.0 * min(BLOCK_ELEMENTS, size**2)


def _limit_memory(solver: _Solver, real: Tensor, fake: Tensor, scoring: Scoring) -> _Solver:
    """A solver that keeps to the memory of the scores, unless it has a limit of its own."""
    if scoring.memory_limit is None or solver.memory_limit is not None:
        return solver
    size = max(len(real), len(fake))
    rest = scoring.memory_limit - _costs_bytes(size, real.shape[1], scoring)
    return replace(solver, memory_limit=max(1.0, rest))


def _solve_quietly(
    solver: Sliced | Exact | Sinkhorn, real: Tensor, fake: Tensor
) -> TransportResult:
    """A solver's result; the score keeps the state that the solver would warn about."""
    with unconverged_untold():
        return solver.solve(real, fake)


def _measure_transport(result: TransportResult, value: Tensor) -> list[Measured]:
    """A solver's value with its error and state."""
    error = None if result.standard_error is None else float(result.standard_error)
    return [Measured(float(value), error, result.converged, result.message)]


def _measure_sliced(real: Tensor, fake: Tensor, scoring: Scoring) -> list[Measured]:
    """SW_p with its Monte-Carlo error; debiased SW_2^2, whose mean over samples is right."""
    centre = far_centre(real, fake)
    if centre is not None:  # moved here, as the solver would in memory
        num = max(len(real), len(fake))
        limit = SLICED.part_bytes(num, real, scoring)
        real, fake = (
            transform_rows(cloud, lambda rows: rows - centre, cloud.dtype, limit)
            for cloud in (real, fake)
        )
    result = _solve_quietly(scoring.sliced, real, fake)
    if scoring.sliced.debiased:
        return [_measure_debiased(result)]
    return _measure_transport(result, result.value)


def _measure_debiased(result: TransportResult) -> Measured:
    """The cost, with the error that the delta method turned into one of its root."""
    value, error = float(result.value), result.standard_error
    spread = None if error is None else 2 * abs(value) * float(error)
    return Measured(float(result.cost), spread, result.converged, result.message)


def _exact(real: Tensor, fake: Tensor, scoring: Scoring) -> list[Measured]:
    """W_p."""
    result = _solve_quietly(_limit_memory(scoring.exact, real, fake, scoring), real, fake)
    return _measure_transport(result, result.value)


def _sinkhorn(real: Tensor, fake: Tensor, scoring: Scoring) -> list[Measured]:
    """The Sinkhorn divergence, unrooted as the field writes it."""
    result = _solve_quietly(_limit_memory(scoring.sinkhorn, real, fake, scoring), real, fake)
    return _measure_transport(result, result.cost)


def _frechet(real: Tensor, fake: Tensor, scoring: Scoring) -> list[Measured]:
    """Fréchet distance."""
    return [Measured(float(frechet_in_float64(real, fake)))]


def _kernel(real: Tensor, fake: Tensor, scoring: Scoring) -> list[Measured]:
    """Unbiased polynomial MMD^2."""
    return [Measured(float(kernel_distance(real, fake)))]


def _manifold(real: Tensor, fake: Tensor, scoring: Scoring) -> list[Measured]:
    """Precision, recall, density and coverage."""
    scores = manifold_scores(real, fake, num_neighbors=scoring.num_neighbors)
    return [Measured(float(value)) for value in scores]


SLICED = Family(("sliced_wasserstein",), _measure_sliced, _sliced_bytes)
FAMILIES = (
    SLICED,
    Family(("wasserstein",), _exact, _costs_bytes, "exact_max"),
    Family(("sinkhorn_divergence",), _sinkhorn, _costs_bytes, "sinkhorn_max"),
    Family(("frechet_distance",), _frechet, _frechet_bytes),
    Family(("kernel_distance",), _kernel, _pairs_bytes, "pairs_max"),
    Family(
        ("precision", "recall", "density", "coverage"),
        _manifold,
        _pairs_bytes,
        "pairs_max",
        least=lambda scoring: scoring.num_neighbors + 1,
    ),
)


def families_of(scoring: Scoring) -> list[Family]:
    """What has to be computed for the scores that were asked for.

    Args:
        scoring: The options.

    Returns:
        Families with a score among `scoring.metrics`, in the order of reports.
    """
    return [family for family in FAMILIES if set(family.names) & set(scoring.metrics)]


def least_samples(scoring: Scoring) -> int:
    """The fewest samples a side for the scores that were asked for.

    Args:
        scoring: The options.

    Returns:
        2, or one more than the neighbours that a score looks at.
    """
    return max(family.least(scoring) for family in families_of(scoring))
