"""Samples of a generator: the same ones for a seed, whatever the batches."""

import torch
from torch import Tensor, nn

from .data import Data
from .priors import Prior

_BATCH = 100


class Sampler(nn.Module):
    """A generator, the prior of the noise or codes (B, latent) it is given, and their encoder."""

    def __init__(self, generator: nn.Module, prior: Prior, encoder: nn.Module | None) -> None:
        super().__init__()
        self.generator, self.prior, self.encoder = generator, prior, encoder

    @torch.no_grad()
    def codes(self, samples: Tensor, data: Data) -> Tensor:
        """Codes float32 (N, latent) of samples (N, *shape) as in `data.train`, on our device."""
        assert self.encoder is not None, "noise has no codes"
        device = next(self.generator.parameters()).device
        parts = samples.split(_BATCH)
        return torch.cat([self.encoder(data.to_network(part).to(device)) for part in parts])

    @torch.no_grad()
    def rebuilt(self, samples: Tensor, data: Data) -> Tensor:
        """What the generator makes of the codes of samples, in the networks' units, on the CPU."""
        parts = self.codes(samples, data).split(_BATCH)
        return torch.cat([self.generator(part).float().cpu() for part in parts])


@torch.no_grad()
def generate_samples(sampler: Sampler, data: Data, num: int, seed: int) -> Tensor:
    """Samples in the form and the coordinates of the data, on the CPU.

    Points are float64 (num, D), images uint8 (num, C, H, W). The seed decides the noise.
    """
    source = torch.Generator().manual_seed(seed)
    device = next(sampler.generator.parameters()).device
    samples = torch.empty(num, *data.shape, dtype=data.train.dtype)
    for part in samples.split(_BATCH):  # whole batches, so that more samples begin with these
        outputs = sampler.generator(sampler.prior.sample(_BATCH, source).to(device))
        part.copy_(data.from_network(outputs[: len(part)].float()))
    return samples
