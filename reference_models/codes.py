"""What the codes of an autoencoder say of its samples: are they new, and of one class each?"""

from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.functional import ExtendedMap, laguerre_cells

from .data import Data
from .priors import TransportPrior
from .sampling import Sampler

_NUM = 5000  # codes that are drawn
_COPY = 0.1  # of the distance of held-out codes to their nearest ones


class CodeScores(NamedTuple):
    """How a decoder rebuilds samples, and what the transport to its codes draws."""

    # Mean squared error of held-out samples, in units of the networks: images in [-1, 1], points
    # in standard deviations.
    reconstruction: float

    kept: float  # share of the noise that the angle keeps

    # Share of the codes drawn whose parts are of one class, with the angle and without it; None
    # where the data has no classes.
    purity: float | None
    purity_unfiltered: float | None

    # Median distance of the codes drawn to the nearest code, in units of that of held-out samples:
    # 1 is as far as new samples are, 0 a copy. Copies are the share within a tenth of that unit.
    distance: float
    copies: float


def code_scores(sampler: Sampler, data: Data, held_out: Tensor, seed: int) -> CodeScores:
    """Score the codes of a generator in evaluation mode against held-out samples (N, *shape).

    Purity needs data with classes of its training samples, or a mixture.
    """
    prior = sampler.prior
    assert isinstance(prior, TransportPrior), "noise has no codes"
    # Of the same noise, so that the filter alone makes the difference.
    drawn, free = (
        prior.map_noise(_NUM, torch.Generator().manual_seed(seed), filtered=filtered)
        for filtered in (True, False)
    )
    labels = _labels(prior, data)

    # New samples lie at some distance too: only in its units a distance tells copies.
    unit = nearest(sampler.codes(held_out, data), prior.points).median()
    distances = nearest(drawn.codes, prior.points) / unit
    return CodeScores(
        reconstruction=reconstruction(sampler, data, held_out),
        kept=float(drawn.kept.double().mean()),
        purity=None if labels is None else _purity(drawn, labels),
        purity_unfiltered=None if labels is None else _purity(free, labels),
        distance=float(distances.median()),
        copies=float((distances < _COPY).double().mean()),
    )


def reconstruction(sampler: Sampler, data: Data, samples: Tensor) -> float:
    """Mean squared error of rebuilt samples (N, *shape), over samples and their values.

    It is in the squared units of the networks.
    """
    return float((sampler.rebuilt(samples, data) - data.to_network(samples)).square().mean())


def _labels(prior: TransportPrior, data: Data) -> Tensor | None:
    """Classes of the codes; of a mixture the nearest mode; None where they are not known."""
    ids = prior.ids.cpu()
    # Data of a loaded generator has no samples, and other data may have fewer.
    if len(data.train) <= int(ids.max()):
        return None

    if data.labels is not None:
        return data.labels[0][ids].to(prior.ids.device)
    if data.mixture is None:
        return None
    distances = torch.cdist(data.train[ids], data.mixture.centres)
    return distances.argmin(1).to(prior.ids.device)


def _purity(drawn: ExtendedMap, labels: Tensor) -> float:
    """Share of codes all of whose parts are of one class."""
    classes = labels[drawn.faces]
    # Faces beyond the angle are listed too, with no share in the code.
    other = (classes != classes[:, :1]) & (drawn.shares > 0)
    return float((~other.any(1)).double().mean())


def nearest(codes: Tensor, points: Tensor) -> Tensor:
    """Distances (N,) of codes (N, D) to the nearest of points (M, D)."""
    # |x - p|^2 = |x|^2 - 2 (<x, p> - |p|^2 / 2): the nearest point is that of a cell.
    ids = laguerre_cells(codes, points, -points.square().sum(1) / 2)
    return (codes - points[ids]).norm(dim=1)
