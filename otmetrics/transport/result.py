"""What a transport solver returns, whichever method it uses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import as_tensor
from otmetrics.unknown_options import told_options


class TransportResult(NamedTuple):
    """The value of a transport problem and all that its solver knows about it.

    A field that a solver cannot fill is None, never a made-up number. With clouds of shape
    (B, N, D) every tensor has a leading dimension B.

    Attributes:
        value: The distance W_p, in the units of the features. Scalar or (B,).
        cost: The unrooted quantity: W_p^p, its mean over slices, or the Sinkhorn divergence.
        lower_bound: A certified lower bound on `cost`.
        upper_bound: A certified upper bound on `cost`.
        standard_error: Standard error of `value` over the random directions of the solver; it says
            nothing about the sampling of the data.
        direction_errors: What each of K independent blocks of random directions adds to the error
            of `cost`, (K,): their squares sum to the square of its standard error, those of the
            differences of two results along the same directions to that of the costs' difference.
        potentials: Dual potentials (f, g), of shapes (N,) and (M,).
        plan: Sparse COO tensor (N, M) of transported masses.
        num_iterations: Iterations of an iterative solver, the most of any problem in a batch.
        converged: Whether every problem reached the tolerance.
        message: One line for people: what was solved, or what to raise.
    """

    value: Tensor
    cost: Tensor
    lower_bound: Tensor | None = None
    upper_bound: Tensor | None = None
    standard_error: Tensor | None = None
    potentials: tuple[Tensor, Tensor] | None = None
    plan: Tensor | None = None
    num_iterations: int | None = None
    converged: bool = True
    message: str = ""
    direction_errors: Tensor | None = None

    @property
    def gap(self) -> Tensor | None:
        """Width of the interval that holds `cost`, `upper_bound - lower_bound`."""
        if self.lower_bound is None or self.upper_bound is None:
            return None
        return self.upper_bound - self.lower_bound

    @property
    def assignment(self) -> Tensor | None:
        """The fake point of each real one, (N,) or (B, N), where the plan pairs them one to one."""
        if self.plan is None or self.plan.shape[-1] != self.plan.shape[-2]:
            return None

        plan = self.plan.coalesce()
        size = plan.shape[:-1]
        *_, rows, columns = plan.indices()
        if len(rows) != size.numel():
            return None

        rows, columns = rows.view(size), columns.view(size)
        everyone = torch.arange(size[-1], device=rows.device).expand(size)
        if not (torch.equal(rows, everyone) and torch.equal(columns.sort(-1).values, everyone)):
            return None
        return columns


def root(cost: Tensor, order: float) -> Tensor:
    """The p-th root of costs of any shape, 0 with gradient 0 where a cost is not positive."""
    if order == 1:
        return cost.clamp_min(0)
    # The power has no finite slope at 0, and infinity times a derivative of 0 would be NaN.
    zero = cost <= 0  # NaN is none, and stays
    return torch.where(zero, 0.0, torch.where(zero, 1.0, cost).pow(1 / order))


def outward(lower: Tensor, upper: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Round float64 bounds to another dtype so that they still enclose what they enclosed.

    That makes them at most two units in the last place wider.
    """
    if dtype == torch.float64:
        return lower, upper
    infinity = torch.tensor(torch.inf, dtype=dtype, device=lower.device)
    return lower.to(dtype).nextafter(-infinity), upper.to(dtype).nextafter(infinity)


def fieldwise(work: Callable[[list[Tensor]], Tensor], results: list[Any]) -> Any:
    """What work makes of each tensor of several results; all else is that of the first one."""

    def made(values: list[Any]) -> Any:
        if isinstance(values[0], tuple):
            return tuple(made(list(side)) for side in zip(*values, strict=True))
        return work(values) if isinstance(values[0], Tensor) else values[0]

    # All results of one solver have the same fields.
    return type(results[0])(*(made(list(field)) for field in zip(*results, strict=True)))


def stack_results(results: list[TransportResult]) -> TransportResult:
    """The results of B problems of one size as one result with a leading dimension B."""
    whole: TransportResult = fieldwise(torch.stack, results)
    iterations = [one.num_iterations for one in results if one.num_iterations is not None]
    failed = [one for one in results if not one.converged]
    return whole._replace(
        num_iterations=max(iterations, default=None),
        converged=not failed,
        message=(failed or results)[0].message,
    )


@told_options
def barycentric_projection(plan: Tensor, fake: Tensor) -> Tensor:
    """Where a plan sends each real point on average: T(x_i) = sum_j P_ij y_j / sum_j P_ij.

    For squared costs the map is a gradient of a convex function on the real points where it is
    single-valued (Brenier, 1991).

    Args:
        plan: Plan (N, M), sparse or dense, as `Exact().solve(real, fake).plan`.
        fake: Features (M, D) in a floating dtype.

    Returns:
        Points (N, D) in the dtype of `fake`; differentiable in `fake`. Time O(K D), K the number of
        pairs in the plan.

    Raises:
        TypeError: If an argument is not a tensor, or `fake` not a floating one.
        ValueError: If shapes differ, or the plan moves nothing from some point.

    Example:
        >>> from otmetrics import Exact
        >>> real, fake = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [1.0]])
        >>> barycentric_projection(Exact().solve(real, fake).plan, fake)
        tensor([[1.],
                [3.]])
    """
    plan, fake = as_tensor("plan", plan, sparse=True), as_tensor("fake", fake, floating=True)
    if plan.ndim != 2 or fake.ndim != 2 or plan.shape[1] != len(fake):
        raise ValueError(
            "`plan` must be (N, M) and `fake` (M, D), "
            f"got {tuple(plan.shape)} and {tuple(fake.shape)}."
        )

    sparse = (plan if plan.is_sparse else plan.to_sparse()).coalesce()
    rows, columns = sparse.indices()
    masses = sparse.values().double()
    # In float64, whatever the plan and the points are in: masses of 1/N add up to 1.
    totals = masses.new_zeros(len(plan)).index_add_(0, rows, masses)
    if not (totals > 0).all():
        nothing = (totals <= 0).nonzero().squeeze(1)
        raise ValueError(
            f"`plan` must move mass from every real point, got none from {len(nothing)} of them, "
            f"first from number {int(nothing[0])}: leave out points without weight."
        )

    shares = (masses / totals[rows])[:, None]
    moved = shares * fake.double()[columns]
    return moved.new_zeros(len(plan), fake.shape[1]).index_add(0, rows, moved).to(fake.dtype)
