"""Which noise sample goes with which data sample: couplings for flow matching."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import (
    as_tensor,
    check_positive,
    check_seed,
    checked_cloud,
    checked_heights,
)
from otmetrics.machine import ieee_float32
from otmetrics.transport.costs import centre_clouds, mean_squared_distance, row_blocks
from otmetrics.transport.exact.exact import Exact
from otmetrics.transport.exact.small import assigned_columns
from otmetrics.transport.semidiscrete.heights import laguerre_cells
from otmetrics.transport.semidiscrete.semidiscrete import SemiDiscrete, SemiDiscreteResult
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
from otmetrics.unknown_options import told_options

_DENSE = 1200  # samples up to which all costs at once, without a proof, are fastest


class Coupling(NamedTuple):
    """Pairs of samples: `noise[coupled.noise]` goes with `data[coupled.data]`, row by row.

    Attributes:
        noise: Indices (N,) into the noise, int64: each of its samples once, in order.
        data: Indices (N,) into the data.
    """

    noise: Tensor
    data: Tensor


@torch.no_grad()
@told_options
def coupling(
    noise: Tensor,
    data: Tensor,
    *,
    solver: Exact | Sinkhorn | Tensor = Exact(tolerance=1e-9),
    condition: Tensor | None = None,
    noise_condition: Tensor | None = None,
    condition_weight: float | None = None,
    seed: int = 0,
) -> Coupling:
    """Pair noise with data by optimal transport of squared distances, for flow matching.

    Every noise sample gets one data sample, so that what a flow starts from in training keeps its
    distribution exactly. How often a data sample is chosen depends on the solver:

    - `Exact(...)`: as many data as noise samples are paired one to one. Else each noise sample
      draws from its row of the optimal plan, and a data sample is chosen N / M times on average.
    - `Sinkhorn(epsilon=...)`: each noise sample draws from its row of the entropic plan. A data
      sample is chosen N / M times on average, up to the solver's `tolerance`; the number varies,
      less than that of independent draws, and with equal numbers some samples are left out.
    - Heights (M,) of `SemiDiscrete(source="gaussian").solve(data)`, solved once for the whole data
      set: each noise sample goes to the point whose cell it lies in. Pairs do not depend on the
      batch; a data sample is chosen as often as its cell is large, its `volumes`. Of equal data
      samples the first one is taken.

    A model that is given a condition needs pairs within conditions. Pairs that ignore it make the
    noise depend on the condition, while generation draws noise that does not.

    Args:
        noise: Samples (N, D) or (N, C, H, W) of the source.
        data: Samples (M, D) or (M, C, H, W).
        solver: `Exact`, `Sinkhorn`, both of order 2, or heights (M,).
        condition: Of the data. Labels (M,), integers or bools: pairs within labels. Numbers (M,) or
            (M, K), floating: |c - c'|^2 times `condition_weight` is added to the cost.
        noise_condition: The same of the noise; None where both have as many samples, and noise
            sample i is to have the condition of data sample i.
        condition_weight: Weight > 0 of conditions that are numbers. The larger it is, the less
            noise depends on the condition, and the less its pairs differ from independent ones.
        seed: Decides all draws; another one for each batch, such as the number of the step. Not
            needed for pairs one to one and heights.

    Returns:
        Indices on the device of the noise, without a graph. Products are computed in the dtype of
        the samples, float32 at least. Time O(N M D) and that of the solver, whose `memory_limit`
        holds; beyond it memory is O(N D + M D), and 4 N M bytes for `Exact` on few points. Labels
        divide N and M by their number.

    Raises:
        TypeError: If samples are not floating tensors, or the solver is none of these.
        ValueError: If a shape, a condition or an option breaks its rule, or some noise has a label
            that no data sample has.

    Warns:
        ConvergenceWarning: If the solver stops before its tolerance.

    References:
        Pooladian et al., Multisample flow matching: straightening flows with minibatch couplings,
        2023; Tong et al., Improving and generalizing flow-based generative models with minibatch
        optimal transport, 2024; Cheng, Schwing, The curse of conditions: analyzing and improving
        optimal transport for conditional flow-based generation, 2025 (labels and
        `condition_weight`); Mousavi-Hosseini et al., Flow matching with semidiscrete couplings,
        2025 (heights).

    Example:
        >>> noise, data = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [1.0]])
        >>> coupling(noise, data)
        Coupling(noise=tensor([0, 1]), data=tensor([1, 0]))
    """
    check_seed(seed)
    x, y = _checked_samples(noise, data)
    given = condition, noise_condition, condition_weight
    conditions = _checked_conditions(x, y, *given)
    labelled = conditions is not None and not conditions[0].is_floating_point()
    _check_solver(solver, labelled or conditions is None)
    if isinstance(solver, Tensor):
        solver = checked_heights(solver, y).to(y.device)

    # Drawn for all at once, so that labels do not change what a sample draws.
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(len(x), generator=generator, dtype=torch.float64).to(x.device)
    everyone = torch.arange(len(x), device=x.device)
    if conditions is None:
        return Coupling(everyone, _paired(solver, x, y, uniform))
    if not labelled:
        x, y = (torch.cat(side, 1) for side in zip((x, y), conditions, strict=True))
        return Coupling(everyone, _paired(solver, x, y, uniform))

    found = torch.empty_like(everyone)
    for rows, columns in _groups(*conditions):
        own = solver[columns] if isinstance(solver, Tensor) else solver
        found[rows] = columns[_paired(own, x[rows], y[columns], uniform[rows])]
    return Coupling(everyone, found)


def _paired(solver: Exact | Sinkhorn | Tensor, x: Tensor, y: Tensor, uniform: Tensor) -> Tensor:
    """The data sample of each noise sample (N,), by a number (N,) in [0, 1) where it is drawn."""
    if isinstance(solver, Exact):
        return _exact_pairs(solver, x, y, uniform)
    if isinstance(solver, Sinkhorn):
        return _entropic_pairs(solver, x, y, uniform)
    return laguerre_cells(x, y, solver)


def _exact_pairs(solver: Exact, x: Tensor, y: Tensor, uniform: Tensor) -> Tensor:
    """The optimal assignment (N,), or draws from the rows of the optimal plan."""
    # A shift adds the same to the cost of every plan: without it the tolerance is that of the rest.
    x, y = x - x.mean(0), y - y.mean(0)
    if len(x) == len(y) and len(x) <= _DENSE:
        # And so do |x|^2 and |y|^2.
        with ieee_float32(x.device):
            return assigned_columns(-(x @ y.T))

    result = solver.solve(x, y)
    if result.assignment is not None:
        return result.assignment
    assert result.plan is not None
    plan = result.plan.coalesce()
    rows, columns = plan.indices()
    masses = plan.values().double().cumsum(0)

    # Rows lie one behind the other on [0, 1], each as long as its mass.
    ends = rows.bincount(minlength=len(x)).cumsum(0)
    after = masses[ends - 1]
    before = torch.cat([after.new_zeros(1), after[:-1]])
    places = torch.searchsorted(masses, before + uniform * (after - before), right=True)
    return columns[places.minimum(ends - 1)]


def _entropic_pairs(solver: Sinkhorn, x: Tensor, y: Tensor, uniform: Tensor) -> Tensor:
    """A draw from each row of the entropic plan, whose rows are made a block at a time."""
    x, y = centre_clouds(x, y)
    _, (_, g) = solver.solve_from(x, y, debiased=False)
    squares = y.square().sum(1, dtype=torch.float64)
    epsilon = solver.epsilon
    if solver.relative:
        epsilon *= mean_squared_distance(x, y) or 1.0

    # Of g_j - |x - y_j|^2 a row of the plan keeps what depends on j, 2 (<x, y_j> + h_j).
    heights, found = ((g[0] - squares) / 2).to(y), []
    for rows in row_blocks(len(x), len(y)):
        with ieee_float32(x.device):
            scores = torch.addmm(heights, x[rows], y.T)
        sums = scores.double().mul_(2 / epsilon).softmax(1).cumsum(1)
        places = torch.searchsorted(sums, uniform[rows, None] * sums[:, -1:], right=True)
        found.append(places[:, 0].clamp_max(len(y) - 1))
    return torch.cat(found)


def _groups(noise: Tensor, data: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The indices of the noise and of the data of each label that noise has."""
    labels, places = torch.cat([noise, data]).unique(return_inverse=True)
    sides = places.split([len(noise), len(data)])
    counts = [side.bincount(minlength=len(labels)) for side in sides]
    missing = labels[(counts[0] > 0) & (counts[1] == 0)]
    if len(missing):
        raise ValueError(
            f"`noise_condition` must hold labels of data samples, got {missing[0].item()}, which "
            "`condition` lacks: leave this noise out."
        )

    groups = [
        side.argsort(stable=True).split(count.tolist())
        for side, count in zip(sides, counts, strict=True)
    ]
    for rows, columns in zip(*groups, strict=True):
        if len(rows):
            yield rows, columns


def _checked_samples(noise: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    """Noise (N, D) and data (M, D) in one dtype of at least 32 bits, images flattened."""
    sides = []
    for name, side in (("noise", noise), ("data", data)):
        side = as_tensor(name, side)
        sides.append(checked_cloud(name, side.flatten(1) if side.ndim > 2 else side))
    x, y = sides
    shapes = [tuple(side.shape) for side in (noise, data)]
    if shapes[0][1:] != shapes[1][1:] or x.device != y.device:
        raise ValueError(
            "`noise` and `data` must have samples of one shape on one device, got "
            f"{shapes[0]} on {x.device} and {shapes[1]} on {y.device}."
        )
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)


def _check_solver(solver: object, knows_noise: bool) -> None:
    """Raise unless a solver can pair samples; `knows_noise` without conditions that are numbers."""
    if isinstance(solver, Tensor):
        if not knows_noise:
            raise ValueError(
                "`condition` must hold labels where `solver` holds heights, whose cells know no "
                "condition: give integers, or another solver."
            )
    elif not isinstance(solver, Exact | Sinkhorn):
        remedy = ""
        if isinstance(solver, SemiDiscrete | SemiDiscreteResult):
            remedy = ': solve once, SemiDiscrete(source="gaussian").solve(data), give its `heights`'
        raise TypeError(
            "`solver` must be an Exact, a Sinkhorn or heights (M,), got "
            f"{type(solver).__name__}{remedy}."
        )
    elif solver.order != 2:
        raise ValueError(f"`solver` must have order 2, got {solver.order:g}.")
    elif isinstance(solver, Exact) and solver.max_samples is not None:
        raise ValueError("`solver` must pair all samples: leave out its `max_samples`.")


def _checked_conditions(
    x: Tensor,
    y: Tensor,
    condition: Tensor | None,
    noise_condition: Tensor | None,
    weight: float | None,
) -> tuple[Tensor, Tensor] | None:
    """Conditions of noise and data: labels (N,), (M,), or numbers (N, K), (M, K) to add to them."""
    if condition is None:
        for name, value in (("noise_condition", noise_condition), ("condition_weight", weight)):
            if value is not None:
                raise ValueError(f"`{name}` needs the `condition` of the data.")
        return None
    if noise_condition is None:
        if len(x) != len(y):
            raise ValueError(
                "`noise_condition` must be given where noise and data differ in number, got "
                f"{len(x)} and {len(y)} samples."
            )
        noise_condition = condition

    sides = []
    for name, side, cloud in (
        ("noise_condition", noise_condition, x),
        ("condition", condition, y),
    ):
        side = as_tensor(name, side).to(cloud.device)
        floating = side.is_floating_point()
        if len(side.shape) not in ((1, 2) if floating else (1,)) or len(side) != len(cloud):
            shape = f"({len(cloud)},)" + (f" or ({len(cloud)}, K)" if floating else "")
            raise ValueError(f"`{name}` must have shape {shape}, got {tuple(side.shape)}.")
        sides.append(side)

    theirs, own = sides
    if theirs.is_floating_point() != own.is_floating_point() or theirs.shape[1:] != own.shape[1:]:
        raise ValueError(
            "`condition` and `noise_condition` must be of one kind, labels or as many numbers, got "
            f"{own.dtype} {tuple(own.shape)} and {theirs.dtype} {tuple(theirs.shape)}."
        )
    if not own.is_floating_point():
        if weight is not None:
            raise ValueError(
                "`condition_weight` is for conditions that are numbers; samples of different "
                "labels are never paired."
            )
        return theirs, own

    if weight is None:
        raise ValueError(
            "`condition_weight` must be given with a floating `condition`; labels are integers."
        )
    check_positive("condition_weight", weight)
    theirs, own = (
        checked_cloud(name, side.reshape(len(side), -1).to(x.dtype) * weight**0.5)
        for name, side in (("noise_condition", theirs), ("condition", own))
    )
    return theirs, own
