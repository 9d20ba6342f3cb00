"""Classes of samples from a table that the user gives."""

import csv
from collections import Counter
from pathlib import Path, PurePosixPath

from otmetrics.errors import Argument, DataError, printable
from otmetrics.scoring.feature_set import FeatureSet

_LABELS = Argument("labels")
_LONGEST = 1000  # characters of a class
_MOST_BYTES = 2**30


def labels_of(item: FeatureSet, other: FeatureSet) -> list[str] | None:
    """The class of each sample; None where nothing says it.

    A folder of one class is not told from any other folder, but by its name: the other side has a
    class of it.
    """
    top = item.origin.get("top_folder")
    if item.labels is None and top and top in (other.labels or ()):
        return [top] * len(item)
    return item.labels


def labels_from(table: dict[str, str], path: str | Path, item: FeatureSet) -> list[str]:
    """The class of each sample, by the names of their images in a table that `read_labels` read.

    Names are those of the source, relative to its folder, or the last part alone where that is one
    of a kind.
    """
    if item.pictures is None:
        raise DataError(
            f"`{item.source['path']}` holds features without names, which ",
            _LABELS,
            f" `{path}` cannot tell apart: give the images, or put `labels` next to the features.",
        )
    names = item.pictures.names()
    ends = Counter(PurePosixPath(name).name for name in names)
    found, missing = [], []
    for name in names:
        end = PurePosixPath(name).name
        label = table.get(name)
        if label is None and ends[end] == 1:
            label = table.get(end)
        found.append(label or "")
        missing += [] if label else [name]
    if missing:
        raise DataError(
            f"`{path}` has no class for {len(missing)} of {len(names)} images of "
            f"`{item.source['path']}`, first for `{printable(missing[0])}`: add a line for each."
        )
    return found


def read_labels(path: str | Path) -> dict[str, str]:
    """A CSV file of two columns, the name of an image and its class, by names.

    A first line that names no image, as a header does, is harmless.
    """
    path, rows = Path(path), []
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"`{path}` is larger than 1 GiB: give a CSV file of names and classes.")
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            rows = [(lines.line_num, row) for row in lines if row]
    except OSError as error:
        raise DataError(f"`{path}` cannot be read ({error.strerror}): check it.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"`{path}` is not a CSV file in UTF-8 ({error}): save it as one."
        ) from error
    table: dict[str, str] = {}
    for number, row in rows:
        if len(row) != 2:
            raise DataError(
                f"`{path}`, line {number}, must have two columns, the name of an image and its "
                f"class, got {len(row)}: separate them by a comma."
            )
        name, label = row[0].strip(), printable(row[1].strip())
        if not 0 < len(label) <= _LONGEST:
            raise DataError(
                f"`{path}`, line {number}, must have a class of 1 to {_LONGEST} characters, got "
                f"{len(label)}."
            )
        if table.get(name, label) != label:
            raise DataError(
                f"`{path}` gives `{printable(name)}` two classes, `{table[name]}` and `{label}`: "
                "leave one."
            )
        table[name] = label
    return table
