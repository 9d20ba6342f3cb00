"""The page of a Comparison."""

from collections.abc import Sequence

from otmetrics.scoring.comparison import Comparison, Leaderboard, Standing
from otmetrics.scoring.legend import comparison_legend, provenance, read_lines
from otmetrics.scoring.report import score_label

from .drawing import Scale
from .elements import Child, Element, element, name, named_sentence
from .frame import NOWHERE, Origin, Section, Top, last_sections, page, path_name
from .regions import bullets, captioned, folded, gallery
from .rows import axis, interval_line, row_scale, signs
from .tables import table
from .thumbnails import Thumbnails
from .words import meanings


def compare_page(found: Comparison, origin: Origin = NOWHERE) -> str:
    """A page with the verdict first, then leaderboard, differences, all scores, and the rest."""
    models, read = list(found.decisive.standings), read_lines(found)
    real = found.protocol["inputs"]["real"]
    top = Top(
        title=f"{len(models)} models against {real['path']}: otmetrics",
        heading=[f"Which of {len(models)} models is closest to ", path_name(real), "?"],
        verdict=[named_sentence(line, models) for line in found.verdict()],
        sides=[read[0], ["models: ", _listed(models)]],
    )
    notes = [note for note in found.notes if note != read[0]]
    images = Thumbnails()
    sections = [
        Section("leaderboard", "Leaderboard", _leaderboard(found)),
        *_differences_section(found),
        Section("scores", "All scores", _all_scores(found)),
        *_changes_section(found, images),
        *last_sections(found.protocol, [provenance(found.protocol)], notes, origin, models),
    ]
    return page(top, sections, found.to_dict(), images)


def _leaderboard(found: Comparison) -> list[Child]:
    """The score that decides: estimates in their intervals on one scale, ranks and letters."""
    board, (header, rows) = found.decisive, found.leaderboard()
    scale = _scale_of(board)
    # Where the score ranks, the last two columns are differences, which have a table of their own.
    shown = len(header) - (2 if board.reference is not None else 0)
    drawn: list[list[Child]] = [
        [name(row[0]), row[1], _drawn_standing(header, row, scale, one), *row[2:shown]]
        for row, one in zip(rows, board.standings.values(), strict=True)
    ]
    label = score_label(found.by, found.protocol)
    picture = _axis_cell(scale, "estimate and interval")
    columns: list[Child] = ["model", header[1], picture, *header[2:shown]]
    value, zero = signs("value", "zero")
    notes = [*comparison_legend()]
    if not found.converged:
        notes.append("!: the solver did not converge")
    return [
        table(f"Models by {label}, the best first", columns, drawn),
        _legend([value, " estimate and its interval"], [zero, " 0"] if scale.low <= 0 else None),
        folded("What the columns mean", bullets(notes)),
    ]


def _differences_section(found: Comparison) -> list[Section]:
    """The forest of differences from the reference; none where the score does not rank."""
    board, (header, rows) = found.decisive, found.leaderboard()
    if board.reference is None:
        return []
    differences = {
        model: one.difference
        for model, one in board.standings.items()
        if one.difference is not None
    }
    margins = [] if found.margin is None else [found.margin, -found.margin]
    ends = [x for one in differences.values() for x in (one.low, one.high, one.value)]
    scale = row_scale([0.0, *ends, *margins])
    better = "above" if board.contest is not None and board.contest.higher_is_better else "below"
    # Of the two limits of a margin one matters: on the worse side.
    mark = [] if found.margin is None else [found.margin if better == "below" else -found.margin]

    drawn: list[list[Child]] = []
    for row in rows:
        if row[0] not in differences:
            continue
        one = differences[row[0]]
        title = f"{row[0]} {header[-2]}: {row[-2]}, p {row[-1]}"
        drawing = interval_line(title, scale, one.value, (one.low, one.high), marks=mark)
        drawn.append([name(row[0]), element("td", drawing, class_="drawn"), row[-2], row[-1]])

    minus: list[Child] = ["minus ", name(board.reference)]
    columns: list[Child] = ["model", _axis_cell(scale, "difference"), minus, "p"]
    value, zero, dashed = signs("value", "zero", "mark")
    legend: list[Child] = [
        [value, " difference and its interval"],
        [zero, f" no difference; better is {better} 0"],
    ]
    if mark:
        legend.append([dashed, f" margin of {found.margin:g}"])
    content = [
        table(f"Differences by {score_label(found.by, found.protocol)}", columns, drawn),
        _legend(*legend),
        element(
            "p",
            f"The intervals hold together at {100 * board.level:g} %.",
        ),
    ]
    return [Section("differences", "Differences", content)]


def _changes_section(found: Comparison, images: Thumbnails) -> list[Section]:
    """Which real samples each model covers and the reference does not, and the reverse."""
    reference = found.decisive.reference
    if not found.changes or reference is None:
        return []
    rows: list[list[Child]] = [
        [name(model), *map(str, (one.gained, one.lost, one.both, one.neither))]
        for model, one in found.changes.items()
    ]
    title = "Real samples that models cover"
    header = ["model", "newly covered", "lost", "covered by both", "by none"]
    content: list[Child] = [
        element(
            "p",
            "Of the same real samples, next to those that ",
            name(reference),
            " covers. Whether the difference is more than chance says the score coverage.",
        ),
        table(title, header, rows),
    ]
    for model, one in found.changes.items():
        sides = (("Newly covered by ", one.gained_rows), ("Lost by ", one.lost_rows))
        for told, shown in sides:
            pictures = _real_pictures(found, shown, images)
            if pictures:
                content += [element("h3", told, name(model)), gallery(pictures)]
    return [Section("coverage", "What is covered", content)]


def _real_pictures(found: Comparison, rows: Sequence[int], images: Thumbnails) -> list[list[Child]]:
    """Pictures of real samples with their names; none where they are gone."""
    shown: list[list[Child]] = []
    if found.pictures is None:
        return shown
    names = found.pictures.names()
    for row in rows:
        content = found.pictures.thumbnail(row)
        if content is not None:
            picture = images.show(("real", row), content, f"real image {names[row]}")
            shown.append(captioned([picture], name(names[row])))
    return shown


def _all_scores(found: Comparison) -> list[Child]:
    """Values with letters, a column for each model."""
    header, rows = found.summary()
    columns: list[Child] = [header[0], *map(name, header[1:])]
    return [
        table("Values of all scores, with letters that tied models share", columns, rows),
        folded("What the scores mean", meanings(found.leaderboards, found.protocol)),
    ]


def _drawn_standing(
    header: Sequence[str], row: Sequence[str], scale: Scale, one: Standing
) -> Element:
    """The estimate of a model in its interval; its title says the line in words."""
    cells = [f"{what} {cell}" for what, cell in zip(header[1:], row[1:], strict=True)]
    interval = one.interval
    drawing = interval_line(
        f"{row[0]}: {', '.join(cells)}",
        scale,
        one.value if one.estimate is None else one.estimate,
        None if interval is None else (interval.low, interval.high),
    )
    return element("td", drawing, class_="drawn")


def _scale_of(board: Leaderboard) -> Scale:
    """One scale for all models of a score."""
    ends: list[float | None] = []
    for one in board.standings.values():
        ends.append(one.value if one.estimate is None else one.estimate)
        ends += [] if one.interval is None else [one.interval.low, one.interval.high]
    return row_scale(ends)


def _axis_cell(scale: Scale, title: str) -> Element:
    """The head of a column of drawings: what it shows, and its scale."""
    return element("th", title, axis(scale, f"scale of the {title}"), scope="col", class_="drawn")


def _legend(*items: Child) -> Element:
    shown = [element("li", item) for item in items if item is not None]
    return element("ul", shown, class_="legend")


def _listed(models: Sequence[str]) -> list[Child]:
    """Names with commas between them, each with its own direction."""
    parts: list[Child] = []
    for model in models:
        parts += [", ", name(model)] if parts else [name(model)]
    return parts
