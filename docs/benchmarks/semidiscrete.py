"""Semi-discrete transport: how well cells fit, and maps of the plane that keep off their breaks.

    python docs/benchmarks/semidiscrete.py [--cases grid25-1000 law64-5000 ...] [--figures DIR]

The first table solves for points of a mixture, and of a distribution of eight dimensions bent into
64; its last column is the recipe of the public AE-OT code for the same time: Adam from equal
heights, without bias correction, on ten samples a point that stay the same until the misfit has not
shrunk for thirty steps, and are doubled then; at the better of two rates. Beyond 10 000 points
there is one round of steps, and no such column. Misfits are those of the shares of cells on fresh
samples, their noise what cells of equal shares would have there at 95 %. Cases run in one process:
the memory is the most that it has had so far. The second table and `--figures` map the unit square
to the modes of ring8 and grid25.
"""

import argparse
import resource
import time
import warnings
from pathlib import Path

import torch
from otmetrics.reference_models.data import load_data
from otmetrics.reference_models.modes import Mixture
from torch import Tensor

from otmetrics import SemiDiscrete
from otmetrics.functional import extended_map, laguerre_cells, neighbour_angles
from otmetrics.transport.semidiscrete.extended_map import RULES, face_normals
from otmetrics.transport.semidiscrete.sources import random_samples, source_samples

CASES = ("grid25-1000", "law64-1000", "law64-20000")
NUM = 2500
LARGE = 10_000  # points beyond which one round is taken, and no public recipe
BREAK = 4  # limits of the angle, beyond which the picture is black


def points_of(case: str) -> Tensor:
    """Float32 points of a case."""
    name, size = case.split("-")
    if name == "grid25":
        return load_data(name).train[: int(size)].float()
    generator = torch.Generator().manual_seed(0)
    inner = torch.randn(int(size), 8, generator=generator)
    first, second = (
        torch.randn(8, 128, generator=generator),
        torch.randn(128, 64, generator=generator),
    )
    return torch.tanh(inner @ first / 8**0.5) @ second / 128**0.5


def misfit(points: Tensor, heights: Tensor, size: int) -> tuple[float, float, int]:
    """The largest and the root mean squared misfit of shares, and empty cells, on fresh samples."""
    generator, counts = torch.Generator().manual_seed(99), torch.zeros(len(points))
    for _ in range(0, size, 50_000):
        noise = source_samples("cube", points.shape[1], 50_000, generator=generator).to(points)
        counts += laguerre_cells(noise, points, heights).bincount(minlength=len(points))
    share = counts * len(points) / counts.sum() - 1
    return float(share.abs().max()), float(share.square().mean().sqrt()), int((counts == 0).sum())


def public_recipe(points: Tensor, seconds: float, rate: float = 1e-2) -> Tensor:
    """Heights after the public code's steps for some time, points in the units of the cube."""
    size = 10 * len(points)
    unit = points - points.mean(0)
    scale = (unit.square().sum(1).mean() / (points.shape[1] / 12)).sqrt()
    unit = unit / scale
    noise = torch.quasirandom.SobolEngine(points.shape[1], scramble=False).draw(size) - 0.5
    best, since = float("inf"), 0
    heights, first, second = (torch.zeros(len(points)) for _ in range(3))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        shares = laguerre_cells(noise, unit, heights).bincount(minlength=len(points)) / len(noise)
        gradient = shares - 1 / len(points)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.square()
        heights = heights - rate * first / (second.sqrt() + 1e-8)
        heights -= heights.mean()
        since = 0 if gradient.norm() < best else since + 1
        best = min(best, float(gradient.norm()))
        if since > 30 and len(noise) < 100 * size:
            engine = torch.quasirandom.SobolEngine(points.shape[1], scramble=False)
            noise, best, since = engine.draw(2 * len(noise)) - 0.5, float("inf"), 0
    return scale * heights.double()


def solved(case: str) -> str:
    """A row of the first table."""
    points = points_of(case)
    size = min(2_000_000, 400 * len(points))
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = SemiDiscrete(max_rounds=1 if len(points) > LARGE else 6).solve(points)
    seconds = time.perf_counter() - begin
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    most, rms, empty = misfit(points, found.heights, size)
    cells = [
        case,
        f"{seconds:.0f}",
        f"{found.num_iterations}",
        f"{memory:.0f}",
        f"{found.residual:.0%} ({found.residual_error:.0%})",
        f"{most:.0%}, {rms:.0%}, {empty}",
    ]
    if len(points) > LARGE:
        return f"| {' | '.join([*cells, '-'])} |"
    others = (misfit(points, public_recipe(points, seconds, rate), size) for rate in (1e-2, 1e-3))
    most, rms, empty = min(others, key=lambda other: other[1])
    return f"| {' | '.join([*cells, f'{most:.0%}, {rms:.0%}, {empty}'])} |"


class Plane:
    """Transport of the unit square to points of a mixture."""

    def __init__(self, mixture: Mixture, num: int) -> None:
        self.mixture = mixture
        self.points = mixture.sample(num, torch.Generator().manual_seed(0))
        self.result = SemiDiscrete().solve(self.points)
        self.limits = neighbour_angles(self.points)

    def samples(self, rule: str, filtered: bool) -> tuple[Tensor, float]:
        """Samples, and the share of the noise that is kept."""
        noise = random_samples("cube", 2, 2 * NUM, generator=torch.Generator().manual_seed(1))
        found = extended_map(
            noise,
            self.points,
            self.result.heights,
            centres=self.result.centres,
            max_angle=self.limits if filtered else 0.0,
            rule=rule,
        )
        return found.codes[:NUM], float(found.kept.double().mean())

    def row(self, rule: str, filtered: bool) -> str:
        """A row of the second table."""
        samples, kept = self.samples(rule, filtered)
        modes = self.mixture.mode_scores(samples)
        nearest = torch.cdist(samples, self.mixture.centres).min(1).values / self.mixture.sigma
        cells = [
            self.mixture.name,
            rule,
            "yes" if filtered else "no",
            f"{kept:.1%}",
            f"{modes.covered} of {modes.num_modes}",
            f"{modes.high_quality:.1%}",
            f"{float((nearest > 5).double().mean()):.2%}",
            "-" if modes.kl is None else f"{modes.kl:.4f}",
        ]
        return f"| {' | '.join(cells)} |"


def draw(planes: list[Plane], path: Path) -> None:
    """Cells with the singular set, and samples without and with the angle, a row a mixture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.7 * len(planes)), layout="constrained")
    axes = figure.subplots(len(planes), 3, squeeze=False)
    for plane, (square, without, within) in zip(planes, axes, strict=True):
        show_cells(plane, square)
        for axis, filtered in ((without, False), (within, True)):
            samples, _ = plane.samples("inverse-distance", filtered)
            axis.scatter(*plane.points.T, s=3, c="0.75", linewidths=0)
            axis.scatter(*samples.T, s=2, c="tab:red", linewidths=0)
            axis.set_title(f"samples {'with' if filtered else 'without'} the angle", fontsize=9)
            axis.set_aspect("equal")
            axis.tick_params(labelsize=7)
    figure.savefig(path, dpi=100)


def show_cells(plane: Plane, axis) -> None:
    """The square, coloured by the mode of each cell; in black where faces break most."""
    from matplotlib import colormaps

    num = 700
    ticks = (torch.arange(num).double() + 0.5) / num - 0.5
    pixels = torch.cartesian_prod(ticks, ticks)
    cells = laguerre_cells(pixels, plane.points, plane.result.heights)
    modes = torch.cdist(plane.points, plane.mixture.centres).argmin(1)
    normals = face_normals(plane.points)
    order = torch.randperm(len(plane.mixture.centres), generator=torch.Generator().manual_seed(2))
    shades = 0.85 + 0.15 * torch.rand(len(plane.points), generator=torch.Generator().manual_seed(3))
    colours = torch.tensor(colormaps["tab20"](order[modes[cells]] % 20))[:, :3].float()
    image = (0.5 + 0.5 * colours) * shades[cells][:, None]
    grid = cells.view(num, num)
    singular = torch.zeros(num, num, dtype=torch.bool)
    for one, two, at in (
        (grid[:-1], grid[1:], singular[:-1]),
        (grid[:, :-1], grid[:, 1:], singular[:, :-1]),
    ):
        apart = (normals[one] - normals[two]).norm(dim=2)
        angles = 2 * torch.atan2(apart, (normals[one] + normals[two]).norm(dim=2))
        at |= angles > BREAK * plane.limits[one]
    thick = singular.view(1, 1, num, num).float()
    thick = torch.nn.functional.max_pool2d(thick, 3, 1, 1).flatten() > 0
    image[thick] = 0
    axis.imshow(
        image.view(num, num, 3).transpose(0, 1), origin="lower", extent=(-0.5, 0.5, -0.5, 0.5)
    )
    axis.set_title(f"{plane.mixture.name}: cells by mode, singular set", fontsize=9)
    axis.tick_params(labelsize=7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", default=CASES)
    parser.add_argument("--num-points", type=int, default=2000, help="of a mixture")
    parser.add_argument("--figures", type=Path, default=Path("runs"))
    options = parser.parse_args()
    print("| points | seconds | steps | MiB | misfit (noise) | fresh: most, rms, empty | public |")
    print(f"|{' --- |' * 7}")
    for case in options.cases:
        print(solved(case), flush=True)
    print("\n| mixture | rule | angle | kept | modes | high quality | between modes | KL |")
    print(f"|{' --- |' * 8}")
    planes = [Plane(load_data(n).mixture, options.num_points) for n in ("ring8", "grid25")]
    for plane in planes:
        for rule in RULES:
            for filtered in (False, True):
                print(plane.row(rule, filtered), flush=True)
    options.figures.mkdir(parents=True, exist_ok=True)
    draw(planes, options.figures / "semidiscrete-plane.png")


if __name__ == "__main__":
    main()
