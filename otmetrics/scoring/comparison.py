"""What comparing models returns: leaderboards, differences, and what cannot be told."""

from dataclasses import asdict, dataclass, field
from typing import Any

from otmetrics.explanation.covering import CoverageChange
from otmetrics.inference.contest import Contest, Difference
from otmetrics.inference.intervals import Interval
from otmetrics.scoring.pictures import Pictures
from otmetrics.scoring.report import listed, plain_table, score_label

SCHEMA = 1
"""Version of `Comparison.to_dict`; it changes when a key changes its meaning or goes away."""


@dataclass(frozen=True)
class Standing:
    """One model by one score.

    Attributes:
        value: The score, the mean of its runs.
        estimate: The same without the bias of few samples, where that is known: what differences
            are taken of. None where there is no interval.
        runs: The score of each training run.
        interval: Where the score may lie; of several runs, in other runs too.
        ranks: The least and the greatest rank that the model may have; those of all models hold
            together. None where the score does not rank.
        letters: Models that share a letter are not told apart.
        difference: The score minus that of the reference; None for the reference itself.
        converged: Whether its solvers reached their tolerance.
    """

    value: float
    runs: tuple[float, ...]
    interval: Interval | None = None
    estimate: float | None = None
    ranks: tuple[int, int] | None = None
    letters: str = ""
    difference: Difference | None = None
    converged: bool = True


@dataclass(frozen=True)
class Leaderboard:
    """All models by one score, the best first.

    Attributes:
        score: The name of the score.
        standings: By the name of the model.
        reference: The model that differences are taken from: the baseline, else the best one; None
            where the score does not rank.
        level: Confidence level of intervals, of rank sets together, and of differences together.
        models: Their names in the order of `contest`.
        contest: The scores in units of the cost and their covariance, of which all the rest is
            made; None where a model has no interval at its size.
    """

    score: str
    standings: dict[str, Standing]
    reference: str | None
    level: float
    models: tuple[str, ...] = field(default=(), repr=False, compare=False)
    contest: Contest | None = field(default=None, repr=False, compare=False)

    @property
    def best_set(self) -> list[str]:
        """The models that may be the best one; none where the score does not rank."""
        ranks = {name: one.ranks for name, one in self.standings.items()}
        return [name for name, found in ranks.items() if found is not None and found[0] == 1]

    @property
    def detectable(self) -> float | None:
        """Of the model next to the reference the difference that is seen in four of five cases."""
        found = [one.difference for one in self.standings.values() if one.difference is not None]
        return min(found, key=lambda one: abs(one.value)).detectable if found else None

    def difference(self, first: str, second: str) -> Difference:
        """The score of one model minus that of another, by itself.

        Args:
            first: A name.
            second: Another one.

        Returns:
            The difference, with an interval and a p-value that hold for this pair alone.

        Raises:
            ValueError: If a name is not there, or the models have no intervals.
        """
        for name, given in (("first", first), ("second", second)):
            if given not in self.standings:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(self.standings)}; got {given!r}."
                )
        if self.contest is None:
            raise ValueError(f"`{self.score}` has no interval at this size: give more samples.")
        places = self.models.index(first), self.models.index(second)
        return self.contest.difference(*places, self.level)

    def worse(self, margin: float | None = None) -> list[str]:
        """The models that are worse than the reference, or not shown to be as good up to a margin.

        Args:
            margin: None for models that are told to be worse; else how much worse a model may be,
                in the units of the score, where that must be shown.

        Returns:
            Their names.
        """
        found = []
        for name, one in self.standings.items():
            if one.difference is None:
                continue
            low, high = one.difference.low, one.difference.high
            if self.contest is not None and self.contest.higher_is_better:
                low, high = -high, -low
            # Of what is no number nothing is shown.
            if not high <= margin if margin is not None else low > 0:
                found.append(name)
        return found


@dataclass(frozen=True)
class Comparison:
    """Several models against the same real samples.

    Attributes:
        leaderboards: By the name of the score, in the order of `METRICS`.
        by: The score that decides: of the verdict, the margin and the gate.
        baseline: The model that the others are compared with, if one was named.
        margin: How much worse than the baseline a model may be, if that was asked.
        protocol: Inputs, extractor, options, seeds and versions, JSON-able.
        notes: What a reader should know, one line each.
        seconds: What took how long.
        changes: What each model covers of the real samples that the reference does not, and the
            reverse, where that was asked for; of the first run of each.
        pictures: The images of the real samples, where there are any.
    """

    leaderboards: dict[str, Leaderboard]
    by: str
    baseline: str | None
    margin: float | None
    protocol: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    changes: dict[str, CoverageChange] = field(default_factory=dict)
    pictures: Pictures | None = field(default=None, repr=False, compare=False)

    @property
    def decisive(self) -> Leaderboard:
        """The leaderboard of the score that decides."""
        return self.leaderboards[self.by]

    @property
    def worse(self) -> list[str]:
        """The models that fail: told to be worse than the baseline, or not within the margin."""
        return self.decisive.worse(self.margin) if self.baseline is not None else []

    @property
    def converged(self) -> bool:
        """Whether every solver reached its tolerance."""
        boards = self.leaderboards.values()
        return all(one.converged for board in boards for one in board.standings.values())

    def __str__(self) -> str:
        """Both tables and the verdict in plain text."""
        tables = (self.leaderboard(), self.summary())
        parts = ["\n".join(plain_table(header, rows, left=(0,))) for header, rows in tables]
        return "\n\n".join([*parts, "\n".join(self.verdict())])

    def leaderboard(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The score that decides as a table.

        Returns:
            Names of the columns, and a row of cells for each model, the best first.
        """
        board = self.decisive
        header: tuple[str, ...] = (score_label(self.by, self.protocol), "estimate")
        header += (f"{100 * board.level:g} % interval",)
        ranked = board.reference is not None
        if ranked:
            header += ("rank", "tied", f"minus {board.reference}", "p")
        rows = []
        for name, one in board.standings.items():
            row: tuple[str, ...] = (name, _value(one, one.estimate), _range(one.interval))
            if ranked:
                row += (_ranks(one.ranks), one.letters, *_difference(one.difference))
            rows.append(row)
        return header, rows

    def summary(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """All scores as a table.

        Returns:
            Names of the columns, and a row of cells for each score: values with their letters.
        """
        names = list(self.decisive.standings)
        rows = []
        for score, board in self.leaderboards.items():
            cells = (
                f"{_value(board.standings[n], None)} {board.standings[n].letters}" for n in names
            )
            rows.append((score_label(score, self.protocol), *(cell.rstrip() for cell in cells)))
        return ("score", *names), rows

    def verdict(self) -> list[str]:
        """What the comparison says, in plain words.

        Returns:
            A sentence for each thing to know.
        """
        board, label = self.decisive, score_label(self.by, self.protocol)[:-2]
        best = board.best_set
        if not best:
            return [f"By {label} the models cannot be ranked at this size: give more samples."]
        lines = [
            f"By {label} {best[0]} is the best."
            if len(best) == 1
            else f"By {label} any of {listed(best)} may be the best: the order is undecided."
        ]
        if self.baseline is not None:
            lines += self._against_baseline(label)
        if board.detectable is not None:
            lines.append(
                f"At this size a difference of {board.detectable:.2g} from {board.reference} is "
                "seen in four of five cases, a smaller one less often."
            )
        return [*lines, *self._about_runs()]

    def _against_baseline(self, label: str) -> list[str]:
        """Who is worse than the baseline, or within the margin."""
        others = [name for name in self.decisive.standings if name != self.baseline]
        if self.margin is None:
            if not self.worse:
                return [f"No model is shown to be worse than {self.baseline}."]
            return [f"{listed(self.worse)} {_are(self.worse)} worse than {self.baseline}."]
        within = [name for name in others if name not in self.worse]
        lines = []
        if within:
            lines.append(
                f"{listed(within)} {_are(within)} not worse than {self.baseline} by more than "
                f"{self.margin:g}."
            )
        if self.worse:
            lines.append(
                f"{listed(self.worse)} may be worse than {self.baseline} by more than "
                f"{self.margin:g}."
            )
        return lines

    def _about_runs(self) -> list[str]:
        """What the intervals do not cover."""
        single = [name for name, one in self.decisive.standings.items() if len(one.runs) == 1]
        if len(single) == len(self.decisive.standings):
            return ["One training run of each: nothing is said about retraining."]
        if single:
            return [f"One training run of {listed(single)}: nothing is said about retraining it."]
        return []

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain data for JSON, with the version of its schema.

        Returns:
            Keys `schema`, `leaderboards`, `by`, `baseline`, `margin`, `worse`, `protocol`, `notes`
            and `changes`; no `seconds`, so that one seed gives one comparison.
        """
        boards = {
            name: {
                "reference": board.reference,
                "best_set": board.best_set,
                "level": board.level,
                "standings": {name: asdict(one) for name, one in board.standings.items()},
                "costs": _plain(board),
            }
            for name, board in self.leaderboards.items()
        }
        return {
            "schema": SCHEMA,
            "leaderboards": boards,
            "by": self.by,
            "baseline": self.baseline,
            "margin": self.margin,
            "worse": self.worse,
            "protocol": self.protocol,
            "notes": self.notes,
            "changes": {name: asdict(one) for name, one in self.changes.items()},
        }


def _plain(board: Leaderboard) -> dict[str, Any] | None:
    """What differences are made of: scores to the power `order`, and their covariance."""
    if board.contest is None:
        return None
    return {
        "models": list(board.models),
        "centres": board.contest.centres.tolist(),
        "covariance": board.contest.covariance.tolist(),
        "order": board.contest.order,
    }


def _value(standing: Standing, estimate: float | None) -> str:
    """An estimate, else the value; "!" marks what did not converge."""
    number = standing.value if estimate is None else estimate
    return f"{number:.4g}" + ("" if standing.converged else " !")


def _range(interval: Interval | Difference | None) -> str:
    """The ends of an interval."""
    return "-" if interval is None else f"[{interval.low:.4g}, {interval.high:.4g}]"


def _ranks(ranks: tuple[int, int] | None) -> str:
    """A rank, or the first and last of them."""
    if ranks is None:
        return "-"
    least, greatest = ranks
    return f"{least}" if least == greatest else f"{least} to {greatest}"


def _difference(difference: Difference | None) -> tuple[str, str]:
    """A difference with its interval, and its p-value."""
    if difference is None:
        return "-", "-"
    pvalue = f"{difference.pvalue:.2g}" if difference.pvalue >= 0.001 else "< 0.001"
    return f"{difference.value:+.4g} {_range(difference)}", pvalue


def _are(names: list[str]) -> str:
    return "are" if len(names) > 1 else "is"
