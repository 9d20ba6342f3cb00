"""Mean and covariance of features, as the files of other programs hold them, told by content."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from otmetrics.errors import DataError

# pytorch-fid, TTUR, EDM, clean-fid, ADM, torch-fidelity; JiT, FD-loss; fadtk; BasicSR, rosinality.
_PAIRS = (("mu", "sigma"), ("ref_mu", "ref_sigma"), ("mu", "cov"), ("mean", "cov"))
_SUMS = ("num_items", "num_features", "raw_mean", "raw_cov")  # StyleGAN2-ADA, StyleGAN3
_COUNTS = ("num_images", "num_items")
_LARGEST_MEAN = 1e145  # no features that are scored have a larger one


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of features of samples that need not be at hand.

    Attributes:
        mean: (D,) in float64.
        covariance: (D, D) in float64, divided by the number of samples minus 1.
        count: How many samples they are of; None where the file does not say.
        kind: What they were recognised as, such as "mean and covariance (mu, sigma)".
        unused: Names of what else the file holds that is known and not used.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None
    kind: str
    unused: tuple[str, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """What to know about them, one line each."""
        lines = [f"read as {self.kind}"]
        if self.unused:
            lines.append(f"in the file and not used: {', '.join(self.unused[:9])}")
        return lines


def found_statistics(
    names: Collection[str], entry: Callable[[str], Any], network: str | None
) -> Statistics | None:
    """The statistics among the entries of a file; None where it has none.

    Args:
        names: Of all entries; "fid.mu" is the entry `mu` in a group `fid`.
        entry: Reads one of them.
        network: Which statistics to take, where a file holds those of several.

    Raises:
        DataError: There are several and none is named, another one is named, or they cannot be.
    """
    pairs = _pairs(names)
    if set(_SUMS) <= set(names) and not pairs:
        _check_network({}, network)
        return _of_sums({name: entry(name) for name in _SUMS}, "all_features" in names)
    if not pairs and network is None:
        return None
    chosen = _check_network(pairs, network)

    first, second = pairs.pop(chosen)
    what = "mean and covariance"
    if "arr_0" in names and (first, second) == ("mu", "sigma"):
        what = "mean and covariance of a reference batch of ADM"
    count = next((_count(entry(name)) for name in _COUNTS if name in names), None)
    unused = tuple(name for pair in pairs.values() for name in pair)
    kind = f"{what} ({first}, {second})"
    return checked_statistics(Statistics(entry(first), entry(second), count, kind, unused))


def _pairs(names: Collection[str]) -> dict[str, tuple[str, str]]:
    """Names of means and covariances by the network that they are of, "" where none is named."""
    known = set(names)
    pairs: dict[str, tuple[str, str]] = {}
    for mean, covariance in _PAIRS:
        for name in names:
            group, dot, last = name.rpartition(".")
            if last != mean and not last.startswith(f"{mean}_"):
                continue
            # ADM's mu_s and mu_clip stand next to mu, fadtk's and EDM2's fid.mu in a group.
            tail = last.removeprefix(mean)
            other = group + dot + covariance + tail
            if other in known:
                pairs.setdefault(group + dot * bool(tail) + tail.removeprefix("_"), (name, other))
    return pairs


def _check_network(pairs: Mapping[str, Any], network: str | None) -> str:
    """Whose statistics to take, which must be clear."""
    named = [name for name in pairs if name]
    if network is not None and network not in pairs:
        others = f"but those of {', '.join(named[:9])}: correct" if named else "by name: leave out"
        raise DataError(f"holds no statistics of `{network}` {others} what stands in brackets.")
    if network is not None:
        return network
    if "" not in pairs and len(pairs) > 1:
        raise DataError(
            f"holds statistics of several networks, {', '.join(named[:9])}: name one behind the "
            f"path, such as `path[{named[0]}]`."
        )
    return "" if "" in pairs else next(iter(pairs), "")


def _count(value: Any) -> int | None:
    """A number of samples; None where it cannot be one."""
    value = (
        value.item() if isinstance(value, np.ndarray | np.generic) and value.ndim == 0 else value
    )
    return value if type(value) is int and value > 0 else None


def _of_sums(entries: Mapping[str, Any], has_features: bool) -> Statistics | None:
    """Statistics of StyleGAN's sums of features and of their products; None where it kept none."""
    mean, products = entries["raw_mean"], entries["raw_cov"]
    # They stay zero where only the features were asked for, and None where there were none.
    arrays = isinstance(mean, np.ndarray) and isinstance(products, np.ndarray)
    if not arrays or not products.any():
        if has_features:
            return None
        raise DataError("holds no sums of features: let StyleGAN write it with capture_mean_cov.")

    count = _count(entries["num_items"])
    if count is None or count < 2:
        raise DataError("holds sums of fewer than 2 samples: give those of more.")
    found = Statistics(mean, products, count, "sums of StyleGAN (raw_mean, raw_cov)")
    _check_shapes(found)
    mean = mean.astype(np.float64) / count
    covariance = (products.astype(np.float64) - count * np.outer(mean, mean)) / (count - 1)
    return checked_statistics(replace(found, mean=mean, covariance=covariance))


def _check_shapes(found: Statistics) -> None:
    """Raise where mean and covariance are not floats (D,) and (D, D)."""
    mean, covariance = found.mean, found.covariance
    if not (isinstance(mean, np.ndarray) and isinstance(covariance, np.ndarray)):
        raise DataError(f"holds {found.kind}: both must be arrays.")
    if {mean.dtype.kind, covariance.dtype.kind} != {"f"}:
        raise DataError(f"{_told(found)} both must be real floating numbers.")
    if mean.ndim != 1 or not mean.size or covariance.shape != 2 * mean.shape:
        raise DataError(f"{_told(found)} they must have the shapes (D,) and (D, D).")


def _told(found: Statistics) -> str:
    shapes = f"mean {found.mean.shape} and covariance {found.covariance.shape}"
    return f"holds statistics, {shapes}:"


def checked_statistics(found: Statistics) -> Statistics:
    """Return them in float64; raise where they cannot be those of features."""
    _check_shapes(found)
    mean, covariance = found.mean.astype(np.float64), found.covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DataError(f"{_told(found)} a value is NaN or infinite.")
    if np.abs(mean).max() > _LARGEST_MEAN or np.abs(covariance).max() > _LARGEST_MEAN**2:
        raise DataError(f"{_told(found)} a value is too large for its square to fit float64.")

    # Files that went through float32 are off by this share of their largest entry.
    slack = 1e-4 * np.abs(covariance).max()
    if np.abs(covariance - covariance.T).max() > slack:
        raise DataError(f"{_told(found)} the covariance is not symmetric.")
    try:
        # Quicker than eigenvalues; where all is zero, any slack will do.
        np.linalg.cholesky(covariance + (slack or 1) * np.eye(len(mean)))
    except np.linalg.LinAlgError as error:
        told = f"{_told(found)} the covariance is not positive semi-definite."
        raise DataError(told) from error
    return replace(found, mean=mean, covariance=covariance)
