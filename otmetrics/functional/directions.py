"""Random directions: independent blocks of orthonormal ones, from one seed on every device."""

import torch
from torch import Tensor

from otmetrics.functional.checks import as_tensor, check_generator
from otmetrics.functional.hashing import hashed
from otmetrics.functional.option_names import told_options

# A standard error needs blocks to compare: twice the error from 16 of them covers 94 %.
FEWEST_BLOCKS = 16
_STREAM = 0x51CED  # any number


def seeded(seed: int) -> torch.Generator:
    """A generator of directions, with numbers of its own.

    Data drawn with the same seed would otherwise hold the very numbers that directions are made of,
    and no direction would be random for it: seed 0 is common.

    Args:
        seed: An integer in [0, 2^63).

    Returns:
        A CPU generator.
    """
    return torch.Generator().manual_seed(int(hashed(torch.tensor(_STREAM), seed)))


@told_options
def random_directions(
    dimension: int,
    num_projections: int,
    *,
    generator: torch.Generator,
    orthogonal: bool = True,
    block: int | None = None,
) -> Tensor:
    """Random directions, each uniform on the unit sphere.

    Orthogonal ones come in independent blocks; the directions of a block are orthonormal, or,
    where a block is longer than D, several orthonormal bases. A complete basis integrates every
    quadratic form exactly, so that translations and scalings have no Monte-Carlo error along it.
    More directions continue fewer ones of the same `block`. Time O(L D min(D, block)).

    Args:
        dimension: D.
        num_projections: L.
        generator: A CPU generator, so that one seed gives the same directions on every device.
        orthogonal: False for independent directions.
        block: Directions a block; None for `block_size(D, L)`.

    Returns:
        Directions (D, L) in float64, columns of length one.

    References:
        Rowland et al., Orthogonal estimation of Wasserstein distances, 2019; Mezzadri, How to
        generate random matrices from the classical compact groups, 2007 (the signs).

    Example:
        >>> basis = random_directions(3, 3, generator=torch.Generator().manual_seed(0), block=3)
        >>> torch.allclose(basis.T @ basis, torch.eye(3, dtype=torch.float64))
        True
    """
    check_generator(generator)
    if not orthogonal:
        return _unit(_normal(num_projections, dimension, generator)).T
    block = block or block_size(dimension, num_projections)
    whole, rest = divmod(num_projections, block)
    rows = [_orthonormal(whole, block, dimension, generator)] if whole else []
    rows += [_orthonormal(1, rest, dimension, generator)] if rest else []
    return torch.cat(rows).T


def block_size(
    dimension: int, num_projections: int, *, orthogonal: bool = True, most: int | None = None
) -> int:
    """Directions in each of the independent blocks, of which there are at least 16 from L = 16 on.

    Args:
        dimension: D.
        num_projections: L.
        orthogonal: Whether the directions of a block are orthonormal.
        most: Largest size, or None.

    Returns:
        The largest size that leaves 16 blocks, a multiple of D where it is above D; the last block
        holds what remains. 1 for independent directions.
    """
    if not orthogonal:
        return 1
    size = max(1, num_projections // FEWEST_BLOCKS)
    size = min(size, most or size)
    return size if size <= dimension else size - size % dimension


def checked_directions(directions: Tensor, cloud: Tensor) -> Tensor:
    """Check directions that the user gives.

    Args:
        directions: Columns (D, L).
        cloud: A cloud (..., D).

    Returns:
        Rows (L, D) on the device and in the dtype of the cloud.

    Raises:
        TypeError: If they are no tensor.
        ValueError: If their shape does not fit, a length is not 1, or a gradient is wanted in them.
    """
    directions = as_tensor("directions", directions)
    if directions.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "`directions` must not require a gradient, as none is computed in them: give "
            "directions.detach(), or take `max_sliced_result` for the one that differs most."
        )
    if directions.ndim != 2 or directions.shape[0] != cloud.shape[-1] or directions.shape[1] < 1:
        raise ValueError(
            f"`directions` must have shape (D, L) with D = {cloud.shape[-1]} and L >= 1, "
            f"got {tuple(directions.shape)}."
        )
    lengths = directions.detach().double().norm(dim=0)
    if not ((lengths - 1).abs() < 1e-3).all():  # also catches NaN
        raise ValueError(
            "`directions` must have columns of length 1, got lengths from "
            f"{lengths.min():.3g} to {lengths.max():.3g}: divide by them."
        )
    return directions.detach().T.to(cloud).contiguous()


def _orthonormal(num_blocks: int, size: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Rows (num_blocks * size, D): in each block bases of D rows, and the beginning of one."""
    rows = _normal(num_blocks * size, dimension, generator).view(num_blocks, size, dimension)
    return torch.cat([_basis(part) for part in rows.split(dimension, 1)], 1).flatten(0, 1)


def _basis(rows: Tensor) -> Tensor:
    """Orthonormal rows (..., K, D) that span the same spaces, uniform if the rows are normal."""
    if rows.shape[-2] == 1:
        return _unit(rows)
    q, r = torch.linalg.qr(rows.mT)
    return (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).mT


def _unit(rows: Tensor) -> Tensor:
    """Rows divided by their lengths."""
    return torch.nn.functional.normalize(rows, dim=-1)


def _normal(num: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Independent standard normal rows."""
    return torch.randn(num, dimension, generator=generator, dtype=torch.float64)
