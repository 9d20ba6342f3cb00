"""Pictures of the most serious finding of an explanation, to stand under its headline."""

from collections.abc import Callable, Sequence

from otmetrics.explanation.copies import Copy
from otmetrics.scoring.effects import times
from otmetrics.scoring.explanation import Explanation

from .elements import Child, Element, element
from .regions import gallery
from .shown import Shown

_MOST = 8  # pictures

Pictures = tuple[Sequence[Sequence[Element | None]], str]
"""Groups of pictures that belong together, and what they are."""


def first_pictures(found: Explanation, shown: Shown) -> Child:
    """Pictures of the first kind of finding that has any, under them what they are."""
    kinds: dict[str, Callable[[Explanation, Shown], Pictures]] = {
        "copies": _copies,
        "unlike": _unlike,
        "clusters": _cluster,
    }
    if not shown.any:
        return None
    for kind in found.kinds():
        if kind not in kinds:
            continue
        groups, told = kinds[kind](found, shown)
        there = [element("div", group, class_="together") for group in groups if any(group)]
        if there:
            return [gallery(there), element("p", told, class_="quiet")]
    return None


def pair(copy: Copy, shown: Shown) -> list[Element]:
    """A fake and the training sample that it is close to; nothing where one is gone."""
    pictures = shown.picture("fake", copy.fake), shown.picture("train", copy.train)
    there = [one for one in pictures if one is not None]
    return there if len(there) == len(pictures) else []


def _copies(found: Explanation, shown: Shown) -> Pictures:
    """The nearest copies, each next to what it copies."""
    rows = () if found.copies is None else found.copies.rows[: _MOST // 2]
    told = "Fakes, each with the training image next to it that it nearly copies."
    return [pair(one, shown) for one in rows], told


def _unlike(found: Explanation, shown: Shown) -> Pictures:
    """The fakes that lie furthest."""
    told = "The fakes that are most unlike any real image."
    return [[shown.picture("fake", one.fake)] for one in found.worst[:_MOST]], told


def _cluster(found: Explanation, shown: Shown) -> Pictures:
    """Real samples of the cluster that fakes avoid most; else fakes of the most crowded one."""
    gaps, crowded = found.uncovered.gaps, found.uncovered.crowded
    side, one = ("real", gaps[0]) if gaps else ("fake", crowded[0])
    rows = one.examples if gaps else one.fakes
    way = "seldom" if gaps else "often"
    told = (
        f"{side.capitalize()} images of cluster {one.cluster + 1}, in which fakes lie too {way} "
        f"({times(one.ratio)})."
    )
    return [[shown.picture(side, row)] for row in rows[:_MOST]], told
