"""How a distance falls with the number of samples, next to that between real samples."""

from dataclasses import dataclass

from torch import Tensor

from otmetrics.transport.sliced.sliced import Sliced

_PARTS = (8, 4, 2, 1)  # of what is there
_FEWEST = 8  # samples per side


@dataclass(frozen=True)
class CurvePoint:
    """The sliced distance at one number of samples.

    Attributes:
        size: Samples per side.
        value: Between real and fake samples.
        floor: Between two parts of the real samples.
    """

    size: int
    value: float
    floor: float


def sample_curve(
    reference: Tensor, held_out: Tensor, fake: Tensor, solver: Sliced
) -> tuple[CurvePoint, ...]:
    """The sliced distance of fake and of held-out samples to the reference ones, all (n, D).

    At an eighth, a quarter, a half and all of them. Where both curves fall to one line, more
    samples would show no difference; where the upper one levels off, they would.
    """
    points = []
    for part in _PARTS:
        size = min(map(len, (reference, held_out, fake))) // part
        if size >= _FEWEST:
            value, floor = (
                float(solver.solve(reference[:size], other[:size]).value)
                for other in (fake, held_out)
            )
            points.append(CurvePoint(size, value, floor))
    return tuple(points)
