"""Pillow as this package uses it: seven formats, and no warning from a thread that decodes."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

# Only these decoders see a file, whatever its name: no EPS that would start an interpreter.
# Importing their modules here keeps Pillow from importing every plugin it has.
FORMATS = tuple(
    plugin.format
    for plugin in (
        BmpImagePlugin.BmpImageFile,
        GifImagePlugin.GifImageFile,
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        PpmImagePlugin.PpmImageFile,
        TiffImagePlugin.TiffImageFile,
        WebPImagePlugin.WebPImageFile,
    )
)


class _Warnings(threading.local):
    """The `warnings` module as Pillow sees it, silent in the threads that ask for it."""

    muted = False

    def warn(self, message: Any, category: Any = None, stacklevel: int = 1, **rest: Any) -> None:
        """Warn as `warnings.warn` does, unless this thread is muted."""
        if not self.muted:
            warnings.warn(message, category, stacklevel=stacklevel + 1, **rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)


# `warnings.catch_warnings` swaps the filters of the whole process: two threads that leave it in
# the wrong order silence the program for good, and an "error" filter of the caller would turn a
# damaged tag into an unreadable image. So the name `warnings` inside the modules of Pillow that
# warn is bound, once, to a stand-in that differs from the real module in muted threads only.
_warnings = _Warnings()
for _module in (Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin):
    if getattr(_module, "warnings", None) is warnings:
        setattr(_module, "warnings", _warnings)  # noqa: B010 - mypy knows no such attribute


@contextmanager
def muted() -> Iterator[None]:
    """Drop what Pillow warns about in this thread: oversized headers, damaged EXIF and tags."""
    before, _warnings.muted = _warnings.muted, True
    try:
        yield
    finally:
        _warnings.muted = before
