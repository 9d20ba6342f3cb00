"""From the arguments of `update` to features, real and fake."""

import numpy as np
import torch
from torch import Tensor

from otmetrics.features import FrozenExtractor
from otmetrics.functional.checks import check_tensor
from otmetrics.metrics.extractors import features_of


def batch_features(
    images: Tensor,
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
        ValueError: If a shape, a range or a device breaks its rule, or a feature is not finite.
    """
    check_tensor("images", images)
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
        features = features_of(_prepared(images, extractor, normalize), extractor, asker)
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


def _prepared(images: Tensor, extractor: FrozenExtractor, normalize: bool) -> Tensor:
    """Images as the extractor takes them; floating ones on the 256 levels of an image file."""
    if extractor.preprocessing is None:
        images = images.detach()
        return images.float() if images.is_floating_point() else images  # as the network's weights
    if not normalize:
        if images.dtype != torch.uint8:
            raise ValueError(
                f"`images` must be uint8, got {images.dtype}: make the metric with normalize=True "
                "for floating images in [0, 1]."
            )
        return images
    if not images.is_floating_point():
        raise ValueError(
            f"`images` must be floating in [0, 1], got {images.dtype}: make the metric with "
            "normalize=False for uint8 images."
        )
    images = images.detach().float()
    if not bool(((images >= 0) & (images <= 1)).all()):  # NaN fails it too
        raise ValueError(
            f"`images` must lie in [0, 1], got [{images.min():g}, {images.max():g}]: "
            "rescale or clamp them, (x + 1) / 2 for images in [-1, 1]."
        )
    return (images * 255).round().to(torch.uint8)


def sides_of(features: Tensor, real: bool | Tensor) -> dict[str, Tensor]:
    """Features of either side that the batch speaks of.

    Args:
        features: Features (N, D).
        real: True, False, or a bool tensor (N,), one for each sample.

    Returns:
        `real`, `fake` or both.

    Raises:
        ValueError: If `real` is anything else.
    """
    if isinstance(real, Tensor) and real.dtype == torch.bool:
        if real.shape == features.shape[:1]:
            mask = real.to(features.device)
            return {"real": features[mask], "fake": features[~mask]}
        if real.ndim == 0:
            real = bool(real)
    if isinstance(real, bool | np.bool_):
        return {"real" if real else "fake": features}
    got = f"{real.dtype} {tuple(real.shape)}" if isinstance(real, Tensor) else repr(real)
    raise ValueError(
        f"`real` must be True, False, or a bool tensor ({len(features)},) that tells real from "
        f"fake in the batch, got {got}."
    )
