"""The energy distance between distributions of mini-batches, with transport as their distance."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from otmetrics.checks import check_positive, check_share
from otmetrics.functional import cost_matrix

from .base import Loss, at_least, halves, option
from .duals import Smoothing, kl_potentials
from .transport import LearnedCost, order_option

_PAIRS = ((0, 2), (0, 3), (1, 2), (1, 3), (0, 1), (2, 3))  # of X, X', Y, Y'
_WEIGHTS = (1.0, 1.0, 1.0, 1.0, -2.0, -2.0)
_MOST = 500  # iterations, as in the paper


@dataclass(frozen=True)
class OTGAN(LearnedCost):
    """The mini-batch energy distance, on a cost that is learned.

    L_G = W(X, Y) + W(X, Y') + W(X', Y) + W(X', Y') - 2 W(X, X') - 2 W(Y, Y') for independent
    batches X, X' of real and Y, Y' of fake samples, L_D = -L_G. W = <M, C> is the cost of the
    entropic plan M, which carries no gradient, C_ij = 1 - cos(v(x_i), v(y_j)) for features v; a
    cost that is not learned is (|x - y|^2 / 2 D)^(p / 2) on samples of D numbers. The expectation
    of L_G is 0 where both distributions agree, as that of no W is; a value may be negative.

    Ours: iterations stop at a marginal error, and at 500 as in the paper; the critic has no weight
    normalisation, as the features have length one in any case. Batches of the paper have 8000
    samples; it found 200 unstable.

    References:
        Salimans, Zhang, Radford, Metaxas, Improving GANs using optimal transport, 2018,
        algorithm 1; Bellemare et al., The Cramer distance as a solution to biased
        Wasserstein gradients, 2017 (the energy distance).
    """

    independent_halves: ClassVar[bool] = True

    cost: str = option("cosine", "Cost learned on features, or of the samples.", ("cosine", "data"))
    order: float = order_option()
    epsilon: float = option(
        1 / 500, "Regularisation epsilon of the plans, in units of the cost.", check=check_positive
    )
    num_generator_steps: int = option(3, "Generator steps for one critic step.", check=at_least(1))
    tolerance: float = option(1e-3, "Largest L1 error of a marginal of a plan.", check=check_share)

    def generator_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """The distance, with the largest "marginal_error" of its plans."""
        real, fake = self.points(networks, real), self.points(networks, fake)
        # As 1 - cos, a cost of the samples is half of a squared distance.
        if self.cost == "data":
            real, fake = real / 2**0.5, fake / 2**0.5
        batches = *halves(real), *halves(fake)
        x, y = (torch.stack([batches[pair[side]] for pair in _PAIRS]) for side in (0, 1))

        cost = cost_matrix(x, y, order=self.order)
        with torch.no_grad():  # the plans are constants, by the envelope theorem
            potentials = kl_potentials(x, y, self.epsilon, self.tolerance, _MOST, order=self.order)
            density = Smoothing("kl", self.epsilon).dual(*potentials, cost.double())[1]
            error = (density.mean(2) - 1).abs().mean(1).max()

        transport = (density.to(cost) * cost).mean((1, 2))
        value = (transport * transport.new_tensor(_WEIGHTS)).sum()
        return Loss(value, {"marginal_error": error})
