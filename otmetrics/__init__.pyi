# The public names, for editors and type checkers and, by lazy_loader, for Python itself.

from .errors import ConvergenceWarning as ConvergenceWarning
from .errors import DataError as DataError
from .errors import OptionError as OptionError
from .features import EXTRACTORS as EXTRACTORS
from .features import FrozenExtractor as FrozenExtractor
from .features import load_extractor as load_extractor
from .functional import TransportResult as TransportResult
from .functional import barycentric_projection as barycentric_projection
from .functional import density_coverage as density_coverage
from .functional import entropic_cost as entropic_cost
from .functional import exact_transport as exact_transport
from .functional import exact_wasserstein as exact_wasserstein
from .functional import frechet_distance as frechet_distance
from .functional import frechet_distance_from_moments as frechet_distance_from_moments
from .functional import kernel_distance as kernel_distance
from .functional import max_sliced_wasserstein as max_sliced_wasserstein
from .functional import monge_inception_distance as monge_inception_distance
from .functional import precision_recall as precision_recall
from .functional import sinkhorn_divergence as sinkhorn_divergence
from .functional import sliced_wasserstein as sliced_wasserstein
from .losses import ExactWassersteinLoss as ExactWassersteinLoss
from .losses import SinkhornLoss as SinkhornLoss
from .losses import SlicedWassersteinLoss as SlicedWassersteinLoss
from .metrics import DensityCoverage as DensityCoverage
from .metrics import FrechetFeatureDistance as FrechetFeatureDistance
from .metrics import FrechetInceptionDistance as FrechetInceptionDistance
from .metrics import KernelFeatureDistance as KernelFeatureDistance
from .metrics import PrecisionRecall as PrecisionRecall
from .metrics import WassersteinFeatureDistance as WassersteinFeatureDistance
from .scoring.extraction import extracted as extracted
from .scoring.feature_set import FeatureSet as FeatureSet
from .scoring.options import METRICS as METRICS
from .scoring.options import Extraction as Extraction
from .scoring.options import Scoring as Scoring
from .scoring.report import Floor as Floor
from .scoring.report import Score as Score
from .scoring.report import ScoreReport as ScoreReport
from .scoring.score import score as score
from .scoring.score import score_features as score_features
from .transport import Exact as Exact
from .transport import MaxSliced as MaxSliced
from .transport import SemiDiscrete as SemiDiscrete
from .transport import Sinkhorn as Sinkhorn
from .transport import Sliced as Sliced

__version__: str
