"""Potentials to start an exact solver from, by a few steps of Sinkhorn."""

import torch
from torch import Tensor

from otmetrics.functional.pairs import MatrixPairs, Pairs, block_room, blocks

_COARSE, _LEAST = 1500, 300  # points a side of the first, smaller problem, half of all
_WIDEST, _FINEST, _STEPS, _REPEATS = 2.0, 0.05, 8, 2  # epsilon, in standard deviations of the cost
_FAINT = 1e-30  # weights below it count as much


def near_potentials(pairs: Pairs, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Potentials near the optimal ones: Sinkhorn on some points, then once on all.

    Args:
        pairs: Costs (N, M).
        a: Positive weights (N,) of sum 1.
        b: Positive weights (M,) of sum 1.

    Returns:
        f (N,) and g (M,) in float64, which some pairs overprice.
    """
    generator = torch.Generator().manual_seed(0)
    rows, columns = (
        torch.randperm(size, generator=generator)[: min(_COARSE, max(_LEAST, size // 2))]
        for size in pairs.shape
    )
    rows, columns = rows.to(pairs.device), columns.to(pairs.device)
    strip = pairs.part(rows, torch.arange(pairs.shape[1], device=pairs.device))
    part = strip[:, columns]
    coarse = MatrixPairs(part)
    a, b = (side.to(part.dtype).clamp_min(_FAINT) for side in (a, b))
    weights = a[rows] / a[rows].sum(), b[columns] / b[columns].sum()
    g, deviation = part.new_zeros(len(columns)), float(part.std()) or 1.0
    for step in range(_STEPS):
        epsilon = deviation * _WIDEST * (_FINEST / _WIDEST) ** (step / (_STEPS - 1))
        for _ in range(_REPEATS if step == _STEPS - 1 else 1):
            f, g = _sinkhorn_step(coarse, g, *weights, epsilon)
    g, _ = _sinkhorn_step(MatrixPairs(strip.T), f, b, weights[0], epsilon)
    f, g = _sinkhorn_step(pairs, g, a, b, epsilon)
    return f.double(), g.double()


def _sinkhorn_step(
    pairs: Pairs, g: Tensor, a: Tensor, b: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """One Sinkhorn iteration on all pairs, the kernel computed once for both of its halves."""
    columns = torch.zeros_like(g)
    potentials, room = [], block_room(pairs)
    for rows in blocks(pairs):
        block = pairs.block(rows)
        kernel = torch.sub(g, block, out=room[: len(block)]).div_(epsilon)
        top = kernel.amax(1)
        # Below e^-80 nothing counts, and underflow is a hundred times slower.
        kernel.sub_(top[:, None]).clamp_(min=-80).exp_()
        sums = kernel @ b
        potentials.append(-epsilon * (top + sums.log()))
        columns += (a[rows] / sums) @ kernel
    tiny = torch.finfo(g.dtype).tiny
    return torch.cat(potentials), g - epsilon * columns.clamp_min(tiny).log()
