"""What a metric costs on top of its network and its solver: Markdown on stdout.

    python docs/benchmarks/metric_overhead.py [--num 10000] [--repeats 7]

`update`: N features of D = 1280 in batches of 64 through a network that looks them up, so that all
that is timed is the metric's own work, as a share of the time that efficientnet_lite0 takes for as
many images of 224 x 224. `compute`: against the bare function on the same features, the two in
turns. Medians; all in one run, in one process.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import cycle

import torch
from torch import nn

from otmetrics import (
    FrechetFeatureDistance,
    KernelFeatureDistance,
    Sliced,
    WassersteinFeatureDistance,
    kernel_distance,
    load_extractor,
)
from otmetrics.statistics.frechet import gaussian_distance, moments
from otmetrics.transport.sliced.sketch import sketch, sketched_result

BATCH, D = 64, 1280


class LookUp(nn.Module):
    """Stands for a network that takes no time."""

    def __init__(self, features: torch.Tensor) -> None:
        super().__init__()
        self.batches = cycle(features.split(BATCH))

    def __deepcopy__(self, memo: dict) -> "LookUp":
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return next(self.batches)[: len(images)]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def extraction(num_batches: int, repeats: int) -> float:
    """Seconds that the default network takes for all batches, from the median of some."""
    extractor = load_extractor("efficientnet_lite0")
    images = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)
    extractor(images)
    return num_batches * statistics.median(
        seconds(lambda: extractor(images)) for _ in range(repeats)
    )


def feeding(make: Callable[..., object], real: torch.Tensor, repeats: int) -> float:
    """Seconds of all updates of one side."""
    images = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)

    def feed() -> None:
        metric = make(feature=LookUp(real))
        for batch in real.split(BATCH):
            metric.update(images[: len(batch)], real=True)

    return statistics.median(seconds(feed) for _ in range(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=10_000, help="samples per side")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    real, fake = torch.randn(options.num, D), torch.randn(options.num, D) + 0.1
    a, b = moments(real), moments(fake)
    directions = torch.nn.functional.normalize(torch.randn(1024, D, dtype=torch.float64))
    sketches = [sketch(directions @ side.double().T) for side in (real, fake)]
    cases = {
        "Wasserstein, sliced": (WassersteinFeatureDistance, lambda: Sliced().solve(real, fake)),
        "Wasserstein, sliced, streaming": (
            lambda **kwargs: WassersteinFeatureDistance(streaming=True, **kwargs),
            lambda: sketched_result(*sketches, 2.0),
        ),
        "Wasserstein, sliced, max_samples=2000": (
            lambda **kwargs: WassersteinFeatureDistance(max_samples=2000, **kwargs),
            lambda: Sliced().solve(real[:2000], fake[:2000]),
        ),
        "Fréchet": (
            FrechetFeatureDistance,
            lambda: gaussian_distance(a.mean, a.covariance, b.mean, b.covariance),
        ),
        "kernel": (KernelFeatureDistance, lambda: kernel_distance(real, fake)),
    }
    network = extraction(-(-options.num // BATCH), options.repeats)
    print(f"{options.num} samples per side, D = {D}; the network takes {network:.0f} s per side\n")
    print("| metric | `update` / network | `compute` / bare function | bare function, s |")
    print("| --- | --- | --- | --- |")
    for name, (make, bare) in cases.items():
        share = feeding(make, real, max(1, options.repeats // 2)) / network
        metric = make(feature=None)
        for side, is_real in ((real, True), (fake, False)):
            for batch in side.split(BATCH):
                metric.update(batch, real=is_real)
        times: list[tuple[float, float]] = []
        for _ in range(options.repeats):
            metric._computed = None
            times.append((seconds(metric.compute), seconds(bare)))
        ratio = statistics.median(ours / theirs for ours, theirs in times)
        alone = statistics.median(theirs for _, theirs in times)
        print(f"| {name} | {share:.2%} | {ratio:.3f} | {alone:.2f} |", flush=True)


if __name__ == "__main__":
    main()
