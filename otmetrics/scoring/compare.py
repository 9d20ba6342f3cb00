"""Several models against the same real samples, by scores that differ in nothing else."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.checks import check_not_negative
from otmetrics.errors import Argument, DataError, OptionError, unconverged_untold
from otmetrics.explanation.covering import CoverageChange, coverage_change, reaches
from otmetrics.inference.contest import Contest, contest_of
from otmetrics.inference.intervals import Estimate, Over
from otmetrics.inference.ranking import letters
from otmetrics.scoring.clouds import (
    Draws,
    Sets,
    as_set,
    check_inputs,
    clouds_of,
    input_notes,
    protocol_of,
    sets_at_hand,
)
from otmetrics.scoring.comparison import Comparison, Leaderboard, Standing
from otmetrics.scoring.extraction import Progress, features_of, open_inputs
from otmetrics.scoring.families import Family, Measured, families_of
from otmetrics.scoring.feature_set import FeatureSet, check_comparable
from otmetrics.scoring.options import MANIFOLD, METRICS, Extraction, Scoring
from otmetrics.scoring.ranks import ALONE, Ranks
from otmetrics.transport.costs import cost_matrix
from otmetrics.unknown_options import ToldOptions, told_options

Runs = dict[str, list[str]]
"""The models by their names, and the names that their training runs have among the inputs."""

_FEW_DIMENSIONS = 3  # up to which the exact distance of samples is near that of distributions
_FEW_SAMPLES = 50  # below which errors are not yet normal
_ENOUGH = 2000  # real samples that tell the mean cost between any two


@dataclass(frozen=True)
class Comparing(ToldOptions):
    """How models are compared.

    Attributes:
        by: The score that decides; by default the first of those that rank.
        baseline: The name of the model that the others are compared with; by default that is the
            one with the best score.
        margin: How much worse than `baseline` a model may be, in the units of the score: the
            comparison says which models are shown to be within it.
        changes: Whether to say which real samples each model covers and the baseline, or the best
            one, does not, and the reverse; takes as long as the score coverage, which it is of.

    Raises:
        ValueError: If an option breaks its rule.
    """

    by: str | None = field(default=None, metadata={"choices": METRICS})
    baseline: str | None = None
    margin: float | None = None
    changes: bool = False

    def __post_init__(self) -> None:
        if self.by is not None and self.by not in METRICS:
            raise OptionError(
                Argument("by"), f" must be one of {', '.join(METRICS)}; got {self.by!r}."
            )
        if self.margin is None:
            return
        check_not_negative("margin", self.margin)
        if self.baseline is None:
            raise OptionError(
                Argument("margin"), " needs ", Argument("baseline"), ": the model to compare with."
            )


@told_options
def compare(
    real: str | Path,
    models: Mapping[str, str | Path | Sequence[str | Path]],
    *,
    comparing: Comparing = Comparing(),
    extraction: Extraction = Extraction(),
    scoring: Scoring = Scoring(),
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> Comparison:
    """Compare models by their samples: who is better, who is tied, what cannot be told.

    Every model is scored against the same real samples, along the same directions, with one
    regularisation, on one number of samples. Features of the real ones are extracted once.

    Args:
        real: Folder of images, or file of images or features.
        models: The samples of each model by its name; a list of them for several training runs.
        comparing: The score that decides, the baseline and the margin.
        extraction: How to turn the inputs into features.
        scoring: What to compute on them; floors and permutation tests are not computed.
        progress: Called with a task's name, the steps done and the steps in all.
        ranks: The processes that share the extraction of features; all of them call this alike.

    Returns:
        The comparison; on all processes but the first one without leaderboards.

    Raises:
        DataError: If an input cannot be read, is too small, or does not compare with the others.
        OptionError: If an option does not fit the inputs.
    """
    runs = _runs_of(models, comparing, (str, Path))
    paths = _flat(models, (str, Path))
    places = [Path(path).resolve() for path in paths]
    for i, path in enumerate(paths):
        if places[i] in places[:i]:
            raise OptionError(f"`{path}` is named twice: each model and run needs its own samples.")
    ranks = ranks or ALONE

    began = time.perf_counter()
    inputs = open_inputs([real, *paths], extraction)
    check_inputs(inputs)
    # Before the first image is read, which may be hours before the scores.
    _check_sizes({one.path: len(one.draw(extraction, scoring.need)) for one in inputs[1:]})
    found = features_of(inputs, extraction, scoring.need, progress, ranks)
    if not ranks.first:
        return Comparison({}, "", None, None, {})

    # The other processes end, and leave their cores to this one.
    if ranks.world > 1:
        torch.set_num_threads(max(torch.get_num_threads(), os.cpu_count() or 1))
    seconds = {"features": time.perf_counter() - began}
    sets = dict(zip(["real", *_all(runs)], found, strict=True))
    result = _compare_sets(sets, runs, comparing, scoring, progress)
    protocol = result.protocol | {"num": extraction.num, "extraction_seed": extraction.seed}
    return replace(result, protocol=protocol, seconds=seconds | result.seconds)


_Features = FeatureSet | Tensor | np.ndarray


@told_options
def compare_features(
    real: _Features,
    models: Mapping[str, _Features | Sequence[_Features]],
    *,
    comparing: Comparing = Comparing(),
    scoring: Scoring = Scoring(),
    progress: Progress | None = None,
) -> Comparison:
    """Compare models by features of their samples that are in memory or mapped from files.

    Args:
        real: Feature set, or (N, D) tensor or array.
        models: The same of each model by its name, (M, D) with one M; a list of them for several
            training runs.
        comparing: The score that decides, the baseline and the margin.
        scoring: What to compute; floors and permutation tests are not computed.
        progress: Called with a task's name, the steps done and the steps in all.

    Returns:
        The comparison. Time of the scores, and of their intervals, of each run.

    Raises:
        DataError: If a side has too few samples or values that cannot be scored, or the sets do
            not compare.
        OptionError: If an option does not fit the inputs.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> real, a, b = torch.randn(3, 500, 4, generator=generator)
        >>> scoring = Scoring(metrics=("sliced_wasserstein",))
        >>> compare_features(real, {"a": a + 1, "b": b}, scoring=scoring).decisive.best_set
        ['b']
    """
    runs = _runs_of(models, comparing, (FeatureSet, Tensor, np.ndarray))
    sets = {"real": as_set("real", real)}
    clouds = _flat(models, (FeatureSet, Tensor, np.ndarray))
    sets |= {name: as_set(name, one) for name, one in zip(_all(runs), clouds, strict=True)}
    check_comparable(list(sets.values()), "none")
    return _compare_sets(sets, runs, comparing, scoring, progress)


def _runs_of(models: Mapping[str, Any], comparing: Comparing, kinds: tuple[type, ...]) -> Runs:
    """The names of the runs of each model, checked before anybody waits for them."""
    if not isinstance(models, Mapping):
        raise TypeError(
            "`models` must map the name of each model to its samples, as in "
            f'{{"a": ..., "b": ...}}, got {type(models).__name__}.'
        )
    if len(models) < 2:
        raise OptionError(
            f"`models` must name two models or more, got {len(models)}: "
            "`score` tells how far one is from the real samples."
        )
    if comparing.baseline is not None and comparing.baseline not in models:
        raise OptionError(
            Argument("baseline"),
            f" must be one of {', '.join(models)}; got {comparing.baseline!r}.",
        )

    found = {}
    for name, runs in models.items():
        size = 1 if isinstance(runs, kinds) else len(runs)
        if not size:
            raise OptionError(f"`{name}` must have samples of one training run or more, got none.")
        found[name] = [name] if size == 1 else [f"{name}, run {i + 1}" for i in range(size)]
    names = ["real", *_all(found)]
    if any(not name.strip() for name in names) or len(set(names)) < len(names):
        raise OptionError(
            "`models` must have names, each its own and none of them real, got "
            f"{', '.join(map(repr, names[1:]))}: choose others."
        )
    return found


def _flat(models: Mapping[str, Any], kinds: tuple[type, ...]) -> list[Any]:
    """The samples of all runs, in the order of their names."""
    return [
        run for runs in models.values() for run in ([runs] if isinstance(runs, kinds) else runs)
    ]


def _all(runs: Runs) -> list[str]:
    """The runs of all models."""
    return [run for of_model in runs.values() for run in of_model]


def _compare_sets(
    sets: Sets,
    runs: Runs,
    comparing: Comparing,
    scoring: Scoring,
    progress: Progress | None,
) -> Comparison:
    """Compare feature sets that compare."""
    sets = sets_at_hand(sets)
    _check_sizes({one.source["path"]: len(one) for name, one in sets.items() if name != "real"})
    scoring = replace(scoring, floor=False, interval=True, test=0)
    draws = Draws(clouds_of(sets, scoring), scoring, alike=True)
    dimension = sets["real"].features.shape[1]
    by = _decisive(comparing, scoring, dimension)
    boards, seconds = _boards(runs, draws, (by, dimension), comparing, scoring, progress)
    if comparing.baseline is not None and boards[by].reference is None:
        raise DataError(
            f"{by} has no interval at this size, so that nothing is said against a baseline: give "
            "more samples."
        )
    changes = {}
    if comparing.changes and boards[by].reference is not None:
        began = time.perf_counter()
        changes = _changes(runs, boards[by].reference, draws, scoring)
        seconds["changes"] = time.perf_counter() - began
    return Comparison(
        boards,
        by,
        comparing.baseline,
        comparing.margin,
        protocol_of(sets, scoring) | {"models": runs},
        _notes(sets, boards, scoring),
        seconds,
        changes,
        sets["real"].pictures,
    )


def _boards(
    runs: Runs,
    draws: Draws,
    decisive: tuple[str, int],
    comparing: Comparing,
    scoring: Scoring,
    progress: Progress | None,
) -> tuple[dict[str, Leaderboard], dict[str, float]]:
    """The leaderboard of each score, and the seconds of each family.

    `decisive` is the score that is ranked in any case, and the dimension of the features.
    """
    by, dimension = decisive
    boards: dict[str, Leaderboard] = {}
    seconds: dict[str, float] = {}
    families = families_of(scoring)

    # The standings keep what the solvers would warn about.
    with unconverged_untold():
        for done, family in enumerate(families):
            if progress is not None:
                progress(f"scores: {family.names[0]}", done, len(families))
            began = time.perf_counter()
            measured = dict(zip(_all(runs), _measure(family, runs, draws, scoring), strict=True))
            for place, name in enumerate(family.names):
                scores = {
                    model: [measured[run][place] for run in of_model]
                    for model, of_model in runs.items()
                }
                ranked = name == by or _ranks(name, scoring, dimension)
                boards[name] = _leaderboard(name, scores, scoring, comparing, ranked)
            seconds[family.names[0]] = time.perf_counter() - began
    if progress is not None:
        progress("scores: done", len(families), len(families))

    # A family computes all of its scores, of which some may not have been asked for.
    return {name: boards[name] for name in METRICS if name in scoring.metrics}, seconds


def _notes(sets: Sets, boards: dict[str, Leaderboard], scoring: Scoring) -> list[str]:
    """What a reader of the comparison should know."""
    notes = input_notes(sets, scoring)
    if "sinkhorn_divergence" in boards and scoring.sinkhorn.relative:
        notes.append(
            "sinkhorn_divergence has one epsilon for all models, a share of the mean cost between "
            "real samples; alone each has a share of that between real and fake"
        )
    if "wasserstein" in boards and boards["wasserstein"].reference is None:
        notes.append(
            "wasserstein is not ranked: in many dimensions it prefers samples that spread too "
            "little; it is ranked where scores are asked for by name"
        )
    if min(map(len, sets.values())) < _FEW_SAMPLES:
        notes.append(
            f"intervals and ranks are rough with fewer than {_FEW_SAMPLES} samples per side"
        )
    return notes


def _changes(
    runs: Runs, reference: str | None, draws: Draws, scoring: Scoring
) -> dict[str, CoverageChange]:
    """What the first run of each model covers of the real samples that the reference does not."""
    most = scoring.pairs_max
    clouds = [draws.at_most(of_model[0], most) for of_model in runs.values()]
    reached = reaches(draws.at_most("real", most), clouds, scoring.num_neighbors)
    by_model = dict(zip(runs, reached, strict=True))
    rows = draws.places("real", most)
    return {
        model: coverage_change(one, by_model[reference], rows)
        for model, one in by_model.items()
        if reference is not None and model != reference
    }


def _check_sizes(sizes: dict[str, int]) -> None:
    """Raise unless all runs have one number of samples, on which all scores depend."""
    least, most = min(sizes, key=lambda path: sizes[path]), max(sizes, key=lambda path: sizes[path])
    if sizes[least] != sizes[most]:
        raise DataError(
            f"`{most}` gives {sizes[most]} samples and `{least}` {sizes[least]}, but scores of "
            "different numbers of samples do not compare: take as many of each, with ",
            Argument("num", "extraction=Extraction(num=...)"),
            f" {sizes[least]}.",
        )


def _ranks(name: str, scoring: Scoring, dimension: int) -> bool:
    """Whether a score says who is better: the exact distance in many dimensions only if asked."""
    asked = set(scoring.metrics) != set(METRICS)
    return name != "wasserstein" or dimension <= _FEW_DIMENSIONS or asked


def _decisive(comparing: Comparing, scoring: Scoring, dimension: int) -> str:
    """The score that decides."""
    if comparing.by is None:
        return next(name for name in scoring.metrics if _ranks(name, scoring, dimension))
    if comparing.by not in scoring.metrics:
        raise OptionError(
            Argument("by"), f" must be among {', '.join(scoring.metrics)}, got {comparing.by!r}."
        )
    return comparing.by


def _measure(
    family: Family, runs: Runs, draws: Draws, scoring: Scoring
) -> Iterator[list[Measured]]:
    """The scores of a family for each run, next to the same real samples."""
    real = draws.of_family("real", family)
    if family.names == ("sinkhorn_divergence",) and scoring.sinkhorn.relative:
        # One for all models: a share of the mean cost to each would be another one for each.
        epsilon = scoring.sinkhorn.epsilon * _mean_cost(real, scoring.sinkhorn.order)
        sinkhorn = replace(scoring.sinkhorn, epsilon=epsilon, relative=False)
        scoring = replace(scoring, sinkhorn=sinkhorn)
    for run in _all(runs):
        yield family.measure(real, draws.of_family(run, family), scoring, True)


def _mean_cost(cloud: Tensor, order: float) -> float:
    """Mean cost between two samples, |x - y|^p."""
    some = cloud[:: max(1, len(cloud) // _ENOUGH)]
    mean = float(cost_matrix(some, some, order=order).mean())
    return mean if mean > 0 else 1.0  # where all samples are one point, any unit does


def _leaderboard(
    name: str,
    measured: dict[str, list[Measured]],
    scoring: Scoring,
    comparing: Comparing,
    ranked: bool,
) -> Leaderboard:
    """The leaderboard of one score."""
    level, higher = scoring.confidence_level, name in MANIFOLD
    names = tuple(sorted(measured))  # no number depends on the order in which models are named
    standings = {
        model: Standing(
            value=float(np.mean([one.value for one in runs])),
            runs=tuple(one.value for one in runs),
            converged=all(one.converged for one in runs),
        )
        for model, runs in measured.items()
    }
    contest = _contest([measured[model] for model in names], scoring.over, higher)
    if contest is None:
        by_value = sorted(names, key=lambda model: standings[model].value, reverse=higher)
        return Leaderboard(name, {model: standings[model] for model in by_value}, None, level)

    for place, model in enumerate(names):
        estimate, centre = measured[model][0].estimate, float(contest.centres[place])
        assert estimate is not None
        estimate = estimate.of_target(scoring.over)
        reach = contest.reach(place, level)
        standings[model] = replace(
            standings[model],
            interval=estimate.interval_around(centre, reach, level, scoring.over),
            estimate=estimate.rooted(centre),
        )
    order = contest.centres.argsort(descending=higher, stable=True).tolist()
    reference = None
    if ranked:
        reference = comparing.baseline or names[order[0]]
        ranking = contest.ranking(level, scoring.seed)
        shown = letters(ranking.better, order)
        differences = contest.differences_from(names.index(reference), level, scoring.seed)
        for place, model in enumerate(names):
            least, greatest = ranking.ranks[place].tolist()
            standings[model] = replace(
                standings[model],
                ranks=(least, greatest),
                letters=shown[place],
                difference=differences[place],
            )
    in_order = {names[place]: standings[names[place]] for place in order}
    return Leaderboard(name, in_order, reference, level, names, contest)


def _contest(measured: list[list[Measured]], over: Over, higher_is_better: bool) -> Contest | None:
    """A contest of the models; None where a run has no interval at its size."""
    estimates: list[list[Estimate]] = []
    for runs in measured:
        known = [one.estimate.of_target(over) for one in runs if one.estimate is not None]
        if len(known) < len(runs):
            return None
        estimates.append(known)
    contest = contest_of(estimates, over, higher_is_better)
    finite = torch.isfinite(contest.centres).all() & torch.isfinite(contest.covariance).all()
    return contest if bool(finite) else None
