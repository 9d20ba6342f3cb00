"""From the arguments of `update` to features, real and fake."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.features import FrozenExtractor
from otmetrics.features.preprocessing import check_batch
from otmetrics.functional.arrays import as_tensor
from otmetrics.metrics.extractors import features_of


def given_tensor(name: str, value: Any) -> Tensor:
    """Return what was given as a tensor: a dense tensor, or one of a NumPy array.

    Args:
        name: The argument's name, for the message.
        value: Its value.

    Returns:
        The tensor itself, or the numbers of the array: read-only, mapped, of any byte order and
        any strides.

    Raises:
        TypeError: If it is anything else, or an array whose numbers no tensor holds; the message
            says how it becomes one.
    """
    if isinstance(value, Tensor | np.ndarray):
        return as_tensor(name, value)
    if value is None:
        raise TypeError(f"`{name}` is missing, got None: give a torch.Tensor or numpy.ndarray.")
    raise TypeError(
        f"`{name}` must be a torch.Tensor or numpy.ndarray, got {_described(value)}: "
        f"{_way_to_an_array(name, value)}."
    )


def _described(value: Any) -> str:
    """The type of a value, and of what it holds where that is a list."""
    if isinstance(value, list | tuple) and value:
        return f"a {type(value).__name__} of {type(value[0]).__name__}"
    return type(value).__name__


def _way_to_an_array(name: str, value: Any) -> str:
    """How what people have becomes what is taken."""
    first = value[0] if isinstance(value, list | tuple) and value else None
    if _is_picture(first):
        return (
            "give uint8 of one size, torch.stack([torchvision.transforms.functional.pil_to_tensor("
            f'i.convert("RGB")) for i in {name}])'
        )
    if _is_picture(value):
        return f'give torchvision.transforms.functional.pil_to_tensor({name}.convert("RGB"))[None]'
    if isinstance(first, Tensor):
        loader = "; where a loader gives images and labels, the images alone"
        return f"give torch.stack({name}){loader}"
    if isinstance(first, np.ndarray):
        return f"give numpy.stack({name})"
    if isinstance(value, list | tuple):
        return f"give numpy.array({name})"
    if isinstance(value, dict):
        return f'give the images in it, such as {name}["image"]'
    if hasattr(value, "toarray"):
        return f"give the dense {name}.toarray()"
    if hasattr(value, "to_numpy"):
        return f"give {name}.to_numpy()"
    if isinstance(value, str) or hasattr(value, "__fspath__"):
        return "files are read by otmetrics.score(real, fake)"
    return f"give numpy.asarray({name})"


def _is_picture(value: Any) -> bool:
    """Whether a value is an image of Pillow, which need not be loaded for it."""
    return any(kind.__module__ == "PIL.Image" for kind in type(value).__mro__)


def batch_features(
    images: Tensor | np.ndarray,
    extractor: FrozenExtractor | None,
    normalize: bool,
    device: torch.device,
    asker: object,
) -> Tensor:
    """Features of a batch, checked.

    Args:
        images: See `FeatureMetric.update`.
        extractor: None where `images` are features.
        normalize: Whether images are floating in [0, 1] instead of uint8.
        device: Of the metric.
        asker: The metric.

    Returns:
        Finite features (N, D) on the device, float32 or float64, that share no memory with
        `images`; (0, 0) for a batch of none.

    Raises:
        TypeError: If `images` are neither a tensor nor an array of numbers.
        ValueError: If a shape, a range or a device breaks its rule, or a feature is not finite.
    """
    # What a remedy calls the batch: an array has no `permute`.
    said = "torch.from_numpy(images)" if isinstance(images, np.ndarray) else "images"
    images = given_tensor("images", images)
    if images.device.type != "cpu" and images.device != device:
        raise ValueError(
            f"`images` must be on the metric's device {device}, got {images.device}: "
            f"call metric.to({str(images.device)!r}) first."
        )
    if images.ndim and not len(images):
        return torch.zeros(0, 0, device=device)
    if extractor is None:
        features = _given(images).clone()
    else:
        features = features_of(_prepared(images, extractor, normalize, said), extractor, asker)
    features = features.to(device)
    if not torch.isfinite(features).all():
        broken = int((~torch.isfinite(features)).any(1).sum())
        raise ValueError(
            f"`images` must give finite features, got NaN or infinite values in {broken} of "
            f"{len(features)} samples."
        )
    return features


def _given(features: Tensor) -> Tensor:
    """Features that were given, in a dtype of at least 32 bits."""
    if features.ndim != 2 or features.shape[1] < 1 or not features.is_floating_point():
        raise ValueError(
            "`images` must be floating features (N, D) for feature=None, "
            f"got {features.dtype} {tuple(features.shape)}."
        )
    features = features.detach()
    return features if features.dtype == torch.float64 else features.float()


def _prepared(images: Tensor, extractor: FrozenExtractor, normalize: bool, said: str) -> Tensor:
    """Images as the extractor takes them; floating ones on the 256 levels of an image file."""
    if extractor.preprocessing is None:
        images = images.detach()
        return images.float() if images.is_floating_point() else images  # as the network's weights
    check_batch(images, said)
    images = images.detach()
    if not normalize:
        if images.dtype != torch.uint8:
            raise ValueError(
                f"`images` must be uint8, got {_range_of(images)}: {_to_uint8(images, said)}."
            )
        return images
    if not images.is_floating_point():
        raise ValueError(
            f"`images` must be floating in [0, 1], got {images.dtype}: make the metric with "
            "normalize=False for uint8 images."
        )
    images = images.float()
    if not bool(((images >= 0) & (images <= 1)).all()):  # NaN fails it too
        raise ValueError(
            f"`images` must lie in [0, 1], got {_range_of(images)}: {_to_unit(images, said)}."
        )
    return (images * 255).round().to(torch.uint8)


def _range_of(images: Tensor) -> str:
    """The dtype of images and the range of their values, as far as these are numbers."""
    if images.is_meta or images.is_complex() or not images.numel():
        return str(images.dtype)
    if not torch.isfinite(images).all():
        return f"{images.dtype} with NaN or infinite values"
    low, high = _ends(images)
    return f"{images.dtype} in [{low:g}, {high:g}]"


def _ends(images: Tensor) -> tuple[float, float]:
    """The least and the largest value; unsigned dtypes have no such functions of their own."""
    low, high = images.double().aminmax()
    return low.item(), high.item()


def _to_unit(images: Tensor, said: str) -> str:
    """How floating images outside of [0, 1] come into it."""
    low, high = _ends(images)
    if low >= -1 and high <= 1:
        return f"give ({said} + 1) / 2 for images in [-1, 1]"
    if low >= 0 and high <= 255:
        return f"give {said} / 255 for images in [0, 255]"
    return (
        f"undo a normalisation by mean and std, {said} * std + mean; give ({said} + 1) / 2 for "
        f"images in [-1, 1] and {said} / 255 for images in [0, 255]; clamp what lies beyond"
    )


def _to_uint8(images: Tensor, said: str) -> str:
    """How images of another dtype become uint8 ones, or which metric takes them."""
    low, high = _ends(images)
    if images.is_floating_point():
        if 1 < high <= 255 and low >= 0:
            return f"give {said}.round().to(torch.uint8) for images in [0, 255]"
        taken = "make the metric with normalize=True for floating images in [0, 1]"
        if low >= 0 and high <= 1:
            return taken
        return f"{taken}, and {_to_unit(images, said)}"
    if low >= 0 and high <= 1:
        return f"give {said}.to(torch.uint8) * 255 for images of 0 and 1"
    if low >= 0 and high <= 255:
        return f"give {said}.to(torch.uint8) for images in [0, 255]"
    return "scale them to [0, 255] first"


def check_sides(real: Any) -> None:
    """Raise unless `real` is True, False, or a bool tensor or array.

    Args:
        real: See `FeatureMetric.update`.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(real, bool | np.bool_):
        return
    if isinstance(real, Tensor | np.ndarray) and str(real.dtype) in {"torch.bool", "bool"}:
        return
    got = "nothing" if real is None else repr(real)
    advice = "give real=True for real samples, real=False for generated ones"
    if isinstance(real, Tensor | np.ndarray):
        got = f"{real.dtype} {tuple(real.shape)}"
        advice = "give real samples with real=True and fake ones with real=False, in two calls"
    raise ValueError(
        "`real` must be True, False, or a bool tensor (N,) that tells real from fake in the "
        f"batch, got {got}: {advice}."
    )


def sides_of(features: Tensor, real: bool | Tensor | np.ndarray) -> dict[str, Tensor]:
    """Features of either side that the batch speaks of.

    Args:
        features: Features (N, D).
        real: True, False, or a bool tensor (N,), one for each sample; `check_sides` saw it.

    Returns:
        `real`, `fake` or both.

    Raises:
        ValueError: If there is not one bool a sample.
    """
    if isinstance(real, bool | np.bool_):
        return {"real" if real else "fake": features}
    mask = given_tensor("real", real).to(features.device)
    if not mask.ndim:
        return {"real" if mask else "fake": features}
    if mask.shape != features.shape[:1]:
        raise ValueError(
            f"`real` must hold one bool a sample, ({len(features)},), got {tuple(mask.shape)}."
        )
    return {"real": features[mask], "fake": features[~mask]}
