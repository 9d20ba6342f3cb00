# The functions by name, for editors and type checkers: those that apply a solver list its options,
# which Python reads off the solver's class.

import torch
from torch import Tensor

from otmetrics.statistics.frechet import frechet_distance as frechet_distance
from otmetrics.statistics.frechet import (
    frechet_distance_from_moments as frechet_distance_from_moments,
)
from otmetrics.statistics.kernel import kernel_distance as kernel_distance
from otmetrics.statistics.manifold import DensityCoverage as DensityCoverage
from otmetrics.statistics.manifold import ManifoldScores as ManifoldScores
from otmetrics.statistics.manifold import PrecisionRecall as PrecisionRecall
from otmetrics.statistics.manifold import density_coverage as density_coverage
from otmetrics.statistics.manifold import manifold_scores as manifold_scores
from otmetrics.statistics.manifold import precision_recall as precision_recall
from otmetrics.transport.costs import cost_matrix as cost_matrix
from otmetrics.transport.coupling import Coupling as Coupling
from otmetrics.transport.coupling import coupling as coupling
from otmetrics.transport.exact.exact import exact_transport as exact_transport
from otmetrics.transport.line import univariate_cost as univariate_cost
from otmetrics.transport.result import TransportResult as TransportResult
from otmetrics.transport.result import barycentric_projection as barycentric_projection
from otmetrics.transport.semidiscrete.extended_map import ExtendedMap as ExtendedMap
from otmetrics.transport.semidiscrete.extended_map import neighbour_angles as neighbour_angles
from otmetrics.transport.semidiscrete.heights import laguerre_cells as laguerre_cells
from otmetrics.transport.semidiscrete.semidiscrete import SemiDiscreteResult as SemiDiscreteResult
from otmetrics.transport.semidiscrete.semidiscrete import SemiDiscreteStart as SemiDiscreteStart
from otmetrics.transport.sinkhorn.unrolled import (
    unrolled_sinkhorn_divergence as unrolled_sinkhorn_divergence,
)
from otmetrics.transport.sliced.directions import random_directions as random_directions
from otmetrics.transport.sliced.max_sliced import MaxSlicedResult as MaxSlicedResult
from otmetrics.transport.sliced.mind import monge_inception_distance as monge_inception_distance

def entropic_cost(
    real: Tensor,
    fake: Tensor,
    *,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
    order: float = 2.0,
    epsilon: float = 0.05,
    relative: bool = True,
    tolerance: float = 1e-05,
    max_iterations: int = 2000,
    memory_limit: float | None = None,
) -> Tensor: ...
def exact_wasserstein(
    real: Tensor,
    fake: Tensor,
    *,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
    order: float = 2.0,
    tolerance: float = 1e-06,
    max_samples: int | None = None,
    memory_limit: float | None = None,
    time_limit: float | None = None,
    seed: int = 0,
) -> Tensor: ...
def extended_map(
    samples: Tensor,
    points: Tensor,
    heights: Tensor,
    *,
    centres: Tensor | None = None,
    max_angle: float | Tensor = 0.0,
    normals: Tensor | None = None,
    generator: torch.Generator | None = None,
    source: str = "cube",
    num_faces: int = 20,
    rule: str = "two-face",
    share: float = 0.0,
    memory_limit: float | None = None,
) -> ExtendedMap: ...
def max_sliced_wasserstein(
    real: Tensor,
    fake: Tensor,
    *,
    generator: torch.Generator | None = None,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
    order: float = 2.0,
    num_starts: int = 8,
    max_iterations: int = 500,
    tolerance: float = 1e-06,
    seed: int = 0,
) -> Tensor: ...
def sinkhorn_divergence(
    real: Tensor,
    fake: Tensor,
    *,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
    order: float = 2.0,
    epsilon: float = 0.05,
    relative: bool = True,
    tolerance: float = 1e-05,
    max_iterations: int = 2000,
    memory_limit: float | None = None,
    richardson: bool = False,
) -> Tensor: ...
def sliced_wasserstein(
    real: Tensor,
    fake: Tensor,
    *,
    directions: Tensor | None = None,
    generator: torch.Generator | None = None,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
    order: float = 2.0,
    num_projections: int = 1024,
    seed: int = 0,
    orthogonal: bool = True,
    tolerance: float | None = None,
    max_projections: int = 65536,
    debiased: bool = False,
) -> Tensor: ...
