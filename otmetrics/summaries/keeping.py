"""What a summary keeps of its samples."""

from dataclasses import dataclass

from otmetrics.checks import check_at_least, check_flag, check_seed
from otmetrics.summaries.stores import QuantileSketch
from otmetrics.unknown_options import ToldOptions

PARTS = ("moments", "sketch", "samples")
"""What a summary may hold."""


@dataclass(frozen=True)
class Keeping(ToldOptions):
    """What a summary keeps; only summaries that keep the same can be merged.

    Attributes:
        samples: Samples that are kept as they are, chosen at random; 0 for none.
        sketch: Keep a histogram along each direction, of which sliced distances are made: 16 MB.
        num_projections: How many directions.
        orthogonal: Draw them in orthogonal blocks, as `Sliced` does.
        seed: Of the choice of samples and of the directions.

    Raises:
        ValueError: If a number breaks its rule.
    """

    samples: int = 10_000
    sketch: bool = True
    num_projections: int = 1024
    orthogonal: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least("samples", self.samples, 0)
        check_flag("sketch", self.sketch)
        check_at_least("num_projections", self.num_projections, 1)
        check_flag("orthogonal", self.orthogonal)
        check_seed(self.seed)

    @property
    def histograms(self) -> QuantileSketch:
        """What makes the histograms."""
        return QuantileSketch(self.num_projections, self.seed, self.orthogonal)
