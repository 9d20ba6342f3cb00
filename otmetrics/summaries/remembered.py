"""What a metric remembers of a side, of samples that a summary stands for."""

import torch

from otmetrics.summaries.reservoir import lowest_of_range
from otmetrics.summaries.stores import (
    AllSamples,
    GaussianMoments,
    Memory,
    QuantileSketch,
    SampleReservoir,
    Store,
)
from otmetrics.summaries.summary import Summary


def memory_of(summary: Summary, store: Store) -> Memory:
    """Memory of the samples of a summary.

    Raises:
        ValueError: If the summary does not hold what the store remembers.
    """
    if not summary.known_count:
        return store.empty()
    if isinstance(store, GaussianMoments):
        return summary.moments._asdict()
    if isinstance(store, QuantileSketch):
        return _histograms(summary, store)
    assert isinstance(store, AllSamples | SampleReservoir)
    return _samples(summary, store)


def _histograms(summary: Summary, store: QuantileSketch) -> Memory:
    """The histograms, if they are along the same directions."""
    kept = summary.keeping.histograms
    if summary.sketch is None or kept != store:
        there = f"those of {kept}" if summary.sketch is not None else "none"
        raise ValueError(
            f"`summary` must hold histograms of {store}, got {there}: summarise with these options."
        )
    return summary.sketch._asdict()


def _samples(summary: Summary, store: AllSamples | SampleReservoir) -> Memory:
    """The chosen samples: all of them, or as many as a reservoir holds."""
    kept = 0 if summary.samples is None else len(summary.samples)
    size = summary.known_count
    wanted = size if isinstance(store, AllSamples) else min(size, store.max_samples)
    if summary.samples is None or kept < wanted:
        raise ValueError(
            f"`summary` must keep {wanted} of its {size} samples for this metric, got "
            f"{kept}: summarise with more, or make the metric with max_samples={max(kept, 2)}."
        )
    features = summary.samples.features[:wanted]
    if isinstance(store, AllSamples):
        return {"features": [features]}

    # They are a uniform choice: as good as those at the places that hash lowest.
    positions = lowest_of_range(0, size, wanted, store.seed, torch.device("cpu"))
    stream = torch.full((2,), size, dtype=torch.int64)
    return {"features": [features], "positions": [positions], "stream": stream}
