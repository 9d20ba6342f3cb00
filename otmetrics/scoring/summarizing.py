"""From an input, or from parts of it, to its summary."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from otmetrics.checks import check_at_least
from otmetrics.errors import Argument, DataError, OptionError
from otmetrics.scoring.extraction import Progress, open_inputs, summaries_of
from otmetrics.scoring.feature_set import FeatureSet
from otmetrics.scoring.options import Extraction
from otmetrics.scoring.ranks import ALONE, Ranks
from otmetrics.summaries.chosen import digests_of
from otmetrics.summaries.keeping import Keeping
from otmetrics.summaries.summary import Summary
from otmetrics.unknown_options import told_options

_NAMED = 5  # parts that are missing, of which a message tells


@told_options
def summarize(
    source: str | Path,
    *,
    shard: tuple[int, int] = (1, 1),
    keeping: Keeping = Keeping(),
    extraction: Extraction = Extraction(),
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> Summary | None:
    """Summarise an input, or one part of it: what is scored later, merged with others, or shared.

    Args:
        source: Folder of images, or any other input of `score`; features too.
        shard: Which part of how many: (2, 3) takes the second of every three samples.
        keeping: What the summary keeps.
        extraction: How to turn the input into features.
        progress: Called with a task's name, the steps done and the steps in all.
        ranks: The processes that share the extraction of features; all of them call this alike.

    Returns:
        The summary; None on all processes but the first.

    Raises:
        DataError: If the input cannot be read, or is a mean and covariance already.
        OptionError: If an option does not fit the input.
        ValueError: If `shard` breaks its rule.
    """
    number, count = shard
    check_at_least("shard", count, 1)
    if not 1 <= number <= count:
        raise OptionError(
            Argument("shard"), f" must be a part of so many, as 1/{count}, got {number}/{count}."
        )
    (one,) = open_inputs([source], extraction)
    if one.summary is not None or (one.has_features and not one.has_rows):
        raise DataError(f"`{one.path}` is a summary, or has one: give samples to summarise.")
    one = replace(one, part=(number, count))
    extraction = replace(extraction, keeping=keeping)
    ranks = ranks or ALONE
    found = summaries_of([one], extraction, progress, ranks)
    if ranks.first and not found:  # nor is known of how many features it would be
        raise DataError(f"`{one.path}` has no sample for part {number} of {count}: take fewer.")
    return found[0] if found else None


def notes_of(summary: Summary) -> list[str]:
    """What was read of the input of a summary, and what was lost or changed on the way."""
    nothing = torch.empty(0, summary.dimension)
    return FeatureSet(nothing, summary.extractor, summary.source).notes


def merge_summaries(paths: Sequence[str | Path], *, incomplete: bool = False) -> Summary:
    """Read summaries one after the other and merge them.

    Args:
        paths: Files of summaries, in any order.
        incomplete: Take parts of an input of which others are missing.

    Returns:
        The summary of all of their samples.

    Raises:
        DataError: If a file is none of a summary, files do not fit each other, two hold the same
            samples, or a part is missing.
    """
    if not paths:
        raise DataError("there is nothing to merge: give the files of summaries.")
    merged: Summary | None = None
    seen: dict[tuple[int, int | None], str] = {}
    for path in map(str, paths):
        one = Summary.load(path)
        known = (one.fingerprint, one.count)
        if one.count and known in seen:
            raise DataError(
                f"`{path}` and `{seen[known]}` are of the same samples: give each once."
            )
        seen[known] = path
        if merged is None:
            merged = one
            continue
        _check_no_overlap(merged, one, path)
        try:
            merged = merged.merged(one)
        except ValueError as error:
            raise DataError(f"`{path}` does not fit the others: {error}") from error
    assert merged is not None
    _check_parts(merged, incomplete)
    return merged


def _check_no_overlap(merged: Summary, one: Summary, path: str) -> None:
    """Raise where a sample that was kept comes again."""
    if merged.samples is None or one.samples is None:
        return
    rows = {key: row for row, key in enumerate(merged.samples.keys.tolist())}
    both = [(rows[k], row) for row, k in enumerate(one.samples.keys.tolist()) if k in rows]
    if not both:
        return
    # Samples of one name in two folders are others: what they hold tells.
    old, new = (
        digests_of(side.samples.features[list(places)])
        for side, places in zip((merged, one), zip(*both, strict=True), strict=True)
        if side.samples is not None
    )
    again = int((old == new).sum())
    if again:
        raise DataError(
            f"`{path}` holds samples that others hold too, {again} of those that are kept: give "
            "each sample once."
        )


def _check_parts(merged: Summary, incomplete: bool) -> None:
    """Raise where parts of an input are missing or twice, or are of an input that has changed."""
    parts = [tuple(part) for part in merged.source.get("parts", [])]
    for path in sorted({path for *_, path in parts}):
        own = [part[:3] for part in parts if part[3] == path]
        if len({(count, total) for _, count, total in own}) > 1:
            raise DataError(
                f"`{path}` was summarised in parts of several kinds, or has changed meanwhile: "
                "summarise it again."
            )
        (_, count, total), *_ = own
        numbers = {number for number, *_ in own}
        if len(numbers) < len(own):
            raise DataError(f"a part of `{path}` is there twice: give each once.")
        _check_whole(merged, path, sum(len(range(n - 1, total, count)) for n in numbers))
        if len(numbers) == count or incomplete:
            continue
        # Not all are looked at: a file may say that there are any number.
        missing = count - len(numbers)
        first = islice((n for n in range(1, count + 1) if n not in numbers), _NAMED)
        told = ", ".join(map(str, first))
        more = f" and {missing - _NAMED} more" if missing > _NAMED else ""
        raise DataError(
            f"of {count} parts of `{path}` {told}{more} {'is' if missing == 1 else 'are'} missing: "
            "give all of them, or pass ",
            Argument("incomplete"),
            ".",
        )


def _check_whole(merged: Summary, path: str, expected: int) -> None:
    """Raise where an input is there in parts, and whole besides."""
    only = merged.source.get("path") == path
    if only and merged.source.get("available", expected) > expected:
        raise DataError(f"`{path}` is there in parts, and whole besides: give one of both.")
