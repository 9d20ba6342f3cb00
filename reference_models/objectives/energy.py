"""The energy distance between laws of mini-batches, with transport as the distance of batches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from otmetrics.checks import check_at_least, check_positive, check_share
from otmetrics.functional import cost_matrix

from ..networks import Critic
from .base import Loss, Objective, check_choices, halves, option
from .duals import Smoothing, kl_potentials
from .transport import ORDER, check_cost_order, flat, learned_features, on_sphere

_PAIRS = ((0, 2), (0, 3), (1, 2), (1, 3), (0, 1), (2, 3))  # of X, X', Y, Y'
_WEIGHTS = (1.0, 1.0, 1.0, 1.0, -2.0, -2.0)
_MOST = 500  # iterations, as in the paper


@dataclass(frozen=True)
class OTGAN(Objective):
    """The mini-batch energy distance, on a cost that is learned.

    L_G = W(X, Y) + W(X, Y') + W(X', Y) + W(X', Y') - 2 W(X, X') - 2 W(Y, Y') for independent
    batches X, X' of real and Y, Y' of fake samples, L_D = -L_G. W = <M, C> is the cost of the
    entropic plan M, which carries no gradient, C_ij = 1 - cos(v(x_i), v(y_j)) for features v.
    The expectation of L_G is 0 where both laws agree, as that of no W is; a value may be negative.

    Ours: iterations stop at a marginal error, and at 500 as in the paper; the critic has no weight
    normalisation, as the features have length one in any case. Batches of the paper have 8000
    samples; it found 200 unstable.

    Attributes:
        cost: Whether the cost is learned, or (|x - y|^2 / 2 D)^(p / 2) on samples of D numbers.
        order: p of a cost that is not learned; see `SWG`.
        epsilon: Regularisation of M, in the units of C.
        num_generator_steps: Generator steps for one critic step.
        tolerance: Largest L1 error of a marginal of M.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Salimans, Zhang, Radford, Metaxas, Improving GANs using optimal transport, 2018,
        algorithm 1; Bellemare et al., The Cramer distance as a solution to biased
        Wasserstein gradients, 2017 (the energy distance).
    """

    independent_halves: ClassVar[bool] = True

    cost: str = option("cosine", "Cost learned on features, or of the samples.", ("cosine", "data"))
    order: float = option(2.0, ORDER)
    epsilon: float = option(1 / 500, "Regularisation epsilon of the plans, in units of the cost.")
    num_generator_steps: int = option(3, "Generator steps for one critic step.")
    tolerance: float = option(1e-3, "Largest L1 error of a marginal of a plan.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_cost_order(self.order, self.cost)
        check_positive("epsilon", self.epsilon)
        check_at_least("num_generator_steps", self.num_generator_steps, 1)
        check_share("tolerance", self.tolerance)

    def networks(self, critic: Callable[[str], Critic]) -> nn.ModuleDict:
        """The features of a learned cost."""
        if self.cost == "data":
            return nn.ModuleDict()
        return nn.ModuleDict({"features": critic(self.normalization).body})

    def critic_steps(self, step: int) -> int:
        """One for so many generator steps, if the cost is learned."""
        return int(self.cost == "cosine" and step % self.num_generator_steps == 0)

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """Ascent of the distance."""
        loss = self.generator_loss(networks, real, fake)
        return Loss(-loss.value, loss.logs)

    def generator_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """The distance, with the largest "marginal_error" of its plans."""
        if self.cost == "cosine":
            real, fake = (on_sphere(learned_features(networks, side)) for side in (real, fake))
        else:
            real, fake = flat(real) / 2**0.5, flat(fake) / 2**0.5
        batches = *halves(real), *halves(fake)
        x, y = (torch.stack([batches[pair[side]] for pair in _PAIRS]) for side in (0, 1))
        cost = cost_matrix(x, y, order=self.order)
        with torch.no_grad():
            potentials = kl_potentials(x, y, self.epsilon, self.tolerance, _MOST, order=self.order)
            density = Smoothing("kl", self.epsilon).dual(*potentials, cost.double())[1]
            error = (density.mean(2) - 1).abs().mean(1).max()
        transport = (density.to(cost) * cost).mean((1, 2))
        value = (transport * transport.new_tensor(_WEIGHTS)).sum()
        return Loss(value, {"marginal_error": error})
