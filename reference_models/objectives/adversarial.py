"""Critics that tell real from fake: the baselines without a transport problem."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from otmetrics.checks import check_positive

from ..networks import Critic
from .base import Loss, Objective, at_least, critic_of, gradient_norms, option

CRITIC_STEPS = "Critic steps per generator step."


def cross_entropy(networks: nn.ModuleDict, real: Tensor, fake: Tensor, gamma: float = 0.0) -> Loss:
    """Binary cross-entropy E softplus(-D(x)) + E softplus(D(y)) of a critic that returns logits.

    `gamma` weighs `zero_centred` penalties; 0 for none.
    """
    critic = critic_of(networks)
    on_real, on_fake = critic(real), critic(fake)
    value = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
    logs = score_logs(on_real, on_fake)

    # Not a weight of zero: gradients of the scores would cost a second pass for nothing.
    if not gamma:
        return Loss(value, logs)
    penalty = zero_centred(critic, real, fake, gamma)
    return Loss(value + penalty.value, logs | penalty.logs)


def hinge(networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
    """Hinge loss E max(0, 1 - D(x)) + E max(0, 1 + D(y)) of a critic."""
    critic = critic_of(networks)
    on_real, on_fake = critic(real), critic(fake)
    value = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
    return Loss(value, score_logs(on_real, on_fake))


def zero_centred(critic: Critic, real: Tensor, fake: Tensor, gamma: float) -> Loss:
    """Penalties gamma / 2 (E |grad D(x)|^2 + E |grad D(y)|^2), in float32 also under autocast.

    Both means are logged, as "r1" and "r2".
    """
    r1, r2 = (gradient_norms(critic, side).square().mean() for side in (real, fake))
    return Loss(gamma / 2 * (r1 + r2), {"r1": r1.detach(), "r2": r2.detach()})


def score_logs(on_real: Tensor, on_fake: Tensor) -> dict[str, Tensor]:
    """Mean scores of both sides, to log as "real_score" and "fake_score"."""
    return {"real_score": on_real.detach().mean(), "fake_score": on_fake.detach().mean()}


class ScoreObjective(Objective):
    """What objectives share whose generator raises the scores: L_G = -E D(y)."""

    def generator_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """L_G; `real` is not used."""
        return Loss(-critic_of(networks)(fake).mean(), {})


@dataclass(frozen=True)
class DCGAN(Objective):
    """The non-saturating loss of the first GANs, with the normalisation of DCGAN.

    L_D = E softplus(-D(x)) + E softplus(D(y)),  L_G = E softplus(-D(y)),  softplus(-s) = -log
    sigmoid(s).

    Ours: convolutional critics are batch-normalised as in DCGAN, in all layers but the first, real
    and fake each by their own batch; MLPs are not, as their first layer would be too, and a shift
    or a scaling of all fake samples would be invisible to them.

    References:
        Goodfellow et al., Generative adversarial nets, 2014, section 3 (the loss of the generator);
        Radford, Metz, Chintala, Unsupervised representation learning with deep convolutional
        generative adversarial networks, 2016.
    """

    normalization: ClassVar[str] = "batch"

    def networks(self, critic: Callable[[str], Critic]) -> nn.ModuleDict:
        """A critic, batch-normalised if it is convolutional."""
        networks = super().networks(critic)
        # Only the critic itself says whether its architecture is an MLP.
        if any(isinstance(layer, nn.BatchNorm1d) for layer in networks.modules()):
            return nn.ModuleDict({"critic": critic("none")})
        return networks

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """L_D."""
        return cross_entropy(networks, real, fake)

    def generator_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """L_G."""
        return Loss(F.softplus(-critic_of(networks)(fake)).mean(), {})


@dataclass(frozen=True)
class SNGAN(ScoreObjective):
    """The hinge loss with a critic of spectral norm one in every layer.

    L_D = E max(0, 1 - D(x)) + E max(0, 1 + D(y)),  L_G = -E D(y).

    Ours: real and fake batches of one size, where the authors' generator takes twice as many.

    References:
        Miyato, Kataoka, Koyama, Yoshida, Spectral normalization for generative adversarial
        networks, 2018, section 4.
    """

    normalization: ClassVar[str] = "spectral"

    num_critic_steps: int = option(5, CRITIC_STEPS, check=at_least(1))

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """L_D."""
        return hinge(networks, real, fake)


@dataclass(frozen=True)
class R3GAN(Objective):
    """The relativistic pairing loss with both zero-centred gradient penalties.

    L_D = E softplus(-(D(x) - D(y))) + gamma / 2 (E |grad D(x)|^2 + E |grad D(y)|^2),
    L_G = E softplus(-(D(y) - D(x))),  each real sample paired with the fake one in its place.

    The authors take gamma = 0.05 at first on CIFAR-10, and 2 on faces of 64 pixels.

    Ours: gamma is constant, where the authors let it fall to a tenth on a cosine; the networks are
    those that every objective here takes. Penalties are float32 also under autocast.

    References:
        Huang, Gokaslan, Kuleshov, Tompkin, The GAN is dead; long live the GAN! A modern GAN
        baseline, 2024; Mescheder, Geiger, Nowozin, Which training methods for GANs do actually
        converge?, 2018 (R1 and R2); Jolicoeur-Martineau, On relativistic f-divergences, 2020 (the
        pairing).
    """

    gamma: float = option(
        0.05, "Weight gamma of the gradient penalties R1 and R2.", check=check_positive
    )

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """L_D."""
        critic = critic_of(networks)
        on_real, on_fake = critic(real), critic(fake)
        penalty = zero_centred(critic, real, fake, self.gamma)
        value = F.softplus(on_fake - on_real).mean() + penalty.value
        return Loss(value, score_logs(on_real, on_fake) | penalty.logs)

    def generator_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """L_G."""
        critic = critic_of(networks)
        with torch.no_grad():  # nothing of the generator is behind real samples
            on_real = critic(real)
        return Loss(F.softplus(on_real - critic(fake)).mean(), {})
