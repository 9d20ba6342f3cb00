"""Features with the record of how they were made: compared, saved, and told apart."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from otmetrics.errors import DataError
from otmetrics.safe_files import replaced, writing


@dataclass(frozen=True)
class FeatureSet:
    """Features and where they come from.

    Attributes:
        features: (N, D) floating, on the CPU.
        extractor: Protocol of the extractor; {"extractor": "none"} for bare features.
        source: Path, kind, counts and losses of the input, JSON-able.
        remarks: What else went on, which the numbers do not depend on.
        labels: Class of each sample, where the input says it.
        moments: Mean (D,) and covariance (D, D) in float64 of samples that are not at hand, in
            which case `features` is (0, D); else None.
    """

    features: Tensor
    extractor: dict[str, Any]
    source: dict[str, Any]
    remarks: list[str] = field(default_factory=list)
    labels: list[str] | None = None
    moments: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def origin(self) -> dict[str, Any]:
        """Record of the images, also where the features come from a file that was made of them."""
        return self.source.get("origin") or self.source

    @property
    def notes(self) -> list[str]:
        """What was lost or changed on the way from the images, one line each."""
        skipped = self.origin.get("skipped", [])
        notes = [f"left out {reason}" for reason in skipped]
        if count := self.origin.get("transparent"):
            notes.append(f"images with transparency, composited on white: {count}")
        if count := self.origin.get("others"):
            notes.append(f"files of other kinds, not read: {count}")
        return notes + self.remarks


def check_comparable(sets: list[FeatureSet], features: str | None = None) -> None:
    """Raise unless all sets were made by one extractor and have one dimension.

    Args:
        sets: Feature sets that shall be compared.
        features: The extractor that the user named; "none" vouches for bare features.

    Raises:
        DataError: If extractors or dimensions differ.
    """
    check_extractors([(item.source["path"], item.extractor) for item in sets], features)
    for item in sets:
        if item.features.shape[1] != sets[0].features.shape[1]:
            raise DataError(
                f"`{sets[0].source['path']}` has {sets[0].features.shape[1]} features a sample, "
                f"`{item.source['path']}` has {item.features.shape[1]}: extract both alike."
            )


def check_extractors(
    protocols: list[tuple[str, dict[str, Any]]], features: str | None = None
) -> None:
    """Raise unless all inputs share one extractor, known before anything is computed.

    Args:
        protocols: Path and extractor protocol of each input.
        features: The extractor that the user named; "none" vouches for bare features.

    Raises:
        DataError: If extractors, their weights or their resize modes differ.
    """
    for path, protocol in protocols:
        if features not in (None, "none", protocol["extractor"]):
            raise DataError(
                f"`{path}` holds features of `{protocol['extractor']}`, not of `{features}`: "
                "leave --features out, or give the images."
            )
    vouched = features == "none"
    known = [item for item in protocols if not (vouched and item[1]["extractor"] == "none")]
    for path, protocol in known[1:]:
        if protocol != known[0][1]:
            raise DataError(_difference(*known[0], path, protocol))


def _difference(path: str, protocol: dict[str, Any], other_path: str, other: dict[str, Any]) -> str:
    """Say in what two extractor protocols differ; the name says it best, so it comes first."""
    keys = ["extractor", *sorted({*protocol, *other})]
    key = next(key for key in keys if protocol.get(key) != other.get(key))
    bare = "none" in (protocol["extractor"], other["extractor"])
    return (
        f"`{path}` and `{other_path}` differ in {key} ({protocol.get(key)!r} and "
        f"{other.get(key)!r}): extract both alike"
        + (", or vouch for the bare features with --features none." if bare else ".")
    )


def saved(feature_set: FeatureSet, path: str | Path, *, overwrite: bool = False) -> None:
    """Write features with their protocol as an `.npz` file that `extracted` reads back.

    Args:
        feature_set: What to write; entries `features`, `protocol` (JSON) and, where there are
            classes, `labels`.
        path: Where; it appears only when it is complete.
        overwrite: Replace a file that is there.

    Raises:
        DataError: If the path does not end in .npz, exists or cannot be written.
    """
    path = Path(path)
    check_target(path, overwrite=overwrite)
    protocol = {"extractor": feature_set.extractor, "source": feature_set.source}
    content: dict[str, Any] = {
        "features": feature_set.features.numpy(),
        "protocol": json.dumps(protocol),
    }
    if feature_set.labels is not None:
        content["labels"] = np.array(feature_set.labels)
    with writing(path), replaced(path) as file:
        np.savez(file, **content)


def check_target(path: Path, *, overwrite: bool = False) -> None:
    """Raise where features cannot be saved, so that nobody waits for them in vain.

    Args:
        path: Where `saved` shall write.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        DataError: If the path does not end in .npz, exists, or its folder does not.
    """
    if path.suffix.lower() != ".npz":
        raise DataError(f"`{path}` must end in .npz.")
    if not path.parent.is_dir():
        raise DataError(f"`{path.parent}` is no folder: create it first.")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"`{path.parent}` cannot be written to: choose another folder.")
    if path.exists() and not overwrite:
        raise DataError(f"`{path}` exists: choose another name, or pass --overwrite.")
