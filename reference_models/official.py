"""Data sets in torchvision's layouts and scikit-learn's digits, as tensors."""

import importlib
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otmetrics import images as reading
from otmetrics.errors import DataError, OptionError, ignored_warnings

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

    def opened(self, *parts: dict[str, Any]) -> list[Any]:
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


def classified(files: Files) -> tuple[Labelled, Labelled]:
    """Load MNIST, Fashion-MNIST or CIFAR-10.

    Args:
        files: Where they are.

    Returns:
        The official training and test images.

    Raises:
        OptionError: If the folder is not named.
        DataError: If files are missing, damaged, or do not belong together.
    """
    train, held_out = files.opened({"train": True}, {"train": False})
    return _labelled(files, train), _labelled(files, held_out)


def _labelled(files: Files, part: Any) -> Labelled:
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
    train, everything = files.opened({"split": "train"}, {"split": "all"})
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
