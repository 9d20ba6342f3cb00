"""How far generated data is from real data, measured by optimal transport in feature space.

The public names load on first use, so that `import otmetrics` costs nothing. `otmetrics.cli` and
`otmetrics.reference_models` lie beside this folder, in `cli/` and `reference_models/`.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; `_HOME` says the same at run time
    from otmetrics.errors import ConvergenceWarning as ConvergenceWarning
    from otmetrics.errors import DataError as DataError
    from otmetrics.errors import OptionError as OptionError
    from otmetrics.features import EXTRACTORS as EXTRACTORS
    from otmetrics.features import FrozenExtractor as FrozenExtractor
    from otmetrics.features import load_extractor as load_extractor
    from otmetrics.functional import TransportResult as TransportResult
    from otmetrics.functional import barycentric_projection as barycentric_projection
    from otmetrics.functional import density_coverage as density_coverage
    from otmetrics.functional import entropic_cost as entropic_cost
    from otmetrics.functional import exact_transport as exact_transport
    from otmetrics.functional import exact_wasserstein as exact_wasserstein
    from otmetrics.functional import frechet_distance as frechet_distance
    from otmetrics.functional import frechet_distance_from_moments as frechet_distance_from_moments
    from otmetrics.functional import kernel_distance as kernel_distance
    from otmetrics.functional import max_sliced_wasserstein as max_sliced_wasserstein
    from otmetrics.functional import monge_inception_distance as monge_inception_distance
    from otmetrics.functional import precision_recall as precision_recall
    from otmetrics.functional import sinkhorn_divergence as sinkhorn_divergence
    from otmetrics.functional import sliced_wasserstein as sliced_wasserstein
    from otmetrics.losses import ExactWassersteinLoss as ExactWassersteinLoss
    from otmetrics.losses import SinkhornLoss as SinkhornLoss
    from otmetrics.losses import SlicedWassersteinLoss as SlicedWassersteinLoss
    from otmetrics.metrics import DensityCoverage as DensityCoverage
    from otmetrics.metrics import FrechetFeatureDistance as FrechetFeatureDistance
    from otmetrics.metrics import FrechetInceptionDistance as FrechetInceptionDistance
    from otmetrics.metrics import KernelFeatureDistance as KernelFeatureDistance
    from otmetrics.metrics import PrecisionRecall as PrecisionRecall
    from otmetrics.metrics import WassersteinFeatureDistance as WassersteinFeatureDistance
    from otmetrics.scoring.extraction import extracted as extracted
    from otmetrics.scoring.feature_set import FeatureSet as FeatureSet
    from otmetrics.scoring.options import METRICS as METRICS
    from otmetrics.scoring.options import Extraction as Extraction
    from otmetrics.scoring.options import Scoring as Scoring
    from otmetrics.scoring.report import Floor as Floor
    from otmetrics.scoring.report import Score as Score
    from otmetrics.scoring.report import ScoreReport as ScoreReport
    from otmetrics.scoring.score import score as score
    from otmetrics.scoring.score import score_features as score_features
    from otmetrics.transport.exact.exact import Exact as Exact
    from otmetrics.transport.semidiscrete.semidiscrete import SemiDiscrete as SemiDiscrete
    from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn as Sinkhorn
    from otmetrics.transport.sliced.sliced import Sliced as Sliced

__version__ = version("otmetrics")

_HOME = {
    "errors": (
        "ConvergenceWarning",
        "DataError",
        "OptionError",
    ),
    "features": (
        "EXTRACTORS",
        "FrozenExtractor",
        "load_extractor",
    ),
    "functional": (
        "TransportResult",
        "barycentric_projection",
        "density_coverage",
        "entropic_cost",
        "exact_transport",
        "exact_wasserstein",
        "frechet_distance",
        "frechet_distance_from_moments",
        "kernel_distance",
        "max_sliced_wasserstein",
        "monge_inception_distance",
        "precision_recall",
        "sinkhorn_divergence",
        "sliced_wasserstein",
    ),
    "losses": (
        "ExactWassersteinLoss",
        "SinkhornLoss",
        "SlicedWassersteinLoss",
    ),
    "metrics": (
        "DensityCoverage",
        "FrechetFeatureDistance",
        "FrechetInceptionDistance",
        "KernelFeatureDistance",
        "PrecisionRecall",
        "WassersteinFeatureDistance",
    ),
    "scoring.extraction": ("extracted",),
    "scoring.feature_set": ("FeatureSet",),
    "scoring.options": (
        "METRICS",
        "Extraction",
        "Scoring",
    ),
    "scoring.report": (
        "Floor",
        "Score",
        "ScoreReport",
    ),
    "scoring.score": (
        "score",
        "score_features",
    ),
    "transport.exact.exact": ("Exact",),
    "transport.semidiscrete.semidiscrete": ("SemiDiscrete",),
    "transport.sinkhorn.sinkhorn": ("Sinkhorn",),
    "transport.sliced.sliced": ("Sliced",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [*sorted(_MODULE_OF), "__version__"]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'otmetrics' has no attribute {name!r}")
    value = getattr(import_module(f"otmetrics.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)
