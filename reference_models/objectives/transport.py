"""Transport costs as the loss of the generator, on the samples or on features of a critic."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from otmetrics.checks import check_not_negative, check_order, check_positive, check_share
from otmetrics.errors import Argument, OptionError, unconverged_untold
from otmetrics.functional import univariate_cost, unrolled_sinkhorn_divergence
from otmetrics.transport.exact.exact import Exact
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
from otmetrics.transport.sliced.sliced import Sliced

from ..networks import Critic
from .adversarial import cross_entropy
from .base import Loss, Objective, at_least, critic_of, option
from .wasserstein import clip

_SPACES = ("critic", "data")


def order_option() -> Any:
    """The option `order`, of each objective its own field."""
    text = "Order p of the cost |x - y|^p; of one that is learned as a cosine, 2."
    return option(2.0, text, check=lambda name, order: check_order(order))


def _gamma_option() -> Any:
    text = "Weight of penalties on the gradients of a critic at real and fake; 0 for none."
    return option(0.0, text, check=check_not_negative)


def flat(samples: Tensor) -> Tensor:
    """Samples of D numbers as points (B, D) that are |x - y|^2 / D apart in square."""
    points = full(samples).flatten(1)
    return points / points.shape[1] ** 0.5


def full(values: Tensor) -> Tensor:
    """Values in at least float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def on_sphere(features: Tensor) -> Tensor:
    """Features (B, F) as points of length 1 / sqrt(2), 1 - cos of their angle apart in square."""
    return F.normalize(features, dim=1) / 2**0.5


class LearnedCost(Objective):
    """A cost of the samples, or of learned features that ascend what the generator descends."""

    cost: str  # "data" for the samples, "critic" for features, "cosine" for those on the sphere
    order: float  # p of |x - y|^p
    num_generator_steps: int = 1  # for one step of the features

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cost == "cosine" and self.order != 2:
            raise OptionError(
                Argument("order"),
                " must be 2 for ",
                Argument("cost"),
                f' "cosine", which is half of a squared distance, got {self.order!r}.',
            )

    def networks(self, critic: Callable[[str], Critic]) -> nn.ModuleDict:
        """The features of a learned cost."""
        if self.cost == "data":
            return nn.ModuleDict()
        return nn.ModuleDict({"features": critic(self.normalization).body})

    def critic_steps(self, step: int) -> int:
        """One for so many generator steps, if the cost is learned."""
        return int(self.cost != "data" and step % self.num_generator_steps == 0)

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """Ascent of the generator's loss."""
        loss = self.generator_loss(networks, real, fake)
        return Loss(-loss.value, loss.logs)

    def points(self, networks: nn.ModuleDict, samples: Tensor) -> Tensor:
        """The points (B, D) that the cost compares, in at least float32 also under autocast."""
        if self.cost == "data":
            return flat(samples)
        features = full(networks["features"](samples))
        return on_sphere(features) if self.cost == "cosine" else features


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

        # Differences of costs need more digits than bfloat16 has.
        with torch.autocast(real.device.type, enabled=False):
            return Loss(self._cost(networks, real, fake), {})

    def _cost(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Tensor:
        """The cost between points (B, D)."""
        raise NotImplementedError


@dataclass(frozen=True)
class SWG(_Primal):
    """The sliced Wasserstein generator.

    L_G = SW_p^p = E_theta W_p^p(theta . h(x), theta . h(y)), theta uniform on the unit sphere, new
    in each step; h are the features of a critic with L_D = E softplus(-D(x)) + E softplus(D(y)), or
    the samples themselves, where at p = 2 a shift of all D numbers of a sample by s costs s^2. The
    paper has p = 2. A sample that batches draw now to one mode, now to another, rests between them
    at p = 2, at the mean, and on one of them at p = 1, at the median.

    Ours: directions come in orthonormal blocks and with control variates, so that 1000 of them do
    for the 10 000 independent ones of the paper. With `debiased` the estimate is from halves, whose
    expectation is 0 where both distributions agree; see `otmetrics.Sliced`. The paper has no
    penalties on the critic's gradients.

    References:
        Deshpande, Zhang, Schwing, Generative modeling using the sliced Wasserstein distance, 2018.
    """

    order: float = order_option()
    space: str = option("critic", "Compare features of a critic, or samples.", _SPACES)
    num_projections: int = option(1000, "Number L of random directions.")
    debiased: bool = option(False, "Estimate from halves, without bias between batches.")
    gamma: float = _gamma_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._solver(seed=0)  # checks its own options

    def _solver(self, seed: int) -> Sliced:
        return Sliced(self.order, self.num_projections, seed, debiased=self.debiased)

    def _cost(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Tensor:
        """Along directions of a seed that the global generator draws: each step has its own."""
        seed = int(torch.randint(2**62, ()))
        cost = self._solver(seed).solve(real, fake).cost
        # A slice sees 1 / D of a squared distance, which `flat` has divided by D already.
        return cost if self.space == "critic" else cost * real.shape[1] ** (self.order / 2)


@dataclass(frozen=True)
class MaxSWG(_Primal):
    """The max-sliced Wasserstein generator, along the direction that its critic finds.

    L_G = W_2^2(w . h(x), w . h(y)) with the features h and the last linear layer w, divided by its
    length, of a critic with L_D = E softplus(-D(x)) + E softplus(D(y)). The critic stands for the
    maximum over directions, as in the paper, whose other surrogates are not offered. The paper has
    no penalties on the critic's gradients.

    References:
        Deshpande et al., Max-sliced Wasserstein distance and its use for GANs, 2019.
    """

    gamma: float = _gamma_option()

    def _cost(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Tensor:
        """Along the one direction."""
        # A constant: the critic finds the direction, and no gradient goes through it.
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

    References:
        Fatras et al., Learning with minibatch Wasserstein: asymptotic and gradient properties,
        2020.
    """

    order: float = order_option()
    space: str = option("data", "Compare samples, or features of a critic.", _SPACES)
    gamma: float = _gamma_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        Exact(self.order)  # checks its own options

    def _cost(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Tensor:
        """Under the optimal plan."""
        return Exact(self.order).solve(real, fake).cost


@dataclass(frozen=True)
class SinkhornGAN(LearnedCost):
    """The debiased Sinkhorn divergence, with a fixed or a learned cost.

    L_G = S = OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2 with the entropic cost OT = min <P, C> +
    epsilon KL(P | a x b) of C = |h(x) - h(y)|^p; L_D = -S for learned features h, whose network
    keeps its weights in [-c, c]. On samples h divides by the root of the dimension.

    Ours: the gradient is that of the solved problem, by the envelope theorem, unless `unrolled`
    asks for that through the iterations, as the paper has it; S is half of the paper's and is the
    entropic cost, not <P, C> alone; epsilon is a share of the mean cost, a constant for the
    gradient, as features grow.

    References:
        Genevay, Peyre, Cuturi, Learning generative models with Sinkhorn divergences, 2018, section
        3; Feydy et al., Interpolating between optimal transport and MMD using Sinkhorn divergences,
        2019, equation (3).
    """

    order: float = order_option()
    cost: str = option("data", "Cost of the samples, or learned on features.", ("data", "critic"))
    epsilon: float = option(
        0.05, "Regularisation epsilon as a share of the mean cost.", check=check_positive
    )
    tolerance: float = option(1e-5, "Largest L1 error of a marginal.", check=check_share)
    unrolled: int = option(
        0, "Iterations to differentiate through; 0 for the envelope theorem.", check=at_least(0)
    )
    clip: float = option(0.01, "Limit c of the weights of a learned cost.", check=check_positive)

    def networks(self, critic: Callable[[str], Critic]) -> nn.ModuleDict:
        """The features of a learned cost, within their limits."""
        networks = super().networks(critic)
        if networks:
            clip(networks, self.clip)
        return networks

    def after_critic_step(self, networks: nn.ModuleDict) -> dict[str, Tensor]:
        """Clip."""
        return clip(networks, self.clip)

    def generator_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """S, with whether it "converged"."""
        real, fake = self.points(networks, real), self.points(networks, fake)
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
