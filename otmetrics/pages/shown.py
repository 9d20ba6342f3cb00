"""Samples as the page of an explanation shows them: their pictures, and their names."""

from collections.abc import Sequence

from otmetrics.scoring.explanation import Explanation

from .elements import Child, Element, name
from .regions import captioned, gallery
from .thumbnails import Thumbnails

_SIDES = {"real": "real", "fake": "fake", "train": "training"}


class Shown:
    """Samples as a page shows them: a picture where there is one, and the name."""

    def __init__(self, found: Explanation, images: Thumbnails) -> None:
        self._found, self._images = found, images
        self._read: dict[tuple[str, int], bytes | None] = {}

    @property
    def any(self) -> bool:
        """Whether there are pictures of both sides."""
        return {"real", "fake"} <= set(self._found.pictures)

    def picture(self, side: str, row: int | None) -> Element | None:
        """The picture of a sample; None where there is none."""
        pictures = self._found.pictures.get(side)
        if row is None or pictures is None:
            return None
        key = (side, row)
        if key not in self._read:
            self._read[key] = pictures.thumbnail(row)
        content = self._read[key]
        if content is None:
            return None
        text = f"{_SIDES[side]} image {self._found.name_of(side, row)}"
        return self._images.show(key, content, text)

    def name(self, side: str, row: int | None) -> Element:
        """Its name."""
        return name(self._found.name_of(side, row) or "-")

    def item(self, side: str, row: int, *caption: Child) -> list[Child] | None:
        """A picture with its caption, for a gallery; None without a picture."""
        picture = self.picture(side, row)
        return None if picture is None else captioned([picture], *caption)


def gallery_of(items: Sequence[list[Child] | None]) -> Element | None:
    """Pictures side by side; nothing where there is none."""
    there = [one for one in items if one is not None]
    return gallery(there) if there else None
