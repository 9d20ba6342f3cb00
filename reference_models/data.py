"""What a generator learns: training and held-out samples by name, and the networks' units."""

import difflib
import hashlib
import importlib
import os
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otmetrics import images as reading
from otmetrics.checks import check_seed
from otmetrics.errors import DataError, OptionError, ignored_warnings
from otmetrics.features import Preprocessing

from .modes import Mixture, Scaling, grid25, ring8, standardisation, triples

OFFICIAL = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "celeba": "CelebA",
    "stacked_mnist": "MNIST",
}
"""Names of the data that torchvision reads, each with its class there."""


class Labelled(NamedTuple):
    """Images with their classes.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
    """

    images: Tensor
    labels: Tensor


class Files(NamedTuple):
    """Files of torchvision's that were asked for.

    Attributes:
        name: A key of `OFFICIAL`.
        root: Their folder.
        download: Whether to fetch what is missing there.
    """

    name: str
    root: str | Path | None
    download: bool

    def open_parts(self, *parts: dict[str, Any]) -> list[Any]:
        """Open parts of the data set, or say what is missing.

        Args:
            parts: What torchvision's class takes for each.

        Returns:
            The parts.

        Raises:
            OptionError: If the folder is not named.
            DataError: If its files are missing or damaged.
        """
        if self.root is None:
            raise OptionError(
                f"`{self.name}` needs the folder of its files: name it with --data-root, and add "
                "--download to fetch them."
            )
        kind = getattr(_module("torchvision.datasets", self.name), OFFICIAL[self.name])
        try:
            # numpy warns of old pickles, and older versions report a download on stdout
            with ignored_warnings(), redirect_stdout(sys.stderr):
                return [kind(self.root, download=self.download, **part) for part in parts]
        except Exception as error:  # torchvision raises nearly anything on damaged files
            raise DataError(self._problem(error)) from error

    def _problem(self, error: Exception) -> str:
        """Say what is wrong with the files and what to do about it."""
        detail = " ".join(str(error).split()) or type(error).__name__
        if self.download:
            return (
                f"`{self.name}` could not be fetched into `{self.root}` or read there ({detail}): "
                "check the connection, or put its files there as torchvision lays them out."
            )
        return (
            f"`{self.root}` does not hold the sound files of {self.name} as torchvision lays them "
            f"out ({detail}): check --data-root, or add --download to fetch them."
        )


def digits() -> Labelled:
    """Load scikit-learn's digits, whose values run from 0 to 16.

    Returns:
        The images of 8 pixels.

    Raises:
        DataError: If scikit-learn is missing.
    """
    found = _module("sklearn.datasets", "digits").load_digits()
    images = torch.from_numpy(found.images * (255 / 16)).round().to(torch.uint8)[:, None]
    return Labelled(images, torch.from_numpy(found.target).long())


def load_classified(files: Files) -> tuple[Labelled, Labelled]:
    """Load MNIST, Fashion-MNIST or CIFAR-10.

    Args:
        files: Where they are.

    Returns:
        The official training and test images.

    Raises:
        OptionError: If the folder is not named.
        DataError: If files are missing, damaged, or do not belong together.
    """
    train, held_out = files.open_parts({"train": True}, {"train": False})
    return _load_part(files, train), _load_part(files, held_out)


def _load_part(files: Files, part: Any) -> Labelled:
    """Images of a part that torchvision opened."""
    pixels, classes = torch.as_tensor(part.data), torch.as_tensor(part.targets).long()
    if len(pixels) != len(classes):
        raise DataError(
            f"`{files.root}` holds {len(pixels)} images and {len(classes)} labels of "
            f"{files.name}: fetch its files again."
        )
    images = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return Labelled(images.contiguous(), classes)


@dataclass(frozen=True)
class Faces:
    """Aligned images of CelebA, 178 x 218 pixels, to be read one by one.

    Attributes:
        folder: Their folder.
        names: Their files.
    """

    folder: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> reading.DecodedImage:
        """Decode one.

        Args:
            index: Which.

        Returns:
            The image.
        """
        return reading.decoded_image(self.folder / self.names[index])


def celeba(files: Files) -> tuple[Faces, Faces]:
    """Find the faces.

    Args:
        files: Where they are.

    Returns:
        Those of the official training part, and all others.

    Raises:
        OptionError: If the folder is not named.
        DataError: If files are missing or damaged.
    """
    train, everything = files.open_parts({"split": "train"}, {"split": "all"})
    folder = Path(everything.root, everything.base_folder, "img_align_celeba")
    others = sorted(set(everything.filename) - set(train.filename))
    return Faces(folder, tuple(train.filename)), Faces(folder, tuple(others))


def _module(module: str, data: str) -> ModuleType:
    """Import a module of a package that only training needs."""
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise DataError(
            f"`{data}` needs the package of {module}, which cannot be imported ({error}): "
            'pip install "otmetrics[train]".'
        ) from error


SIDES = (8, 28, 32, 64)
"""Sides in pixels of the images that the networks take."""

FOLDER_SIDES = (32, 64)
"""Sides to which the images of a folder can be resized; the last is the default."""

MIXTURES = {"ring8": ring8, "grid25": grid25}

NAMES = (*MIXTURES, "digits", *OFFICIAL)
"""All names but folder:PATH and npz:PATH."""

_NUM_POINTS = 100_000, 10_000
_NUM_STACKED = 128_000, 26_000
_FEWEST_FILES = 20


@dataclass(frozen=True, eq=False)
class Data:
    """Samples to learn from, and samples of the same law kept aside to score against.

    Attributes:
        name: The name it was loaded by.
        train: Points float64 (N, D) in their own coordinates, or images uint8 (N, C, H, W).
        held_out: More of the same kind, none of them in `train`.
        labels: Classes int64 (N,) of both parts; None where the data has none.
        scaling: What the networks' units are for points; None for images.
        mixture: The law of the points; None where it is not known.
    """

    name: str
    train: Tensor
    held_out: Tensor
    labels: tuple[Tensor, Tensor] | None = None
    scaling: Scaling | None = None
    mixture: Mixture | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: (D,) or (C, H, W)."""
        return tuple(self.train.shape[1:])

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of all that training sees; about a second a GB."""
        found = hashlib.sha256(str((self.train.dtype, tuple(self.train.shape))).encode())
        found.update(self.train.cpu().contiguous().numpy().data)
        return found.hexdigest()[:12]

    def to_network(self, samples: Tensor) -> Tensor:
        """Samples in the units of the networks.

        Images become (x - 127.5) / 127.5, in [-1, 1]; points have zero mean and unit standard
        deviation along each axis.

        Args:
            samples: Samples (N, *shape) as in `train`, on any device.

        Returns:
            float32 (N, *shape), on the same device.
        """
        if self.scaling is None:
            return (samples.float() - 127.5) / 127.5
        return self.scaling.apply(samples)

    def from_network(self, outputs: Tensor) -> Tensor:
        """Samples from the units of the networks, the inverse of `to_network`.

        Args:
            outputs: Floating (N, *shape), on any device.

        Returns:
            Images as uint8, clamped to [0, 255] and rounded; points as float64. Without a graph.

        Raises:
            ValueError: If a value is NaN or infinite.
        """
        outputs = outputs.detach()
        if not torch.isfinite(outputs).all():
            raise ValueError("`outputs` must be finite, got NaN or infinite values.")
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
                     the only one; nothing is unpickled. A .npy file does too
    ===============  ==========================================================================

    Images are resized by the antialiased bilinear filter. A random tenth of folders and arrays is
    held out.

    Args:
        name: A name of the table.
        root: The folder of torchvision's files; data of other kinds does not look at it.
        download: Fetch missing files of torchvision's into `root`. Nothing is fetched without it.
        seed: Seeds mixtures, triples and random splits.
        size: Side in pixels of the images of a folder, 32 or 64; 64 by default.

    Returns:
        The data, on the CPU. Equal arguments give equal data.

    Raises:
        OptionError: If the name is unknown, an option breaks its rule, or `root` is missing.
        DataError: If files or packages are missing, or files damaged, of another shape or too few.

    Examples:
        >>> load_data("ring8").shape
        (2,)
    """
    try:
        check_seed(seed)
    except ValueError as error:
        raise OptionError(str(error)) from error
    kind, _, path = name.partition(":")
    if size is not None and kind != "folder":
        raise OptionError(f"`size` is an option of folder:PATH alone, got {size} for {name!r}.")
    if kind == "folder" and path:
        return _folder(name, Path(path), FOLDER_SIDES[-1] if size is None else size, seed)
    if kind == "npz" and path:
        return _array(name, Path(path), seed)
    if name in MIXTURES:
        return mixture_data(MIXTURES[name](), seed=seed)
    if name == "digits":
        return _digits(seed)
    if name in OFFICIAL:
        return _official(Files(name, root, download), seed)
    raise OptionError(_unknown(name))


def mixture_data(mixture: Mixture, *, seed: int = 0) -> Data:
    """Draw 100 000 training and 10 000 held-out samples of a mixture.

    Args:
        mixture: The mixture.
        seed: Seeds the samples.

    Returns:
        The data; the networks' units are the samples divided by the analytic standard deviation.
    """
    generator = torch.Generator().manual_seed(seed)
    train, held_out = (mixture.sample(num, generator) for num in _NUM_POINTS)
    return Data(mixture.name, train, held_out, scaling=mixture.scaling, mixture=mixture)


def _unknown(name: str) -> str:
    """Say what is wrong with a name that is none, and what may be meant."""
    near = difflib.get_close_matches(name.lower(), NAMES, n=2)
    advice = f"; did you mean {' or '.join(near)}?" if near else "."
    if not near and Path(name).exists():
        advice = f"; for your own files write {'folder' if Path(name).is_dir() else 'npz'}:{name}."
    return f"`data` must be one of {', '.join(NAMES)}, folder:PATH, npz:PATH, got {name!r}{advice}"


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
        raise OptionError(f"`size` must be {sides} pixels, got {size!r}.")
    return Data(name, *_tenth_held_out(path, _read(reading.ImageFolder(path), size), seed))


def _read(source: reading.ImageSource, size: int) -> Tensor:
    """Read all images of a source in threads: uint8 (N, 3, size, size)."""
    resized = Preprocessing(size=size, resize="bilinear")

    def square(pixels: Tensor) -> Tensor:
        side = min(pixels.shape[1:])
        top, left = ((length - side) // 2 for length in pixels.shape[1:])
        centre = pixels[:, top : top + side, left : left + side]
        return (resized(centre) * 255).round().to(torch.uint8)

    images = torch.empty(len(source), 3, size, size, dtype=torch.uint8)
    threads, done = min(8, os.cpu_count() or 1), 0
    try:
        for batch in reading.batches(source, transform=square, batch_size=256, num_threads=threads):
            images[done : done + len(batch)] = torch.stack(batch)
            done += len(batch)
    except DataError as error:  # training has no option to leave files out
        advice = str(error).replace("pass `skip_corrupt` to leave such files out", "remove it")
        raise DataError(advice) from error
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
    images = torch.stack([source.read(index).pixels for index in range(len(source))])
    grey_or_rgb = images[:, : min(channels, 3)].contiguous()
    return Data(name, *_tenth_held_out(path, grey_or_rgb, seed))


# --- data of other packages -------------------------------------------------------------------


def _digits(seed: int) -> Data:
    """Load scikit-learn's digits."""
    images, labels = digits()
    train, held_out = _split(len(images), 5, seed)
    return Data("digits", images[train], images[held_out], (labels[train], labels[held_out]))


def _official(files: Files, seed: int) -> Data:
    """Load what torchvision reads."""
    if files.name == "celeba":
        learned, others = (_read(faces, 64) for faces in celeba(files))
        return Data(files.name, learned, others)
    train, held_out = load_classified(files)
    if files.name == "stacked_mnist":
        generator = torch.Generator().manual_seed(seed)
        train, held_out = (
            Labelled(*triples(*part, num=num, generator=generator))
            for part, num in zip((train, held_out), _NUM_STACKED, strict=True)
        )
    return Data(files.name, train.images, held_out.images, (train.labels, held_out.labels))
