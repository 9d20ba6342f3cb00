"""Features once, then every score, its noise floor, and the protocol that makes it repeatable."""

import os
import platform
import time
from dataclasses import asdict, replace
from functools import partial, reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.checks import as_tensor, checked_clouds
from otmetrics.errors import DataError, OptionError
from otmetrics.machine import memory_budget
from otmetrics.scoring.extraction import Extraction, Progress, extracted
from otmetrics.scoring.families import (
    METRICS,
    Family,
    Measured,
    Scoring,
    families_of,
    least_samples,
)
from otmetrics.scoring.feature_set import FeatureSet, check_comparable
from otmetrics.scoring.inventory import differences
from otmetrics.scoring.mapped import rows_of, transform_rows
from otmetrics.scoring.ranks import ALONE, Ranks
from otmetrics.scoring.report import Floor, Score, ScoreReport
from otmetrics.statistics.frechet import gaussian_distance, merged_moments, moments
from otmetrics.unknown_options import told_options

_ROWS_AT_A_TIME = 4096
_DECISIVE = ("otmetrics", "torch", "numpy", "scipy", "POT", "timm", "pillow")


@told_options
def score(
    real: str | Path,
    fake: str | Path,
    *,
    floor_with: str | Path | None = None,
    extraction: Extraction = Extraction(),
    scoring: Scoring = Scoring(),
    progress: Progress | None = None,
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

    Returns:
        The report.

    Raises:
        DataError: If an input cannot be read, is too small or does not compare with the others.
        OptionError: If an option does not fit the inputs.
        TypeError: If an input is no path.
    """
    report = shared_score(
        real,
        fake,
        floor_with=floor_with,
        extraction=extraction,
        scoring=scoring,
        progress=progress,
    )
    assert report is not None
    return report


def shared_score(
    real: str | Path,
    fake: str | Path,
    *,
    floor_with: str | Path | None = None,
    extraction: Extraction = Extraction(),
    scoring: Scoring = Scoring(),
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> ScoreReport | None:
    """Score as `score` does, with several processes that share the extraction of features.

    Args:
        real: As for `score`.
        fake: As for `score`.
        floor_with: As for `score`.
        extraction: As for `score`.
        scoring: As for `score`.
        progress: As for `score`.
        ranks: The processes; all of them call this alike.

    Returns:
        On the first process the report of one process; on the others None, as soon as their
        features are handed over.

    Raises:
        DataError: As `score`, or if a process fails or is missed.
        OptionError: As `score`.
        TypeError: As `score`.
    """
    inputs = [real, fake] if floor_with is None else [real, fake, floor_with]
    if not all(isinstance(path, (str, Path)) for path in inputs):
        raise TypeError("`score` takes paths; `score_features` takes features in memory.")
    if floor_with is not None:
        _check_floor_with(real, fake, floor_with, scoring)
    began = time.perf_counter()
    least = least_samples(scoring)
    sets = extracted(
        list(inputs),
        extraction,
        at_least=least,
        check=partial(_check_before, scoring=scoring),
        progress=progress,
        ranks=ranks,
    )
    if not ranks.first:
        return None
    if ranks.world > 1:  # the others end, and leave their cores to this one
        torch.set_num_threads(max(torch.get_num_threads(), os.cpu_count() or 1))
    seconds = {"features": time.perf_counter() - began}
    protocol = {"num": extraction.num, "extraction_seed": extraction.seed}
    report = score_features(*sets, scoring=scoring, protocol=protocol, progress=progress)
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

    Beside each score stands its floor: the same score between two disjoint random parts of the real
    samples, of h = min(N // 2, M) each (or between real and `floor_with`, of the smallest size of
    the three), and the score itself on h samples a side, since transport distances depend on the
    sample size. Time is that of the functions called, three times where floors are asked for.
    Memory beside the features is bounded by `scoring.memory_limit`.

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
        OptionError: If a score does not fit `scoring.memory_limit`.
    """
    given = {"real": real, "fake": fake, "floor_with": floor_with}
    sets = {name: _as_set(name, item) for name, item in given.items() if item is not None}
    check_comparable(list(sets.values()), "none")
    if any(item.moments is not None for item in sets.values()):
        return _from_moments(sets, scoring, protocol or {})
    budget = memory_budget(torch.device(scoring.device), scoring.memory_limit)
    dtype = _common_dtype(sets)
    clouds = {
        name: transform_rows(item.features, lambda rows: rows, dtype, budget / 8)
        if item.features.dtype != dtype
        else item.features
        for name, item in sets.items()
    }
    clouds = {name: cloud.to(scoring.device) for name, cloud in clouds.items()}
    _check_clouds(clouds, sets, scoring)
    _check_memory(max(map(len, clouds.values())), clouds["real"].shape[1], scoring)
    draws = _Draws(clouds, scoring)
    families = families_of(scoring)
    scores: dict[str, Score] = {}
    seconds: dict[str, float] = {}
    for done, family in enumerate(families):
        if progress is not None:
            progress(f"scores: {family.names[0]}", done, len(families))
        began = time.perf_counter()
        scores |= _score_family(family, draws, scoring)
        seconds[family.names[0]] = time.perf_counter() - began
    if progress is not None:
        progress("scores: done", len(families), len(families))
    scores = {name: scores[name] for name in METRICS if name in scores and name in scoring.metrics}
    record = _protocol(sets, scoring) | (protocol or {})
    return ScoreReport(scores, record, _notes(sets, scores, scoring), seconds)


def _common_dtype(sets: dict[str, FeatureSet]) -> torch.dtype:
    """What holds the features of all sets, float32 at least."""
    return reduce(torch.promote_types, (s.features.dtype for s in sets.values()), torch.float32)


class _Draws:
    """Seeded subsamples, the same for every score: the first h of one random order per cloud.

    Each comes in the order of its cloud, so that a file is read from its begin to its end.
    """

    def __init__(self, clouds: dict[str, Tensor], scoring: Scoring) -> None:
        generator = torch.Generator().manual_seed(scoring.seed)
        self.clouds = clouds
        self.limit = 0.0  # bytes of a part that stays in memory
        self.orders = {
            name: torch.randperm(len(cloud), generator=generator).to(cloud.device)
            for name, cloud in clouds.items()
        }

    def at_most(self, name: str, size: float) -> Tensor:
        """A cloud whole, or that many of its samples."""
        cloud = self.clouds[name]
        if size >= len(cloud):
            return cloud
        return self._rows(cloud, self.orders[name][: int(size)])

    def floor_size(self, most: float) -> int:
        """Samples a side of the floor."""
        available = [len(cloud) for cloud in self.clouds.values()]
        if "floor_with" not in self.clouds:
            available[0] //= 2
        return int(min(*available, most))

    def other_real(self, size: int) -> Tensor:
        """Real samples that `at_most("real", size)` does not hold."""
        if "floor_with" in self.clouds:
            return self.at_most("floor_with", size)
        return self._rows(self.clouds["real"], self.orders["real"][-size:])

    def _rows(self, cloud: Tensor, rows: Tensor) -> Tensor:
        """Some rows in the order of the cloud."""
        return rows_of(cloud, rows.sort().values, self.limit)


def _score_family(family: Family, draws: _Draws, scoring: Scoring) -> dict[str, Score]:
    """All scores of a family, with their floors."""
    most, least = family.most(scoring), family.least(scoring)
    largest = max(map(len, draws.clouds.values()))
    draws.limit = family.part_bytes(largest, draws.clouds["real"], scoring)
    real, fake = (int(min(len(draws.clouds[name]), most)) for name in ("real", "fake"))
    sizes = real, fake
    values = family.compute(draws.at_most("real", most), draws.at_most("fake", most), scoring)
    size = draws.floor_size(most)
    floors: list[Measured | None] = [None] * len(values)
    at_size: list[Measured] = values
    if scoring.floor and size >= least:
        part = draws.at_most("real", size)
        floors = list(family.compute(part, draws.other_real(size), scoring))
        if sizes != (size, size):
            at_size = family.compute(part, draws.at_most("fake", size), scoring)
    items = zip(family.names, values, floors, at_size, strict=True)
    return {name: _assemble_score(sizes, size, one, floor, at) for name, one, floor, at in items}


def _check_clouds(clouds: dict[str, Tensor], sets: dict[str, FeatureSet], scoring: Scoring) -> None:
    """Raise before the first score where any of them would."""
    least = least_samples(scoring)
    # The cubic kernel takes sixth powers, which no other score at a usual order exceeds.
    order = max(6.0, scoring.sliced.order, scoring.exact.order, scoring.sinkhorn.order)
    for name, cloud in clouds.items():
        path = sets[name].source["path"]
        if len(cloud) < least:
            raise DataError(
                f"`{path}` gives {len(cloud)} samples, but these scores need at least {least} a "
                "side: give more, or ask for fewer scores with --metrics."
            )
        try:
            checked_clouds(cloud, cloud, order=order)
        except ValueError as error:
            raise DataError(str(error).replace("`real`", f"`{path}`", 1)) from error


def _check_before(
    num: int, dimension: int | None, statistics: dict[str, bool], scoring: Scoring
) -> None:
    """Raise before the first image is read where the scores cannot be had from the inputs."""
    _check_statistics(statistics, scoring)
    _check_memory(num, dimension, scoring)


def _check_statistics(statistics: dict[str, bool], scoring: Scoring) -> None:
    """Raise where a score needs samples and there is a mean and covariance, or the reverse."""
    for path, beside in statistics.items():
        if beside and "frechet_distance" in scoring.metrics:
            # The file of a reference batch: its images are a part of what mu and sigma speak of.
            raise DataError(
                f"`{path}` holds samples and the mean and covariance (mu, sigma) of other samples, "
                "so frechet_distance has two answers: save mu and sigma, or the samples, alone, or "
                "leave frechet_distance out of --metrics."
            )
        if not beside and set(scoring.metrics) != {"frechet_distance"}:
            raise DataError(
                f"`{path}` holds a mean and covariance (mu, sigma), from which only "
                "frechet_distance can be computed: pass --metrics frechet_distance, or give the "
                "samples."
            )


def _from_moments(
    sets: dict[str, FeatureSet], scoring: Scoring, protocol: dict[str, Any]
) -> ScoreReport:
    """The Fréchet distance where a side is a mean and covariance, which has no floor."""
    _check_statistics({s.source["path"]: False for s in sets.values() if s.moments}, scoring)
    began = time.perf_counter()
    clouds = {name: item.features for name, item in sets.items() if item.moments is None}
    _check_clouds(clouds, sets, scoring)
    gaussians = [_moments_of(sets[name]) for name in ("real", "fake")]
    value = float(gaussian_distance(*gaussians[0], *gaussians[1]))
    scores = {"frechet_distance": Score(value, (len(sets["real"]), len(sets["fake"])))}
    record = _protocol(sets, scoring) | protocol
    notes = _notes(sets, scores, replace(scoring, floor=False))
    if scoring.floor:
        notes.append("no floor: a mean and covariance have no parts to compare; give samples")
    return ScoreReport(scores, record, notes, {"frechet_distance": time.perf_counter() - began})


def _moments_of(item: FeatureSet) -> tuple[Tensor, Tensor]:
    """Mean and covariance in float64."""
    if item.moments is not None:
        return item.moments
    found = reduce(merged_moments, map(moments, item.features.split(_ROWS_AT_A_TIME)))
    return found.mean, found.covariance


def _check_memory(num: int, dimension: int | None, scoring: Scoring) -> None:
    """Raise where a score of so many samples cannot keep to the memory that it may take."""
    limit = scoring.memory_limit
    if limit is None:
        return
    for family in families_of(scoring):
        size = int(min(family.most(scoring), num))
        least = family.working_bytes(size, dimension or 1, scoring)
        if least > limit:
            lower = f", or lower `{family.limit}`" if family.limit else ""
            width = f" with {dimension} features" if dimension else ""
            times = f"{1.01 * least / limit:.2f} times"
            raise OptionError(
                f"{family.names[0]} of {size} samples a side{width} takes at least "
                f"{least / 1e9:.2f} GB beside the features, and `memory_limit` leaves it "
                f"{limit / 1e9:.2f} GB: raise it to {times} as much{lower}."
            )


def _assemble_score(
    sizes: tuple[int, int], size: int, value: Measured, floor: Measured | None, at: Measured
) -> Score:
    """One score from its up to three measurements."""
    parts = {"": value, "floor: ": floor, "at the size of the floor: ": at}
    messages = [
        where + part.message for where, part in parts.items() if part and not part.converged
    ]
    beside = None
    if floor is not None:
        beside = Floor(floor.value, size, at.value, floor.converged and at.converged)
    return Score(
        value=value.value,
        sizes=sizes,
        standard_error=value.standard_error,
        converged=value.converged,
        message=messages[0] if messages else value.message,
        floor=beside,
    )


def _check_floor_with(
    real: str | Path, fake: str | Path, other: str | Path, scoring: Scoring
) -> None:
    """Raise where more real samples are of no use."""
    if not scoring.floor:
        raise OptionError("`floor_with` needs a floor: leave out --no-floor.")
    for path in (real, fake):
        if Path(other).resolve() == Path(path).resolve():
            raise OptionError(f"`floor_with` must hold other samples than `{path}`.")


def _as_set(name: str, item: FeatureSet | Tensor | np.ndarray) -> FeatureSet:
    """Feature set of a bare tensor or array."""
    if isinstance(item, FeatureSet):
        return item
    item = as_tensor(name, item)
    if item.ndim != 2 or len(item) < 2 or not item.is_floating_point():
        raise DataError(
            f"`{name}` must be floating features (N, D) with N >= 2, "
            f"got {item.dtype} {tuple(item.shape)}."
        )
    source = {"path": f"<{name}>", "kind": "tensor", "available": len(item), "used": len(item)}
    return FeatureSet(item.detach(), {"extractor": "none"}, source)


def _protocol(sets: dict[str, FeatureSet], scoring: Scoring) -> dict[str, Any]:
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


def _notes(sets: dict[str, FeatureSet], scores: dict[str, Score], scoring: Scoring) -> list[str]:
    """What a reader of the numbers should know."""
    notes = [f"{name}: {line}" for name, item in sets.items() for line in item.notes]
    notes += differences({name: item.source for name, item in sets.items()})
    for family in families_of(scoring):
        most = family.most(scoring)
        if family.limit and max(len(sets["real"]), len(sets["fake"])) > most:
            option = family.limit.replace("_", "-")
            notes.append(
                f"{family.names[0]} uses {most} samples a side at most, drawn at random; "
                f"--{option} changes it"
            )
    if scoring.floor and any(score.floor is None for score in scores.values()):
        notes.append(
            "some floors are missing: each of the two real parts needs at least "
            f"{least_samples(scoring)} samples"
        )
    return notes
