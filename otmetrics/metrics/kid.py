"""Kernel distances over all samples."""

from typing import Any, Literal

from torch import Tensor, nn

from otmetrics.features import DEFAULT_EXTRACTOR
from otmetrics.functional import kernel_distance
from otmetrics.inference.estimates import kernel_estimate
from otmetrics.inference.intervals import Estimate, Over
from otmetrics.inference.two_sample import Statistics
from otmetrics.metrics.base import FeatureMetric, Tested
from otmetrics.statistics.kernel import check_kernel, kernel_sums
from otmetrics.summaries.stores import samples


class KernelFeatureDistance(FeatureMetric):
    """Unbiased squared maximum mean discrepancy; with the polynomial kernel KID's estimator.

    `compute` returns a scalar, lower is better; unbiased, so it may be slightly negative. It goes
    over all pairs, where published KID averages the same estimator over random subsets: the same
    expectation, less variance, no draw. Memory is that of the features, time O((N + M)^2 D).

    Args:
        feature: See `WassersteinFeatureDistance`.
        kernel: "polynomial", (x.y / D + 1)^3, or "rbf".
        bandwidth: Of the RBF kernel; None takes it from the mean squared distance.
        normalize: False for uint8 images, True for floating ones in [0, 1].
        reset_real_features: Whether `reset` forgets the real samples too.
        max_samples: Most samples per side to keep, a uniform random subset; None keeps all.
        seed: Of that subset.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Binkowski et al., Demystifying MMD GANs, 2018, section 4.

    Example:
        >>> metric = KernelFeatureDistance(feature=None)
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> metric.update(x, real=True)
        >>> metric.update(x, real=False)
        >>> metric.compute()
        tensor(-62.)
    """

    plot_lower_bound = None  # unbiased: no bound
    _option_names = ("kernel", "bandwidth", "max_samples", "seed")

    def __init__(
        self,
        feature: str | nn.Module | None = DEFAULT_EXTRACTOR,
        kernel: Literal["polynomial", "rbf"] = "polynomial",
        bandwidth: float | None = None,
        normalize: bool = False,
        reset_real_features: bool = True,
        max_samples: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        check_kernel(kernel, bandwidth)
        store = samples(max_samples, seed)
        super().__init__(feature, store, normalize, reset_real_features, **kwargs)
        self.kernel: Literal["polynomial", "rbf"] = kernel
        self.bandwidth = bandwidth
        self.max_samples = max_samples
        self.seed = seed

    def _value(self, real: Tensor, fake: Tensor) -> Tensor:
        return kernel_distance(real, fake, kernel=self.kernel, bandwidth=self.bandwidth)

    def _estimates(self, real: Tensor, fake: Tensor, over: Over) -> dict[str, Estimate | None]:
        (name,), *_ = self._tested()
        return {name: kernel_estimate(kernel_sums(real, fake))}

    def _tested(self) -> Tested:
        if self.kernel != "polynomial":
            raise ValueError(
                '`kernel` must be "polynomial" for intervals and tests, '
                f"got {self.kernel!r}: make a metric with that kernel."
            )
        return Tested(("kernel_distance",), Statistics())
