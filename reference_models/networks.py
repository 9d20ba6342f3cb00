"""Generators and critics of matched size, one pair for each shape of data.

A generator maps noise (B, latent) to samples in the networks' units, about [-1, 1]; a critic maps
samples to features (B, F) and, by one linear layer, to scores (B,).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from otmetrics.errors import Argument, OptionError

_LARGEST = 250_000_000  # weights of a generator, 1 GB

# Pixels to the side of the coarsest maps, and how often it is doubled to them.
_COARSEST = {28: (7, 2), 32: (4, 3), 64: (4, 4)}


class Critic(nn.Module):
    """Features (B, F) of samples, by its `body`, and a score linear in them, by its `head`."""

    def __init__(self, body: nn.Module, num_features: int, normalization: str) -> None:
        super().__init__()
        self.body = body
        self.head = _wrap_layer(nn.Linear(num_features, 1), normalization)

    def features(self, samples: Tensor) -> Tensor:
        """Features (B, F) of samples (B, ...)."""
        return self.body(samples)

    def forward(self, samples: Tensor) -> Tensor:
        """Scores (B,) of samples (B, ...)."""
        scores = self.head(self.body(samples)).squeeze(-1)
        # Differences of scores are losses: under autocast these need more than eight bits.
        return scores.to(torch.promote_types(scores.dtype, torch.float32))


class Pair(NamedTuple):
    """How to make the networks of one shape of data; each call makes a new one.

    A critic is made with the normalisation of its hidden layers: "none", "batch", "layer" or
    "spectral". An encoder maps samples to codes (B, latent), by the layers of a critic.
    """

    generator: Callable[[], nn.Module]
    critic: Callable[[str], Critic]
    encoder: Callable[[], nn.Module]


def networks(shape: tuple[int, ...], *, latent: int, width: int, architecture: str) -> Pair:
    """The pair for samples of a shape, (D,) for points or (C, H, W) for images.

    `latent` is the dimension of the noise; `width` counts hidden units of an MLP, or channels at
    the finest resolution of a convolutional network. Raises OptionError if the architecture, "mlp",
    "dcgan" or "resnet", does not take the shape, or if the networks would be larger than any that
    are sensible: a file of a run may say any width.
    """
    pair = _pair(shape, latent, width, architecture)
    try:
        with torch.device("meta"):  # nothing is allocated, no random number is drawn
            num = sum(weight.numel() for weight in pair.generator().parameters())
    except (RuntimeError, OverflowError, TypeError):  # sizes that no tensor has
        num = _LARGEST + 1
    if num > _LARGEST:
        raise OptionError(
            Argument("width"),
            f" {width} and ",
            Argument("latent"),
            f" {latent} give a generator of more than {_LARGEST / 1e6:.0f} million weights: lower "
            "them.",
        )
    return pair


def _pair(shape: tuple[int, ...], latent: int, width: int, architecture: str) -> Pair:
    """The pair, whatever its size."""
    makers = {
        "mlp": (MLPGenerator, mlp_critic),
        "dcgan": (DCGANGenerator, dcgan_critic),
        "resnet": (ResNetGenerator, resnet_critic),
    }
    if architecture not in makers:
        raise OptionError(
            Argument("architecture"), f" must be mlp, dcgan or resnet, got {architecture!r}."
        )
    square = len(shape) == 3 and shape[1] == shape[2] and shape[1] in _COARSEST
    if architecture != "mlp" and not square:
        raise OptionError(
            Argument("architecture"),
            f" must be mlp for samples of shape {shape}, got {architecture!r}: "
            "convolutional networks take square images of 28, 32 or 64 pixels.",
        )

    generator, critic = makers[architecture]
    return Pair(
        lambda: generator(latent, shape, width),
        lambda normalization: critic(shape, width, normalization),
        lambda: encoder(critic(shape, width, "layer"), shape, latent),
    )


def encoder(critic: Critic, shape: tuple[int, ...], latent: int) -> nn.Module:
    """The layers of a critic up to its last feature maps, and a linear layer to codes (B, latent).

    The critic is layer-normalised, so that a code depends on no other sample.
    """
    layers = list(critic.body.children())
    if any(isinstance(layer, nn.AdaptiveAvgPool2d) for layer in layers):
        layers = [*layers[:-2], nn.Flatten()]  # where things are is part of a code
    body = nn.Sequential(*layers)

    # Nothing else tells how many features remain at the last resolution.
    num_features = body(torch.zeros(1, *shape)).shape[1]
    return nn.Sequential(body, nn.Linear(num_features, latent))


class MLPGenerator(nn.Module):
    """Three hidden layers; the last one is linear for points, tanh for images.

    Rectified units: where they are off, samples do not move with the noise, which makes modes sharp
    sooner than units that leak do.
    """

    def __init__(self, latent: int, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        size = torch.Size(shape).numel()
        layers = _hidden_layers(latent, width, "none", nn.ReLU)
        self.body = nn.Sequential(*layers, nn.Linear(width, size))
        self.squash = nn.Tanh() if len(shape) == 3 else nn.Identity()
        self.shape = shape

    def forward(self, noise: Tensor) -> Tensor:
        """Samples (B, *shape)."""
        return self.squash(self.body(noise)).unflatten(1, self.shape)


def mlp_critic(shape: tuple[int, ...], width: int, normalization: str) -> Critic:
    """Three hidden layers, the last of which are the features."""
    size = torch.Size(shape).numel()
    body = nn.Sequential(nn.Flatten(), *_hidden_layers(size, width, normalization))
    return Critic(body, width, normalization)


class DCGANGenerator(nn.Module):
    """Transposed convolutions from 4 x 4 (28 pixels: 7 x 7) up, batch-normalised."""

    def __init__(self, latent: int, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        channels, size = shape[0], shape[1]
        start, num = _COARSEST[size]
        widths = [width * 2**i for i in range(num - 1, -1, -1)]
        # No biases: the normalisation behind each layer subtracts the mean.
        layers: list[nn.Module] = [
            nn.Linear(latent, widths[0] * start**2, bias=False),
            nn.Unflatten(1, (widths[0], start, start)),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]

        for before, after in pairwise(widths):
            layers += [
                nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]

        # Not normalised: images have means and contrasts of their own.
        layers += [nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, noise: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1]."""
        return self.layers(noise)


def dcgan_critic(shape: tuple[int, ...], width: int, normalization: str) -> Critic:
    """Strided convolutions down to 4 x 4 (28 pixels: 7 x 7); features are what remains, flat."""
    channels, size = shape[0], shape[1]
    end, num = _COARSEST[size]
    if size == 28:  # the generator has a third layer of weights, that of the noise
        width *= 2
    widths = [channels, *(width * 2**i for i in range(num))]

    layers: list[nn.Module] = []
    side = size
    for i, (before, after) in enumerate(pairwise(widths)):
        side //= 2
        layers.append(_wrap_layer(nn.Conv2d(before, after, 4, 2, 1), normalization))
        if i > 0:  # the layer that sees the images has no normalisation of activations
            by_layer = nn.LayerNorm((after, side, side))
            layers += _pick_layer(normalization, nn.BatchNorm2d(after), by_layer)
        layers.append(nn.LeakyReLU(0.2))
    return Critic(nn.Sequential(*layers, nn.Flatten()), widths[-1] * end**2, normalization)


class _Residual(nn.Module):
    """Two convolutions next to a shortcut, at twice, half or the same resolution."""

    def __init__(self, width: int, resample: str, normalization: str) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2) if resample == "up" else nn.Identity()
        self.down = nn.AvgPool2d(2) if resample == "down" else nn.Identity()
        self.path = nn.Sequential(
            *_pick_layer(normalization, nn.BatchNorm2d(width), nn.GroupNorm(1, width)),
            nn.ReLU(),
            self.up,
            _wrap_layer(nn.Conv2d(width, width, 3, padding=1), normalization),
            *_pick_layer(normalization, nn.BatchNorm2d(width), nn.GroupNorm(1, width)),
            nn.ReLU(),
            _wrap_layer(nn.Conv2d(width, width, 3, padding=1), normalization),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images at the new resolution."""
        return self.down(self.path(images) + self.up(images))


class ResNetGenerator(nn.Module):
    """Residual blocks from 4 x 4 (28 pixels: 7 x 7) up, batch-normalised; after Gulrajani 2017."""

    def __init__(self, latent: int, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        start, num = _COARSEST[shape[1]]
        self.layers = nn.Sequential(
            nn.Linear(latent, width * start**2),
            nn.Unflatten(1, (width, start, start)),
            *(_Residual(width, "up", "batch") for _ in range(num)),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, shape[0], 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, noise: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1]."""
        return self.layers(noise)


def resnet_critic(shape: tuple[int, ...], width: int, normalization: str) -> Critic:
    """Residual blocks down to 8 x 8 (28 pixels: 7 x 7); features are their mean over pixels."""
    num = {28: 2, 32: 2, 64: 3}[shape[1]]  # halvings
    body = nn.Sequential(
        _wrap_layer(nn.Conv2d(shape[0], width, 3, padding=1), normalization),
        *(_Residual(width, "down", normalization) for _ in range(num)),
        *(_Residual(width, "same", normalization) for _ in range(2)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return Critic(body, width, normalization)


def _hidden_layers(
    size: int,
    width: int,
    normalization: str,
    activation: Callable[[], nn.Module] = lambda: nn.LeakyReLU(0.2),
) -> list[nn.Module]:
    """The three hidden layers of an MLP."""
    layers: list[nn.Module] = []
    for before in (size, width, width):
        layers.append(_wrap_layer(nn.Linear(before, width), normalization))
        layers += _pick_layer(normalization, nn.BatchNorm1d(width), nn.LayerNorm(width))
        layers.append(activation())
    return layers


def _wrap_layer(layer: nn.Module, normalization: str) -> nn.Module:
    """The layer, with the spectral norm of its weight divided out if that is asked for."""
    return spectral_norm(layer) if normalization == "spectral" else layer


def _pick_layer(normalization: str, batch: nn.Module, layer: nn.Module) -> list[nn.Module]:
    """What normalises activations: the one or the other layer, or none."""
    return {"batch": [batch], "layer": [layer]}.get(normalization, [])
