"""Drawings in the lines of a table: values in their intervals, bars, and their scale.

The second colour is that of fake samples on all pages, and so of what is measured of them; the
first that of real ones, and so of floors.
"""

from collections.abc import Iterable, Sequence

from .drawing import Scale, box, drawable, label, line, mark, scale_over, svg, swatch, tick
from .elements import Child, Element

WIDTH, NARROW, HEIGHT = 260, 150, 26
_MARGIN = 10  # to both sides, for marks at the ends


def row_scale(values: Iterable[float | None], width: float = WIDTH) -> Scale:
    """A scale for the drawings of a column, which holds all numbers that are there."""
    return scale_over(values, _MARGIN, width - _MARGIN)


def floor_bar(title: str, scale: Scale, floor: float, value: float) -> Element:
    """A bar from the floor of a score, which is a tick, to the score at the size of the floor."""
    marks: list[Child] = [_zero(scale)]
    if drawable(floor, value):
        low, high = sorted(map(scale.place, (floor, value)))
        marks.append(box(low, high, 9, 8, "second"))
        # The floor is where the bar begins, to whichever side it goes.
        marks.append(tick(scale.place(floor), 4, HEIGHT - 4, "first"))
    return _row(title, scale, marks)


def interval_line(
    title: str,
    scale: Scale,
    value: float,
    interval: tuple[float, float] | None = None,
    *,
    marks: Sequence[float] = (),
) -> Element:
    """A value in its interval, on the scale of the whole table; `marks` are lines across it."""
    lines = [tick(scale.place(one), 0, HEIGHT, "line", dash="3 2") for one in marks]
    return _row(title, scale, [_zero(scale), lines, _whiskers(scale, value, interval)])


def bar(title: str, scale: Scale, value: float, beside: float | None = None) -> Element:
    """A bar from 0 to a value; under it a thin one of what it is compared with."""
    drawn: list[Child] = [_zero(scale)]
    for number, top, height, colour in ((value, 5, 10, "second"), (beside, 17, 5, "first")):
        if number is not None and drawable(number):
            low, high = sorted((scale.place(0.0), scale.place(number)))
            drawn.append(box(low, high, top, height, colour))
    return _row(title, scale, drawn)


def axis(scale: Scale, title: str = "scale") -> Element:
    """The scale of a column of drawings, to stand above or below them."""
    drawn: list[Child] = [line(scale.start, 3, scale.end, 3, "quiet")]
    for number in _spaced(scale):
        place = scale.place(number)
        drawn += [line(place, 3, place, 8, "quiet"), label(place, 20, f"{number:.4g}")]
    return _row(title, scale, drawn)


def signs(*kinds: str) -> list[Element]:
    """Signs for the legend of tables with `floor_bar`, `interval_line` and `bar`."""
    made = {
        "value": lambda: swatch(line(1, 8, 15, 8, "second", 2), mark("circle", 8, 8, 4, "second")),
        "floor": lambda: swatch(tick(8, 2, 14, "first")),
        "excess": lambda: swatch(box(1, 15, 5, 6, "second")),
        "bar": lambda: swatch(box(1, 15, 3, 10, "second")),
        "beside": lambda: swatch(box(1, 15, 6, 5, "first")),
        "mark": lambda: swatch(tick(8, 0, 16, "line", dash="3 2")),
        "zero": lambda: swatch(line(8, 0, 8, 16, "line")),
    }
    return [made[kind]() for kind in kinds]


def _row(title: str, scale: Scale, drawn: Child) -> Element:
    return svg(title, "", scale.end + _MARGIN, HEIGHT, drawn, "row")


def _spaced(scale: Scale) -> list[float]:
    """Ticks whose labels leave room for each other in a line of a table."""
    ticks = scale.ticks(4)
    longest = max((len(f"{number:.4g}") for number in ticks), default=0)
    room = (scale.end - scale.start) / max(1, len(ticks))
    return ticks if 7 * longest <= room else ticks[:: max(1, len(ticks) - 1)]


def _whiskers(scale: Scale, value: float, interval: tuple[float, float] | None) -> list[Child]:
    """A mark at a value, and a line with ends along its interval."""
    drawn: list[Child] = []
    height = HEIGHT / 2
    if interval is not None and drawable(*interval):
        low, high = map(scale.place, interval)
        drawn.append(line(low, height, high, height, "second", 2))
        drawn += [tick(end, height - 4, height + 4, "second") for end in (low, high)]
    if drawable(value):
        drawn.append(mark("circle", scale.place(value), height, 4.5, "second"))
    return drawn


def _zero(scale: Scale) -> Element | None:
    """A line at 0, where it is on the scale."""
    if not scale.low <= 0 <= scale.high:
        return None
    return line(scale.place(0.0), 0, scale.place(0.0), HEIGHT, "line")
