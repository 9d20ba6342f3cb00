"""Which samples stand for all: a uniform choice by what they are called, so that parts agree."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from otmetrics.hashing import hash_counters


@dataclass(frozen=True, eq=False)
class ChosenSamples:
    """The samples whose keys hash lowest, in the order of these hashes.

    A sample is chosen or not whatever part of the data it comes in, and in whatever order parts are
    merged (Cohen, Kaplan, Summarizing data using bottom-k sketches, 2007).

    Attributes:
        features: Features (K, D), float32 or float64, on the CPU.
        keys: What each sample is known by, (K,) int64.
        names: Its name; None where samples have none.
        labels: Its class; None where samples have none.
    """

    features: Tensor
    keys: Tensor
    names: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.features)

    def at(self, rows: Tensor) -> "ChosenSamples":
        """Some of them."""
        return ChosenSamples(
            self.features[rows], self.keys[rows], _some(self.names, rows), _some(self.labels, rows)
        )

    def lowest(self, size: int, seed: int) -> "ChosenSamples":
        """The `size` of them that hash lowest, or all, in order."""
        return self.at(order_of(self.keys, seed, lambda: digests_of(self.features))[:size])

    def merged(self, other: "ChosenSamples", size: int, seed: int) -> "ChosenSamples":
        """Of both together those that hash lowest; names and classes where both have them."""
        keys = torch.cat([self.keys, other.keys])
        rows = order_of(
            keys, seed, lambda: torch.cat([digests_of(one.features) for one in (self, other)])
        )[:size]

        # Only what is kept is copied: features are most of the memory of a summary.
        dtype = torch.promote_types(self.features.dtype, other.features.dtype)
        features = torch.empty(len(rows), self.features.shape[1], dtype=dtype)
        own = rows < len(self)
        features[own] = self.features[rows[own]].to(dtype)
        features[~own] = other.features[rows[~own] - len(self)].to(dtype)

        texts = [
            None if mine is None or others is None else _some(mine + others, rows)
            for mine, others in ((self.names, other.names), (self.labels, other.labels))
        ]
        return ChosenSamples(features, keys[rows], *texts)


def _some(texts: tuple[str, ...] | None, rows: Tensor) -> tuple[str, ...] | None:
    return None if texts is None else tuple(texts[row] for row in rows.tolist())


def order_of(keys: Tensor, seed: int, digests: Callable[[], Tensor]) -> Tensor:
    """The order (N,) in which samples are chosen: by the hashes of their keys.

    Samples of one key, which are chosen together, come in the order of their digests.
    """
    hashes = hash_counters(keys, seed)
    order = hashes.argsort(stable=True)
    ordered = hashes[order]
    if bool((ordered[1:] == ordered[:-1]).any()):
        order = torch.from_numpy(np.lexsort((digests().numpy(), hashes.numpy())))
    return order


def digests_of(features: Tensor) -> Tensor:
    """What tells rows (N, D) apart by what they hold: (N,) in [0, 2^63), in either dtype the same.

    Time is that of reading them, about a second for a gigabyte.
    """
    # 0 takes the sign off a negative zero.
    rows = features.detach().to(torch.float64, copy=True).add_(0.0).numpy()
    return _digested(np.ascontiguousarray(row).data for row in rows)


def keys_of_names(names: Iterable[str]) -> Tensor:
    """Keys (N,) of samples by their names, in [0, 2^63)."""
    return _digested(name.encode("utf-8", "surrogatepass") for name in names)


def _digested(parts: Iterable[bytes | memoryview]) -> Tensor:
    """The first 63 bits of a hash of each."""
    digests = b"".join(hashlib.blake2b(part, digest_size=8).digest() for part in parts)
    return torch.from_numpy(np.frombuffer(digests, "<i8").astype(np.int64)) & (2**63 - 1)


def keys_of_places(digests: Tensor) -> Tensor:
    """Keys (N,) of samples without names, whose contents have these digests.

    A sample is known by the batch that it came in and its place there, not by what it holds: equal
    samples, as of a generator that has collapsed, would all be chosen, or none.
    """
    (batch,) = _digested([digests.numpy().tobytes()]).tolist()
    return hash_counters(torch.arange(len(digests)), batch)
