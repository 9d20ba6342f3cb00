"""Images to PNG files."""

from pathlib import Path
from typing import BinaryIO

from PIL import Image
from torch import Tensor


def write_png(path: Path | BinaryIO, image: Tensor) -> None:
    """Write one image, without loss.

    Args:
        path: The file, or one that is open for writing.
        image: uint8 (C, H, W), C = 1 for grey or 3 for RGB.

    Raises:
        OSError: If the file cannot be written.
    """
    pixels = image.cpu().permute(1, 2, 0)
    array = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    Image.fromarray(array.contiguous().numpy()).save(path, format="PNG")
