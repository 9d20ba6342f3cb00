"""Drawings of their own: points on a plane with arrows between them, and curves."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from .drawing import (
    SERIES,
    SHAPES,
    Scale,
    arrowhead,
    drawable,
    fill,
    label,
    line,
    mark,
    outline,
    scale_over,
    stroke,
    svg,
    swatch,
)
from .elements import Child, Element, element, name

_DASHES = (None, "6 3", "2 2", "8 3 2 3")
_SIZE = (640, 400)
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 28, 48  # what axes leave around the points
_MOST_POWERS = 8  # of ten, which an axis names each


class Points(NamedTuple):
    """Points of one kind on a plane.

    Attributes:
        name: What they are.
        places: Their coordinates.
    """

    name: str
    places: Sequence[tuple[float, float]]


Place = tuple[float, float]
Names = tuple[str, str]
"""What the axes across and down show."""


def scatter(
    title: str,
    groups: Sequence[Points],
    axes: Names,
    arrows: Sequence[tuple[Place, Place]] = (),
    description: str = "",
) -> Element:
    """Points on a plane, each group with its shape, and arrows; `legend` names the groups."""
    across, down = _frame(groups, margin=0.04)
    drawn: list[Child] = [_axes(across, down, axes)]
    drawn += [
        _marks(across, down, group.places, index, 3, "points") for index, group in enumerate(groups)
    ]
    return _figure(title, description, [*drawn, _arrows(across, down, arrows)])


def _arrows(across: Scale, down: Scale, arrows: Sequence[tuple[Place, Place]]) -> Element | None:
    """Arrows between points, as one path."""
    outlines = []
    for pair in arrows:
        if not drawable(*pair[0], *pair[1]):
            continue
        (x, y), (there, below) = ((across.place(a), down.place(b)) for a, b in pair)
        length = math.hypot(there - x, below - y)
        if length > 0:
            way = (there - x) / length, (below - y) / length
            # Its point, not its middle, is at the end.
            head = arrowhead(there - 6 * way[0], below - 6 * way[1], way, 6)
            outlines.append(f"M{x:.1f} {y:.1f}L{there:.1f} {below:.1f}{head}")
    if not outlines:
        return None
    style = stroke("ink", 1) | fill("ink")
    return element("path", d="".join(outlines), **style | {"class_": "stroke-ink fill-ink arrows"})


class Curve(NamedTuple):
    """A line of values with what they may also be.

    Attributes:
        name: What it is.
        places: Its points, from left to right.
        band: Lower and upper end at each of them.
    """

    name: str
    places: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] | None = None


def curves(
    title: str,
    lines: Sequence[Curve],
    axes: Names,
    description: str = "",
    *,
    logarithmic: bool = False,
) -> Element:
    """Lines, each with its dashes; the axis across may be logarithmic, and numbers on it positive.

    The axis down begins at 0.
    """
    change = math.log10 if logarithmic else float
    moved = [one._replace(places=[(change(x), y) for x, y in one.places]) for one in lines]
    across, down = _frame(moved, origin=True)
    drawn: list[Child] = [_axes(across, down, axes, logarithmic=logarithmic)]
    for index, one in enumerate(moved):
        style = stroke(SERIES[index % 4], 2)
        if one.band is not None:
            there = [x for x, _ in one.places]
            ends = [(x, low) for x, (low, _) in zip(there, one.band, strict=True)]
            ends += [(x, high) for x, (_, high) in zip(there, one.band, strict=True)][::-1]
            area = _points(across, down, ends)
            drawn.append(element("polygon", points=area, opacity=0.18, **fill(SERIES[index % 4])))
        path = _points(across, down, one.places)
        dashes = _DASHES[index % 4]
        drawn.append(
            element("polyline", points=path, stroke_dasharray=dashes, fill="none", **style)
        )
        drawn.append(_marks(across, down, one.places, index, 4))
    return _figure(title, description, drawn)


def legend(names: Sequence[str]) -> Element:
    """What the shapes and colours of `scatter` and `curves` stand for, in their order."""
    items = [
        element("li", swatch(_mark(index, 8, 8)), " ", name(text))
        for index, text in enumerate(names)
    ]
    return element("ul", items, class_="legend")


def _figure(title: str, description: str, drawn: Child) -> Element:
    return svg(title, description, *_SIZE, drawn, "plane")


def _frame(
    groups: Sequence[Points | Curve], *, origin: bool = False, margin: float = 0.0
) -> tuple[Scale, Scale]:
    """Scales across and down that hold all points and bands, and 0 down if `origin`.

    `margin` is the share of each that stays empty at its ends.
    """
    places = [place for group in groups for place in group.places]
    bands = [group.band or () for group in groups if isinstance(group, Curve)]
    ends = [end for band in bands for pair in band for end in pair]
    across = scale_over([x for x, _ in places], _LEFT, _SIZE[0] - _RIGHT)
    heights = [y for _, y in places] + ends + ([0.0] if origin else [])
    down = scale_over(heights, _SIZE[1] - _BOTTOM, _TOP)
    return _widened(across, margin), _widened(down, margin)


def _widened(scale: Scale, margin: float) -> Scale:
    room = margin * (scale.high - scale.low)
    return scale._replace(low=scale.low - room, high=scale.high + room)


def _axes(across: Scale, down: Scale, names: Names, *, logarithmic: bool = False) -> list[Child]:
    """Both axes with their numbers and names: that of the axis down stands above it."""
    drawn: list[Child] = [
        line(across.start, down.start, across.end, down.start, "quiet"),
        line(across.start, down.start, across.start, down.end, "quiet"),
        label(across.end, down.start + 40, f"{names[0]} →", anchor="end"),
        label(8, 14, f"↑ {names[1]}", anchor="start"),
    ]
    for number in _powers(across) if logarithmic else across.ticks(6):
        x, shown = across.place(number), 10**number if logarithmic else number
        drawn.append(line(x, down.start, x, down.start + 5, "quiet"))
        drawn.append(label(x, down.start + 18, f"{shown:.4g}"))
    for number in down.ticks(5):
        y = down.place(number)
        drawn.append(line(across.start - 5, y, across.start, y, "quiet"))
        drawn.append(label(across.start - 8, y + 4, f"{number:.4g}", anchor="end"))
    return drawn


def _powers(scale: Scale) -> list[float]:
    """The logarithms of round numbers along a logarithmic scale: 1, 2 and 5, or powers of ten."""
    first, last = math.floor(scale.low), math.ceil(scale.high)
    if last - first > _MOST_POWERS:
        return scale.ticks(6)
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [power + math.log10(factor) for power in range(first, last + 1) for factor in factors]
    return [tick for tick in ticks if scale.low - 1e-9 <= tick <= scale.high + 1e-9]


def _mark(index: int, x: float, y: float) -> Element:
    """The sign of a group."""
    return mark(SHAPES[index % 4], x, y, 5, SERIES[index % 4])


def _marks(
    across: Scale,
    down: Scale,
    places: Sequence[tuple[float, float]],
    index: int,
    size: float,
    kind: str = "",
) -> Element:
    """The sign of a group at many places, as one path: thousands of elements would be slow."""
    shape = SHAPES[index % 4]
    paths = [
        outline(shape, across.place(x), down.place(y), size) for x, y in places if drawable(x, y)
    ]
    return element("path", d="".join(paths), **fill(SERIES[index % 4], kind))


def _points(across: Scale, down: Scale, places: Sequence[tuple[float, float]]) -> str:
    return " ".join(
        f"{across.place(x):.1f},{down.place(y):.1f}" for x, y in places if drawable(x, y)
    )
