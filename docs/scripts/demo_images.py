"""Cut the contact sheet `otmetrics/images/demo.jpg` out of photographs of scikit-image.

    python docs/scripts/demo_images.py FOLDER

FOLDER is `skimage/data` of an unpacked scikit-image 0.26 wheel; scikit-image itself is not used.
`otmetrics/images/demo.py` says what lies where in the sheet and where each photograph is from.
The tiles of a photograph lie on a grid and are dealt in a seeded random order, first to the real
images, then to the fake ones, so that the two sets share no pixel.
"""

import random
import sys
from pathlib import Path

from PIL import Image

from otmetrics.images import demo

# Photograph -> file, and by how much it is reduced so that a tile shows more than plain colour.
# Titles, authors and licences are listed in `otmetrics/images/demo.py`.
FILES = {
    "astronaut": ("astronaut.png", 1),  # NASA, public domain
    "coffee": ("coffee.png", 1),  # Rachel Michetti, CC0
    "grass": ("grass.png", 1),  # linolafett, CC0
    "hubble": ("hubble_deep_field.jpg", 1),  # NASA, public domain
    "rocket": ("rocket.jpg", 1),  # SpaceX, public domain
    "brick": ("brick.png", 1),  # CC0Textures, CC0
    "camera": ("camera.png", 1),  # Lav Varshney, CC0
    "cell": ("cell.png", 1),  # Paul Mueller and others, CC0
    "chelsea": ("chelsea.png", 1),  # Stefan van der Walt, CC0
    "gravel": ("gravel.png", 1),  # CC0Textures, CC0
    "retina": ("retina.jpg", 2),  # Mikael Haggstrom, CC0
}


def tiles(path: Path, reduction: int, count: int) -> list[Image.Image]:
    """Return `count` disjoint tiles of a photograph in a random order that is always the same."""
    photograph = Image.open(path).convert("RGB").reduce(reduction)
    columns, rows = (side // demo.TILE for side in photograph.size)
    corners = [(x * demo.TILE, y * demo.TILE) for y in range(rows) for x in range(columns)]
    chosen = random.Random(0).sample(corners, count)
    return [photograph.crop((x, y, x + demo.TILE, y + demo.TILE)) for x, y in chosen]


def main(folder: Path) -> None:
    """Write the sheet."""
    size = (demo.COLUMNS * demo.TILE, demo.NUM_ROWS * demo.TILE)
    sheet = Image.new("RGB", size)
    positions = iter(range(demo.COLUMNS * demo.NUM_ROWS))
    for name, rows_of_real, rows_of_fake in demo.BLOCKS:
        file, reduction = FILES[name]
        count = (rows_of_real + rows_of_fake) * demo.COLUMNS
        for tile in tiles(folder / file, reduction, count):
            row, column = divmod(next(positions), demo.COLUMNS)
            sheet.paste(tile, (column * demo.TILE, row * demo.TILE))
    # Without chroma subsampling the 8 x 8 blocks of the JPEG lie inside tiles of 48 x 48.
    sheet.save(demo.SHEET, quality=90, subsampling=0, optimize=True, progressive=True)
    print(f"{demo.SHEET}: {size[0]} x {size[1]}, {demo.SHEET.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
