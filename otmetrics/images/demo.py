"""Two small folders of images to try the scores on, cut from one bundled contact sheet.

All images are tiles of 48 x 48 pixels of photographs in the public domain. The real ones come
from eleven photographs, the fake ones are other tiles of five of them: every fake image looks
real, but six modes are missing, so precision stays high while recall and coverage fall.

`demo.jpg` holds the tiles in rows of 15, photograph after photograph in the order of `BLOCKS`: the
real tiles of a photograph, then the fake ones. `docs/scripts/demo_images.py` cuts it from the
files that scikit-image bundles, whose documentation gives these origins and terms:

==========  =============================================  =====================================
name        title, author                                  terms, source
==========  =============================================  =====================================
astronaut   Eileen Collins, NASA                           public domain, flic.kr/p/r9qvLn
coffee      Coffee cup, Rachel Michetti                    CC0, courtesy of Pikolo Espresso Bar
grass       Grass 01, linolafett                           CC0, deviantart.com
hubble      Hubble eXtreme Deep Field, NASA                public domain, hubblesite.org
rocket      DSCOVR on Falcon 9, SpaceX                     public domain, flickr.com/spacexphotos
brick       Bricks25, CC0Textures                          CC0, cc0textures.com
camera      Camera, Lav Varshney                           CC0
cell        Cell floating in saline, Paul Mueller et al.   CC0, doi.org/10.1364/OE.26.010729
chelsea     Chelsea the cat, Stefan van der Walt           CC0
gravel      Gravel04, CC0Textures                          CC0, cc0textures.com
retina      Fundus of a left eye, Mikael Haggstrom         CC0, commons.wikimedia.org
==========  =============================================  =====================================
"""

from pathlib import Path

import torch
from torch import Tensor

from otmetrics.errors import DataError
from otmetrics.images.decode import decoded_image, write_png
from otmetrics.safe_files import replace_file

SHEET = Path(__file__).with_name("demo.jpg")
TILE = 48  # a multiple of the 8 pixels of a JPEG block, so that no tile bleeds into the next
COLUMNS = 15

# Photograph, rows of real tiles, rows of fake tiles.
BLOCKS = (
    ("astronaut", 2, 4),
    ("coffee", 2, 4),
    ("grass", 2, 4),
    ("hubble", 2, 4),
    ("rocket", 2, 4),
    ("brick", 2, 0),
    ("camera", 2, 0),
    ("cell", 2, 0),
    ("chelsea", 2, 0),
    ("gravel", 2, 0),
    ("retina", 2, 0),
)
_REMEDY = "give a folder that is new or empty with --out."
NUM_ROWS = sum(real + fake for _, real, fake in BLOCKS)


def write_demo(folder: str | Path) -> tuple[Path, Path]:
    """Write 330 real and 300 fake demonstration images.

    Args:
        folder: Where the subfolders `real` and `fake` go; created where it is missing.

    Returns:
        The two folders of PNG files. Writing them again changes nothing. Cost: about a second.

    Raises:
        DataError: A subfolder is a link, holds other files, which would be scored too, or other
            images under the names of these, or is not writable.
    """
    folder = Path(folder)
    tiles = _tiles()
    try:
        # What lies there already would be scored too.
        _check_foreign(folder, {"real", "fake"})
        for subfolder in ("real", "fake"):
            names = {Path(name).name for name in tiles if name.startswith(subfolder)}
            _check_foreign(folder / subfolder, names)

        # All are compared before the first is written: a refusal leaves the folders as they were.
        missing = [name for name, pixels in tiles.items() if not _is_there(folder / name, pixels)]
        for name in missing:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with replace_file(folder / name) as file:
                write_png(file, tiles[name])
    except OSError as error:
        raise DataError(
            f"`{error.filename or folder}` cannot be written ({error}): give another folder."
        ) from error
    return folder / "real", folder / "fake"


def _tiles() -> dict[str, Tensor]:
    """Cut the sheet into its images: "real/astronaut-003.png" -> uint8 (3, 48, 48)."""
    sheet = decoded_image(SHEET).pixels
    # (3, rows, 48, columns, 48) -> (rows, columns, 3, 48, 48) -> one tile after the other.
    grid = sheet.unflatten(2, (COLUMNS, TILE)).unflatten(1, (NUM_ROWS, TILE))
    ordered = grid.permute(1, 3, 0, 2, 4).flatten(0, 1)
    names = [
        f"{kind}/{photograph}-{number:03d}.png"
        for photograph, rows_of_real, rows_of_fake in BLOCKS
        for kind, rows in (("real", rows_of_real), ("fake", rows_of_fake))
        for number in range(rows * COLUMNS)
    ]
    return dict(zip(names, ordered, strict=True))


def _check_foreign(folder: Path, own: set[str]) -> None:
    """Raise where a folder holds what `write_demo` would not write."""
    if not folder.exists() and not folder.is_symlink():
        return
    if own != {"real", "fake"} and folder.is_symlink():
        raise DataError(f"`{folder}` is a link, which would be followed: {_REMEDY}")
    for path in sorted(folder.iterdir()):
        if path.name not in own and not path.name.startswith("."):
            raise DataError(
                f"`{path}` is not of the demonstration and would be scored with it: {_REMEDY}"
            )


def _is_there(path: Path, pixels: Tensor) -> bool:
    """Whether an image was written already; raise where something else has its name."""
    if not path.exists() and not path.is_symlink():
        return False
    if path.is_symlink() or not torch.equal(decoded_image(path).pixels, pixels):
        raise DataError(f"`{path}` is another file than the demonstration's: {_REMEDY}")
    return True
