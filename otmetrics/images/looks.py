"""How an image looks, in numbers."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

ATTRIBUTES = ("brightness", "contrast", "colourfulness", "sharpness", "grid of 2 pixels")
"""What `attributes_of` gives, in this order."""

_GREY = (0.299, 0.587, 0.114)  # Rec. 601
_LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


def attributes_of(pixels: Tensor) -> Tensor:
    """Attributes (5,) of an image uint8 (3, H, W), each in [0, 1] or a few times it.

    The mean of the grey values and their standard deviation; the mean difference between the
    largest and the smallest channel; the standard deviation of the Laplacian; and the largest mean
    of grey values that change their sign with every column, every row or both, which upsampling by
    two leaves and photographs do not have.
    """
    values = pixels.float() / 255
    grey = (values * values.new_tensor(_GREY)[:, None, None]).sum(0)
    colourfulness = (values.amax(0) - values.amin(0)).mean()

    sharpness = grid = grey.new_zeros(())
    if min(grey.shape) >= 3:
        kernel = grey.new_tensor(_LAPLACIAN)[None, None]
        sharpness = conv2d(grey[None, None], kernel).std(correction=0)
    if min(grey.shape) >= 2:
        # Whole periods only: else the mean grey would count.
        even = grey[: grey.shape[0] // 2 * 2, : grey.shape[1] // 2 * 2]
        quarters = torch.stack([even[i::2, j::2].mean() for i in (0, 1) for j in (0, 1)])
        a, b, c, d = quarters
        grid = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d]).abs().amax() / 4
    numbers = [grey.mean(), grey.std(correction=0), colourfulness, sharpness, grid]
    return torch.stack(numbers)
