"""Features with the record of how they were made: compared, saved, and told apart."""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from otmetrics.errors import Argument, DataError, printable
from otmetrics.safe_files import check_replaceable, replace_file, writing
from otmetrics.scoring import inventory
from otmetrics.scoring.pictures import Pictures

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
        moments: Mean (D,) and covariance (D, D) in float64 of samples that are not at hand, in
            which case `features` is (0, D); else None.
        pictures: The images that the features were made of, where they are at hand.
    """

    features: Tensor
    extractor: dict[str, Any]
    source: dict[str, Any]
    remarks: list[str] = field(default_factory=list)
    labels: list[str] | None = None
    moments: tuple[Tensor, Tensor] | None = None
    pictures: Pictures | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.features)

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
    check_target(path, overwrite=overwrite)
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


def check_target(path: Path, *, overwrite: bool = False) -> None:
    """Raise where features cannot be saved, before anybody waits for them in vain."""
    if path.suffix.lower() != ".npz":
        raise DataError(f"`{path}` must end in .npz.")
    if not path.parent.is_dir():
        raise DataError(f"`{path.parent}` is not a folder: create it first.")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"`{path.parent}` cannot be written to: choose another folder.")

    # A link that leads nowhere is something too.
    if os.path.lexists(path) and not overwrite:
        raise DataError(
            f"`{path}` exists: choose another name, or pass ", Argument("overwrite"), "."
        )
    # A folder, device or pipe of that name: no other place, but a file, is what helps.
    with writing(path, "name a file"):
        check_replaceable(path)


_LONGEST_EXTRACTOR = 10_000  # characters
_COUNTS = ("formats", "modes", "frames", "misnamed", "classes")
_LINES = ("skipped", "remarks", "classes_not_drawn")
_SOURCE: dict[str, type] = {
    **dict.fromkeys(("path", "kind", "top_folder", "runtime"), str),
    **dict.fromkeys(("available", "used", "others", "transparent", "two_levels"), int),
    **dict.fromkeys((*_COUNTS, "sizes"), dict),
    **dict.fromkeys(_LINES, list),
}


def checked_record(
    protocol: dict[str, Any], path: str | Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file of features says of itself, checked: any program may have written it.

    Returns the protocol of the extractor, {"extractor": "none"} if the record has none, and the
    record of the images with its text made printable, {} if it has none.
    """
    extractor, source = protocol.get("extractor", {"extractor": "none"}), protocol.get("source", {})
    problem = _extractor_problem(extractor) or _source_problem(source)
    if problem:
        raise DataError(
            f"`{path}` has a `protocol` entry that otmetrics did not write: {problem}. Leave the "
            "entry out, or extract the features again."
        )
    return extractor, _escape(source)


def _extractor_problem(record: Any) -> str | None:
    """What keeps a value from being the protocol of an extractor."""
    if not isinstance(record, dict) or not isinstance(record.get("extractor"), str):
        return "its `extractor` must be an object that names the extractor"
    resize = record.get("resize")
    if resize is not None and not (isinstance(resize, dict) and {"mode", "size"} <= resize.keys()):
        return "how its extractor resizes must be an object with a mode and a size"
    if not _is_plain(record, 4) or len(str(record)) > _LONGEST_EXTRACTOR:
        return "its `extractor` is too long, nested too deeply, or holds NaN"
    if _escape(record) != record:  # it must print as one line
        return "its `extractor` holds control characters"
    return None


def _source_problem(record: Any) -> str | None:
    """What keeps a value from being the record of images."""
    if not isinstance(record, dict):
        return "its `source` must be an object"
    if not _is_plain(record, 20):
        return "its `source` is nested too deeply, or holds NaN"
    for name, value in record.items():
        kind = _SOURCE.get(name, object)
        # JSON's true is an int to Python.
        count = not isinstance(value, bool) and isinstance(value, int) and value >= 0
        if not (count if kind is int else isinstance(value, kind)):
            return f"`{printable(name)}` of its source is a {type(value).__name__}"

    # What notes and tables take apart must have the form in depth, too.
    for name in _LINES:
        if not all(isinstance(line, str) for line in record.get(name, [])):
            return f"`{name}` of its source must be lines of text"
    for name in _COUNTS:
        if not all(isinstance(count, int) for count in record.get(name, {}).values()):
            return f"`{name}` of its source must count"
    return None


def _is_plain(value: Any, depth: int) -> bool:
    """Whether parsed JSON has so many levels at most, and no number that JSON has not."""
    # The depth bounds the recursion here and wherever a record is walked through.
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def _escape(value: Any) -> Any:
    """Parsed JSON with text that prints as one line."""
    if isinstance(value, dict):
        return {printable(key): _escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape(item) for item in value]
    return printable(value) if isinstance(value, str) else value
