"""What drawings in SVG are made of: scales, shapes, colours.

Each drawing has a title, which is what it says to those who do not see it. What must be told apart
has a shape of its own besides its colour. Colours are attributes, so that drawings survive without
the style of the page, which only adapts them to dark screens. Numbers that are not finite are not
drawn.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from .elements import Child, Element, element

_COLOURS = {
    "ink": "#24292f",
    "quiet": "#6e7781",
    "line": "#afb8c1",
    "first": "#0a5aa6",  # blue and orange: told apart by all kinds of eyes, and in grey
    "second": "#b3500b",
    "third": "#1a7f5a",
    "fourth": "#8250a8",
}
SERIES = ("first", "second", "third", "fourth")
SHAPES = ("circle", "triangle", "square", "diamond")
_LARGEST, _LEAST = 1e300, 1e-300  # beyond which differences of numbers overflow, or vanish


class Scale(NamedTuple):
    """From numbers to places along an axis."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Where a number lies; what is beyond an end lies at it."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, most: int = 4) -> list[float]:
        """Round numbers along it."""
        rough = (self.high - self.low) / most
        size = 10 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        # Without the last digits, in which 3 * 0.1 is not 0.3.
        return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def scale_over(values: Iterable[float | None], start: float, end: float) -> Scale:
    """A scale that holds all numbers that can be drawn."""
    drawn = [value for value in values if value is not None and drawable(value)]
    low, high = min(drawn, default=0.0), max(drawn, default=1.0)
    # Floating-point noise around one number is no range to draw.
    if not high - low > max(1e-9 * abs(low), 1e-9 * abs(high), _LEAST):
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    return Scale(low, high, start, end)


def svg(
    title: str, description: str, width: float, height: float, drawn: Child, kind: str
) -> Element:
    """A drawing with its title, and more words about it where there is more to say."""
    return element(
        "svg",
        element("title", title),
        element("desc", description) if description else None,
        drawn,
        class_=f"drawing {kind}",
        role="img",
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> Element:
    """A line between two places."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **stroke(colour, width))


def tick(x: float, top: float, bottom: float, colour: str, dash: str | None = None) -> Element:
    """A stroke from top to bottom."""
    style = stroke(colour, 2)
    return element("line", x1=x, y1=top, x2=x, y2=bottom, stroke_dasharray=dash, **style)


def box(low: float, high: float, top: float, height: float, colour: str) -> Element:
    """A bar, as long as a hair at least."""
    return element("rect", x=low, y=top, width=max(high - low, 1.0), height=height, **fill(colour))


def mark(shape: str, x: float, y: float, size: float, colour: str) -> Element:
    """A shape at a place."""
    return element("path", d=outline(shape, x, y, size), **fill(colour))


def outline(shape: str, x: float, y: float, size: float) -> str:
    """The outline of a shape around a point."""
    if shape == "circle":
        arc = f"a{size:g} {size:g} 0 1 0"
        return f"M{x - size:.1f} {y:.1f}{arc} {2 * size:g} 0{arc} {-2 * size:g} 0z"
    if shape == "triangle":
        return f"M{x:.1f} {y - 1.2 * size:.1f}l{1.1 * size:g} {2 * size:g}h{-2.2 * size:g}z"
    if shape == "square":
        side = 1.8 * size
        return f"M{x - side / 2:.1f} {y - side / 2:.1f}h{side:g}v{side:g}h{-side:g}z"
    if shape == "diamond":
        reach = 1.3 * size
        right, left = f"l{reach:g} {reach:g}", f"l{-reach:g} {reach:g}"
        return f"M{x:.1f} {y - reach:.1f}{right}{left}l{-reach:g} {-reach:g}z"
    raise ValueError(f"`shape` must be one of {', '.join(SHAPES)}, got {shape!r}.")


def arrowhead(x: float, y: float, way: tuple[float, float], size: float) -> str:
    """The outline of a head at a point, in the way of a vector of length 1."""
    ux, uy = way
    ends = [
        (x + size * ux, y + size * uy),
        (x - size * (ux + uy) / 2, y - size * (uy - ux) / 2),
        (x - size * (ux - uy) / 2, y - size * (uy + ux) / 2),
    ]
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in ends) + "Z"


def label(x: float, y: float, text: str, anchor: str = "middle") -> Element:
    """Words at a place."""
    return element(
        "text", text, x=x, y=y, text_anchor=anchor, font_size=11, fill=_COLOURS["ink"], class_="ink"
    )


def fill(colour: str, kind: str = "") -> dict[str, str]:
    """A colour for what is filled; `kind` is a class that the style of the page knows."""
    return {"fill": _COLOURS[colour], "class_": f"fill-{colour} {kind}".rstrip()}


def stroke(colour: str, width: float) -> dict[str, str | float]:
    """A colour for lines."""
    return {"stroke": _COLOURS[colour], "stroke_width": width, "class_": f"stroke-{colour}"}


def drawable(*values: float) -> bool:
    """Whether all are numbers that a drawing can show."""
    return all(abs(value) < _LARGEST for value in values)


def swatch(*drawn: Child) -> Element:
    """A sign of a legend, which the words next to it explain."""
    return element(
        "svg", drawn, viewBox="0 0 16 16", width=16, height=16, aria_hidden="true", class_="swatch"
    )
