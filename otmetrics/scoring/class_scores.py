"""The scores of each class by itself."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from otmetrics.errors import Argument, DataError
from otmetrics.scoring.assembly import WHOLE, assemble_scores
from otmetrics.scoring.clouds import Draws, Sets
from otmetrics.scoring.families import families_of
from otmetrics.scoring.labels import labels_of
from otmetrics.scoring.options import METRICS, Scoring
from otmetrics.scoring.report import ClassScores, Score


def labels_of_sides(sets: Sets) -> tuple[list[str], list[str]]:
    """The class of each real and each fake sample."""
    sides = []
    for side, other in (("real", "fake"), ("fake", "real")):
        labels = labels_of(sets[side], sets[other])
        if labels is None:
            raise DataError(
                Argument("per_class", "scoring=Scoring(per_class=True)"),
                f" needs the class of each sample, which `{sets[side].source['path']}` does not "
                "say: put its images in a folder for each class, or `labels` next to its arrays.",
            )
        sides.append(labels)
    return sides[0], sides[1]


def scores_by_class(
    clouds: dict[str, Tensor], classes: tuple[Sequence[str], Sequence[str]], scoring: Scoring
) -> dict[str, ClassScores]:
    """Score each class of the clouds "real" (N, D) and "fake" (M, D), whose samples have these.

    Without floors and tests. Takes less time than all samples, of which there are more pairs.
    """
    scoring = replace(scoring, floor=False, test=0)
    rows = [_rows_by_class(labels) for labels in classes]
    found = {}
    for name in sorted({*rows[0], *rows[1]}):
        of_class = {
            side: clouds[side][torch.tensor(one.get(name, []), dtype=torch.int64)]
            for side, one in zip(("real", "fake"), rows, strict=True)
        }
        found[name] = _scores(of_class, scoring)
    return found


def _rows_by_class(labels: Sequence[str]) -> dict[str, list[int]]:
    """The samples of each class."""
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    return rows


def _scores(clouds: dict[str, Tensor], scoring: Scoring) -> ClassScores:
    """The scores for which a class has samples enough."""
    draws, scores = Draws(clouds, scoring), dict[str, Score]()
    sizes = len(clouds["real"]), len(clouds["fake"])
    for family in families_of(scoring):
        if min(sizes) < family.least(scoring):
            continue
        sides = draws.of_family("real", family), draws.of_family("fake", family)
        measured = {WHOLE: family.measure(*sides, scoring, True)}
        used = {WHOLE: (len(sides[0]), len(sides[1]))}
        scores |= assemble_scores(family, measured, used, scoring)
    wanted = {name: scores[name] for name in METRICS if name in scores and name in scoring.metrics}
    return ClassScores(sizes, wanted)
