"""Write the folders behind docs/first-scores.md: CIFAR-10 images, plain and spoilt in known ways.

    python docs/scripts/first_scores.py CIFAR.npz OUT [--num 2000]

CIFAR.npz holds `images` (N, 32, 32, 3) in uint8 and `labels` (N,). OUT gets one folder of PNG files
a set: `real` and `other` are disjoint draws, the rest are made from the images of `other`, except
`half-classes`, which holds further images of five of the ten classes only.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cifar", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--num", type=int, default=2000)
    arguments = parser.parse_args()
    with np.load(arguments.cifar, allow_pickle=False) as data:
        images, labels = data["images"], data["labels"]
    rng = np.random.default_rng(0)
    order = rng.permutation(len(images))
    real, other, rest = np.split(order, [arguments.num, 2 * arguments.num])
    half = rest[labels[rest] < 5][: arguments.num]
    assert len(half) == arguments.num, "too few images of the first five classes are left"
    noise = rng.normal(0, 16, images[other].shape)
    write(arguments.out / "real", images[real])
    write(arguments.out / "other", images[other])
    write(arguments.out / "blurred", [blurred(image) for image in images[other]])
    write(arguments.out / "noisy", np.clip(images[other] + noise, 0, 255).round().astype(np.uint8))
    write(arguments.out / "half-classes", images[half])


def blurred(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1)))


def write(folder: Path, images: np.ndarray | list[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:05d}.png")


if __name__ == "__main__":
    main()
