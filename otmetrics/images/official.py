"""Data sets that torchvision reads, by name and split: `cifar10:test`."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from otmetrics.errors import DataError
from otmetrics.images.decode import DecodedImage, image_tensor
from otmetrics.images.facts import pixel_facts
from otmetrics.images.identity import digest
from otmetrics.safe_files import user_path

ROOT_VARIABLE = "OTMETRICS_DATA"

_TRAIN_OR_TEST = {"train": {"train": True}, "test": {"train": False}}
_BY_SPLIT = {name: {"split": name} for name in ("train", "test")}
DATA_SETS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "mnist": ("MNIST", _TRAIN_OR_TEST),
    "fashion_mnist": ("FashionMNIST", _TRAIN_OR_TEST),
    "kmnist": ("KMNIST", _TRAIN_OR_TEST),
    "cifar10": ("CIFAR10", _TRAIN_OR_TEST),
    "cifar100": ("CIFAR100", _TRAIN_OR_TEST),
    "svhn": ("SVHN", _BY_SPLIT | {"extra": {"split": "extra"}}),
    "stl10": ("STL10", _BY_SPLIT | {"unlabeled": {"split": "unlabeled"}}),
}
"""Name -> torchvision's class, and what it takes for each split."""


class OfficialImages:
    """A split of a data set in torchvision's layout.

    Args:
        text: Name and split, as in `cifar10:test`.

    Attributes:
        path: What was asked for.
        names: "cifar10:test[12]" for image 12.
        labels: Class of each image by its name, or None.

    Raises:
        DataError: The split is unknown, torchvision is missing, or the files are.
    """

    kind = "data set"

    def __init__(self, text: str) -> None:
        self.path = Path(text)
        name, _, split = text.partition(":")
        class_name, splits = DATA_SETS[name]
        if split not in splits:
            raise DataError(f"`{text}` must end in {' or '.join(f':{one}' for one in splits)}.")
        try:
            import torchvision
        except ImportError as error:
            raise DataError(
                f'`{text}` needs the package torchvision: pip install "otmetrics[torchvision]".'
            ) from error
        root = user_path(os.environ.get(ROOT_VARIABLE, "data"))
        try:
            self._data = getattr(torchvision.datasets, class_name)(str(root), **splits[split])
        except Exception as error:  # a damaged file raises what its reader raises
            detail = " ".join(str(error).split())
            if isinstance(error, RuntimeError):  # whose words name an option that is not ours
                detail = "its files are missing or damaged"
            raise DataError(
                f"`{text}` is not in `{root}` in torchvision's layout ({detail}): name the folder "
                f"of its files in the environment variable {ROOT_VARIABLE}."
            ) from error
        self.names = tuple(f"{text}[{index}]" for index in range(len(self._data)))
        classes = getattr(self._data, "classes", None)
        targets = getattr(self._data, "targets", getattr(self._data, "labels", None))
        self.labels = None
        if targets is not None:
            numbers = [int(target) for target in targets]
            self.labels = tuple(str(classes[n] if classes and n >= 0 else n) for n in numbers)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> DecodedImage:
        """Return one image.

        Args:
            index: Its place.

        Returns:
            The pixels; nothing is transparent.
        """
        image = self._image(index)
        pixels = image_tensor(np.asarray(image.convert("RGB")))
        colour = "grey" if image.mode == "L" else "RGB"
        return DecodedImage(pixels, False, pixel_facts(pixels, colour))

    def identity(self, index: int, content: bool) -> bytes:
        """Tell one image from all others: by its pixels, which are in memory.

        Args:
            index: Its place.
            content: Makes no difference.

        Returns:
            16 bytes.
        """
        pixels = np.asarray(self._image(index).convert("RGB"))
        return digest("pixels", str(pixels.shape), pixels.tobytes())

    def _image(self, index: int) -> Image.Image:
        """An image as torchvision gives it."""
        image = self._data[index][0]
        assert isinstance(image, Image.Image)
        return image
