"""The page of a ScoreReport."""

from collections.abc import Sequence

from otmetrics.errors import Message
from otmetrics.scoring.legend import provenance, read_lines, sample_lines, score_legend
from otmetrics.scoring.report import Score, ScoreReport, score_label

from .elements import Child, Element, element, name
from .frame import (
    NOWHERE,
    Origin,
    Section,
    Top,
    notes_section,
    page,
    path_name,
    protocol_section,
)
from .regions import bullets, folded
from .rows import excess_bar, signs
from .tables import table
from .words import meanings

_UNDECIDED = "The scores have no intervals and no tests that say whether real and fake differ."
_SHARES = {"precision", "recall", "coverage"}


def score_page(report: ScoreReport, origin: Origin = NOWHERE) -> str:
    """A page with the verdict first, then the scores, notes, and what repeats them."""
    inputs = report.protocol["inputs"]
    top = Top(
        title=f"{inputs['fake']['path']} against {inputs['real']['path']}: otmetrics",
        heading=[
            "How far is ",
            path_name(inputs["fake"]),
            " from ",
            path_name(inputs["real"]),
            "?",
        ],
        verdict=report.verdict() or [_UNDECIDED],
        sides=read_lines(report),
    )
    # What was read stands at the top.
    notes = [note for note in report.notes if note not in read_lines(report)]
    basis = [*sample_lines(report), provenance(report.protocol)]
    sections = [
        Section("scores", "Scores", scores_content(report)),
        *class_section(report),
        *notes_section([*unconverged(report), *notes], origin),
        protocol_section(report.protocol, basis, origin),
    ]
    return page(top, sections, report.to_dict())


def scores_content(report: ScoreReport) -> list[Child]:
    """All scores as the terminal has them, each with its drawing, and what they mean."""
    header, rows = report.header(), report.rows()
    drawn: list[list[Child]] = [
        [*row[:2], _drawing(header, row, metric, score), *row[2:]]
        for row, (metric, score) in zip(rows, report.scores.items(), strict=True)
    ]
    picture = element("th", "value and excess", scope="col", class_="words")
    columns: list[Child] = [*header[:2], picture, *header[2:]]
    marks = [] if report.converged else ["!: the solver did not converge, see the notes"]
    return [
        table("Scores of fake against real", columns, drawn),
        _signs(report),
        folded("What the columns mean", bullets([*score_legend(report), *marks])),
        folded("What the scores mean", meanings(report.scores, report.protocol)),
    ]


def class_section(report: ScoreReport) -> list[Section]:
    """The scores of each class, where they were asked for."""
    if report.classes is None:
        return []
    rows: list[list[Child]] = [[name(row[0]), *row[1:]] for row in report.class_rows()]
    content = [
        table("Scores of each class, the worst first", report.class_header(), rows),
        element(
            "p",
            "Of fewer samples distances lie higher: compare classes of one size.",
            class_="quiet",
        ),
    ]
    return [Section("class-scores", "Scores of each class", content)]


def _drawing(header: Sequence[str], row: Sequence[str], metric: str, score: Score) -> Element:
    """The numbers of a line of the table, drawn; its title says them in words."""
    label, *cells = row
    numbers = [f"{what} {cell}" for what, cell in zip(header[1:], cells, strict=True)]
    interval, floor = score.interval, score.floor
    drawing = excess_bar(
        f"{label}: {', '.join(numbers)}",
        score.value,
        None if interval is None else (interval.low, interval.high),
        None if floor is None else (floor.value, floor.at_floor_size),
        end=1.0 if metric in _SHARES else None,
    )
    return element("td", drawing, class_="drawn")


def _signs(report: ScoreReport) -> Element:
    """What the marks in the drawings are; only those that are there."""
    value, floor, excess, zero = signs("value", "floor", "excess", "zero")
    items: list[Child] = [[value, " value and its interval"]]
    if any(score.floor is not None for score in report.scores.values()):
        items += [[floor, " floor"], [excess, " excess, from the floor to the score at its size"]]
    items.append([zero, " 0; every line has a scale of its own"])
    return element("ul", [element("li", item) for item in items], class_="legend")


def unconverged(report: ScoreReport) -> list[str]:
    """What solvers say that did not reach their tolerance."""
    return [
        Message(f"{score_label(name, report.protocol)[:-2]} did not converge: ", score.message)
        if score.message
        else f"{score_label(name, report.protocol)[:-2]} did not converge"
        for name, score in report.scores.items()
        if not (score.converged and (score.floor is None or score.floor.converged))
    ]
