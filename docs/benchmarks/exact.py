"""Exact transport against POT and scipy on the same features: Markdown on stdout.

    python docs/benchmarks/exact.py --n 1000 2000 5000 10000
    python docs/benchmarks/exact.py --n 10000 --features real.npy fake.npy
    python docs/benchmarks/exact.py --n 50000 --dimension 256
    python docs/benchmarks/exact.py --batch

Each solver gets a process of its own, so that its peak memory is its own; libraries are imported
and features loaded before the clock starts, building the costs is timed with the rest. Seconds are
medians over `--repeats` runs up to 5000 samples, above of three of ours and one of the others.
Costs are squared Euclidean, weights uniform. Without `--features` the clouds are two samples of one
mixture of 50 normal distributions with standard deviations 1/sqrt(k) along axis k. `product` is
the bare matrix product of the clouds in float32, into new memory. `--batch` is a training
step: 64 problems of 256 points in 128 dimensions, forward and backward.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

LARGEST = 20_000  # beyond it the peers need tens of gigabytes and hours


def mixture(size: int, dimension: int, seed: int) -> Tensor:
    """A sample of the mixture in float32."""
    deviations = torch.arange(1, dimension + 1).float().rsqrt()
    centres = 1.5 * torch.randn(50, dimension, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(50, (size,), generator=generator)
    return (centres[labels] + torch.randn(size, dimension, generator=generator)) * deviations


def clouds(size: int, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Real and fake features of one size, in float64, which all solvers compute in."""
    if options.features is None:
        real, fake = (mixture(size, options.dimension, seed) for seed in (1, 2))
    else:
        arrays = [np.load(path, allow_pickle=False) for path in options.features]
        real, fake = (torch.from_numpy(array[:size]) for array in arrays)
    return real.double(), fake.double()


def ours(real: Tensor, fake: Tensor) -> tuple[float, float]:
    from otmetrics import Exact

    result = Exact().solve(real, fake)
    assert result.converged
    return float(result.cost), float(result.gap / result.cost)


def pot(real: Tensor, fake: Tensor) -> tuple[float, None]:
    import ot

    weights = np.full(len(real), 1 / len(real))
    cost = ot.dist(real.numpy(), fake.numpy())
    return float(ot.emd2(weights, weights, cost, numItermax=10**9)), None


def scipy(real: Tensor, fake: Tensor) -> tuple[float, None]:
    import ot
    from scipy.optimize import linear_sum_assignment

    cost = ot.dist(real.numpy(), fake.numpy())
    return float(cost[linear_sum_assignment(cost)].mean()), None


def lapx(real: Tensor, fake: Tensor) -> tuple[float, None]:
    import lap
    import ot

    cost = ot.dist(real.numpy(), fake.numpy())
    return float(lap.lapjv(cost)[0]) / len(cost), None


def product(real: Tensor, fake: Tensor) -> tuple[float, None]:
    """The bare matrix product, into new memory."""
    return float((real @ fake.T)[0, 0]), None


SOLVERS: dict[str, Callable[[Tensor, Tensor], tuple[float, float | None]]] = {
    "otmetrics": ours,
    "POT": pot,
    "scipy": scipy,
    "lapx": lapx,
    "product": product,
}


def measure(name: str, size: int, options: argparse.Namespace) -> None:
    """Time one solver here, and print it as JSON."""
    real, fake = clouds(size, options)
    if name == "product":
        real, fake = real.float(), fake.float()
    SOLVERS[name](real[:1000], fake[:1000])  # imports
    own = name in ("otmetrics", "product")
    repeats = options.repeats if size <= 5000 else 3 if own and size <= LARGEST else 1
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        value, gap = SOLVERS[name](real, fake)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps([statistics.median(seconds), peak, value, gap]))


def table(options: argparse.Namespace) -> None:
    """Every solver at every size."""
    columns = ("n", "solver", "seconds", "peak GiB", "value", "certified gap", "times ours")
    print(f"| {' | '.join(columns)} |")
    print("| --- " * len(columns) + "|")
    for size in options.n:
        names = ["otmetrics", "POT", "scipy"] if size <= LARGEST else ["otmetrics"]
        names += ["product"] if LARGEST < size <= 60_000 else []  # beyond that it is 40 GB
        names += ["lapx"] if find_spec("lap") and size <= LARGEST else []
        base = None
        for name in names:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", name, str(size)]
            finished = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, peak, value, gap = json.loads(finished.stdout.splitlines()[-1])
            base = base or seconds
            shown = "" if name == "product" else f"{value:.9g}"
            print(
                f"| {size} | {name} | {seconds:.3g} | {peak:.1f} | {shown} | "
                f"{'' if gap is None else format(gap, '.1e')} | {seconds / base:.2f} |",
                flush=True,
            )


def batch(repeats: int) -> None:
    """A training step, and the same by a loop over POT."""
    import ot

    from otmetrics import Exact

    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 64, 256, 128, generator=generator)
    fake.requires_grad_()
    weights = torch.full((256,), 1 / 256)

    def step() -> tuple[Tensor, Tensor]:
        costs = Exact().solve(real, fake).cost
        return costs.detach(), torch.autograd.grad(costs.sum(), fake)[0]

    def loop() -> tuple[Tensor, Tensor]:
        problems = zip(real, fake, strict=True)
        costs = torch.stack([ot.emd2(weights, weights, ot.dist(x, y)) for x, y in problems])
        return costs.detach(), torch.autograd.grad(costs.sum(), fake)[0]

    times: list[tuple[float, float]] = []
    for _ in range(repeats + 1):
        pair = []
        for call in (step, loop):
            start = time.perf_counter()
            found = call()
            pair.append((time.perf_counter() - start, found))
        times.append((pair[0][0], pair[1][0]))
    (costs, gradient), (other_costs, other_gradient) = (found for _, found in pair)
    ratio = statistics.median(theirs / own for own, theirs in times[1:])
    seconds = [statistics.median(column) for column in zip(*times[1:], strict=True)]
    print(f"otmetrics {seconds[0]:.3f} s, loop over ot.emd2 {seconds[1]:.3f} s: {ratio:.1f} times")
    print(f"largest relative difference of a value {(costs / other_costs - 1).abs().max():.1e}")
    difference = (gradient - other_gradient).abs().max() / other_gradient.abs().max()
    print(f"largest difference of a gradient, relative to the largest entry {difference:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 2000, 5000, 10_000])
    parser.add_argument("--dimension", type=int, default=1280)
    parser.add_argument("--features", nargs=2, metavar="NPY", help="real and fake (N, D)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", action="store_true", help="a training step instead")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(options.child[0], int(options.child[1]), options)
    elif options.batch:
        batch(options.repeats)
    else:
        table(options)


if __name__ == "__main__":
    main()
