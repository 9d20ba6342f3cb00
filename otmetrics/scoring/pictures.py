"""The images that features were made of, for those who want to look at them again."""

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from otmetrics.images import StoredImages, thumbnail
from otmetrics.images.looks import ATTRIBUTES, attributes_of
from otmetrics.images.reading import in_threads

_AHEAD = 64  # images that wait to be asked for


class Pictures(NamedTuple):
    """Images of a source in the order of the features that were made of them.

    Attributes:
        source: The source, which reads them again.
        indices: Where in it the image of each feature row is.
    """

    source: StoredImages
    indices: list[int]

    def names(self) -> list[str]:
        """The name of each image, as its source has it."""
        return [self.source.names[index] for index in self.indices]

    def looks(
        self, rows: Sequence[int], tell: Callable[[int], None] = lambda done: None
    ) -> dict[str, np.ndarray]:
        """Attributes of some of the images, (N,) each: NaN for the others, or what is gone."""
        found = np.full((len(ATTRIBUTES), len(self.indices)), np.nan)
        places = [self.indices[row] for row in rows]
        threads = torch.get_num_threads()
        with closing(in_threads(self.source, attributes_of, places, threads, _AHEAD)) as stream:
            for done, (row, read) in enumerate(zip(rows, stream, strict=True)):
                if read.error is None:
                    found[:, row] = read.pixels.numpy()
                if done % 256 == 0:
                    tell(done)
        return dict(zip(ATTRIBUTES, found, strict=True))

    def thumbnail(self, row: int) -> bytes | None:
        """A small WebP file of an image; None where it cannot be read any more."""
        with closing(in_threads(self.source, _as_it_is, [self.indices[row]], 1, 1)) as stream:
            read = next(stream)
        return None if read.error is not None else thumbnail(read.pixels)


def _as_it_is(pixels: Tensor) -> Tensor:
    return pixels
