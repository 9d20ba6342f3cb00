"""Precision, recall, density, coverage: k-nearest-neighbour balls as a picture of the support."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import check_at_least, checked_clouds
from otmetrics.transport.costs import distances_by_product, refine_cancelled, row_blocks
from otmetrics.unknown_options import told_options

_BLURRED = 1e6  # roundings of a product: a distance of so many is right to six digits


class PrecisionRecall(NamedTuple):
    """The result of `precision_recall`.

    Attributes:
        precision: Share of fake samples in the real manifold, in [0, 1], a scalar or (B,).
        recall: Share of real samples in the fake manifold, the same.
    """

    precision: Tensor
    recall: Tensor


class DensityCoverage(NamedTuple):
    """The result of `density_coverage`.

    Attributes:
        density: Real balls around a fake sample over k, a scalar or (B,): >= 0, and 1 in
            expectation for equal distributions.
        coverage: Share of real balls that hold a fake sample, in [0, 1].
    """

    density: Tensor
    coverage: Tensor


class ManifoldScores(NamedTuple):
    """The result of `manifold_scores`.

    Attributes:
        precision: See `PrecisionRecall`.
        recall: The same.
        density: See `DensityCoverage`.
        coverage: The same.
    """

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


@told_options
def manifold_scores(real: Tensor, fake: Tensor, *, num_neighbors: int = 5) -> ManifoldScores:
    """Precision, recall, density and coverage at the price of precision and recall.

    See `precision_recall` and `density_coverage` for the definitions, cost and references.

    Args:
        real: Features (N, D) or (B, N, D), N > num_neighbors.
        fake: Features (M, D) or (B, M, D), M > num_neighbors.
        num_neighbors: k >= 1.

    Returns:
        The four scores.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a side has too few samples for k, or shapes do not match.
    """
    return ManifoldScores(*_scores(_all_scores, real, fake, num_neighbors, fake_balls=True))


@told_options
def precision_recall(real: Tensor, fake: Tensor, *, num_neighbors: int = 5) -> PrecisionRecall:
    """Share of fake inside the real manifold (precision), and the reverse (recall).

    A manifold is the union of balls around each sample that reach its k-th nearest neighbour, the
    sample itself excluded. The border, and ties within rounding, count as inside, so that repeated
    samples are covered. Time O((N + M)^2 D), memory O((N + M) D) and a block, in float64.

    Args:
        real: Features (N, D) or (B, N, D), N > num_neighbors.
        fake: Features (M, D) or (B, M, D), M > num_neighbors.
        num_neighbors: k >= 1. Kynkäänniemi et al. use 3, `prdc` 5.

    Returns:
        Precision and recall.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a side has too few samples for k, or shapes do not match.

    References:
        Kynkäänniemi et al., Improved precision and recall metric for assessing generative models,
        2019, equations (1) and (2). Differs from `prdc`, which counts the border as outside.

    Example:
        >>> x = torch.randn(30, 4)
        >>> precision_recall(x, x + 100.0).precision.item()
        0.0
    """
    scores = manifold_scores(real, fake, num_neighbors=num_neighbors)
    return PrecisionRecall(scores.precision, scores.recall)


@told_options
def density_coverage(real: Tensor, fake: Tensor, *, num_neighbors: int = 5) -> DensityCoverage:
    """Mean number of real balls around a fake sample over k, and share of balls that hold one.

    Both use balls around real samples only, so that outliers among the fake do no harm. For equal
    distributions density is 1 in expectation and coverage 1 - prod_{i=1..k} (N - i) / (M + N - i).
    Time and memory as `precision_recall`, without the distances among the fake.

    Args:
        real: Features (N, D) or (B, N, D), N > num_neighbors.
        fake: Features (M, D) or (B, M, D), M >= 1.
        num_neighbors: k >= 1.

    Returns:
        Density and coverage.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If `real` has too few samples for k, or shapes do not match.

    References:
        Naeem et al., Reliable fidelity and diversity metrics for generative models, 2020,
        equations (3), (5) and (9). Differs from `prdc`, which counts the border as outside.

    Example:
        >>> x = torch.randn(30, 4)
        >>> density_coverage(x, x).coverage.item()
        1.0
    """
    return DensityCoverage(*_scores(_density_coverage, real, fake, num_neighbors, fake_balls=False))


def _scores(
    of_problem: Callable[[Tensor, Tensor, int], Tensor],
    real: Tensor,
    fake: Tensor,
    num_neighbors: int,
    fake_balls: bool,
) -> Tensor:
    """Scores (S,) or (S, B) of what was given, computed in float64, in the dtype of the clouds.

    `fake_balls` says whether there are balls around fake samples too.
    """
    check_at_least("num_neighbors", num_neighbors, 1)
    real, fake = checked_clouds(real, fake)
    # A ball needs k other samples.
    with_balls = [("real", real), ("fake", fake)] if fake_balls else [("real", real)]
    for name, cloud in with_balls:
        if cloud.shape[-2] <= num_neighbors:
            raise ValueError(
                f"`{name}` must hold at least {num_neighbors + 1} samples for num_neighbors = "
                f"{num_neighbors}, got {cloud.shape[-2]}."
            )

    # Shares of counted samples have no gradient.
    batched = real.ndim == 3
    pairs = zip(real, fake, strict=True) if batched else [(real, fake)]
    with torch.no_grad():
        rows = [of_problem(x.double(), y.double(), num_neighbors) for x, y in pairs]
    return (torch.stack(rows, -1) if batched else rows[0]).to(real.dtype)


def _all_scores(real: Tensor, fake: Tensor, num_neighbors: int) -> Tensor:
    """The four scores of one problem."""
    real_hits, holds_fake, recalled = _inside(
        real, fake, _radii(real, num_neighbors), _radii(fake, num_neighbors)
    )
    precision, recall = (real_hits > 0).double().mean(), recalled.double().mean()
    density = real_hits.double().mean() / num_neighbors
    return torch.stack([precision, recall, density, holds_fake.double().mean()])


def _density_coverage(real: Tensor, fake: Tensor, num_neighbors: int) -> Tensor:
    """Density and coverage of one problem."""
    # No ball around a fake sample: the distances among them are never taken.
    nowhere = fake.new_full((len(fake),), -torch.inf)
    hits, holds_fake, _ = _inside(real, fake, _radii(real, num_neighbors), nowhere)
    return torch.stack([hits.double().mean() / num_neighbors, holds_fake.double().mean()])


def _inside(
    real: Tensor, fake: Tensor, real_radii: Tensor, fake_radii: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Real balls around each fake (M,), and per real: holds a fake, lies in a fake ball (N,)."""
    # Written into as blocks come: lists of what they give would keep malloc from reusing theirs.
    hits = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    holds, lies = (torch.zeros(len(real), dtype=torch.bool, device=real.device) for _ in range(2))

    near = _near(real, fake)
    errors_real = _errors(real_radii, near.lengths, real)
    errors_fake = _errors(fake_radii, near.norms, fake)
    for rows, squared, room in _blocks(real, fake, near):
        within = squared <= _widen(real_radii[rows], errors_real[rows], near.norms, room)
        hits += within.sum(0)
        holds[rows] = within.any(1)
        limits = _widen(fake_radii, errors_fake, near.lengths[rows], room.T).T
        lies[rows] = (squared <= limits).any(1)
    return hits, holds, lies


def _radii(cloud: Tensor, num_neighbors: int) -> Tensor:
    """Squared distance to the k-th nearest other point, widened by the error of its rounding."""
    radius = cloud.new_empty(len(cloud))
    near = _near(cloud, cloud)
    for rows, squared, _ in _blocks(cloud, cloud, near):
        # A sample is not its own neighbour.
        own = torch.arange(rows.start, rows.stop, device=cloud.device)
        squared[own - rows.start, own] = torch.inf
        radius[rows] = squared.topk(num_neighbors, dim=1, largest=False).values[:, -1]

    # The k-th neighbour z has |z|^2 <= 2 |x|^2 + 2 r^2, so that r^2 is off by 3 |x|^2 + 2 r^2
    # roundings. The fourth |x|^2 is the share of x in the distance that r^2 is compared with.
    widened = radius * (1 + 2 * _rounding(cloud.shape[1]))
    return widened + 4 * _errors(radius, near.lengths, cloud) * near.lengths


def pooled_distances(
    pool: Tensor, num_rows: int | None = None
) -> Iterator[tuple[slice, Tensor, Callable[[Tensor, Tensor], Tensor]]]:
    """Squared distances of the first points of a float64 pool (n, D) to all, in blocks of rows.

    With them what widens sorted distances (R, K) to points (R, K) by their rounding, so that ties
    count as inside. A point is infinitely far from itself.
    """
    near = _near(pool, pool)
    for rows, squared, _ in _blocks(pool[:num_rows], pool, near):
        own = torch.arange(rows.start, rows.stop, device=pool.device)
        squared[own - rows.start, own] = torch.inf
        lengths = near.lengths[rows, None]

        def widen(distances: Tensor, ids: Tensor, lengths: Tensor = lengths) -> Tensor:
            errors = _errors(distances, lengths, pool)
            norms = near.norms[ids].amax(1, keepdim=True)
            return distances * (1 + 2 * _rounding(pool.shape[1])) + errors * (4 * lengths + norms)

        yield rows, squared, widen


class _Near(NamedTuple):
    """Both clouds around the median of the first one, which no outlier moves, and |x|^2, |y|^2."""

    x: Tensor
    y: Tensor
    lengths: Tensor
    norms: Tensor


def _near(x: Tensor, y: Tensor) -> _Near:
    """Both clouds moved to where products of their points lose least."""
    centre = x.median(0).values
    near_x = x - centre
    near_y = near_x if y is x else y - centre
    return _Near(near_x, near_y, near_x.square().sum(1), near_y.square().sum(1))


def _blocks(x: Tensor, y: Tensor, near: _Near) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Squared distances in blocks of rows of x, in the same memory, and as much to work in."""
    rooms: tuple[Tensor, ...] = ()
    for rows in row_blocks(len(x), len(y)):
        rooms = rooms or tuple(x.new_empty(rows.stop, len(y)) for _ in range(2))
        squared, room = (room[: rows.stop - rows.start] for room in rooms)
        squares = near.lengths[rows], near.norms
        distances_by_product(near.x[rows], near.y, squares, out=squared)
        # From the points as they were given: moving them has rounded them.
        refine_cancelled(squared, x[rows], y, squares, share=_lost(x))
        yield rows, squared, room


def _rounding(dimension: int) -> float:
    """Relative error bound of a squared distance by matrix product, in units of |x|^2 + |y|^2."""
    return (dimension + 16) * torch.finfo(torch.float64).eps


def _lost(cloud: Tensor) -> float:
    """Squared distances up to this share of |x|^2 + |y|^2 come from differences."""
    return _BLURRED * _rounding(cloud.shape[1])


def _errors(radii: Tensor, lengths: Tensor, cloud: Tensor) -> Tensor:
    """Share of |y|^2 that distances to y near such radii may be off; none from differences are."""
    return _rounding(cloud.shape[1]) * (radii > _lost(cloud) * lengths)


def _widen(radii: Tensor, errors: Tensor, lengths: Tensor, room: Tensor) -> Tensor:
    """Radii (n,) with what rounding may add at points of squared lengths (m,), as (n, m)."""
    if bool((errors == errors[0]).all()):  # mostly so: one pass instead of two
        return torch.add(radii[:, None], errors[0] * lengths, out=room)
    return torch.mul(errors[:, None], lengths, out=room).add_(radii[:, None])
