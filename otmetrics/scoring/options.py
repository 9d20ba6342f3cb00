"""The options of a comparison: `Extraction` makes features of inputs, `Scoring` scores them."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

from otmetrics.checks import check_at_least, check_device, check_positive, check_seed, check_share
from otmetrics.errors import Argument, DataError, OptionError
from otmetrics.features.catalog import DTYPES
from otmetrics.features.openvino import RUNTIMES
from otmetrics.features.preprocessing import RESIZE_MODES
from otmetrics.scoring.image_features import Reading
from otmetrics.summaries.keeping import Keeping
from otmetrics.transport.exact.exact import Exact
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
from otmetrics.transport.sliced.sliced import Sliced
from otmetrics.unknown_options import ToldOptions

METRICS = (
    "sliced_wasserstein",
    "wasserstein",
    "sinkhorn_divergence",
    "frechet_distance",
    "kernel_distance",
    "precision",
    "recall",
    "density",
    "coverage",
)
"""Every score, in the order in which reports show them."""

MANIFOLD = METRICS[-4:]  # the scores that look at nearest neighbours

_PUBLISHED = {"fid": "frechet_distance", "kid": "kernel_distance"}


class Need(NamedTuple):
    """The samples that each side must have, and a second way out where it has fewer."""

    samples: int = 2
    way_out: tuple[str, ...] = ()

    def check(self, path: str | Path, size: int, remedy: tuple[str, ...] = ("give more",)) -> None:
        """Raise where an input has too few samples."""
        if size < self.samples:
            raise DataError(
                f"`{path}` gives {size} sample(s), but at least {self.samples} are needed per "
                "side: ",
                *remedy,
                *self.way_out,
                ".",
            )


@dataclass(frozen=True, kw_only=True)
class Extraction(Reading):
    """How to turn inputs into features: the options of `Reading`, and these.

    Attributes:
        features: Name of the extractor, one of those that `otmetrics features` lists. By default
            the one that made a feature file among the inputs, if it is installed with otmetrics,
            else efficientnet_lite0.
        weights: Weights file for the extractor instead of the published one.
        resize: How images reach the extractor's size, instead of its own way: antialiased bicubic
            or bilinear in float, or tf1, the aliased filter behind published FIDs.
        num: Use this many samples of each input, drawn at random; all by default.
        seed: Seed of the draw.
        device: "cpu", "cuda" or "cuda:i".
        dtype: In what the network computes. bfloat16 is faster on a GPU and moves features by
            percents, so it does not compare with float32.
        runtime: What runs the network on a CPU, as for `load_extractor`: by default OpenVINO, in
            float32, if it is installed and agrees with torch.
        download: Fetch the published weights of inception or timm:MODEL if they are not on this
            machine. Nothing is fetched without it.
        keeping: Keep a summary of each input instead of all of its features: memory, and what
            processes send, then do not grow with the samples. None keeps all.

    Raises:
        ValueError: If a number breaks its rule.
    """

    features: str | None = None
    weights: str | Path | None = None
    resize: str | None = field(default=None, metadata={"choices": RESIZE_MODES})
    num: int | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = field(default="float32", metadata={"choices": tuple(DTYPES)})
    runtime: str | None = field(default=None, metadata={"choices": RUNTIMES})
    download: bool = False
    keeping: Keeping | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num is not None:
            check_at_least("num", self.num, 2)
        check_seed(self.seed)
        check_device(self.device)


@dataclass(frozen=True)
class Scoring(ToldOptions):
    """What to compute on the features.

    Attributes:
        metrics: Names of scores, in any order; all of `METRICS` by default.
        sliced: Solver of `sliced_wasserstein`; a debiased one makes it SW_2^2, in squared units.
        exact: Solver of `wasserstein`.
        sinkhorn: Solver of `sinkhorn_divergence`.
        num_neighbors: k of precision, recall, density and coverage.
        exact_max: Most samples per side for the exact distance, whose time grows like n^2.5; of
            more a random part is taken.
        sinkhorn_max: The same for the Sinkhorn divergence, whose memory grows like n^2.
        pairs_max: The same for kernel distance, precision, recall, density and coverage, whose
            time grows like n^2.
        memory_limit: Bytes next to the features for what `exact` and `sinkhorn` keep, copies of the
            clouds and costs, unless they have a limit of their own; costs beyond it are computed
            again in blocks. Copies of features above a sixteenth of it go to files that are mapped.
            Blocks, of any score, come on top, whatever the limit is. None for half of the memory
            of the device.
        floor: Compute the floors, which takes two more solves per score.
        interval: Compute an interval for each score, and the error of its excess over the floor.
        confidence_level: Of the intervals, in (0, 1).
        over: Whose samples could have been others: "both" sides, or "fake" alone, for scores
            against one fixed set of real samples.
        test: Random relabellings for a permutation test of each score; 0 for none, 199 are usual.
        per_class: Score each class by itself as well, where both sides say the classes of their
            samples.
        seed: Seed of all subsampling.
        device: Where the maths runs: "cpu", "cuda" or "cuda:i".

    Raises:
        ValueError: If an option breaks its rule.
    """

    metrics: tuple[str, ...] = field(default=METRICS, metadata={"choices": METRICS})
    sliced: Sliced = Sliced()
    exact: Exact = Exact()
    sinkhorn: Sinkhorn = Sinkhorn()
    num_neighbors: int = 5
    exact_max: int = 10_000
    sinkhorn_max: int = 10_000
    pairs_max: int = 50_000
    memory_limit: float | None = None
    floor: bool = True
    interval: bool = True
    confidence_level: float = 0.95
    over: Literal["both", "fake"] = field(default="both", metadata={"choices": ("both", "fake")})
    test: int = 0
    per_class: bool = False
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        # A string would be taken for the names "s", "l", "i", ...
        if isinstance(self.metrics, str):
            raise OptionError(
                Argument("metrics"), f" must be a tuple of names, got {self.metrics!r}."
            )
        # All wrong names at once, so that one attempt more is enough.
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics:
            raise OptionError(
                Argument("metrics"),
                f" must be among {', '.join(METRICS)}; got {', '.join(unknown) or 'none'}.",
                *(part for word in unknown for part in _hint(word)),
            )

        check_at_least("num_neighbors", self.num_neighbors, 1)
        for name in ("exact_max", "sinkhorn_max", "pairs_max"):
            check_at_least(name, getattr(self, name), 2)
        # A sample has no k-th neighbour among k: `pairs_max` would make what `need` refuses.
        if self.pairs_max < self.need.samples:
            raise OptionError(
                Argument("pairs_max"),
                " must be larger than ",
                Argument("num_neighbors"),
                f", {self.num_neighbors}, for precision, recall, density and coverage, "
                f"got {self.pairs_max}.",
            )
        if self.memory_limit is not None:
            check_positive("memory_limit", self.memory_limit)
        check_share("confidence_level", self.confidence_level)
        if self.over not in ("both", "fake"):
            raise OptionError(Argument("over"), f' must be "both" or "fake", got {self.over!r}.')
        check_at_least("test", self.test, 0)
        check_seed(self.seed)
        check_device(self.device)

    @property
    def need(self) -> Need:
        """The samples that each side must have for these scores."""
        if not set(self.metrics) & set(MANIFOLD):
            return Need()
        # Other scores need fewer samples: it helps to ask for these alone.
        neighbours = Argument("num_neighbors", "scoring=Scoring(num_neighbors=...)")
        fewer = Argument("metrics", "scoring=Scoring(metrics=...)")
        if set(self.metrics) <= set(MANIFOLD):
            return Need(self.num_neighbors + 1, (", or lower ", neighbours))
        return Need(self.num_neighbors + 1, (", or ask for fewer scores with ", fewer))


def _hint(word: str) -> tuple[str, ...]:
    """What a name that is no score may have meant."""
    # Published names mean a formula with a network; the formula alone is no FID.
    name = word.upper()
    if name.lower() in _PUBLISHED:
        formula = f" {name}'s formula is {_PUBLISHED[name.lower()]}; {name} itself needs "
        return formula, Argument("features", "extraction=Extraction(features=...)"), " inception."
    close = get_close_matches(word, METRICS, n=1)
    return (f" Did you mean {close[0]}?",) if close else ()
