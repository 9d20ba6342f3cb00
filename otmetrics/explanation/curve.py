"""How a distance falls with the number of samples, next to that between real samples."""

from dataclasses import dataclass

from torch import Tensor

from otmetrics.inference.estimates import sliced_estimate
from otmetrics.transport.sliced.sliced import Sliced

_PARTS = (8, 4, 2, 1)  # of what is there
_FEWEST = 8  # samples per side
_LEVEL = 0.95

Range = tuple[float, float]


@dataclass(frozen=True)
class CurvePoint:
    """The sliced distance at one number of samples.

    Attributes:
        size: Samples per side.
        value: Between real and fake samples.
        floor: Between two parts of the real samples.
        value_interval: Of 95 %, for the mean of the value over new samples of this size.
        floor_interval: The same of the floor.
    """

    size: int
    value: float
    floor: float
    value_interval: Range
    floor_interval: Range


def sample_curve(
    reference: Tensor, held_out: Tensor, fake: Tensor, solver: Sliced
) -> tuple[CurvePoint, ...]:
    """The sliced distance of fake and of held-out samples to the reference ones, all (n, D).

    At an eighth, a quarter, a half and all of them. Where both curves fall to one line, more
    samples would show no difference; where the upper one levels off, they would. Intervals are
    those of the effects of single samples, which are too wide where nothing differs.
    """
    points = []
    for part in _PARTS:
        size = min(map(len, (reference, held_out, fake))) // part
        if size >= _FEWEST:
            (value, of_value), (floor, of_floor) = (
                _distance(reference[:size], other[:size], solver) for other in (fake, held_out)
            )
            points.append(CurvePoint(size, value, floor, of_value, of_floor))
    return tuple(points)


def _distance(real: Tensor, fake: Tensor, solver: Sliced) -> tuple[float, Range]:
    """The distance, and an interval for its mean at these sizes."""
    result = solver.solve(real, fake)
    # The interval of a score is for its limit: around the value stands one of the value.
    estimate = sliced_estimate(real, fake, solver, result)._replace(
        centre=float(result.cost), drawn=result.direction_errors, order=solver.order
    )
    interval = estimate.interval(_LEVEL)
    return float(result.value), (interval.low, interval.high)
