"""From the samples of each process to one summary, on the first of them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

from otmetrics.scoring.feature_set import FeatureSet
from otmetrics.scoring.messages import Arrays
from otmetrics.scoring.ranks import Ranks
from otmetrics.summaries.files import entries_of, fields_of
from otmetrics.summaries.keeping import Keeping
from otmetrics.summaries.records import merged_records
from otmetrics.summaries.summary import Summary


class Part(NamedTuple):
    """What a process has of an input.

    Attributes:
        made: Features of its samples, which may be none.
        names: What the samples are called.
        num_drawn: Samples that were to be its own; some may have been left out.
    """

    made: FeatureSet
    names: Sequence[str]
    num_drawn: int

    @property
    def record(self) -> dict[str, Any]:
        """The record of the samples, as that of several parts is the sum of theirs."""
        record = self.made.source | {"available": self.num_drawn}
        # Which classes a part lacks says nothing of the whole.
        record.pop("classes_not_drawn", None)
        return record


def reduced(part: Part | None, keeping: Keeping, ranks: Ranks) -> Summary | None:
    """The summary of the samples of all processes; None on all but the first, or without samples.

    A process for which no samples are left has no part.
    """
    records = ranks.collect({} if part is None else part.record)
    own = None
    if part is not None and len(part.made):
        made = part.made
        own = Summary.of(
            made.features,
            names=part.names,
            labels=made.labels,
            keeping=keeping,
            extractor=made.extractor,
        )
    if ranks.world > 1:
        arrays = ranks.merge({} if own is None else entries_of(vars(own)), _joined)
        own = Summary(**fields_of(arrays)) if arrays else None
    if records is None or own is None:
        return None
    return replace(own, source=reduce(merged_records, records))


def _joined(first: Arrays, second: Arrays) -> Arrays:
    """Two summaries as one, in the form in which they are sent."""
    if not first or not second:
        return first or second
    one, other = (Summary(**fields_of(arrays)) for arrays in (first, second))
    return entries_of(vars(one.merged(other)))
