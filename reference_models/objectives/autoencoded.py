"""Generators that are decoders: their noise is transported to the codes of training samples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from otmetrics.checks import check_not_negative, check_positive, check_share
from otmetrics.transport.semidiscrete.extended_map import RULES, ExtendedOptions
from otmetrics.transport.semidiscrete.semidiscrete import SemiDiscrete
from otmetrics.transport.semidiscrete.sources import SOURCES

from ..networks import Critic
from ..priors import Prior, TransportPrior
from .adversarial import CRITIC_STEPS, hinge
from .base import Loss, Objective, at_least, critic_of, halves, option


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

    References:
        An, Guo, Lei, Luo, Yau, Gu, AE-OT: a new generative model based on extended semi-discrete
        optimal transport, 2020; Lei, Su, Cui, Yau, Gu, A geometric view of optimal transportation
        and generative model, 2019.
    """

    num_critic_steps = 0

    num_codes: int = option(
        5000,
        "Codes of the transport map, of random training samples; all if there are fewer.",
        check=at_least(20),
    )
    source: str = option("cube", "Distribution of the noise that is transported.", SOURCES)
    tolerance: float = option(
        0.5, "Largest relative misfit of the share of a cell.", check=check_positive
    )
    max_rounds: int = option(
        3,
        "Most rounds of 60 steps of the heights, each on twice the noise.",
        check=at_least(0),
    )
    angle: float = option(
        1.0,
        "Largest angle of two faces in units of that with a code's fifth nearest; 0: no filter.",
        check=check_not_negative,
    )
    num_faces: int = option(20, "Highest faces that are looked at for a neighbour.")
    rule: str = option("two-face", "How codes of neighbouring cells are mixed.", RULES)
    share: float = option(
        0.0, "Share, up to 1, of the neighbour's code in two-face; 0 draws it uniformly."
    )
    lr_autoencoder: float = option(
        1e-3, "Learning rate of encoder and decoder.", check=check_positive
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._map_options()  # checks its own options

    def _map_options(self) -> ExtendedOptions:
        return ExtendedOptions(self.source, self.num_faces, self.rule, self.share)

    def prior(self, noise: str, latent: int, num_samples: int) -> Prior:
        """Transport of `source` to the codes; `noise` is not used."""
        solver = SemiDiscrete(self.source, self.tolerance, max_rounds=self.max_rounds)
        num_codes = min(num_samples, self.num_codes)
        return TransportPrior(solver, self._map_options(), self.angle, num_codes, latent)

    def networks(self, critic: Callable[[str], Critic]) -> nn.ModuleDict:
        """A critic where it is trained."""
        return super().networks(critic) if self.num_critic_steps else nn.ModuleDict()

    def coding_steps(self, steps: int) -> int:
        """All but the last, which is the transport."""
        return max(1, steps - 1)

    def coding_loss(self, real: Tensor, rebuilt: Tensor) -> Loss:
        """Mean squared error of the rebuilt samples, over samples and their values."""
        return Loss((rebuilt - real).square().mean(), {})


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

    References:
        An, Guo, Zhang, Qi, Lei, Yau, Gu, AE-OT-GAN: training GANs from data specific latent
        distribution, 2020.
    """

    normalization: ClassVar[str] = "spectral"
    paired: ClassVar[bool] = True

    autoencoder_share: float = option(
        0.5, "Share of all steps that train the autoencoder.", check=check_share
    )
    content: float = option(
        1.0, "Weight of the squared error of rebuilt samples, per value.", check=check_not_negative
    )
    feature: float = option(
        0.1,
        "Weight of that of their features in the critic, per feature.",
        check=check_not_negative,
    )
    num_critic_steps: int = option(1, CRITIC_STEPS, check=at_least(1))

    def coding_steps(self, steps: int) -> int:
        """Their share of the steps."""
        return max(1, round(self.autoencoder_share * steps))

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
