"""The images that features were made of, for those who want to look at them again."""

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from otmetrics.images import StoredImages, thumbnail
from otmetrics.images.facts import KINDS
from otmetrics.images.looks import ATTRIBUTES, attributes_of
from otmetrics.images.reading import in_threads

FILE_SIZE = "file size"

_AHEAD = 64  # images that wait to be asked for


class Pictures(NamedTuple):
    """Images of a source in the order of the features that were made of them.

    Attributes:
        source: The source, which reads them again.
        indices: Where in it the image of each feature row is.
        kinds: Places in `KINDS` (N,) of the formats of their files.
    """

    source: StoredImages
    indices: list[int]
    kinds: np.ndarray

    def names(self) -> list[str]:
        """The name of each image, as its source has it."""
        return [self.source.names[index] for index in self.indices]

    def formats(self) -> list[str]:
        """The format of each file; none where images lie in no files of their own."""
        found = [KINDS[code] for code in self.kinds.tolist()]
        return [] if "pixels" in found else found

    def looks(
        self, rows: Sequence[int], tell: Callable[[int], None] = lambda done: None
    ) -> dict[str, np.ndarray]:
        """Attributes of some of the images, (N,) each: NaN for the others, or what is gone.

        The size of their files is among them where the source knows it.
        """
        size_of = getattr(self.source, "file_size", None)
        names = ATTRIBUTES if size_of is None else (*ATTRIBUTES, FILE_SIZE)
        found = np.full((len(names), len(self.indices)), np.nan)
        places = [self.indices[row] for row in rows]
        threads = torch.get_num_threads()
        with closing(in_threads(self.source, attributes_of, places, threads, _AHEAD)) as stream:
            for done, (row, read) in enumerate(zip(rows, stream, strict=True)):
                if read.error is None and not self._is_changed(read.index):
                    found[: len(ATTRIBUTES), row] = read.pixels.numpy()
                    if size_of is not None:
                        with suppress(OSError):  # gone in this moment
                            found[-1, row] = size_of(read.index)
                if done % 256 == 0:
                    tell(done)
        return dict(zip(names, found, strict=True))

    def thumbnail(self, row: int) -> bytes | None:
        """A small WebP file of an image; None where it cannot be read any more, or is another."""
        with closing(in_threads(self.source, _as_it_is, [self.indices[row]], 1, 1)) as stream:
            read = next(stream)
        if read.error is not None or self._is_changed(read.index):
            return None
        return thumbnail(read.pixels)

    def _is_changed(self, index: int) -> bool:
        """Whether an image may be another than its features are of; archives refuse such."""
        check = getattr(self.source, "is_changed", None)
        return check is not None and check(index)


def _as_it_is(pixels: Tensor) -> Tensor:
    return pixels
