"""Whether intervals cover, tests keep their level, and what both cost: tables as Markdown.

    python docs/benchmarks/inference.py coverage [--repetitions 500] [--jobs 2]
    python docs/benchmarks/inference.py level [--repetitions 1000] [--jobs 2]
    python docs/benchmarks/inference.py cost [--num 5000] [--repeats 3]
    python docs/benchmarks/inference.py real FEATURES.npz [--repetitions 500] [--jobs 2]

`coverage`: N(0, I) against N(t, s^2 I), a t distribution with 5 degrees of freedom and a mixture;
limits in closed form where there are such, else the mean of as many repetitions, and the widths of
intervals as multiples of what the spread of the centres over repetitions would give. `real` draws
1000 + 1000 of given features, whose own score stands for the distributions'. `level`: share of
p-values of at most 0.05 where both sides are samples of one distribution.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmetrics import METRICS, Scoring, Sliced, score_features
from otmetrics.inference.two_sample import permutation_tests

SHIFTS = {"none": (0.0, 1.0), "shift": (0.3, 1.0), "scale": (0.0, 1.2), "both": (0.3, 1.2)}
SCORING = Scoring(floor=False, sliced=Sliced(num_projections=256))
Draw = tuple[Tensor, Tensor]


def normal(dimension: int, num: int, change: str, generator: torch.Generator) -> Draw:
    shift, scale = SHIFTS[change]
    real, fake = torch.randn(2, num, dimension, generator=generator, dtype=torch.float64)
    return real, scale * fake + shift


def heavy(dimension: int, num: int, change: str, generator: torch.Generator) -> Draw:
    """Five degrees of freedom: normal over the root of a chi-square over 5."""
    real, fake = normal(dimension, num, "none", generator)
    chi = torch.randn(2, num, 5, generator=generator, dtype=torch.float64).square().mean(2)
    shift, scale = SHIFTS[change]
    return real / chi[0].sqrt()[:, None], scale * fake / chi[1].sqrt()[:, None] + shift


def mixture(dimension: int, num: int, change: str, generator: torch.Generator) -> Draw:
    """Two components six standard deviations apart, one in three samples from the second."""
    real, fake = normal(dimension, num, change, generator)
    for side in (real, fake):
        side[:, 0] += 6.0 * (torch.rand(num, generator=generator) < 1 / 3).double()
    return real, fake


def limits(dimension: int, change: str) -> dict[str, float]:
    """What is known of normal distributions."""
    shift, scale = SHIFTS[change]
    square = shift**2 + (scale - 1) ** 2
    known = {"sliced_wasserstein": square**0.5, "frechet_distance": dimension * square}
    return known | {"kernel_distance": 0.0} if change == "none" else known


def one(draw: Callable[[torch.Generator], Draw], seed: int) -> dict[str, tuple[float, ...]]:
    torch.set_num_threads(1)
    real, fake = draw(torch.Generator().manual_seed(seed))
    found = {}
    for name, score in score_features(real, fake, scoring=SCORING).scores.items():
        assert score.interval is not None
        order = 2 if name in {"sliced_wasserstein", "wasserstein"} else 1
        centre = score.value**order if score.debiased is None else score.debiased
        ends = score.interval.low, score.interval.high
        found[name] = (centre, *ends, float(score.interval.target == "limit"), order)
    return found


def repeated(work: Callable[[int], Any], args: argparse.Namespace) -> list[Any]:
    with ProcessPoolExecutor(args.jobs) as pool:
        return list(pool.map(work, range(args.repetitions), chunksize=4))


def table_row(label: str, found: list[Any], known: dict[str, float]) -> None:
    cells = []
    for name in METRICS:
        rows = np.array([one[name] for one in found])
        centre, low, high, target, order = rows.T
        truth = known.get(name) if target.all() else None
        if truth is None:  # of a rooted score the root of the mean of its cost
            truth = (
                max(float(centre.mean()), 0.0) ** (1 / order[0]) if order[0] > 1 else centre.mean()
            )
        held = np.mean((low <= truth + 1e-9) & (truth - 1e-9 <= high))
        spread = centre.std(ddof=1)
        ends = [max(truth ** order[0] + way * 1.96 * spread, 0.0) for way in (-1, 1)]
        ideal = (
            ends[1] ** (1 / order[0]) - ends[0] ** (1 / order[0]) if order[0] > 1 else 3.92 * spread
        )
        width = np.mean(high - low) / ideal if ideal > 0 else float("nan")
        cells.append(f"{held:.3f} ({width:.2f})" + ("" if target.all() else " m"))
    print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


def coverage(args: argparse.Namespace) -> None:
    print("| distributions | " + " | ".join(METRICS) + " |\n| --- |" + " --- |" * len(METRICS))
    for dimension in (2, 16, 64):
        for num in (100, 400):
            for change in SHIFTS:
                work = partial(one, partial(_draw, normal, dimension, num, change))
                label = f"normal, D = {dimension}, n = {num}, {change}"
                table_row(label, repeated(work, args), limits(dimension, change))
    for family in (heavy, mixture):
        for change in ("none", "both"):
            work = partial(one, partial(_draw, family, 16, 400, change))
            known = dict.fromkeys(limits(16, "none"), 0.0) if change == "none" else {}
            table_row(f"{family.__name__}, D = 16, n = 400, {change}", repeated(work, args), known)


def _draw(family: Any, dimension: int, num: int, change: str, generator: torch.Generator) -> Draw:
    return family(dimension, num, change, generator)


def real(args: argparse.Namespace) -> None:
    with np.load(args.features) as file:
        pool = torch.from_numpy(file["features"]).float()
    middle = len(pool) // 2
    for label, sides in (
        ("one pool", (pool, pool)),
        ("two halves by their norms", _by_norm(pool, middle)),
    ):
        work = partial(one, partial(_subsample, *sides))
        table_row(f"features, {label}", repeated(work, args), {})


def _by_norm(pool: Tensor, middle: int) -> Draw:
    order = pool.norm(dim=1).argsort()
    return pool[order[:middle]], pool[order[middle:]]


def _subsample(first: Tensor, second: Tensor, generator: torch.Generator) -> Draw:
    if first is second:  # two disjoint parts
        order = torch.randperm(len(first), generator=generator)
        return first[order[:1000]], first[order[1000:2000]]
    a, b = (torch.randperm(len(side), generator=generator)[:1000] for side in (first, second))
    return first[a], second[b]


def tested(sizes: tuple[int, int], names: tuple[str, ...], seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    sides = [torch.randn(size, 8, generator=generator) for size in sizes]
    tests, joint = permutation_tests(*sides, names, 199, seed)
    return {name: test.pvalue for name, test in tests.items()} | {"smallest": joint}


def level(args: argparse.Namespace) -> None:
    names = (*METRICS, "smallest")
    print("| sizes | " + " | ".join(names) + " |\n| --- |" + " ---: |" * len(names))
    for sizes in ((40, 40), (60, 30)):
        found = repeated(partial(tested, sizes, METRICS), args)
        shares = [np.mean([one[name] <= 0.05 for one in found]) for name in names]
        print(f"| {sizes} | " + " | ".join(f"{share:.3f}" for share in shares) + " |", flush=True)


def cost(args: argparse.Namespace) -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(64, 1280, generator=generator)
    sides = [
        (
            torch.randn(args.num, 64, generator=generator) @ basis / 8
            + 0.3 * torch.randn(args.num, 1280, generator=generator)
        ).relu()
        for _ in range(2)
    ]
    groups = [(name,) for name in METRICS[:5]] + [METRICS[5:]]
    print(
        "| score | seconds | with an interval | the test alone | with both |\n| --- |"
        + " ---: |" * 4
    )
    for names in groups:
        kinds = ({"interval": False}, {}, {"test": 199})
        times: list[list[float]] = [[], [], []]
        for _ in range(args.repeats):
            for place, kind in enumerate(kinds):
                scoring = Scoring(metrics=names, floor=False, **kind)
                start = time.perf_counter()
                score_features(*sides, scoring=scoring)
                times[place].append(time.perf_counter() - start)
        value, interval, test = (statistics.median(one) for one in times)
        alone, both = (test - interval) / value, test / value
        ratios = f"{interval / value:.2f} | {alone:.2f} | {both:.2f}"
        print(f"| {names[0]} | {value:.2f} | {ratios} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("coverage", "level", "cost", "real"))
    parser.add_argument("features", nargs="?")
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--num", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    {"coverage": coverage, "level": level, "cost": cost, "real": real}[args.what](args)


if __name__ == "__main__":
    main()
