"""States of a metric that sees real and fake samples: merged, synchronised, saved, moved."""

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from otmetrics.checks import check_device
from otmetrics.summaries.stores import Memory, Store, join_chunks

SIDES = ("real", "fake")
DIGEST_BYTES = 8  # of a SHA-256: no two options share them by chance
_MOST_FEATURES = 2**31


class TwoSidedMetric(Metric):
    """A metric that remembers two sides in a store, and what torchmetrics and PyTorch do with it.

    States are `real_*` and `fake_*`, what the store remembers of either side; `layout`, the
    dimension D (0 before the first batch) and whether features are float64; and `origin`, the bytes
    of two digests: of all that the states depend on, which loading, merging and synchronising
    compare, and of the extractor object, which keeps metrics that see different features out of one
    compute group. What a state holds is never changed in place, so states are copied by reference.
    """

    full_state_update = False
    layout: Tensor
    origin: Tensor

    def _add_states(self, store: Store) -> None:
        """Register the states; call it once when all that `_origin` speaks of is there."""
        self._store = store

        # Without `dist_reduce_fx`: a merge needs all states of a side at once, not each by itself.
        for side in SIDES:
            for name, default in name_states(side, store.empty()).items():
                self.add_state(name, default)
        self.add_state("layout", torch.zeros(2, dtype=torch.int64))
        self.add_state("origin", self._origin())

    @abstractmethod
    def _digest_of_options(self) -> Tensor:
        """Bytes of a digest of the score and its options, which ranks must agree on."""

    @abstractmethod
    def _origin(self) -> Tensor:
        """Bytes of two digests, `DIGEST_BYTES` each; see the class."""

    def merge_state(self, incoming_state: "dict[str, Any] | Metric") -> None:
        """Add the samples of another metric, or of its `metric_state`, behind those of this one.

        Args:
            incoming_state: A metric of this class, or a state of one.

        Raises:
            ValueError: If it is of another class, or was made with other features or options.
        """
        state = incoming_state
        if isinstance(state, Metric) and type(state) is type(self):
            state = state.metric_state
        if not isinstance(state, dict):
            advice = ""
            if isinstance(incoming_state, list | tuple):
                advice = ": merge one after the other, for other in metrics: merge_state(other)"
            raise ValueError(
                f"`incoming_state` must be a {type(self).__name__} or its `metric_state`, "
                f"got {type(incoming_state).__name__}{advice}."
            )
        self._check_state("incoming_state", state)
        self._restore_updated(self._merge_states(self.metric_state, self._move_state(state)))

    def _memory(self, state: Memory, side: str) -> Memory:
        """What a state holds of one side."""
        start = f"{side}_"
        return {name[len(start) :]: state[name] for name in state if name.startswith(start)}

    def _merge_states(self, first: Memory, second: Memory) -> Memory:
        """The state after the samples of one state and then those of another."""
        layouts = torch.stack([first["layout"], second["layout"]])
        _check_dimensions(layouts)

        # D is 0, and features are float32, where nothing has been seen.
        state = {"layout": layouts.amax(0), "origin": first["origin"]}
        for side in SIDES:
            memory = self._store.merge(self._memory(first, side), self._memory(second, side))
            state |= name_states(side, memory)
        return state

    def _restore(self, state: Memory) -> None:
        """Put a state in place, and nothing else: what was computed and counted stays."""
        for name, value in state.items():
            setattr(self, name, value)
        if self.compute_on_cpu:  # torchmetrics sees to it after `update` only
            self._move_list_states_to_cpu()

    def _restore_updated(self, state: Memory) -> None:
        """Put a state with new samples in place, and do what torchmetrics does for `update`."""
        self._restore(state)
        self._computed = None
        self._update_count += 1

    def _move_state(self, state: Memory) -> Memory:
        """A state on the device of the metric."""
        return {
            name: [chunk.to(self.device) for chunk in value]
            if isinstance(value, list)
            else value.to(self.device)
            for name, value in state.items()
        }

    def _check_state(self, name: str, state: Memory) -> None:
        """Raise unless a state is whole, and made with the same features and options."""
        # First: other features or options would be told as a missing or a damaged state.
        if "origin" in state:
            self._check_origin(name, state["origin"])
        missing = [field for field in self._defaults if field not in state]
        if missing:
            raise ValueError(f"`{name}` must hold {', '.join(missing)} too.")
        _check_tensor(f"{name}.layout", state["layout"], self.layout)
        dimension, is_double = state["layout"].tolist()
        if not 0 <= dimension < _MOST_FEATURES or is_double not in (0, 1):
            raise ValueError(f"`{name}.layout` must be (D, 0) or (D, 1), got a damaged one.")

        empty = self._store.empty()
        # Without memory, so that a forged D costs nothing.
        blank = self._store.of(torch.zeros(0, dimension, device="meta")) if dimension else empty
        for side in SIDES:
            memory = self._memory(state, side)
            try:
                _check_memory(f"{name}.{side}", memory, empty)  # a side that saw no sample
            except ValueError:
                _check_memory(f"{name}.{side}", memory, blank)
            try:
                self._store.check(memory)
            except ValueError as error:
                raise ValueError(f"`{name}` is damaged: its {side} {error}.") from error

    def _check_origin(self, name: str, origin: Tensor) -> None:
        """Raise unless samples were seen with the same features and options."""
        _check_tensor(f"{name}.origin", origin, self.origin)
        # Of the two digests the first: another process has another extractor object.
        if not torch.equal(origin[:DIGEST_BYTES].cpu(), self.origin[:DIGEST_BYTES].cpu()):
            raise ValueError(
                f"`{name}` must come from a metric with the features and options of {self!r}: "
                "same extractor and weights, normalize, max_samples, seed and streaming."
            )

    def _copy_state_dict(self) -> Memory:
        """States to come back to; by reference, as nothing changes them in place."""
        return self.metric_state

    def _reduce_states(self, incoming_state: Memory) -> None:
        """Put earlier samples before those of this metric, as wrappers of torchmetrics ask."""
        self._restore(self._merge_states(self._move_state(incoming_state), self.metric_state))

    def _sync_dist(
        self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None
    ) -> None:
        """Replace the state by that of all ranks, in the order of ranks; some may be empty."""

        def gather(state: Tensor) -> list[Tensor]:
            state = state.to(self.device).contiguous()
            return dist_sync_fn(state, group=process_group or self.process_group)

        # All ranks compare all of these and raise together: none waits for one that has given up.
        for origin in gather(self.origin):
            self._check_origin("rank", origin)
        digests = gather(self._digest_of_options().to(self.device))
        if any(not torch.equal(digest, digests[0]) for digest in digests):
            raise ValueError(
                f"`rank` must compute with the options of all others, got another {self!r} on some."
            )

        layouts = torch.stack(gather(self.layout))
        _check_dimensions(layouts)
        dimension, is_double = layouts.amax(0).tolist()
        if not dimension:
            return

        dtype = torch.float64 if is_double else torch.float32
        blank = self._store.of(torch.zeros(0, dimension, dtype=dtype, device=self.device))
        state = {"layout": layouts.amax(0), "origin": self.origin}
        for side in SIDES:
            memory = self._memory(self.metric_state, side)
            if not self._store.count(memory):
                memory = blank  # all ranks gather all fields, in equal numbers of dimensions

            # One list per field, with a part of each rank; then one memory per rank.
            parts = [gather(_whole(value, dtype)) for value in memory.values()]
            ranks = [
                {
                    field: [part] if isinstance(value, list) else part
                    for (field, value), part in zip(memory.items(), row, strict=True)
                }
                for row in zip(*parts, strict=True)
            ]
            state |= name_states(side, functools.reduce(self._store.merge, ranks))
        self._restore(state)

    def _wrap_compute(self, compute: Callable) -> Callable:
        """Leave the state of this rank in place when `compute` raises too, and warn of less."""
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def run(*args: Any, **kwargs: Any) -> Any:
            count = self._update_count
            # A rank without samples is nothing to warn of; a metric without any raises.
            self._update_count = max(1, count)
            try:
                with self._own_state_after():
                    return wrapped(*args, **kwargs)
            finally:
                self._update_count = count

        return run

    @contextmanager
    def _own_state_after(self) -> Iterator[None]:
        """Bring the state of this rank back, also from an error among those of all ranks."""
        was_synced = self._is_synced
        try:
            yield
        finally:
            if self._is_synced and not was_synced and self._should_unsync:
                self.unsync()

    @contextmanager
    def _all_ranks(self) -> Iterator[None]:
        """The state that `compute` sees: that of all ranks, where they are brought together."""
        synchronised = self.sync_context(
            dist_sync_fn=self.dist_sync_fn,
            should_sync=self._to_sync,
            should_unsync=self._should_unsync,
        )
        with self._own_state_after(), synchronised:
            yield

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Resume from a saved state, if that is one of this metric."""
        # Taken out, as torchmetrics would put them in place as they are.
        names = [name for name in self._defaults if prefix + name in state_dict]
        incoming = {name: state_dict.pop(prefix + name) for name in names}

        # PyTorch wants errors in its list, where it gathers those of all modules.
        if incoming:
            errors = kwargs["error_msgs"] if "error_msgs" in kwargs else args[-1]
            try:
                self._check_state(prefix + "state", incoming)
            except ValueError as error:
                errors.append(str(error))
            else:
                self._restore(self._move_state(incoming))
                # An update at least, or torchmetrics warns of a compute() before any.
                self._computed, self._update_count = None, max(1, self._update_count)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def to(self, *args: Any, **kwargs: Any) -> "TwoSidedMetric":
        """Move the metric, as `torch.nn.Module.to` does; its dtype stays.

        Args:
            *args: Those of `torch.nn.Module.to`.
            **kwargs: The same.

        Returns:
            The metric.

        Raises:
            ValueError: If there is no such device on this machine.
        """
        # torch refuses a device in words that depend on how it was built.
        device = kwargs.get("device", args[0] if args else None)
        if isinstance(device, str | torch.device) and str(device) != "meta":
            check_device(device)
        return super().to(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        """Follow a move to another device, never a change of dtype."""
        # What `fn` does to an empty tensor tells where it moves, whatever dtype it asks for.
        device = fn(torch.empty(0, device=self.device)).device
        return super()._apply(lambda tensor: tensor.to(device), *args, **kwargs)


def _check_memory(name: str, memory: Memory, like: Memory) -> None:
    """Raise unless a memory has the kinds, shapes and dtypes of another one of its store."""
    for field, value in memory.items():
        label, model = f"{name}_{field}", like[field]
        if not isinstance(model, list):
            _check_tensor(label, value, model)
            continue
        if not isinstance(value, list):
            raise ValueError(f"`{label}` must be a list of tensors, got {type(value).__name__}.")
        if value and not model:
            raise ValueError(f"`{label}` must be empty, got {len(value)} tensors.")
        for rows in value:
            _check_tensor(label, rows, model[0], rows=True)


def _check_tensor(name: str, value: Any, like: Tensor, *, rows: bool = False) -> None:
    """Raise unless a state is a finite tensor as another one; `rows` may be any number of rows."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        raise ValueError(f"`{name}` must be a dense tensor, got {type(value).__name__}.")

    shape = (*value.shape[:1], *like.shape[1:]) if rows and value.ndim else like.shape
    dtype = like.dtype
    if rows and dtype.is_floating_point and value.dtype == torch.float64:
        dtype = torch.float64  # features keep their dtype

    if value.shape != shape or value.dtype != dtype:
        raise ValueError(
            f"`{name}` must be {dtype} {tuple(shape)}, got {value.dtype} {tuple(value.shape)}."
        )
    if dtype.is_floating_point and not torch.isfinite(value).all():
        raise ValueError(f"`{name}` must be finite.")


def name_states(side: str, memory: Memory) -> Memory:
    """A memory under the names of its states."""
    return {f"{side}_{field}": value for field, value in memory.items()}


def _whole(value: Any, dtype: torch.dtype) -> Tensor:
    """A state as one tensor; features in the dtype that all ranks agreed on."""
    if not isinstance(value, list):
        return value
    rows = join_chunks(value)
    return rows.to(dtype) if rows.is_floating_point() else rows


def _check_dimensions(layouts: Tensor) -> None:
    """Raise unless all layouts (K, 2) that know their dimension have the same."""
    dimensions = sorted(set(layouts[:, 0].tolist()) - {0})
    if len(dimensions) > 1:
        raise ValueError(
            "All batches must have the same number of features D, "
            f"got {' and '.join(map(str, dimensions))}."
        )
