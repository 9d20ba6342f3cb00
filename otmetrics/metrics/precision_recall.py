"""Precision, recall, density, coverage over all samples."""

from typing import Any

from torch import Tensor, nn

from otmetrics.checks import check_at_least
from otmetrics.features import DEFAULT_EXTRACTOR
from otmetrics.functional import density_coverage, manifold_scores, precision_recall
from otmetrics.inference.estimates import manifold_estimates
from otmetrics.inference.intervals import Estimate, Over
from otmetrics.inference.two_sample import Statistics
from otmetrics.metrics.base import FeatureMetric, Tested
from otmetrics.summaries.stores import samples


class _ManifoldMetric(FeatureMetric):
    """Scores of k-nearest-neighbour balls, whose options are the same."""

    higher_is_better = True
    _option_names = ("num_neighbors", "max_samples", "seed")
    _names: tuple[str, ...]

    def __init__(
        self,
        feature: str | nn.Module | None = DEFAULT_EXTRACTOR,
        num_neighbors: int = 5,
        normalize: bool = False,
        reset_real_features: bool = True,
        max_samples: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        check_at_least("num_neighbors", num_neighbors, 1)
        store = samples(max_samples, seed)
        super().__init__(feature, store, normalize, reset_real_features, **kwargs)
        self.num_neighbors = num_neighbors
        self.max_samples = max_samples
        self.seed = seed

    def _estimates(self, real: Tensor, fake: Tensor, over: Over) -> dict[str, Estimate | None]:
        real, fake = real.double(), fake.double()
        scores = manifold_scores(real, fake, num_neighbors=self.num_neighbors)
        found = manifold_estimates(
            real, fake, self.num_neighbors, [float(score) for score in scores], self.seed, over
        )
        return {name: found[scores._fields.index(name)] for name in self._names}

    def _tested(self) -> Tested:
        k = self.num_neighbors
        return Tested(self._names, Statistics(num_neighbors=k), k + 1)


class PrecisionRecall(_ManifoldMetric):
    """Share of fake samples inside the manifold of the real ones (precision), and the reverse.

    `compute` returns `{"precision": scalar, "recall": scalar}`, both in [0, 1], higher is better.
    Memory is that of the features, time O((N + M)^2 D).

    Args:
        feature: See `WassersteinFeatureDistance`.
        num_neighbors: k >= 1, the sample itself excluded.
        normalize: False for uint8 images, True for floating ones in [0, 1].
        reset_real_features: Whether `reset` forgets the real samples too.
        max_samples: Most samples per side to keep, a uniform random subset; None keeps all. The
            scores depend on the number of samples.
        seed: Of that subset.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Kynkäänniemi et al., Improved precision and recall metric for assessing generative models,
        2019.

    Example:
        >>> metric = PrecisionRecall(feature=None, num_neighbors=1)
        >>> metric.update(torch.tensor([[0.0], [1.0]]), real=True)
        >>> metric.update(torch.tensor([[0.5], [9.0]]), real=False)
        >>> metric.compute()
        {'precision': tensor(0.5000), 'recall': tensor(1.)}
    """

    plot_upper_bound = 1.0
    _names = ("precision", "recall")

    def _value(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return precision_recall(real, fake, num_neighbors=self.num_neighbors)._asdict()


class DensityCoverage(_ManifoldMetric):
    """Real balls around a fake sample over k, and the share of real balls that hold a fake one.

    `compute` returns `{"density": scalar, "coverage": scalar}`, higher is better: density is >= 0
    and 1 in expectation for equal distributions, coverage in [0, 1]. Memory is that of the
    features, time O((N + M)^2 D).

    Args:
        feature: See `WassersteinFeatureDistance`.
        num_neighbors: k >= 1, the sample itself excluded.
        normalize: False for uint8 images, True for floating ones in [0, 1].
        reset_real_features: Whether `reset` forgets the real samples too.
        max_samples: Most samples per side to keep, a uniform random subset; None keeps all. The
            scores depend on the number of samples.
        seed: Of that subset.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Naeem et al., Reliable fidelity and diversity metrics for generative models, 2020.

    Example:
        >>> metric = DensityCoverage(feature=None, num_neighbors=1)
        >>> metric.update(torch.tensor([[0.0], [1.0]]), real=True)
        >>> metric.update(torch.tensor([[0.5], [9.0]]), real=False)
        >>> metric.compute()
        {'density': tensor(1.), 'coverage': tensor(1.)}
    """

    _names = ("density", "coverage")

    def _value(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return density_coverage(real, fake, num_neighbors=self.num_neighbors)._asdict()
