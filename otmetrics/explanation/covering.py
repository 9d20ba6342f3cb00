"""Which real samples a model covers that another does not."""

from dataclasses import dataclass

import torch
from torch import Tensor

from otmetrics.explanation.nearest import nearest

_SHOWN = 8


@dataclass(frozen=True)
class CoverageChange:
    """What one model covers of the real samples, next to another one.

    A real sample is covered where a fake lies in the ball that reaches to its k-th nearest other
    real sample, as in the score of that name.

    Attributes:
        gained: Real samples that this model covers and the other one does not.
        lost: Those that only the other one covers.
        both: Those that both cover.
        neither: Those that none does.
        gained_rows: Up to eight of the gained ones, those that are clearest first.
        lost_rows: The same of the lost ones.
    """

    gained: int
    lost: int
    both: int
    neither: int
    gained_rows: tuple[int, ...]
    lost_rows: tuple[int, ...]


def reaches(real: Tensor, fakes: list[Tensor], num_neighbors: int) -> Tensor:
    """How far each real sample (N, D) is from each of K fake clouds (M, D), as (K, N).

    In units of the distance to its k-th nearest other real sample: it is covered up to 1. Time
    O(N (N + K M) D).
    """
    own = torch.arange(len(real), device=real.device)
    radii = nearest(real, real, num_neighbors, own=own).distances[:, -1]
    far = [nearest(real, fake, 1).distances[:, 0] for fake in fakes]
    # Of samples that are repeated more than k times the ball is a point.
    return torch.stack([torch.where(one > 0, one / radii, 0.0) for one in far])


def coverage_change(this: Tensor, other: Tensor, rows: Tensor) -> CoverageChange:
    """Compare what two models reach, each (n,) of `reaches`, of real samples by their rows (n,)."""
    covered, before = this <= 1, other <= 1
    gained, lost = covered & ~before, before & ~covered
    return CoverageChange(
        gained=int(gained.sum()),
        lost=int(lost.sum()),
        both=int((covered & before).sum()),
        neither=int((~covered & ~before).sum()),
        gained_rows=tuple(rows[_clearest(gained, other - this)].tolist()),
        lost_rows=tuple(rows[_clearest(lost, this - other)].tolist()),
    )


def _clearest(mask: Tensor, step: Tensor) -> Tensor:
    """Where a mask (n,) holds, those with the largest steps first."""
    places = mask.nonzero()[:, 0]
    return places[step[places].argsort(descending=True, stable=True)[:_SHOWN]].cpu()
