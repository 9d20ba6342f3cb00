"""The tables and figures behind docs/which-distance.md: how each distance errs, and what it costs.

    OMP_NUM_THREADS=1 python docs/scripts/which_distance.py [--out docs/figures] [--only samples]

All data are synthetic normal distributions in float64, drawn from one seed. `real` has mean 0 and
variance 1 along every axis; `fake` is the same distribution again, or has mean 0.25 and standard
deviation 1.25, for which every limit is known in closed form. Tables go to stdout as Markdown,
figures to `--out` as SVG. Needs matplotlib. All parts take about three minutes on one core.
"""

import argparse
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.optimize import brentq
from torch import Tensor

import otmetrics
from otmetrics.transport.sliced.sliced import Sliced

SEED = 0
SHIFT, SCALE = 0.25, 1.25  # of fake, along every axis
DIMENSIONS = (16, 256)
EPSILON = 0.05
PROJECTIONS = 512  # of every sliced distance but those of `directions`

Distance = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="folder of figures")
    parser.add_argument("--only", choices=PARTS, help="one part instead of all of them")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "otmetrics", "svg.fonttype": "none", "font.size": 9})
    mpl.rcParams.update({"axes.grid": True, "grid.alpha": 0.3, "legend.fontsize": 8})
    mpl.rcParams.update({"lines.markersize": 3, "xtick.minor.size": 0, "ytick.minor.size": 0})
    for name in [options.only] if options.only else PARTS:
        print(f"\n{name}\n")
        PARTS[name](options.out)


# The distances, all as costs: squared units, no root.


def sinkhorn(**options: bool | float) -> Distance:
    return lambda real, fake: otmetrics.sinkhorn_divergence(real, fake, **options)


def max_sliced(real: Tensor, fake: Tensor) -> Tensor:
    return otmetrics.max_sliced_wasserstein(real, fake, tolerance=1e-4).square()


def sliced(**options: bool) -> Distance:
    solver = otmetrics.Sliced(num_projections=PROJECTIONS, **options)
    return lambda real, fake: solver.solve(real, fake).cost


DISTANCES: dict[str, Distance] = {
    "exact": lambda real, fake: otmetrics.Exact().solve(real, fake).cost,
    "sliced": sliced(),
    "sliced, debiased": sliced(debiased=True),
    "max-sliced": max_sliced,
    "Sinkhorn": sinkhorn(epsilon=EPSILON),
    "Sinkhorn, Richardson": sinkhorn(epsilon=EPSILON, richardson=True),
    "entropic": lambda real, fake: otmetrics.entropic_cost(real, fake, epsilon=EPSILON),
    "Fréchet": otmetrics.frechet_distance,
    "kernel": otmetrics.kernel_distance,
    "MIND": otmetrics.monge_inception_distance,
}


def limit(name: str, dimension: int) -> float:
    """What a distance tends to between the two different distributions as samples grow."""
    wasserstein = dimension * (SHIFT**2 + (SCALE - 1) ** 2)
    values = {
        "sliced": wasserstein / dimension,
        "sliced, debiased": wasserstein / dimension,
        "max-sliced": dimension * SHIFT**2 + (SCALE - 1) ** 2,
        "Sinkhorn": divergence_limit(dimension, EPSILON),
        "Sinkhorn, Richardson": richardson_limit(dimension, EPSILON),
        "kernel": kernel_limit(dimension),
    }
    return values.get(name, wasserstein)


def mean_cost(dimension: int) -> float:
    return dimension * (SHIFT**2 + 1 + SCALE**2)


def entropic_limit(dimension: int, epsilon: float) -> float:
    """Entropic cost of the distributions, axis by axis; see Janati et al. 2020."""
    return dimension * (SHIFT**2 + entropic_of_variances(1.0, SCALE**2, epsilon, dimension))


def entropic_of_variances(a: float, b: float, epsilon: float, dimension: int) -> float:
    absolute = epsilon * mean_cost(dimension)
    covariance = (math.sqrt(absolute**2 + 16 * a * b) - absolute) / 4
    return a + b - 2 * covariance - absolute / 2 * math.log1p(-(covariance**2) / (a * b))


def divergence_limit(dimension: int, epsilon: float) -> float:
    own = (entropic_of_variances(v, v, epsilon, dimension) for v in (1.0, SCALE**2))
    return entropic_limit(dimension, epsilon) - dimension * sum(own) / 2


def richardson_limit(dimension: int, epsilon: float) -> float:
    near, wide = (divergence_limit(dimension, factor * epsilon) for factor in (1, 2**0.5))
    return 2 * near - wide


def kernel_limit(dimension: int) -> float:
    """MMD^2 of the kernel (x . y / D + 1)^3."""

    def expected(a: float, r: float, b: float, s: float) -> float:
        """E k(x, y) for means a, b along every axis and standard deviations r, s."""
        inner, length_a, length_b = dimension * a * b, dimension * a * a, dimension * b * b
        second = inner**2 + r**2 * length_b + s**2 * length_a + dimension * (r * s) ** 2
        third = inner**3 + 3 * inner * s**2 * length_a
        third += 3 * r**2 * inner * (length_b + s**2 * (dimension + 2))
        return 1 + 3 * inner / dimension + 3 * second / dimension**2 + third / dimension**3

    real, fake = (0.0, 1.0), (SHIFT, SCALE)
    return expected(*real, *real) + expected(*fake, *fake) - 2 * expected(*real, *fake)


def draw_pair(size: int, dimension: int, repeat: int, same: bool) -> tuple[Tensor, Tensor]:
    """One sample per side."""
    generator = torch.Generator().manual_seed(SEED + 1000 * repeat + size)
    real, fake = torch.randn(2, size, dimension, generator=generator, dtype=torch.float64)
    return real, fake if same else SHIFT + SCALE * fake


# 1. How many samples.

SIZES = (64, 128, 256, 512, 1024)
REPEATS = 16
COUNTED = [name for name in DISTANCES if name not in ("entropic", "MIND")]


def samples(out: Path) -> None:
    figure, axes = plt.subplots(2, 2, figsize=(8, 6.4), sharex=True, layout="constrained")
    rows = []
    for row, dimension in zip(axes, DIMENSIONS, strict=True):
        for name in COUNTED:
            truth = limit(name, dimension)
            floors, values = (
                np.array([drawn(name, size, dimension, same) for size in SIZES]) / truth
                for same in (True, False)
            )
            floor, error = root_mean_square(floors), root_mean_square(values - 1)
            mean = values.mean(1)
            row[0].loglog(SIZES, floor, "o-", label=name)
            row[1].loglog(SIZES, np.where(mean > 0, mean, np.nan), "o-", label=name)
            of_wasserstein = truth / limit("exact", dimension)
            rows.append(
                [dimension, name, f"{of_wasserstein:.3g}"]
                + [f"{floor[i]:.3g}" for i in (0, -1)]
                + [f"{slope(SIZES, floor):.2f}"]
                + [f"{mean[i]:.3g} ± {values[i].std(ddof=1):.2g}" for i in (0, -1)]
                + [f"{slope(SIZES, error):.2f}"]
            )
        row[0].set(
            title=f"one distribution, D = {dimension}",
            ylabel="value / limit between two distributions",
        )
        row[1].set(title=f"two distributions, D = {dimension}", ylabel="mean value / its limit")
        row[1].axhline(1, color="black", linewidth=0.8)
    for axis in axes[-1]:
        axis.set(xlabel="samples per side", xticks=SIZES, xticklabels=SIZES)
        axis.minorticks_off()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save(figure, out / "distance-samples.svg")
    head = ["D", "distance", "limit / W_2^2"]
    head += [f"one distribution, n = {SIZES[0]}", f"n = {SIZES[-1]}", "slope"]
    head += [f"two distributions, n = {SIZES[0]}", f"n = {SIZES[-1]}", "slope of the error"]
    table(head, rows)


def drawn(name: str, size: int, dimension: int, same: bool) -> list[float]:
    pairs = (draw_pair(size, dimension, repeat, same) for repeat in range(REPEATS))
    return [float(DISTANCES[name](*pair)) for pair in pairs]


# 2. How many directions.

NUM_DIRECTIONS = (64, 128, 256, 512, 1024)
SEEDS = 100
REFERENCE = 2**16


def directions(out: Path) -> None:
    size, dimension = 128, 64
    deviations = torch.arange(1, dimension + 1, dtype=torch.float64).rsqrt()
    real, fake = (cloud * deviations for cloud in draw_pair(size, dimension, 0, same=True))
    cases = {
        "one distribution": (real, fake),
        "shifted and scaled": (real, SHIFT * deviations + SCALE * fake),
        "other axes": (real, fake.flip(1)),
    }
    estimates = {
        "independent": plain,
        "controls": functools.partial(of_seed, orthogonal=False),
        "default": functools.partial(of_seed, orthogonal=True),
    }
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), sharey=True, layout="constrained")
    rows = []
    for axis, (case, pair) in zip(axes, cases.items(), strict=True):
        solver = otmetrics.Sliced(num_projections=REFERENCE, seed=10**6)
        truth = float(solver.solve(*pair).cost)
        errors, stated = {}, []
        for name, estimate in estimates.items():
            found = np.array(
                [[estimate(pair, num, seed) for seed in range(SEEDS)] for num in NUM_DIRECTIONS]
            )
            errors[name] = root_mean_square(found[..., 0] / truth - 1)
            stated = root_mean_square(found[..., 1] / truth) / errors[name]
            axis.loglog(NUM_DIRECTIONS, errors[name], "o-", label=name)
        axis.set(title=case, xlabel="directions L")
        for i, num in enumerate(NUM_DIRECTIONS):
            cells = [f"{errors[name][i]:.2g}" for name in estimates]
            rows.append([case, num, *cells, f"{stated[i]:.2f}"])
        slopes = [f"{slope(NUM_DIRECTIONS, errors[name]):.2f}" for name in estimates]
        rows.append([case, "slope", *slopes, ""])
    axes[0].set(ylabel="relative RMS error of SW_2^2")
    axes[0].legend()
    save(figure, out / "distance-directions.svg")
    table(["clouds", "L", *estimates, "stated / measured, default"], rows)


def plain(pair: tuple[Tensor, Tensor], num: int, seed: int) -> tuple[float, float]:
    """The plain mean over independent directions; no error is stated."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(pair[0].shape[1], num, generator=generator, dtype=torch.float64)
    result = Sliced().solve(*pair, directions=normal / normal.norm(dim=0))
    return float(result.cost), math.nan


def of_seed(
    pair: tuple[Tensor, Tensor], num: int, seed: int, *, orthogonal: bool
) -> tuple[float, float]:
    """Cost and its standard error, which is twice the value times that of the value."""
    solver = otmetrics.Sliced(num_projections=num, seed=seed, orthogonal=orthogonal)
    result = solver.solve(*pair)
    assert result.standard_error is not None
    return float(result.cost), float(2 * result.value * result.standard_error)


# 3. Which epsilon.

EPSILONS = [2.0**-k for k in range(11)]


def epsilon(out: Path) -> None:
    size, dimensions = 300, (2, 64)
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
    rows = []
    for axis, dimension in zip(axes, dimensions, strict=False):
        real, fake = draw_pair(size, dimension, 0, same=False)
        truth = float(otmetrics.Exact().solve(real, fake).cost)
        true_limit = limit("exact", dimension)
        line = f"W_2^2 is {truth:.4g} of the samples, {true_limit:.4g} of the distributions"
        print(f"D = {dimension}: {line}\n")
        errors: dict[str, list[float]] = {"entropic": [], "Sinkhorn": [], "Richardson": []}
        iterations, bias = [], []
        for value in EPSILONS:
            solver = otmetrics.Sinkhorn(epsilon=value, max_iterations=20000)
            result = solver.solve(real, fake)
            further = otmetrics.Sinkhorn(epsilon=value, max_iterations=20000, richardson=True)
            blurred = otmetrics.entropic_cost(real, fake, epsilon=value, max_iterations=20000)
            costs = blurred, result.cost, further.solve(real, fake).cost
            for name, cost in zip(errors, costs, strict=True):
                errors[name].append(float(cost) / truth - 1)
            iterations.append(result.num_iterations)
            pair = (f(dimension, value) for f in (divergence_limit, richardson_limit))
            bias.append([cost / true_limit - 1 for cost in pair])
        for i, value in enumerate(EPSILONS):
            cells = [f"{errors[name][i]:+.2g}" for name in errors]
            cells += [f"{share:+.2g}" for share in bias[i]]
            rows.append([dimension, f"{value:.3g}", *cells, iterations[i]])
        for name, values in errors.items():
            axis.loglog(EPSILONS, np.abs(values), "o-", label=name)
        shares = np.abs(bias).T
        axis.loglog(EPSILONS, shares[0], "C1--", label="Sinkhorn, distributions", linewidth=1)
        axis.loglog(EPSILONS, shares[1], "C2--", label="Richardson, distributions", linewidth=1)
        axis.set(title=f"D = {dimension}", xlabel="epsilon / mean cost", ylim=(1e-6, 100))
        axes[2].loglog(EPSILONS, iterations, "o-", label=f"D = {dimension}")
    axes[0].set(ylabel="|cost / W_2^2 - 1|")
    axes[0].legend()
    axes[2].set(title="iterations to tolerance 1e-5", xlabel="epsilon / mean cost")
    axes[2].legend()
    save(figure, out / "distance-epsilon.svg")
    head = ["D", "epsilon / mean cost", "entropic", "Sinkhorn", "Richardson"]
    table([*head, "Sinkhorn, distributions", "Richardson, distributions", "iterations"], rows)


# 4. What a batch teaches.

BATCHES, BATCH = 16, 64


def gradient(out: Path) -> None:
    """The standard deviation of fake at which descent on batches comes to rest."""
    losses = DISTANCES | {"Sinkhorn, epsilon 1": sinkhorn(epsilon=1.0)}
    del losses["max-sliced"]  # takes minutes
    rows = [
        [name, *(resting_scale(loss, dimension) for dimension in DIMENSIONS)]
        for name, loss in losses.items()
    ]
    table(["loss", *(f"D = {dimension}" for dimension in DIMENSIONS)], rows)


def resting_scale(loss: Distance, dimension: int) -> str:
    pairs = [draw_pair(BATCH, dimension, repeat, same=True) for repeat in range(BATCHES)]
    real, noise = (torch.stack(side) for side in zip(*pairs, strict=True))

    def pull(scale: float) -> float:
        parameter = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        loss(real, parameter * noise).sum().backward()
        return float(parameter.grad)

    step = -0.05 if pull(1.0) > 0 else 0.05
    scale = 1.0
    while 0.05 < scale < 2 and pull(scale + step) * step < 0:
        scale += step
    if not 0.05 < scale < 2:
        return "0" if step < 0 else "above 2"
    return f"{brentq(pull, scale, scale + step, xtol=1e-3):.3f}"


# 5. How long.


def seconds(out: Path) -> None:
    """Medians of three runs, or of fewer where these take more than 12 seconds."""
    sizes, dimension = (500, 2000, 5000), 256
    rows = []
    for name, distance in DISTANCES.items():
        distance(*draw_pair(100, dimension, 0, same=False))
        values = [median(distance, draw_pair(size, dimension, 0, same=False)) for size in sizes]
        real, fake = draw_pair(sizes[1], dimension, 0, same=False)
        fake.requires_grad_()
        taught = median(lambda x, y, f=distance: f(x, y).backward(), (real, fake))
        rows.append([name, *(f"{value:.2g}" for value in values), f"{taught / values[1]:.1f}"])
    head = ["distance", *(f"n = {size}" for size in sizes)]
    table([*head, f"with gradient / without, n = {sizes[1]}"], rows)


def median(call: Callable[[Tensor, Tensor], object], pair: tuple[Tensor, Tensor]) -> float:
    taken: list[float] = []
    while len(taken) < 3 and sum(taken) < 12:
        start = time.perf_counter()
        call(*pair)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


PARTS: dict[str, Callable[[Path], None]] = {
    "samples": samples,
    "directions": directions,
    "epsilon": epsilon,
    "gradient": gradient,
    "time": seconds,
}


def root_mean_square(values: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    return np.sqrt(np.square(values).mean(-1))


def slope(x: Iterable[float], y: np.ndarray) -> float:
    """Least squares, log against log."""
    return float(np.polyfit(np.log(list(x)), np.log(y), 1)[0])


def table(head: list[str], rows: list[list[object]]) -> None:
    lines = [head, ["---"] * len(head), *rows]
    print("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines), flush=True)


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
