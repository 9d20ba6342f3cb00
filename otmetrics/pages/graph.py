"""A graph of clusters: where they lie, how large both sides are in them, what flows between."""

import math
from collections.abc import Sequence

from otmetrics.explanation.classes import Flow
from otmetrics.explanation.plane import Node

from .drawing import arrowhead, fill, label, stroke, svg
from .elements import Child, Element, element

_WIDTH, _HEIGHT, _MARGIN = 640, 420, 40
_LARGEST = 26  # radius of the largest circle
_SHOWN = 12  # arrows, the largest ones
_STEPS, _PUSH = 60, 0.5  # by which circles that overlap are pushed apart


def cluster_graph(title: str, nodes: Sequence[Node], flow: Flow) -> Element:
    """Rings of the real shares around discs of the fake ones, with arrows of the largest flows."""
    radii = _radii(nodes)
    places = _apart(_scaled(nodes), [max(pair) for pair in radii])
    circles: list[Child] = [_circles(*one) for one in zip(places, radii, strict=True)]
    # Above all circles, which may lie over the place of a neighbour's number.
    numbers: list[Child] = [
        label(x, y - max(pair) - 4, str(number + 1))
        for number, ((x, y), pair) in enumerate(zip(places, radii, strict=True))
    ]
    told = [
        f"cluster {i + 1}: {100 * one.real:.2g} % of real, {100 * one.fake:.2g} % of fake"
        for i, one in enumerate(nodes)
    ]
    drawn: list[Child] = [_arrows([node.name for node in nodes], places, flow), circles, numbers]
    return svg(title, "; ".join(told), _WIDTH, _HEIGHT, drawn, "plane")


def _arrows(names: list[str], places: Sequence[tuple[float, float]], flow: Flow) -> list[Child]:
    """Arrows of the largest flows, as wide as they are large."""
    flows, at = flow.largest()[:_SHOWN], dict(zip(names, places, strict=True))
    return [_arrow(at[a], at[b], 1 + 5 * value / flows[0][2]) for a, b, value in flows]


def _circles(place: tuple[float, float], radii: tuple[float, float]) -> list[Child]:
    """The ring of a cluster around its disc."""
    (x, y), (real, fake) = place, radii
    return [
        element("circle", cx=x, cy=y, r=fake, opacity=0.75, **fill("second")),
        element("circle", cx=x, cy=y, r=real, fill="none", **stroke("first", 2)),
    ]


def _radii(nodes: Sequence[Node]) -> list[tuple[float, float]]:
    """Radii of the ring and of the disc, whose areas are the shares."""
    largest = max(max(one.real, one.fake) for one in nodes) or 1.0
    return [
        (
            _LARGEST * math.sqrt(one.real / largest),
            _LARGEST * math.sqrt(one.fake / largest),
        )
        for one in nodes
    ]


def _scaled(nodes: Sequence[Node]) -> list[tuple[float, float]]:
    """Places in the drawing, with one scale in both directions."""
    across = [one.place[0] for one in nodes]
    down = [one.place[1] for one in nodes]
    spans = max(across) - min(across), max(down) - min(down)
    room = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    factor = min(
        (size / span for size, span in zip(room, spans, strict=True) if span > 0), default=1.0
    )
    middle = (max(across) + min(across)) / 2, (max(down) + min(down)) / 2
    return [
        (_WIDTH / 2 + factor * (x - middle[0]), _HEIGHT / 2 - factor * (y - middle[1]))
        for x, y in zip(across, down, strict=True)
    ]


def _apart(places: list[tuple[float, float]], radii: Sequence[float]) -> list[tuple[float, float]]:
    """Places at which no two circles hide each other much, near to those that were given."""
    moved = [list(place) for place in places]
    for _ in range(_STEPS):
        for i in range(len(moved)):
            for j in range(i):
                dx, dy = moved[i][0] - moved[j][0], moved[i][1] - moved[j][1]
                gap = math.hypot(dx, dy)
                wanted = radii[i] + radii[j] + 4
                if gap >= wanted:
                    continue
                if gap == 0:
                    dx, dy, gap = 1.0, 0.0, 1.0
                push = _PUSH * (wanted - gap) / 2 / gap
                for one, way in ((i, 1), (j, -1)):
                    moved[one][0] += way * push * dx
                    moved[one][1] += way * push * dy
    return [
        (
            min(max(x, _MARGIN), _WIDTH - _MARGIN),
            min(max(y, _MARGIN), _HEIGHT - _MARGIN),
        )
        for x, y in moved
    ]


def _arrow(start: tuple[float, float], end: tuple[float, float], width: float) -> list[Child]:
    """An arrow that is bent, so that one back does not hide it."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    bend = 0.15
    middle = (start[0] + end[0]) / 2 - bend * dy, (start[1] + end[1]) / 2 + bend * dx
    # The head stands in the middle of the line: at its end it would be under a circle.
    x, y = ((start[k] + 2 * middle[k] + end[k]) / 4 for k in (0, 1))
    head = arrowhead(x, y, (dx / length, dy / length), 4 + width)
    line = (
        f"M{start[0]:.1f} {start[1]:.1f}Q{middle[0]:.1f} {middle[1]:.1f} {end[0]:.1f} {end[1]:.1f}"
    )
    return [
        element("path", d=line, fill="none", opacity=0.6, **stroke("quiet", width)),
        element("path", d=head, **fill("quiet")),
    ]
