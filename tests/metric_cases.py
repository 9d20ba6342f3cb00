"""Every metric with the number that it must give, for one table of tests."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from cases import cloud
from torch import Tensor

from otmetrics import (
    DensityCoverage,
    Exact,
    FrechetFeatureDistance,
    KernelFeatureDistance,
    PrecisionRecall,
    Sinkhorn,
    Sliced,
    WassersteinFeatureDistance,
    density_coverage,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from otmetrics.metrics.base import FeatureMetric
from otmetrics.summaries.reservoir import lowest
from otmetrics.transport.sliced.directions import direction_generator, random_directions
from otmetrics.transport.sliced.sketch import sketch, sketched_result

SLICED = Sliced(num_projections=40, seed=3)


class Case(NamedTuple):
    """A metric, and its value from all features of both sides at once."""

    make: Callable[..., FeatureMetric]
    expected: Callable[[Tensor, Tensor], Any]
    uses_order: bool = False
    infers: bool = True  # whether it has intervals and tests


def streamed(real: Tensor, fake: Tensor) -> Tensor:
    directions = random_directions(real.shape[1], 40, generator=direction_generator(3)).to(
        real.device
    )
    sketches = (sketch((side.double() @ directions).T) for side in (real, fake))
    return sketched_result(*sketches, 2.0).value


def subsampled(real: Tensor, fake: Tensor) -> Tensor:
    kept = (side[lowest(torch.arange(len(side)), 12, seed=5)] for side in (real, fake))
    return Exact()(*kept)


def wasserstein(method: Any, **fixed: Any) -> Callable[..., FeatureMetric]:
    return lambda **options: WassersteinFeatureDistance(method=method, **fixed, **options)


CASES = {
    "sliced": Case(wasserstein(SLICED), SLICED),
    "exact": Case(wasserstein("exact"), Exact()),
    "sinkhorn": Case(wasserstein(Sinkhorn(epsilon=0.5)), Sinkhorn(epsilon=0.5)),
    "streaming": Case(wasserstein(SLICED, streaming=True), streamed, infers=False),
    "reservoir": Case(wasserstein("exact", max_samples=12, seed=5), subsampled, uses_order=True),
    "frechet": Case(FrechetFeatureDistance, frechet_distance, infers=False),
    "kernel": Case(KernelFeatureDistance, kernel_distance),
    "rbf": Case(
        lambda **options: KernelFeatureDistance(kernel="rbf", bandwidth=2.0, **options),
        lambda real, fake: kernel_distance(real, fake, kernel="rbf", bandwidth=2.0),
        infers=False,
    ),
    "precision_recall": Case(
        lambda **options: PrecisionRecall(num_neighbors=2, **options),
        lambda real, fake: precision_recall(real, fake, num_neighbors=2)._asdict(),
    ),
    "density_coverage": Case(
        lambda **options: DensityCoverage(num_neighbors=2, **options),
        lambda real, fake: density_coverage(real, fake, num_neighbors=2)._asdict(),
    ),
}


def assert_same(found: Any, expected: Any, tolerance: float = 1e-9) -> None:
    """Scalars, or dictionaries of scalars, that agree."""
    if not isinstance(expected, dict):
        found, expected = {"": found}, {"": expected}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert isinstance(found[name], Tensor)
        assert found[name].shape == ()
        torch.testing.assert_close(
            found[name].double(), value.double(), rtol=tolerance, atol=tolerance
        )


REAL, FAKE = cloud(41, 6, seed=1), 0.9 * cloud(37, 6, seed=2) + 0.3
TOGETHER, IS_REAL = torch.cat([REAL, FAKE]), torch.arange(78) < 41


def filled(case: Case, **options: Any) -> FeatureMetric:
    """A metric of features that has seen `REAL` and `FAKE` in batches."""
    metric = case.make(feature=None, **options)
    for batch in REAL.split(16):
        metric.update(batch, real=True)
    for batch in FAKE.split(9):
        metric.update(batch, real=False)
    return metric


def inferred(metric: FeatureMetric) -> str:
    """All that a metric says of its samples next to its value, as one text to compare."""
    tests = metric.test(3)
    tests = tests if isinstance(tests, dict) else {"": tests}
    labels = {name: test.null_distribution.tolist() for name, test in tests.items()}
    return f"{metric.interval()} {tests} {labels}"


@cache  # hundreds of tests compare with one of ten values
def expected(case: Case) -> Any:
    """The value of `REAL` and `FAKE`."""
    return case.expected(REAL, FAKE)


class Small(torch.nn.Module):
    """Few features of an image: the mean of each of 4 x 4 tiles."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1)
