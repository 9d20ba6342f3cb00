"""Sliced Wasserstein: the mean one-dimensional transport cost over random directions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otmetrics.checks import (
    check_at_least,
    check_flag,
    check_order,
    check_seed,
    check_share,
    checked_clouds,
    checked_generator,
    checked_weights,
    weights_note,
)
from otmetrics.errors import Argument, Message, OptionError, warn_unconverged
from otmetrics.machine import ieee_float32
from otmetrics.transport.costs import held
from otmetrics.transport.result import TransportResult, root
from otmetrics.transport.sliced.directions import (
    FEWEST_BLOCKS,
    apply_controls,
    block_size,
    checked_directions,
    direction_generator,
    error_of_mean,
    error_of_root,
    errors_of_blocks,
    random_directions,
)
from otmetrics.transport.sliced.slices import (
    Measure,
    Weights,
    costs_along,
    costs_and_squares_along,
    measure_along,
    split_costs_along,
)
from otmetrics.transport.solver import Solver
from otmetrics.unknown_options import options_of, told_options

_FAR = 16.0  # squared distance of the mean from the origin, in variances, from which clouds move
_ENOUGH = 1024  # points whose mean shows where a cloud is
_MOST_GROWTH = 4  # factor by which one round may add to the directions of the round before
_MOST_PER_SPLIT = 16  # directions that share one split into halves
_SAFE = 1e-15, 1e15  # longest vectors whose squares keep their digits in float32
_ROUNDINGS = 64  # distances below this many roundings of a projection are zero


class _Sides(NamedTuple):
    """Clouds (..., N, D) and (..., M, D) near the origin, and their weights in float64."""

    real: Tensor
    fake: Tensor
    a: Tensor | None
    b: Tensor | None

    @property
    def weights(self) -> Weights:
        """Both weights as (..., 1, N), the same along every direction."""
        a, b = (w if w is None else w.unsqueeze(-2) for w in (self.a, self.b))
        return a, b


class _Slices(NamedTuple):
    """Costs (..., L, 1) along some directions, controls (..., L, Q) and squares (..., L, 2)."""

    costs: Tensor
    controls: Tensor
    squares: Tensor


class _Mean(NamedTuple):
    """A mean cost (...), the error of its root, and what each block adds to its own (..., K)."""

    cost: Tensor
    error: Tensor | None = None
    errors: Tensor | None = None


@dataclass(frozen=True)
class Sliced(Solver):
    """Sliced Wasserstein distance, SW_p^p = E_theta W_p^p(theta . real, theta . fake), estimated.

    Random directions are corrected by control variates: the squared difference of the projected
    means and both projected variances have known means over the sphere, and follow the costs
    closely; where they do not, they are left out. At p = 2 and from 48 directions on, translations
    and scalings about the mean are exact. Time O(L (N + M) (D + log(N + M))), memory
    O((N + M) (D + chunk)), both also with gradient, whatever L.

    Attributes:
        order: The order p >= 1.
        num_projections: Number L of random directions.
        seed: Seed of the directions, which are the same on every device.
        orthogonal: Whether directions come in independent blocks of orthonormal ones; see
            `functional.random_directions`.
        tolerance: Largest standard error of the value, as a share of the value in (0, 1):
            directions are added until it is reached, at least 16 blocks of them. None takes L.
        max_projections: Most directions to add, at least L; only read with `tolerance`.
        debiased: Whether to multiply the differences of two independent pairs of halves of the
            samples instead of squaring one: at p = 2 the expectation of the cost is then 0 where
            both distributions agree, as that of no other distance between samples is, and the cost
            may be negative. Each block of directions splits again, into halves of the smaller size.
            The samples must be independent: of a cloud and itself, the cost is negative. Not with
            `tolerance`, as the value may be 0.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Rabin, Peyre, Delon, Bernot, Wasserstein barycenter and its application to texture mixing,
        2011; Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, 2015; Nguyen and
        Ho, Sliced Wasserstein estimation with control variates, 2024; Rowland et al., Orthogonal
        estimation of Wasserstein distances, 2019.
    """

    order: float = 2.0
    num_projections: int = 1024
    seed: int = 0
    orthogonal: bool = True
    tolerance: float | None = None
    max_projections: int = 65536
    debiased: bool = False

    def __post_init__(self) -> None:
        check_order(self.order)
        check_at_least("num_projections", self.num_projections, 1)
        check_seed(self.seed)
        check_flag("orthogonal", self.orthogonal)
        check_flag("debiased", self.debiased)
        if self.debiased and self.order != 2:
            raise OptionError(
                Argument("debiased"),
                " must be False unless ",
                Argument("order"),
                f" is 2, got {self.order}.",
            )

        if self.tolerance is not None:
            if self.debiased:
                raise OptionError(
                    Argument("tolerance"),
                    " must be None with ",
                    Argument("debiased"),
                    ", whose value may be 0.",
                )
            check_share("tolerance", self.tolerance)
            check_at_least("max_projections", self.max_projections, self.num_projections)

    @told_options
    def solve(
        self,
        real: Tensor,
        fake: Tensor,
        *,
        real_weights: Tensor | None = None,
        fake_weights: Tensor | None = None,
        directions: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> TransportResult:
        """Estimate SW_p with its standard error.

        Args:
            real: Features (N, D) or (B, N, D).
            fake: Features (M, D) or (B, M, D); M may differ from N.
            real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
            fake_weights: The same for `fake`.
            directions: Unit directions (D, L) to use instead of random ones; the plain mean over
                them.
            generator: CPU generator of directions and splits; None takes the one of `seed`.

        Returns:
            Value and cost with the standard error of the value over the random directions and
            splits (None for given directions or fewer than two). The value of a negative cost is
            minus the root of its size. Differentiable once in both clouds and their weights.

        Raises:
            TypeError: If a cloud is not a floating tensor.
            ValueError: If a shape or a weight breaks its rule.

        Warns:
            ConvergenceWarning: If `max_projections` directions do not reach the tolerance.
        """
        real, fake = checked_clouds(real, fake, order=self.order, min_samples=1 + self.debiased)
        a = checked_weights("real_weights", real_weights, real)
        b = checked_weights("fake_weights", fake_weights, fake)
        if self.debiased and not (a is None and b is None):
            raise ValueError("`debiased` must be False with weights: halves of samples have none.")
        generator = checked_generator(generator, direction_generator(self.seed))

        if (centre := far_centre(real, fake)) is not None:
            real, fake = real - centre, fake - centre
        sides = _Sides(real, fake, a, b)
        if directions is None:
            result = self._estimate(sides, generator)
        else:
            result = self._mean_along(sides, directions, generator)
        note = weights_note(real_weights, fake_weights)
        return result._replace(message=result.message + note)

    def _mean_along(
        self, sides: _Sides, directions: Tensor, generator: torch.Generator
    ) -> TransportResult:
        """The plain mean over directions that are given."""
        if self.tolerance is not None:
            raise ValueError("`tolerance` must be None for given `directions`: none can be added.")
        rows = checked_directions(directions, sides.real)
        block, measure = len(rows), costs_along(self.order)
        if self.debiased:
            block = self._block_size(sides, len(rows))
            measure = _split_measure(sides, len(rows), block, generator)

        costs = measure_along(sides.real, sides.fake, rows, measure, block, sides.weights)[..., 0]
        message = f"mean over {len(rows)} given directions"
        return self._result(_Mean(costs.mean(-1)), sides, message)

    def _estimate(self, sides: _Sides, generator: torch.Generator) -> TransportResult:
        """The mean over random directions, of which a tolerance takes as many as it needs."""
        block = self._block_size(sides, self.num_projections)
        target = self.num_projections
        if self.tolerance is not None:  # fewer blocks may agree by chance
            target = self._whole_blocks(max(target, FEWEST_BLOCKS * block), block)

        slices = self._measure_slices(sides, target, block, generator)
        while True:
            mean = self._mean(slices, block)
            message = f"mean over {target} directions"
            if self.tolerance is None:
                return self._result(mean, sides, message)

            # Too few blocks give no error to rely on, a single one none at all.
            missing = math.inf
            if mean.error is not None and target >= FEWEST_BLOCKS * block:
                missing = self._missing(mean.cost, mean.error, slices.squares, sides)
            if missing <= 1:
                return self._result(mean, sides, message)
            if target + block > self.max_projections:
                message = Message(
                    f"{target} directions leave a standard error {missing:.2g} times as large as ",
                    Argument("tolerance"),
                    f" ({self.tolerance}) allows: raise it or ",
                    Argument("max_projections"),
                    f" ({self.max_projections}).",
                )
                warn_unconverged(message)
                return self._result(mean, sides, message, converged=False)

            # Errors fall with the root of the number; a tenth more saves a round that just fails.
            growth = min(1.1 * missing**2, _MOST_GROWTH)
            wanted = self._whole_blocks(max(target + block, math.ceil(target * growth)), block)
            more = self._measure_slices(sides, wanted - target, block, generator)
            slices = _Slices(*(torch.cat(pair, -2) for pair in zip(slices, more, strict=True)))
            target = wanted

    def _whole_blocks(self, num: int, block: int) -> int:
        """A number of directions, rounded up to whole blocks as far as the most allow."""
        most = max(block, self.max_projections // block * block)
        return min(-(-num // block) * block, most)

    def _block_size(self, sides: _Sides, num_projections: int) -> int:
        """Directions per block: few enough for many blocks where each splits the samples again."""
        most = _MOST_PER_SPLIT if self.debiased else None
        dimension = sides.real.shape[-1]
        return block_size(dimension, num_projections, orthogonal=self.orthogonal, most=most)

    def _measure_slices(
        self, sides: _Sides, num: int, block: int, generator: torch.Generator
    ) -> _Slices:
        """Costs and controls along new random directions."""
        directions = random_directions(
            sides.real.shape[-1], num, generator=generator, orthogonal=self.orthogonal, block=block
        )
        rows = directions.T.to(sides.real)
        border, measure = None, costs_and_squares_along(self.order)
        if self.debiased:
            border, measure = block, _split_measure(sides, num, block, generator)

        numbers = measure_along(sides.real, sides.fake, rows, measure, border, sides.weights)
        costs, squares = numbers[..., :1], numbers[..., 1:]
        return _Slices(costs, _controls(sides, rows, squares), squares)

    def _mean(self, slices: _Slices, block: int) -> _Mean:
        """The cost, and its errors where there is more than one block."""
        costs, deviations = apply_controls(
            slices.costs[..., 0], slices.controls, positive=not self.debiased
        )
        cost = costs.mean(-1)
        if costs.shape[-1] <= block:
            return _Mean(cost)
        error = error_of_root(error_of_mean(deviations, block), cost, self.order)
        return _Mean(cost, error, errors_of_blocks(deviations, block))

    def _missing(self, cost: Tensor, error: Tensor, squares: Tensor, sides: _Sides) -> float:
        """The largest error of a batch as a multiple of the tolerance; 0 where all is rounding."""
        assert self.tolerance is not None
        value = root(cost.detach().abs(), self.order)
        lengths = squares.detach().mean(-2).sum(-1).sqrt()
        rounding = _ROUNDINGS * torch.finfo(sides.real.dtype).eps * lengths
        # Values of 0 are rounding in the last line; the clamp only keeps their quotient finite.
        allowed = self.tolerance * value.clamp_min(1e-300)
        return float(torch.where(value > rounding, error / allowed, 0.0).max())

    def _result(
        self, mean: _Mean, sides: _Sides, message: str, converged: bool = True
    ) -> TransportResult:
        """Round to the dtype of the clouds."""
        dtype, value = sides.real.dtype, root(mean.cost, self.order)
        if self.debiased:
            # The root of what is negative is 0 above; it counts with its sign.
            value = value - root(-mean.cost, self.order)
        return TransportResult(
            value=value.to(dtype),
            cost=held(mean.cost, dtype),
            standard_error=None if mean.error is None else mean.error.to(dtype),
            converged=converged,
            message=message,
            direction_errors=mean.errors,
        )


@options_of(Sliced)
def sliced_wasserstein(
    real: Tensor,
    fake: Tensor,
    *,
    directions: Tensor | None = None,
    generator: torch.Generator | None = None,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Sliced Wasserstein distance SW_p, the p-th root of the mean cost over directions.

    `Sliced(**options).solve` returns its standard error too.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D).
        directions: Unit directions (D, L) to use instead of random ones.
        generator: CPU generator of the directions; None takes the one of the option `seed`.
        real_weights: Non-negative weights (N,) or (B, N); None for uniform.
        fake_weights: The same for `fake`.
        **options: Options: the fields of `Sliced`.

    Returns:
        Scalar or (B,), in the units of the features, >= 0 unless `debiased`, differentiable in both
        clouds.

    Example:
        >>> x = torch.randn(100, 3, dtype=torch.float64)
        >>> round(sliced_wasserstein(x, x[torch.randperm(100)]).item(), 9)
        0.0
    """
    weights = {"real_weights": real_weights, "fake_weights": fake_weights}
    solver = Sliced(**options)
    return solver(real, fake, directions=directions, generator=generator, **weights)


def far_centre(real: Tensor, fake: Tensor) -> Tensor | None:
    """Where two clouds (..., N, D) lie, if so far out that projections would lose digits.

    About their common mean (..., 1, D); None where they lie near the origin.
    """
    # Up to some 2000 points of each, evenly spaced, are enough.
    some = [c.detach()[..., :: max(1, c.shape[-2] // _ENOUGH), :] for c in (real, fake)]
    centre = ((some[0].mean(-2) + some[1].mean(-2)) / 2).unsqueeze(-2)

    squares = (_mean_square(cloud, None) for cloud in some)
    out = centre.double().square().sum((-2, -1))
    inside = sum(squares) / 2 - out
    return None if bool((out <= _FAR * inside).all()) else centre


def _split_measure(sides: _Sides, num: int, block: int, generator: torch.Generator) -> Measure:
    """The split-half measure of so many directions, with a seed for each block."""
    seeds = torch.randint(2**62, (-(-num // block),), generator=generator)
    return split_costs_along((sides.real.shape[-2], sides.fake.shape[-2]), block, seeds)


def _controls(sides: _Sides, rows: Tensor, squares: Tensor) -> Tensor:
    """Functions (..., L, 3) of directions (L, D) whose means over the sphere are 0.

    The squared difference of the projected means has the mean |difference|^2 / D, a projected
    variance the mean trace / D; `squares` are the projected mean squares of both sides.
    """
    dimension = rows.shape[-1]
    pairs = (sides.real, sides.a), (sides.fake, sides.b)
    means = [_mean(*side) for side in pairs]
    along = [mean @ rows.double().T for mean in means]

    shift = (along[0] - along[1]).square()
    controls = [shift - ((means[0] - means[1]).square().sum(-1) / dimension).unsqueeze(-1)]
    for i, side in enumerate(pairs):
        variance = squares[..., i] - along[i].square()
        expected = (_mean_square(*side) - means[i].square().sum(-1)) / dimension
        controls.append(variance - expected.unsqueeze(-1))
    return torch.stack(controls, -1)


def controls_of_moments(rows: Tensor, moments: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The controls (L, 3) that `Sliced` takes of clouds with these means and covariances.

    `rows` (L, D), means (D,) and covariances (D, D) are in float64.
    """
    dimension = rows.shape[1]
    (mean_x, _), (mean_y, _) = moments
    shift = mean_x - mean_y
    controls = [(rows @ shift).square() - shift.square().sum() / dimension]
    for _, covariance in moments:
        along = ((rows @ covariance) * rows).sum(1)
        controls.append(along - covariance.trace() / dimension)
    return torch.stack(controls, 1)


def _mean(cloud: Tensor, weights: Tensor | None) -> Tensor:
    """Mean (..., D) in float64. Any vector near it would serve as well."""
    if weights is None:
        return cloud.mean(-2).double()
    with ieee_float32(cloud.device):
        return (weights.to(cloud.dtype).unsqueeze(-2) @ cloud).squeeze(-2).double()


def _mean_square(cloud: Tensor, weights: Tensor | None) -> Tensor:
    """Mean squared length (...) in float64."""
    lengths = torch.linalg.vector_norm(cloud, dim=-1).double()
    # In float64 from the start only for vectors whose squares would leave float32.
    if not _SAFE[0] <= float(lengths.detach().amax()) <= _SAFE[1]:
        lengths = torch.linalg.vector_norm(cloud, dim=-1, dtype=torch.float64)
    return lengths.square().mean(-1) if weights is None else (lengths.square() * weights).sum(-1)
