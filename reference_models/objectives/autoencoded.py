"""Generators that are decoders: their noise is transported to the codes of training samples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from otmetrics.checks import check_at_least, check_not_negative, check_positive, check_share
from otmetrics.transport.semidiscrete.extended_map import (
    RULES,
    ExtendedOptions,
    check_extended_options,
)
from otmetrics.transport.semidiscrete.sources import SOURCES

from ..networks import Critic
from .adversarial import critic_of, hinge
from .base import Loss, Objective, halves, option


@dataclass(frozen=True)
class AEOT(Objective):
    """An autoencoder, and semi-discrete optimal transport of noise to its codes.

    All steps but the last train encoder f and decoder g by E |g(f(x)) - x|^2 / D. The last one
    solves for the Brenier potential u(w) = max_i <w, z_i> + h_i that sends noise w to the codes
    z_i = f(x_i) of training samples, each cell as probable as the others. Samples are g(T(w)), T
    the extended map: between codes of neighbouring cells, but not across the breaks of the map,
    where two faces of u meet at a large angle; noise near them is rejected.

    Ours: angles are compared with that of each code and its fifth nearest one, not with one number
    of radians for all, which would reject classes that are spread out more often than others. Codes
    are not penalised, encoders normalise layers and see no other samples of a batch, and the
    decoder is not refined on fixed codes: rates fall to 0 instead. Of a run's options `noise`,
    `lr_generator` and `lr_critic` have no part in it.

    Attributes:
        num_codes: Codes M of the transport map.
        source: Law of the noise w.
        tolerance: Largest relative misfit of the share of a cell.
        max_rounds: Most rounds of 60 steps of the heights.
        angle: Largest angle of two faces in units of that of the own code and its fifth nearest
            one; 0 for no filter.
        num_faces: Highest faces of u at w that are looked at.
        rule: How codes of faces are mixed.
        share: Share of the neighbour's code.
        lr_autoencoder: Learning rate of encoder and decoder.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        An, Guo, Lei, Luo, Yau, Gu, AE-OT: a new generative model based on extended semi-discrete
        optimal transport, 2020; Lei, Su, Cui, Yau, Gu, A geometric view of optimal transportation
        and generative model, 2019.
    """

    num_codes: int = option(
        5000, "Codes of the transport map, of random training samples; all if there are fewer."
    )
    source: str = option("cube", "Law of the noise that is transported.", choices=SOURCES)
    tolerance: float = option(0.5, "Largest relative misfit of the share of a cell.")
    max_rounds: int = option(3, "Most rounds of 60 steps of the heights, each on twice the noise.")
    angle: float = option(
        1.0,
        "Largest angle of two faces in units of that with a code's fifth nearest; 0: no filter.",
    )
    num_faces: int = option(20, "Highest faces that are looked at for a neighbour.")
    rule: str = option("two-face", "How codes of neighbouring cells are mixed.", choices=RULES)
    share: float = option(
        0.0, "Share, up to 1, of the neighbour's code in two-face; 0 draws it uniformly."
    )
    lr_autoencoder: float = option(1e-3, "Learning rate of encoder and decoder.")

    def __post_init__(self) -> None:
        check_at_least("num_codes", self.num_codes, 20)
        check_positive("tolerance", self.tolerance)
        check_at_least("max_rounds", self.max_rounds, 0)
        check_not_negative("angle", self.angle)
        check_positive("lr_autoencoder", self.lr_autoencoder)
        options = ExtendedOptions(self.source, self.num_faces, self.rule, self.share)
        check_extended_options(options)

    def coding_steps(self, steps: int) -> int:
        """All but the last, which is the transport."""
        return max(1, steps - 1)

    def coding_loss(self, real: Tensor, rebuilt: Tensor) -> Loss:
        """Mean squared error of the rebuilt samples, over samples and their values."""
        error = (rebuilt - real).square().mean()
        return Loss(error, {})

    def networks(self, critic: Callable[[str], Critic]) -> nn.ModuleDict:
        """No critic."""
        return nn.ModuleDict()

    def critic_steps(self, step: int) -> int:
        """None."""
        return 0


@dataclass(frozen=True)
class AEOTGAN(AEOT):
    """The decoder of AE-OT, trained on as a generator against a critic.

    After the autoencoder and the transport of `ae-ot` z is drawn from T(w), and

    L_D = E max(0, 1 - D(x)) + E max(0, 1 + D(g(z))),
    L_G = -E D(g(z)) + content E |g(f(x)) - x|^2 / D + feature E |phi(g(f(x))) - phi(x)|^2 / F,

    phi the F features before the last layer of D. The encoder f stays: what the two last terms
    compare are training samples x and what the generator makes of their codes.

    Ours: the paper's text gives no weights; `content` and `feature` were chosen by the ablation on
    digits in the docs; on points, whose decoder is exact, `content` holds it there. D has spectral
    norm one in every layer, as in SNGAN. `noise` of a run has no part in it: w has `source`.

    Attributes:
        num_codes: Codes M of the transport map.
        source: Law of the noise w.
        tolerance: Largest relative misfit of the share of a cell.
        max_rounds: Most rounds of 60 steps of the heights.
        angle: Largest angle of two faces in units of that of the own code and its fifth nearest
            one; 0 for no filter.
        num_faces: Highest faces of u at w that are looked at.
        rule: How codes of faces are mixed.
        share: Share of the neighbour's code.
        lr_autoencoder: Learning rate of encoder and decoder.
        autoencoder_share: Share of all steps that train the autoencoder.
        content: Weight of the squared error of rebuilt samples, per value.
        feature: Weight of that of their features in the critic, per feature.
        num_critic_steps: Critic steps a generator step.

    Raises:
        ValueError: If an option breaks its rule.

    References:
        An, Guo, Zhang, Qi, Lei, Yau, Gu, AE-OT-GAN: training GANs from data specific latent
        distribution, 2020.
    """

    normalization: ClassVar[str] = "spectral"
    paired: ClassVar[bool] = True

    autoencoder_share: float = option(0.5, "Share of all steps that train the autoencoder.")
    content: float = option(1.0, "Weight of the squared error of rebuilt samples, per value.")
    feature: float = option(0.1, "Weight of that of their features in the critic, per feature.")
    num_critic_steps: int = option(1, "Critic steps a generator step.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("autoencoder_share", self.autoencoder_share)
        check_not_negative("content", self.content)
        check_not_negative("feature", self.feature)
        check_at_least("num_critic_steps", self.num_critic_steps, 1)

    def coding_steps(self, steps: int) -> int:
        """Their share of the steps."""
        return max(1, round(self.autoencoder_share * steps))

    def networks(self, critic: Callable[[str], Critic]) -> nn.ModuleDict:
        """The critic."""
        return nn.ModuleDict({"critic": critic(self.normalization)})

    def critic_steps(self, step: int) -> int:
        """The same at every step."""
        return self.num_critic_steps

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """L_D."""
        return hinge(networks, real, fake)

    def generator_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """L_G; `fake` holds generated samples, and behind them the rebuilt ones."""
        critic = critic_of(networks)
        made, rebuilt = halves(fake)
        content = F.mse_loss(rebuilt, real)
        feature = F.mse_loss(critic.features(rebuilt).float(), critic.features(real).float())
        value = -critic(made).mean() + self.content * content + self.feature * feature
        return Loss(value, {"content": content.detach(), "feature": feature.detach()})
