"""Features once, then every score, its noise floor, and the protocol that makes it repeatable."""

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.checks import as_tensor, checked_cloud
from otmetrics.errors import Argument, DataError, Message, OptionError, unconverged_untold
from otmetrics.scoring.extraction import Progress, features_of, open_inputs
from otmetrics.scoring.families import Family, Measured, families_of, mapped_above
from otmetrics.scoring.feature_set import FeatureSet, check_comparable
from otmetrics.scoring.inventory import differences
from otmetrics.scoring.mapped import rows_of, transform_rows
from otmetrics.scoring.options import METRICS, Extraction, Scoring
from otmetrics.scoring.ranks import ALONE, Ranks
from otmetrics.scoring.report import Floor, Score, ScoreReport
from otmetrics.statistics.frechet import gaussian_distance, merged_moments, moments
from otmetrics.unknown_options import told_options

_ROWS_AT_A_TIME = 4096
_DECISIVE = ("otmetrics", "torch", "numpy", "scipy", "POT", "timm", "pillow")
# The comparisons behind a score, by what their messages begin with.
_WHOLE, _FLOOR, _AT_FLOOR_SIZE = "", "floor: ", "at the size of the floor: "
_IN_MEMORY = (
    "images in memory become features by `otmetrics.load_extractor(name)(images)`, or are scored "
    "by the metrics, such as `otmetrics.WassersteinFeatureDistance`"
)

Sets = dict[str, FeatureSet]
"""The inputs of a comparison by their names: real, fake and perhaps floor_with."""


@told_options
def score(
    real: str | Path,
    fake: str | Path,
    *,
    floor_with: str | Path | None = None,
    extraction: Extraction = Extraction(),
    scoring: Scoring = Scoring(),
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> ScoreReport:
    """Score fake samples against real ones, from folders or files.

    Args:
        real: Folder of images, or `.npy`/`.npz` file of images or features.
        fake: The same.
        floor_with: More real samples; the floor then compares `real` with these instead of two
            halves of `real`.
        extraction: How to turn the inputs into features.
        scoring: What to compute on them.
        progress: Called with a task's name, the steps done and the steps in all.
        ranks: The processes that share the extraction of features; all of them call this alike.

    Returns:
        The report; on all processes but the first an empty one, as soon as their features are
        handed over.

    Raises:
        DataError: If an input cannot be read, is too small or does not compare with the others, or
            a process fails or is missed.
        OptionError: If an option does not fit the inputs.
        TypeError: If an input is not a path.
    """
    paths = [real, fake] if floor_with is None else [real, fake, floor_with]
    if not all(isinstance(path, (str, Path)) for path in paths):
        raise TypeError(
            f"`score` takes paths; `score_features` takes features in memory; {_IN_MEMORY}."
        )
    if floor_with is not None:
        _check_floor_with(real, fake, floor_with, scoring)
    ranks = ranks or ALONE

    began = time.perf_counter()
    inputs = open_inputs(paths, extraction)
    # Before the first image is read, which may be hours before the scores.
    for one in inputs:
        if one.is_statistics or one.has_both:
            _check_statistics(one.path, one.has_both, scoring)
    found = features_of(inputs, extraction, scoring.need, progress, ranks)
    if not ranks.first:
        return ScoreReport({}, {})

    # The other processes end, and leave their cores to this one.
    if ranks.world > 1:
        torch.set_num_threads(max(torch.get_num_threads(), os.cpu_count() or 1))
    seconds = {"features": time.perf_counter() - began}
    protocol = {"num": extraction.num, "extraction_seed": extraction.seed}
    sets = dict(zip(("real", "fake", "floor_with"), found, strict=False))
    report = _score_sets(sets, scoring, protocol, progress)
    return replace(report, seconds=seconds | report.seconds)


@told_options
def score_features(
    real: FeatureSet | Tensor | np.ndarray,
    fake: FeatureSet | Tensor | np.ndarray,
    floor_with: FeatureSet | Tensor | np.ndarray | None = None,
    *,
    scoring: Scoring = Scoring(),
    protocol: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> ScoreReport:
    """Score features that are in memory or mapped from files.

    Sums, costs and moments are in float64; directions of the sliced distance are in the dtype of
    the features.

    Next to each score stands its floor: the same score between two disjoint random parts of the
    real samples, of h = min(N // 2, M) each, at most as many as the score takes (or between real
    and `floor_with`, of the smallest size of the three), and the score itself on h samples per
    side, since transport distances depend on the sample size. Takes the time of the solvers, three
    times it with floors. Solvers keep to `scoring.memory_limit` next to the features.

    Args:
        real: Feature set, or (N, D) tensor or array.
        fake: Feature set, or (M, D) tensor or array.
        floor_with: More real samples for the floor.
        scoring: What to compute.
        protocol: More entries for the report's protocol.
        progress: Called with a task's name, the steps done and the steps in all.

    Returns:
        The report.

    Raises:
        DataError: If a side has too few samples or values that cannot be scored, or the sets do
            not compare.
    """
    given = {"real": real, "fake": fake, "floor_with": floor_with}
    sets = {name: _as_set(name, item) for name, item in given.items() if item is not None}
    check_comparable(list(sets.values()), "none")
    return _score_sets(sets, scoring, protocol or {}, progress)


def _score_sets(
    sets: Sets, scoring: Scoring, protocol: dict[str, Any], progress: Progress | None
) -> ScoreReport:
    """Score feature sets that compare."""
    if any(item.moments is not None for item in sets.values()):
        return _score_moments(sets, scoring, protocol)
    draws = _Draws(_clouds_of(sets, scoring), scoring)
    families = families_of(scoring)
    scores: dict[str, Score] = {}
    seconds: dict[str, float] = {}

    # The scores keep what the solvers would warn about.
    with unconverged_untold():
        for done, family in enumerate(families):
            if progress is not None:
                progress(f"scores: {family.names[0]}", done, len(families))
            began = time.perf_counter()
            measured: dict[str, list[Measured]] = {}
            sizes: dict[str, tuple[int, int]] = {}
            for part, real_part, fake_part in _comparisons(family, draws, scoring):
                sizes[part] = len(real_part), len(fake_part)
                measured[part] = family.measure(real_part, fake_part, scoring)
                # Two comparisons at once would take twice the memory.
                del real_part, fake_part
            scores |= _assemble_scores(family, measured, sizes)
            seconds[family.names[0]] = time.perf_counter() - began
    if progress is not None:
        progress("scores: done", len(families), len(families))

    # A family computes all of its scores, of which some may not have been asked for.
    scores = {name: scores[name] for name in METRICS if name in scoring.metrics}
    record = _protocol(sets, scoring) | protocol
    return ScoreReport(scores, record, _notes(sets, scores, scoring), seconds)


def _clouds_of(sets: Sets, scoring: Scoring) -> dict[str, Tensor]:
    """Features of all sets, checked, in one dtype and where they are scored."""
    dtype = _common_dtype(sets)
    clouds = {}
    for name, item in sets.items():
        cloud = item.features
        if cloud.dtype != dtype:
            limit = mapped_above(cloud, scoring)
            cloud = transform_rows(cloud, lambda rows: rows, dtype, limit)
        clouds[name] = cloud.to(scoring.device)
    _check_clouds(clouds, sets, scoring)
    return clouds


def _common_dtype(sets: Sets) -> torch.dtype:
    """What holds the features of all sets, float32 at least."""
    return reduce(torch.promote_types, (s.features.dtype for s in sets.values()), torch.float32)


class _Draws:
    """Seeded subsamples, the same for every score: the first h of one random order per cloud.

    Each comes in the order of its cloud, so that a file is read from beginning to end.
    """

    def __init__(self, clouds: dict[str, Tensor], scoring: Scoring) -> None:
        generator = torch.Generator().manual_seed(scoring.seed)
        self.clouds = clouds
        self._limit = mapped_above(clouds["real"], scoring)
        self._orders = {
            name: torch.randperm(len(cloud), generator=generator).to(cloud.device)
            for name, cloud in clouds.items()
        }

    def at_most(self, name: str, size: float) -> Tensor:
        """A cloud whole, or that many of its samples."""
        cloud = self.clouds[name]
        return cloud if size >= len(cloud) else self._rows(name, slice(int(size)))

    def floor_size(self, most: float) -> int:
        """Samples per side of the floor."""
        # Two disjoint parts of real, compared at the size of fake too: all three have one size.
        available = [len(cloud) for cloud in self.clouds.values()]
        if "floor_with" not in self.clouds:
            available[0] //= 2
        return int(min(*available, most))

    def other_real(self, size: int) -> Tensor:
        """Real samples that `at_most("real", size)` does not hold."""
        if "floor_with" in self.clouds:
            return self.at_most("floor_with", size)
        return self._rows("real", slice(-size, None))

    def _rows(self, name: str, part: slice) -> Tensor:
        """A part of the random order of a cloud."""
        return rows_of(self.clouds[name], self._orders[name][part].sort().values, self._limit)


def _comparisons(
    family: Family, draws: _Draws, scoring: Scoring
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What a family measures: real and fake samples, then those of its floor, if it has one.

    One comparison at a time, named by what its messages begin with.
    """
    # What a limit bounds is small enough to go through in float64.
    widen = Tensor.double if family.limit else lambda cloud: cloud
    most = family.most(scoring)
    sizes = tuple(min(len(draws.clouds[name]), most) for name in ("real", "fake"))
    yield _WHOLE, widen(draws.at_most("real", most)), widen(draws.at_most("fake", most))

    size = draws.floor_size(most)
    if not scoring.floor or size < family.least(scoring):
        return
    real = widen(draws.at_most("real", size))
    yield _FLOOR, real, widen(draws.other_real(size))
    # Where both sides have the size of the floor already, the first comparison is this one too.
    if sizes != (size, size):
        yield _AT_FLOOR_SIZE, real, widen(draws.at_most("fake", size))


def _assemble_scores(
    family: Family, measured: dict[str, list[Measured]], sizes: dict[str, tuple[int, int]]
) -> dict[str, Score]:
    """The scores of a family from its one to three comparisons."""
    scores = {}
    for index, name in enumerate(family.names):
        parts = {part: values[index] for part, values in measured.items()}
        value = parts[_WHOLE]
        floor = None
        if _FLOOR in parts:
            noise, at = parts[_FLOOR], parts.get(_AT_FLOOR_SIZE, value)
            converged = noise.converged and at.converged
            floor = Floor(noise.value, sizes[_FLOOR][0], at.value, converged)

        unconverged = (part + found.message for part, found in parts.items() if not found.converged)
        scores[name] = Score(
            value=value.value,
            sizes=sizes[_WHOLE],
            standard_error=value.standard_error,
            converged=value.converged,
            message=next(unconverged, value.message),
            floor=floor,
        )
    return scores


def _score_moments(sets: Sets, scoring: Scoring, protocol: dict[str, Any]) -> ScoreReport:
    """The Fréchet distance where a side is a mean and covariance, which has no floor."""
    for item in sets.values():
        if item.moments is not None:
            _check_statistics(item.source["path"], False, scoring)

    began = time.perf_counter()
    clouds = {name: item.features for name, item in sets.items() if item.moments is None}
    _check_clouds(clouds, sets, scoring)
    gaussians = [_moments_of(sets[name]) for name in ("real", "fake")]
    value = float(gaussian_distance(*gaussians[0], *gaussians[1]))
    scores = {"frechet_distance": Score(value, (len(sets["real"]), len(sets["fake"])))}

    record = _protocol(sets, scoring) | protocol
    # The note on missing floors speaks of too few samples, which is not the reason here.
    notes = _notes(sets, scores, replace(scoring, floor=False))
    if scoring.floor:
        notes.append("no floor: a mean and covariance have no parts to compare; give samples")
    return ScoreReport(scores, record, notes, {"frechet_distance": time.perf_counter() - began})


def _moments_of(item: FeatureSet) -> tuple[Tensor, Tensor]:
    """Mean and covariance in float64."""
    if item.moments is not None:
        return item.moments
    # In parts, which float64 makes twice as large: features may be mapped from a file.
    found = reduce(merged_moments, map(moments, item.features.split(_ROWS_AT_A_TIME)))
    return found.mean, found.covariance


def _check_statistics(path: str, has_samples: bool, scoring: Scoring) -> None:
    """Raise where a score needs samples and there is a mean and covariance, or the reverse."""
    metrics = Argument("metrics", "scoring=Scoring(metrics=...)")
    if has_samples and "frechet_distance" in scoring.metrics:
        # The file of a reference batch: its images are a part of what mu and sigma speak of.
        raise DataError(
            f"`{path}` holds samples and the mean and covariance (mu, sigma) of other samples, so "
            "frechet_distance has two answers: save mu and sigma, or the samples, alone, or leave "
            "frechet_distance out of ",
            metrics,
            ".",
        )

    if not has_samples and set(scoring.metrics) != {"frechet_distance"}:
        raise DataError(
            f"`{path}` holds a mean and covariance (mu, sigma), from which only frechet_distance "
            "can be computed: ask for it alone with ",
            metrics,
            ", or give the samples.",
        )


def _check_clouds(clouds: dict[str, Tensor], sets: Sets, scoring: Scoring) -> None:
    """Raise before the first score where any of them would."""
    # The cubic kernel takes sixth powers, which no other score at a usual order exceeds.
    order = max(6.0, scoring.sliced.order, scoring.exact.order, scoring.sinkhorn.order)
    for name, cloud in clouds.items():
        path = sets[name].source["path"]
        scoring.need.check(path, len(cloud))
        try:
            checked_cloud(path, cloud, order=order)
        except ValueError as error:
            raise DataError(str(error)) from error


def _check_floor_with(
    real: str | Path, fake: str | Path, other: str | Path, scoring: Scoring
) -> None:
    """Raise where more real samples are of no use."""
    floor_with = Argument("floor_with")
    if not scoring.floor:
        raise OptionError(floor_with, " needs a floor, so ", Argument("floor"), " must be on.")
    for path in (real, fake):
        if Path(other).resolve() == Path(path).resolve():
            raise OptionError(floor_with, f" must hold samples other than those of `{path}`.")


def _as_set(name: str, item: FeatureSet | Tensor | np.ndarray) -> FeatureSet:
    """Feature set of a bare tensor or array."""
    if isinstance(item, FeatureSet):
        return item
    item = as_tensor(name, item)
    if item.ndim != 2 or len(item) < 2 or not item.is_floating_point():
        raise DataError(
            f"`{name}` must be floating features (N, D) with N >= 2, got {item.dtype} "
            f"{tuple(item.shape)}" + (f"; {_IN_MEMORY}." if item.ndim == 4 else ".")
        )

    # The path stands for the argument in notes and errors; no file has it.
    source = {"path": f"<{name}>", "kind": "tensor", "available": len(item), "used": len(item)}
    return FeatureSet(item.detach(), {"extractor": "none"}, source)


def _protocol(sets: Sets, scoring: Scoring) -> dict[str, Any]:
    """Everything that the numbers depend on."""
    options = asdict(scoring)
    del options["memory_limit"]  # no number depends on it, but for the last bits of blocked sums

    # A mean and covariance do not say what network made them; what they are compared with may.
    known = next((item for item in sets.values() if item.moments is None), sets["real"])
    return {
        "inputs": {name: item.source for name, item in sets.items()},
        "features": known.extractor | {"dimension": known.features.shape[1]},
        "scoring": options | {"metrics": [name for name in METRICS if name in scoring.metrics]},
        "dtype": {"scores": "float64", "projections": str(_common_dtype(sets))[6:]},
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in _DECISIVE},
    }


def _notes(sets: Sets, scores: dict[str, Score], scoring: Scoring) -> list[str]:
    """What a reader of the numbers should know."""
    notes = [f"{name}: {line}" for name, item in sets.items() for line in item.notes]
    notes += differences({name: item.source for name, item in sets.items()})

    for family in families_of(scoring):
        most = family.most(scoring)
        if max(len(sets["real"]), len(sets["fake"])) > most:
            notes.append(
                Message(
                    f"{family.names[0]} uses {most} samples per side at most, drawn at random; ",
                    Argument(family.limit),
                    " changes it",
                )
            )

    if scoring.floor and any(score.floor is None for score in scores.values()):
        notes.append(
            "some floors are missing: each of the two real parts needs at least "
            f"{scoring.need.samples} samples"
        )
    return notes
