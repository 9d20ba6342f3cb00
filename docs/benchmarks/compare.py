"""Whether comparisons of models hold their level, and what tests see: tables as Markdown.

    python docs/benchmarks/compare.py paired [--repetitions 1000] [--jobs 2]
    python docs/benchmarks/compare.py ranks [--repetitions 300] [--jobs 2]
    python docs/benchmarks/compare.py differences [--repetitions 300] [--jobs 2]
    python docs/benchmarks/compare.py power IMAGES.npz [--draws 5]

`paired`: how often two models are told apart that are both as good as real samples, in 8 dimensions
by 100 samples of each. `ranks`: five models of which two and two are alike, how often all rank sets
hold, and how many pairs that differ are told apart; the true order is that of the means.
`differences`: how often the interval of a difference holds it. `power`: medians of p-values where
samples lack half of the classes, are blurred by half a pixel, or hold 2 % of duplicates. IMAGES.npz
holds `images`, uint8 (N, H, W, 3), and `labels`; features are those of the default extractor.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from otmetrics import METRICS, Scoring, Sliced, compare_features, load_extractor
from otmetrics.inference.two_sample import permutation_tests
from otmetrics.scoring.options import MANIFOLD

SHIFTS = (0.0, 0.0, 0.3, 0.3, 0.6)  # of the five models
SIZES = (250, 1000, 4000)
SCORING = Scoring(sliced=Sliced(num_projections=256))


def repeated(work: Any, args: argparse.Namespace) -> list[Any]:
    with ProcessPoolExecutor(args.jobs) as pool:
        return list(pool.map(work, range(args.repetitions), chunksize=4))


def compared(shifts: tuple[float, ...], num: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    real = torch.randn(num, 8, generator=generator, dtype=torch.float64)
    models = {}
    for i, shift in enumerate(shifts):
        models[str(i)] = torch.randn(num, 8, generator=generator, dtype=torch.float64) + shift
    found = compare_features(real, models, scoring=SCORING)
    return {
        name: {model: (one.value, one.ranks) for model, one in board.standings.items()}
        for name, board in found.leaderboards.items()
        if board.reference is not None
    }


def paired(args: argparse.Namespace) -> None:
    found = repeated(partial(compared, (0.0, 0.0), 100), args)
    print("| score | told apart |\n| --- | ---: |")
    for name in found[0]:
        share = np.mean([one[name]["0"][1] in ((1, 1), (2, 2)) for one in found])
        print(f"| {name} | {share:.3f} |", flush=True)


def ranks(args: argparse.Namespace) -> None:
    found = repeated(partial(compared, SHIFTS, 200), args)
    print("| score | all rank sets hold | pairs told apart of those that differ |")
    print("| --- | ---: | ---: |")
    for name in found[0]:
        values = [[one[name][str(model)][0] for one in found] for model in range(5)]
        means = {
            s: np.mean([v for v, own in zip(values, SHIFTS, strict=True) if own == s])
            for s in SHIFTS
        }
        better = sorted(means, key=lambda s: means[s], reverse=name in MANIFOLD)
        order = [s for s in better for own in SHIFTS if own == s]
        # Of models that are alike each may have any rank of theirs.
        places = [(order.index(s) + 1, len(order) - order[::-1].index(s)) for s in SHIFTS]
        pairs = [(a, b) for a in range(5) for b in range(5) if places[a][1] < places[b][0]]
        held, apart = 0, 0
        for one in found:
            sets = [one[name][str(model)][1] for model in range(5)]
            held += all(
                least <= place[0] and place[1] <= most
                for (least, most), place in zip(sets, places, strict=True)
            )
            apart += sum(sets[a][1] < sets[b][0] for a, b in pairs)
        total = len(found) * len(pairs)
        print(f"| {name} | {held / len(found):.3f} | {apart / total:.3f} |", flush=True)


def differences(args: argparse.Namespace) -> None:
    """Of two models at these shifts, in closed form, by 300 samples of each in 16 dimensions."""
    names = ("sliced_wasserstein", "frechet_distance", "kernel_distance")
    print("| shifts | " + " | ".join(names) + " |\n| --- |" + " ---: |" * 3)
    for shifts in ((0.3, 0.0), (0.3, 0.05), (0.3, 0.2), (0.0, 0.0)):
        found = repeated(partial(gap_of, shifts, names), args)
        one, two = shifts
        truth = {"sliced_wasserstein": one - two, "frechet_distance": 16 * (one**2 - two**2)}
        cells = []
        for name in names:
            values = np.array([row[name] for row in found])
            known = truth.get(name, values[:, 0].mean())  # the kernel distance has no bias
            cells.append(f"{np.mean((values[:, 1] <= known) & (known <= values[:, 2])):.3f}")
        print(f"| {one:g} and {two:g} | " + " | ".join(cells) + " |", flush=True)


def gap_of(
    shifts: tuple[float, float], names: tuple[str, ...], seed: int
) -> dict[str, tuple[float, float, float]]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    real, a, b = torch.randn(3, 300, 16, generator=generator, dtype=torch.float64)
    scoring = Scoring(metrics=names, sliced=SCORING.sliced)
    models = {"a": a + shifts[0], "b": b + shifts[1]}
    found = compare_features(real, models, scoring=scoring).leaderboards
    gaps = {name: board.difference("a", "b") for name, board in found.items()}
    return {name: (gap.value, gap.low, gap.high) for name, gap in gaps.items()}


def power(args: argparse.Namespace) -> None:
    file = np.load(args.images)
    images, labels = file["images"], file["labels"]
    blurred = gaussian_filter(images.astype(np.float32), (0, 0.5, 0.5, 0)).round().astype(np.uint8)
    plain, blurred_features = features(images), features(blurred)
    print("| samples | n | " + " | ".join((*METRICS, "all")) + " |")
    print("| --- |" + " ---: |" * (len(METRICS) + 2))
    for case in ("nothing", "half of the classes", "blur of 0.5 px", "2 % of duplicates"):
        for num in SIZES:
            rows = []
            for seed in range(args.draws):
                real, fake = sides(case, num, plain, blurred_features, labels, seed)
                tests, joint = permutation_tests(real, fake, METRICS, 199, seed)
                rows.append([*(tests[name].pvalue for name in METRICS), joint])
            cells = " | ".join(f"{value:.3g}" for value in np.median(rows, 0))
            print(f"| {case} | {num} | {cells} |", flush=True)


def sides(
    case: str, num: int, plain: Tensor, blurred: Tensor, labels: np.ndarray, seed: int
) -> tuple[Tensor, Tensor]:
    """Real and fake features in random order; no image is on both sides."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(plain))
    if case == "half of the classes":
        kept = order[labels[order] < 5]
        fake = kept[:num]
        # As many of each class: what is left of all images has fewer of the first five.
        rest = np.setdiff1d(order, fake)
        real = np.concatenate(
            [rng.permutation(rest[labels[rest] == one])[: num // 10] for one in range(10)]
        )
        real = rng.permutation(real)
    else:
        real, fake = order[:num], order[num : 2 * num]
    if case == "2 % of duplicates":
        fake[: num // 50] = fake[num // 50 : 2 * (num // 50)]
        fake = rng.permutation(fake)
    return plain[real], (blurred if case.startswith("blur") else plain)[fake]


def features(images: np.ndarray) -> Tensor:
    extractor = load_extractor("efficientnet_lite0")
    batches = torch.from_numpy(images).permute(0, 3, 1, 2).split(256)
    with torch.no_grad():
        return torch.cat([extractor(batch) for batch in batches])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("paired", "ranks", "differences", "power"))
    parser.add_argument("images", nargs="?")
    parser.add_argument("--repetitions", type=int)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    args.repetitions = args.repetitions or (1000 if args.what == "paired" else 300)
    tables = {"paired": paired, "ranks": ranks, "differences": differences, "power": power}
    tables[args.what](args)


if __name__ == "__main__":
    main()
