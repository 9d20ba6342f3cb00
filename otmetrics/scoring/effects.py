"""How large an effect is that was found, and how sentences and tables tell it."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from otmetrics.explanation.attributes import Attribute
from otmetrics.explanation.shares import Share
from otmetrics.explanation.uncovered import Gap

NAMED = 3  # classes, clusters or attributes that a sentence names
_SLIGHT = 0.2  # standard deviations, below which few would see a shift


def first_named(names: list[str]) -> list[str]:
    """The first of them, and how many more there are."""
    more = len(names) - NAMED
    return [*names[:NAMED], *([f"{more} more"] if more > 0 else [])]


def effect(share: Share | Gap) -> float:
    """How far a ratio of shares is from 1, to either side."""
    return abs(math.log(share.ratio)) if share.ratio else math.inf


def shift(attribute: Attribute) -> float:
    """How far an attribute has moved; of what all real images have alike any shift is large."""
    return math.inf if attribute.shift is None else abs(attribute.shift)


def slight(attributes: Sequence[Attribute]) -> bool:
    """Whether none of them has moved by much."""
    return all(shift(one) < _SLIGHT for one in attributes)


_Some = TypeVar("_Some", Share, Gap)


def larger_first(
    both: tuple[Sequence[_Some], Sequence[_Some]], ways: tuple[str, str]
) -> list[tuple[Sequence[_Some], str]]:
    """Shares that are too small and too large, each with its word, the larger effect first.

    What is empty is left out.
    """
    pairs = [(some, way) for some, way in zip(both, ways, strict=True) if some]
    return sorted(pairs, key=lambda pair: max(map(effect, pair[0])), reverse=True)


def is_or_are(some: Sequence[Any]) -> str:
    """The verb of a sentence that names some."""
    return "is" if len(some) == 1 else "are"


def ratio_text(share: Share | Gap) -> str:
    """A ratio of shares with its interval."""
    if share.ratio is None:
        return "in fakes alone"
    return f"{share.ratio:.2g} [{share.low:.2g}, {share.high:.2g}]"


def times(ratio: float | None) -> str:
    """A ratio of shares in a sentence."""
    return "in fakes alone" if ratio is None else f"{ratio:.2g} times its share"


def shift_text(attribute: Attribute) -> str:
    """By how much an attribute differs."""
    if attribute.formats:
        real, fake = _told_formats(attribute)
        return f"{real} of real, {fake} of fakes"
    if attribute.shift is None:
        return f"{attribute.real:.3g} of all real ones, {attribute.fake:.3g} of fakes"
    return f"{attribute.shift:+.2g} sd"


def side_texts(attribute: Attribute) -> tuple[str, str]:
    """What an attribute is of real and of fake images."""
    if attribute.formats:
        return _told_formats(attribute)
    return f"{attribute.real:.3g}", f"{attribute.fake:.3g}"


def _told_formats(attribute: Attribute) -> tuple[str, str]:
    """The commonest format of each side; of one that is that of both sides its two shares."""
    real = max(attribute.formats, key=lambda one: one[1])
    fake = max(attribute.formats, key=lambda one: one[2])
    return f"{real[0]} {100 * real[1]:.3g} %", f"{fake[0]} {100 * fake[2]:.3g} %"
