"""The dual W_1 = max E f(x) - E f(y) over critics that are kept Lipschitz."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from otmetrics.checks import check_flag, check_positive

from ..networks import Critic
from .adversarial import CRITIC_STEPS, ScoreObjective, score_logs
from .base import Loss, at_least, critic_of, gradient_norms, option

WARM_UP = "Take 100 critic steps at first and at every 500th step."

_CLIPPED = 0.99  # of the limit, from where a weight counts as clipped


@torch.no_grad()
def clip(networks: nn.ModuleDict, limit: float) -> dict[str, Tensor]:
    """Clip every parameter to [-limit, limit], in place, and log the share that is "clipped".

    Near one the critic has become a signed sum, and the limit is too small for its depth.
    """
    parameters = [parameter.clamp_(-limit, limit) for parameter in networks.parameters()]
    at_limit = sum((p.abs() > _CLIPPED * limit).sum() for p in parameters)
    return {"clipped": torch.as_tensor(at_limit) / sum(p.numel() for p in parameters)}


@dataclass(frozen=True)
class WGAN(ScoreObjective):
    """The Wasserstein GAN with clipped weights.

    L_D = E f(y) - E f(x) over critics with weights in [-c, c],  L_G = -E f(y).

    Clipping bounds the Lipschitz constant of f by an unknown number, so that E f(x) - E f(y), the
    log "wasserstein", is W_1 in unknown units: compare it only within one run. The authors take
    RMSprop without momentum, with which alone it was stable.

    Ours: weights are clipped when they are made and after each step, biases too, which are the
    weights of their code; the critic is not batch-normalised, which would make f depend on the
    batch.

    References:
        Arjovsky, Chintala, Bottou, Wasserstein GAN, 2017, equations (2), (3) and algorithm 1; the
        warm-up is from the authors' code.
    """

    clip: float = option(0.01, "Limit c of the critic's weights.", check=check_positive)
    num_critic_steps: int = option(5, CRITIC_STEPS, check=at_least(1))
    warm_up: bool = option(True, WARM_UP, check=check_flag)

    def networks(self, critic: Callable[[str], Critic]) -> nn.ModuleDict:
        """A critic within its limits."""
        networks = super().networks(critic)
        # Before the first step already: fresh weights are far beyond the limit.
        clip(networks, self.clip)
        return networks

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """L_D."""
        return dual_loss(critic_of(networks), real, fake)

    def after_critic_step(self, networks: nn.ModuleDict) -> dict[str, Tensor]:
        """Clip."""
        return clip(networks, self.clip)


@dataclass(frozen=True)
class WGANGP(ScoreObjective):
    """The Wasserstein GAN with a gradient penalty.

    L_D = E f(y) - E f(x) + lambda E (|grad f(z)| - 1)^2,  L_G = -E f(y), with z = t x + (1 - t) y
    and t uniform in [0, 1], one for each pair of samples.

    The optimal critic has slopes of length one between points that the optimal plan pairs
    (proposition 1), so that E f(x) - E f(y), the log "wasserstein", comes near W_1. No layer is
    batch-normalised: the penalty is one of single samples. The authors' code has lambda = 0.1 for
    points in the plane.

    Ours: the penalty is float32 also under autocast, and the length has a finite slope at 0.

    References:
        Gulrajani et al., Improved training of Wasserstein GANs, 2017, equation (3).
    """

    penalty: float = option(10.0, "Weight lambda of the gradient penalty.", check=check_positive)
    num_critic_steps: int = option(5, CRITIC_STEPS, check=at_least(1))

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """L_D."""
        critic = critic_of(networks)
        dual = dual_loss(critic, real, fake)
        lengths = gradient_norms(critic, interpolate(real, fake))
        value = dual.value + self.penalty * (lengths - 1).square().mean()
        return Loss(value, dual.logs | {"gradient_norm": lengths.detach().mean()})


def dual_loss(critic: Critic, real: Tensor, fake: Tensor) -> Loss:
    """The loss E f(y) - E f(x) of a critic f, with its negative as the log "wasserstein"."""
    on_real, on_fake = critic(real), critic(fake)
    value = on_fake.mean() - on_real.mean()
    return Loss(value, score_logs(on_real, on_fake) | {"wasserstein": -value.detach()})


def interpolate(real: Tensor, fake: Tensor) -> Tensor:
    """A uniformly random point between each real sample and the fake one in its place."""
    shape = (len(real), *[1] * (real.ndim - 1))
    t = torch.rand(shape, device=real.device, dtype=real.dtype)
    return t * real + (1 - t) * fake
