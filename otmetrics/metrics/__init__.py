"""torchmetrics metrics: batches of real and fake samples in, a score out."""

from otmetrics.metrics.frechet import FrechetFeatureDistance, FrechetInceptionDistance
from otmetrics.metrics.kernel import KernelFeatureDistance
from otmetrics.metrics.manifold import DensityCoverage, PrecisionRecall
from otmetrics.metrics.wasserstein import WassersteinFeatureDistance

__all__ = [
    "DensityCoverage",
    "FrechetFeatureDistance",
    "FrechetInceptionDistance",
    "KernelFeatureDistance",
    "PrecisionRecall",
    "WassersteinFeatureDistance",
]
