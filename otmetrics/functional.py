"""The maths: tensors or arrays in, a tensor or a NamedTuple out. No state, files, printing."""

from otmetrics.statistics.frechet import frechet_distance, frechet_distance_from_moments
from otmetrics.statistics.kernel import kernel_distance
from otmetrics.statistics.manifold import (
    DensityCoverage,
    ManifoldScores,
    PrecisionRecall,
    density_coverage,
    manifold_scores,
    precision_recall,
)
from otmetrics.transport.costs import cost_matrix
from otmetrics.transport.coupling import Coupling, coupling
from otmetrics.transport.exact.exact import exact_transport, exact_wasserstein
from otmetrics.transport.line import univariate_cost
from otmetrics.transport.result import TransportResult, barycentric_projection
from otmetrics.transport.semidiscrete.extended_map import (
    ExtendedMap,
    extended_map,
    neighbour_angles,
)
from otmetrics.transport.semidiscrete.heights import laguerre_cells
from otmetrics.transport.semidiscrete.semidiscrete import (
    SemiDiscreteResult,
    SemiDiscreteStart,
)
from otmetrics.transport.sinkhorn.sinkhorn import (
    entropic_cost,
    sinkhorn_divergence,
)
from otmetrics.transport.sinkhorn.unrolled import unrolled_sinkhorn_divergence
from otmetrics.transport.sliced.directions import random_directions
from otmetrics.transport.sliced.max_sliced import (
    MaxSlicedResult,
    max_sliced_wasserstein,
)
from otmetrics.transport.sliced.mind import monge_inception_distance
from otmetrics.transport.sliced.sliced import sliced_wasserstein

__all__ = [
    "Coupling",
    "DensityCoverage",
    "ExtendedMap",
    "ManifoldScores",
    "MaxSlicedResult",
    "PrecisionRecall",
    "SemiDiscreteResult",
    "SemiDiscreteStart",
    "TransportResult",
    "barycentric_projection",
    "cost_matrix",
    "coupling",
    "density_coverage",
    "entropic_cost",
    "exact_transport",
    "exact_wasserstein",
    "extended_map",
    "frechet_distance",
    "frechet_distance_from_moments",
    "kernel_distance",
    "laguerre_cells",
    "manifold_scores",
    "max_sliced_wasserstein",
    "monge_inception_distance",
    "neighbour_angles",
    "precision_recall",
    "random_directions",
    "sinkhorn_divergence",
    "sliced_wasserstein",
    "univariate_cost",
    "unrolled_sinkhorn_divergence",
]
