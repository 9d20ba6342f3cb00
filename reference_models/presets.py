"""The bundled models: an objective, its paper, and the settings that it has for each kind of data.

`KINDS` has what all presets share on a kind of data; a preset says what differs for images, after
its paper, for those of 28 pixels, and for points. Those for larger images were run for some steps
only, never to their end.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from otmetrics.errors import Argument, OptionError

from .config import TrainConfig
from .data import Data
from .objectives import OBJECTIVES

_LARGE = {"architecture": "resnet", "latent": 128, "batch_size": 64, "steps": 100_000}

KINDS: dict[str, dict[str, Any]] = {
    "points": {
        "steps": 10_000,
        "lr_generator": 1e-3,
        "lr_critic": 1e-3,
        "beta1": 0.0,
        "beta2": 0.99,
        "ema_images": 256_000,
        "select": "coverage",  # distances tell how many samples each mode got, not how sharp it is
    },
    "digits": {"latent": 32, "batch_size": 128},
    "28": {
        "architecture": "dcgan",
        "width": 16,
        "latent": 64,
        "batch_size": 64,
        "eval_num": 1000,
        "eval_every": 2000,
    },
    "32": _LARGE,
    "64": _LARGE,
}
"""Settings by kind of data, points and images of 8, 28, 32 and 64 pixels, where they are not the
defaults of `TrainConfig`."""


@dataclass(frozen=True)
class Preset:
    """A bundled model; its settings are fields of `TrainConfig` or of the objective."""

    paper: str  # authors, title, year
    loss: str  # what generator and critic minimise, in a line
    images: dict[str, Any] = field(default_factory=dict)
    points: dict[str, Any] = field(default_factory=dict)
    # What differs from `images` for those of 28 pixels, which a laptop trains in minutes.
    small: dict[str, Any] = field(default_factory=dict)
    # Of a whole run on one core, evaluations included, by kind of data, where it was measured.
    minutes: dict[str, float] = field(default_factory=dict)


def _settings(lr: float | None = None, **values: Any) -> dict[str, Any]:
    """Settings by name; `lr` is the learning rate of generator and critic alike."""
    return values if lr is None else {"lr_generator": lr, "lr_critic": lr} | values


# Where the loss is a regularised cost of the points themselves.
_COST_OF_POINTS = {"order": 1.0, "lr_generator": 4e-3, "ema_images": 100_000}

PRESETS: dict[str, Preset] = {
    "dcgan": Preset(
        "Radford, Metz, Chintala, Unsupervised representation learning with DCGANs, 2016",
        "non-saturating cross-entropy",
        images=_settings(lr=2e-4, beta2=0.999),
        small=_settings(steps=8000),
        minutes={"points": 1.5, "28": 8.9},
    ),
    "sngan": Preset(
        "Miyato et al., Spectral normalization for GANs, 2018",
        "hinge; spectral norm of each layer of the critic at most 1",
        images=_settings(lr=2e-4, beta1=0.0),
        points=_settings(num_critic_steps=1),
        minutes={"points": 2.0},
    ),
    "r3gan": Preset(
        "Huang et al., The GAN is dead; long live the GAN!, 2024",
        "relativistic pairs; gradient penalties on real and on fake",
        images=_settings(lr=2e-4, beta1=0.0, beta2=0.99),
        points=_settings(lr=2e-3, gamma=0.1, steps=9000),
        minutes={"points": 2.2},
    ),
    "wgan": Preset(
        "Arjovsky, Chintala, Bottou, Wasserstein GAN, 2017",
        "difference of mean scores; weights of the critic clipped",
        images=_settings(lr=5e-5, optimizer="rmsprop", beta2=0.99),
        points=_settings(lr=5e-4, optimizer="rmsprop", clip=0.1, steps=5000),
        minutes={"points": 2.4},
    ),
    "wgan-gp": Preset(
        "Gulrajani et al., Improved training of Wasserstein GANs, 2017",
        "difference of mean scores; slopes of the critic drawn to 1",
        images=_settings(lr=2e-4, beta1=0.0),
        points=_settings(lr=2e-3, penalty=0.1, num_critic_steps=1, steps=12_000),
        small=_settings(lr=5e-4, num_critic_steps=2, beta1=0.5),
        minutes={"points": 2.2, "28": 10.9},
    ),
    "wgan-qc": Preset(
        "Liu, Gu, Samaras, Wasserstein GAN with quadratic transport cost, 2019",
        "critic regressed on the exact potentials of the batch",
        images=_settings(beta2=0.999),
        points=_settings(
            match="vector",
            gamma=1.0,
            num_critic_steps=2,
            warm_up=True,
            lr_generator=1e-4,
            lr_critic=3e-3,
            beta1=0.5,
            beta2=0.999,
            steps=6000,
        ),
        minutes={"points": 3.4},
    ),
    "rot-gan": Preset(
        "Sanjabi, Ba, Razaviyayn, Lee, On the convergence and robustness of training GANs with "
        "regularized optimal transport, 2018",
        "regularised transport cost of the batch, plan held fixed",
        points=_settings(**_COST_OF_POINTS, lam=0.02, tolerance=0.05, steps=4000),
        small=_settings(
            order=1.0,
            lam=0.02,
            tolerance=0.02,
            batch_size=256,
            lr_generator=1e-3,
            beta1=0.0,
            beta2=0.99,
            steps=6000,
        ),
        minutes={"points": 3.2, "28": 13.1},
    ),
    "sinkhorn-gan": Preset(
        "Genevay, Peyre, Cuturi, Learning generative models with Sinkhorn divergences, 2018",
        "debiased Sinkhorn divergence of the batch",
        points=_settings(**_COST_OF_POINTS, epsilon=0.03, tolerance=0.02, steps=4000),
        minutes={"points": 3.4},
    ),
    "ot-gan": Preset(
        "Salimans, Zhang, Radford, Metaxas, Improving GANs using optimal transport, 2018",
        "mini-batch energy distance: four cross costs less two own ones",
        images=_settings(lr=3e-4, beta2=0.999, epsilon=0.02),
        points=_settings(
            **_COST_OF_POINTS,
            cost="data",
            epsilon=0.05,
            tolerance=0.05,
            batch_size=128,
            steps=4500,
        ),
        small=_settings(
            tolerance=0.02, batch_size=128, lr_generator=2e-3, lr_critic=1e-3, steps=1700
        ),
        minutes={"points": 3.2, "28": 11.7},
    ),
    "swg": Preset(
        "Deshpande, Zhang, Schwing, Generative modeling using the sliced Wasserstein distance, "
        "2018",
        "sliced cost of critic features, or of points; critic by cross-entropy",
        images=_settings(beta2=0.999, num_projections=200),
        points=_settings(
            order=1.0,
            space="data",
            num_projections=16,
            batch_size=1024,
            lr_generator=4e-3,
            ema_images=1_000_000,
            steps=20_000,
        ),
        small=_settings(batch_size=128, lr_generator=2e-3, lr_critic=5e-4, beta2=0.99),
        minutes={"points": 3.3, "28": 12.2},
    ),
    "max-swg": Preset(
        "Deshpande et al., Max-sliced Wasserstein distance and its use for GANs, 2019",
        "cost along the one direction that the critic found",
        images=_settings(beta2=0.999),
        points=_settings(gamma=0.1, steps=7000),
        minutes={"points": 2.8},
    ),
    "exact-ot": Preset(
        "Fatras et al., Learning with minibatch Wasserstein, 2020 (the loss)",
        "exact transport cost of the batch",
        points=_settings(order=1.0, lr_generator=2e-3),
        minutes={"points": 2.3},
    ),
    "ae-ot": Preset(
        "An et al., AE-OT: a new generative model based on extended semi-discrete optimal "
        "transport, 2020",
        "error of an autoencoder, whose codes noise is transported to",
        images=_settings(beta1=0.9, beta2=0.999, num_codes=10_000),
        points=_settings(beta1=0.9, beta2=0.999, num_codes=2000),
        small=_settings(steps=8000, num_codes=5000, lr_autoencoder=2e-3),
        minutes={"points": 2.5, "28": 7.4},
    ),
    "ae-ot-gan": Preset(
        "An et al., AE-OT-GAN: training GANs from data specific latent distribution, 2020",
        "minus the mean score, and errors of rebuilt samples; noise as in ae-ot",
        images=_settings(lr=2e-4, beta2=0.999, num_codes=10_000),
        points=_settings(
            num_codes=2000, content=1e4, lr_generator=1e-4, beta1=0.9, beta2=0.999, steps=4000
        ),
        small=_settings(steps=6000, num_codes=5000, lr_autoencoder=2e-3),
        minutes={"points": 3.2, "28": 15.9},
    ),
}
"""By name, in the order of `OBJECTIVES`."""


_FITTED_TO = {"cost": "order", "inner": "lam"}  # a preset has the second for its own first one


def kind_of(data: Data) -> str:
    """The kind of data that settings go by, a key of `KINDS`."""
    if len(data.shape) == 1:
        return "points"
    return "digits" if data.shape[1] == 8 else str(data.shape[1])


def config_for(
    name: str, data: Data, options: dict[str, Any], objective: dict[str, Any]
) -> TrainConfig:
    """The configuration of a preset for some data.

    `options` are fields of `TrainConfig` and `objective` those of its objective, which replace the
    preset's own.
    """
    kind = kind_of(data)
    # Codes with fewer axes than the points could not tell all of them apart.
    if kind == "points" and name in ("ae-ot", "ae-ot-gan"):
        options = {"latent": data.shape[0]} | options
    return TrainConfig(data=data.name, **_merge_fields(name, kind, options, objective))


def settings_of(name: str) -> dict[str, dict[str, Any]]:
    """All options of a preset by kind of data: those of its objective, then those of the run."""
    found = {}
    for kind in KINDS:
        config = TrainConfig(data="", **_merge_fields(name, kind, {}, {}))
        values = config.to_dict()
        own = values.pop("objective")
        found[kind] = own | {k: v for k, v in values.items() if k not in ("data", "preset")}
    return found


def _merge_fields(
    name: str, kind: str, options: dict[str, Any], objective: dict[str, Any]
) -> dict[str, Any]:
    """Fields of a configuration: of the kind of data, then of the preset, then those given."""
    if name not in PRESETS:
        raise OptionError(
            Argument("preset"), f" must be one of {', '.join(PRESETS)}, got {name!r}."
        )
    preset, made = PRESETS[name], OBJECTIVES[name]
    own = {item.name: item.default for item in dataclasses.fields(made)}  # type: ignore[arg-type]
    settings = KINDS[kind] | (preset.points if kind == "points" else preset.images)
    if kind == "28":
        settings |= preset.small

    # What was fitted to the preset's own choice does not bind another one.
    for key, fitted in _FITTED_TO.items():
        if key in objective and objective[key] != settings.get(key, own[key]):
            settings.pop(fitted, None)

    chosen = {key: value for key, value in settings.items() if key in own} | objective
    rest = {key: value for key, value in settings.items() if key not in own} | options
    try:
        return rest | {"objective": made(**chosen)}
    except ValueError as error:
        raise OptionError(*error.args) from error
