"""Words and numbers as pages tell them: what scores mean, shares as percent."""

from collections.abc import Iterable
from typing import Any

from otmetrics.scoring.report import score_label

from .elements import Child, Element, element

_MEANINGS = {
    "sliced_wasserstein": "How far fake samples must move to become the real ones, seen along "
    "random directions.",
    "wasserstein": "How far fake samples must move to become the real ones, at the least. In many "
    "dimensions it prefers samples that spread too little.",
    "sinkhorn_divergence": "What it costs to move fake samples to the real ones with some blur, "
    "less what the blur costs within each side.",
    "frechet_distance": "FID's formula: how far apart the means and covariances of both sides are. "
    "It sees nothing else.",
    "kernel_distance": "KID's formula: how much more alike samples are within a side than across. "
    "It has no bias, and so may be below 0.",
    "precision": "The share of fake samples that lie where real ones are: do they look real?",
    "recall": "The share of real samples that lie where fake ones are: are all kinds made?",
    "density": "How thickly real samples lie around the fake ones; about 1 where both are alike.",
    "coverage": "The share of real samples with a fake one near by: kinds that are never made "
    "lower it.",
}


def meanings(names: Iterable[str], protocol: dict[str, Any]) -> Element:
    """A sentence for each score."""
    items: list[Child] = []
    for name in names:
        items.append(element("dt", score_label(name, protocol)))
        items.append(element("dd", _MEANINGS[name]))
    return element("dl", items)


def percent(share: float, sign: str = "") -> str:
    """A share as percent, with two digits at least."""
    number = 100 * share
    return f"{number:{sign}.0f} %" if abs(number) >= 10 else f"{number:{sign}.2g} %"


def counted(number: int, total: int) -> str:
    """A number with its share of all."""
    return f"{number} ({percent(number / total)})" if total else str(number)
