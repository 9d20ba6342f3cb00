"""The record of an input: checked, as any program may have written it, and joined with others."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from otmetrics.errors import DataError, printable

_LONGEST_EXTRACTOR = 10_000  # characters
_COUNTS = ("formats", "modes", "frames", "misnamed", "classes")
_PARTS = "parts"  # of inputs that are summarised: which of how many, of how many samples, of which
_LINES = ("skipped", "remarks", "classes_not_drawn")
_SOURCE: dict[str, type] = {
    **dict.fromkeys(("path", "kind", "top_folder", "runtime"), str),
    **dict.fromkeys(("available", "used", "others", "transparent", "two_levels"), int),
    **dict.fromkeys((*_COUNTS, "sizes"), dict),
    **dict.fromkeys((*_LINES, _PARTS), list),
}


def checked_record(
    protocol: dict[str, Any], path: str | Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file of features says of itself, checked: any program may have written it.

    Returns the protocol of the extractor, {"extractor": "none"} if the record has none, and the
    record of the images with its text made printable, {} if it has none.
    """
    extractor, source = protocol.get("extractor", {"extractor": "none"}), protocol.get("source", {})
    problem = _extractor_problem(extractor) or _source_problem(source)
    if problem:
        raise DataError(
            f"`{path}` has a `protocol` entry that otmetrics did not write: {problem}. Leave the "
            "entry out, or extract the features again."
        )
    return extractor, _escape(source)


def _extractor_problem(record: Any) -> str | None:
    """What keeps a value from being the protocol of an extractor."""
    if not isinstance(record, dict) or not isinstance(record.get("extractor"), str):
        return "its `extractor` must be an object that names the extractor"
    resize = record.get("resize")
    if resize is not None and not (isinstance(resize, dict) and {"mode", "size"} <= resize.keys()):
        return "how its extractor resizes must be an object with a mode and a size"
    if not _is_plain(record, 4) or len(str(record)) > _LONGEST_EXTRACTOR:
        return "its `extractor` is too long, nested too deeply, or holds NaN"
    if _escape(record) != record:  # it must print as one line
        return "its `extractor` holds control characters"
    return None


def _source_problem(record: Any) -> str | None:
    """What keeps a value from being the record of images."""
    if not isinstance(record, dict):
        return "its `source` must be an object"
    if not _is_plain(record, 20):
        return "its `source` is nested too deeply, or holds NaN"
    for name, value in record.items():
        kind = _SOURCE.get(name, object)
        # JSON's true is an int to Python.
        count = not isinstance(value, bool) and isinstance(value, int) and value >= 0
        if not (count if kind is int else isinstance(value, kind)):
            return f"`{printable(name)}` of its source is a {type(value).__name__}"

    # What notes and tables take apart must have the form in depth, too.
    for name in _LINES:
        if not all(isinstance(line, str) for line in record.get(name, [])):
            return f"`{name}` of its source must be lines of text"
    for name in _COUNTS:
        if not all(isinstance(count, int) for count in record.get(name, {}).values()):
            return f"`{name}` of its source must count"
    if not all(map(_is_part, record.get(_PARTS, []))):
        return f'`{_PARTS}` of its source must be such as [2, 64, 50000, "real/"]'
    return None


def _is_part(part: Any) -> bool:
    """Whether parsed JSON says which part of how many."""
    kinds = [type(one) for one in part] if isinstance(part, list) else []
    return kinds == [int, int, int, str] and 1 <= part[0] <= part[1] and part[2] >= 0


def _is_plain(value: Any, depth: int) -> bool:
    """Whether parsed JSON has so many levels at most, and no number that JSON has not."""
    # The depth bounds the recursion here and wherever a record is walked through.
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def _escape(value: Any) -> Any:
    """Parsed JSON with text that prints as one line."""
    if isinstance(value, dict):
        return {printable(key): _escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape(item) for item in value]
    return printable(value) if isinstance(value, str) else value


_SUMS = ("available", "used", "others", "transparent", "two_levels")
_TEXTS = ("path", "kind", "runtime")


def merged_records(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The record of two inputs together: counts are added, lines and names are joined.

    What is of one input alone, such as its sizes of images, stays where both have it alike.
    """
    if not first or not second:
        return first or second
    merged: dict[str, Any] = {}
    # Of an input whose images were all left out nothing is known but that.
    filled = [record for record in (first, second) if record.get("used", 1)]
    for name in sorted({*first, *second}):
        values = [record[name] for record in (first, second) if name in record]
        if name in _SUMS:
            merged[name] = sum(values)
        elif name == "classes" and len(values) < 2:
            continue  # those of a part of the samples
        elif name in _COUNTS:
            merged[name] = _added(values)
        elif name in ("skipped", _PARTS):
            merged[name] = sorted(item for value in values for item in value)
        elif name == "largest":
            merged[name] = _added(values, max)
        elif name == "remarks":
            merged[name] = sorted({item for value in values for item in value})
        elif name in _TEXTS:
            merged[name] = ", ".join(sorted({part for v in values for part in v.split(", ")}))
        elif len(values) == len(filled) and all(value == values[0] for value in values):
            merged[name] = values[0]
    return merged


def _added(
    counts: list[dict[str, int]], how: Callable[[Iterable[int]], int] = sum
) -> dict[str, int]:
    """The numbers of several records under the names that any of them has."""
    names = sorted({name for one in counts for name in one})
    return {name: how(one[name] for one in counts if name in one) for name in names}
