"""From a batch to features: what `update` accepts, and one extraction for all metrics."""

import hashlib
import io
import pickle
from collections import deque
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

import numpy as np
import torch
from torch import Tensor, nn

from otmetrics.checks import as_tensor
from otmetrics.features import FrozenExtractor, load_extractor
from otmetrics.features.preprocessing import check_batch


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
        f"`{name}` must be a torch.Tensor or numpy.ndarray, got {_describe_type(value)}: "
        f"{_way_to_an_array(name, value)}."
    )


def _describe_type(value: Any) -> str:
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
        features = _at_least_float32(images).clone()
    else:
        features = features_of(
            _prepare_images(images, extractor, normalize, said), extractor, asker
        )
    features = features.to(device)
    if not torch.isfinite(features).all():
        broken = int((~torch.isfinite(features)).any(1).sum())
        raise ValueError(
            f"`images` must give finite features, got NaN or infinite values in {broken} of "
            f"{len(features)} samples."
        )
    return features


def _at_least_float32(features: Tensor) -> Tensor:
    """Features that were given, in a dtype of at least 32 bits."""
    if features.ndim != 2 or features.shape[1] < 1 or not features.is_floating_point():
        raise ValueError(
            "`images` must be floating features (N, D) for feature=None, "
            f"got {features.dtype} {tuple(features.shape)}."
        )
    features = features.detach()
    return features if features.dtype == torch.float64 else features.float()


def _prepare_images(
    images: Tensor, extractor: FrozenExtractor, normalize: bool, said: str
) -> Tensor:
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


_NAMED: WeakValueDictionary[tuple[str, ...], FrozenExtractor] = WeakValueDictionary()
_COPIES: WeakKeyDictionary[nn.Module, tuple[bytes | None, ref[FrozenExtractor]]]
_COPIES = WeakKeyDictionary()


class _Batch(NamedTuple):
    """A batch, its features, and the metrics that have had them."""

    images: Tensor
    features: Tensor
    askers: set[int]


_REMEMBERED = 2  # real and fake: each metric of a loop may be given both before the next one
_LATEST: WeakKeyDictionary[FrozenExtractor, deque[_Batch]] = WeakKeyDictionary()


def shared_extractor(
    feature: str | nn.Module,
    weights: str | Path | None = None,
    resize: str | None = None,
    download: bool = False,
) -> FrozenExtractor:
    """The extractor for a `feature` argument; the same argument gives the same object.

    Args:
        feature: An extractor, its name for `load_extractor`, or any network, which is copied: what
            becomes of it later, in training say, changes no metric.
        weights: For `load_extractor`.
        resize: For `load_extractor`.
        download: For `load_extractor`.

    Returns:
        The frozen extractor.

    Raises:
        ValueError: If the name is unknown, or it is neither.
    """
    if isinstance(feature, FrozenExtractor):
        return feature
    if isinstance(feature, str):
        return _load_named(feature, weights, resize, download)
    if isinstance(feature, nn.Module):
        return _of_network(feature)
    raise ValueError(
        "`feature` must be the name of an extractor, a torch.nn.Module, or None for features "
        f"(N, D), got {type(feature).__name__}."
    )


def _load_named(
    name: str, weights: str | Path | None, resize: str | None, download: bool
) -> FrozenExtractor:
    """An extractor by name, with messages that speak of `feature`."""
    key = (name, str(weights), str(resize))
    extractor = _NAMED.get(key)
    if extractor is None:
        try:
            extractor = load_extractor(name, weights=weights, resize=resize, download=download)
        except ValueError as error:
            raise type(error)(str(error).replace("`name`", "`feature`")) from error
        _NAMED[key] = extractor
    return extractor


def _of_network(network: nn.Module) -> FrozenExtractor:
    """A frozen copy of a network as it is now."""
    seen = _digest_network(network)
    before, copy = _COPIES.get(network, (None, lambda: None))
    extractor = copy()
    if extractor is None or before is None or before != seen:
        extractor = _frozen_copy(network)
        _COPIES[network] = seen, ref(extractor)
    return extractor


def _frozen_copy(network: nn.Module) -> FrozenExtractor:
    """The extractor of a copy, whose weights are leaves of no graph, scripted ones too."""
    kind = type(network).__qualname__
    try:
        with torch.no_grad():
            return FrozenExtractor(deepcopy(network), None, kind)
    except Exception as error:  # whatever the copying of a stranger's network raises
        raise ValueError(
            f"`feature` must be a network that copy.deepcopy copies, got {kind} ({error}): run a "
            "batch through lazy layers, remove weight_norm, or hand the network itself over, as "
            "otmetrics.features.FrozenExtractor(network, None, name)."
        ) from error


def _digest_network(network: nn.Module) -> bytes | None:
    """Digest of weights, layers, attributes and hooks; None where they cannot be told."""
    if "forward" in vars(network):  # patched, and pickled by name at best
        return None
    digest = hashlib.sha256()
    try:
        pickle.Pickler(_Hashed(digest), protocol=pickle.HIGHEST_PROTOCOL).dump(network)
    except Exception:  # local classes, lambdas, scripted modules
        return None
    return digest.digest()


class _Hashed(io.RawIOBase):
    """A file that keeps the hash of what is written."""

    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def write(self, data: Any) -> int:
        """Hash it."""
        self._digest.update(data)
        return len(data)


def features_of(images: Tensor, extractor: FrozenExtractor, asker: object) -> Tensor:
    """Features of a batch, computed once for all metrics that share the extractor.

    A metric that asks gets the features of one of the two latest batches if that has the same
    content, and if the metric has not had them yet; it never gets them twice, so nothing outlives
    one round.

    Args:
        images: What the extractor takes.
        extractor: The extractor.
        asker: The metric that asks.

    Returns:
        Features (N, D) without a graph, not to be written to.
    """
    latest = _LATEST.setdefault(extractor, deque(maxlen=_REMEMBERED))
    for batch in latest:
        if id(asker) not in batch.askers and _same(batch.images, images):
            batch.askers.add(id(asker))
            return batch.features
    kept = images.detach().clone()  # the caller may refill the buffer in place
    with torch.no_grad():
        features = extractor(kept.clone())  # a network may write into its input, or return it
    latest.append(_Batch(kept, features, {id(asker)}))
    return features


def forget(extractor: FrozenExtractor) -> None:
    """Free the latest batches.

    Args:
        extractor: Whose.
    """
    _LATEST.pop(extractor, None)


def _same(first: Tensor, second: Tensor) -> bool:
    """Whether two batches hold the same numbers."""
    kinds = [(batch.shape, batch.dtype, batch.device) for batch in (first, second)]
    return kinds[0] == kinds[1] and torch.equal(first, second)
