"""Classes: whose share is wrong, and which of them the plan turns into which."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from otmetrics.explanation.calibration import discoveries
from otmetrics.explanation.nearest import nearest
from otmetrics.explanation.pairs import Pairs

_VOTERS = 5  # nearest labelled samples whose most frequent class a sample is given
_RATE = 0.1  # of false ones among the flows that are told


@dataclass(frozen=True)
class Flow:
    """What share of the mass goes from each real class to each fake one, above the floor's.

    In many dimensions the optimal plan between two parts of the real samples sends much mass across
    classes too: only what is above that is news.

    Attributes:
        names: The classes (C,).
        excess: From each real class (rows) to each fake one (columns), above the floor's; rows of
            classes with the right share sum to 0.
        errors: Standard errors of these at most, over the pairs of both plans and the shares of the
            classes on their fake sides.
        size: Samples per side.
    """

    names: tuple[str, ...]
    excess: tuple[tuple[float, ...], ...]
    errors: tuple[tuple[float, ...], ...]
    size: int

    def largest(self) -> list[tuple[str, str, float]]:
        """The flows between two classes that are more than noise, the largest first.

        A tenth of them is noise, at most, on average.
        """
        cells = [
            (self.names[a], self.names[b], value, value / self.errors[a][b])
            for a, row in enumerate(self.excess)
            for b, value in enumerate(row)
            if a != b and self.errors[a][b] > 0
        ]
        if not cells:
            return []
        pvalues = torch.tensor(norm.sf([step for *_, step in cells]))
        found = discoveries(pvalues, _RATE).tolist()
        told = [cell[:3] for cell, one in zip(cells, found, strict=True) if one]
        return sorted(told, key=lambda item: -item[2])


def excess_flow(
    names: Sequence[str],
    pairs: tuple[Pairs, Tensor, Tensor],
    floor: tuple[Pairs, Tensor, Tensor],
    size: int,
) -> Flow:
    """The flow of a plan above that of its floor, each with the classes (N,), (M,) of both sides.

    Classes are numbers below C. A flow is a share of pairs, and has the error of one; where classes
    lie apart it is what their shares differ by, and has the error of that.
    """
    count, flows, variances = len(names), [], []
    for one, of_real, of_fake in (pairs, floor):
        cells = of_real[one.real] * count + of_fake[one.fake]
        flow = torch.zeros(count * count, dtype=torch.float64, device=cells.device)
        flow = flow.index_add_(0, cells, one.masses).view(count, count).cpu()
        flows.append(flow)
        shares = flow.sum(0)
        variances.append((flow * (1 - flow) + shares * (1 - shares)) / size)
    excess, errors = flows[0] - flows[1], (variances[0] + variances[1]).sqrt()
    return Flow(tuple(names), _rows(excess), _rows(errors), size)


def _rows(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())


def voted_classes(reference: Tensor, classes: np.ndarray, samples: Tensor) -> np.ndarray:
    """The class (n,) that most of the nearest reference samples have; of ties the nearest one's.

    `classes` (N,) are numbers of the reference samples (N, D). Time O(N n D).
    """
    known = torch.from_numpy(classes).to(reference.device)
    found = known[nearest(samples, reference, min(_VOTERS, len(reference))).ids]
    # How many voters agree with each voter; the first of the largest is the nearest of them.
    agreeing = (found[:, :, None] == found[:, None, :]).sum(2)
    return found.gather(1, agreeing.argmax(1, keepdim=True))[:, 0].cpu().numpy()
