"""From folders and files to feature sets: where `images` and `features` meet."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.errors import Argument, DataError, OptionError
from otmetrics.features import (
    DEFAULT_EXTRACTOR,
    FrozenExtractor,
    is_installed,
    is_known,
    load_extractor,
)
from otmetrics.images import FeatureArray, StoredImages, open_input
from otmetrics.images.arrays import BESIDE
from otmetrics.images.facts import count_facts, count_misnamed
from otmetrics.machine import memory_budget
from otmetrics.scoring.feature_set import (
    FEATURES,
    FeatureSet,
    check_comparable,
    check_extractors,
    checked_record,
)
from otmetrics.scoring.image_features import Progress, image_features
from otmetrics.scoring.mapped import new_array, rows_of
from otmetrics.scoring.options import Extraction, Need
from otmetrics.scoring.pictures import Pictures
from otmetrics.scoring.ranks import ALONE, Ranks
from otmetrics.unknown_options import told_options

_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class Input:
    """A folder or file that was opened: images, features, or a mean and covariance of features.

    Attributes:
        path: What the user calls it.
        source: What was opened.
        whole: Whether all of it is used, however many samples are drawn of others.
    """

    path: str
    source: Any
    whole: bool = False

    @property
    def has_features(self) -> bool:
        """Whether it needs no network."""
        return isinstance(self.source, FeatureArray)

    @property
    def has_rows(self) -> bool:
        """Whether it holds features, sample by sample."""
        return self.has_features and not self.is_statistics

    @property
    def is_statistics(self) -> bool:
        """Whether it holds a mean and covariance instead of samples."""
        return self.has_features and self.source.moments is not None

    @property
    def has_both(self) -> bool:
        """Whether it holds samples, and the mean and covariance of others next to them."""
        return getattr(self.source, "beside", False)

    @property
    def protocol(self) -> dict[str, Any]:
        """Extractor protocol of its features."""
        return checked_record(self.source.protocol or {}, self.source.path)[0]

    def draw(self, options: Extraction, need: Need) -> list[int]:
        """Indices of the samples to use, in the order of the source."""
        if self.is_statistics:
            return []
        available = len(self.source.features if self.has_features else self.source)
        drawn = None if self.whole else options.num
        size = available if drawn is None else drawn
        num = Argument("num", "extraction=Extraction(num=...)")
        if size > available:
            raise DataError(
                f"`{self.path}` holds {available} samples, fewer than ", num, f" {size}: lower it."
            )
        need.check(self.path, size, ("raise ", num) if size < available else ("give more",))

        if drawn is None:
            return list(range(available))

        # In order, so that a file is read from its beginning to its end.
        generator = torch.Generator().manual_seed(options.seed)
        return torch.randperm(available, generator=generator)[:size].sort().values.tolist()


@told_options
def extracted(
    inputs: list[str | Path],
    options: Extraction = Extraction(),
    *,
    at_least: int = 2,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> list[FeatureSet]:
    """Features of each input, all by one extractor.

    Inputs are opened and checked before the first image goes through the network. Time is that of
    decoding and of the network; memory is that of a few batches and of the features, of which more
    than `memory_limit` for all inputs stay in files.

    Args:
        inputs: What `images.open_input` opens: folders, archives, tables, arrays, features, names.
        options: Extractor, draw and batches.
        at_least: The fewest samples that each input must have.
        progress: Called after each batch.
        ranks: The processes that share the images; all of them call this alike.

    Returns:
        One feature set per input, in order; none on all processes but the first.

    Raises:
        DataError: If an input cannot be read, is too small, or was made by another extractor.
        OptionError: If an option does not fit the inputs.
    """
    opened = open_inputs(inputs, options)
    return features_of(opened, options, Need(at_least), progress, ranks or ALONE)


def open_inputs(inputs: Sequence[str | Path], options: Extraction) -> list[Input]:
    """Open all inputs of a comparison."""
    return [Input(str(path), open_input(path, most=options.num)) for path in inputs]


def features_of(
    inputs: list[Input], options: Extraction, need: Need, progress: Progress | None, ranks: Ranks
) -> list[FeatureSet]:
    """Features of inputs that were opened; none on all processes but the first."""
    # Features of all inputs are there at the end.
    limit = memory_budget(torch.device("cpu"), options.memory_limit) / len(inputs)
    options = replace(options, memory_limit=limit)
    _check_options(inputs, options)
    _check_claims(inputs, options.features)
    if ranks.world > 1:
        _check_shared(inputs)
    picks = [one.draw(options, need) for one in inputs]
    _check_statistics(inputs, options)

    images = [one for one in inputs if not one.has_features]
    # Images compare with features only if the network is the same: that of the first file.
    recorded = (one.protocol["extractor"] for one in inputs if one.has_rows)
    name = options.features or next(recorded, None) or DEFAULT_EXTRACTOR
    extractor = _load(name, images[0].path, options) if images else load_extractor("none")
    protocols = [
        (one.path, one.protocol if one.has_features else extractor.protocol)
        for one in inputs
        if not one.is_statistics
    ]
    # Before the network reads the first image.
    check_extractors(protocols, options.features)

    # Statistics do not say what network made them: that of the others, for which the user vouches.
    declared = protocols[0][1] if protocols else {"extractor": "none"}
    found = []
    for one, pick in zip(inputs, picks, strict=True):
        if not one.has_features:
            features = _compute(one, pick, extractor, options, need, progress, ranks)
            found += [] if features is None else [features]
        elif ranks.first:
            found.append(
                _take_statistics(one, declared)
                if one.is_statistics
                else _load_rows(one, pick, limit)
            )
    if ranks.first:
        check_comparable(found, options.features)
    return found


def _check_options(inputs: list[Input], options: Extraction) -> None:
    """Raise where options for the extractor meet inputs that need none."""
    if (options.weights or options.resize) and all(one.has_features for one in inputs):
        raise OptionError(
            Argument("weights"),
            " and ",
            Argument("resize"),
            " belong to an extractor, but every input already holds features: leave them out.",
        )


def _check_shared(inputs: list[Input]) -> None:
    """Raise where several processes would not have the same images to share."""
    for one in inputs:
        if getattr(one.source, "kind", "") == "function":
            raise DataError(
                f"`{one.path}` yields its images again in each process, and they may differ: write "
                "them to files first, or use one process."
            )


def _check_claims(inputs: list[Input], features: str | None) -> None:
    """Raise where a file would decide what is imported or fetched for the images next to it."""
    # Nothing is loaded then by what a file says; names are only compared.
    if features is not None or all(one.has_features for one in inputs):
        return
    for one in inputs:
        if not one.has_features:
            continue
        name = one.protocol["extractor"]
        if not is_known(name):
            raise DataError(
                f"`{one.path}` says that its features are of `{name}`, which otmetrics does not "
                "know: extract them again from their images, or leave the images out and compare "
                "with features of the same network."
            )

        if not is_installed(name):
            raise DataError(
                f"`{one.path}` says that its features are of `{name}`, which is not an extractor "
                "that is installed with otmetrics: a file does not choose what is loaded. If you "
                "know and trust that network, name it yourself with ",
                FEATURES,
                ".",
            )


def _check_statistics(inputs: list[Input], options: Extraction) -> None:
    """Raise where statistics, which do not say what network made them, meet one that is known."""
    unknown = [one.path for one in inputs if one.is_statistics]
    if unknown and options.num is not None:
        raise OptionError(
            Argument("num"), f" cannot draw from `{unknown[0]}`, which holds no samples."
        )

    known = [
        one.path
        for one in inputs
        if not one.has_features or (one.has_rows and one.protocol["extractor"] != "none")
    ]
    if unknown and known and options.features is None:
        raise DataError(
            f"`{unknown[0]}` holds the mean and covariance of features and does not say what "
            "network made them: name it with ",
            FEATURES,
            f" to compare it with `{known[0]}`.",
        )


def _load(name: str, path: str, options: Extraction) -> FrozenExtractor:
    """The extractor that an input of images needs."""
    if options.features == "none":
        raise DataError(f"`{path}` holds images, but `none` takes features (N, D): name another.")
    if name == "none":
        raise DataError(
            f"`{path}` holds images, which do not compare with bare features: give features on "
            "both sides, or images on both."
        )

    return load_extractor(
        name,
        weights=options.weights,
        resize=options.resize,
        device=options.device,
        runtime=options.runtime,
        dtype=options.dtype,
        download=options.download,
    )


def _load_rows(one: Input, pick: list[int], limit: float) -> FeatureSet:
    """Features that were computed before; those in a large file stay there."""
    source: FeatureArray = one.source
    features = source.features
    # Whole numbers and half floats become float64; another byte order becomes this machine's.
    narrow = features.dtype.kind != "f" or features.dtype.itemsize < 4
    dtype = np.dtype(np.float64) if narrow else features.dtype.newbyteorder("=")
    if dtype != features.dtype:
        # torch knows no other byte order, so numpy converts, some rows at a time.
        values, chosen = new_array((len(pick), features.shape[1]), dtype, limit), np.array(pick)
        for start in range(0, len(pick), _ROWS_AT_A_TIME):
            part = slice(start, start + _ROWS_AT_A_TIME)
            values[part] = features[chosen[part]]
        rows = torch.from_numpy(values)
    elif len(pick) < len(features) or not features.flags.c_contiguous or features.nbytes <= limit:
        rows = rows_of(torch.from_numpy(features), torch.tensor(pick), limit)
    else:
        # Large and whole: mapped as it lies in the user's file, without a copy.
        rows = torch.from_numpy(features)

    protocol, origin = checked_record(source.protocol or {}, source.path)
    record = {"path": one.path, "kind": "features", "available": len(features), "used": len(pick)}
    if origin:
        record["origin"] = origin

    labels = None
    if source.labels is not None:
        # The record of the images, where there is one, counts their classes already.
        labels, counts = _drawn_labels(source.labels, pick)
        record |= {} if origin else counts
    return FeatureSet(rows, protocol, record, [BESIDE] if source.beside else [], labels)


def _take_statistics(one: Input, declared: dict[str, Any]) -> FeatureSet:
    """Mean and covariance of samples that are not at hand."""
    mean, covariance = map(torch.from_numpy, one.source.moments)
    record = {"path": one.path, "kind": "statistics", "available": None, "used": None}
    remarks = []
    if declared["extractor"] != "none":
        remarks.append(f"taken for features of {declared['extractor']}, as declared by the user")
    # No rows, but their dimension, by which sets are compared.
    nothing = torch.empty(0, len(mean), dtype=torch.float64)
    return FeatureSet(nothing, declared, record, remarks, moments=(mean, covariance))


def _compute(
    one: Input,
    pick: list[int],
    extractor: FrozenExtractor,
    options: Extraction,
    need: Need,
    progress: Progress | None,
    ranks: Ranks,
) -> FeatureSet | None:
    """Read, transform and pass the picked images through the network; None on other processes."""
    source: StoredImages = one.source
    found = image_features(source, one.path, pick, extractor, options, progress, ranks)
    if found is None:
        return None
    # Again, for images may have been left out.
    need.check(one.path, len(found.indices))
    _check_finite(found.features, one.path, extractor.name)
    record = {
        "path": one.path,
        "kind": source.kind,
        "available": len(source),
        "used": len(found.indices),
        "others": getattr(source, "num_others", 0),
        "transparent": int(found.transparent.sum()),
        "skipped": [message for _, message in found.skipped],
        "runtime": extractor.runtime_name,
    }
    record |= count_facts(found.facts, _format(source))

    # A name may lie about what a file holds, and lossy compression moves scores.
    names = [source.names[index] for index in found.indices]
    record["misnamed"] = count_misnamed(names, found.facts)
    record["remarks"] = list(getattr(source, "remarks", []))

    labels = None
    if source.labels is not None:
        labels, counts = _drawn_labels(source.labels, found.indices)
        drawn = {source.labels[index] for index in pick}  # also what could not be read
        record |= counts | {"classes_not_drawn": sorted({*source.labels} - drawn)}
    elif top := _top_folder(source.names):
        record["top_folder"] = top
    pictures = Pictures(source, found.indices)
    return FeatureSet(
        found.features, extractor.protocol, record, found.notes, labels, pictures=pictures
    )


def _format(source: StoredImages) -> str:
    """What to call the format of images that no image file holds."""
    # Names in an array are those of the file with a number: "a.npy[3]".
    if source.kind == "array":
        return PurePath(source.names[0].rpartition("[")[0]).suffix.lower().lstrip(".")
    return source.kind


def _drawn_labels(labels: Sequence[str], indices: list[int]) -> tuple[list[str], dict[str, Any]]:
    """Classes of some samples, and their counts for the record."""
    drawn = [labels[index] for index in indices]
    counts = dict(sorted(Counter(drawn).items()))
    return drawn, {"classes": counts, "classes_not_drawn": sorted({*labels} - {*drawn})}


def _top_folder(names: Sequence[str]) -> str:
    """The one folder in which all images lie, or nothing."""
    folder, slash, _ = names[0].partition("/")
    return folder if slash and all(name.startswith(f"{folder}/") for name in names) else ""


def _check_finite(features: Tensor, path: str, name: str) -> None:
    """Raise where a network gave NaN or infinite features."""
    # In blocks, for features may be mapped from a file larger than the memory.
    for number, block in enumerate(features.split(_ROWS_AT_A_TIME)):
        bad = (~torch.isfinite(block).all(1)).nonzero().flatten()
        if len(bad):
            raise DataError(
                f"`{name}` gave NaN or infinite features for image number "
                f"{number * _ROWS_AT_A_TIME + int(bad[0])} of `{path}`: check the extractor's "
                "weights."
            )
