"""Random relabellings of pooled samples: what scores would be if it did not matter who made which.

All scores see the same relabellings, so that their p-values combine. A score that takes fewer
samples than another sees the first ones of each side; labels change hands within these first ones,
and within what follows them, so that every score keeps its sizes under every relabelling.
"""

from itertools import pairwise

import torch
from torch import Tensor


def relabellings(sizes: tuple[int, int], nested: list[int], num: int, seed: int) -> Tensor:
    """Labels (B + 1, N + M) of the pooled samples, True for real; the first row is the truth.

    `nested` are the samples per side of scores that take fewer; labels are permuted among the
    samples that the same scores see. Under the null hypothesis, given the pooled samples, all rows
    are equally likely, whatever the scores.
    """
    num_real, num_fake = sizes
    truth = torch.zeros(num_real + num_fake, dtype=torch.bool)
    truth[:num_real] = True
    labels = truth.repeat(num + 1, 1)

    generator = torch.Generator().manual_seed(seed)
    edges = [0, *sorted({size for size in nested if size < max(sizes)}), max(sizes)]
    for first, last in pairwise(edges):
        real = torch.arange(min(first, num_real), min(last, num_real))
        fake = torch.arange(min(first, num_fake), min(last, num_fake)) + num_real
        shell = torch.cat([real, fake])
        if not (len(real) and len(fake)):
            continue  # one label alone: nothing to permute
        for row in labels[1:]:
            row[shell] = truth[shell[torch.randperm(len(shell), generator=generator)]]
    return labels


def first_of_each(sizes: tuple[int, int], most: int) -> Tensor:
    """Places in the pool of at most so many samples of each side."""
    num_real, num_fake = sizes
    return torch.cat(
        [torch.arange(min(num_real, most)), torch.arange(min(num_fake, most)) + num_real]
    )
