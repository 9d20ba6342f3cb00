"""One network for all metrics that use it, asked once per batch."""

import hashlib
import io
import pickle
from collections import deque
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

import torch
from torch import Tensor, nn

from otmetrics.features import FrozenExtractor, load_extractor

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
        return _named(feature, weights, resize, download)
    if isinstance(feature, nn.Module):
        return _of_network(feature)
    raise ValueError(
        "`feature` must be the name of an extractor, a torch.nn.Module, or None for features "
        f"(N, D), got {type(feature).__name__}."
    )


def _named(
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
    seen = _pickled(network)
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


def _pickled(network: nn.Module) -> bytes | None:
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
