"""What every metric on features shares: batches in, a score out, and the record of how."""

import hashlib
import json
import math
import re
from abc import abstractmethod
from copy import deepcopy
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from otmetrics.checks import check_at_least, check_flag, check_share, checked_clouds
from otmetrics.features import FrozenExtractor
from otmetrics.inference.intervals import Estimate, Interval, Over
from otmetrics.inference.two_sample import Statistics, permutation_tests
from otmetrics.metrics.features import (
    batch_features,
    check_sides,
    forget,
    shared_extractor,
    sides_of,
)
from otmetrics.metrics.state import DIGEST_BYTES, SIDES, TwoSidedMetric, name_states
from otmetrics.summaries.remembered import memory_of
from otmetrics.summaries.stores import AllSamples, Memory, SampleReservoir, Store
from otmetrics.summaries.summary import Summary
from otmetrics.unknown_options import unknown_option

_ALL_PAIRS = "all pairs are taken: the same expectation, less variance, no draw"
_ANY_SIZE = "images of any size are taken, and resized as the extractor asks"
_CUBIC = 'kernel="polynomial" is the published (x.y / D + 1)^3'

# Options of metrics elsewhere that have no counterpart of their name here.
_ELSEWHERE = {
    "antialias": "`resize` of FrechetInceptionDistance and of otmetrics.load_extractor decides it",
    "blur": "give method=otmetrics.Sinkhorn(epsilon=...)",
    "coef": _CUBIC,
    "degree": _CUBIC,
    "feature_extractor_weights_path": "`weights` of FrechetInceptionDistance names the file",
    "gamma": f'{_CUBIC}; kernel="rbf" has `bandwidth`',
    "input_img_size": _ANY_SIZE,
    "n_projections": "give method=otmetrics.Sliced(num_projections=...)",
    "p": "give method=otmetrics.Sliced(order=...)",
    "resize_input": _ANY_SIZE,
    "splits": "scores are of all samples",
    "subset_size": _ALL_PAIRS,
    "subsets": _ALL_PAIRS,
    "use_fp16": "features are float32",
}


class Tested(NamedTuple):
    """How a metric is tested: by scores of these names, with options, on so many samples a side."""

    names: tuple[str, ...]
    statistics: Statistics
    least: int = 2


class FeatureMetric(TwoSidedMetric):
    """A score of real and fake samples that come in batches."""

    is_differentiable = False
    higher_is_better = False
    plot_lower_bound: float | None = 0.0
    _option_names: tuple[str, ...] = ()  # attributes that are options of the score
    _to_keep_samples = ""  # what to do where single samples are asked for, and none are kept
    extractor: FrozenExtractor | None
    seed: int  # of metrics that keep samples

    def __init__(
        self,
        feature: str | nn.Module | None,
        store: Store,
        normalize: bool,
        reset_real_features: bool,
        **kwargs: Any,
    ) -> None:
        check_no_foreign_options(feature, kwargs)

        try:
            super().__init__(**kwargs)
        except ValueError as error:  # torchmetrics alone knows what it takes
            if not str(error).startswith("Unexpected keyword argument"):
                raise
            name = next((one for one in kwargs if f"`{one}`" in str(error)), "?")
            raise ValueError(unknown_option(type(self), name)) from None

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
        self._scores_in: torch.dtype | None = None
        self._add_states(store)  # last: `origin` depends on all the rest

    @abstractmethod
    def _value(self, real: Any, fake: Any) -> Tensor | dict[str, Tensor]:
        """The score of what the store collected of both sides."""

    def _estimates(self, real: Tensor, fake: Tensor, over: Over) -> dict[str, Estimate | None]:
        """What intervals are made of, in the units of `compute`, by the name of the score.

        None where there are too few samples. Features are (N, D) and (M, D).
        """
        raise NotImplementedError

    def _tested(self) -> Tested:
        """How this metric is tested; an error where inference knows nothing of its options."""
        raise NotImplementedError

    def _options(self) -> dict[str, Any]:
        """Options of the score, for the protocol and `repr`."""
        return {name: getattr(self, name) for name in self._option_names}

    def update(
        self, images: Tensor | np.ndarray, real: bool | Tensor | np.ndarray | None = None
    ) -> None:
        """Add a batch to one side, or each sample to its own side. A bad batch changes nothing.

        Args:
            images: A tensor or array, uint8 (N, 3, H, W), or floating in [0, 1] with `normalize`;
                what the network takes, for a network of your own; features (N, D) with
                `feature=None`. N may be 0.
            real: True for real, False for fake, or bools (N,) that say it of each sample. There is
                no default: omitting it raises.

        Raises:
            TypeError: If an argument has another type.
            ValueError: If a shape, a range or a device breaks its rule, or a feature is not finite.
        """
        # The whole next state first: where a part of it raises, nothing has changed.
        self._restore(self._merge_states(self.metric_state, self._batch(images, real)))

    def add_summary(self, summary: Summary, real: bool) -> None:
        """Add all samples that a summary stands for to one side, as if each had come in `update`.

        Args:
            summary: A summary by the extractor of this metric, such as `otmetrics summarize` writes
                and `Summary.load` reads. Fréchet distances take its moments, streaming ones its
                histograms, all others its samples, of which it must keep as many as the metric.
            real: The side.

        Raises:
            TypeError: If an argument has another type.
            ValueError: If the summary is by another extractor, or does not hold what this metric
                remembers.

        Example:
            >>> from otmetrics import FrechetFeatureDistance, Summary
            >>> metric = FrechetFeatureDistance(feature=None)
            >>> metric.add_summary(Summary.of(torch.eye(4)), real=True)
            >>> metric.update(torch.eye(4) + 1, real=False)
            >>> metric.compute()
            tensor(4.)
        """
        if not isinstance(summary, Summary):
            raise TypeError(f"`summary` must be a Summary, got {type(summary).__name__}.")
        check_flag("real", real)
        self._check_extractor(summary)
        memory = memory_of(summary, self._store)
        is_double = bool(
            summary.samples is not None and summary.samples.features.dtype == torch.float64
        )
        state = {
            "layout": self.layout.new_tensor([summary.dimension, is_double]),
            "origin": self.origin,
        }
        for side in SIDES:
            filled = (side == "real") == real
            state |= name_states(side, memory if filled else self._store.empty())
        merged = self._merge_states(self.metric_state, self._move_state(state))
        self._restore_updated(merged)

    def _check_extractor(self, summary: Summary) -> None:
        """Raise unless a summary is of the features of this metric."""
        # Features as they are, and those of a file that does not say of what, are the user's word.
        mine = {"extractor": "none"} if self.extractor is None else self.extractor.protocol
        names = {mine["extractor"], summary.extractor["extractor"]}
        if "none" not in names and mine != summary.extractor:
            raise ValueError(
                "`summary` must be by the extractor of this metric, "
                f"{mine['extractor']!r} with its weights and size of images, got one by "
                f"{summary.extractor['extractor']!r}: summarise with the same."
            )

    def compute(self) -> Any:
        """The score of all samples, of all ranks in a distributed run.

        Returns:
            A scalar tensor, or a dictionary of them: float64 where features of float64 were given,
            else float32, unless `set_dtype` chose one.

        Raises:
            ValueError: If a side holds no samples, or too few for the score, or if the score is
                too large for its dtype.
        """
        sides, self._sizes = self._collect()
        value = self._value(*sides)
        if isinstance(value, dict):
            return {name: self._round_score(score) for name, score in value.items()}
        return self._round_score(value)

    def interval(self, confidence_level: float = 0.95, over: Over = "both") -> Any:
        """Where the score may lie, given the samples that are kept, of all ranks.

        The inference is that of `score_features` on these samples, which must be independent of
        each other; with `max_samples` it is at that size. Parts of the samples, where there are
        any, come from `seed`. The time is that of a few scores at most.

        Args:
            confidence_level: Share of such intervals that hold what they aim at, in (0, 1).
            over: Whose samples could have been others: "both" sides, or "fake" alone, for scores
                against one fixed set of real samples.

        Returns:
            An `Interval` in the units of `compute`, or a dictionary of them where `compute` returns
            one. `Interval.target` says what it is for.

        Raises:
            ValueError: If an argument breaks its rule, the metric keeps no samples or too few, or
                no interval is known for its method.

        Example:
            >>> from otmetrics import KernelFeatureDistance
            >>> metric, generator = KernelFeatureDistance(feature=None), torch.Generator()
            >>> samples = torch.randn(200, 4, generator=generator.manual_seed(0))
            >>> metric.update(samples + 1, torch.arange(200) < 100)
            >>> interval = metric.interval()
            >>> interval.low < metric.compute() < interval.high
            tensor(True)
        """
        check_share("confidence_level", confidence_level)
        if over not in ("both", "fake"):
            raise ValueError(f'`over` must be "both" or "fake", got {over!r}.')
        real, fake = self._samples("intervals")

        found: dict[str, Interval] = {}
        for name, estimate in self._estimates(real, fake, over).items():
            if estimate is None:
                raise ValueError(
                    f"`real` and `fake` must hold more samples for an interval, got {len(real)} "
                    f"and {len(fake)}: give some more of the side that has fewer."
                )
            if not math.isfinite(estimate.standard_error(over)):
                raise ValueError(
                    "`real` and `fake` must be small enough for the error of the score to be a "
                    "number: scale the features of both sides down."
                )
            found[name] = estimate.of_target(over).interval(confidence_level, over)
        return found if len(found) > 1 else next(iter(found.values()))

    def test(self, n_resamples: int = 199) -> Any:
        """Test whether the samples that are kept, of all ranks, may come from one distribution.

        The permutation test of `two_sample_test`, by the score of this metric with its options, on
        the samples in a random order by `seed`, from which the labels come too.

        Args:
            n_resamples: Random relabellings B. The least p-value is 1 / (B + 1).

        Returns:
            A `PermutationTest`, or a dictionary of them where `compute` returns one.

        Raises:
            ValueError: If an argument breaks its rule, the metric keeps no samples or too few, or
                no test is known for its method.

        Example:
            >>> from otmetrics import KernelFeatureDistance
            >>> metric, generator = KernelFeatureDistance(feature=None), torch.Generator()
            >>> metric.update(torch.randn(90, 4, generator=generator.manual_seed(0)), real=True)
            >>> metric.update(torch.randn(80, 4, generator=generator) + 1, real=False)
            >>> metric.test().pvalue
            0.005
        """
        check_at_least("n_resamples", n_resamples, 1)
        sides = self._samples("tests")
        tested = self._tested()
        sides = checked_clouds(*sides, min_samples=tested.least, order=6)

        # Samples may have come class by class, and a test of fewer takes the first ones.
        generator = torch.Generator().manual_seed(self.seed)
        real, fake = (
            side[torch.randperm(len(side), generator=generator).to(side.device)] for side in sides
        )
        found, _ = permutation_tests(
            real, fake, tested.names, n_resamples, self.seed, tested.statistics
        )
        if len(found) < len(tested.names):
            raise ValueError(
                "`real` and `fake` must be small enough for the score to be a number under all "
                "labels: scale the features of both sides down."
            )
        return found if len(found) > 1 else found[tested.names[0]]

    def _samples(self, asked: str) -> tuple[Tensor, Tensor]:
        """The samples (N, D) and (M, D) that are kept, of all ranks."""
        if not isinstance(self._store, AllSamples | SampleReservoir):
            raise ValueError(
                f"{type(self).__name__} has no {asked} without samples, of which it keeps none "
                f"here: {self._to_keep_samples}."
            )
        with self._all_ranks():
            (real, fake), _ = self._collect()
        return real, fake

    def _collect(self) -> tuple[list[Any], dict[str, int]]:
        """What the store collects of both sides, and how many samples that is of each."""
        memories = {side: self._memory(self.metric_state, side) for side in SIDES}
        sizes = {side: self._store.count(memory) for side, memory in memories.items()}
        for side, size in sizes.items():
            if not size:
                raise ValueError(
                    f"`{side}` holds no samples: call update(images, real={side == 'real'}) first."
                )

        # Features are kept as they came, so that another dtype of the score is taken here.
        sides = [self._store.collect(memory) for memory in memories.values()]
        if self._scores_in == torch.float64:
            sides = [side.double() if isinstance(side, Tensor) else side for side in sides]
        return sides, sizes

    def set_dtype(self, dst_type: torch.dtype) -> "FeatureMetric":  # type: ignore[override]
        """Choose the dtype of the score; what is remembered of the samples stays as precise.

        Args:
            dst_type: torch.float32, or torch.float64, in which solvers compute then too.

        Returns:
            The metric.

        Raises:
            ValueError: If it is another dtype.
        """
        if dst_type not in (torch.float32, torch.float64):
            raise ValueError(
                f"`dst_type` must be torch.float32 or torch.float64, got {dst_type!r}: cast what "
                "compute() returns."
            )
        self._scores_in, self._computed = dst_type, None
        return self

    def forward(
        self, images: Tensor | np.ndarray, real: bool | Tensor | np.ndarray | None = None
    ) -> Any:
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
        after = self._merge_states(before, batch)

        # Real samples that stay for all rounds count for each batch.
        if not self.reset_real_features:
            batch |= {name: after[name] for name in after if name.startswith("real_")}
        # Another rank may hold a missing side, where ranks come together here.
        missing = [side for side in SIDES if not self._store.count(self._memory(batch, side))]
        if missing and not self.dist_sync_on_step:
            raise ValueError(
                f"`forward` needs real and fake samples in one batch, got no {missing[0]} ones: "
                "call update() for each side and compute() at the end, or let `real` be a bool "
                "tensor; with reset_real_features=False real samples may come before."
            )

        value = self._value_of(batch)
        self._restore_updated(after)
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

        `sizes` are the samples per side of the latest `compute`, None before the first.
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

    def _round_score(self, score: Tensor) -> Tensor:
        """A score in the dtype that all metrics return it in."""
        dtype = self._scores_in or (torch.float64 if self.layout[1] else torch.float32)
        rounded = score.to(dtype)
        if not torch.isfinite(rounded).all():
            wider = ", or call set_dtype(torch.float64)" if torch.isfinite(score).all() else ""
            raise ValueError(
                f"`compute` gives a score that does not fit {dtype}: scale the features of both "
                f"sides down{wider}."
            )
        return rounded

    def _batch(self, images: Any, real: Any) -> Memory:
        """The state after this batch alone."""
        if self._is_synced:  # unsync() would bring back the state without it
            raise TorchMetricsUserError("No batch can be added between sync() and unsync().")
        check_sides(real)
        features = batch_features(images, self.extractor, self.normalize, self.device, asker=self)
        parts = sides_of(features, real)
        dimension, is_double = features.shape[1], features.dtype == torch.float64

        state = {"layout": self.layout.new_tensor([dimension, is_double]), "origin": self.origin}
        for side in SIDES:
            # A batch of none does not say its dimension.
            seen = dimension and side in parts
            memory = self._store.of(parts[side]) if seen else self._store.empty()
            state |= name_states(side, memory)
        return state

    def _value_of(self, state: Memory) -> Any:
        """What `compute` returns for another state; this one comes back, whatever happens."""
        before, sizes, to_sync = self.metric_state, self._sizes, self._to_sync

        # Through `compute`, so that ranks are brought together as torchmetrics does it.
        try:
            self._restore(state)
            self._computed, self._to_sync = None, self.dist_sync_on_step
            return self.compute()
        finally:
            self._restore(before)
            self._computed, self._sizes, self._to_sync = None, sizes, to_sync

    def _origin(self) -> Tensor:
        """Two digests as bytes: what the states depend on, and which metrics may share them."""
        source = {"normalize": self.normalize, "store": repr(self._store)}
        if self.extractor is not None:
            # Weights do not tell layers and their options; addresses differ between processes.
            layers = re.sub(r" at 0x[0-9a-f]+", "", repr(self.extractor.network))
            source |= {"extractor": self.extractor.protocol, "network": layers}

        # By identity: networks may differ in more than their protocols and layers tell.
        group = id(self.extractor), self.reset_real_features
        return torch.cat([_digest(source), _digest(repr(group))])

    def _digest_of_options(self) -> Tensor:
        """Of the class and the options in the protocol."""
        protocol = self.protocol
        return _digest([protocol["metric"], protocol["options"]])

    def __deepcopy__(self, memo: dict[int, Any]) -> "FeatureMetric":
        """A copy that shares the extractor, which nothing changes."""
        # The memo says what is copied already: deepcopy hands the extractor on as it is.
        memo[id(self.extractor)] = self.extractor
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        copy.__setstate__(deepcopy(self.__getstate__(), memo))
        return copy

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore; another process has another extractor object."""
        super().__setstate__(state)
        origin = self._origin().to(self.origin.device)
        # In the defaults too, from which reset() takes it.
        self.origin, self._defaults["origin"] = origin, origin.clone()


def check_no_foreign_options(feature: Any, options: dict[str, Any]) -> None:
    """Raise where an option of torchmetrics' or another package's metrics was given.

    `options` are those that the metric itself does not know.
    """
    # torchmetrics takes the number of features of a layer of Inception here.
    if isinstance(feature, int):
        raise ValueError(
            "`feature` must be the name of an extractor, a torch.nn.Module, or None for features "
            f'(N, D), got {feature!r}: the 2048 features of FID are feature="inception", and its '
            "earlier layers a network of your own."
        )
    for name in options.keys() & _ELSEWHERE.keys():
        raise ValueError(f"`{name}` is not an option of these metrics: {_ELSEWHERE[name]}.")


def _digest(record: Any) -> Tensor:
    """The first bytes of the hash of a JSON-able record."""
    # A tensor of integers, as ranks gather no other kind of state.
    text = json.dumps(record, sort_keys=True)
    return torch.tensor(list(hashlib.sha256(text.encode()).digest()[:DIGEST_BYTES]))


def _plain(option: Any) -> Any:
    """An option as JSON knows it: a solver becomes its name and fields."""
    if is_dataclass(option) and not isinstance(option, type):
        return {"name": type(option).__name__, **asdict(option)}
    return option if isinstance(option, str | int | float | None) else type(option).__qualname__
