"""Whether planted faults are found, and how often something is found where nothing is: Markdown.

    python docs/benchmarks/explain.py IMAGES.npz --work FOLDER [--num 1000] [--only outliers]

IMAGES.npz holds `images`, uint8 (N, H, W, 3), and `labels` of ten classes; features are those of
the default extractor, kept in FOLDER for the next run. Each repetition draws `num` real, as many
fake and twice as many training images, no image twice, plants one fault in the fake ones, and looks
for it. Means over repetitions: `found` is the share of the planted samples that is listed, or
whether a gap was found in which most real samples are of the planted class; `false` the share of
the list that was not planted, 0 for none: for a gap, that less than 5 % of its real samples are of
that class; `any` whether there was anything to see. Fake samples have no classes: they get those of
their nearest real samples, of which a class is found that is told to be rarer.
"""

import argparse
import io
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from otmetrics import load_extractor
from otmetrics.explanation.attributes import compared_attributes
from otmetrics.explanation.classes import voted_classes
from otmetrics.explanation.clusters import find_clusters
from otmetrics.explanation.copies import find_copies
from otmetrics.explanation.outliers import find_outliers
from otmetrics.explanation.shares import compared_shares
from otmetrics.explanation.uncovered import find_uncovered
from otmetrics.images.looks import ATTRIBUTES, attributes_of


def noise(images: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)


def blurred(images: np.ndarray) -> np.ndarray:
    return gaussian_filter(images.astype(np.float32), (0, 2, 2, 0)).round().astype(np.uint8)


def mirrored(images: np.ndarray) -> np.ndarray:
    return images[:, :, ::-1]


def shifted(images: np.ndarray) -> np.ndarray:
    return np.pad(images, ((0, 0), (0, 0), (1, 0), (0, 0)), mode="edge")[:, :, :-1]


def compressed(images: np.ndarray) -> np.ndarray:
    found = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=75)
        found.append(np.asarray(Image.open(file)))
    return np.stack(found)


def brighter(images: np.ndarray) -> np.ndarray:
    return (images.astype(np.float32) * 1.05).round().clip(0, 255).astype(np.uint8)


def chequered(images: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(images.shape[1:3])
    sign = np.where((rows + columns) % 2, -4, 4)[None, :, :, None]
    return (images.astype(np.int16) + sign).clip(0, 255).astype(np.uint8)


CHANGES = {
    "plain": lambda images: images,
    "noise": noise,
    "blurred": blurred,
    "mirrored": mirrored,
    "shifted": shifted,
    "compressed": compressed,
    "brighter": brighter,
    "chequered": chequered,
}


def features(images: np.ndarray, change: str, work: Path) -> Tensor:
    """Features of all images after a change, from the folder where they are there."""
    path = work / f"{change}.npy"
    if not path.exists():
        extractor = load_extractor("efficientnet_lite0")
        changed = np.ascontiguousarray(CHANGES[change](images))
        batches = torch.from_numpy(changed).permute(0, 3, 1, 2).split(256)
        with torch.no_grad():
            np.save(path, torch.cat([extractor(batch) for batch in batches]).numpy())
    return torch.from_numpy(np.load(path))


class Draw(NamedTuple):
    """One repetition: features, and what was planted in them."""

    real: Tensor
    fake: Tensor
    train: Tensor
    planted: np.ndarray  # fake rows
    sources: np.ndarray  # training rows that those are copies of
    labels: np.ndarray  # of the real samples
    taken: int  # the class that was taken out, if one was
    looks: tuple[np.ndarray, np.ndarray]  # attributes of the images of both sides, (n, 5)


class Found(NamedTuple):
    found: float
    false: float
    any: float


Finder = Callable[[Draw, int], dict[str, Found]]


def outliers(draw: Draw, seed: int) -> dict[str, Found]:
    found = find_outliers(draw.real, draw.fake).found.nonzero()[:, 0]
    return {"outliers": of_list(set(found.tolist()), set(draw.planted.tolist()))}


def copies(draw: Draw, seed: int) -> dict[str, Found]:
    found = find_copies(draw.real, draw.fake, train=draw.train, num_permutations=9, seed=seed)
    pairs = {(one.fake, one.train) for one in found.rows}
    return {"copies": of_list(pairs, set(zip(draw.planted, draw.sources, strict=True)))}


def of_list(listed: set, planted: set) -> Found:
    right = len(listed & planted)
    return Found(
        right / max(1, len(planted)), 1 - right / len(listed) if listed else 0.0, bool(listed)
    )


def uncovered(draw: Draw, seed: int) -> dict[str, Found]:
    clusters = find_clusters(draw.real, draw.fake, seed=seed)
    found = find_uncovered(draw.real, draw.fake, clusters=clusters)
    of_class = torch.from_numpy(draw.labels == draw.taken)
    shares = [of_class[clusters.real == gap.cluster].double().mean() for gap in found.gaps]
    false = float(np.mean([share < 0.05 for share in shares])) if shares else 0.0
    return {
        "gaps": Found(any(share >= 0.5 for share in shares), false, bool(shares)),
        "crowded": Found(bool(found.crowded), 0.0, bool(found.crowded)),
    }


def classes(draw: Draw, seed: int) -> dict[str, Found]:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(draw.real)))
    reference, held_out = order.chunk(2)
    votes = [
        voted_classes(draw.real[reference], draw.labels[reference], samples)
        for samples in (draw.real[held_out], draw.fake)
    ]
    names = list(range(10))
    counts = [np.bincount(side, minlength=10) for side in votes]
    listed = [
        one.name for one in compared_shares(names, *counts, rate=0.1) if one.found and one.ratio < 1
    ]
    others = [name for name in listed if name != draw.taken]
    false = len(others) / len(listed) if listed else 0.0
    return {"classes": Found(draw.taken in listed, false, bool(listed))}


def attributes(draw: Draw, seed: int) -> dict[str, Found]:
    sides = {name: tuple(side[:, i] for side in draw.looks) for i, name in enumerate(ATTRIBUTES)}
    listed = [one.name for one in compared_attributes(sides, 0.1) if one.found]
    return {"attributes": Found(bool(listed), 0.0, bool(listed))}


class Fault(NamedTuple):
    """What is planted, and what looks for it."""

    finders: tuple[Finder, ...]
    share: float = 0.0  # of the fake samples that are changed
    change: str = "plain"
    copied: bool = False
    kept: float = 1.0  # share of one class that is left


FAULTS = {
    "nothing": Fault((outliers, uncovered, classes, attributes, copies)),
    "one class missing": Fault((uncovered, classes), kept=0.0),
    "one class at a tenth": Fault((uncovered, classes), kept=0.1),
    "2 % noise": Fault((outliers,), 0.02, "noise"),
    "2 % blurred": Fault((outliers,), 0.02, "blurred"),
    "1 % copies": Fault((copies,), 0.01, "plain", copied=True),
    "1 % copies, mirrored": Fault((copies,), 0.01, "mirrored", copied=True),
    "1 % copies, shifted by a pixel": Fault((copies,), 0.01, "shifted", copied=True),
    "1 % copies, JPEG 75": Fault((copies,), 0.01, "compressed", copied=True),
    "all brighter by 5 %": Fault((attributes,), 1.0, "brighter"),
    "all chequered": Fault((attributes,), 1.0, "chequered"),
}


class Table(NamedTuple):
    """All images: features and attributes by what was done to them, and their classes."""

    features: dict[str, Tensor]
    looks: dict[str, np.ndarray]
    labels: Tensor


def drawn(fault: Fault, table: Table, num: int, seed: int) -> Draw:
    labels = table.labels
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    real, train, rest = order[:num], order[num : 3 * num], order[3 * num :]
    taken = labels == seed % 10
    own, other = rest[taken[rest]], rest[~taken[rest]]
    if fault.kept < 1:
        few = round(fault.kept * num * float(taken.double().mean()))
        rest = torch.cat([own[:few], other])
    fake = rest[:num]

    planted = np.arange(round(fault.share * num))
    sources = planted if fault.copied else planted[:0]
    changed = (train if fault.copied else fake)[planted]
    features = table.features["plain"][fake].clone()
    features[planted] = table.features[fault.change][changed]
    looks = table.looks["plain"][fake]
    if fault.change in table.looks:
        looks[planted] = table.looks[fault.change][changed]
    plain = table.features["plain"]
    return Draw(
        plain[real],
        features,
        plain[train],
        planted,
        sources,
        labels[real].numpy(),
        seed % 10,
        (table.looks["plain"][real], looks),
    )


_given: list[Table] = []  # once for each process


def repetition(num: int, only: list[str], seed: int) -> dict[tuple[str, str], Found]:
    torch.set_num_threads(1)
    results = {}
    for name, fault in FAULTS.items():
        draw = drawn(fault, _given[0], num, seed)
        for finder in fault.finders:
            if only and finder.__name__ not in only:
                continue
            results |= {(name, kind): one for kind, one in finder(draw, seed).items()}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--only", nargs="*", default=[], help="outliers, uncovered, copies")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with np.load(args.images) as file:
        images, labels = file["images"], torch.from_numpy(file["labels"])
    looks = {}
    for change in ("plain", "noise", "blurred", "brighter", "chequered"):
        pixels = torch.from_numpy(np.ascontiguousarray(CHANGES[change](images)))
        looks[change] = torch.stack([attributes_of(one) for one in pixels.permute(0, 3, 1, 2)])
    table = Table(
        {change: features(images, change, args.work) for change in CHANGES},
        {change: values.numpy() for change, values in looks.items()},
        labels,
    )

    given = [table]
    with ProcessPoolExecutor(args.jobs, initializer=_given.extend, initargs=(given,)) as pool:
        work = partial(repetition, args.num, args.only)
        results = list(pool.map(work, range(args.repetitions)))
    print("| planted | looked for | found | false | any |\n| --- | --- | ---: | ---: | ---: |")
    for name, kind in results[0]:
        found, false, seen = np.mean([one[name, kind] for one in results], axis=0)
        share = "" if name == "nothing" else f"{found:.2f}"
        print(f"| {name} | {kind} | {share} | {false:.3f} | {seen:.2f} |")


if __name__ == "__main__":
    main()
