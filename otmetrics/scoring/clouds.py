"""What comparisons are made of: feature sets as clouds, seeded draws of them, and the record."""

import platform
from dataclasses import asdict
from functools import reduce
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.checks import as_tensor, checked_cloud
from otmetrics.errors import Argument, DataError, Message
from otmetrics.scoring.extraction import Input
from otmetrics.scoring.families import Family, families_of, mapped_above
from otmetrics.scoring.feature_set import FeatureSet
from otmetrics.scoring.inventory import differences
from otmetrics.scoring.mapped import rows_of, transform_rows
from otmetrics.scoring.options import METRICS, Scoring

IN_MEMORY = (
    "images in memory become features by `otmetrics.load_extractor(name)(images)`, or are scored "
    "by the metrics, such as `otmetrics.WassersteinFeatureDistance`"
)
_DECISIVE = ("otmetrics", "torch", "numpy", "scipy", "POT", "timm", "pillow")

Sets = dict[str, FeatureSet]
"""The inputs of a comparison by their names: real, and fake and floor_with, or the models."""


def as_set(name: str, item: FeatureSet | Tensor | np.ndarray) -> FeatureSet:
    """Feature set of a bare tensor or array."""
    if isinstance(item, FeatureSet):
        return item
    item = as_tensor(name, item)
    if item.ndim != 2 or len(item) < 2 or not item.is_floating_point():
        raise DataError(
            f"`{name}` must be floating features (N, D) with N >= 2, got {item.dtype} "
            f"{tuple(item.shape)}" + (f"; {IN_MEMORY}." if item.ndim == 4 else ".")
        )

    # The path stands for the argument in notes and errors; no file has it.
    source = {"path": f"<{name}>", "kind": "tensor", "available": len(item), "used": len(item)}
    return FeatureSet(item.detach(), {"extractor": "none"}, source)


def sets_at_hand(sets: Sets) -> Sets:
    """The samples at hand of each set; raise where there are none."""
    for item in sets.values():
        if not len(item):
            raise no_samples(item.source["path"])
    return {name: item.at_hand() for name, item in sets.items()}


def check_inputs(inputs: list[Input]) -> None:
    """The same for inputs that were opened."""
    for one in inputs:
        if one.has_features and not one.has_rows:
            raise no_samples(one.path)


def no_samples(path: str) -> DataError:
    """What is said of an input whose samples are needed."""
    return DataError(
        f"`{path}` holds no samples, but what is known of all of them together: give samples, or "
        "a summary that keeps some."
    )


def clouds_of(sets: Sets, scoring: Scoring) -> dict[str, Tensor]:
    """Features of all sets, checked, in one dtype and where they are scored."""
    dtype = common_dtype(sets)
    clouds = {}
    for name, item in sets.items():
        cloud = item.features
        if cloud.dtype != dtype:
            limit = mapped_above(cloud, scoring)
            cloud = transform_rows(cloud, lambda rows: rows, dtype, limit)
        clouds[name] = cloud.to(scoring.device)
    check_clouds(clouds, sets, scoring)
    return clouds


def common_dtype(sets: Sets) -> torch.dtype:
    """What holds the features of all sets, float32 at least."""
    return reduce(torch.promote_types, (s.features.dtype for s in sets.values()), torch.float32)


def check_clouds(clouds: dict[str, Tensor], sets: Sets, scoring: Scoring) -> None:
    """Raise before the first score where any of them would."""
    # The cubic kernel takes sixth powers, which no other score at a usual order exceeds.
    order = max(6.0, scoring.sliced.order, scoring.exact.order, scoring.sinkhorn.order)
    for name, cloud in clouds.items():
        path = sets[name].source["path"]
        scoring.need.check(path, len(cloud))
        try:
            checked_cloud(path, cloud, order=order)
        except ValueError as error:
            raise DataError(str(error)) from error


class Draws:
    """Seeded subsamples, the same for every score: the first h of one random order per cloud.

    Each comes in the order of its cloud, so that a file is read from beginning to end.
    """

    def __init__(self, clouds: dict[str, Tensor], scoring: Scoring, *, alike: bool = False) -> None:
        """`alike`: all clouds but the first, of one size, have one order."""
        generator = torch.Generator().manual_seed(scoring.seed)
        self.clouds = clouds
        self._scoring = scoring
        self._limit = mapped_above(clouds["real"], scoring)
        self._orders = {
            name: torch.randperm(len(cloud), generator=generator).to(cloud.device)
            for name, cloud in clouds.items()
        }
        if alike:
            _, model, *others = self._orders
            self._orders |= dict.fromkeys(others, self._orders[model])

    def at_most(self, name: str, size: float) -> Tensor:
        """A cloud whole, or that many of its samples."""
        cloud = self.clouds[name]
        return cloud if size >= len(cloud) else self._rows(name, slice(int(size)))

    def of_family(self, name: str, family: Family) -> Tensor:
        """What a family of scores takes of a cloud."""
        cloud = self.at_most(name, family.most(self._scoring))
        # What a limit bounds is small enough to go through in float64.
        return cloud.double() if family.limit else cloud

    def floor_size(self, most: float) -> int:
        """Samples per side of the floor."""
        # Two disjoint parts of real, compared at the size of fake too: all three have one size.
        available = [len(cloud) for cloud in self.clouds.values()]
        if "floor_with" not in self.clouds:
            available[0] //= 2
        return int(min(*available, most))

    def other_real(self, size: int) -> Tensor:
        """Real samples that `at_most("real", size)` does not hold."""
        if "floor_with" in self.clouds:
            return self.at_most("floor_with", size)
        return self._rows("real", slice(-size, None))

    def places(self, name: str, size: float) -> Tensor:
        """Where in a cloud the samples are that `at_most` takes."""
        if size >= len(self.clouds[name]):
            return torch.arange(len(self.clouds[name]))
        return self._orders[name][: int(size)].sort().values

    def in_order(self, name: str, most: int) -> Tensor:
        """A cloud in its random order, or that many of its samples."""
        return self.clouds[name][self._orders[name][:most]]

    def _rows(self, name: str, part: slice) -> Tensor:
        """A part of the random order of a cloud."""
        return rows_of(self.clouds[name], self._orders[name][part].sort().values, self._limit)


def protocol_of(sets: Sets, scoring: Scoring) -> dict[str, Any]:
    """Everything that the numbers depend on."""
    options = asdict(scoring)
    del options["memory_limit"]  # no number depends on it, but for the last bits of blocked sums

    # A mean and covariance do not say what network made them; what they are compared with may.
    known = next(
        (item for item in sets.values() if item.source["kind"] != "statistics"), sets["real"]
    )
    return {
        "inputs": {name: item.source for name, item in sets.items()},
        "features": known.extractor | {"dimension": known.features.shape[1]},
        "scoring": options | {"metrics": [name for name in METRICS if name in scoring.metrics]},
        "dtype": {"scores": "float64", "projections": str(common_dtype(sets))[6:]},
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in _DECISIVE},
    }


def input_notes(sets: Sets, scoring: Scoring) -> list[str]:
    """What was read of each input, what is odd about it, and which scores take a part of it."""
    notes = [f"{name}: {line}" for name, item in sets.items() for line in item.notes]
    notes += differences({name: item.source for name, item in sets.items()})
    largest = max(len(item) for name, item in sets.items() if name != "floor_with")
    for family in families_of(scoring):
        most = family.most(scoring)
        if largest > most:
            notes.append(
                Message(
                    f"{family.names[0]} uses {most} samples per side at most, drawn at random; ",
                    Argument(family.limit),
                    " changes it",
                )
            )
    return notes
