"""The folders and the table behind docs/first-scores.md: CIFAR-10, plain and spoilt in known ways.

    python docs/scripts/first_scores.py write CIFAR.npz OUT [--num 2000]
    python docs/scripts/first_scores.py table OUT/other.json OUT/blurred.json ...

CIFAR.npz holds `images` (N, 32, 32, 3) in uint8 and `labels` (N,). `write` fills one folder of PNG
files a set: `real` and `other` are disjoint draws, `blurred` and `noisy` are the images of `other`
spoilt, `half-classes` holds further images of five of the ten classes only. `table` prints what
`otmetrics score real X --json X.json` found, as Markdown.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    write = commands.add_parser("write")
    write.add_argument("cifar", type=Path)
    write.add_argument("out", type=Path)
    write.add_argument("--num", type=int, default=2000)
    write.set_defaults(run=lambda options: write_sets(options.cifar, options.out, options.num))
    table = commands.add_parser("table")
    table.add_argument("reports", type=Path, nargs="+")
    table.set_defaults(run=lambda options: print(markdown(options.reports)))
    options = parser.parse_args()
    options.run(options)


def write_sets(cifar: Path, out: Path, num: int) -> None:
    with np.load(cifar, allow_pickle=False) as data:
        images, labels = data["images"], data["labels"]
    rng = np.random.default_rng(0)
    real, other, rest = np.split(rng.permutation(len(images)), [num, 2 * num])
    half = rest[labels[rest] < 5][:num]
    if len(half) < num:
        raise SystemExit(f"only {len(half)} images of the first five classes are left: lower --num")
    noise = rng.normal(0, 16, images[other].shape)
    write_folder(out / "real", images[real])
    write_folder(out / "other", images[other])
    write_folder(out / "blurred", [blurred(image) for image in images[other]])
    write_folder(out / "noisy", np.clip(images[other] + noise, 0, 255).round().astype(np.uint8))
    write_folder(out / "half-classes", images[half])


def blurred(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1)))


def write_folder(folder: Path, images: np.ndarray | list[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:05d}.png")


def markdown(reports: list[Path]) -> str:
    found = [json.loads(report.read_text())["scores"] for report in reports]
    head = ["score", "floor", *(report.stem for report in reports)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, score in found[0].items():
        cells = [f"{report[name]['floor']['at_floor_size']:.4g}" for report in found]
        lines.append([name, f"{score['floor']['value']:.4g}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
