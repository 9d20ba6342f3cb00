"""From folders and files to feature sets: where `images` and `features` meet."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.checks import check_at_least, check_device, check_seed
from otmetrics.errors import DataError, OptionError
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
    FeatureSet,
    check_comparable,
    check_extractors,
    checked_record,
)
from otmetrics.scoring.image_features import Progress, Reading, image_features
from otmetrics.scoring.mapped import new_array, rows_of
from otmetrics.scoring.ranks import ALONE, Ranks
from otmetrics.unknown_options import told_options

_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, kw_only=True)
class Extraction(Reading):
    """How to turn inputs into features: the options of `Reading`, and these.

    Attributes:
        features: Extractor name; None takes the one that a feature file among the inputs was made
            with, if it is one that is installed with otmetrics, else `DEFAULT_EXTRACTOR`.
        weights: Weights file for the extractor instead of the published one.
        resize: Resize mode instead of the extractor's own.
        num: Use this many samples of each input, drawn at random; None for all.
        seed: Seed of the draw.
        device: "cpu", "cuda" or "cuda:i".
        dtype: In what the network computes: "float32", or "bfloat16" for speed on a GPU.
        runtime: What runs the network on a CPU, as for `load_extractor`; None for the fastest that
            agrees with torch.
        download: Fetch published weights that are not on this machine. Nothing is fetched without
            it.

    Raises:
        ValueError: If a number breaks its rule.
    """

    features: str | None = None
    weights: str | Path | None = None
    resize: str | None = None
    num: int | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    runtime: str | None = None
    download: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num is not None:
            check_at_least("num", self.num, 2)
        check_seed(self.seed)
        check_device(self.device)


@told_options
def extracted(
    inputs: list[str | Path],
    options: Extraction = Extraction(),
    *,
    at_least: int = 2,
    check: Callable[[int, int | None, dict[str, bool]], None] | None = None,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> list[FeatureSet]:
    """Features of each input, all by one extractor.

    Inputs are opened and checked before the first image goes through the network. Time is that of
    decoding and of the network; memory is that of a few batches and of the features, of which more
    than `memory_limit` for all inputs stay in files.

    Args:
        inputs: What `images.opened` opens: folders, archives, tables, arrays, features, names.
        options: Extractor, draw and batches.
        at_least: The fewest samples that each input must have.
        check: Called with the most samples of an input, the dimension of the features, or None
            where nobody knows it yet, and the inputs that hold a mean and covariance, with whether
            they hold samples too, before the first image is read.
        progress: Called after each batch.
        ranks: The processes that share the images; all of them call this alike.

    Returns:
        One feature set an input, in order; none on all processes but the first.

    Raises:
        DataError: If an input cannot be read, is too small, or was made by another extractor.
        OptionError: If an option does not fit the inputs.
    """
    sources = [open_input(path, most=options.num) for path in inputs]
    limit = memory_budget(torch.device("cpu"), options.memory_limit) / len(inputs)
    options = replace(options, memory_limit=limit)
    if options.weights or options.resize:
        _check_images_among(sources)
    pairs = list(zip(sources, inputs, strict=True))
    _check_shared(pairs, ranks)
    _check_claims(pairs, options.features)
    picks = [_drawn(source, path, options, at_least) for source, path in pairs]
    images = [path for source, path in pairs if not isinstance(source, FeatureArray)]
    _check_declared(pairs, options)
    name = options.features or _recorded_name(sources) or DEFAULT_EXTRACTOR
    extractor = _extractor(name, images[0], options) if images else load_extractor("none")
    protocols = [
        (
            str(path),
            _protocol_of(source) if isinstance(source, FeatureArray) else extractor.protocol,
        )
        for source, path in pairs
        if not _is_statistics(source)
    ]
    check_extractors(protocols, options.features)
    dimensions = [s.features.shape[1] for s in sources if isinstance(s, FeatureArray)]
    dimension = extractor.num_features if images else max(dimensions)
    if check is not None:
        statistics = {
            str(path): getattr(source, "beside", False)
            for source, path in pairs
            if _has_statistics(source)
        }
        check(max(map(len, picks)), dimension, statistics)
    # Statistics do not say what network made them: that of the others, for which the user vouches.
    declared = protocols[0][1] if protocols else {"extractor": "none"}
    sets = [
        (_load_features(source, path, pick, limit, declared) if ranks.first else None)
        if isinstance(source, FeatureArray)
        else _compute_features(source, path, pick, extractor, options, at_least, progress, ranks)
        for (source, path), pick in zip(pairs, picks, strict=True)
    ]
    if not ranks.first:
        return []
    found = [item for item in sets if item is not None]
    check_comparable(found, options.features)
    return found


def _check_shared(pairs: list[tuple[Any, str | Path]], ranks: Ranks) -> None:
    """Raise where processes would not have the same images to share."""
    for source, path in pairs:
        if ranks.world > 1 and getattr(source, "kind", "") == "function":
            raise DataError(
                f"`{path}` yields images anew in each process, which may differ: write them to "
                "files first, or use one process."
            )


def _check_claims(pairs: list[tuple[Any, str | Path]], features: str | None) -> None:
    """Raise where a file would decide what is imported or fetched for the images beside it."""
    claims = [
        (_protocol_of(source)["extractor"], path)
        for source, path in pairs
        if isinstance(source, FeatureArray)
    ]
    if features is not None or len(claims) == len(pairs):
        return  # names are compared only
    for name, path in claims:
        if not is_known(name):
            raise DataError(
                f"`{path}` says that its features are of `{name}`, which otmetrics does not know: "
                f"make them anew from their images, or leave the images out and compare with "
                "features of the same network."
            )
        if not is_installed(name):
            raise DataError(
                f"`{path}` says that its features are of `{name}`, which is no extractor that is "
                "installed with otmetrics: a file does not choose what is loaded. If you know "
                "and trust that network, name it yourself with --features."
            )


def _check_images_among(sources: list[Any]) -> None:
    """Raise where options for the extractor meet inputs that need none."""
    if all(isinstance(source, FeatureArray) for source in sources):
        raise OptionError(
            "`weights` and `resize` belong to an extractor, but every input already holds "
            "features: leave them out."
        )


def _recorded_name(sources: list[Any]) -> str | None:
    """The extractor that made the first feature file among the sources, "none" for a bare one."""
    for source in sources:
        if isinstance(source, FeatureArray) and source.moments is None:
            return _protocol_of(source)["extractor"]
    return None


def _protocol_of(source: FeatureArray) -> dict[str, Any]:
    """Extractor protocol of a feature file."""
    return checked_record(source.protocol or {}, source.path)[0]


def _size(source: FeatureArray | StoredImages) -> int:
    """Number of samples of a source."""
    return len(source.features if isinstance(source, FeatureArray) else source)


def _drawn(source: Any, path: str | Path, options: Extraction, at_least: int) -> list[int]:
    """Indices to use, in the order of the source."""
    if _is_statistics(source):
        return []
    available = _size(source)
    size = available if options.num is None else options.num
    if size > available:
        raise DataError(f"`{path}` holds {available} samples, fewer than --num {size}: lower it.")
    _check_enough(path, size, at_least)
    if options.num is None:
        return list(range(available))
    generator = torch.Generator().manual_seed(options.seed)
    return torch.randperm(available, generator=generator)[:size].sort().values.tolist()


def _check_enough(path: str | Path, size: int, at_least: int) -> None:
    """Raise where an input has too few samples."""
    if size < at_least:
        raise DataError(
            f"`{path}` gives {size} sample(s), but at least {at_least} are needed a side: give "
            "more, or ask for fewer scores with --metrics."
        )


def _extractor(name: str, path: str | Path, options: Extraction) -> FrozenExtractor:
    """Load the extractor that an image input needs."""
    if options.features == "none":
        raise DataError(f"`{path}` holds images, but `none` takes features (N, D): name another.")
    if name == "none":
        raise DataError(
            f"`{path}` holds images, which do not compare with bare features: give features on "
            "both sides, or images on both."
        )
    try:
        return load_extractor(
            name,
            weights=options.weights,
            resize=options.resize,
            device=options.device,
            runtime=options.runtime,
            dtype=options.dtype,
            download=options.download,
        )
    except DataError:
        raise
    except ValueError as error:  # a name or option that the catalog does not know
        raise OptionError(str(error).replace("`name`", "`features`")) from error


def _load_features(
    source: FeatureArray,
    path: str | Path,
    pick: list[int],
    limit: float,
    declared: dict[str, Any],
) -> FeatureSet:
    """Features that were computed before; those in a large file stay there."""
    if source.moments is not None:
        return _statistics(source, path, declared)
    features = source.features
    narrow = features.dtype.kind != "f" or features.dtype.itemsize < 4
    dtype = np.dtype(np.float64) if narrow else features.dtype.newbyteorder("=")
    if dtype != features.dtype:
        values, chosen = new_array((len(pick), features.shape[1]), dtype, limit), np.array(pick)
        for start in range(0, len(pick), _ROWS_AT_A_TIME):
            part = slice(start, start + _ROWS_AT_A_TIME)
            values[part] = features[chosen[part]]
        rows = torch.from_numpy(values)
    elif len(pick) < len(features) or not features.flags.c_contiguous or features.nbytes <= limit:
        rows = rows_of(torch.from_numpy(features), torch.tensor(pick), limit)
    else:
        rows = torch.from_numpy(features)
    _, origin = checked_record(source.protocol or {}, source.path)
    record = {"path": str(path), "kind": "features", "available": len(source.features)}
    record |= {"used": len(pick)} | ({"origin": origin} if origin else {})
    labels = None
    if source.labels is not None:
        labels, counts = _drawn_labels(source.labels, pick)
        record |= {} if origin else counts
    remarks = [BESIDE] if source.beside else []
    return FeatureSet(rows, _protocol_of(source), record, remarks, labels)


def _is_statistics(source: Any) -> bool:
    """Whether a source holds a mean and covariance instead of samples."""
    return isinstance(source, FeatureArray) and source.moments is not None


def _has_statistics(source: Any) -> bool:
    """Whether a source holds a mean and covariance, with samples next to them or not."""
    return _is_statistics(source) or getattr(source, "beside", False)


def _check_declared(pairs: list[tuple[Any, str | Path]], options: Extraction) -> None:
    """Raise where statistics, which do not say what network made them, meet one that is known."""
    unknown = [path for source, path in pairs if _is_statistics(source)]
    if unknown and options.num is not None:
        raise OptionError(f"`num` cannot draw from `{unknown[0]}`, which holds no samples.")
    known = [
        path
        for source, path in pairs
        if not isinstance(source, FeatureArray) or _protocol_of(source)["extractor"] != "none"
    ]
    if unknown and known and options.features is None:
        raise DataError(
            f"`{unknown[0]}` holds the mean and covariance of features and does not say what "
            f"network made them: name it with --features to compare it with `{known[0]}`."
        )


def _statistics(source: FeatureArray, path: str | Path, declared: dict[str, Any]) -> FeatureSet:
    """Mean and covariance of samples that are not at hand."""
    assert source.moments is not None
    mean, covariance = map(torch.from_numpy, source.moments)
    record = {"path": str(path), "kind": "statistics", "available": None, "used": None}
    remarks = []
    if declared["extractor"] != "none":
        remarks.append(f"taken for features of {declared['extractor']}, as declared by the user")
    nothing = torch.empty(0, len(mean), dtype=torch.float64)
    return FeatureSet(nothing, declared, record, remarks, moments=(mean, covariance))


def _compute_features(
    source: StoredImages,
    path: str | Path,
    pick: list[int],
    extractor: FrozenExtractor,
    options: Extraction,
    at_least: int,
    progress: Progress | None,
    ranks: Ranks,
) -> FeatureSet | None:
    """Read, transform and pass the picked images through the network."""
    found = image_features(source, path, pick, extractor, options, progress, ranks)
    if found is None:
        return None
    _check_enough(path, len(found.indices), at_least)
    _check_finite(found.features, path, extractor.name)
    names = [source.names[index] for index in found.indices]
    record = {
        "path": str(path),
        "kind": source.kind,
        "available": len(source),
        "used": len(found.indices),
        "others": getattr(source, "num_others", 0),
        "transparent": int(found.transparent.sum()),
        "skipped": [message for _, message in found.skipped],
        "runtime": extractor.runtime_name,
    }
    record |= count_facts(found.facts, _format(source))
    record["misnamed"] = count_misnamed(names, found.facts)
    record["remarks"] = list(getattr(source, "remarks", []))
    labels = None
    if source.labels is not None:
        labels, counts = _drawn_labels(source.labels, found.indices)
        drawn = {source.labels[index] for index in pick}  # also what could not be read
        record |= counts | {"classes_not_drawn": sorted({*source.labels} - drawn)}
    elif top := _top_folder(source.names):
        record["top_folder"] = top
    return FeatureSet(found.features, extractor.protocol, record, found.notes, labels)


def _format(source: StoredImages) -> str:
    """What to call the format of images that no image file holds."""
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


def _check_finite(features: Tensor, path: str | Path, name: str) -> None:
    """Raise where a network gave NaN or infinite features."""
    for start, block in zip(
        range(0, len(features), _ROWS_AT_A_TIME), features.split(_ROWS_AT_A_TIME), strict=True
    ):
        bad = (~torch.isfinite(block).all(1)).nonzero().flatten()
        if len(bad):
            raise DataError(
                f"`{name}` gave NaN or infinite features for image number {start + int(bad[0])} "
                f"of `{path}`: check the extractor's weights."
            )
