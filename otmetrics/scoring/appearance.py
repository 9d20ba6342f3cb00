"""How the images of both sides look, and in what files they lie."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from otmetrics.images.looks import ATTRIBUTES
from otmetrics.scoring.pictures import Pictures


class Appearance(NamedTuple):
    """What is known of the images of both sides.

    Attributes:
        looks: Attributes (N,) of real and (M,) of fake images, NaN where one was not looked at.
        formats: The format of each file of both sides; none where images lie in no files.
        notes: Images that could not be read again, one line for each side.
    """

    looks: dict[str, tuple[np.ndarray, np.ndarray]]
    formats: tuple[Sequence[str], Sequence[str]]
    notes: list[str]

    def numbers(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The attributes, and whether a file has the commonest format of real."""
        real, fake = map(np.array, self.formats)
        if not len(real):
            return self.looks
        kinds, counts = np.unique(real, return_counts=True)
        kind = kinds[counts.argmax()]
        sides = (real == kind).astype(float), (fake == kind).astype(float)
        return self.looks | {f"format {kind}": sides}


def appearance_of(
    pictures: Mapping[str, Pictures], most: int, seed: int, tell: Callable[..., None]
) -> Appearance:
    """Look at so many images of both sides at most, drawn at random, where both have any.

    `tell` is called with how many are done, and with `total`.
    """
    if len(pictures) < 2:
        return Appearance({}, ((), ()), [])
    generator = torch.Generator().manual_seed(seed)
    sides, notes = [], []
    for side, one in pictures.items():
        rows = torch.randperm(len(one.indices), generator=generator)[:most].sort().values.tolist()
        found = one.looks(rows, partial(tell, total=len(rows)))
        sides.append(found)
        gone = int(np.isnan(found[ATTRIBUTES[0]][rows]).sum())
        if gone:
            notes.append(
                f"{gone} of the {len(rows)} {side} images that were looked at could not be read "
                "again: deleted or changed since their features were made; run again"
            )
    shared = [name for name in sides[0] if most and name in sides[1]]
    looks = {name: (sides[0][name], sides[1][name]) for name in shared}
    formats = [one.formats() for one in pictures.values()]
    return Appearance(looks, (formats[0], formats[1]) if all(formats) else ((), ()), notes)
