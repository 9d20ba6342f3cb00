"""Summaries in place of samples: a metric gives what it gives of the samples themselves."""

import pytest
import torch

from otmetrics import (
    FrechetFeatureDistance,
    KernelFeatureDistance,
    PrecisionRecall,
    Sliced,
    WassersteinFeatureDistance,
)
from otmetrics.features import load_extractor
from otmetrics.summaries.keeping import Keeping
from otmetrics.summaries.summary import Summary

GENERATOR = torch.Generator().manual_seed(0)
REAL = torch.randn(300, 5, generator=GENERATOR)
FAKE = torch.randn(200, 5, generator=GENERATOR) + 0.5
NAMES = [str(i) for i in range(300)]
SLICED = Sliced(num_projections=64)


def filled(metric, *, fake=FAKE):
    metric.update(fake, real=False)
    return metric


@pytest.mark.parametrize(
    "make",
    [
        FrechetFeatureDistance,
        KernelFeatureDistance,
        PrecisionRecall,
        lambda **options: WassersteinFeatureDistance(method="exact", **options),
        lambda **options: WassersteinFeatureDistance(method=SLICED, streaming=True, **options),
    ],
)
@pytest.mark.parametrize("before", [0, 100])
def test_a_summary_counts_as_its_samples(make, before):
    keeping = Keeping(num_projections=64)
    summary = Summary.of(REAL[before:], names=NAMES[before:], keeping=keeping)
    metric, direct = filled(make(feature=None)), filled(make(feature=None))
    metric.update(REAL[:before], real=True)
    metric.add_summary(summary, real=True)
    direct.update(REAL, real=True)
    values = [one.compute() for one in (metric, direct)]
    values = [one if isinstance(one, dict) else {"value": one} for one in values]
    for name, expected in values[1].items():
        torch.testing.assert_close(values[0][name], expected, rtol=1e-6, atol=1e-6)


def test_a_reservoir_of_a_summary_stays_uniform():
    """Of a summary and as many samples behind it, a half of what is held is of either."""
    held = 0
    for seed in range(200):
        metric = KernelFeatureDistance(feature=None, max_samples=20, seed=seed)
        summary = Summary.of(torch.zeros(100, 1), keeping=Keeping(samples=30, seed=seed))
        metric.add_summary(summary, real=True)
        metric.update(torch.ones(100, 1), real=True)
        held += int(metric._store.collect(metric._memory(metric.metric_state, "real")).sum())
    assert abs(held / 4000 - 0.5) < 4 * 0.5 / 4000**0.5


@pytest.mark.parametrize(
    ("metric", "summary", "words"),
    [
        (
            KernelFeatureDistance(feature=None),
            Summary.of(REAL, keeping=Keeping(samples=9)),
            "keep 300 of its 300",
        ),
        (
            KernelFeatureDistance(feature=None, max_samples=50),
            Summary.of(REAL).only("moments"),
            "keep 50 of its 300",
        ),
        (
            WassersteinFeatureDistance(feature=None, streaming=True),
            Summary.of(REAL, keeping=Keeping(seed=1)),
            "histograms of QuantileSketch",
        ),
        (
            FrechetFeatureDistance(feature=None),
            Summary(None, REAL[0], REAL[:5]),
            "how many samples",
        ),
        (FrechetFeatureDistance(feature=None), "real.npz", "must be a Summary"),
    ],
)
def test_what_a_summary_does_not_hold_is_told(metric, summary, words):
    with pytest.raises((ValueError, TypeError), match=words):
        metric.add_summary(summary, real=True)


def test_a_summary_of_another_extractor_is_refused():
    metric = FrechetFeatureDistance(feature=load_extractor("pixels"))
    summary = Summary.of(REAL, extractor={"extractor": "efficientnet_lite0"})
    with pytest.raises(ValueError, match="by the extractor of this metric, 'pixels'"):
        metric.add_summary(summary, real=True)
