"""The maths: tensors or arrays in, a tensor or a NamedTuple out. No state, files, printing."""

from otmetrics.functional.barycentric import barycentric_projection
from otmetrics.functional.cost import cost_matrix
from otmetrics.functional.directions import random_directions
from otmetrics.functional.exact import (
    exact_result,
    exact_transport,
    exact_wasserstein,
)
from otmetrics.functional.extension import ExtendedMap, extended_map, neighbour_angles
from otmetrics.functional.frechet import frechet_distance, frechet_distance_from_moments
from otmetrics.functional.kernel import kernel_distance
from otmetrics.functional.laguerre import laguerre_cells
from otmetrics.functional.manifold import (
    DensityCoverage,
    ManifoldScores,
    PrecisionRecall,
    density_coverage,
    manifold_scores,
    precision_recall,
)
from otmetrics.functional.max_sliced import (
    MaxSlicedResult,
    max_sliced_result,
    max_sliced_wasserstein,
)
from otmetrics.functional.mind import monge_inception_distance
from otmetrics.functional.result import TransportResult
from otmetrics.functional.semidiscrete import (
    SemiDiscreteResult,
    SemiDiscreteStart,
    semidiscrete_result,
)
from otmetrics.functional.sinkhorn import entropic_cost, sinkhorn_divergence, sinkhorn_result
from otmetrics.functional.sliced import sliced_result, sliced_wasserstein
from otmetrics.functional.univariate import univariate_cost
from otmetrics.functional.unrolled import unrolled_sinkhorn_divergence

__all__ = [
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
    "density_coverage",
    "entropic_cost",
    "exact_result",
    "exact_transport",
    "exact_wasserstein",
    "extended_map",
    "frechet_distance",
    "frechet_distance_from_moments",
    "kernel_distance",
    "laguerre_cells",
    "manifold_scores",
    "max_sliced_result",
    "max_sliced_wasserstein",
    "monge_inception_distance",
    "neighbour_angles",
    "precision_recall",
    "random_directions",
    "semidiscrete_result",
    "sinkhorn_divergence",
    "sinkhorn_result",
    "sliced_result",
    "sliced_wasserstein",
    "univariate_cost",
    "unrolled_sinkhorn_divergence",
]
