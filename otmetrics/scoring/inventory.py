"""What was read of each side, in one line, and what is odd about it, in one line each.

Records come from `extraction`, and from files of features that others may have written: an entry of
another form than it has there is as good as none.
"""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

from otmetrics.errors import printable

FORMATS_DIFFER = "file formats differ"
"""How the note begins that says so."""

_LOSSY = {"jpg", "webp", "tif (jpeg)"}
_FEW = 5  # classes that a note names
_NAMED = 3  # modes or formats that it names
_DEEPEST = {"8": 6, "16": 14}  # bits of values that are stored in 8 and in 16 bits


def read_line(source: dict[str, Any], dimension: int) -> str:
    """What one side consists of.

    "330 images, 16 x 16 to 64 x 48 (3 sizes), RGB 8 bit, 3 classes, png", or of features that were
    given "330 features, 64-d", and what images they are of where that is known.
    """
    if source.get("kind") == "statistics":
        return f"mean and covariance, {dimension}-d"
    if source.get("kind") == "summary":
        return _summary_line(source, dimension)
    images = origin(source)
    if images is source and _sizes(source):
        return ", ".join([_share(source, "image"), *_describe(images)])

    parts = [f"{_share(source, 'feature')}, {dimension}-d"]
    if images is source or not _sizes(images):
        # Bare features may have classes, but of a size or a format nothing is known.
        parts += _describe({"classes": images.get("classes")})
    else:
        first, *rest = _describe(images)
        parts += [f"of images of {first}", *rest]
    return ", ".join(parts)


def _summary_line(source: dict[str, Any], dimension: int) -> str:
    """What a summary is of, and how much of it is at hand."""
    used, kept = source.get("used", 0), source.get("kept", 0)
    number = "an unknown number of features" if used is None else _count(used, "feature")
    parts = [f"summary of {number}, {kept or 'none'} of them at hand, {dimension}-d"]
    images = origin(source)
    if images is not source and _sizes(images):
        first, *rest = _describe(images)
        parts += [f"of images of {first}", *rest]
    return ", ".join(parts)


def oddities(source: dict[str, Any]) -> list[str]:
    """What of one side was not read, or is not what it seems, one line each."""
    record, lines = origin(source), []
    frames = _numbers(record.get("frames"))
    if frames.get("left_out"):
        lines.append(
            f"only the first page or frame of a file is read, and {frames['left_out']} more in "
            f"{_count(frames.get('files', 0), 'file')} are left out: save them one per file"
        )

    for depth, largest in _numbers(record.get("largest")).items():
        if 0 <= largest < 2 ** _DEEPEST.get(depth, 0):
            lines.append(_dark(depth, largest))

    for what, count in _numbers(record.get("misnamed")).items():
        lines.append(f"{_count(count, 'image')} hold {printable(what)}: their compression is lossy")
    return lines + [printable(str(one)) for one in _list(record.get("remarks"))]


def differences(sources: dict[str, dict[str, Any]]) -> list[str]:
    """In what each other side differs from the real one besides its content, one line each."""
    real, lines = sources["real"], []
    for name, other in sources.items():
        if name != "real":
            sides = {"real": origin(real), name: origin(other)}
            lines += [line for check in _CHECKS if (line := check(sides))]
    # Also of fake and floor_with, which no other check compares.
    pairs = combinations(sources, 2)
    return lines + [line for one, two in pairs if (line := _overlap(sources, one, two))]


def origin(source: dict[str, Any]) -> dict[str, Any]:
    """The record of what the features of a side were made of, else its own record."""
    before = source.get("origin")
    return before if isinstance(before, dict) and before else source


def _share(source: dict[str, Any], what: str) -> str:
    """How many of how many."""
    used, available = source.get("used", 0), source.get("available", 0)
    return _count(used, what) if used == available else f"{used} of {_count(available, what)}"


def _count(number: int, what: str) -> str:
    """A number and what it counts."""
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"


def _describe(images: dict[str, Any]) -> list[str]:
    """Sizes, modes, classes and formats."""
    parts = [_size(images), _tally(images.get("modes"))]
    classes = _numbers(images.get("classes"))
    parts += [_count(len(classes), "class")] if classes else []
    parts.append(_tally(images.get("formats")))
    return [part for part in parts if part]


def _size(images: dict[str, Any]) -> str:
    """The size, or the range of sizes."""
    sizes = _sizes(images)
    if not sizes:
        return ""
    smallest, largest = (f"{x} x {y}" for x, y in (sizes["smallest"], sizes["largest"]))
    if sizes["different"] == 1:
        return smallest
    return f"{smallest} to {largest} ({sizes['different']} sizes)"


def _sizes(images: dict[str, Any]) -> dict[str, Any]:
    """Sizes of a record; none where they have another form."""
    sizes = images.get("sizes")
    if not isinstance(sizes, dict) or not isinstance(sizes.get("different"), int):
        return {}
    # Of exactly this type: a boolean of JSON is an int too.
    named = [sizes.get(name) for name in ("smallest", "middle", "largest")]
    good = all(isinstance(one, list) and [type(n) for n in one] == [int, int] for one in named)
    return sizes if good else {}


def _numbers(entry: Any) -> dict[str, int]:
    """Counts of a record; none where they have another form."""
    if not isinstance(entry, dict) or not all(type(count) is int for count in entry.values()):
        return {}
    return entry


def _list(entry: Any) -> list[Any]:
    """A list of a record; an empty one where it has another form."""
    return entry if isinstance(entry, list) else []


def _tally(entry: Any) -> str:
    """The one that all are, or the commonest ones with their counts."""
    counts = sorted(_numbers(entry).items(), key=lambda item: -item[1])
    if len(counts) <= 1:
        return "".join(printable(name) for name, _ in counts)
    parts = [f"{count} {printable(name)}" for name, count in counts[:_NAMED]]
    return " and ".join(parts) + _and_more(len(counts) - _NAMED)


def _and_more(rest: int) -> str:
    """What ends a list that names only the first few."""
    return f" and {rest} more" if rest > 0 else ""


def _dark(depth: str, largest: int) -> str:
    """Say that values fill a small part of their range, which ends in white."""
    told = f"no value of its {depth}-bit images is above {largest}"
    if depth == "8":
        return f"{told}, where white is 255: are these classes, or values of another range?"
    # Cameras and scanners store values of 10, 12 or 14 bits in 16, unscaled.
    bits = max(largest.bit_length(), 1)
    return (
        f"{told}: of values of {bits} bits the high byte, which is read, is all but black; "
        f"multiply them by {2 ** (16 - bits)} first"
    )


Sides = dict[str, dict[str, Any]]


def _sizes_differ(sides: Sides) -> str:
    """Sizes: one that all have against another or several, or four times the area."""
    found = [_sizes(side) for side in sides.values()]
    if not all(found):
        return ""
    # Photographs of mixed sizes differ by a little on any two sides; a single size is a choice.
    single = [one["different"] == 1 for one in found]
    same = all(single) and found[0]["smallest"] == found[1]["smallest"]

    areas = sorted(one["middle"][0] * one["middle"][1] for one in found)
    if same or (not any(single) and areas[1] < 4 * areas[0]):
        return ""
    told = _describe_both(sides, _size)
    return (
        f"sizes differ ({told}): sheets of several samples must be cut, and resizing moves scores"
    )


def _modes_differ(sides: Sides) -> str:
    """Modes and depths: a tenth or more of one side would have to change."""
    real, other = (_numbers(side.get("modes")) for side in sides.values())
    if not sum(real.values()) or not sum(other.values()):
        return ""
    # Half of the absolute differences is the share that would have to change its mode.
    shares = [{name: n / sum(one.values()) for name, n in one.items()} for one in (real, other)]
    names = {*real, *other}
    apart = sum(abs(shares[0].get(name, 0) - shares[1].get(name, 0)) for name in names) / 2
    if apart < 0.1:
        return ""
    told = _describe_both(sides, lambda side: _tally(side.get("modes")))
    return f"modes or bit depths differ ({told}): colour and depth alone move scores"


def _levels_differ(sides: Sides) -> str:
    """Masks and black pictures on one side only."""
    counts: list[tuple[Any, Any]] = [(s.get("two_levels"), s.get("used")) for s in sides.values()]
    if not all(type(number) is int for pair in counts for number in pair):
        return ""
    # A few such pictures are among any images; where they are the most, the side is another kind.
    most = [2 * levels > used for levels, used in counts]
    if most[0] == most[1]:
        return ""
    told = _describe_both(sides, lambda side: f"{side['two_levels']} of {side['used']}")
    return (
        f"pictures that have no more than two levels: {told}; masks, or black, or of other depth?"
    )


def _formats_differ(sides: Sides) -> str:
    """Formats of which one is lossy."""
    formats = [set(_numbers(side.get("formats"))) for side in sides.values()]
    if not all(formats) or formats[0] == formats[1] or not set.union(*formats) & _LOSSY:
        return ""
    described = " and ".join(printable("/".join(sorted(kinds))) for kinds in formats)
    return f"{FORMATS_DIFFER} ({described}): lossy compression alone moves scores"


def _classes_differ(sides: Sides) -> str:
    """Classes that one side lacks."""
    classes = [set(_numbers(side.get("classes"))) for side in sides.values()]
    # A folder of one class is not told from any other folder: its name decides.
    for side, own, others in zip(sides.values(), classes, classes[::-1], strict=True):
        if not own and others:
            own |= others & {str(side.get("top_folder"))}
    if not all(classes):
        return ""

    if not classes[0] & classes[1]:
        return f"no class has the same name in {' and '.join(sides)}: " + _describe_both(
            sides, lambda side: _first(sorted(_numbers(side["classes"])))
        )

    parts = []
    for (name, side), there, wanted in zip(sides.items(), classes, classes[::-1], strict=True):
        # What the input has, but a draw of `num` samples did not take, is not missing.
        missing = sorted(wanted - there - set(map(str, _list(side.get("classes_not_drawn")))))
        if missing:
            parts.append(
                f"{name} has no sample of {_count(len(missing), 'class')}: {_first(missing)}"
            )
    return "; ".join(parts)


_CHECKS: tuple[Callable[[Sides], str], ...] = (
    _sizes_differ,
    _modes_differ,
    _levels_differ,
    _formats_differ,
    _classes_differ,
)


def _first(names: list[str]) -> str:
    """The first few of many names."""
    return ", ".join(map(printable, names[:_FEW])) + _and_more(len(names) - _FEW)


def _describe_both(sides: Sides, what: Callable[[dict[str, Any]], str]) -> str:
    return ", ".join(f"{name} {what(side)}" for name, side in sides.items())


def _overlap(sources: Sides, one: str, two: str) -> str:
    """Say where two sides are the same input, or one a folder inside the other."""
    try:
        paths = {name: Path(sources[name]["path"]).resolve() for name in (one, two)}
    except (OSError, RuntimeError, ValueError):  # a working folder that is gone, links in a ring
        return ""
    if paths[one] == paths[two]:
        return f"{one} and {two} are the same input"

    # Only a folder is read with what lies inside it.
    folders = all(sources[name].get("kind") == "folder" for name in (one, two))
    for inner, outer in ((one, two), (two, one)) if folders else ():
        if paths[inner].is_relative_to(paths[outer]):
            return (
                f"{inner} is a folder inside {outer}, which is read with all its folders: its "
                f"images count as {outer} too; put them next to each other"
            )
    return ""
