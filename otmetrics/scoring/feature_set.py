"""Features with the record of how they were made: compared, saved, and told apart."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from otmetrics.errors import Argument, DataError
from otmetrics.safe_files import check_target, replace_file, writing
from otmetrics.scoring import inventory
from otmetrics.scoring.pictures import Pictures
from otmetrics.summaries.summary import Summary

NAMED = 5  # images that notes name; the record of the source has all
FEATURES = Argument("features", "extraction=Extraction(features=...)")


@dataclass(frozen=True)
class FeatureSet:
    """Features and where they come from.

    Attributes:
        features: (N, D) floating, on the CPU.
        extractor: Protocol of the extractor; {"extractor": "none"} for bare features.
        source: Path, kind, counts and losses of the input, JSON-able.
        remarks: What else went on, which the numbers do not depend on.
        labels: Class of each sample, where the input says it.
        summary: What is known of all samples, where `features` are those of a part of them, or of
            none, (0, D); else None.
        pictures: The images that the features were made of, where they are at hand.
    """

    features: Tensor
    extractor: dict[str, Any]
    source: dict[str, Any]
    remarks: list[str] = field(default_factory=list)
    labels: list[str] | None = None
    summary: Summary | None = None
    pictures: Pictures | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def count(self) -> int | None:
        """Samples that it stands for; None where a file does not say."""
        return len(self) if self.summary is None else self.summary.count

    def at_hand(self) -> "FeatureSet":
        """The samples at hand alone, for what looks at single ones.

        Returns:
            The set without its summary.
        """
        if self.summary is None:
            return self
        total = self.source.get("used") or "unknown number of"
        remark = f"of the {total} samples {len(self)} are at hand, and looked at"
        source = self.source | {"kind": "features", "used": len(self)}
        return replace(self, summary=None, source=source, remarks=[*self.remarks, remark])

    @property
    def origin(self) -> dict[str, Any]:
        """Record of the images, also where the features come from a file that was made of them."""
        return inventory.origin(self.source)

    @property
    def notes(self) -> list[str]:
        """What was read, and what was lost or changed on the way, one line each."""
        notes = [inventory.read_line(self.source, self.features.shape[1])]

        skipped = self.origin.get("skipped", [])
        if len(skipped) > NAMED:
            notes.append(
                f"left out {len(skipped)} images that cannot be read, of which the first {NAMED} "
                "follow; the record of the source names all"
            )
        notes += [f"left out {reason}" for reason in skipped[:NAMED]]

        if count := self.origin.get("transparent"):
            notes.append(f"images with transparency, composited on white: {count}")
        if count := self.origin.get("others"):
            notes.append(f"files of other kinds, not read: {count}")
        return [*notes, *inventory.oddities(self.source), *self.remarks]


def check_comparable(sets: list[FeatureSet], features: str | None = None) -> None:
    """Raise unless all sets were made by one extractor and have one dimension."""
    check_extractors([(item.source["path"], item.extractor) for item in sets], features)
    for item in sets:
        if item.features.shape[1] != sets[0].features.shape[1]:
            raise DataError(
                f"`{sets[0].source['path']}` has {sets[0].features.shape[1]} features per sample, "
                f"`{item.source['path']}` has {item.features.shape[1]}: extract both alike."
            )


def check_extractors(
    protocols: list[tuple[str, dict[str, Any]]], features: str | None = None
) -> None:
    """Raise unless all inputs share one extractor, its weights and its resize mode.

    `protocols` are path and extractor protocol of each input; `features` is the extractor that the
    user named, where "none" vouches for bare features.
    """
    for path, protocol in protocols:
        if features not in (None, "none", protocol["extractor"]):
            raise DataError(
                f"`{path}` holds features of `{protocol['extractor']}`, not of `{features}`: "
                "leave out ",
                FEATURES,
                ", or give the images.",
            )

    # Bare features say nothing; the user who names them "none" says that they compare.
    vouched = features == "none"
    known = [item for item in protocols if not (vouched and item[1]["extractor"] == "none")]
    for path, protocol in known[1:]:
        if protocol != known[0][1]:
            raise _difference(*known[0], path, protocol)


def _difference(
    path: str, protocol: dict[str, Any], other_path: str, other: dict[str, Any]
) -> DataError:
    """In what two extractor protocols differ; the name says it best, so it comes first."""
    keys = ["extractor", *sorted({*protocol, *other})]
    key = next(key for key in keys if protocol.get(key) != other.get(key))
    found = (
        f"`{path}` and `{other_path}` differ in {key} ({protocol.get(key)!r} and "
        f"{other.get(key)!r}): extract both alike"
    )
    if "none" not in (protocol["extractor"], other["extractor"]):
        return DataError(f"{found}.")
    return DataError(f"{found}, or vouch for the bare features: name none in ", FEATURES, ".")


def save_features(feature_set: FeatureSet, path: str | Path, *, overwrite: bool = False) -> None:
    """Write features with their protocol as an `.npz` file that `extracted` reads back.

    Entries are `features`, `protocol` (JSON) and, where there are classes, `labels`. The file
    appears only when it is complete.
    """
    path = Path(path)
    check_target(path, (".npz",), overwrite=overwrite)
    # A string of JSON: an array of objects would need pickle, which runs code when it is read.
    protocol = {"extractor": feature_set.extractor, "source": feature_set.source}
    content: dict[str, Any] = {
        "features": feature_set.features.numpy(),
        "protocol": json.dumps(protocol),
    }
    if feature_set.labels is not None:
        content["labels"] = np.array(feature_set.labels)
    with writing(path), replace_file(path) as file:
        np.savez(file, **content)
