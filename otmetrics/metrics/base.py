"""What every metric on features shares: batches in, a score out, and the record of how."""

import hashlib
import json
import re
from abc import abstractmethod
from copy import deepcopy
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from otmetrics.features import FrozenExtractor
from otmetrics.functional.checks import check_flag
from otmetrics.metrics.extractors import forget, shared_extractor
from otmetrics.metrics.inputs import batch_features, sides_of
from otmetrics.metrics.state import DIGEST_BYTES, SIDES, TwoSidedMetric, named
from otmetrics.metrics.stores import Memory, Store


class FeatureMetric(TwoSidedMetric):
    """A score of real and fake samples that come in batches.

    Args:
        feature: Extractor name, network or extractor; None where features are given.
        store: How to remember a side.
        normalize: Whether images are floating in [0, 1] instead of uint8.
        reset_real_features: Whether `reset` forgets the real side too.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: If an option breaks its rule.
    """

    is_differentiable = False
    higher_is_better = False
    plot_lower_bound: float | None = 0.0
    extractor: FrozenExtractor | None

    def __init__(
        self,
        feature: str | nn.Module | None,
        store: Store,
        *,
        normalize: bool,
        reset_real_features: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_flag("normalize", normalize)
        check_flag("reset_real_features", reset_real_features)
        self.extractor = None if feature is None else shared_extractor(feature)
        if normalize and (self.extractor is None or self.extractor.preprocessing is None):
            raise ValueError(
                "`normalize` must be False where the input is taken as it is "
                f"(feature={self._feature_name}): scale it in your own network."
            )
        self.normalize = normalize
        self.reset_real_features = reset_real_features
        self._sizes: dict[str, int] | None = None
        self._add_states(store)

    @abstractmethod
    def _value(self, real: Any, fake: Any) -> Tensor | dict[str, Tensor]:
        """The score of what the store collected of both sides."""

    def _options(self) -> dict[str, Any]:
        """Options of the score, for the protocol."""
        return {}

    def update(self, images: Tensor, real: bool | Tensor) -> None:
        """Add a batch to one side, or its samples each to its own. A bad batch changes nothing.

        Args:
            images: uint8 (N, 3, H, W), or floating in [0, 1] with `normalize`; what the network
                takes, for a network of your own; features (N, D) with `feature=None`. N may be 0.
            real: True for real, False for fake, or a bool tensor (N,) that says it of each sample.

        Raises:
            TypeError: If an argument has another type.
            ValueError: If a shape, a range or a device breaks its rule, or a feature is not finite.
        """
        self._restore(self._merged(self.metric_state, self._batch(images, real)))

    def compute(self) -> Any:
        """The score of all samples, of all ranks in a distributed run.

        Returns:
            A scalar tensor, or a dictionary of them.

        Raises:
            ValueError: If a side holds no samples, or too few for the score.
        """
        memories = {side: self._memory(self.metric_state, side) for side in SIDES}
        sizes = {side: self._store.count(memory) for side, memory in memories.items()}
        for side, size in sizes.items():
            if not size:
                raise ValueError(
                    f"`{side}` holds no samples: call update(images, real={side == 'real'}) first."
                )
        self._sizes = sizes
        return self._value(*(self._store.collected(memory) for memory in memories.values()))

    def forward(self, images: Tensor, real: bool | Tensor) -> Any:
        """Add a batch and return the score of that batch.

        Both sides must be in it: `real` is a bool tensor. With `reset_real_features=False` fake
        samples are compared with all real samples so far, and a batch may be fake alone.

        Args:
            images: See `update`.
            real: See `update`.

        Returns:
            What `compute` returns, for this batch; across ranks with `dist_sync_on_step`.

        Raises:
            ValueError: If a side is empty; nothing is added then.
        """
        batch, before = self._batch(images, real), self.metric_state
        after = self._merged(before, batch)
        if not self.reset_real_features:
            batch |= {name: after[name] for name in after if name.startswith("real_")}
        missing = [side for side in SIDES if not self._store.count(self._memory(batch, side))]
        if missing and not self.dist_sync_on_step:
            raise ValueError(
                f"`forward` needs real and fake samples in one batch, got no {missing[0]} ones: "
                "call update() for each side and compute() at the end, or let `real` be a bool "
                "tensor; with reset_real_features=False real samples may come before."
            )
        value = self._value_of(batch)
        self._take(after)
        self._forward_cache = value
        return value

    def reset(self) -> None:
        """Forget all samples; the real ones are kept with `reset_real_features=False`."""
        state = self._cache if self._is_synced and self._cache else self.metric_state
        for name, value in self.metric_state.items():
            if isinstance(value, list):
                setattr(self, name, [])  # torchmetrics would clear the list, which may be shared
        super().reset()
        if not self.reset_real_features and self._store.count(self._memory(state, "real")):
            kept = {name: state[name] for name in state if name.startswith(("real_", "layout"))}
            self._restore(kept)
        if self.extractor is not None:
            forget(self.extractor)

    @property
    def protocol(self) -> dict[str, Any]:
        """What the score depends on, for its record (JSON-able).

        `sizes` are the samples a side of the latest `compute`, None before the first.
        """
        features: dict[str, Any] = {"extractor": "none"}
        if self.extractor is not None:
            features = self.extractor.protocol | {"runtime": self.extractor.runtime_name}
        return {
            "metric": type(self).__name__,
            "features": features | {"normalize": self.normalize},
            "options": {name: _plain(value) for name, value in self._options().items()},
            "reset_real_features": self.reset_real_features,
            "sizes": self._sizes,
            "versions": {name: version(name) for name in ("otmetrics", "torch", "torchmetrics")},
        }

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw one value or several; needs matplotlib, the extra `plot`.

        Args:
            val: What `forward` or `compute` returned, or a list of it; None computes.
            ax: Matplotlib axes to draw on.

        Returns:
            Figure and axes.
        """
        return self._plot(val, ax)

    def __repr__(self) -> str:
        options = self._options() | {"normalize": self.normalize}
        if not self.reset_real_features:
            options["reset_real_features"] = False
        listed = "".join(f", {name}={value!r}" for name, value in options.items())
        return f"{type(self).__name__}(feature={self._feature_name}{listed})"

    @property
    def _feature_name(self) -> str:
        """The feature as the user would write it."""
        return "None" if self.extractor is None else repr(self.extractor.name)

    def _batch(self, images: Tensor, real: bool | Tensor) -> Memory:
        """The state after this batch alone."""
        if self._is_synced:
            raise TorchMetricsUserError("No batch can be added between sync() and unsync().")
        features = batch_features(images, self.extractor, self.normalize, self.device, asker=self)
        parts = sides_of(features, real)
        dimension, is_double = features.shape[1], features.dtype == torch.float64
        state = {"layout": self.layout.new_tensor([dimension, is_double]), "origin": self.origin}
        for side in SIDES:
            seen = dimension and side in parts
            memory = self._store.of(parts[side]) if seen else self._store.empty()
            state |= named(side, memory)
        return state

    def _value_of(self, state: Memory) -> Any:
        """What `compute` returns for another state; this one comes back, whatever happens."""
        before, count, to_sync = self.metric_state, self._update_count, self._to_sync
        sizes = self._sizes
        try:
            self._take(state)
            self._to_sync = self.dist_sync_on_step
            return self.compute()
        finally:
            self._restore(before)
            self._computed, self._update_count, self._to_sync = None, count, to_sync
            self._sizes = sizes

    def _origin(self) -> Tensor:
        """Two digests as bytes: what the states depend on, and which metrics may share them."""
        source = {
            "extractor": None if self.extractor is None else self.extractor.protocol,
            "network": None if self.extractor is None else _described(self.extractor.network),
            "normalize": self.normalize,
            "store": repr(self._store),
        }
        group = id(self.extractor), self.reset_real_features
        return torch.cat([_digest(source), _digest(repr(group))])

    def _digest_of_options(self) -> Tensor:
        """Of the class and the options in the protocol."""
        protocol = self.protocol
        return _digest([protocol["metric"], protocol["options"]])

    def __deepcopy__(self, memo: dict[int, Any]) -> "FeatureMetric":
        """A copy that shares the extractor, which nothing changes."""
        memo[id(self.extractor)] = self.extractor
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        copy.__setstate__(deepcopy(self.__getstate__(), memo))
        return copy

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore; another process has another extractor object."""
        super().__setstate__(state)
        origin = self._origin().to(self.origin.device)
        self.origin, self._defaults["origin"] = origin, origin.clone()


def _digest(record: Any) -> Tensor:
    """The first bytes of the hash of a JSON-able record."""
    text = json.dumps(record, sort_keys=True)
    return torch.tensor(list(hashlib.sha256(text.encode()).digest()[:DIGEST_BYTES]))


def _described(network: nn.Module) -> str:
    """Layers and their options, which weights do not tell; the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(network))


def _plain(option: Any) -> Any:
    """An option as JSON knows it: a solver becomes its name and fields."""
    if is_dataclass(option) and not isinstance(option, type):
        return {"name": type(option).__name__, **asdict(option)}
    return option if isinstance(option, str | int | float | None) else type(option).__qualname__
