"""From folders and files to feature sets: where `images` and `features` meet."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics.errors import Argument, DataError, Message, OptionError
from otmetrics.features import (
    DEFAULT_EXTRACTOR,
    FrozenExtractor,
    is_installed,
    is_known,
    load_extractor,
)
from otmetrics.images import FeatureArray, StoredImages, open_input
from otmetrics.images.facts import count_facts, count_misnamed
from otmetrics.machine import memory_budget
from otmetrics.scoring.agreement import check_agreement
from otmetrics.scoring.feature_set import (
    FEATURES,
    FeatureSet,
    check_comparable,
    check_extractors,
)
from otmetrics.scoring.image_features import Progress, image_features
from otmetrics.scoring.mapped import new_array, rows_of
from otmetrics.scoring.options import Extraction, Need
from otmetrics.scoring.pictures import Pictures
from otmetrics.scoring.ranks import ALONE, Ranks
from otmetrics.scoring.reduction import Part, reduced
from otmetrics.summaries.files import is_summary
from otmetrics.summaries.keeping import Keeping
from otmetrics.summaries.records import checked_record
from otmetrics.summaries.summary import Summary
from otmetrics.unknown_options import told_options

_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class Input:
    """A folder or file that was opened: images, features, or what is known of many of them.

    Attributes:
        path: What the user calls it.
        source: What was opened; of a summary the samples that it has kept.
        whole: Whether all of it is used, however many samples are drawn of others.
        summary: What the file knows of all samples, of which it has a part or none; else None.
        part: Which of how many parts is used: every so manieth sample of those that are drawn.
    """

    path: str
    source: Any
    whole: bool = False
    summary: Summary | None = None
    part: tuple[int, int] = (1, 1)

    @property
    def has_features(self) -> bool:
        """Whether it needs no network."""
        return isinstance(self.source, FeatureArray)

    @property
    def has_rows(self) -> bool:
        """Whether it holds features, sample by sample."""
        return self.has_features and len(self.source.features) > 0

    @property
    def is_statistics(self) -> bool:
        """Whether it holds a mean and covariance alone, and does not say of what features."""
        return self.has_features and not self.has_rows and self.source.protocol is None

    @property
    def protocol(self) -> dict[str, Any]:
        """Extractor protocol of its features."""
        return checked_record(self.source.protocol or {}, self.source.path)[0]

    def draw(self, options: Extraction, need: Need) -> list[int]:
        """Indices of the samples to use, in the order of the source."""
        if self.has_features and not self.has_rows:
            return []
        available = len(self.source.features if self.has_features else self.source)
        # A summary is of all samples, and of these alone: it stays as it is.
        drawn = None if self.whole or self.summary is not None else options.num
        size = available if drawn is None else drawn
        num = Argument("num", "extraction=Extraction(num=...)")
        if size > available:
            raise DataError(
                f"`{self.path}` holds {available} samples, fewer than ", num, f" {size}: lower it."
            )
        need.check(self.path, size, ("raise ", num) if size < available else ("give more",))

        number, count = self.part
        if drawn is None:
            return list(range(number - 1, available, count))

        # In order, so that a file is read from its beginning to its end.
        generator = torch.Generator().manual_seed(options.seed)
        rows = torch.randperm(available, generator=generator)[:size].sort().values
        return rows[number - 1 :: count].tolist()


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
    return [_opened(path, options) for path in inputs]


def _opened(path: str | Path, options: Extraction) -> Input:
    """One input; a summary that has kept every sample is as good as features."""
    if not is_summary(Path(path)):
        source = open_input(path, most=options.num)
        return Input(str(path), source, summary=_declared(source))

    return _of_summary(Summary.load(path), str(path))


def _of_summary(summary: Summary, path: str) -> Input:
    """The input that a summary is."""
    protocol = {"extractor": summary.extractor, "source": summary.source}
    kept = summary.samples
    rows = np.empty((0, summary.dimension)) if kept is None else kept.features.numpy()
    source = FeatureArray(rows, Path(path), protocol, None if kept is None else kept.labels)
    return Input(path, source, summary=None if summary.is_whole else summary)


def _declared(source: StoredImages | FeatureArray) -> Summary | None:
    """What a file of others says of the samples: a mean and covariance, where it has them."""
    statistics = getattr(source, "moments", None)
    if statistics is None:
        return None
    mean, covariance = map(torch.from_numpy, (statistics.mean, statistics.covariance))
    nothing = Keeping(samples=0, sketch=False)
    return Summary(statistics.count, mean, covariance, keeping=nothing)


def features_of(
    inputs: list[Input], options: Extraction, need: Need, progress: Progress | None, ranks: Ranks
) -> list[FeatureSet]:
    """Features of inputs that were opened; none on all processes but the first."""
    options = _limited(options, len(inputs))
    picks, extractor, declared = _prepared(inputs, options, need, ranks)
    found: list[FeatureSet] = []
    for one, pick in zip(inputs, picks, strict=True):
        if options.keeping is not None and one.summary is None:
            summary = _summary_of(one, pick, extractor, options, progress, ranks)
            if not ranks.first:
                continue
            need.check(one.path, 0 if summary is None else summary.count or 0)
            assert summary is not None
            again = _of_summary(summary, one.path)
            found.append(_at_hand(again, again.draw(options, need), declared, options))
        elif not one.has_features:
            features = _compute(one, pick, extractor, options, need, progress, ranks)
            found += [] if features is None else [features]
        elif ranks.first:
            found.append(_at_hand(one, pick, declared, options))
    if ranks.first:
        check_comparable(found, options.features)
    return found


def summaries_of(
    inputs: list[Input], options: Extraction, progress: Progress | None, ranks: Ranks
) -> list[Summary]:
    """Summaries of inputs that hold samples; none on all processes but the first."""
    options = _limited(options, len(inputs))
    picks, extractor, _ = _prepared(inputs, options, Need(1), ranks)
    found = [
        _summary_of(one, pick, extractor, options, progress, ranks)
        for one, pick in zip(inputs, picks, strict=True)
    ]
    return [one for one in found if one is not None]


def _limited(options: Extraction, num_inputs: int) -> Extraction:
    """The options for one of several inputs, whose features are all there at the end."""
    limit = memory_budget(torch.device("cpu"), options.memory_limit) / num_inputs
    return replace(options, memory_limit=limit)


def _prepared(
    inputs: list[Input], options: Extraction, need: Need, ranks: Ranks
) -> tuple[list[list[int]], FrozenExtractor, dict[str, Any]]:
    """The samples to use, what makes features of them, and of what features statistics are.

    All that can be wrong with inputs and options is told here, before the first image is read.
    """
    _check_options(inputs, options)
    _check_claims(inputs, options.features)
    picks = [one.draw(options, need) for one in inputs]
    _check_network_named(inputs, options)

    images = [one for one in inputs if not one.has_features]
    # Images compare with features only if the network is the same: that of the first file.
    recorded = (
        one.protocol["extractor"] for one in inputs if one.has_features and not one.is_statistics
    )
    name = options.features or next(recorded, None) or DEFAULT_EXTRACTOR
    extractor = _load(name, images[0].path, options) if images else load_extractor("none")
    protocols = [
        (one.path, one.protocol if one.has_features else extractor.protocol)
        for one in inputs
        if not one.is_statistics
    ]
    check_extractors(protocols, options.features)
    if ranks.world > 1:
        drawn = [(one.path, one.source, pick) for one, pick in zip(inputs, picks, strict=True)]
        check_agreement(drawn, extractor.protocol, ranks)

    # Statistics do not say what network made them: that of the others, for which the user vouches.
    declared = protocols[0][1] if protocols else {"extractor": "none"}
    return picks, extractor, declared


def _summary_of(
    one: Input,
    pick: list[int],
    extractor: FrozenExtractor,
    options: Extraction,
    progress: Progress | None,
    ranks: Ranks,
) -> Summary | None:
    """The summary of an input; None on all processes but the first."""
    own = ranks.share(pick)
    part: Part | None = None
    if own and one.has_features:
        names = [f"{one.path}[{row}]" for row in own]
        part = Part(_load_rows(one, own, options), names, len(own))
    elif own:
        need = Need(int(ranks.world == 1))  # others may have what one process lacks
        made = _compute(one, own, extractor, options, need, progress, ALONE)
        assert made is not None
        assert made.pictures is not None
        # With the input: samples of one name in two of them are not chosen together.
        names = [f"{one.path}/{name}" for name in made.pictures.names()]
        part = Part(made, _distinct(names), len(own))
    summary = reduced(part, options.keeping or Keeping(), ranks)
    if not ranks.first:
        return None
    if summary is None and one.part[1] > 1:  # of more parts than samples some have none
        dimension = one.source.features.shape[1] if one.has_features else extractor.num_features
        if dimension is not None:
            protocol = one.protocol if one.has_features else extractor.protocol
            nothing = torch.empty(0, dimension)
            summary = Summary.of(nothing, keeping=options.keeping or Keeping(), extractor=protocol)
    if summary is None or one.part[1] == 1:
        return summary
    total = len(replace(one, part=(1, 1)).draw(options, Need(0)))
    return replace(summary, source=summary.source | {"parts": [[*one.part, total, one.path]]})


def _distinct(names: list[str]) -> list[str]:
    """Names of images, of which a list or an archive may have some twice."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def _at_hand(
    one: Input, pick: list[int], declared: dict[str, Any], options: Extraction
) -> FeatureSet:
    """What an input holds that needs no network."""
    if one.has_rows:
        return _load_rows(one, pick, options)
    return _without_rows(one, declared, options)


def _check_options(inputs: list[Input], options: Extraction) -> None:
    """Raise where options for the extractor meet inputs that need none."""
    if (options.weights or options.resize) and all(one.has_features for one in inputs):
        raise OptionError(
            Argument("weights"),
            " and ",
            Argument("resize"),
            " belong to an extractor, but every input already holds features: leave them out.",
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


def _check_network_named(inputs: list[Input], options: Extraction) -> None:
    """Raise where statistics, which do not say what network made them, meet one that is known."""
    unknown = [one.path for one in inputs if one.is_statistics]
    known = [
        one.path
        for one in inputs
        if not one.has_features or (not one.is_statistics and one.protocol["extractor"] != "none")
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


def _load_rows(one: Input, pick: list[int], options: Extraction) -> FeatureSet:
    """Features that were computed before; those in a large file stay there."""
    source: FeatureArray = one.source
    assert options.memory_limit is not None
    limit = options.memory_limit
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
    remarks = list(source.remarks)
    if one.summary is not None:
        record |= _counted(one.summary) | {"kept": len(features)}
        remarks += _not_drawn(options)
    if origin:
        record["origin"] = origin

    labels = None
    if source.labels is not None:
        # The record of the images, where there is one, counts their classes already.
        labels, counts = _drawn_labels(source.labels, pick)
        record |= {} if origin else counts
    return FeatureSet(rows, protocol, record, remarks, labels, one.summary)


def _counted(summary: Summary) -> dict[str, Any]:
    """The record of how many samples a summary is of."""
    return {"kind": "summary", "available": summary.count, "used": summary.count}


def _as_declared(name: str) -> str:
    """What is said of statistics, which do not say what network made them."""
    return f"its mean and covariance are taken for features of {name}, as declared by the user"


def _not_drawn(options: Extraction) -> list[str]:
    """What is said where a number of samples was asked for, of what has no others to draw from."""
    if options.num is None:
        return []
    return [Message("a summary is of all of its samples: ", Argument("num"), " draws none of them")]


def _without_rows(one: Input, declared: dict[str, Any], options: Extraction) -> FeatureSet:
    """What is known of samples of which none is at hand."""
    summary = one.summary
    assert summary is not None
    record: dict[str, Any] = {"path": one.path} | _counted(summary)
    remarks = [*one.source.remarks, *_not_drawn(options)]
    if one.is_statistics:
        extractor = declared
        record["kind"] = "statistics"
        if declared["extractor"] != "none":
            remarks.append(_as_declared(declared["extractor"]))
    else:
        extractor, origin = checked_record(one.source.protocol, one.path)
        record |= {"kept": 0} | ({"origin": origin} if origin else {})
    # No rows, but their dimension, by which sets are compared.
    nothing = torch.empty(0, summary.dimension, dtype=torch.float64)
    return FeatureSet(nothing, extractor, record, remarks, summary=summary)


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
    # Of those that one process has, all may have been left out.
    record |= count_facts(found.facts, _format(source)) if found.indices else {}

    # A name may lie about what a file holds, and lossy compression moves scores.
    names = [source.names[index] for index in found.indices]
    record["misnamed"] = count_misnamed(names, found.facts)
    record["remarks"] = list(getattr(source, "remarks", []))

    remarks = list(found.notes)
    if one.summary is not None:
        remarks.append(_as_declared(extractor.name))
    labels = None
    if source.labels is not None:
        labels, counts = _drawn_labels(source.labels, found.indices)
        drawn = {source.labels[index] for index in pick}  # also what could not be read
        record |= counts | {"classes_not_drawn": sorted({*source.labels} - drawn)}
    elif top := _top_folder(source.names):
        record["top_folder"] = top
    pictures = Pictures(source, found.indices, found.facts[:, 0])
    return FeatureSet(
        found.features, extractor.protocol, record, remarks, labels, one.summary, pictures
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
