"""From images to network inputs: resize, crop, normalise; exact, differentiable and recorded."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from otmetrics.errors import Argument, OptionError

_KEPT_SIDE = 2**13
_BLOCK = 32  # outputs that share a window of inputs: fewer make thin products, more count zeros


class _Bands(NamedTuple):
    """A banded matrix in blocks of rows: block b has its weights at the columns from b * step."""

    weights: Tensor  # (blocks, rows, columns)
    step: int


def resample(images: Tensor, shape: tuple[int, int], mode: str) -> Tensor:
    """Resize images (N, C, H, W) to float32 (N, C, *shape) by a filter that widens as they shrink.

    The filters are Pillow's, `mode` "bicubic" or "bilinear"; bicubic may leave the range of the
    input. The weights are computed in float64 and applied in float32: within 1e-3 grey levels of
    Pillow's filter on float channels (autocast and TF32, where they are on, are as far off as they
    are). Each image is treated on its own. Time O(N C (W h + w h) taps), with H x W brought to
    h x w.
    """
    (height, width), (high, wide) = images.shape[-2:], shape

    # Those of long sides are large, 150 bytes a pixel of the side, and are not kept.
    rows, columns = (
        (_bands if size <= _KEPT_SIDE else _bands.__wrapped__)(size, new, mode, str(images.device))
        for size, new in ((height, high), (width, wide))
    )
    # One image at a time stays in a CPU's cache.
    parts = images.split(1 if images.device.type == "cpu" else max(len(images), 1))
    resized = [_apply_filters(part, rows, columns, shape) for part in parts]
    return resized[0] if len(resized) == 1 else torch.cat(resized)


def _apply_filters(images: Tensor, rows: _Bands, columns: _Bands, shape: tuple[int, int]) -> Tensor:
    """Filter down, with the height first so that products are long, then across."""
    count, channels, _, width = images.shape
    first = images.permute(2, 0, 1, 3).to(torch.float32, memory_format=torch.contiguous_format)
    windows = first.flatten(1).unfold(0, rows.weights.shape[2], rows.step)  # views of (b, row, k)
    down = (rows.weights @ windows.transpose(1, 2)).flatten(0, 1)[: shape[0]].view(-1, width)

    windows = down.unfold(1, columns.weights.shape[2], columns.step).transpose(0, 1)
    across = (windows @ columns.weights.transpose(1, 2)).unflatten(1, (shape[0], count, channels))
    return across.permute(2, 3, 1, 0, 4).flatten(3)[..., : shape[1]].contiguous()


@lru_cache(maxsize=512)
def _bands(size: int, wanted: int, mode: str, device: str) -> _Bands:
    """Weights that bring `size` pixels to `wanted`, in blocks of outputs."""
    first, stop, weights = _taps(size, wanted, mode)
    # Near _BLOCK, the number that leaves the fewest empty rows in the last block.
    rows = min(range(_BLOCK - 8, _BLOCK + 9), key=lambda rows: -wanted % rows)
    rows = rows if size > 2 * _BLOCK else wanted  # small images: one dense product
    blocks = -(-wanted // rows)

    # Windows lie at even distances: as far apart as leaves all inputs of their outputs inside.
    index = np.arange(blocks)
    ends = np.array([stop[rows * b : rows * (b + 1)].max() for b in index])
    step = min([*(first[::rows][1:] // index[1:]), *((size - ends[:-1]) // index[:0:-1]), size])
    columns = size - int(step) * (blocks - 1) if blocks > 1 else size

    dense = np.zeros((blocks * rows, columns + weights.shape[1]), np.float32)
    into = (first - step * (np.arange(wanted) // rows))[:, None] + np.arange(weights.shape[1])
    np.put_along_axis(dense[:wanted], into, weights, axis=1)
    with torch.inference_mode(False):  # else no gradient could pass the cached weights
        matrix = torch.from_numpy(dense[:, :columns].copy()).view(blocks, rows, columns)
        return _Bands(matrix.to(device), max(int(step), 1))


def _taps(size: int, wanted: int, mode: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output the inputs `first` to `stop` and, (wanted, taps), weights from `first` on."""
    kernel, reach = _FILTERS[mode]
    scale = size / wanted
    # Pillow widens a filter as images shrink, so that every pixel counts, and never narrows it.
    stretch = max(scale, 1.0)
    support = reach * stretch
    centres = (np.arange(wanted) + 0.5) * scale

    first = np.maximum((centres - support + 0.5).astype(int), 0)
    stop = np.minimum((centres + support + 0.5).astype(int), size)
    inputs = first[:, None] + np.arange((stop - first).max())
    distances = np.abs((inputs - centres[:, None] + 0.5) / stretch)
    weights = kernel(distances) * (inputs < stop[:, None])  # taps of the longest row
    return first, stop, weights / weights.sum(1, keepdims=True)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution with a = -1/2, for x >= 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


# Each with how far it reaches, in pixels.
_FILTERS = {"bicubic": (_cubic, 2.0), "bilinear": (lambda x: np.maximum(1 - x, 0), 1.0)}

RESIZE_MODES = ("bicubic", "bilinear", "tf1")
_LONGEST = 2**15  # pixels of a side between resize and crop


@dataclass(frozen=True)
class Preprocessing:
    """Turns images into the float32 inputs of a network.

    `bicubic` and `bilinear` are Pillow's antialiased filters, computed on floating channels,
    clipped to the range of the image and never rounded back to uint8. `tf1` is the bilinear filter
    of TensorFlow 1 without antialiasing, which the original FID code applies: it aliases when it
    shrinks, and is here to reproduce published numbers.

    Attributes:
        size: Side of the square network input in pixels; None leaves the images at their own size.
        resize: One of `RESIZE_MODES`.
        crop: None squashes the whole image to `size` x `size`, so that nothing is cut away; a share
            c in (0, 1] resizes the shorter side to `size / c` and keeps the centre.
        mean: Subtracted per channel, on the [0, 1] scale.
        std: Divided by per channel, on the [0, 1] scale.

    Raises:
        ValueError: If an attribute breaks its rule.

    References:
        Parmar et al., "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", CVPR 2022.

    Examples:
        >>> Preprocessing(size=32)(torch.full((1, 3, 64, 48), 255, dtype=torch.uint8)).mean().item()
        1.0
    """

    size: int | None
    resize: str = "bicubic"
    crop: float | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"`size` must be >= 1 or None, got {self.size}.")
        if self.resize not in RESIZE_MODES:
            choices = ", ".join(RESIZE_MODES)
            raise OptionError(
                Argument("resize"), f" must be one of {choices}, got {self.resize!r}."
            )
        if self.crop is not None and not 0 < self.crop <= 1:
            raise ValueError(f"`crop` must be in (0, 1] or None, got {self.crop}.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"`mean` and `std` must be 3 values, `std` > 0, got {self.mean} and {self.std}."
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Return the network inputs of `images`.

        Gradients reach floating images. Every image is treated on its own: alone or in a batch, the
        result is the same. An image that already has the wanted size is not touched by the resize.

        Args:
            images: (3, H, W) or (N, 3, H, W), uint8, or floating in [0, 1].

        Returns:
            float32, (3, size, size) or (N, 3, size, size); H and W stay where `size` is None.

        Raises:
            ValueError: If the shape, the dtype or the range is another one.
        """
        _check_images(images)
        batch = images if images.ndim == 4 else images[None]
        if self.size is not None:
            batch = self._fit(batch, self.size)

        # In one pass, and in place where the tensor is ours: memory costs more than arithmetic.
        top = _top(images)
        mean, std = (_levels(values, top, str(batch.device)) for values in (self.mean, self.std))
        inputs = (batch.float() - mean).div_(std)
        return inputs if images.ndim == 4 else inputs[0]

    @property
    def protocol(self) -> dict[str, Any]:
        """What happens to the size of an image, for the record (JSON-able)."""
        mode = None if self.size is None else self.resize
        return {"size": self.size, "mode": mode, "crop": self.crop}

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image is resized to, before its centre is cut out.

        Args:
            height: Of the image.
            width: Of the image.

        Returns:
            Height and width.

        Raises:
            ValueError: If an image is so long and narrow that it would become too large.
        """
        if self.size is None:
            return height, width
        if self.crop is None:
            return self.size, self.size

        shorter, target = min(height, width), int(self.size / self.crop)
        # The longer side keeps the aspect ratio, rounded down as in torchvision.
        shape = target * height // shorter, target * width // shorter
        if max(shape) > _LONGEST:
            raise ValueError(
                f"images of {width} x {height} pixels are too long and narrow: their shorter side "
                f"becomes {target} pixels before the centre is cut out, and the longer one "
                f"{max(shape)}; leave them out, or cut them yourself."
            )
        return shape

    def _fit(self, images: Tensor, size: int) -> Tensor:
        """Bring (N, 3, H, W) to (N, 3, size, size), in its own range."""
        shape = self.resized_shape(*images.shape[-2:])
        if tuple(images.shape[-2:]) != shape:
            if self.resize == "tf1":
                images = _blend(_blend(images.float(), shape[1], dim=-1), shape[0], dim=-2)
            else:
                # Bicubic overshoots at edges, beyond black and white.
                images = resample(images, shape, self.resize).clamp_(0, _top(images))

        # Rounded as in torchvision.
        top, left = (round((side - size) / 2) for side in shape)
        return images[..., top : top + size, left : left + size]


def check_batch(images: Tensor, said: str = "images") -> None:
    """Raise ValueError unless images are (N, 3, H, W), and say what makes them so.

    `said` is what the remedy calls the images.
    """
    if images.ndim == 4 and images.shape[1] == 3 and 0 not in images.shape[2:]:
        return
    remedy = _shape_remedy(tuple(images.shape), images.is_floating_point(), said)
    raise ValueError(f"`images` must be (N, 3, H, W), got {tuple(images.shape)}; {remedy}.")


def _shape_remedy(shape: tuple[int, ...], is_floating: bool, said: str) -> str:
    """What makes a batch (N, 3, H, W) of what has another shape."""
    grey, forward = ".expand(-1, 3, -1, -1)", ".permute(0, 3, 1, 2)"
    rank, axes = len(shape), shape[1:] if len(shape) == 4 else (0, 0, 0)

    # The first that holds counts. Axes of 1, 3 or 4 are taken for channels, whatever their place.
    remedies = (
        (0 in shape, "no image has a side of 0"),
        (
            rank == 2,
            f"for one grey image, {said}[None, None]{grey}; for features (N, D), give them to the "
            "scores of features, or to a metric of feature=None",
        ),
        (rank == 3 and shape[0] == 3, f"for one image, {said}[None]"),
        (rank == 3 and shape[-1] == 3, f"for one image, {said}.permute(2, 0, 1)[None]"),
        (rank == 3, f"for grey images (N, H, W), repeat their channel, {said}[:, None]{grey}"),
        (rank == 5, f"for frames of videos, {said}.flatten(0, 1)"),
        (axes[0] == 1, f"repeat the grey channel, {said}{grey}"),
        (axes[2] == 3, f"move the channels forward, {said}{forward}"),
        (axes[2] == 1, f"move the grey channel forward and repeat it, {said}{forward}{grey}"),
        (
            axes[0] == 4 and is_floating,
            "decode latents to images first, with the decoder of their autoencoder; for an alpha "
            f"channel, {said}[:, :3]",
        ),
        (axes[0] == 4, f"drop the alpha channel, {said}[:, :3]"),
        (
            axes[2] == 4,
            f"drop the alpha channel and move the others forward, {said}[..., :3]{forward}",
        ),
    )
    return next(
        (text for holds, text in remedies if holds), "give three channels, red, green and blue"
    )


def _check_images(images: Tensor) -> None:
    """Raise ValueError unless `images` is what `Preprocessing` takes."""
    if images.ndim != 3 or images.shape[0] != 3 or 0 in images.shape:
        check_batch(images)
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise ValueError(f"`images` must be uint8, or floating in [0, 1], got {images.dtype}.")

    # Written so that NaN fails it too.
    if not bool(((images >= 0) & (images <= 1)).all()):
        low, high = images.min().item(), images.max().item()
        raise ValueError(
            f"`images` must lie in [0, 1] when they are floating, got [{low:g}, {high:g}]: "
            f"{unit_range_remedy(low, high)}."
        )


def unit_range_remedy(low: float, high: float, said: str = "images") -> str:
    """What brings floating images, which lie in [low, high], into [0, 1].

    Never to clamp them: half of an image in [-1, 1] would be lost without a word.
    """
    if low >= -1 and high <= 1:
        return f"give ({said} + 1) / 2 for images in [-1, 1]"
    if low >= 0 and high <= 255:
        return f"give {said} / 255 for images in [0, 255]"
    if math.isnan(low):
        return "find out where NaN comes from"
    return (
        f"undo a normalisation by mean and std, {said} * std + mean; give ({said} + 1) / 2 for "
        f"images in [-1, 1] and {said} / 255 for images in [0, 255]"
    )


@lru_cache(maxsize=64)
def _levels(values: tuple[float, ...], top: float, device: str) -> Tensor:
    """Values per channel on the scale up to `top`, (3, 1, 1)."""
    with torch.inference_mode(False):
        return torch.tensor([top * value for value in values], device=device).view(3, 1, 1)


def _top(images: Tensor) -> float:
    """The value of white."""
    return 255.0 if images.dtype == torch.uint8 else 1.0


def _blend(images: Tensor, size: int, dim: int) -> Tensor:
    """TensorFlow 1's linear interpolation along one axis: source coordinate = i * in / out."""
    last = images.shape[dim] - 1
    # Coordinates in float32, as TensorFlow computes them.
    steps = torch.arange(size, dtype=torch.float32, device=images.device)
    source = steps * ((last + 1) / size)
    lower = source.long().clamp(max=last)
    upper = (lower + 1).clamp(max=last)

    share = (source - lower).view(-1, *[1] * (-dim - 1))
    low, high = images.index_select(dim, lower), images.index_select(dim, upper)
    return low + (high - low) * share
