"""The page of a ScoreReport."""

from collections.abc import Mapping, Sequence

from otmetrics.errors import Message
from otmetrics.scoring.legend import provenance, read_lines, sample_lines, score_legend
from otmetrics.scoring.report import Score, ScoreReport, score_label

from .elements import Child, Element, element, name
from .frame import NOWHERE, Origin, Section, Top, last_sections, page, path_name
from .regions import bullets, folded
from .rows import NARROW, floor_bar, interval_line, row_scale, signs
from .tables import table
from .words import meanings

_UNDECIDED = "The scores have no intervals and no tests that say whether real and fake differ."
_SHARES = {"precision", "recall", "coverage"}
_HEADS = (("interval", "interval, drawn"), ("excess", "from floor to score"))
"""The columns after which drawings stand, by their ends, and what stands above these."""


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
        *last_sections(report.protocol, basis, [*unconverged(report), *notes], origin),
    ]
    return page(top, sections, report.to_dict())


def scores_content(report: ScoreReport) -> list[Child]:
    """All scores as the terminal has them, with their drawings, and what they mean."""
    header = report.header()
    rows = [
        _with_drawings(
            header,
            _with_centre(header, row, metric, score, report),
            _drawings(row[0], metric, score, report),
        )
        for row, (metric, score) in zip(report.rows(), report.scores.items(), strict=True)
    ]
    heads = {column: element("th", head, scope="col", class_="words") for column, head in _HEADS}
    marks = [] if report.converged else ["!: the solver did not converge, see the notes"]
    return [
        table("Scores of fake against real", _with_drawings(header, header, heads), rows),
        _signs(report),
        element("div", bullets([*score_legend(report), *marks]), class_="quiet"),
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


def _with_centre(
    header: Sequence[str], row: Sequence[str], metric: str, score: Score, report: ScoreReport
) -> list[Child]:
    """A line of the table; what an interval is around stands under it where it is not the score."""
    line: list[Child] = [*row]
    if score.interval is not None and score.debiased is not None:
        place = next(k for k, column in enumerate(header) if column.endswith("interval"))
        told = f"around {_centre(metric, score, report):.4g}, without bias"
        line[place] = [row[place], element("span", told, class_="under")]
    return line


def _with_drawings(
    header: Sequence[str], cells: Sequence[Child], drawings: Mapping[str, Child]
) -> list[Child]:
    """A line of the table with each drawing after the numbers that it shows."""
    line: list[Child] = []
    for column, cell in zip(header, cells, strict=True):
        line.append(cell)
        line += [drawing for end, drawing in drawings.items() if column.endswith(end)]
    return line


def _drawings(label: str, metric: str, score: Score, report: ScoreReport) -> dict[str, Child]:
    """An interval, and the bar from the floor: each on a scale of its own.

    An interval without the bias of few samples is for another number than the score of so many, and
    the floor is of fewer samples again: on one scale they would seem to compare.
    """
    interval, floor, end = score.interval, score.floor, 1.0 if metric in _SHARES else None
    drawn: dict[str, Child] = {column: None for column, _ in _HEADS}
    if interval is not None:
        centre, ends = _centre(metric, score, report), (interval.low, interval.high)
        scale = row_scale([0.0, end, centre, *ends], NARROW)
        title = f"{label}: {centre:.4g} in [{ends[0]:.4g}, {ends[1]:.4g}]"
        drawn["interval"] = interval_line(title, scale, centre, ends)
    if floor is not None:
        scale = row_scale([0.0, end, floor.value, floor.at_floor_size], NARROW)
        title = (
            f"{label}: floor {floor.value:.4g}, score of {floor.size} samples "
            f"{floor.at_floor_size:.4g}"
        )
        drawn["excess"] = floor_bar(title, scale, floor.value, floor.at_floor_size)
    return {column: element("td", one, class_="drawn") for column, one in drawn.items()}


def _centre(metric: str, score: Score, report: ScoreReport) -> float:
    """The score, or what is left of it without its bias: what the interval is around."""
    if score.debiased is None:
        return score.value
    sliced = metric == "sliced_wasserstein"
    order = report.protocol["scoring"]["sliced"]["order"] if sliced else 1.0
    return max(score.debiased, 0.0) ** (1 / order)


def _signs(report: ScoreReport) -> Element | None:
    """What the marks in the drawings are; only those that are there."""
    value, floor, excess, zero = signs("value", "floor", "excess", "zero")
    items: list[Child] = []
    if any(score.interval is not None for score in report.scores.values()):
        unbiased = any(score.debiased is not None for score in report.scores.values())
        told = ", without the bias of few samples where that is known" if unbiased else ""
        items.append([value, f" score in its interval{told}"])
    if any(score.floor is not None for score in report.scores.values()):
        items += [[floor, " floor"], [excess, " excess, from the floor to the score at its size"]]
    if not items:
        return None
    items.append([zero, " 0; every drawing has a scale of its own"])
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
