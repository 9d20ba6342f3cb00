"""Monge Inception Distance (MIND): a sliced Wasserstein cost with a fixed seed and scale."""

import torch
from torch import Tensor

from otmetrics.checks import check_at_least, check_seed, checked_clouds
from otmetrics.transport.costs import centre_clouds
from otmetrics.transport.sliced.slices import costs_along, measure_along
from otmetrics.unknown_options import told_options


@told_options
def monge_inception_distance(
    real: Tensor, fake: Tensor, *, num_projections: int = 1000, seed: int = 2020
) -> Tensor:
    """MIND = 3 D mean_l mean_j |sort(real . theta_l)_j - sort(fake . theta_l)_j|^2.

    The number that torch-fidelity prints from the same features, up to float32 rounding: features
    and directions are float32; where sizes differ, the larger side is cut to a random subset of the
    size of the smaller one, `randperm(N)[:M]` of a CPU generator with this seed; the same generator
    then draws L D normal values, and each row of D divided by its length is a direction. The name
    stands for it on the features of the FID Inception network; on others it is only this formula.

    Differs from `sliced_wasserstein`, which is to be preferred outside comparisons with published
    numbers: it is 3 D SW_2^2, a squared distance in squared units; it drops samples where the sizes
    differ; it states no Monte-Carlo error. Like every plug-in estimate, it is biased up,
    by about 1/N: two samples of one distribution do not give 0, and only numbers from one sample
    size compare.

    Time O(L N (D + log N)); memory O(N (D + chunk) + L D).

    Args:
        real: Features (N, D) or (B, N, D).
        fake: Features (M, D) or (B, M, D).
        num_projections: Number L of directions; 1000 is the published protocol.
        seed: Seed of the subset and of the directions; 2020 is the default of torch-fidelity.

    Returns:
        Scalar or (B,) in float32, >= 0, symmetric in both clouds and differentiable in both.

    Raises:
        TypeError: If a cloud is not a floating tensor.
        ValueError: If a shape or an option breaks its rule, or the values do not fit float32.

    References:
        Berthet et al., MIND: Monge Inception Distance for generative models evaluation, 2026,
        arXiv:2605.06797.

    Example:
        >>> x = torch.randn(50, 8)
        >>> monge_inception_distance(x, x.flip(0)).item() < 1e-9
        True
    """
    check_at_least("num_projections", num_projections, 1)
    check_seed(seed)
    real, fake = checked_clouds(real, fake)

    generator = torch.Generator().manual_seed(seed)
    count, dimension = min(real.shape[-2], fake.shape[-2]), real.shape[-1]
    real, fake = (_subset(cloud, count, generator).float() for cloud in (real, fake))

    # One draw for all directions: torch gives other values when it draws in parts.
    normal = torch.randn(num_projections, dimension, generator=generator, dtype=torch.float32)
    directions = (normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-12)).to(real.device)
    slices = measure_along(*centre_clouds(real, fake), directions, costs_along(2.0))
    value = (3 * dimension * slices.mean((-2, -1))).float()
    if not torch.isfinite(value.detach()).all():
        raise ValueError("`real` and `fake` must fit float32 with their squares: scale them down.")
    return value


def _subset(cloud: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A cloud of `count` points as it is, a larger one cut to as many at random."""
    size = cloud.shape[-2]
    if size == count:
        return cloud
    return cloud[..., torch.randperm(size, generator=generator)[:count].to(cloud.device), :]
