"""torchmetrics metrics: batches of real and fake samples in, a score out."""

from otmetrics.metrics.fid import FrechetFeatureDistance, FrechetInceptionDistance
from otmetrics.metrics.kid import KernelFeatureDistance
from otmetrics.metrics.precision_recall import DensityCoverage, PrecisionRecall
from otmetrics.metrics.wasserstein import WassersteinFeatureDistance

__all__ = [
    "DensityCoverage",
    "FrechetFeatureDistance",
    "FrechetInceptionDistance",
    "KernelFeatureDistance",
    "PrecisionRecall",
    "WassersteinFeatureDistance",
]
