"""When two summaries are the same, and a network for the images of others."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from otmetrics.summaries.summary import Summary


def assert_same_moments(found: Summary, expected: Summary, scale: float) -> None:
    assert found.count == expected.count
    assert found.mean.dtype == found.covariance.dtype == torch.float64
    assert (found.mean - expected.mean).abs().max() <= 1e-12 * scale
    assert (found.covariance - expected.covariance).abs().max() <= 1e-12 * scale**2


def assert_same(found: Summary, expected: Summary, scale: float = 1.0) -> None:
    """Moments to rounding, all else to the bit."""
    assert_same_moments(found, expected, scale)
    assert found.fingerprint == expected.fingerprint
    assert found.keeping == expected.keeping
    assert (found.extractor, found.source) == (expected.extractor, expected.source)
    assert (found.sketch is None) == (expected.sketch is None)
    if found.sketch is not None and expected.sketch is not None:
        for one, other in zip(found.sketch, expected.sketch, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
    assert_same_samples(found, expected)


def assert_same_samples(found: Summary, expected: Summary) -> None:
    assert (found.samples is None) == (expected.samples is None)
    if found.samples is not None and expected.samples is not None:
        assert torch.equal(found.samples.features.double(), expected.samples.features.double())
        assert torch.equal(found.samples.keys, expected.samples.keys)
        assert found.samples.names == expected.samples.names
        assert found.samples.labels == expected.samples.labels


NETWORK = "module:summary_network:Grid"
_CODE = """
from torch import nn


class Grid(nn.Module):
    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)
"""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A network of twelve features that takes no time, in the working folder."""
    (tmp_path / "summary_network.py").write_text(_CODE)
    monkeypatch.chdir(tmp_path)
    yield NETWORK
    sys.modules.pop("summary_network", None)
