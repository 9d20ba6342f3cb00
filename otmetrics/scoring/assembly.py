"""From what was measured to scores, with their floors and intervals."""

import math
from typing import Any

from otmetrics.inference.intervals import Over, difference_error
from otmetrics.scoring.families import Family, Measured
from otmetrics.scoring.options import Scoring
from otmetrics.scoring.report import Floor, Score

WHOLE, FLOOR, AT_FLOOR_SIZE = "", "floor: ", "at the size of the floor: "
"""The comparisons behind a score, by what their messages begin with."""


def assemble_scores(
    family: Family,
    measured: dict[str, list[Measured]],
    sizes: dict[str, tuple[int, int]],
    scoring: Scoring,
) -> dict[str, Score]:
    """The scores of a family from its one to three comparisons."""
    scores = {}
    for index, name in enumerate(family.names):
        parts = {part: values[index] for part, values in measured.items()}
        value = parts[WHOLE]
        floor = None
        if FLOOR in parts:
            noise, at = parts[FLOOR], parts.get(AT_FLOOR_SIZE, value)
            converged = noise.converged and at.converged
            error = _excess_error(noise, at, scoring.over)
            floor = Floor(noise.value, sizes[FLOOR][0], at.value, converged, error)

        unconverged = (part + found.message for part, found in parts.items() if not found.converged)
        scores[name] = Score(
            value=value.value,
            sizes=sizes[WHOLE],
            standard_error=value.standard_error,
            converged=value.converged,
            message=next(unconverged, value.message),
            floor=floor,
            **inferred(value, scoring),
        )
    return scores


def inferred(value: Measured, scoring: Scoring) -> dict[str, Any]:
    """The fields of a score that say what its samples leave open."""
    if value.estimate is None:
        return {}
    estimate = value.estimate.of_target(scoring.over)
    if not math.isfinite(estimate.standard_error(scoring.over)):
        return {}
    return {
        "interval": estimate.interval(scoring.confidence_level, scoring.over),
        "debiased": None if estimate.bias is None else estimate.centre,
        "sampling_error": estimate.spread.variance(scoring.over) ** 0.5,
    }


def _excess_error(floor: Measured, at: Measured, over: Over) -> float | None:
    """Standard error of a score less its floor, whose first part of real both have in common."""
    if floor.estimate is None or at.estimate is None:
        return None
    first, second = at.estimate.at_value(at.value), floor.estimate.at_value(floor.value)
    if over == "fake":  # all that the floor is made of is fixed
        error = first.standard_error("fake")
        return error if math.isfinite(error) else None
    return difference_error(first, second, over)
