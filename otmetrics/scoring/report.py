"""What scoring returns: each number next to its noise floor, and the protocol that repeats it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from otmetrics.inference.intervals import Interval

SCHEMA = 1
"""Version of `ScoreReport.to_dict`; it changes when a key changes its meaning or goes away."""

_CONFIDENT = 0.95  # level from which on an interval tells
ENOUGH_LABELS = 39  # random labels of which a p-value of two sides may be 0.05

_FEW = 3  # scores whose intervals fit in a table of classes
HIGHER = ("precision", "recall", "density", "coverage")
"""The scores of which more is better."""

_LABELS = {
    "sliced_wasserstein": "sliced Wasserstein ↓",
    "wasserstein": "exact Wasserstein ↓",
    "sinkhorn_divergence": "Sinkhorn divergence ↓",
    "frechet_distance": "Fréchet distance ↓",
    "kernel_distance": "kernel distance ↓",
    "precision": "precision ↑",
    "recall": "recall ↑",
    "density": "density ↑",
    "coverage": "coverage ↑",
}


@dataclass(frozen=True)
class Floor:
    """The score between two disjoint random parts of the real samples: its noise floor.

    Attributes:
        value: The score between the two parts.
        size: Samples in each part.
        at_floor_size: The score itself on subsamples of that size. Transport distances in many
            dimensions fall with the number of samples, so only scores at one size compare.
        converged: Whether the solver reached its tolerance in both.
        excess_error: Standard error of `excess` over new samples and directions; None where no
            interval was asked for, or where it takes as long as the scores again.
    """

    value: float
    size: int
    at_floor_size: float
    converged: bool = True
    excess_error: float | None = None

    @property
    def excess(self) -> float:
        """What the score has above the noise: `at_floor_size - value`."""
        return self.at_floor_size - self.value


@dataclass(frozen=True)
class ScoreTest:
    """A permutation test of one score: could both sides be samples of one distribution?

    Attributes:
        pvalue: Share of labels, the true ones among them, under which the score is at least as
            extreme. Never 0; of level 5 % at any size where it is at most 0.05.
        statistic: The score of the samples that were tested, which may be fewer than it uses.
        null: The 2.5 % and 97.5 % quantiles of that score under random labels.
        resamples: Random labels.
        sizes: Real and fake samples that were tested.
    """

    pvalue: float
    statistic: float
    null: tuple[float, float]
    resamples: int
    sizes: tuple[int, int]


@dataclass(frozen=True)
class Score:
    """One number and what is known about it.

    Attributes:
        value: The score.
        sizes: Real and fake samples that it used.
        standard_error: Monte-Carlo error over random directions, where there are any.
        converged: Whether its solver reached its tolerance for the value itself.
        message: What the solver says of its work; where it did not converge, here or in the
            floor, what to raise.
        floor: Its noise floor; None where it was not asked for or the parts are too small.
        interval: Where it may lie, given the samples; None where it was not asked for.
        debiased: The centre of the interval where it is not the value: what is left of the value
            without the bias of finite samples, which may be negative.
        sampling_error: Standard error over new samples, in the units of `debiased`: those of the
            cost, W_p^p, where the score is its root.
        test: Its permutation test; None where it was not asked for.
    """

    value: float
    sizes: tuple[int, int]
    standard_error: float | None = None
    converged: bool = True
    message: str = ""
    floor: Floor | None = None
    interval: Interval | None = None
    debiased: float | None = None
    sampling_error: float | None = None
    test: ScoreTest | None = None

    @property
    def differs(self) -> bool | None:
        """Whether real and fake samples differ by more than chance; None where nothing tells.

        By the test at 5 %, else by an interval of 95 % or more for the distance between the
        distributions, which 0 is outside of, else by the excess over the floor, two standard errors
        from 0.
        """
        # Of fewer labels no p-value is as small, of both tails together.
        if self.test is not None and self.test.resamples >= ENOUGH_LABELS:
            return self.test.pvalue <= 0.05
        if self.interval is None or self.interval.over != "both":
            return None
        if self.interval.target == "limit" and self.interval.level >= _CONFIDENT:
            return self.interval.low > 0
        if self.floor is not None and self.floor.excess_error is not None:
            # Below its floor too: samples that spread too little are close to all others.
            return abs(self.floor.excess) > 2 * self.floor.excess_error
        return None


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class.

    Attributes:
        sizes: Real and fake samples of the class.
        scores: By metric name, without floors; none of scores that need more samples.
    """

    sizes: tuple[int, int]
    scores: dict[str, Score]


@dataclass(frozen=True)
class ScoreReport:
    """All scores of one comparison with the protocol that repeats them.

    Attributes:
        scores: By metric name, in the order of `METRICS`.
        protocol: Inputs, extractor, options, seeds and versions, JSON-able.
        notes: What a reader should know, one line each.
        seconds: What took how long: "features", then the first score of each group, floors with
            it, and "tests". Two reports that differ in nothing else are equal.
        joint_pvalue: p-value of the smallest of all p-values: of level 5 % at 0.05, however many
            scores there are. None without tests.
        classes: The scores of each class by its name; None where they were not asked for.
    """

    scores: dict[str, Score]
    protocol: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    joint_pvalue: float | None = None
    classes: dict[str, ClassScores] | None = None

    @property
    def converged(self) -> bool:
        """Whether every solver reached its tolerance."""
        return all(
            score.converged and (score.floor is None or score.floor.converged)
            for score in self.scores.values()
        )

    def __str__(self) -> str:
        """The scores as a table in plain text; `repr` shows all that is known."""
        return "\n".join([*plain_table(self.header(), self.rows(), left=(0,)), *self.verdict()])

    def header(self) -> tuple[str, ...]:
        """The names of the columns of `rows`: only those that some score fills.

        Returns:
            "score" and "value", an interval of its level, "floor" and "excess", and "p".
        """
        scores = self.scores.values()
        header: tuple[str, ...] = ("score", "value")
        level = next((one.interval.level for one in scores if one.interval is not None), None)
        if level is not None:
            header += (f"{100 * level:g} % interval",)
        if any(score.floor is not None for score in scores):
            header += ("floor", "excess")
        if any(score.test is not None for score in scores):
            header += ("p",)
        return header

    def rows(self) -> list[tuple[str, ...]]:
        """The report as a table, with four digits of each number.

        Returns:
            One row of cells for each score, under `header`.
        """
        header = self.header()
        return [
            (score_label(name, self.protocol), *_cells(score, header))
            for name, score in self.scores.items()
        ]

    def class_header(self) -> tuple[str, ...]:
        """The names of the columns of `class_rows`.

        Returns:
            "class", "real" and "fake", then the scores; each with its interval where they are few.
        """
        header: tuple[str, ...] = ("class", "real", "fake")
        for name in self.scores:
            header += (score_label(name, self.protocol),)
            if self._shows_intervals:
                header += ("interval",)
        return header

    def class_rows(self) -> list[tuple[str, ...]]:
        """The classes as a table: those without fakes, then the one with the worst first score.

        Returns:
            One row of cells for each class: its samples, and each score with four digits; a last
            row with the means of the classes. None where classes were not asked for.
        """
        if not self.classes:
            return []
        first, *_ = self.scores

        def badness(name: str) -> float:
            one = (self.classes or {})[name]
            score = one.scores.get(first)
            if score is None:  # nothing is worse than a class of which there are no fakes
                return float("inf") if not one.sizes[1] else float("-inf")
            return -score.value if first in HIGHER else score.value

        rows = []
        for name in sorted(self.classes, key=badness, reverse=True):
            one = self.classes[name]
            rows.append((name, *map(str, one.sizes), *self._class_cells(one)))
        return [*rows, ("mean", "", "", *self._class_means())]

    @property
    def _shows_intervals(self) -> bool:
        """Whether the table of classes has room for intervals."""
        return len(self.scores) <= _FEW and any(one.interval for one in self.scores.values())

    def _class_cells(self, one: ClassScores) -> list[str]:
        """The scores of one class."""
        cells = []
        for name in self.scores:
            score = one.scores.get(name)
            cells.append("-" if score is None else _value(score))
            if self._shows_intervals:
                cells.append("-" if score is None else _interval(score.interval))
        return cells

    def _class_means(self) -> list[str]:
        """The mean of each score over the classes that have it."""
        cells = []
        for name in self.scores:
            values = [
                one.scores[name].value
                for one in (self.classes or {}).values()
                if name in one.scores
            ]
            cells.append(f"{sum(values) / len(values):.4g}" if values else "-")
            cells += [""] if self._shows_intervals else []
        return cells

    @property
    def differs(self) -> bool | None:
        """Whether any score shows a difference, all tests together where there are some.

        None where nothing tells.
        """
        if self.joint_pvalue is not None and self.joint_pvalue > 0.05 and len(self.scores) > 1:
            return False
        says = {score.differs for score in self.scores.values()}
        return True if True in says else False if False in says else None

    def verdict(self) -> list[str]:
        """What the scores say of the difference between real and fake samples, in plain words.

        Returns:
            One sentence; none where no score has an interval, a floor with an error, or a test.
        """
        joint = self.joint_pvalue if len(self.scores) > 1 else None
        if joint is not None and joint > 0.05:
            # Some score of nine has a small p-value by chance.
            return [
                "No difference is shown at this sample size: all scores together have "
                f"p = {joint:.3g}."
            ]
        says: dict[bool | None, list[str]] = {True: [], False: [], None: []}
        for name, score in self.scores.items():
            says[score.differs].append(score_label(name, self.protocol)[:-2])
        if not says[True] and not says[False]:
            return []

        parts = []
        if len(self.scores) > 1 and not says[False] and not says[None]:
            parts.append("Real and fake differ by every score")
        elif says[True]:
            parts.append(f"Real and fake differ by {listed(says[True])}")
        if says[False]:
            parts.append(
                f"by {listed(says[False])} the difference may be chance at this sample size"
                if says[True]
                else f"No difference is shown by {listed(says[False])} at this sample size"
            )
        if says[None] and says[True]:
            parts.append(f"by {listed(says[None])} only a test tells")
        lines = ["; ".join(parts) + "."]
        if joint is not None:
            lines.append(f"All scores together: p = {joint:.3g}.")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON, with the version of its schema.

        Returns:
            Keys `schema`, `scores`, `protocol`, `notes`, `joint_pvalue` and `classes`; no
            `seconds`, so that one seed gives one report.
        """
        # `asdict` takes fields only, and the excess is computed.
        scores = {name: asdict(score) for name, score in self.scores.items()}
        for name, score in self.scores.items():
            if score.floor is not None:
                scores[name]["floor"]["excess"] = score.floor.excess
        classes = None
        if self.classes is not None:
            classes = {name: asdict(one) for name, one in self.classes.items()}
        return {
            "schema": SCHEMA,
            "scores": scores,
            "protocol": self.protocol,
            "notes": self.notes,
            "joint_pvalue": self.joint_pvalue,
            "classes": classes,
        }


def score_label(name: str, protocol: dict[str, Any]) -> str:
    """A score as tables name it, with an arrow to where it is better."""
    sliced = protocol.get("scoring", {}).get("sliced", {})
    if name == "sliced_wasserstein" and sliced.get("debiased"):
        return "sliced, squared ↓"
    extractor = protocol.get("features", {}).get("extractor")
    if name == "frechet_distance" and extractor == "inception":
        return "FID ↓"
    return _LABELS[name]


def plain_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]
) -> list[str]:
    """Lines of a table in plain text; the columns in `left` align left, the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _cells(score: Score, header: tuple[str, ...]) -> list[str]:
    """Numbers of one line of the table; "!" marks what did not converge."""
    cells = [_value(score)]
    if any(name.endswith("interval") for name in header):
        cells.append(_interval(score.interval))
    if "floor" in header:
        floor = score.floor
        excess = "-" if floor is None else f"{floor.excess:.4g}"
        cells += ["-" if floor is None else f"{floor.value:.4g}"]
        cells += [excess + (" !" if floor is not None and not floor.converged else "")]
    if "p" in header:
        cells.append("-" if score.test is None else _pvalue(score.test))
    return cells


def _value(score: Score) -> str:
    return f"{score.value:.4g}" + ("" if score.converged else " !")


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"[{interval.low:.4g}, {interval.high:.4g}]"


def _pvalue(test: ScoreTest) -> str:
    """A p-value, which at its smallest only says that it is no larger."""
    least = 1 / (test.resamples + 1)
    return f"≤ {least:.2g}" if test.pvalue <= least * 1.001 else f"{test.pvalue:.3g}"


def listed(names: list[str]) -> str:
    """Names in a sentence."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
