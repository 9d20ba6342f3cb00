"""Transport solvers as immutable objects: their fields are the options, all of them used.

The command line, the metrics, the losses and the functions meet here, so that the same options
give the same number everywhere. `solve` returns everything a solver knows; calling the object
returns the distance alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from otmetrics.functional.checks import (
    check_at_least,
    check_seed,
    checked_clouds,
    checked_weights,
    weights_note,
)
from otmetrics.functional.debiasing import SinkhornOptions
from otmetrics.functional.directions import seeded
from otmetrics.functional.exact import exact_in_float64, exact_result
from otmetrics.functional.optimum import ExactOptions, check_exact_options
from otmetrics.functional.option_names import ToldOptions, told_options
from otmetrics.functional.result import TransportResult, rounded
from otmetrics.functional.semidiscrete import (
    SemiDiscreteOptions,
    SemiDiscreteResult,
    SemiDiscreteStart,
    check_semidiscrete_options,
    semidiscrete_result,
)
from otmetrics.functional.sinkhorn import check_sinkhorn_options, sinkhorn_result
from otmetrics.functional.sliced import SlicedOptions, check_sliced_options, sliced_result


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
            generator=seeded(self.seed),
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


@dataclass(frozen=True)
class Exact(ToldOptions):
    """Exact Wasserstein distance with its certificate; see `functional.exact_result`.

    Attributes:
        order: The order p >= 1.
        tolerance: Largest gap between the bounds on the cost, relative to the cost.
        max_samples: Most samples a side: of more, a uniform random subset is solved, and its
            value and bounds are returned. None takes all.
        memory_limit: Bytes for costs that are kept, 4 N M where they fit; beyond that they are
            computed again in blocks. None for half of the memory of the device.
        time_limit: Seconds after which a large problem stops, with the bounds that it has.
        seed: Of the subset.

    Raises:
        ValueError: If an option breaks its rule.
    """

    order: float = 2.0
    tolerance: float = 1e-6
    max_samples: int | None = None
    memory_limit: float | None = None
    time_limit: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_exact_options(self._options)
        check_seed(self.seed)
        if self.max_samples is not None:
            check_at_least("max_samples", self.max_samples, 1)

    @property
    def _options(self) -> ExactOptions:
        """The options of the solution itself."""
        return ExactOptions(self.order, self.tolerance, self.memory_limit, self.time_limit)

    @told_options
    def solve(
        self,
        real: Tensor,
        fake: Tensor,
        *,
        real_weights: Tensor | None = None,
        fake_weights: Tensor | None = None,
    ) -> TransportResult:
        """Solve for W_p, its plan, potentials and bounds.

        Args:
            real: Features (N, D) or (B, N, D).
            fake: Features (M, D) or (B, M, D); M may differ from N.
            real_weights: Non-negative weights (N,) or (B, N); None for uniform.
            fake_weights: The same for `fake`.

        Returns:
            Value, cost, bounds, potentials and plan; with `max_samples`, of the subsets, which
            `message` tells.
        """
        if self.max_samples is None:
            return exact_result(
                real,
                fake,
                real_weights=real_weights,
                fake_weights=fake_weights,
                **self._options._asdict(),
            )
        real, fake = checked_clouds(real, fake, order=self.order)
        a = checked_weights("real_weights", real_weights, real)
        b = checked_weights("fake_weights", fake_weights, fake)
        sizes = real.shape[-2], fake.shape[-2]
        generator = torch.Generator().manual_seed(self.seed)
        real, a = self._subset(real, a, generator)
        fake, b = self._subset(fake, b, generator)
        result = exact_in_float64(real, fake, a, b, self._options)
        message = result.message + weights_note(real_weights, fake_weights)
        result = rounded(result, real.dtype)._replace(message=message)
        if sizes == (real.shape[-2], fake.shape[-2]):
            return result
        sides = zip((real, fake), sizes, ("real", "fake"), strict=True)
        kept = ", ".join(f"{cloud.shape[-2]} of {size} {side}" for cloud, size, side in sides)
        return result._replace(message=f"{result.message}; {kept} samples")

    def _subset(
        self, cloud: Tensor, weights: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """At most `max_samples` points, the same of each problem of a batch, and their weights."""
        size = cloud.shape[-2]
        if self.max_samples is None or size <= self.max_samples:
            return cloud, weights
        ids = torch.randperm(size, generator=generator)[: self.max_samples].sort().values
        ids = ids.to(cloud.device)
        return cloud[..., ids, :], None if weights is None else weights[..., ids]

    @told_options
    def __call__(
        self,
        real: Tensor,
        fake: Tensor,
        *,
        real_weights: Tensor | None = None,
        fake_weights: Tensor | None = None,
    ) -> Tensor:
        """W_p alone, scalar or (B,), differentiable as `solve` is."""
        return self.solve(real, fake, real_weights=real_weights, fake_weights=fake_weights).value


@dataclass(frozen=True)
class Sinkhorn(ToldOptions):
    """Debiased Sinkhorn divergence; see `functional.sinkhorn_result`.

    Attributes:
        order: The order p >= 1 of the cost.
        epsilon: Entropic regularisation.
        relative: Whether `epsilon` is a share of the mean cost between real and fake.
        tolerance: Largest L1 error of a marginal of the plan.
        max_iterations: Most iterations for each of the three terms.
        memory_limit: Bytes for costs and kernel, beyond which they are computed again in blocks.
            None for half of the memory of the device.
        richardson: Whether to extrapolate to epsilon = 0; see `functional.sinkhorn_result`.

    Raises:
        ValueError: If an option breaks its rule.
    """

    order: float = 2.0
    epsilon: float = 0.05
    relative: bool = True
    tolerance: float = 1e-5
    max_iterations: int = 2000
    memory_limit: float | None = None
    richardson: bool = False

    def __post_init__(self) -> None:
        check_sinkhorn_options(SinkhornOptions(**vars(self)))

    @told_options
    def solve(
        self,
        real: Tensor,
        fake: Tensor,
        *,
        real_weights: Tensor | None = None,
        fake_weights: Tensor | None = None,
    ) -> TransportResult:
        """Solve for the divergence S, its bounds, its potentials and its convergence.

        Args:
            real: Features (N, D) or (B, N, D).
            fake: Features (M, D) or (B, M, D); M may differ from N.
            real_weights: Non-negative weights (N,) or (B, N); None for uniform.
            fake_weights: The same for `fake`.

        Returns:
            S as cost, its p-th root as value, bounds, potentials and convergence.
        """
        return sinkhorn_result(
            real,
            fake,
            **vars(self),
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
        """S^(1/p), in the units of the features, scalar or (B,), differentiable as `solve` is."""
        return self.solve(real, fake, real_weights=real_weights, fake_weights=fake_weights).value


@dataclass(frozen=True)
class SemiDiscrete(ToldOptions):
    """Transport from a continuous source to weighted points; see `functional.semidiscrete_result`.

    Attributes:
        source: "cube", uniform on [-1/2, 1/2]^D; "ball", uniform on the unit ball; "gaussian".
        tolerance: Largest relative misfit of the share of a cell and its weight.
        max_samples: Most samples of a step and of the measurement of the shares.
        max_rounds: Most rounds of 60 steps.
        memory_limit: Bytes of a block of scores; None for 4 MiB.
        seed: Of all samples.

    Raises:
        ValueError: If an option breaks its rule.
    """

    source: str = "cube"
    tolerance: float = 0.25
    max_samples: int = 2**21
    max_rounds: int = 6
    memory_limit: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_semidiscrete_options(self._options)
        check_seed(self.seed)

    @property
    def _options(self) -> SemiDiscreteOptions:
        """All but the seed."""
        return SemiDiscreteOptions(
            self.source, self.tolerance, self.max_samples, self.max_rounds, self.memory_limit
        )

    @told_options
    def solve(
        self,
        points: Tensor,
        *,
        weights: Tensor | None = None,
        start: SemiDiscreteStart | None = None,
    ) -> SemiDiscreteResult:
        """Solve for the heights of the Brenier potential, the shares of its cells and W_2.

        Args:
            points: Points (M, D).
            weights: Positive weights (M,); None for uniform.
            start: The `start` of a result for the same points and weights by this solver, or one of
                more rounds, to go on from.

        Returns:
            Heights, shares, cost, energy and convergence.
        """
        generator = torch.Generator().manual_seed(self.seed)
        return semidiscrete_result(
            points, weights=weights, **self._options._asdict(), start=start, generator=generator
        )

    @told_options
    def __call__(self, points: Tensor, *, weights: Tensor | None = None) -> Tensor:
        """W_2 between source and points alone, in the units of the points."""
        return self.solve(points, weights=weights).value
