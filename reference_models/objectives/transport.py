"""Transport costs as the loss of the generator, on the samples or on features of a critic."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from otmetrics.checks import (
    check_at_least,
    check_not_negative,
    check_order,
    check_positive,
    check_share,
)
from otmetrics.errors import unconverged_untold
from otmetrics.functional import univariate_cost, unrolled_sinkhorn_divergence
from otmetrics.transport.exact.exact import Exact
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
from otmetrics.transport.sliced.sliced import Sliced

from ..networks import Critic
from .adversarial import critic_of, cross_entropy
from .base import Loss, Objective, check_choices, option
from .wasserstein import clip

ORDER = "Order p of the cost |x - y|^p; of one that is learned as a cosine, 2."
"""Help of the options of that name."""

_SPACES = ("critic", "data")
_GAMMA = "Weight of penalties on the gradients of a critic at real and fake; 0 for none."


def check_cost_order(order: float, cost: str) -> None:
    """Raise unless an order goes with a cost.

    Args:
        order: The order p.
        cost: "cosine" for a learned one.

    Raises:
        ValueError: If it does not.
    """
    check_order(order)
    if cost == "cosine" and order != 2:
        raise ValueError(
            f'`order` must be 2 for `cost` "cosine", which is half of a squared distance, got '
            f"{order!r}."
        )


def flat(samples: Tensor) -> Tensor:
    """Samples as points whose squared distances are means over the numbers of a sample.

    Args:
        samples: Samples (B, ...) of D numbers each.

    Returns:
        Points (B, D), |x - y|^2 / D apart in square.
    """
    points = full(samples).flatten(1)
    return points / points.shape[1] ** 0.5


def full(values: Tensor) -> Tensor:
    """Values in at least float32.

    Args:
        values: Any floating values.

    Returns:
        The same.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def on_sphere(features: Tensor) -> Tensor:
    """Features as points whose squared distance is 1 - cos of the angle between the features.

    Args:
        features: Features (B, F).

    Returns:
        Points (B, F) of length 1 / sqrt(2).
    """
    return F.normalize(features, dim=1) / 2**0.5


def learned_features(networks: nn.ModuleDict, samples: Tensor) -> Tensor:
    """Features of the network of the name "features", for costs that are learned.

    Args:
        networks: What an objective made.
        samples: Samples (B, ...).

    Returns:
        Features (B, F), in at least float32 also under autocast.
    """
    return full(networks["features"](samples))


class _Primal(Objective):
    """A transport cost between samples, or features of a critic that learns to tell both apart.

    The cost does not train the critic: one that raised it would do so without end. Penalties on
    both gradients of the critic, gamma / 2 (E |grad D(x)|^2 + E |grad D(y)|^2), are ours: without
    them modes of few samples come and go.
    """

    normalization: ClassVar[str] = "layer"

    space: str = "critic"
    gamma: float = 0.0

    def networks(self, critic: Callable[[str], Critic]) -> nn.ModuleDict:
        """The critic, if there is one."""
        return nn.ModuleDict() if self.space == "data" else super().networks(critic)

    def critic_steps(self, step: int) -> int:
        """One, if there is a critic."""
        return int(self.space == "critic")

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """Binary cross-entropy, with penalties."""
        return cross_entropy(networks, real, fake, self.gamma)

    def generator_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """The transport cost."""
        if self.space == "critic":
            critic = critic_of(networks)
            real, fake = (full(critic.features(side)) for side in (real, fake))
        else:
            real, fake = flat(real), flat(fake)
        with torch.autocast(real.device.type, enabled=False):
            return Loss(self._cost(networks, real, fake), {})

    def _cost(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Tensor:
        """Of features (B, F)."""
        raise NotImplementedError


@dataclass(frozen=True)
class SWG(_Primal):
    """The sliced Wasserstein generator.

    L_G = SW_p^p = E_theta W_p^p(theta . h(x), theta . h(y)), theta uniform on the unit sphere, new
    in each step; h are the features of a critic with L_D = E softplus(-D(x)) + E softplus(D(y)), or
    the samples themselves, where at p = 2 a shift of all D numbers of a sample by s costs s^2.

    Ours: directions come in orthonormal blocks and with control variates, so that 1000 of them do
    for the 10 000 independent ones of the paper.

    Attributes:
        order: p, 2 in the paper. A sample that batches draw now to one mode, now to another, rests
            between them at p = 2, at the mean, and on one of them at p = 1, at the median.
        space: Whether to compare features of a critic or samples.
        num_projections: Number L of directions.
        debiased: Whether to take the estimate from halves whose expectation is 0 where both laws
            agree; see `otmetrics.Sliced`.
        gamma: Weight of the penalties on the critic's gradients, which the paper does not have.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Deshpande, Zhang, Schwing, Generative modeling using the sliced Wasserstein distance, 2018.
    """

    order: float = option(2.0, ORDER)
    space: str = option("critic", "Compare features of a critic, or samples.", _SPACES)
    num_projections: int = option(1000, "Number L of random directions.")
    debiased: bool = option(False, "Estimate from halves, without bias between batches.")
    gamma: float = option(0.0, _GAMMA)

    def __post_init__(self) -> None:
        check_choices(self)
        check_not_negative("gamma", self.gamma)
        self._solver(seed=0)  # checks the other options

    def _solver(self, seed: int) -> Sliced:
        """The library's."""
        return Sliced(self.order, self.num_projections, seed, debiased=self.debiased)

    def _cost(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Tensor:
        """Along directions of a seed that the global generator draws: each step has its own."""
        seed = int(torch.randint(2**62, ()))
        cost = self._solver(seed).solve(real, fake).cost
        return cost if self.space == "critic" else cost * real.shape[1] ** (self.order / 2)


@dataclass(frozen=True)
class MaxSWG(_Primal):
    """The max-sliced Wasserstein generator, along the direction that its critic finds.

    L_G = W_2^2(w . h(x), w . h(y)) with the features h and the last linear layer w, divided by its
    length, of a critic with L_D = E softplus(-D(x)) + E softplus(D(y)). The critic stands for the
    maximum over directions, as in the paper, whose other surrogates are not offered.

    Attributes:
        gamma: Weight of the penalties on the critic's gradients, which the paper does not have.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Deshpande et al., Max-sliced Wasserstein distance and its use for GANs, 2019.
    """

    gamma: float = option(0.0, _GAMMA)

    def __post_init__(self) -> None:
        check_not_negative("gamma", self.gamma)

    def _cost(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Tensor:
        """Along the one direction."""
        weight = critic_of(networks).head.weight
        assert isinstance(weight, Tensor)
        direction = F.normalize(weight.detach()[0].to(fake.dtype), dim=0)
        return univariate_cost(real @ direction, fake @ direction).to(fake.dtype)


@dataclass(frozen=True)
class ExactOT(_Primal):
    """The exact transport cost of each batch.

    L_G = W_p^p = min_P sum_ij P_ij |h_i - h_j|^p, differentiated for the plan P fixed. h are the
    samples divided by the root of their dimension, or the features of a critic with L_D = E
    softplus(-D(x)) + E softplus(D(y)). The critic is ours, after the sliced generator's.

    Attributes:
        order: p; see `SWG`.
        space: Whether to compare samples or features of a critic.
        gamma: Weight of the penalties on the critic's gradients.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Fatras et al., Learning with minibatch Wasserstein: asymptotic and gradient properties,
        2020.
    """

    order: float = option(2.0, ORDER)
    space: str = option("data", "Compare samples, or features of a critic.", _SPACES)
    gamma: float = option(0.0, _GAMMA)

    def __post_init__(self) -> None:
        check_order(self.order)
        check_choices(self)
        check_not_negative("gamma", self.gamma)

    def _cost(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Tensor:
        """Under the optimal plan."""
        return Exact(self.order).solve(real, fake).cost


@dataclass(frozen=True)
class SinkhornGAN(Objective):
    """The debiased Sinkhorn divergence, with a fixed or a learned cost.

    L_G = S = OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2 with the entropic cost OT = min <P, C> +
    epsilon KL(P | a x b) of C = |h(x) - h(y)|^p; L_D = -S for learned features h, whose network
    keeps its weights in [-c, c]. On samples h divides by the root of the dimension.

    Ours: the gradient is that of the solved problem, by the envelope theorem, unless `unrolled`
    asks for that through the iterations, as the paper has it; S is half of the paper's and is the
    entropic cost, not <P, C> alone; epsilon is a share of the mean cost, a constant for the
    gradient, as features grow.

    Attributes:
        order: p; see `SWG`.
        cost: Whether the cost is that of the samples, or learned.
        epsilon: Regularisation as a share of the mean cost.
        tolerance: Largest L1 error of a marginal, without `unrolled`.
        unrolled: Iterations to differentiate through; 0 for the envelope theorem.
        clip: The limit c of a learned cost.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Genevay, Peyre, Cuturi, Learning generative models with Sinkhorn divergences, 2018, section
        3; Feydy et al., Interpolating between optimal transport and MMD using Sinkhorn divergences,
        2019, equation (3).
    """

    order: float = option(2.0, ORDER)
    cost: str = option("data", "Cost of the samples, or learned on features.", ("data", "critic"))
    epsilon: float = option(0.05, "Regularisation epsilon as a share of the mean cost.")
    tolerance: float = option(1e-5, "Largest L1 error of a marginal.")
    unrolled: int = option(0, "Iterations to differentiate through; 0 for the envelope theorem.")
    clip: float = option(0.01, "Limit c of the weights of a learned cost.")

    def __post_init__(self) -> None:
        check_order(self.order)
        check_choices(self)
        check_positive("epsilon", self.epsilon)
        check_share("tolerance", self.tolerance)
        check_at_least("unrolled", self.unrolled, 0)
        check_positive("clip", self.clip)

    def networks(self, critic: Callable[[str], Critic]) -> nn.ModuleDict:
        """The features of a learned cost, within their limits."""
        if self.cost == "data":
            return nn.ModuleDict()
        networks = nn.ModuleDict({"features": critic(self.normalization).body})
        clip(networks, self.clip)
        return networks

    def critic_steps(self, step: int) -> int:
        """One, if the cost is learned."""
        return int(self.cost == "critic")

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """Ascent of S."""
        loss = self.generator_loss(networks, real, fake)
        return Loss(-loss.value, loss.logs)

    def after_critic_step(self, networks: nn.ModuleDict) -> dict[str, Tensor]:
        """Clip."""
        return clip(networks, self.clip)

    def generator_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """S, with whether it "converged"."""
        if self.cost == "critic":
            real, fake = learned_features(networks, real), learned_features(networks, fake)
        else:
            real, fake = flat(real), flat(fake)
        with torch.autocast(real.device.type, enabled=False):
            if self.unrolled:
                value = unrolled_sinkhorn_divergence(
                    real,
                    fake,
                    order=self.order,
                    epsilon=self.epsilon,
                    num_iterations=self.unrolled,
                )
                return Loss(value, {})
            solver = Sinkhorn(self.order, self.epsilon, tolerance=self.tolerance)
            with unconverged_untold():  # it would repeat at every step
                result, _ = solver.solve_from(real, fake)
            converged = result.cost.new_tensor(float(result.converged))
            return Loss(result.cost, {"converged": converged})
