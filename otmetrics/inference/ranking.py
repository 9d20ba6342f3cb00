"""Who is better, who is tied: ranks of several models that hold together at one level."""

from typing import NamedTuple

import torch
from scipy.stats import chi2
from torch import Tensor

_DRAWS = 4000  # of the joint distribution; its quantiles are right to half a percent of the level


class Ranking(NamedTuple):
    """What a confidence level says of the order of K models, the lowest score first.

    Attributes:
        better: (K, K), True where the row's model is better than the column's.
        ranks: The least and the greatest rank (K, 2) that each may have, from 1.
        quantile: Standard errors by which a pair must differ to be told apart.
    """

    better: Tensor
    ranks: Tensor
    quantile: float

    @property
    def best_set(self) -> list[int]:
        """The models that may be the best one."""
        return [model for model, (least, _) in enumerate(self.ranks.tolist()) if least == 1]


def rank_sets(
    scores: Tensor,
    covariance: Tensor,
    level: float,
    seed: int,
    freedom: float = float("inf"),
) -> Ranking:
    """Rank sets of scores (K,), lower ones better, that all hold together at a level.

    All pairs are compared with one quantile of their largest difference; pairs that are told apart
    leave, and the quantile of the others falls, until nothing more is told apart. A covariance that
    comes of few training runs has few degrees of freedom, and quantiles are those of t.

    References:
        Mogstad, Romano, Shaikh, Wilhelm, Inference for ranks with applications to mobility across
        neighbourhoods and academic achievement across countries, 2024.
    """
    errors = standard_errors_of_differences(covariance)
    draws = joint_draws(covariance, seed, freedom)
    # A pair without any error, of one model given twice, is equal: nothing tells it apart.
    lengths = torch.where(errors > 0, errors, torch.inf)
    spread = (draws[:, :, None] - draws[:, None, :]) / lengths
    worse_by = (scores[:, None] - scores) / lengths

    open_pairs = ~torch.eye(len(scores), dtype=torch.bool)
    worse = torch.zeros_like(open_pairs)
    quantile = 0.0
    while bool(open_pairs.any()):
        quantile = float(spread[:, open_pairs].amax(1).quantile(level))
        found = open_pairs & (worse_by > quantile)
        if not bool(found.any()):
            break
        worse, open_pairs = worse | found, open_pairs & ~found
    least, greatest = 1 + worse.sum(1), len(scores) - worse.sum(0)
    return Ranking(worse.T, torch.stack([least, greatest], 1), quantile)


def standard_errors_of_differences(covariance: Tensor) -> Tensor:
    """Standard errors (K, K) of the differences between scores of a covariance (K, K)."""
    variances = covariance.diagonal()
    squares = variances[:, None] + variances - 2 * covariance
    # Below the rounding of the variances a difference is that of a model with itself.
    noise = 1e-12 * (variances[:, None] + variances)
    return torch.where(squares > noise, squares, 0.0).sqrt()


def letters(better: Tensor, order: list[int]) -> list[str]:
    """A compact letter display: models that share a letter are not told apart.

    Models come in an order; each letter stands for a largest set of models no two of which are told
    apart, and every pair that is not told apart shares one.
    """
    apart = (better | better.T).tolist()
    groups: list[set[int]] = [set(order)]
    for one in order:
        for two in order:
            if not apart[one][two] or one >= two:
                continue
            split: list[set[int]] = []
            for group in groups:
                split += [group - {one}, group - {two}] if {one, two} <= group else [group]
            groups = [group for group in split if not any(group < other for other in split)]
            groups = [group for i, group in enumerate(groups) if group not in groups[:i]]
    groups.sort(key=lambda group: sorted(order.index(model) for model in group))
    return [
        "".join(_letter(i) for i, group in enumerate(groups) if model in group)
        for model in range(len(order))
    ]


def _letter(index: int) -> str:
    """A to z, then a1, b1 and so on."""
    return chr(ord("a") + index % 26) + (str(index // 26) if index >= 26 else "")


def joint_draws(covariance: Tensor, seed: int, freedom: float = float("inf")) -> Tensor:
    """Draws (R, K) of a normal or t distribution; its covariance may be singular, or nearly so."""
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt()
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(_DRAWS, len(covariance), generator=generator, dtype=torch.float64) @ root.T
    if freedom == float("inf"):
        return draws
    # The quantiles of chi-square, not draws of it: torch has no seeded ones.
    shares = (torch.randperm(_DRAWS, generator=generator).double() + 0.5) / _DRAWS
    chi = torch.from_numpy(chi2.ppf(shares.numpy(), freedom))
    return draws / (chi / freedom).sqrt()[:, None]
