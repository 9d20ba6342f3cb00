"""Features once, then every score, its noise floor, and the protocol that makes it repeatable."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.errors import Argument, Message, OptionError, unconverged_untold
from otmetrics.inference.two_sample import MOST_TESTED, Statistics, permutation_tests
from otmetrics.scoring.assembly import AT_FLOOR_SIZE, FLOOR, WHOLE, assemble_scores
from otmetrics.scoring.class_scores import labels_of_sides, scores_by_class
from otmetrics.scoring.clouds import (
    IN_MEMORY,
    Draws,
    Sets,
    as_set,
    check_clouds,
    clouds_of,
    input_notes,
    no_samples,
    protocol_of,
)
from otmetrics.scoring.extraction import Progress, features_of, open_inputs
from otmetrics.scoring.families import Family, Measured, families_of
from otmetrics.scoring.feature_set import FeatureSet, check_comparable
from otmetrics.scoring.options import METRICS, Extraction, Scoring
from otmetrics.scoring.ranks import ALONE, Ranks
from otmetrics.scoring.report import ENOUGH_LABELS, Score, ScoreReport, ScoreTest
from otmetrics.scoring.summarized import (
    check_dimensions,
    check_scores_of_summary,
    counts,
    measure_of_all,
    scores_without_samples,
    summary_notes,
    whole_sizes,
)
from otmetrics.unknown_options import told_options


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
            f"`score` takes paths; `score_features` takes features in memory; {IN_MEMORY}."
        )
    if floor_with is not None:
        _check_floor_with(real, fake, floor_with, scoring)
    ranks = ranks or ALONE

    began = time.perf_counter()
    inputs = open_inputs(paths, extraction)
    # Before the first image is read, which may be hours before the scores.
    for one in inputs:
        if one.has_features and not one.has_rows:
            if one is not inputs[0] and one is not inputs[1]:
                raise no_samples(one.path)
            check_scores_of_summary(one.path, one.summary, scoring)
    found = features_of(inputs, extraction, scoring.need, progress, ranks)
    if not ranks.first:
        return ScoreReport({}, {})

    # The other processes end, and leave their cores to this one.
    if ranks.world > 1:
        torch.set_num_threads(max(torch.get_num_threads(), os.cpu_count() or 1))
    seconds = {"features": time.perf_counter() - began}
    protocol = {"num": extraction.num, "extraction_seed": extraction.seed}
    sets = dict(zip(("real", "fake", "floor_with"), found, strict=False))
    report = score_sets(sets, scoring, protocol, progress)
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
    sets = {name: as_set(name, item) for name, item in given.items() if item is not None}
    check_comparable(list(sets.values()), "none")
    return score_sets(sets, scoring, protocol or {}, progress)


def score_sets(
    sets: Sets,
    scoring: Scoring,
    protocol: dict[str, Any],
    progress: Progress | None,
    clouds: dict[str, Tensor] | None = None,
) -> ScoreReport:
    """Score feature sets that compare; `clouds` are theirs where these were made before."""
    if scoring.per_class:
        labels_of_sides(sets)  # asked before the first score, which may take long
    check_dimensions(sets, scoring)
    if not all(map(len, sets.values())):
        return _score_without_samples(sets, scoring, protocol)
    draws = Draws(clouds_of(sets, scoring) if clouds is None else clouds, scoring)
    families = families_of(scoring)
    steps = len(families) + bool(scoring.test) + scoring.per_class
    scores: dict[str, Score] = {}
    seconds: dict[str, float] = {}

    # The scores keep what the solvers would warn about.
    with unconverged_untold():
        for done, family in enumerate(families):
            if progress is not None:
                progress(f"scores: {family.names[0]}", done, steps)
            began = time.perf_counter()
            scores |= assemble_scores(family, *_measured(family, sets, draws, scoring), scoring)
            seconds[family.names[0]] = time.perf_counter() - began

    # A family computes all of its scores, of which some may not have been asked for.
    scores = {name: scores[name] for name in METRICS if name in scoring.metrics}
    record = protocol_of(sets, scoring) | protocol
    joint = None
    if scoring.test:
        if progress is not None:
            progress("scores: tests", len(families), steps)
        began = time.perf_counter()
        scores, joint = _test(scores, draws, scoring)
        seconds["tests"] = time.perf_counter() - began
    classes = None
    if scoring.per_class:
        if progress is not None:
            progress("scores: classes", steps - 1, steps)
        began = time.perf_counter()
        with unconverged_untold():
            classes = scores_by_class(draws.clouds, labels_of_sides(sets), scoring)
        seconds["classes"] = time.perf_counter() - began
    if progress is not None:
        progress("scores: done", steps, steps)
    notes = _notes(sets, scores, scoring)
    return ScoreReport(scores, record, notes, seconds, joint, classes)


def _measured(
    family: Family, sets: Sets, draws: Draws, scoring: Scoring
) -> tuple[dict[str, list[Measured]], dict[str, tuple[int, int]]]:
    """What a family measures of each comparison behind its scores, and on how many samples."""
    measured: dict[str, list[Measured]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    of_all = measure_of_all(family, sets, scoring)
    if of_all is not None:
        measured[WHOLE], sizes[WHOLE] = [of_all], counts(sets)
    whole = None if of_all is not None else whole_sizes(family, sets, scoring)
    for part, real_part, fake_part in _comparisons(family, draws, scoring, whole):
        sizes[part] = len(real_part), len(fake_part)
        measured[part] = family.measure(real_part, fake_part, scoring, part == WHOLE)
        # Two comparisons at once would take twice the memory.
        del real_part, fake_part
    return measured, sizes


def _comparisons(
    family: Family, draws: Draws, scoring: Scoring, whole: tuple[float, float] | None
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What a family measures: real and fake samples, then those of its floor, if it has one.

    One comparison at a time, named by what its messages begin with; the first one of so many
    samples, or none where it is made of other things.
    """
    # What a limit bounds is small enough to go through in float64.
    widen = Tensor.double if family.limit else lambda cloud: cloud
    most = family.most(scoring)
    sizes: tuple[int, ...] = ()
    if whole is not None:
        real, fake = (
            widen(draws.at_most(name, size))
            for name, size in zip(("real", "fake"), whole, strict=True)
        )
        sizes = len(real), len(fake)
        yield WHOLE, real, fake
        del real, fake

    size = draws.floor_size(most)
    if not scoring.floor or size < family.least(scoring):
        return
    real = widen(draws.at_most("real", size))
    yield FLOOR, real, widen(draws.other_real(size))
    # Where both sides have the size of the floor already, the first comparison is this one too.
    if sizes != (size, size):
        yield AT_FLOOR_SIZE, real, widen(draws.at_most("fake", size))


def _test(
    scores: dict[str, Score], draws: Draws, scoring: Scoring
) -> tuple[dict[str, Score], float]:
    """The scores with their permutation tests, and the p-value of the smallest of all p-values."""
    options = Statistics(scoring.sliced, scoring.exact, scoring.sinkhorn, scoring.num_neighbors)
    real, fake = draws.in_order("real", MOST_TESTED), draws.in_order("fake", MOST_TESTED)
    tests, joint = permutation_tests(real, fake, list(scores), scoring.test, scoring.seed, options)
    tested = {}
    for name, score in scores.items():
        if (found := tests.get(name)) is None:
            tested[name] = score
            continue
        low, high = found.null_distribution.quantile(
            torch.tensor([0.025, 0.975], dtype=torch.float64)
        ).tolist()
        test = ScoreTest(found.pvalue, found.statistic, (low, high), scoring.test, found.sizes)
        tested[name] = replace(score, test=test)
    return tested, joint


def _score_without_samples(sets: Sets, scoring: Scoring, protocol: dict[str, Any]) -> ScoreReport:
    """The scores of what is known of a side of which no sample is at hand; they have no floor."""
    began = time.perf_counter()
    there = {name: item for name, item in sets.items() if len(item)}
    check_clouds({name: item.features for name, item in there.items()}, sets, scoring)
    scores = scores_without_samples(sets, scoring)
    # The note on missing floors speaks of too few samples, which is not the reason here.
    notes = _notes(sets, scores, replace(scoring, floor=False))
    if scoring.floor:
        notes.append("no floor: no samples of a side are at hand to be compared; give samples")
    missing = ["test"] if scoring.test else []
    if scoring.interval and not any(one.interval for one in scores.values()):
        missing.insert(0, "interval")
    if missing:
        notes.append(f"no {' and no '.join(missing)}: nothing is known of single samples of a side")
    record = protocol_of(sets, scoring) | protocol
    return ScoreReport(scores, record, notes, {"scores": time.perf_counter() - began})


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


def _notes(sets: Sets, scores: dict[str, Score], scoring: Scoring) -> list[str]:
    """What a reader of the numbers should know."""
    notes = input_notes(sets, scoring) + summary_notes(sets, scores, scoring)
    if 0 < scoring.test < ENOUGH_LABELS:
        notes.append(
            Message(
                Argument("test"),
                f" {scoring.test} gives no p-value of 0.05 or less to all scores: "
                f"{ENOUGH_LABELS} is the least that does, 199 are usual",
            )
        )
    if scoring.floor and any(score.floor is None for score in scores.values()):
        notes.append(
            "some floors are missing: each of the two real parts needs at least "
            f"{scoring.need.samples} samples"
        )
    return notes
