"""What is known of an image besides its pixels: of what kind its file is, and what was left out."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

# The place of a word is its number in arrays and in the cache of features: add at the end.
KINDS = ("pixels", "bmp", "gif", "jpg", "png", "tif", "webp", "ppm", "tif (jpeg)", "other")
COLOURS = ("grey", "RGB", "palette", "RGBA", "grey with alpha", "CMYK", "other")
MOST_FRAMES = 10**6
_CHUNK = 2**14
_LOSSLESS_NAMES = {"bmp", "gif", "pgm", "png", "pnm", "ppm", "tif", "tiff"}


class ImageFacts(NamedTuple):
    """What decoding an image tells of it."""

    kind: str  # format of its content, one of `KINDS`; "pixels" where nothing was decoded
    colour: str  # one of `COLOURS`, as the file has it
    bits: int  # of a channel, as the file has it; 8 for palettes, whose colours have 8
    width: int  # in pixels, upright, as is the height
    height: int
    frames: int = 1  # frames or pages of the file, of which the first is read
    largest: int = 0  # the largest value of a channel; of colours of 16 bits a bound on it
    two_levels: bool = False  # whether its 8-bit channels take no more than two values


WIDTH = len(ImageFacts._fields)
"""How many numbers `facts_array` makes of an image."""


def pixel_facts(pixels: Tensor, colour: str = "RGB") -> ImageFacts:
    """Facts of an image uint8 (3, H, W) that no file holds; `colour` is what became RGB."""
    height, width = pixels.shape[-2:]
    values = pixels.contiguous().numpy()
    two_levels = has_two_levels(values)
    return ImageFacts("pixels", colour, 8, width, height, 1, int(values.max()), two_levels)


def has_two_levels(pixels: np.ndarray) -> bool:
    """Whether contiguous uint8 values are no more than two: masks and black pages."""
    flat, levels = pixels.reshape(-1), set[int]()

    # A few microseconds tell nearly every picture.
    if len(set(flat[:: max(1, len(flat) // 64)].tobytes())) > 2:
        return False

    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK]
        low, high = int(part.min()), int(part.max())
        levels |= {low, high}
        if len(levels) > 2 or bool(((part != low) & (part != high)).any()):
            return False
    return True


def facts_array(facts: Sequence[ImageFacts]) -> np.ndarray:
    """Facts of several images as numbers, int32 (N, WIDTH), one row per image."""
    rows = [(KINDS.index(one.kind), COLOURS.index(one.colour), *one[2:]) for one in facts]
    return np.array(rows, np.int32).reshape(len(rows), WIDTH)


def valid_facts(rows: np.ndarray) -> bool:
    """Whether shape, dtype and values of an array are such as `facts_array` makes them."""
    if rows.dtype != np.int32 or rows.ndim != 2 or rows.shape[1] != WIDTH:
        return False
    least = np.array([0, 0, 1, 1, 1, 1, 0, 0])
    most = [len(KINDS) - 1, len(COLOURS) - 1, 64, 2**30, 2**30, MOST_FRAMES, 2**16 - 1, 1]
    return bool(((rows >= least) & (rows <= np.array(most))).all())


def count_facts(rows: np.ndarray, pixels: str) -> dict[str, Any]:
    """Sum up what is known of the images of one side, for its record (JSON-able).

    `rows` are at least one of `facts_array`; `pixels` is the format of images that no file holds.
    Gives `formats` and `modes` with their counts; `sizes`, the smallest, middle and largest one by
    area, and how many different; `frames` that were left out, of how many files; the `largest`
    value of 8-bit and of 16-bit images; how many have `two_levels`.
    """
    kind, colour, bits, width, height, frames, largest, two_levels = rows.T.astype(np.int64)
    named = (pixels, *KINDS[1:])
    formats = {named[code]: count for code, count in _counts(kind)}
    # A pair is counted as one number: below are at most 64 bits, and no side reaches 2^31.
    modes = {
        f"{COLOURS[code // 100]} {code % 100} bit": count
        for code, count in _counts(100 * colour + bits)
    }

    # By area, then by width, so that the order of the images does not matter.
    order = np.lexsort((width, width * height))
    picks = {"smallest": order[0], "middle": order[len(order) // 2], "largest": order[-1]}
    sizes: dict[str, Any] = {
        name: [int(width[place]), int(height[place])] for name, place in picks.items()
    }
    sizes["different"] = len(np.unique(2**31 * width + height))
    most = {str(depth): largest[bits == depth] for depth in (8, 16)}
    return {
        "formats": dict(sorted(formats.items())),
        "modes": dict(sorted(modes.items())),
        "sizes": sizes,
        "frames": {"files": int((frames > 1).sum()), "left_out": int((frames - 1).sum())},
        "largest": {depth: int(values.max()) for depth, values in most.items() if len(values)},
        "two_levels": int(two_levels.sum()),
    }


def _counts(codes: np.ndarray) -> list[tuple[int, int]]:
    """Each number and how often it comes."""
    return [
        (int(code), int(count))
        for code, count in zip(*np.unique(codes, return_counts=True), strict=True)
    ]


def count_misnamed(names: Sequence[str], rows: np.ndarray) -> dict[str, int]:
    """Count lossy content under names that promise none, as "jpg in .png"; `rows` as above."""
    found: Counter[str] = Counter()
    for code in (KINDS.index("jpg"), KINDS.index("webp")):
        for place in np.flatnonzero(rows[:, 0] == code):
            ending = names[int(place)].rpartition(".")[2].lower()
            if ending in _LOSSLESS_NAMES:
                found[f"{KINDS[code]} in .{ending}"] += 1
    return dict(sorted(found.items()))
