"""Ray Data: the summary of a dataset, made where its blocks lie."""

from typing import Any

import numpy as np
import torch

try:
    from ray.data.aggregate import AggregateFnV2
    from ray.data.block import BlockAccessor
except ImportError as error:
    raise ImportError('this needs the package ray: pip install "otmetrics[ray]".') from error

from otmetrics.summaries.keeping import Keeping
from otmetrics.summaries.summary import Summary


class Summarize(AggregateFnV2):
    """An aggregation of Ray Data: of a column of features the `Summary`.

    Each block is summarised where it lies, and Ray merges the summaries, in any order. The result
    is that of one process where the samples have names. A process holds a block and two summaries.

    Args:
        on: Column of features, D floating numbers in each row.
        names: Column of the names of the samples, each its own.
        labels: Column of their classes.
        keeping: What to keep.
        extractor: Protocol of the extractor that made the features.
        name: Column of the result.

    Example:
        summary = dataset.aggregate(Summarize("features", names="path"))["summary"]
    """

    def __init__(
        self,
        on: str,
        *,
        names: str | None = None,
        labels: str | None = None,
        keeping: Keeping = Keeping(),
        extractor: dict[str, Any] | None = None,
        name: str = "summary",
    ) -> None:
        self._on, self._names, self._labels = on, names, labels
        self._keeping, self._extractor = keeping, extractor
        # Of one column alone Ray would hand over no other.
        super().__init__(name, lambda: None, on=None, ignore_nulls=False)

    def aggregate_block(self, block: Any) -> Summary:
        """Summarise the rows of one block.

        Args:
            block: A block of Ray Data.

        Returns:
            Its summary.
        """
        columns = {"features": self._on, "names": self._names, "labels": self._labels}
        asked = {part: column for part, column in columns.items() if column is not None}
        found = BlockAccessor.for_block(block).to_numpy(list(asked.values()))
        texts: dict[str, Any] = {
            part: [str(value) for value in found[column]]
            for part, column in asked.items()
            if part != "features"
        }
        # Lists of numbers come as an array of arrays.
        features = np.stack(list(found[self._on]))
        return Summary.of(
            torch.from_numpy(features), keeping=self._keeping, extractor=self._extractor, **texts
        )

    def combine(self, current_accumulator: Summary | None, new: Summary | None) -> Summary | None:
        """Merge two summaries, of which Ray begins with none.

        Args:
            current_accumulator: What is merged so far.
            new: What comes next.

        Returns:
            Both together.
        """
        if current_accumulator is None or new is None:
            return current_accumulator or new
        return current_accumulator.merged(new)
