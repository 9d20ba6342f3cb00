"""From a batch to features: what `update` accepts, and one extraction for all metrics."""

import pickle
from collections import deque
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

import numpy as np
import torch
from torch import Tensor, nn

from otmetrics.checks import as_tensor
from otmetrics.features import FrozenExtractor, load_extractor
from otmetrics.features.catalog import check_extractor
from otmetrics.features.preprocessing import check_batch, unit_range_remedy


def batch_features(
    images: Any,
    extractor: FrozenExtractor | None,
    normalize: bool,
    device: torch.device,
    asker: object,
) -> Tensor:
    """Features (N, D) of a batch as a metric takes it, checked; (0, 0) for a batch of none.

    They are finite, float32 or float64, on the device, and share no memory with `images`.
    `extractor` is None where `images` are features; `asker` is the metric.
    """
    # What a remedy calls the batch: an array has no `permute`.
    said = "torch.from_numpy(images)" if isinstance(images, np.ndarray) else "images"
    images = given_tensor("images", images)

    # A batch on the CPU is moved; one on another device is a mistake more likely than not.
    if images.device.type != "cpu" and images.device != device:
        raise ValueError(
            f"`images` must be on the metric's device {device}, got {images.device}: "
            f"call metric.to({str(images.device)!r}) first."
        )
    if images.ndim and not len(images):  # the last batch of a loader that filters, say
        return torch.zeros(0, 0, device=device)

    if extractor is None:
        features = _at_least_float32(images).clone()  # the caller may refill the buffer in place
    else:
        images = _prepare_images(images, extractor, normalize, said)
        features = features_of(images, extractor, asker)

    features = features.to(device)
    # Refused now: later such a sample would spoil the score, and could not be taken out again.
    if not torch.isfinite(features).all():
        broken = int((~torch.isfinite(features)).any(1).sum())
        raise ValueError(
            f"`images` must {'be' if extractor is None else 'give'} finite features, got NaN or "
            f"infinite values in {broken} of {len(features)} samples."
        )
    return features


def given_tensor(name: str, value: Any) -> Tensor:
    """A tensor or a NumPy array as a dense tensor; anything else raises with what to give."""
    first = value[0] if isinstance(value, list | tuple) and value else None
    converted = "torchvision.transforms.functional.pil_to_tensor("
    remedy = ""
    if _is_picture(first):
        remedy = f'uint8 of one size, torch.stack([{converted}i.convert("RGB")) for i in {name}])'
    elif _is_picture(value):
        remedy = f'{converted}{name}.convert("RGB"))[None]'
    elif isinstance(first, Tensor):
        loader = "; where a loader gives images and labels, the images alone"
        remedy = f"torch.stack({name}){loader}"
    elif isinstance(first, np.ndarray):
        remedy = f"numpy.stack({name})"
    elif isinstance(value, list | tuple):
        remedy = f"numpy.array({name})"
    elif isinstance(value, dict):
        remedy = f'the images in it, such as {name}["image"]'
    if not remedy:
        return as_tensor(name, value)

    kind = type(value).__name__
    if first is not None:
        kind = f"a {kind} of {type(first).__name__}"
    raise TypeError(f"`{name}` must be a torch.Tensor or numpy.ndarray, got {kind}: give {remedy}.")


def _is_picture(value: Any) -> bool:
    """Whether a value is an image of Pillow, which need not be loaded for it."""
    return any(kind.__module__ == "PIL.Image" for kind in type(value).__mro__)


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
            f"`images` must lie in [0, 1], got {_range_of(images)}: "
            f"{unit_range_remedy(*_ends(images), said)}."
        )
    return (images * 255).round().to(torch.uint8)


def _ends(images: Tensor) -> tuple[float, float]:
    """The least and the largest value; unsigned dtypes have no such functions of their own."""
    low, high = images.double().aminmax()
    return low.item(), high.item()


def _range_of(images: Tensor) -> str:
    """The dtype of images and the range of their values."""
    low, high = _ends(images)
    if not np.isfinite(low + high):
        return f"{images.dtype} with NaN or infinite values"
    return f"{images.dtype} in [{low:g}, {high:g}]"


def _to_uint8(images: Tensor, said: str) -> str:
    """How images of another dtype become uint8 ones, or which metric takes them."""
    low, high = _ends(images)
    is_unit, is_byte = low >= 0 and high <= 1, low >= 0 and high <= 255
    if images.is_floating_point():
        taken = "make the metric with normalize=True for floating images in [0, 1]"
        if is_unit:
            return taken
        if is_byte:
            return f"give {said}.round().to(torch.uint8) for images in [0, 255]"
        return f"{taken}, and {unit_range_remedy(low, high, said)}"

    if is_unit:
        return f"give {said}.to(torch.uint8) * 255 for images of 0 and 1"
    if is_byte:
        return f"give {said}.to(torch.uint8) for images in [0, 255]"
    return "scale them to [0, 255] first"


def check_sides(real: Any) -> None:
    """Raise unless `real` is True, False, or a bool tensor or array."""
    if isinstance(real, bool | np.bool_):
        return
    got = "nothing" if real is None else repr(real)
    advice = "give real=True for real samples, real=False for generated ones"
    if isinstance(real, Tensor | np.ndarray):
        # By name, as torch and NumPy each know their own dtypes only.
        if str(real.dtype) in ("torch.bool", "bool"):
            return
        got = f"{real.dtype} {tuple(real.shape)}"
        advice = "give real samples with real=True and fake ones with real=False, in two calls"
    raise ValueError(
        "`real` must be True, False, or a bool tensor (N,) that tells real from fake in the "
        f"batch, got {got}: {advice}."
    )


def sides_of(features: Tensor, real: bool | Tensor | np.ndarray) -> dict[str, Tensor]:
    """Features of `real`, `fake` or both, as `real` says, which `check_sides` has seen."""
    mask = torch.tensor(real) if isinstance(real, bool | np.bool_) else given_tensor("real", real)
    if not mask.ndim:
        return {"real" if mask else "fake": features}

    # Labels of a loader are on the CPU, whatever the batch is on.
    mask = mask.to(features.device)
    if mask.shape != features.shape[:1]:
        raise ValueError(
            f"`real` must hold one bool per sample, ({len(features)},), got {tuple(mask.shape)}."
        )
    return {"real": features[mask], "fake": features[~mask]}


# Extractors that a metric still holds, by what was given for them.
_NAMED: WeakValueDictionary[tuple[str, ...], FrozenExtractor] = WeakValueDictionary()
_COPIES: WeakKeyDictionary[nn.Module, ref[FrozenExtractor]] = WeakKeyDictionary()


def shared_extractor(
    feature: str | nn.Module,
    weights: str | Path | None = None,
    resize: str | None = None,
    download: bool = False,
) -> FrozenExtractor:
    """The extractor for a `feature` argument; the same argument gives the same object.

    A network is copied: what becomes of it later, in training say, changes no metric. The other
    arguments are those of `load_extractor`.
    """
    if isinstance(feature, FrozenExtractor):
        return feature
    if isinstance(feature, nn.Module):
        return _of_network(feature)
    if not isinstance(feature, str):
        raise ValueError(
            "`feature` must be the name of an extractor, a torch.nn.Module, or None for features "
            f"(N, D), got {type(feature).__name__}."
        )

    # Without `download`, which decides whether weights are found, not which.
    key = (feature, str(weights), str(resize))
    extractor = _NAMED.get(key)
    if extractor is None:
        check_extractor(feature, "feature")
        extractor = load_extractor(feature, weights=weights, resize=resize, download=download)
        _NAMED[key] = extractor
    return extractor


def _of_network(network: nn.Module) -> FrozenExtractor:
    """A frozen copy of a network as it is now; the one that there is, if nothing has changed."""
    extractor = _COPIES[network]() if network in _COPIES else None
    # Attributes that cannot be compared, functions without a name, what contains itself.
    with suppress(Exception):
        if extractor is not None and _is_alike(network, extractor.network):
            return extractor

    kind = type(network).__qualname__
    try:
        with torch.no_grad():  # the weights of the copy are leaves of no graph, scripted ones too
            extractor = FrozenExtractor(deepcopy(network), None, kind)
    except Exception as error:  # whatever the copying of a stranger's network raises
        raise ValueError(
            f"`feature` must be a network that copy.deepcopy copies, got {kind} ({error}): run a "
            "batch through lazy layers, remove weight_norm, or hand the network itself over, as "
            "otmetrics.features.FrozenExtractor(network, None, name)."
        ) from error
    _COPIES[network] = ref(extractor)
    return extractor


def _is_alike(network: Any, copy: Any) -> bool:
    """Whether a copy still has the weights, layers, hooks and attributes of its network.

    False also where they cannot be compared: a second copy costs time, a stale one the number.
    """
    if type(network) is not type(copy):
        return False
    if isinstance(network, Tensor):
        return network.shape == copy.shape and torch.equal(network.detach().to(copy), copy)
    if isinstance(network, nn.Module):
        if "forward" in vars(network):  # patched: a copy shares the patch and all that it encloses
            return False
        # A copy is frozen in eval mode, whatever the network does.
        ours, theirs = ({**vars(one), "training": False} for one in (network, copy))
        return _is_alike(ours, theirs)
    if isinstance(network, dict):
        # Their order too: layers and hooks run in it.
        return list(network) == list(copy) and all(
            _is_alike(value, copy[name]) for name, value in network.items()
        )
    if isinstance(network, list | tuple):
        return len(network) == len(copy) and all(map(_is_alike, network, copy))
    if isinstance(network, FunctionType | BuiltinFunctionType):
        # Copies share functions. One that pickle cannot name, a lambda or a closure, may do
        # something else now, by what it encloses; pickling it raises.
        pickle.dumps(network)
    return network is copy or bool(network == copy)


class _Batch(NamedTuple):
    """A batch, its features, and the metrics that have had them."""

    images: Tensor
    features: Tensor
    askers: set[int]


_REMEMBERED = 2  # real and fake: each metric of a loop may be given both before the next one
_LATEST: WeakKeyDictionary[FrozenExtractor, deque[_Batch]] = WeakKeyDictionary()


def features_of(images: Tensor, extractor: FrozenExtractor, asker: object) -> Tensor:
    """Features (N, D) of a batch, computed once for all metrics that share the extractor.

    A metric that asks gets the features of one of the two latest batches if that has the same
    content, and if the metric has not had them yet; it never gets them twice, so nothing outlives
    one round. They have no graph and are not to be written to.
    """
    latest = _LATEST.setdefault(extractor, deque(maxlen=_REMEMBERED))
    for batch in latest:
        if id(asker) not in batch.askers and _same(batch.images, images):
            batch.askers.add(id(asker))
            return batch.features

    kept = images.detach().clone()  # the caller may refill the buffer in place
    with torch.no_grad():
        features = extractor(kept.clone())  # a network may write into its input, or return it

    # A view, such as the class token of a transformer, would keep all that it is a part of.
    features = features.clone()
    latest.append(_Batch(kept, features, {id(asker)}))
    return features


def forget(extractor: FrozenExtractor) -> None:
    """Free the latest batches of an extractor."""
    _LATEST.pop(extractor, None)


def _same(first: Tensor, second: Tensor) -> bool:
    """Whether two batches hold the same numbers."""
    alike = first.dtype == second.dtype and first.device == second.device  # or `equal` raises
    return alike and torch.equal(first, second)
