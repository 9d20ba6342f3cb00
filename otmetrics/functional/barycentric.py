"""The map that a plan stands for."""

from torch import Tensor

from otmetrics.functional.checks import as_tensor
from otmetrics.functional.option_names import told_options


@told_options
def barycentric_projection(plan: Tensor, fake: Tensor) -> Tensor:
    """Where a plan sends each real point on average: T(x_i) = sum_j P_ij y_j / sum_j P_ij.

    For squared costs the map is a gradient of a convex function on the real points where it is
    single-valued (Brenier, 1991).

    Args:
        plan: Plan (N, M), sparse or dense, as `exact_result(real, fake).plan`.
        fake: Features (M, D) in a floating dtype.

    Returns:
        Points (N, D) in the dtype of `fake`; differentiable in `fake`. Time O(K D), K the number of
        pairs in the plan.

    Raises:
        TypeError: If an argument is not a tensor, or `fake` not a floating one.
        ValueError: If shapes differ, or the plan moves nothing from some point.

    Example:
        >>> from otmetrics.functional import exact_result
        >>> real, fake = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [1.0]])
        >>> barycentric_projection(exact_result(real, fake).plan, fake)
        tensor([[1.],
                [3.]])
    """
    plan, fake = as_tensor("plan", plan, sparse=True), as_tensor("fake", fake)
    if not fake.is_floating_point():
        raise TypeError(f"`fake` must be floating, got {fake.dtype}: convert it first.")
    if plan.ndim != 2 or fake.ndim != 2 or plan.shape[1] != len(fake):
        raise ValueError(
            "`plan` must be (N, M) and `fake` (M, D), "
            f"got {tuple(plan.shape)} and {tuple(fake.shape)}."
        )
    sparse = (plan if plan.is_sparse else plan.to_sparse()).coalesce()
    rows, columns = sparse.indices()
    masses = sparse.values().double()
    totals = masses.new_zeros(len(plan)).index_add_(0, rows, masses)
    if not (totals > 0).all():
        nothing = (totals <= 0).nonzero().squeeze(1)
        raise ValueError(
            f"`plan` must move mass from every real point, got none from {len(nothing)} of them, "
            f"the first {int(nothing[0])}: leave out points without weight."
        )
    shares = (masses / totals[rows])[:, None]
    moved = shares * fake.double()[columns]
    return moved.new_zeros(len(plan), fake.shape[1]).index_add(0, rows, moved).to(fake.dtype)
