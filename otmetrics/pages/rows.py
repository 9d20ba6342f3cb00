"""Drawings in the lines of a table: values in their intervals, bars, and their scale."""

from collections.abc import Iterable, Sequence

from .drawing import Scale, box, drawable, label, line, mark, scale_over, svg, swatch, tick
from .elements import Child, Element

WIDTH, HEIGHT = 260, 26
_MARGIN = 10  # to both sides, for marks at the ends


def row_scale(values: Iterable[float | None]) -> Scale:
    """A scale for the drawings of a column, which holds all numbers that are there."""
    return scale_over(values, _MARGIN, WIDTH - _MARGIN)


def excess_bar(
    title: str,
    value: float,
    interval: tuple[float, float] | None = None,
    floor: tuple[float, float] | None = None,
    end: float | None = None,
) -> Element:
    """One score: above, its value in its interval; below, a bar from its floor.

    `floor` is the score between two parts of real, and the score itself at their size, which alone
    compares with it. The scale goes from 0 at least, to `end` at least.
    """
    scale = row_scale([0.0, end, value, *(interval or ()), *(floor or ())])
    marks: list[Child] = [_zero(scale)]
    if floor is not None and drawable(*floor):
        low, high = sorted(map(scale.place, floor))
        marks.append(box(low, high, 16, 6, "second"))
        # The floor is where the bar begins, to whichever side it goes.
        marks.append(tick(scale.place(floor[0]), 12, 25, "ink"))
    marks += _whiskers(scale, value, interval, 7)
    return _row(title, marks)


def interval_line(
    title: str,
    scale: Scale,
    value: float,
    interval: tuple[float, float] | None = None,
    *,
    marks: Sequence[float] = (),
    shape: str = "circle",
) -> Element:
    """A value in its interval, on the scale of the whole table; `marks` are lines across it."""
    lines = [tick(scale.place(one), 0, HEIGHT, "line", dash="3 2") for one in marks]
    return _row(title, [_zero(scale), lines, _whiskers(scale, value, interval, HEIGHT / 2, shape)])


def bar(title: str, scale: Scale, value: float, beside: float | None = None) -> Element:
    """A bar from 0 to a value; under it a thin one of what it is compared with."""
    drawn: list[Child] = [_zero(scale)]
    for number, top, height, colour in ((value, 5, 10, "first"), (beside, 17, 5, "quiet")):
        if number is not None and drawable(number):
            low, high = sorted((scale.place(0.0), scale.place(number)))
            drawn.append(box(low, high, top, height, colour))
    return _row(title, drawn)


def axis(scale: Scale, title: str = "scale") -> Element:
    """The scale of a column of drawings, to stand above or below them."""
    drawn: list[Child] = [line(scale.start, 3, scale.end, 3, "quiet")]
    for number in _spaced(scale):
        place = scale.place(number)
        drawn += [line(place, 3, place, 8, "quiet"), label(place, 20, f"{number:.4g}")]
    return _row(title, drawn)


def signs(*kinds: str) -> list[Element]:
    """Signs for the legend of tables with `excess_bar`, `interval_line` and `bar`."""
    made = {
        "value": lambda: swatch(line(1, 8, 15, 8, "first", 2), mark("circle", 8, 8, 4, "first")),
        "floor": lambda: swatch(tick(8, 2, 14, "ink")),
        "excess": lambda: swatch(box(1, 15, 5, 6, "second")),
        "bar": lambda: swatch(box(1, 15, 3, 10, "first")),
        "beside": lambda: swatch(box(1, 15, 6, 5, "quiet")),
        "mark": lambda: swatch(tick(8, 0, 16, "line", dash="3 2")),
        "zero": lambda: swatch(line(8, 0, 8, 16, "line")),
    }
    return [made[kind]() for kind in kinds]


def _row(title: str, drawn: Child) -> Element:
    return svg(title, "", WIDTH, HEIGHT, drawn, "row")


def _spaced(scale: Scale) -> list[float]:
    """Ticks whose labels leave room for each other in a line of a table."""
    ticks = scale.ticks(4)
    longest = max((len(f"{number:.4g}") for number in ticks), default=0)
    room = (scale.end - scale.start) / max(1, len(ticks))
    return ticks if 7 * longest <= room else ticks[:: max(1, len(ticks) - 1)]


def _whiskers(
    scale: Scale,
    value: float,
    interval: tuple[float, float] | None,
    height: float,
    shape: str = "circle",
) -> list[Child]:
    """A mark at a value, and a line with ends along its interval."""
    drawn: list[Child] = []
    if interval is not None and drawable(*interval):
        low, high = map(scale.place, interval)
        drawn.append(line(low, height, high, height, "first", 2))
        drawn += [tick(end, height - 4, height + 4, "first") for end in (low, high)]
    if drawable(value):
        drawn.append(mark(shape, scale.place(value), height, 4.5, "first"))
    return drawn


def _zero(scale: Scale) -> Element | None:
    """A line at 0, where it is on the scale."""
    if not scale.low <= 0 <= scale.high:
        return None
    return line(scale.place(0.0), 0, scale.place(0.0), HEIGHT, "line")
