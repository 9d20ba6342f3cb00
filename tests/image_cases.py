"""Small images, and metrics that are given them."""

import torch
from torchmetrics import MetricCollection

from otmetrics import (
    FrechetFeatureDistance,
    KernelFeatureDistance,
    PrecisionRecall,
    WassersteinFeatureDistance,
)


def images(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)


REAL, FAKE = images(20, 1), images(16, 2) // 2


def fed(metric, real=REAL, fake=FAKE):
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric


def members(feature, **options) -> MetricCollection:
    return MetricCollection(
        {
            "sliced": WassersteinFeatureDistance(feature=feature, **options),
            "exact": WassersteinFeatureDistance(feature=feature, method="exact", **options),
            "first": WassersteinFeatureDistance(feature=feature, max_samples=8, **options),
            "frechet": FrechetFeatureDistance(feature=feature, **options),
            "kernel": KernelFeatureDistance(feature=feature, **options),
            "manifold": PrecisionRecall(feature=feature, num_neighbors=2, **options),
        }
    )
