"""Naive, independent answers in numpy and scipy: slow, short, sharing nothing with the library."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from scipy.linalg import sqrtm
from scipy.optimize import linprog


def uniform(size: int) -> np.ndarray:
    return np.full(size, 1 / size)


def costs(real: np.ndarray, fake: np.ndarray, order: float) -> np.ndarray:
    """|x_i - y_j|^p from differences, so nothing cancels."""
    return np.linalg.norm(real[:, None] - fake[None], axis=-1) ** order


def transport(
    cost: np.ndarray, a: np.ndarray | None = None, b: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Optimal cost and plan by linear programming (HiGHS)."""
    n, m = cost.shape
    a, b = uniform(n) if a is None else a, uniform(m) if b is None else b
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    # One constraint is implied by the others; without it rounding cannot make them contradict.
    solution = linprog(
        cost.ravel(),
        A_eq=np.vstack([rows, columns])[:-1],
        b_eq=np.concatenate([a / a.sum(), b / b.sum()])[:-1],
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    assert solution.status == 0, solution.message
    return float(solution.fun), solution.x.reshape(n, m)


def log_sum_exp(exponents: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """log sum_j w_j exp(e_ij); scipy's takes ten times as long on a few numbers."""
    largest = exponents.max(1)
    return largest + np.log(np.exp(exponents - largest[:, None]) @ weights)


def entropic(
    cost: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    epsilon: float,
    iterations: int = 20_000,
) -> tuple[float, np.ndarray]:
    """<P, C> + epsilon KL(P | a x b) and P, by log-domain updates in turn."""
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(iterations):
        f = -epsilon * log_sum_exp((g - cost) / epsilon, b)
        g = -epsilon * log_sum_exp((f[:, None] - cost).T / epsilon, a)
        plan = np.exp((f[:, None] + g - cost) / epsilon) * np.outer(a, b)
        if np.abs(plan.sum(1) - a).sum() < 1e-12:
            break
    inside = plan > 0
    divergence = (plan[inside] * np.log(plan[inside] / np.outer(a, b)[inside])).sum()
    return float((plan * cost).sum() + epsilon * (divergence - plan.sum() + 1)), plan


def sinkhorn_divergence(real: np.ndarray, fake: np.ndarray, order: float, epsilon: float) -> float:
    """Cross term minus half of both self terms."""
    pairs = [(real, fake), (real, real), (fake, fake)]
    cross, self_real, self_fake = (
        entropic(costs(x, y, order), uniform(len(x)), uniform(len(y)), epsilon)[0] for x, y in pairs
    )
    return cross - (self_real + self_fake) / 2


def univariate(
    real: np.ndarray,
    fake: np.ndarray,
    order: float,
    a: np.ndarray | None = None,
    b: np.ndarray | None = None,
) -> float:
    """W_p^p on the line: walk up both cumulative weights, in exact fractions; pair what meets."""

    def masses(values: np.ndarray, weights: np.ndarray | None) -> list[tuple[float, Fraction]]:
        parts = [Fraction(1)] * len(values) if weights is None else [Fraction(w) for w in weights]
        total = sum(parts)
        return sorted((float(v), w / total) for v, w in zip(values, parts, strict=True) if w > 0)

    left, right = masses(real, a), masses(fake, b)
    total, i, j = 0.0, 0, 0
    (x, mass_x), (y, mass_y) = left[0], right[0]
    while True:
        moved = min(mass_x, mass_y)
        total += float(moved) * abs(x - y) ** order
        mass_x, mass_y = mass_x - moved, mass_y - moved
        if mass_x == 0:
            i += 1
            if i == len(left):
                return total
            x, mass_x = left[i]
        if mass_y == 0:
            j += 1
            if j == len(right):
                return total
            y, mass_y = right[j]


def frechet(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """The formula as printed, with scipy's matrix square root; needs covariances of full rank."""
    root = sqrtm(covariance_a)
    middle = sqrtm(root @ covariance_b @ root)
    shift = ((mean_a - mean_b) ** 2).sum()
    return float(shift + np.trace(covariance_a + covariance_b - 2 * middle).real)


def mmd(
    real: np.ndarray, fake: np.ndarray, kernel: Callable[[np.ndarray, np.ndarray], float]
) -> float:
    """Unbiased MMD^2 by double loops."""
    n, m = len(real), len(fake)
    within_real = [kernel(real[i], real[j]) for i in range(n) for j in range(n) if i != j]
    within_fake = [kernel(fake[i], fake[j]) for i in range(m) for j in range(m) if i != j]
    across = [kernel(x, y) for x in real for y in fake]
    return float(np.mean(within_real) + np.mean(within_fake) - 2 * np.mean(across))


def radii(cloud: np.ndarray, k: int) -> list[float]:
    """Distance of each point to its k-th nearest other point."""
    return [
        sorted(float(np.linalg.norm(x - y)) for j, y in enumerate(cloud) if j != i)[k - 1]
        for i, x in enumerate(cloud)
    ]


def manifold(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage by double loops; the border is inside."""
    real_radii, fake_radii = radii(real, k), radii(fake, k)
    distance = [[float(np.linalg.norm(x - y)) for y in fake] for x in real]
    rows, columns = range(len(real)), range(len(fake))
    inside = [[distance[i][j] <= real_radii[i] for j in columns] for i in rows]
    precision = np.mean([any(inside[i][j] for i in rows) for j in columns])
    recall = np.mean([any(distance[i][j] <= fake_radii[j] for j in columns) for i in rows])
    density = np.mean([sum(inside[i][j] for i in rows) for j in columns]) / k
    coverage = np.mean([any(inside[i][j] for j in columns) for i in rows])
    return float(precision), float(recall), float(density), float(coverage)


def power_areas(points: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Areas of {x: <x, p_i> + h_i largest} in [-1/2, 1/2]^2, the square cut by each half-plane."""
    areas = []
    for i, point in enumerate(points):
        polygon = [np.array(corner) / 2 for corner in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        for j, other in enumerate(points):
            if j != i:
                sides = [x @ (point - other) + heights[i] - heights[j] for x in polygon]
                polygon = _cut(polygon, sides)
        edges = zip(polygon, polygon[1:] + polygon[:1], strict=True)
        areas.append(sum(a[0] * b[1] - a[1] * b[0] for a, b in edges) / 2)
    return np.array(areas)


def _cut(polygon: list[np.ndarray], sides: list[float]) -> list[np.ndarray]:
    """The part of a convex polygon where a linear function, known at its corners, is >= 0."""
    kept = []
    for k, corner in enumerate(polygon):
        after, side, next_side = (
            polygon[(k + 1) % len(polygon)],
            sides[k],
            sides[(k + 1) % len(sides)],
        )
        if side >= 0:
            kept.append(corner)
        if side * next_side < 0:
            kept.append(corner + (after - corner) * side / (side - next_side))
    return kept


def face_angles(points: np.ndarray, moment: float) -> np.ndarray:
    """Angles (M, M) between the planes <x, p> of points in units of mean 0 and a second moment."""
    centred = points - points.mean(0)
    unit = centred / math.sqrt((centred**2).sum(1).mean() / moment)
    angles = np.empty((len(unit), len(unit)))
    for i, one in enumerate(unit):
        for j, two in enumerate(unit):
            cosine = (one @ two + 1) / math.sqrt((one @ one + 1) * (two @ two + 1))
            angles[i, j] = math.acos(min(1.0, cosine))
    return angles


def extended_map(
    samples: np.ndarray,
    points: np.ndarray,
    heights: np.ndarray,
    centres: np.ndarray,
    *,
    moment: float,
    rule: str,
    max_angle: float,
    num_faces: int,
    share: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes of the samples that are kept, which they are, and angles of the two highest faces."""
    whole = face_angles(points, moment)
    codes, kept, angles = [], [], []
    for x in samples:
        order = np.argsort(-(points @ x + heights))[:num_faces]
        near = [i for i in order if whole[order[0], i] <= max_angle]
        angles.append(whole[order[0], order[1]])
        kept.append(len(near) > 1)
        if not kept[-1]:
            continue
        if rule == "two-face":
            codes.append((1 - share) * points[near[0]] + share * points[near[1]])
        else:
            inverse = np.array([1 / np.linalg.norm(x - centres[i]) for i in near])
            codes.append(inverse @ points[near] / inverse.sum())
    return np.array(codes), np.array(kept), np.array(angles)
