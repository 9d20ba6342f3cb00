"""Sliced Wasserstein: the mean one-dimensional transport cost over random directions."""

import math
from dataclasses import dataclass
from typing import NamedTuple

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
from otmetrics.errors import warn_unconverged
from otmetrics.machine import ieee_float32
from otmetrics.transport.costs import held, lengths_in_float64
from otmetrics.transport.result import TransportResult, root
from otmetrics.transport.sliced.directions import (
    FEWEST_BLOCKS,
    apply_controls,
    block_size,
    checked_directions,
    direction_generator,
    error_of_mean,
    error_of_root,
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
from otmetrics.unknown_options import ToldOptions, told_options

_FAR = 16.0  # squared distance of the mean from the origin, in variances, from which clouds move
_ENOUGH = 1024  # points that tell where a cloud is
_MOST_GROWTH = 4  # factor by which one round may add to the directions of the round before
_MOST_PER_SPLIT = 16  # directions that share one split into halves
_ROUNDINGS = 64  # distances below this many roundings of a projection are zero


class SlicedOptions(NamedTuple):
    """Options of a sliced distance; see `sliced_result`."""

    order: float = 2.0
    num_projections: int = 1024
    orthogonal: bool = True
    tolerance: float | None = None
    max_projections: int = 65536
    debiased: bool = False


class _Question(NamedTuple):
    """Clouds (..., N, D) near the origin, their weights in float64, and the options."""

    real: Tensor
    fake: Tensor
    a: Tensor | None
    b: Tensor | None
    options: SlicedOptions

    @property
    def rows(self) -> Weights:
        """Both weights (..., 1, N), the same along every direction."""
        a, b = (w if w is None else w.unsqueeze(-2) for w in (self.a, self.b))
        return a, b


class _Slices(NamedTuple):
    """Costs (..., L) along some directions, controls (..., L, Q) and squares (..., L, 2)."""

    costs: Tensor
    controls: Tensor
    squares: Tensor


@told_options
def sliced_result(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    num_projections: int = 1024,
    orthogonal: bool = True,
    tolerance: float | None = None,
    max_projections: int = 65536,
    debiased: bool = False,
    directions: Tensor | None = None,
    generator: torch.Generator | None = None,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
) -> TransportResult:
    """Sliced Wasserstein cost SW_p^p = E_theta W_p^p(theta . real, theta . fake), estimated.

    Random directions are corrected by control variates: the squared difference of the projected
    means and both projected variances have known means over the sphere, and follow the costs
    closely; where they do not, they are left out. At p = 2 and from 48 directions on, translations
    and scalings about the mean are exact. Time O(L (N + M) (D + log(N + M))), memory
    O((N + M) (D + chunk)), both also with gradient, whatever L.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D); M may differ from N.
        order: The order p >= 1.
        num_projections: Number L of random directions, ignored when `directions` are given.
        orthogonal: Whether random directions come in independent blocks of orthonormal ones;
            see `random_directions`.
        tolerance: Standard error of the value, as a share of the value in (0, 1), below which no
            more directions are added, at least 16 blocks of them; None takes L directions. Not with
            `debiased`, whose value may be 0.
        max_projections: Most directions to add, at least L. Only read with `tolerance`.
        debiased: Whether to multiply the differences of two independent pairs of halves of the
            samples instead of squaring one: at p = 2 the expectation of the cost is then 0 where
            both laws agree, as that of no other distance between samples is, and the cost may be
            negative. Each block of directions splits anew, into halves of the smaller size. The
            samples must be independent: of a cloud and itself, the cost is negative.
        directions: Unit directions (D, L) to use instead of random ones; the plain mean over them.
        generator: CPU generator of directions and splits; None takes `directions.seeded(0)`.
        real_weights: Non-negative weights (N,) or (B, N), normalised here; None for uniform.
        fake_weights: The same for `fake`.

    Returns:
        Value and cost with the standard error of the value over the random directions and splits
        (None for given directions or fewer than two). The value of a negative cost is minus the
        root of its size. Differentiable once in both clouds and their weights.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a shape, a weight or an option breaks its rule.

    References:
        Rabin, Peyre, Delon, Bernot, Wasserstein barycenter and its application to texture mixing,
        2011; Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, 2015; Nguyen and
        Ho, Sliced Wasserstein estimation with control variates, 2024; Rowland et al., Orthogonal
        estimation of Wasserstein distances, 2019.
    """
    options = SlicedOptions(
        order, num_projections, orthogonal, tolerance, max_projections, debiased
    )
    check_sliced_options(options)
    real, fake = checked_clouds(real, fake, order=order, min_samples=2 if debiased else 1)
    a = checked_weights("real_weights", real_weights, real)
    b = checked_weights("fake_weights", fake_weights, fake)
    if debiased and not (a is None and b is None):
        raise ValueError("`debiased` must be False for weighted samples, which halves do not have.")
    generator = checked_generator(generator, direction_generator(0))
    question = _Question(*_near_origin(real, fake), a, b, options)
    note = weights_note(real_weights, fake_weights)
    if directions is None:
        result = _estimate(question, generator)
        return result._replace(message=result.message + note)
    if tolerance is not None:
        raise ValueError("`tolerance` must be None for given `directions`: none can be added.")
    rows = checked_directions(directions, real)
    measure = costs_along(order)
    block = len(rows)
    if debiased:
        block = _block(question, block)
        measure = _splitting(question, len(rows), block, generator)
    costs = measure_along(*question[:2], rows, measure, block, question.rows)[..., 0]
    return _result(costs.mean(-1), None, question, f"mean over {len(rows)} given directions{note}")


@told_options
def sliced_wasserstein(
    real: Tensor,
    fake: Tensor,
    *,
    order: float = 2.0,
    num_projections: int = 1024,
    directions: Tensor | None = None,
    generator: torch.Generator | None = None,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
) -> Tensor:
    """Sliced Wasserstein distance SW_p, the p-th root of the mean cost over directions.

    `sliced_result` has the same arguments and more, cost and references, and returns the error too.

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D).
        order: The order p >= 1.
        num_projections: Number L of random directions.
        directions: Unit directions (D, L) to use instead of random ones.
        generator: CPU generator of the directions; None takes `directions.seeded(0)`.
        real_weights: Non-negative weights (N,) or (B, N); None for uniform.
        fake_weights: The same for `fake`.

    Returns:
        Scalar or (B,), in the units of the features, >= 0, differentiable in both clouds.

    Example:
        >>> x = torch.randn(100, 3, dtype=torch.float64)
        >>> round(sliced_wasserstein(x, x[torch.randperm(100)]).item(), 9)
        0.0
    """
    return sliced_result(
        real,
        fake,
        order=order,
        num_projections=num_projections,
        directions=directions,
        generator=generator,
        real_weights=real_weights,
        fake_weights=fake_weights,
    ).value


def check_sliced_options(options: SlicedOptions) -> None:
    """Raise unless every option keeps its rule.

    Args:
        options: The options of a sliced distance.

    Raises:
        ValueError: If one does not.
    """
    check_order(options.order)
    check_at_least("num_projections", options.num_projections, 1)
    check_flag("orthogonal", options.orthogonal)
    check_flag("debiased", options.debiased)
    if options.debiased and options.order != 2:
        raise ValueError(f"`debiased` must be False unless `order` is 2, got {options.order}.")
    if options.tolerance is not None:
        if options.debiased:
            raise ValueError("`tolerance` must be None with `debiased`, whose value may be 0.")
        check_share("tolerance", options.tolerance)
        check_at_least("max_projections", options.max_projections, options.num_projections)


def far_centre(real: Tensor, fake: Tensor) -> Tensor | None:
    """Where two clouds lie, if that is so far out that projections would lose digits.

    Args:
        real: Features (..., N, D).
        fake: Features (..., M, D).

    Returns:
        About their common mean (..., 1, D); None where they lie near the origin.
    """
    # Up to some 2000 points of each, evenly spaced, tell.
    some = [c.detach()[..., :: max(1, c.shape[-2] // _ENOUGH), :] for c in (real, fake)]
    centre = ((some[0].mean(-2) + some[1].mean(-2)) / 2).unsqueeze(-2)
    squares = (_mean_square(cloud, None) for cloud in some)
    out = centre.double().square().sum((-2, -1))
    inside = sum(squares) / 2 - out
    return None if bool((out <= _FAR * inside).all()) else centre


def _near_origin(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Both clouds, moved together where they lie far out."""
    centre = far_centre(real, fake)
    return (real, fake) if centre is None else (real - centre, fake - centre)


def _estimate(question: _Question, generator: torch.Generator) -> TransportResult:
    """The mean over random directions, with its error; more of them until it is small enough."""
    options = question.options
    tolerance = options.tolerance
    block = _block(question, options.num_projections)
    most = options.num_projections if tolerance is None else options.max_projections
    target, slices = options.num_projections, None
    if tolerance is not None:  # fewer blocks may agree by chance
        target = max(target, FEWEST_BLOCKS * block)
    while True:
        if tolerance is not None:
            target = min(-(-target // block) * block, max(block, most // block * block))
        done = 0 if slices is None else slices.costs.shape[-1]
        more = _measure_slices(question, target - done, block, generator)
        slices = more if slices is None else _join_slices(slices, more)
        costs, deviations = apply_controls(
            slices.costs, slices.controls, positive=not options.debiased
        )
        cost = costs.mean(-1)
        error = None
        if target > block:
            error = error_of_root(error_of_mean(deviations, block), cost, options.order)
        if tolerance is None:
            return _result(cost, error, question, f"mean over {target} directions")
        # Too few blocks tell no error to rely on, a single one none at all.
        if error is None or target < FEWEST_BLOCKS * block:
            missing = math.inf
        else:
            missing = _missing(cost, error, slices.squares, question)
        if missing <= 1:
            return _result(cost, error, question, f"mean over {target} directions")
        if target + block > most:
            message = (
                f"{target} directions leave a standard error {missing:.2g} times as large as "
                f"`tolerance` ({tolerance}) allows: raise it or `max_projections` ({most})."
            )
            warn_unconverged(message)
            return _result(cost, error, question, message, converged=False)
        growth = min(1.1 * missing**2, _MOST_GROWTH)
        target = max(target + block, math.ceil(target * growth))


def _missing(cost: Tensor, error: Tensor, squares: Tensor, question: _Question) -> float:
    """The largest error of a batch as a multiple of what is allowed; 0 where all is rounding."""
    order, tolerance = question.options.order, question.options.tolerance
    assert tolerance is not None
    value = root(cost.detach().abs(), order)
    lengths = squares.detach().mean(-2).sum(-1).sqrt()
    rounding = _ROUNDINGS * torch.finfo(question.real.dtype).eps * lengths
    ratio = torch.where(value > rounding, error / (tolerance * value.clamp_min(1e-300)), 0.0)
    return float(ratio.max())


def _measure_slices(
    question: _Question, num_projections: int, block: int, generator: torch.Generator
) -> _Slices:
    """Costs and controls along new random directions."""
    real, fake, options = question.real, question.fake, question.options
    dimension = real.shape[-1]
    directions = random_directions(
        dimension, num_projections, generator=generator, orthogonal=options.orthogonal, block=block
    )
    rows = directions.T.to(real)
    if options.debiased:
        border: int | None = block
        measure = _splitting(question, num_projections, block, generator)
    else:
        border, measure = None, costs_and_squares_along(options.order)
    numbers = measure_along(real, fake, rows, measure, border, question.rows)
    costs, squares = numbers[..., 0], numbers[..., 1:]
    return _Slices(costs, _controls(question, rows, squares), squares)


def _block(question: _Question, num_projections: int) -> int:
    """Directions a block: few enough for many blocks where each splits the samples anew."""
    options = question.options
    most = _MOST_PER_SPLIT if options.debiased else None
    dimension = question.real.shape[-1]
    return block_size(dimension, num_projections, orthogonal=options.orthogonal, most=most)


def _splitting(
    question: _Question, num_projections: int, block: int, generator: torch.Generator
) -> Measure:
    """The split-half measure, with a seed for each block."""
    seeds = torch.randint(2**62, (-(-num_projections // block),), generator=generator)
    sizes = question.real.shape[-2], question.fake.shape[-2]
    return split_costs_along(sizes, block, seeds)


def _controls(question: _Question, rows: Tensor, squares: Tensor) -> Tensor:
    """Functions of the directions whose mean over the sphere is 0; see `sliced_result`."""
    sides, dimension = ((question.real, question.a), (question.fake, question.b)), rows.shape[-1]
    means = [_mean(*side) for side in sides]
    along = [mean @ rows.double().T for mean in means]
    shift = (along[0] - along[1]).square()
    controls = [shift - ((means[0] - means[1]).square().sum(-1) / dimension).unsqueeze(-1)]
    for i, side in enumerate(sides):
        variance = squares[..., i] - along[i].square()
        expected = (_mean_square(*side) - means[i].square().sum(-1)) / dimension
        controls.append(variance - expected.unsqueeze(-1))
    return torch.stack(controls, -1)


def _mean(cloud: Tensor, weights: Tensor | None) -> Tensor:
    """Mean (..., D) in float64. Any vector near it would serve as well."""
    if weights is None:
        return cloud.mean(-2).double()
    with ieee_float32(cloud.device):
        return (weights.to(cloud.dtype).unsqueeze(-2) @ cloud).squeeze(-2).double()


def _mean_square(cloud: Tensor, weights: Tensor | None) -> Tensor:
    """Mean squared length (...) in float64."""
    lengths = lengths_in_float64(cloud)
    return lengths.square().mean(-1) if weights is None else (lengths.square() * weights).sum(-1)


def _join_slices(first: _Slices, second: _Slices) -> _Slices:
    """Slices along all of the directions."""
    return _Slices(
        torch.cat([first.costs, second.costs], -1),
        torch.cat([first.controls, second.controls], -2),
        torch.cat([first.squares, second.squares], -2),
    )


def _result(
    cost: Tensor, error: Tensor | None, question: _Question, message: str, converged: bool = True
) -> TransportResult:
    """Round to the dtype of the clouds."""
    dtype, order = question.real.dtype, question.options.order
    value = root(cost, order)
    if question.options.debiased:
        value = value - root(-cost, order)
    return TransportResult(
        value=value.to(dtype),
        cost=held(cost, dtype),
        standard_error=None if error is None else error.to(dtype),
        converged=converged,
        message=message,
    )


@dataclass(frozen=True)
class Sliced(ToldOptions):
    """Sliced Wasserstein distance over random directions; see `functional.sliced_result`.

    Attributes:
        order: The order p >= 1.
        num_projections: Number L of directions.
        seed: Seed of the directions, which are the same on every device.
        orthogonal: Whether directions come in blocks of orthonormal ones, or independent.
        tolerance: Largest standard error of the value, as a share of it: directions are added
            until it is reached. None takes L.
        max_projections: Most directions to add; only read with `tolerance`.
        debiased: Whether to estimate SW_2^2 from halves of the samples, without the bias that
            makes distances between samples of one law positive; it may be negative, and samples
            must be independent. Not with `tolerance`.

    Raises:
        ValueError: If an option breaks its rule.
    """

    order: float = 2.0
    num_projections: int = 1024
    seed: int = 0
    orthogonal: bool = True
    tolerance: float | None = None
    max_projections: int = 65536
    debiased: bool = False

    def __post_init__(self) -> None:
        check_sliced_options(self._options)
        check_seed(self.seed)

    @property
    def _options(self) -> SlicedOptions:
        """All but the seed."""
        return SlicedOptions(
            self.order,
            self.num_projections,
            self.orthogonal,
            self.tolerance,
            self.max_projections,
            self.debiased,
        )

    @told_options
    def solve(
        self,
        real: Tensor,
        fake: Tensor,
        *,
        real_weights: Tensor | None = None,
        fake_weights: Tensor | None = None,
    ) -> TransportResult:
        """Estimate SW_p with its standard error.

        Args:
            real: Features (N, D) or (B, N, D).
            fake: Features (M, D) or (B, M, D); M may differ from N.
            real_weights: Non-negative weights (N,) or (B, N); None for uniform.
            fake_weights: The same for `fake`.

        Returns:
            Value, cost and standard error.
        """
        return sliced_result(
            real,
            fake,
            **self._options._asdict(),
            generator=direction_generator(self.seed),
            real_weights=real_weights,
            fake_weights=fake_weights,
        )

    @told_options
    def __call__(
        self,
        real: Tensor,
        fake: Tensor,
        *,
        real_weights: Tensor | None = None,
        fake_weights: Tensor | None = None,
    ) -> Tensor:
        """SW_p alone, scalar or (B,), differentiable as `solve` is."""
        return self.solve(real, fake, real_weights=real_weights, fake_weights=fake_weights).value
