"""Images made small, for pages."""

import io

from PIL import Image
from torch import Tensor

SIDE = 96  # pixels
_QUALITY = 85


def thumbnail(image: Tensor, side: int = SIDE) -> bytes:
    """Make a small file of one image.

    Args:
        image: uint8 (C, H, W), C = 1 for grey or 3 for RGB.
        side: Pixels of the longer side at most. Smaller images stay as they are.

    Returns:
        The content of a WebP file, some 3 kB at 96 pixels.
    """
    pixels = image.cpu().permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    # Averages over all pixels: those that are skipped would draw patterns.
    picture.thumbnail((side, side), Image.Resampling.BOX)
    content = io.BytesIO()
    picture.convert("RGB").save(content, format="WEBP", quality=_QUALITY)
    return content.getvalue()
