"""The dual W_1 = max E f(x) - E f(y) over critics that are kept Lipschitz."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from otmetrics.checks import check_at_least, check_flag, check_positive

from ..networks import Critic
from .adversarial import ScoreObjective, critic_of, score_logs
from .base import Loss, gradient_norms, option

_FIRST = 25  # generator steps, each after a critic trained to near its optimum
_AGAIN = 500  # and so every so many steps
_MANY = 100  # critic steps that this takes
_CLIPPED = 0.99  # of the limit, from where a weight counts as clipped


def warmed_up(step: int, num_steps: int) -> int:
    """Critic steps with those longer phases that the code of WGAN has and its paper has not.

    Args:
        step: Generator steps so far.
        num_steps: Critic steps a generator step otherwise.

    Returns:
        100 at each of the first 25 steps and at every 500th, or the other number.
    """
    return max(_MANY, num_steps) if step < _FIRST or step % _AGAIN == 0 else num_steps


@torch.no_grad()
def clip(networks: nn.ModuleDict, limit: float) -> dict[str, Tensor]:
    """Clip every parameter to [-limit, limit], in place.

    Args:
        networks: Networks to change.
        limit: The largest size of a parameter.

    Returns:
        The share of parameters at the limit, as "clipped": near one the critic has become a signed
        sum, and the limit is too small for its depth.
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

    Attributes:
        clip: The limit c.
        num_critic_steps: Critic steps a generator step.
        warm_up: Whether the first 25 generator steps and every 500th take 100 critic steps.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Arjovsky, Chintala, Bottou, Wasserstein GAN, 2017, equations (2), (3) and algorithm 1; the
        warm-up is from the authors' code.
    """

    clip: float = option(0.01, "Limit c of the critic's weights.")
    num_critic_steps: int = option(5, "Critic steps a generator step.")
    warm_up: bool = option(True, "Take 100 critic steps at first and at every 500th step.")

    def __post_init__(self) -> None:
        check_positive("clip", self.clip)
        check_at_least("num_critic_steps", self.num_critic_steps, 1)
        check_flag("warm_up", self.warm_up)

    def networks(self, critic: Callable[[str], Critic]) -> nn.ModuleDict:
        """A critic within its limits."""
        networks = super().networks(critic)
        clip(networks, self.clip)
        return networks

    def critic_steps(self, step: int) -> int:
        """More of them in the warm-up."""
        return warmed_up(step, self.num_critic_steps) if self.warm_up else self.num_critic_steps

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
    batch-normalised: the penalty is one of single samples.

    Ours: the penalty is float32 also under autocast, and the length has a finite slope at 0.

    Attributes:
        penalty: The weight lambda; the authors' code has 0.1 for points in the plane.
        num_critic_steps: Critic steps a generator step.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        Gulrajani et al., Improved training of Wasserstein GANs, 2017, equation (3).
    """

    penalty: float = option(10.0, "Weight lambda of the gradient penalty.")
    num_critic_steps: int = option(5, "Critic steps a generator step.")

    def __post_init__(self) -> None:
        check_positive("penalty", self.penalty)
        check_at_least("num_critic_steps", self.num_critic_steps, 1)

    def critic_steps(self, step: int) -> int:
        """The same at every step."""
        return self.num_critic_steps

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """L_D."""
        critic = critic_of(networks)
        dual = dual_loss(critic, real, fake)
        lengths = gradient_norms(critic, interpolate(real, fake))
        value = dual.value + self.penalty * (lengths - 1).square().mean()
        return Loss(value, dual.logs | {"gradient_norm": lengths.detach().mean()})


def dual_loss(critic: Critic, real: Tensor, fake: Tensor) -> Loss:
    """The loss E f(y) - E f(x) of a critic f.

    Args:
        critic: The critic.
        real: Samples x (B, ...).
        fake: Samples y (B, ...).

    Returns:
        The loss, with its negative as "wasserstein".
    """
    on_real, on_fake = critic(real), critic(fake)
    value = on_fake.mean() - on_real.mean()
    return Loss(value, score_logs(on_real, on_fake) | {"wasserstein": -value.detach()})


def interpolate(real: Tensor, fake: Tensor) -> Tensor:
    """A uniformly random point of the line between each real sample and the fake one in its place.

    Args:
        real: Samples (B, ...).
        fake: Samples (B, ...).

    Returns:
        Points (B, ...).
    """
    shape = (len(real), *[1] * (real.ndim - 1))
    t = torch.rand(shape, device=real.device, dtype=real.dtype)
    return t * real + (1 - t) * fake
