"""What the bundled models minimise, by name; see `base` for what the training loop asks of it."""

from .adversarial import DCGAN, R3GAN, SNGAN
from .autoencoded import AEOT, AEOTGAN
from .base import Loss, Objective, option
from .energy import OTGAN
from .quadratic import WGANQC
from .regularised import ROTGAN
from .transport import SWG, ExactOT, MaxSWG, SinkhornGAN
from .wasserstein import WGAN, WGANGP

OBJECTIVES: dict[str, type[Objective]] = {
    "dcgan": DCGAN,
    "sngan": SNGAN,
    "r3gan": R3GAN,
    "wgan": WGAN,
    "wgan-gp": WGANGP,
    "wgan-qc": WGANQC,
    "rot-gan": ROTGAN,
    "sinkhorn-gan": SinkhornGAN,
    "ot-gan": OTGAN,
    "swg": SWG,
    "max-swg": MaxSWG,
    "exact-ot": ExactOT,
    "ae-ot": AEOT,
    "ae-ot-gan": AEOTGAN,
}

__all__ = [
    "AEOT",
    "AEOTGAN",
    "DCGAN",
    "OBJECTIVES",
    "OTGAN",
    "R3GAN",
    "ROTGAN",
    "SNGAN",
    "SWG",
    "WGAN",
    "WGANGP",
    "WGANQC",
    "ExactOT",
    "Loss",
    "MaxSWG",
    "Objective",
    "SinkhornGAN",
    "option",
]
