"""Scores of all samples where only a part of them is at hand: from moments and histograms."""

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.errors import Argument, DataError
from otmetrics.inference.estimates import frechet_estimate, sliced_estimate
from otmetrics.inference.intervals import Estimate
from otmetrics.scoring.assembly import inferred
from otmetrics.scoring.clouds import Sets
from otmetrics.scoring.families import Family, Measured, near_origin
from otmetrics.scoring.feature_set import FEATURES, FeatureSet
from otmetrics.scoring.options import MANIFOLD, METRICS, Scoring
from otmetrics.scoring.report import Score, listed
from otmetrics.statistics.frechet import (
    GaussianPair,
    gaussian_of_moments,
    merged_moments,
    moments,
    paired,
)
from otmetrics.summaries.keeping import Keeping
from otmetrics.summaries.summary import Summary
from otmetrics.transport.sliced.directions import block_size
from otmetrics.transport.sliced.sketch import Sketch, merged_sketches, sketched_result
from otmetrics.transport.sliced.sliced import controls_of_moments

_ROWS_AT_A_TIME = 4096
_FEWEST = 4  # samples at hand, of which effects come
_OF = "of histograms"
_METRICS = Argument("metrics", "scoring=Scoring(metrics=...)")


class Sides(NamedTuple):
    """Both sides of a comparison, and what is at hand of them; a side at least is summarised.

    Attributes:
        real: The real side.
        fake: The fake side.
        rows: Their samples at hand, (n, D) and (m, D), on the CPU.
    """

    real: FeatureSet
    fake: FeatureSet
    rows: tuple[Tensor, Tensor]

    @property
    def sizes(self) -> tuple[int, int] | None:
        """Samples that the sides stand for; None where a file does not say."""
        real, fake = self.real.count, self.fake.count
        return None if real is None or fake is None else (real, fake)

    @property
    def fewest(self) -> int:
        """Samples at hand of the side that has fewer."""
        return min(map(len, self.rows))


def sides_of(sets: Sets) -> Sides:
    """Both sides of a comparison, with what is at hand of them."""
    real, fake = sets["real"], sets["fake"]
    return Sides(real, fake, (real.features.cpu(), fake.features.cpu()))


def counts(sets: Sets) -> tuple[int, int]:
    """Samples that both sides stand for; 0 where a file does not say."""
    return sets["real"].count or 0, sets["fake"].count or 0


def measure_of_all(family: Family, sets: Sets, scoring: Scoring) -> Measured | None:
    """A score of all samples, where a side is summarised and what is kept of it tells the score."""
    measure = _OF_ALL.get(family.names[0])
    sides = sides_of(sets)
    if measure is None or (sides.real.summary is None and sides.fake.summary is None):
        return None
    return measure(sides, scoring)


def check_dimensions(sets: Sets, scoring: Scoring) -> None:
    """Raise where a Fréchet distance needs statistics that are of another network's features."""
    if "frechet_distance" not in scoring.metrics:
        return
    for item in sets.values():
        if item.summary is not None and item.summary.dimension != item.features.shape[1]:
            raise DataError(
                f"`{item.source['path']}` holds a mean and covariance of {item.summary.dimension} "
                f"features, but its samples have {item.features.shape[1]} by "
                f"`{item.extractor['extractor']}`: name the network of the statistics with ",
                FEATURES,
                ", or leave frechet_distance out of ",
                _METRICS,
                ".",
            )


def whole_sizes(family: Family, sets: Sets, scoring: Scoring) -> tuple[float, float]:
    """How many samples a family takes of the real and of the fake side.

    What neighbours say depends on how many there are of either side: of summaries they take so many
    that both are in the proportion that all samples would be in.
    """
    most = family.most(scoring)
    sides = sets["real"], sets["fake"]
    counts = [item.count for item in sides]
    if family.names != MANIFOLD or all(item.summary is None for item in sides) or None in counts:
        return most, most
    wanted = [min(count, most) for count in counts if count is not None]
    share = min(len(item) / size for item, size in zip(sides, wanted, strict=True))
    least = family.least(scoring)
    real, fake = (max(least, round(share * size)) for size in wanted)
    return real, fake


def scores_without_samples(sets: Sets, scoring: Scoring) -> dict[str, Score]:
    """The scores where no samples of a side are at hand."""
    for item in sets.values():
        if item.summary is not None and not len(item):
            check_scores_of_summary(item.source["path"], item.summary, scoring)
    scores = {}
    for name in (name for name in METRICS if name in scoring.metrics):
        found = _OF_ALL[name](sides_of(sets), scoring)
        if found is None:
            raise _along_others(sets)
        scores[name] = Score(
            found.value,
            counts(sets),
            found.standard_error,
            message=found.message,
            **inferred(found, scoring),
        )
    return scores


def _along_others(sets: Sets) -> DataError:
    """What is said where histograms are all there is, and not those of the score."""
    path = next(item.source["path"] for item in sets.values() if not len(item))
    return DataError(
        f"`{path}` has histograms along other directions than those of the score: give ",
        Argument("num_projections"),
        " and ",
        Argument("seed"),
        " that it was made with, and neither a tolerance nor debiased, or leave sliced_wasserstein "
        "out of ",
        _METRICS,
        ".",
    )


def check_scores_of_summary(path: str, summary: Summary | None, scoring: Scoring) -> None:
    """Raise where a score needs samples, and a file keeps none."""
    known = ["frechet_distance"]
    if summary is not None and summary.sketch is not None:
        known = ["sliced_wasserstein", *known]
    if not set(scoring.metrics) <= set(known):
        raise _beyond(path, known)


def _beyond(path: str, known: list[str]) -> DataError:
    """What is said where a score cannot be told."""
    return DataError(
        f"`{path}` holds no samples, so only {' and '.join(known)} can be computed: ask for "
        f"{'it' if len(known) == 1 else 'them'} alone with ",
        _METRICS,
        ", or give samples, or a summary that keeps some.",
    )


def summary_notes(sets: Sets, scores: dict[str, Score], scoring: Scoring) -> list[str]:
    """What scores take of summaries."""
    if all(item.summary is None for item in sets.values()):
        return []
    notes = []
    all_of_them = counts(sets)
    whole = [name for name, one in scores.items() if name in _OF_ALL and one.sizes == all_of_them]
    others = [name for name in scores if name not in whole]
    if whole:
        line = f"{listed(whole)} {'is' if len(whole) == 1 else 'are'} of all samples"
        notes.append(line + (", all else of those at hand" if others else ""))
    if scoring.per_class:
        notes.append("the scores of each class are of the samples at hand")
    notes += [
        f"{name} is {one.message}" for name, one in scores.items() if one.message.startswith(_OF)
    ]
    return notes


def measure_frechet(sides: Sides, scoring: Scoring) -> Measured:
    """The Fréchet distance of the moments; its error from the samples at hand."""
    pair = paired(*(gaussian_of_moments(*_moments(side)) for side in (sides.real, sides.fake)))
    estimate = _frechet_estimate(sides, pair, scoring) if scoring.interval else None
    return Measured(float(pair.distance), estimate=estimate)


def _frechet_estimate(sides: Sides, pair: GaussianPair, scoring: Scoring) -> Estimate | None:
    """What its interval is made of; None where too little is known of the samples."""
    if scoring.over == "fake":
        size = sides.fake.count
        if size is None or len(sides.rows[1]) < _FEWEST:
            return None
        # Of a real side that is fixed nothing has to be known but its moments.
        return frechet_estimate(None, sides.rows[1], pair, (1, size))
    if sides.sizes is None or sides.fewest < _FEWEST:
        return None
    return frechet_estimate(*sides.rows, pair, sides.sizes)


def _moments(side: FeatureSet) -> tuple[Tensor, Tensor]:
    """Mean and covariance in float64."""
    if side.summary is not None:
        if side.count is not None and side.count < 2:
            raise DataError(
                f"`{side.source['path']}` is of {side.count} sample(s): give 2 or more."
            )
        return side.summary.mean, side.summary.covariance
    # In parts, which float64 makes twice as large: features may be mapped from a file.
    found = reduce(merged_moments, map(moments, side.features.split(_ROWS_AT_A_TIME)))
    return found.mean, found.covariance


def measure_sliced(sides: Sides, scoring: Scoring) -> Measured | None:
    """SW_p of the histograms, and how far these may move it; None where they are not at hand."""
    solver = scoring.sliced
    keeping = Keeping(
        num_projections=solver.num_projections, orthogonal=solver.orthogonal, seed=solver.seed
    )
    if solver.debiased or solver.tolerance is not None:
        return None
    sketches = [_sketch(side, keeping) for side in (sides.real, sides.fake)]
    real, fake = sketches
    if real is None or fake is None:
        return None

    dimension = sides.real.features.shape[1]
    block = block_size(dimension, solver.num_projections, orthogonal=solver.orthogonal)
    rows = keeping.histograms.directions(dimension, torch.device("cpu"))
    controls = controls_of_moments(rows, [_moments(side) for side in (sides.real, sides.fake)])
    try:
        result = sketched_result(real, fake, solver.order, block=block, controls=controls)
    except ValueError as fault:  # of powers of values, of which no sample was looked at
        raise DataError(str(fault)) from fault
    value, error = float(result.value), result.standard_error
    assert result.lower_bound is not None
    assert result.upper_bound is not None
    ends = [float(end) for end in (result.lower_bound, result.upper_bound)]
    low, high = (end ** (1 / solver.order) for end in ends)
    estimate: Estimate | None = None
    if scoring.interval and sides.sizes is not None and sides.fewest >= _FEWEST:
        clouds = near_origin(*sides.rows, scoring)
        found = sliced_estimate(*clouds, solver, result, sides.sizes)
        # As if the cost were anywhere between its bounds, which is more than it is off by.
        estimate = found._replace(error=(ends[1] - ends[0]) / 12**0.5)
    return Measured(
        value,
        None if error is None else float(error),
        message=f"{_OF}: that of the samples lies between {low:.4g} and {high:.4g}",
        estimate=estimate,
    )


def _sketch(side: FeatureSet, keeping: Keeping) -> Sketch | None:
    """The histograms of a side along the directions of the solver."""
    if side.summary is None:
        return _sketched(side.features, keeping)
    own = side.summary.keeping
    names = ("num_projections", "orthogonal", "seed")
    alike = all(getattr(own, name) == getattr(keeping, name) for name in names)
    return side.summary.sketch if alike else None


def _sketched(features: Tensor, keeping: Keeping) -> Sketch:
    """Histograms of features that are at hand."""
    store = keeping.histograms
    blocks = (store.collect(store.of(rows)) for rows in features.split(_ROWS_AT_A_TIME))
    return reduce(merged_sketches, blocks)


_OF_ALL: dict[str, Callable[[Sides, Scoring], Measured | None]] = {
    "sliced_wasserstein": measure_sliced,
    "frechet_distance": measure_frechet,
}
