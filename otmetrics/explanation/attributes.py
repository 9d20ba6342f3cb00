"""Plain attributes of images, such as brightness: do both sides have the same ones?"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import ks_2samp

from otmetrics.explanation.calibration import discoveries
from otmetrics.explanation.shares import share_pvalue


@dataclass(frozen=True)
class Attribute:
    """One attribute of real and of fake images.

    Attributes:
        name: Its name.
        real: Its median over the real images; None of file formats.
        fake: Its median over the fake ones; None as well.
        shift: The difference of the medians, in standard deviations of the real ones; None where
            these are all alike.
        pvalue: Of the test by Kolmogorov and Smirnov, which sees any difference; of formats of
            Fisher's exact tests of each against the others, corrected for their number.
        found: Whether it differs, with the rate of false discoveries among all attributes held.
        images: Images of each side that were looked at.
        formats: File formats with their shares of the real and of the fake images, the most
            frequent first; none of other attributes.
    """

    name: str
    real: float | None
    fake: float | None
    shift: float | None
    pvalue: float
    found: bool
    images: tuple[int, int]
    formats: tuple[tuple[str, float, float], ...] = ()


def compared_attributes(
    attributes: Mapping[str, tuple[np.ndarray, np.ndarray]],
    rate: float,
    formats: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> tuple[Attribute, ...]:
    """Compare values (N,) of real and (M,) of fake images, NaN where one was not looked at.

    So with the formats of their files, where any two differ.
    """
    rows = _of_formats(*map(Counter, formats))
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
    marked = [replace(row, found=one) for row, one in zip(rows, found.tolist(), strict=True)]
    return tuple(sorted(marked, key=lambda row: (row.pvalue, -abs(row.shift or 0.0))))


def _of_formats(real: Counter[str], fake: Counter[str]) -> list[Attribute]:
    """The row of formats of files; none where all images have one."""
    both, sizes = real + fake, (real.total(), fake.total())
    if len(both) < 2 or not min(sizes):
        return []
    pvalues = [share_pvalue((real[kind], fake[kind]), sizes) for kind in both]
    # Of two formats both tests are one.
    pvalue = min(1.0, min(pvalues) * (len(both) if len(both) > 2 else 1))
    shares = tuple(
        (kind, real[kind] / sizes[0], fake[kind] / sizes[1])
        for kind in sorted(both, key=lambda kind: (-both[kind], kind))
    )
    return [Attribute("file format", None, None, None, pvalue, False, sizes, shares)]
