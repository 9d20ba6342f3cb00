"""How many samples to draw: from a pilot, the sizes at which differences are seen."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from otmetrics.checks import check_positive, check_share
from otmetrics.errors import Argument, OptionError, unconverged_untold
from otmetrics.inference.intervals import Over
from otmetrics.inference.power import (
    detectable_difference,
    samples_for_difference,
    samples_to_differ,
)
from otmetrics.inference.two_sample import (
    MOST_TESTED,
    PermutationTest,
    Statistics,
    permutation_tests,
)
from otmetrics.scoring.clouds import (
    Draws,
    as_set,
    clouds_of,
    input_notes,
    protocol_of,
    sets_at_hand,
)
from otmetrics.scoring.extraction import Progress
from otmetrics.scoring.families import Measured, families_of
from otmetrics.scoring.feature_set import FeatureSet, check_comparable
from otmetrics.scoring.options import MANIFOLD, METRICS, Scoring
from otmetrics.scoring.report import plain_table, score_label
from otmetrics.unknown_options import ToldOptions, told_options

_LABELS = 199  # of the permutation test of the pilot


@dataclass(frozen=True)
class Planning(ToldOptions):
    """What samples are to show.

    Attributes:
        difference: The difference between the scores of two models that matters, in the units of
            the one score that `metrics` names.
        power: Probability with which it is to be seen, in [0.5, 1).

    Raises:
        ValueError: If an option breaks its rule.
    """

    difference: float | None = None
    power: float = 0.8

    def __post_init__(self) -> None:
        if self.difference is not None:
            check_positive("difference", self.difference)
        check_share("power", self.power)
        if self.power < 0.5:
            raise OptionError(
                Argument("power"), f" must be 0.5 or more, got {self.power}: 0.8 is usual."
            )


@dataclass(frozen=True)
class SampleSizes:
    """How many samples show what, by one score.

    Attributes:
        value: The score of the pilot.
        sizes: Real and fake samples that it used.
        detectable: The difference between two models like this one, against the same real samples,
            that as many samples of each show; None where the score has no interval.
        for_difference: Samples of each model that show the difference that was asked for.
        to_differ: Samples per side at which a permutation test tells real from fake; None where the
            pilot shows no difference.
    """

    value: float
    sizes: tuple[int, int]
    detectable: float | None = None
    for_difference: int | None = None
    to_differ: int | None = None


@dataclass(frozen=True)
class Plan:
    """How many samples show what, by every score.

    Attributes:
        scores: By the name of the score, in the order of `METRICS`.
        difference: The difference that was asked for.
        power: Probability with which differences are to be seen.
        protocol: Inputs, extractor, options, seeds and versions, JSON-able.
        notes: What a reader should know, one line each.
    """

    scores: dict[str, SampleSizes]
    difference: float | None
    power: float
    protocol: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """The table in plain text."""
        header, rows = self.table()
        return "\n".join(plain_table(header, rows, left=(0,)))

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The plan as a table.

        Returns:
            Names of the columns, and a row of cells for each score.
        """
        header: tuple[str, ...] = ("score", "value", "samples", "difference seen")
        if self.difference is not None:
            header += (f"samples for {self.difference:g}",)
        header += ("samples to tell fake from real",)
        rows = []
        for name, one in self.scores.items():
            row: tuple[str, ...] = (score_label(name, self.protocol), f"{one.value:.4g}")
            row += (f"{one.sizes[1]}",)
            row += ("-" if one.detectable is None else f"{one.detectable:.3g}",)
            if self.difference is not None:
                row += (_count(one.for_difference),)
            rows.append((*row, _count(one.to_differ)))
        return header, rows

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data for JSON.

        Returns:
            Keys `scores`, `difference`, `power`, `protocol` and `notes`.
        """
        return asdict(self)


@told_options
def sample_sizes(
    real: FeatureSet | Tensor | np.ndarray,
    fake: FeatureSet | Tensor | np.ndarray,
    *,
    planning: Planning = Planning(),
    scoring: Scoring = Scoring(),
    progress: Progress | None = None,
) -> Plan:
    """How many samples to draw, from a pilot.

    Errors fall with the root of the number of samples; what the pilot says of them is carried to
    other sizes. Two models are taken to be like the one that is given.

    Args:
        real: Feature set, or (N, D) tensor or array.
        fake: Feature set, or (M, D) tensor or array.
        planning: The difference that matters, and the power.
        scoring: What to compute; floors are not.
        progress: Called with a task's name, the steps done and the steps in all.

    Returns:
        The plan. Time of the scores, their intervals and their tests.

    Raises:
        DataError: If a side has too few samples or values that cannot be scored, or the sets do
            not compare.
        OptionError: If a difference is given for more than one score.

    References:
        Lehr, Sixteen S-squared over D-squared: a relation for crude sample size estimates, 1992.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> real, fake = torch.randn(2, 400, 4, generator=generator)
        >>> scoring = Scoring(metrics=("kernel_distance",))
        >>> plan = sample_sizes(real, fake + 0.2, scoring=scoring)
        >>> plan.scores["kernel_distance"].to_differ < 400
        True
    """
    if planning.difference is not None and len(scoring.metrics) != 1:
        raise OptionError(
            Argument("difference"),
            " is in the units of one score: name that one in ",
            Argument("metrics", "scoring=Scoring(metrics=...)"),
            ".",
        )
    sets = {"real": as_set("real", real), "fake": as_set("fake", fake)}
    check_comparable(list(sets.values()), "none")
    sets = sets_at_hand(sets)
    # Tests are by the plain distance, whose errors are in other units than those of its square.
    plain = replace(scoring.sliced, debiased=False)
    scoring = replace(scoring, floor=False, interval=True, test=0, sliced=plain)
    draws = Draws(clouds_of(sets, scoring), scoring)
    pilots: dict[str, _Pilot] = {}
    families = families_of(scoring)
    with unconverged_untold():
        for done, family in enumerate(families):
            if progress is not None:
                progress(f"scores: {family.names[0]}", done, len(families) + 1)
            x, y = (draws.of_family(name, family) for name in ("real", "fake"))
            measured = family.measure(x, y, scoring, True)
            pilots |= {
                name: _Pilot(one, (len(x), len(y)))
                for name, one in zip(family.names, measured, strict=True)
            }
        if progress is not None:
            progress("scores: tests", len(families), len(families) + 1)
        options = Statistics(scoring.sliced, scoring.exact, scoring.sinkhorn, scoring.num_neighbors)
        real, fake = (draws.in_order(name, MOST_TESTED) for name in ("real", "fake"))
        tests, _ = permutation_tests(real, fake, scoring.metrics, _LABELS, scoring.seed, options)
    if progress is not None:
        progress("scores: done", len(families) + 1, len(families) + 1)

    asked = [name for name in METRICS if name in scoring.metrics]
    scores = {
        name: _sizes_of(name, pilots[name], tests.get(name), planning, scoring.over)
        for name in asked
    }
    protocol, notes = protocol_of(sets, scoring), input_notes(sets, scoring)
    return Plan(scores, planning.difference, planning.power, protocol, notes)


class _Pilot(NamedTuple):
    """A score of the pilot, and the real and fake samples that it used."""

    measured: Measured
    sizes: tuple[int, int]


def _sizes_of(
    name: str, pilot: _Pilot, test: PermutationTest | None, planning: Planning, over: Over
) -> SampleSizes:
    """What one score says."""
    value, estimate = pilot.measured.value, pilot.measured.estimate
    if estimate is None:
        return SampleSizes(value, pilot.sizes)
    detectable = detectable_difference(estimate, planning.power)
    wanted = to_differ = None
    if planning.difference is not None:
        wanted = samples_for_difference(detectable, pilot.sizes[1], planning.difference)
    if test is not None:
        # Tests may take fewer samples than scores.
        error = estimate.standard_error(over) * (min(pilot.sizes) / min(test.sizes)) ** 0.5
        two_sided = name in MANIFOLD
        to_differ = samples_to_differ(
            test, error, estimate.order, planning.power, two_sided=two_sided
        )
    return SampleSizes(value, pilot.sizes, detectable, wanted, to_differ)


def _count(samples: int | None) -> str:
    """A number of samples for people."""
    return "-" if samples is None else f"{samples:,}".replace(",", " ")
