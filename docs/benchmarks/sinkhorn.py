"""Sinkhorn divergence against geomloss on the same features: Markdown on stdout.

    python docs/benchmarks/sinkhorn.py [--n 5000] [--features real.npy fake.npy]
    python docs/benchmarks/sinkhorn.py --batch
    python docs/benchmarks/sinkhorn.py --large

The first compares divergences at epsilon = 0.05 of the mean cost. Errors are relative to the middle
of the bounds of a float64 solution with marginals right to 1e-10, whose relative width is told.
`--batch` is a training step: 64 problems of 256 points in 128 dimensions, forward and back. Both
take turns in one process; seconds are medians over `--repeats` turns after one that is not counted.
`--large` solves 30 000 points per side under a memory limit, in a process of its own, and tells the
most memory that the process had. Without `--features` the clouds are two samples of the mixture of
`exact.py`.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from exact import clouds
from geomloss import SamplesLoss
from torch import Tensor

from otmetrics import Sinkhorn
from otmetrics.functional import sinkhorn_divergence

EPSILON, LARGE, LIMIT = 0.05, 30_000, 6e9
SCALINGS = (0.5, 0.9)


def peer(epsilon: float, scaling: float) -> Callable[[Tensor, Tensor], Tensor]:
    """geomloss in our units: its cost and its epsilon are half of ours."""
    loss = SamplesLoss(
        "sinkhorn", p=2, blur=(epsilon / 2) ** 0.5, scaling=scaling, backend="tensorized"
    )
    return lambda real, fake: 2 * loss(real, fake)


def in_turns(calls: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, tuple]:
    """Median seconds and the last value of each call."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    values = {}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            values[name] = call()
            seconds[name].append(time.perf_counter() - start)
    return {name: (statistics.median(seconds[name][1:]), values[name]) for name in calls}


def mean_cost(real: Tensor, fake: Tensor) -> float:
    """Mean of |x - y|^2 over all pairs."""
    x, y = real.double(), fake.double()
    squares = x.square().sum(-1).mean() + y.square().sum(-1).mean()
    return float(squares - 2 * (x.mean(-2) * y.mean(-2)).sum(-1).mean())


def one(options: argparse.Namespace) -> None:
    """Time and error of one divergence."""
    real, fake = (cloud.float() for cloud in clouds(options.n, options))
    epsilon = EPSILON * mean_cost(real, fake)
    ours = {"epsilon": epsilon, "relative": False}
    exact = Sinkhorn(tolerance=1e-10, max_iterations=100_000, **ours).solve(
        real.double(), fake.double()
    )
    truth = float(exact.lower_bound + exact.upper_bound) / 2
    print(
        f"n = {options.n}, D = {real.shape[1]}: S = {truth:.9g}, bounds "
        f"{float(exact.upper_bound - exact.lower_bound) / truth:.1e} apart\n"
    )
    calls: dict[str, Callable[[], Tensor]] = {
        "otmetrics": lambda: sinkhorn_divergence(real, fake, **ours),
        "otmetrics, with bounds": lambda: Sinkhorn(**ours).solve(real, fake).cost,
    }
    for scaling in SCALINGS:
        loss = peer(epsilon, scaling)
        calls[f"geomloss, scaling {scaling}"] = lambda loss=loss: loss(real, fake)
    print("| solver | seconds | relative error | times ours |")
    print("| --- | --- | --- | --- |")
    found = in_turns(calls, options.repeats)
    base = found["otmetrics"][0]
    for name, (seconds, value) in found.items():
        error = abs(float(value) / truth - 1)
        print(f"| {name} | {seconds:.3g} | {error:.1e} | {seconds / base:.2f} |")


def batch(repeats: int) -> None:
    """A training step on a batch."""
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 64, 256, 128, generator=generator)
    fake = (fake + 0.3).requires_grad_()
    epsilon = EPSILON * mean_cost(real, fake.detach())

    def step(distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        costs = distance(real, fake)
        (gradient,) = torch.autograd.grad(costs.sum(), fake)
        return torch.cat([costs.detach(), gradient.flatten()])

    def ours(x: Tensor, y: Tensor, tolerance: float = 1e-5) -> Tensor:
        return sinkhorn_divergence(x, y, epsilon=epsilon, relative=False, tolerance=tolerance)

    truth = step(lambda x, y: ours(x.double(), y.double(), 1e-10))
    calls = {"otmetrics": lambda: step(ours)}
    for scaling in SCALINGS:
        loss = peer(epsilon, scaling)
        calls[f"geomloss, scaling {scaling}"] = lambda loss=loss: step(loss)
    print("| solver | seconds | error of a value | error of the gradient | times ours |")
    print("| --- | --- | --- | --- | --- |")
    found = in_turns(calls, repeats)
    for name, (seconds, values) in found.items():
        error = (values[:64] / truth[:64] - 1).abs().max()
        gradient = (values[64:] - truth[64:]).norm() / truth[64:].norm()
        ratio = seconds / found["otmetrics"][0]
        print(f"| {name} | {seconds:.3g} | {error:.1e} | {gradient:.1e} | {ratio:.2f} |")


def large(options: argparse.Namespace) -> None:
    """One divergence whose kernel is never stored."""
    real, fake = (cloud.float() for cloud in clouds(LARGE, options))
    start = time.perf_counter()
    result = Sinkhorn(epsilon=EPSILON, memory_limit=LIMIT).solve(real, fake)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    gap = float(result.gap / result.cost)
    print(f"n = {LARGE}, D = {real.shape[1]}: {seconds:.0f} s, at most {peak:.1f} GiB in all")
    print(f"S = {float(result.cost):.7g}, bounds {gap:.1e} apart, {result.message}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--dimension", type=int, default=1280)
    parser.add_argument("--features", nargs=2, type=Path, metavar="NPY", help="real and fake")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", action="store_true", help="a training step instead")
    parser.add_argument("--large", action="store_true", help="30 000 points instead")
    options = parser.parse_args()
    if options.batch:
        batch(options.repeats)
    elif options.large:
        large(options)
    else:
        one(options)


if __name__ == "__main__":
    main()
