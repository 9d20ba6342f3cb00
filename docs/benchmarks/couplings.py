"""How long couplings of noise and data take, next to torchcfm's sampler on the same batches.

    pip install --no-deps torchcfm==1.0.7 lapx
    OMP_NUM_THREADS=1 python docs/benchmarks/couplings.py [--sizes 256 1024] [--dimensions 2 64]

Noise is standard normal. Data of 2 features are eight Gaussians, of 64 and 3072 (as many as CIFAR
images have values) a distribution of 16 dimensions bent into them, all float32. Times are medians
of 5, in milliseconds, of 3 where one takes over a second; the ways take turns.

- ours: `coupling(noise, data, solver=...)`.
- torchcfm: `OTPlanSampler(method=...).sample_plan(noise, data)`, which draws from the plan, with
  POT's limit of 100 000 pivots. Its "sinkhorn" takes the same epsilon as ours here, as an absolute
  number, and draws from that plan.
- scipy, lapx: one assignment of float64 costs by `linear_sum_assignment` or `lapjvx`, the time of
  these costs with it; left out where it takes half a minute.

"Same pairs" are the shares of our pairs, and of those that torchcfm draws from, that are in the
plan of POT's simplex without a limit of pivots. "Excess" is how much more they cost than that plan,
relative to it, all costs in float64.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import lap
import numpy as np
import ot
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchcfm.optimal_transport import OTPlanSampler

from otmetrics import Sinkhorn, coupling

EPSILON = 0.05  # of the mean cost
LAPX_ROWS = 1024


def batch_of(size: int, dimension: int) -> tuple[Tensor, Tensor]:
    """Noise and data (N, D)."""
    generator = torch.Generator().manual_seed(size + dimension)
    noise = torch.randn(size, dimension, generator=generator)
    if dimension == 2:
        angles = torch.randint(8, (size,), generator=generator) * torch.pi / 4
        centres = 5 * torch.stack([angles.cos(), angles.sin()], 1)
        return noise, centres + 0.3 * torch.randn(size, 2, generator=generator)
    inner = torch.randn(size, 16, generator=generator)
    return noise, torch.tanh(inner @ torch.randn(16, dimension, generator=generator) / 2)


def squared(noise: Tensor, data: Tensor) -> np.ndarray:
    """Squared distances (N, N) in float64."""
    x, y = noise.double(), data.double()
    products = x @ y.T
    return products.mul_(-2).add_(y.square().sum(1)).add_(x.square().sum(1)[:, None]).numpy()


def times_of(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(5):
        for name, way in ways.items():
            if turn >= 3 and times[name][0] > 1:
                continue
            begin = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(some) for name, some in times.items()}


def compare(size: int, dimension: int) -> tuple[str, str]:
    """A row of the table of exact couplings, and one of that of Sinkhorn's."""
    noise, data = batch_of(size, dimension)
    cost = squared(noise, data)
    sampler = OTPlanSampler(method="exact")
    epsilon = EPSILON * float(cost.mean())
    theirs = OTPlanSampler(method="sinkhorn", reg=epsilon)
    ours = Sinkhorn(epsilon=EPSILON)
    rows = np.arange(size)

    def assign() -> np.ndarray:
        return linear_sum_assignment(squared(noise, data))[1]

    def assign_lapx() -> np.ndarray:
        return lap.lapjvx(squared(noise, data))[2]

    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: coupling(noise, data),
        "torchcfm": lambda: sampler.sample_plan(noise, data),
        "scipy": assign,
        "ours, Sinkhorn": lambda: coupling(noise, data, solver=ours),
        "torchcfm, Sinkhorn": lambda: theirs.sample_plan(noise, data),
    }
    if size <= LAPX_ROWS:
        ways["lapx"] = assign_lapx
    if size > 1024 and dimension != 64:
        del ways["scipy"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pivots that do not suffice
        times = times_of(ways)
        plan = sampler.get_map(noise, data)
    uniform = ot.unif(size)
    optimal = ot.emd(uniform, uniform, cost, numItermax=10**9)
    ours_plan = np.zeros_like(plan)
    ours_plan[rows, coupling(noise, data).data.numpy()] = 1 / size
    told = [
        f"{(found[optimal > 0] > 0.5 / size).mean():.1%}, {(found * cost).sum() / best - 1:.0e}"
        for best in [(optimal * cost).sum()]
        for found in (ours_plan, plan)
    ]

    exact = [shown(times, name) for name in ("ours", "torchcfm", "scipy", "lapx")]
    entropic = [shown(times, name) for name in ("ours, Sinkhorn", "torchcfm, Sinkhorn")]
    label = [str(size), str(dimension)]
    return row(*label, *exact, *told), row(*label, *entropic)


def shown(times: dict[str, float], name: str) -> str:
    """A time in milliseconds."""
    return f"{1e3 * times[name]:.1f}" if name in times else "-"


def row(*cells: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 1024, 4096])
    parser.add_argument("--dimensions", type=int, nargs="*", default=[2, 64, 3072])
    options = parser.parse_args()
    coupling(*batch_of(300, 3))  # imports and first calls
    cases = [(size, dimension) for size in options.sizes for dimension in options.dimensions]
    same = "same pairs, excess: ours"
    print(row("N", "D", "ours", "torchcfm", "scipy", "lapx", same, "torchcfm"))
    print(row(*["---"] * 8))
    entropic = []
    for case in cases:
        exact, other = compare(*case)
        print(exact, flush=True)
        entropic.append(other)
    print()
    print(row("N", "D", "ours, Sinkhorn", "torchcfm, Sinkhorn"))
    print(row(*["---"] * 4))
    print("\n".join(entropic))


if __name__ == "__main__":
    main()
