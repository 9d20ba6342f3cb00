"""Tables, lists of what decided a number, and maps of numbers as tables."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from .elements import Child, Element, element
from .regions import scrolling

_LEVELS = 4  # shades of a colour to each side of 0
_LONGEST = 10  # lines of a record that a page shows; its JSON has all


def table(
    title: str,
    header: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    *,
    left: Iterable[int] = (0,),
    kind: str | None = None,
) -> Element:
    """A table under its title, which scrolls by itself where the screen is too narrow.

    The first cell of each row names it. Columns in `left` hold words, the others numbers.
    """
    words = set(left)
    head = [_cell("th", name, index in words, scope="col") for index, name in enumerate(header)]
    body = [
        element(
            "tr",
            [
                _cell("th", cell, True, scope="row")
                if index == 0
                else _cell("td", cell, index in words)
                for index, cell in enumerate(row)
            ],
        )
        for row in rows
    ]
    made = element(
        "table",
        element("caption", title),
        element("thead", element("tr", head)),
        element("tbody", body),
        class_=kind,
    )
    return scrolling(title, made)


def heat_table(
    title: str,
    rows: Sequence[Child],
    columns: Sequence[Child],
    values: Sequence[Sequence[float]],
    *,
    corner: str,
) -> Element:
    """A matrix of numbers whose cells are the darker the further they are from 0.

    Blue is below 0, orange above it; the sign and the number stand in the cell. `corner` says what
    rows and columns are.
    """
    finite = [abs(value) for line in values for value in line if math.isfinite(value)]
    largest = max(finite, default=0.0) or 1.0
    lines = [
        [row, *(_shaded(value, largest) for value in line)]
        for row, line in zip(rows, values, strict=True)
    ]
    return table(title, [corner, *columns], lines, kind="heat")


def record(title: str, content: dict[str, Any]) -> Element:
    """Nested plain data as a table of names and values."""
    return table(title, ["what", "value"], _entries(content, ""), left=(0, 1), kind="record")


def _cell(tag: str, content: Child, words: bool, scope: str | None = None) -> Element:
    if isinstance(content, Element) and content.tag in ("td", "th"):
        return content
    return element(tag, content, scope=scope, class_="words" if words else None)


def _shaded(value: float, largest: float) -> Element:
    if not math.isfinite(value):
        return element("td", "-")
    level = round(_LEVELS * abs(value) / largest)
    side = "above" if value > 0 else "below"
    text = f"{value:+.3g}" if value else "0"
    return element("td", text, class_=f"{side}-{level}" if level else None)


def _entries(value: Any, path: str) -> list[tuple[Child, Child]]:
    """A row for each value in nested data, named by its place."""
    if isinstance(value, dict) and value:
        return [
            row
            for key, inner in value.items()
            for row in _entries(inner, f"{path}.{key}" if path else str(key))
        ]
    return [(element("bdi", path), element("bdi", _value_text(value)))]


def _value_text(value: Any) -> str:
    """A value as a reader takes it; of long lists the beginning."""
    if isinstance(value, list | tuple):
        if not value:
            return "none"
        shown = ", ".join(_value_text(one) for one in value[:_LONGEST])
        more = len(value) - _LONGEST
        return f"{shown} and {more} more, which the JSON has" if more > 0 else shown
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == {}:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
