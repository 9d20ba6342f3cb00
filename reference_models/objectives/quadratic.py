"""The exact dual of a batch, to which a critic is fitted by regression."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from otmetrics.checks import check_flag, check_not_negative, check_positive
from otmetrics.transport.exact.exact import Exact

from .adversarial import CRITIC_STEPS, ScoreObjective, score_logs
from .base import Loss, at_least, critic_of, gradients, lengths, option
from .wasserstein import WARM_UP


class Targets(NamedTuple):
    """What the optimal critic of a batch does."""

    real: Tensor  # its scores f(x_i) of real samples, (B,)
    fake: Tensor  # its scores g(y_j) of fake samples, (B,)
    gradients: Tensor  # its gradients at y_j, (B, D)
    cost: Tensor  # the optimal cost E f(x) - E g(y) of the batch


@torch.no_grad()
def targets(real: Tensor, fake: Tensor, scale: float) -> Targets:
    """The optimal critic of a batch for the cost c(x, y) = K / 2 |x - y|^2, K the scale.

    It solves max E f(x) - E g(y) under f(x_i) - g(y_j) <= c(x_i, y_j), with equality where the
    optimal plan moves mass. From g(y) = max_i f(x_i) - c(x_i, y) its gradient at y_j is
    K (x_i - y_j): it points to the real sample x_i that the plan pairs with y_j. f and g are two
    functions: only for a metric as cost they are one. All scores together have mean 0.
    """
    x, y = real.flatten(1), fake.flatten(1)
    result = Exact().solve(x.double(), y.double())  # for potentials in float64
    assert result.potentials is not None
    assert result.plan is not None

    # The library's f_i + g_j <= |x_i - y_j|^2: f are the scores of real, -g those of fake.
    f, g = result.potentials
    centre = (f.mean() - g.mean()) / 2
    on_real, on_fake = (f - centre) * scale / 2, (-g - centre) * scale / 2

    # Of equally heavy samples the plan pairs one to one.
    matched = x[result.plan.to_dense().argmax(0)]
    return Targets(
        on_real.to(x), on_fake.to(x), scale * (matched - y), result.cost.to(x) * scale / 2
    )


@dataclass(frozen=True)
class WGANQC(ScoreObjective):
    """The Wasserstein GAN with quadratic cost: a critic fitted to the exact dual of each batch.

    With c(x, y) = K / 2 |x - y|^2 and the optimal scores f (real) and g (fake) of the batch, see
    `targets`, and T_j the real sample that the optimal plan pairs with y_j,

    L_D = 1/2 (mean D(x) - mean f)^2 + 1/2 mean_j (D(y_j) - g_j)^2
        + Lambda / 2 mean_j (|grad D(y_j)| / (2 sqrt(K)) - sqrt(K) / 2 |T_j - y_j|)^2,
    L_G = -E D(y),  Lambda = 4 sqrt(K) gamma.

    The last term, the optimal transport regulariser, fits |grad D(y_j)| to K |T_j - y_j|; the
    critic needs no Lipschitz bound. It learns g, and of f only the mean.

    Ours: the library's exact solver takes the place of a linear program with a warm start; the
    regulariser is float32 also under autocast. With match="vector" it is
    Lambda / (8 K) mean_j |grad D(y_j) - K (T_j - y_j)|^2, which fits the direction too: where
    batches disagree, the gradient learns their mean, while lengths, which have no sign, keep it
    from zero even where both distributions agree.

    References:
        Liu, Gu, Samaras, Wasserstein GAN with quadratic transport cost, 2019; Liu, Gu, Samaras, A
        two-step computation of the exact GAN Wasserstein distance, 2018.
    """

    scale: float = option(
        0.0, "Scale K of the cost K / 2 |x - y|^2; 0 for 1 / dimension.", check=check_not_negative
    )
    gamma: float = option(
        0.1, "Weight gamma of the optimal transport regulariser.", check=check_positive
    )
    match: str = option("length", "What of the slopes it fits.", ("length", "vector"))
    num_critic_steps: int = option(1, CRITIC_STEPS, check=at_least(1))
    warm_up: bool = option(False, WARM_UP, check=check_flag)

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """L_D, with the cost of the batch as "transport" and the regulariser as "otr"."""
        scale = self.scale or 1 / real[0].numel()
        goal = targets(real, fake, scale)
        critic = critic_of(networks)
        on_real, on_fake = critic(real), critic(fake)

        found = gradients(critic, fake)
        if self.match == "vector":
            misfit = (found - goal.gradients).square().sum(1)
        else:
            misfit = (lengths(found) - lengths(goal.gradients)).square()
        # Lambda / 2 = 2 sqrt(K) gamma, and the misfit is 4 K times that of the formula.
        otr = 4 * scale**0.5 * self.gamma / 2 * misfit.mean() / (4 * scale)

        regression = (on_real.mean() - goal.real.mean()).square() / 2
        regression = regression + (on_fake - goal.fake).square().mean() / 2
        logs = {"transport": goal.cost, "otr": otr.detach(), "regression": regression.detach()}
        return Loss(regression + otr, score_logs(on_real, on_fake) | logs)
