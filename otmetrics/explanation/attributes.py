"""Plain attributes of images, such as brightness: do both sides have the same ones?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import ks_2samp

from otmetrics.explanation.calibration import discoveries


@dataclass(frozen=True)
class Attribute:
    """One attribute of real and of fake images.

    Attributes:
        name: Its name.
        real: Its median over the real images.
        fake: Its median over the fake ones.
        shift: The difference of the medians, in standard deviations of the real ones; None where
            these are all alike.
        pvalue: Of the test by Kolmogorov and Smirnov, which sees any difference.
        found: Whether it differs, with the rate of false discoveries among all attributes held.
        images: Images of each side that were looked at.
    """

    name: str
    real: float
    fake: float
    shift: float | None
    pvalue: float
    found: bool
    images: tuple[int, int]


def compared_attributes(
    attributes: Mapping[str, tuple[np.ndarray, np.ndarray]], rate: float
) -> tuple[Attribute, ...]:
    """Compare values (N,) of real and (M,) of fake images, NaN where one was not looked at."""
    rows = []
    for name, values in attributes.items():
        x, y = (side[np.isfinite(side)] for side in values)
        if min(len(x), len(y)) < 2:
            continue
        middle = float(np.median(x)), float(np.median(y))
        spread = float(x.std())
        shift = (middle[1] - middle[0]) / spread if spread > 0 else None
        pvalue = float(ks_2samp(x, y).pvalue)
        rows.append(Attribute(name, *middle, shift, pvalue, False, (len(x), len(y))))
    if not rows:
        return ()
    found = discoveries(torch.tensor([row.pvalue for row in rows]), rate)
    marked = [
        Attribute(**{**vars(row), "found": bool(one)}) for row, one in zip(rows, found, strict=True)
    ]
    return tuple(sorted(marked, key=lambda row: (row.pvalue, -abs(row.shift or 0.0))))
