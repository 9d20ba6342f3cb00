"""The extended map of semi-discrete transport: between the points, but not across its breaks."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from otmetrics.checks import (
    as_tensor,
    check_at_least,
    check_not_negative,
    checked_cloud,
    checked_generator,
    checked_heights,
    checked_samples,
    filled_weights,
)
from otmetrics.machine import ieee_float32
from otmetrics.transport.costs import row_blocks
from otmetrics.transport.semidiscrete.heights import block_bytes, highest_faces
from otmetrics.transport.semidiscrete.sources import check_source, standardise
from otmetrics.unknown_options import ToldOptions, options_of, told_options

RULES = ("two-face", "inverse-distance")
"""How the points of a sample's faces are mixed."""

_NORMALS = 2**26  # bytes of normals at a time, unless the caller says otherwise


@dataclass(frozen=True)
class ExtendedOptions(ToldOptions):
    """Options of `extended_map`.

    Attributes:
        source: The source of the samples: "cube", "ball" or "gaussian".
        num_faces: k, at most M of which are looked at.
        rule: "two-face" or "inverse-distance".
        share: r of "two-face" in (0, 1]; 0 draws r uniformly for each sample.
        memory_limit: Bytes of a block of scores and of one of normals; None for 4 and 64 MiB.
    """

    source: str = "cube"
    num_faces: int = 20
    rule: str = "two-face"
    share: float = 0.0
    memory_limit: float | None = None

    def __post_init__(self) -> None:
        check_source(self.source)
        check_at_least("num_faces", self.num_faces, 2)
        if self.rule not in RULES:
            raise ValueError(f"`rule` must be one of {', '.join(RULES)}, got {self.rule!r}.")
        check_not_negative("share", self.share)
        if self.share > 1:
            raise ValueError(f"`share` must be at most 1, got {self.share!r}.")
        if self.share and self.rule != "two-face":
            raise ValueError(f"`share` must be 0 for {self.rule}, got {self.share!r}.")
        block_bytes(self.memory_limit)


class ExtendedMap(NamedTuple):
    """Where N samples of the source go, beyond the M points themselves.

    Attributes:
        codes: T(x) of the samples that are kept (n, D), in order.
        kept: Which samples are, (N,).
        faces: Their faces (n, k), their own cell first, then as their planes are high at x.
        shares: Of their points in T(x), (n, k), each row summing to one; 0 beyond the angle.
        angles: Between the two highest faces of every sample, in radians, (N,).
    """

    codes: Tensor
    kept: Tensor
    faces: Tensor
    shares: Tensor
    angles: Tensor


@torch.no_grad()
@options_of(ExtendedOptions)
def extended_map(
    samples: Tensor,
    points: Tensor,
    heights: Tensor,
    *,
    centres: Tensor | None = None,
    max_angle: float | Tensor = 0.0,
    normals: Tensor | None = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> ExtendedMap:
    """The map of AE-OT: samples go between the points of neighbouring cells.

    A Brenier potential u(x) = max_i <x, p_i> + h_i sends x to the point of its own, highest face
    i_0. Faces i_0, i_k meet at the angle between their normals (p_i, -1), which is large where the
    transport map breaks: there, in the singular set, what lies between the points lies between
    parts of the distribution. Of the `num_faces` highest faces at x those within `max_angle` of the
    own one are kept; x is rejected if none is but the own. Then

    - "two-face": T(x) = (1 - r) p_{i_0} + r p_{i_k} for the highest face i_k that is kept;
    - "inverse-distance": T(x) is the mean of the points of all kept faces, each weighed by one over
      the distance of x to the centre of its cell.

    Angles are those of points that have the mean and the second moment of the source, so that they
    do not depend on units. Time O(N M D), memory O(N (k + D) + M D) and blocks.

    Args:
        samples: Samples x of the source (N, D).
        points: Points p (M, D).
        heights: Heights h (M,) of the result of `SemiDiscrete`.
        centres: Its centres (M, D), for "inverse-distance"; faces of empty cells are not kept.
        max_angle: In radians, one for all or one for each own face (M,); the number 0 keeps all
            angles, and all samples. Multiples of `neighbour_angles` about 1 suit.
        normals: The `face_normals` of the points, for many maps of the same ones.
        generator: CPU generator of uniform r; None seeds one with 0.
        **options: The fields of `ExtendedOptions`: `source`, `num_faces`, `rule`, `share`,
            `memory_limit`.

    Returns:
        The codes, and which samples they are of.

    Raises:
        TypeError: If samples or points are not floating tensors.
        ValueError: If a shape or an option breaks its rule, there is one point only, or "inverse-
            distance" has no centres.

    References:
        An, Guo, Lei, Luo, Yau, Gu, AE-OT: a new generative model based on extended semi-discrete
        optimal transport, 2020, section 3 (the angle; inverse distances); the authors' code mixes
        two faces. Ours: the highest faces stand for the nearest centres, in both rules.

    Example:
        >>> from otmetrics import SemiDiscrete
        >>> points = torch.tensor([[0.0], [1.0], [5.0]])
        >>> result = SemiDiscrete().solve(points)
        >>> x = torch.tensor([[-0.2], [0.17]])
        >>> extended_map(x, points, result.heights, max_angle=0.5, share=0.5).codes
        tensor([[0.5000]])
    """
    chosen = ExtendedOptions(**options)
    samples, points = checked_samples(samples, _checked_points(points))
    heights = checked_heights(heights, points)
    limits = _angle_limits(max_angle, points)
    centres = None if centres is None else as_tensor("centres", centres)
    if chosen.rule == "inverse-distance" and (centres is None or centres.shape != points.shape):
        raise ValueError(f"`centres` must have shape {tuple(points.shape)} for inverse distances.")
    if normals is None:
        normals = face_normals(points, source=chosen.source)
    normals = as_tensor("normals", normals)
    if normals.shape != (len(points), points.shape[1] + 1):
        raise ValueError(f"`normals` must be those of `points`, got shape {tuple(normals.shape)}.")

    # Drawn for all samples at once, so that blocks of any size give the same map.
    generator = checked_generator(generator, torch.Generator().manual_seed(0))
    drawn = torch.rand(len(samples), 1, dtype=torch.float64, generator=generator)
    if chosen.share:
        drawn.fill_(chosen.share)
    drawn = drawn.to(points.device)

    num_faces, block = min(chosen.num_faces, len(points)), block_bytes(chosen.memory_limit)
    numbers = chosen.num_faces * (points.shape[1] + 1)  # in the normals of one sample
    parts = []
    limit = block_bytes(chosen.memory_limit, _NORMALS)
    for rows in row_blocks(len(samples), numbers, limit // 8):
        faces = highest_faces(samples[rows], points, heights, num_faces, block)
        angles = _angles(normals[faces[:, :1]], normals[faces])
        within = angles <= limits[faces[:, :1]]
        within[:, 0] = True  # the own face, whatever rounding says of its angle
        if centres is None or chosen.rule == "two-face":
            mixed = _two_faces(within, drawn[rows])
        else:
            mixed = _inverse_distances(samples[rows], centres.to(points)[faces], within)

        # Samples that have nothing but their own point are near a break.
        kept = (mixed[:, 1:] > 0).any(1)
        mixed, faces = mixed[kept].to(points.dtype), faces[kept]
        with ieee_float32(points.device):
            codes = torch.einsum("nk,nkd->nd", mixed, points[faces])
        parts.append(ExtendedMap(codes, kept, faces, mixed, angles[:, 1]))
    return ExtendedMap(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def face_normals(points: Tensor, *, source: str = "cube") -> Tensor:
    """Unit normals (M, D + 1) in float64 of the planes over points in the units of the source."""
    check_source(source)
    points = _checked_points(points)
    weights = filled_weights("weights", None, points)
    unit, _, _ = standardise(points.double(), weights, source)
    normals = torch.cat([unit, -unit.new_ones(len(unit), 1)], 1)
    return torch.nn.functional.normalize(normals, dim=1)


@torch.no_grad()
@told_options
def neighbour_angles(
    points: Tensor,
    *,
    num_neighbors: int = 5,
    source: str = "cube",
    memory_limit: float | None = None,
) -> Tensor:
    """The angle of each face with the k-th nearest of the others, the scale of `max_angle`.

    A limit for each face keeps parts of a distribution that are spread out, which one limit for all
    rejects more often than dense ones. Time O(M^2 D), memory O(M k D) and blocks.

    Args:
        points: Points (M, D), M >= 2.
        num_neighbors: k, self excluded; at most M - 1 of them are counted.
        source: The source they are transported from.
        memory_limit: Bytes of a block; None for 4 MiB.

    Returns:
        Angles (M,) in radians, float64; 0 where k others are equal.

    Raises:
        TypeError: If the points are not a floating tensor.
        ValueError: If there is one point only, or an option breaks its rule.
    """
    check_at_least("num_neighbors", num_neighbors, 1)
    block = block_bytes(memory_limit)
    points = _checked_points(points)
    normals = face_normals(points, source=source)
    num_neighbors = min(num_neighbors, len(points) - 1)

    found = []
    for rows in row_blocks(len(points), len(points), block // 8):
        part = normals[rows]
        cosines = part @ normals.T
        cosines.diagonal(rows.start).fill_(-2.0)  # a face is not a neighbour of itself
        nearest = cosines.topk(num_neighbors, 1).indices[:, -1]
        found.append(_angles(part, normals[nearest]))
    return torch.cat(found)


def _checked_points(points: Tensor) -> Tensor:
    """Points that have neighbours."""
    points = checked_cloud("points", points)
    if len(points) < 2:
        raise ValueError(f"`points` must have shape (M, D) with M >= 2, got {tuple(points.shape)}.")
    return points


def _angle_limits(max_angle: float | Tensor, points: Tensor) -> Tensor:
    """The largest angle of each face (M,) in float64."""
    shape = points.shape[:1]
    if isinstance(max_angle, np.ndarray):
        max_angle = as_tensor("max_angle", max_angle)
    if not isinstance(max_angle, Tensor):
        check_not_negative("max_angle", max_angle)
        return points.new_full(shape, max_angle or math.inf, dtype=torch.float64)
    if max_angle.shape != shape or not (max_angle >= 0).all():
        raise ValueError(
            f"`max_angle` must be a number or have shape ({len(points)},), each >= 0, got shape "
            f"{tuple(max_angle.shape)}."
        )
    return max_angle.to(points.device, torch.float64)


def _angles(first: Tensor, second: Tensor) -> Tensor:
    """Angles of unit vectors (..., D); of small ones a cosine would have no digits left."""
    apart, together = (first - second).norm(dim=-1), (first + second).norm(dim=-1)
    return 2 * torch.atan2(apart, together)


def _two_faces(within: Tensor, shares: Tensor) -> Tensor:
    """Shares of the own face and of the highest other one within the angle."""
    others = within[:, 1:]
    chosen = others & (others.cumsum(1) == 1)
    part = chosen.double() * shares
    return torch.cat([1 - part.sum(1, keepdim=True), part], 1)


def _inverse_distances(samples: Tensor, centres: Tensor, within: Tensor) -> Tensor:
    """Shares in inverse proportion to distances; a sample at a centre has its point."""
    distances = (samples[:, None] - centres).double().norm(dim=2)
    inverse = (1 / distances.clamp_min(1e-12)).nan_to_num(0.0) * within  # NaN: an empty cell
    return inverse / inverse.sum(1, keepdim=True)
