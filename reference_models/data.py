"""What a generator learns: training and held-out samples by name, and the networks' units."""

import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from otmetrics import images as reading
from otmetrics.checks import check_seed
from otmetrics.errors import Argument, DataError, OptionError, RangeError
from otmetrics.features import Preprocessing
from otmetrics.images.files import ImageFiles

from .modes import Mixture, Scaling, grid25, ring8, standardisation, triples

SIDES = (8, 28, 32, 64)
"""Sides in pixels of the images that the networks take."""

FOLDER_SIDES = (32, 64)
"""Sides to which the images of a folder can be resized; the last is the default."""

MIXTURES = {"ring8": ring8, "grid25": grid25}

_OFFICIAL = ("mnist", "fashion_mnist", "cifar10", "celeba", "stacked_mnist")

NAMES = (*MIXTURES, "digits", *_OFFICIAL)
"""All names but folder:PATH and npz:PATH."""

_NUM_POINTS = 100_000, 10_000
_NUM_STACKED = 128_000, 26_000
_FEWEST_FILES = 20


@dataclass(frozen=True, eq=False)
class Data:
    """Samples to learn from, and more of the same distribution that are kept to score against."""

    name: str
    train: Tensor  # points float64 (N, D) in their own coordinates, or images uint8 (N, C, H, W)
    held_out: Tensor  # of the same kind, none of them in `train`
    labels: tuple[Tensor, Tensor] | None = None  # classes int64 (N,) of both parts, where known
    scaling: Scaling | None = None  # the networks' units of points; None for images
    mixture: Mixture | None = None  # the distribution of the points, where it is known

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: (D,) or (C, H, W)."""
        return tuple(self.train.shape[1:])

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of all that training sees; about a second a GB."""
        # Equal bytes of another shape are other samples.
        found = hashlib.sha256(str((self.train.dtype, tuple(self.train.shape))).encode())
        # The buffer itself: `tobytes` would copy gigabytes.
        found.update(self.train.cpu().contiguous().numpy().data)
        return found.hexdigest()[:12]

    def to_network(self, samples: Tensor) -> Tensor:
        """Samples in the units of the networks.

        Images become (x - 127.5) / 127.5, in [-1, 1]; points have zero mean and unit standard
        deviation along each axis. The result is float32, on the device of the samples.
        """
        if self.scaling is None:
            return (samples.float() - 127.5) / 127.5
        return self.scaling.apply(samples)

    def from_network(self, outputs: Tensor) -> Tensor:
        """Samples from the units of the networks, without a graph; a RangeError unless finite.

        Images become uint8, clamped to [0, 255] and rounded; points float64.
        """
        outputs = outputs.detach()
        if not torch.isfinite(outputs).all():
            raise RangeError("`outputs` must be finite, got NaN or infinite values.")
        if self.scaling is None:
            return (outputs.float() * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8)
        return self.scaling.undone(outputs)


def load_data(
    name: str,
    *,
    root: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
    size: int | None = None,
) -> Data:
    """Load data by name, whole, into memory.

    ===============  ==========================================================================
    ring8, grid25    100 000 and 10 000 samples of the mixtures in `points`
    digits           scikit-learn's 1797 digits (1, 8, 8), a random fifth of them held out
    mnist            torchvision's (1, 28, 28); the official test images are held out
    fashion_mnist    the same
    cifar10          torchvision's (3, 32, 32); the same
    celeba           torchvision's faces, the centre 178 x 178 pixels brought to (3, 64, 64), 2.5
                     GB in all; the official validation and test images are held out
    stacked_mnist    128 000 random triples of training digits a, b, c as channels (3, 28, 28) with
                     labels 100 a + 10 b + c; 26 000 of test digits are held out. The published
                     sets draw from both, which would leave nothing to hold out
    folder:PATH      images of any size, the centre square of each brought to (3, size, size)
    npz:PATH         images uint8 (N, H, W, C) of 8, 28, 32 or 64 pixels square, transparency
                     composited on white; or points (N, D), standardised along each axis by the
                     training part. From the entry `features`, else `images`, else `arr_0`, else
                     the only one; no code of it is run. A .npy file does too
    ===============  ==========================================================================

    Images are resized by the antialiased bilinear filter. A random tenth of folders and arrays is
    held out. Equal arguments give equal data, on the CPU: `seed` decides mixtures, triples and
    random splits. `root` is the folder of torchvision's files, into which they are fetched if
    `download` says so; `size` is the side in pixels of the images of a folder, 32 or 64.

    An OptionError says that the name is unknown, an option breaks its rule, or `root` is missing; a
    DataError that files or packages are missing, or files damaged, of another shape or too few.

    Examples:
        >>> load_data("ring8").shape
        (2,)
    """
    check_seed(seed)
    kind, _, path = name.partition(":")
    if size is not None and kind != "folder":
        raise OptionError(
            Argument("size"), f" is an option of folder:PATH alone, got {size} for {name!r}."
        )

    if kind == "folder" and path:
        return _folder(name, Path(path), FOLDER_SIDES[-1] if size is None else size, seed)
    if kind == "npz" and path:
        return _array(name, Path(path), seed)

    if name in MIXTURES:
        return mixture_data(MIXTURES[name](), seed=seed)
    if name == "digits":
        return _digits(seed)
    if name in _OFFICIAL:
        if root is None:
            raise OptionError(
                f"`{name}` needs the folder of its files: name it with ",
                Argument("data_root", in_python="root"),
                ", and add ",
                Argument("download"),
                " to fetch them.",
            )
        return _official(name, root, download, seed)
    raise OptionError(Argument("data"), _unknown(name))


def mixture_data(mixture: Mixture, *, seed: int = 0) -> Data:
    """Draw 100 000 training and 10 000 held-out samples of a mixture."""
    generator = torch.Generator().manual_seed(seed)
    train, held_out = (mixture.sample(num, generator) for num in _NUM_POINTS)
    return Data(mixture.name, train, held_out, scaling=mixture.scaling, mixture=mixture)


def _unknown(name: str) -> str:
    """What is wrong with a name that is not known, and what may be meant."""
    near = difflib.get_close_matches(name.lower(), NAMES, n=2)
    advice = f"; did you mean {' or '.join(near)}?" if near else "."
    if not near and Path(name).exists():
        advice = f"; for your own files write {'folder' if Path(name).is_dir() else 'npz'}:{name}."
    return f" must be one of {', '.join(NAMES)}, folder:PATH, npz:PATH, got {name!r}{advice}"


# --- random splits ----------------------------------------------------------------------------


def _split(num: int, share: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw which of `num` samples train and which one in `share` is held out, each in order."""
    order = torch.randperm(num, generator=torch.Generator().manual_seed(seed))
    held_out = num // share
    return order[held_out:].sort().values, order[:held_out].sort().values


def _tenth_held_out(path: Path, samples: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Split samples that came from files."""
    if len(samples) < _FEWEST_FILES:
        raise DataError(
            f"`{path}` holds {len(samples)} samples, of which a tenth would be held out: "
            f"give at least {_FEWEST_FILES}."
        )
    train, held_out = _split(len(samples), 10, seed)
    return samples[train], samples[held_out]


# --- folders and arrays -----------------------------------------------------------------------


def _folder(name: str, path: Path, size: int, seed: int) -> Data:
    """Load the images of a folder."""
    if size not in FOLDER_SIDES:
        sides = " or ".join(map(str, FOLDER_SIDES))
        raise OptionError(Argument("size"), f" must be {sides} pixels, got {size!r}.")
    return Data(name, *_tenth_held_out(path, _read(reading.ImageFolder(path), size), seed))


def _read(source: reading.ImageSource, size: int) -> Tensor:
    """Read all images of a source in threads: uint8 (N, 3, size, size)."""
    resized = Preprocessing(size=size, resize="bilinear")

    # Cut first: the `crop` of `Preprocessing` resizes what it cuts away, to other values.
    def square(pixels: Tensor) -> Tensor:
        side = min(pixels.shape[1:])
        top, left = ((length - side) // 2 for length in pixels.shape[1:])
        centre = pixels[:, top : top + side, left : left + side]
        return (resized(centre) * 255).round().to(torch.uint8)

    # Into one tensor: a list of parts would need the memory twice when they are joined.
    images = torch.empty(len(source), 3, size, size, dtype=torch.uint8)
    readers, done = reading.Readers(min(8, os.cpu_count() or 1)), 0
    try:
        for batch in reading.batches(source, transform=square, batch_size=256, readers=readers):
            images[done : done + len(batch)] = torch.stack(batch)
            done += len(batch)
    except DataError as error:
        # Training has no option to leave files out, which is what errors of one image advise.
        if Argument("skip_corrupt") not in error.args:
            raise
        raise DataError(error.args[0], ", or remove it.") from error
    return images


def _array(name: str, path: Path, seed: int) -> Data:
    """Load a file of points or images."""
    array = reading.loaded_array(path).array
    if array is None:
        raise DataError(f"`{path}` holds a mean and covariance: give the samples themselves.")
    if array.ndim == 2:
        points = torch.from_numpy(reading.checked_features(array, path).astype("float64"))
        train, held_out = _tenth_held_out(path, points, seed)
        scaling = standardisation(train)
        # An infinite scale would make one point of all.
        if not torch.isfinite(scaling.scale).all():
            raise DataError(f"`{path}` holds values whose squares overflow: scale them down.")
        return Data(name, train, held_out, scaling=scaling)

    source = reading.ImageArray(array, path)
    height, width, channels = array.shape[1:]
    if height != width or height not in SIDES:
        raise DataError(
            f"`{path}` holds images of {height} x {width} pixels, the networks take squares of "
            f"{', '.join(map(str, SIDES))}: resize them, or give the files as folder:PATH."
        )

    # Reading makes three channels of each image, all equal where there was one.
    images = torch.stack([source.read(index).pixels for index in range(len(source))])
    grey_or_rgb = images[:, : min(channels, 3)].contiguous()
    return Data(name, *_tenth_held_out(path, grey_or_rgb, seed))


# --- data of other packages -------------------------------------------------------------------


def _digits(seed: int) -> Data:
    """Load scikit-learn's digits, whose values run from 0 to 16; a fifth of them is held out."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            f"`digits` needs the package sklearn, which cannot be imported ({error}): "
            'pip install "otmetrics[train]".'
        ) from error

    found = load_digits()
    images = torch.from_numpy(found.images * (255 / 16)).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(found.target).long()
    train, held_out = _split(len(images), 5, seed)
    return Data("digits", images[train], images[held_out], (labels[train], labels[held_out]))


def _official(name: str, root: str | Path, download: bool, seed: int) -> Data:
    """Load what torchvision reads, with its own parts to train and to hold out."""
    if name == "celeba":
        return _celeba(root, download)

    files = "mnist" if name == "stacked_mnist" else name
    parts = [_classified(files, split, root, download) for split in ("train", "test")]
    if name == "stacked_mnist":
        generator = torch.Generator().manual_seed(seed)
        parts = [
            triples(*part, num=num, generator=generator)
            for part, num in zip(parts, _NUM_STACKED, strict=True)
        ]

    (train, train_labels), (held_out, held_out_labels) = parts
    return Data(name, train, held_out, (train_labels, held_out_labels))


def _classified(name: str, split: str, root: str | Path, download: bool) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, C, H, W) of a split, and their classes."""
    found = reading.open_torchvision(name, split, root, download=download)
    pixels, classes = torch.as_tensor(found.data), torch.as_tensor(found.targets).long()
    # Of MNIST two files, which torchvision does not compare.
    if len(pixels) != len(classes):
        raise DataError(
            f"`{root}` holds {len(pixels)} images and {len(classes)} labels of {name}: fetch its "
            "files again."
        )

    # MNIST has no axis of channels, CIFAR-10 has it behind the pixels.
    images = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return images.contiguous(), classes


def _celeba(root: str | Path, download: bool) -> Data:
    """Load the faces of CelebA; those of its training part train, and all others are held out."""
    train, everything = (
        reading.open_torchvision("celeba", split, root, download=download)
        for split in ("train", "all")
    )
    folder = Path(everything.root, everything.base_folder, "img_align_celeba")
    others = sorted(set(everything.filename) - set(train.filename))

    # Not torchvision's own loop: its files are decoded here with the limits of any other image.
    learned, held_out = (
        _read(ImageFiles(folder, folder, tuple(names), None), 64)
        for names in (train.filename, others)
    )
    return Data("celeba", learned, held_out)
