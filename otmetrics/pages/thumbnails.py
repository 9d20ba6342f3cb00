"""Small images inside of a page, each of them once however often it is shown."""

import base64
from collections.abc import Hashable

from .elements import Element, element

_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}


class Thumbnails:
    """The images of a page: `show` as often as needed, and `store` once in the page."""

    def __init__(self) -> None:
        self._stored: dict[Hashable, Element] = {}

    def show(self, key: Hashable, image: bytes, text: str) -> Element:
        """One showing of an image.

        `key` tells images apart, such as ("fake", 7); `image` is the content of a small file, PNG,
        JPEG or WebP; `text` says what it is to those who do not see it.
        """
        if key not in self._stored:
            self._stored[key] = _stored(f"image-{len(self._stored)}", image)
        place = dict(self._stored[key].attributes)["id"]
        return element(
            "svg",
            element("title", text),
            element("use", href=f"#{place}"),
            class_="thumbnail",
            role="img",
            viewBox="0 0 96 96",
            width=96,
            height=96,
        )

    def store(self) -> Element | None:
        """What the page holds of them, to stand before the first that is shown; None of none."""
        if not self._stored:
            return None
        images = element("defs", list(self._stored.values()))
        return element("svg", images, width=0, height=0, aria_hidden="true", class_="store")


def _stored(identity: str, image: bytes) -> Element:
    kind = next((kind for start, kind in _KINDS.items() if image.startswith(start)), None)
    if kind is None:
        raise ValueError("`image` must be the content of a PNG, JPEG or WebP file.")
    address = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    return element("image", id=identity, href=address, width=96, height=96)
