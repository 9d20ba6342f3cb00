"""Fréchet distances from streamed moments; FID among them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from otmetrics.features import DEFAULT_EXTRACTOR
from otmetrics.metrics.base import FeatureMetric, check_no_foreign_options
from otmetrics.metrics.features import shared_extractor
from otmetrics.statistics.frechet import Moments, gaussian_distance
from otmetrics.summaries.stores import GaussianMoments


class FrechetFeatureDistance(FeatureMetric):
    """Fréchet distance: squared W_2 between Gaussians of the moments of real and of fake features.

    `compute` returns a scalar in squared units of the features, >= 0, lower is better; it is
    computed in float64, and rounded to float32 unless features were float64 or `set_dtype` says so.
    Only moments are kept: a count, the mean and centred second moments in float64, merged by Chan's
    formula, so that no digit is lost where the mean is far larger than the spread. Memory 8 D^2
    bytes per side (13 MB for D = 1280) whatever N; time O(N D^2) in `update`, O(D^3) in `compute`.

    Args:
        feature: See `WassersteinFeatureDistance`. Its name is FID on the FID Inception network
            only: `FrechetInceptionDistance`.
        normalize: False for uint8 images, True for floating ones in [0, 1].
        reset_real_features: Whether `reset` forgets the real samples too.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Heusel et al., GANs trained by a two time-scale update rule, 2017, equation (6).

    Example:
        >>> metric = FrechetFeatureDistance(feature=None)
        >>> x = torch.randn(50, 3, dtype=torch.float64)
        >>> metric.update(x, real=True)
        >>> metric.update(x + 2, real=False)
        >>> round(metric.compute().item(), 9)
        12.0
    """

    _to_keep_samples = (
        "give the features themselves to otmetrics.score_features, with "
        'scoring=Scoring(metrics=("frechet_distance",))'
    )

    def __init__(
        self,
        feature: str | nn.Module | None = DEFAULT_EXTRACTOR,
        normalize: bool = False,
        reset_real_features: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature, GaussianMoments(), normalize, reset_real_features, **kwargs)

    def _value(self, real: Moments, fake: Moments) -> Tensor:
        for name, side in (("real", real), ("fake", fake)):
            if side.num_samples < 2:
                raise ValueError(
                    f"`{name}` must hold at least 2 samples, got {int(side.num_samples)}."
                )
            if not (torch.isfinite(side.mean).all() and torch.isfinite(side.scatter).all()):
                raise ValueError(
                    f"`{name}` must have moments that fit float64: scale the features of both "
                    "sides down."
                )
        return gaussian_distance(real.mean, real.covariance, fake.mean, fake.covariance)


class FrechetInceptionDistance(FrechetFeatureDistance):
    """FID: the Fréchet distance on the FID Inception network (2048 features).

    Args:
        normalize: False for uint8 images, True for floating ones in [0, 1].
        reset_real_features: Whether `reset` forgets the real samples too.
        weights: Weights file; None looks where `load_extractor("inception")` does.
        resize: "tf1", the aliasing filter of published numbers, or None for the antialiased one of
            the other extractors.
        download: Fetch the published weights if they are not on this machine.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        DataError: If the weights cannot be found or read.
        ValueError: If an option breaks its rule.
    """

    def __init__(
        self,
        normalize: bool = False,
        reset_real_features: bool = True,
        weights: str | Path | None = None,
        resize: str | None = "tf1",
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        # Where torchmetrics has `feature`, the number of features of a layer, first.
        layer = kwargs.get("feature", kwargs.get("features", normalize))
        if {"feature", "features"} & kwargs.keys() or (
            isinstance(layer, int) and not isinstance(layer, bool)
        ):
            raise ValueError(
                f"`feature` is not an option of FID, got {layer!r}: it is the 2048 features of the "
                "FID Inception network; leave it out, or take FrechetFeatureDistance(feature=...)."
            )

        check_no_foreign_options(None, kwargs)  # before the weights are looked for
        extractor = shared_extractor("inception", weights, resize, download)
        super().__init__(extractor, normalize, reset_real_features, **kwargs)
