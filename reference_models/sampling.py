"""Samples of a generator: the same ones for a seed, whatever the batches."""

import torch
from torch import Tensor, nn

from .config import TrainConfig
from .data import Data

_BATCH = 100


def noise_of(config: TrainConfig, num: int, generator: torch.Generator | None = None) -> Tensor:
    """Noise of a run, on the CPU.

    Args:
        config: The run.
        num: How much.
        generator: A CPU generator; None for torch's own.

    Returns:
        Standard normal or uniform on [-1, 1], (num, latent).
    """
    if config.noise == "uniform":
        return 2 * torch.rand(num, config.latent, generator=generator) - 1
    return torch.randn(num, config.latent, generator=generator)


@torch.no_grad()
def generated(generator: nn.Module, config: TrainConfig, data: Data, num: int, seed: int) -> Tensor:
    """Samples in the form and the coordinates of the data.

    Args:
        generator: The generator, in evaluation mode.
        config: Its run.
        data: Its data, or what `export.loaded` gives instead.
        num: How many.
        seed: Decides the noise.

    Returns:
        Points float64 (num, D) or images uint8 (num, C, H, W), on the CPU.
    """
    source = torch.Generator().manual_seed(seed)
    device = next(generator.parameters()).device
    samples = torch.empty(num, *data.shape, dtype=data.train.dtype)
    for part in samples.split(_BATCH):  # whole batches, so that more samples begin with these
        outputs = generator(noise_of(config, _BATCH, source).to(device))
        part.copy_(data.from_network(outputs[: len(part)].float()))
    return samples
