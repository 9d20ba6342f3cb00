"""Flow matching from normal noise to two moons: which noise goes with which data sample matters.

    python docs/examples/flow_matching_couplings.py
    python docs/examples/flow_matching_couplings.py --steps 300 --samples 300

Small flows learn the same data by pairs that are made in different ways. The first table is of
flows without a condition: W_2 between fresh data and samples after 1, 2 and 100 Euler steps, the
energy of the paths, E of the integral of |v|^2, and how far they are from straight, that of
|v - (x_1 - x_0)|^2. The second is of flows that are given the moon:
W_2 within moons, and between the noise that was paired with a moon and other noise. Last comes
what a perfect flow shows: its samples differ from fresh data too, and the energy of its paths is
W_2^2 between noise and data.
"""

import time
from argparse import ArgumentParser, RawTextHelpFormatter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from otmetrics import SemiDiscrete, Sinkhorn, coupling, exact_wasserstein

BATCH = 256
EULER = (1, 2, 100)
Pairing = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # noise, rows of the data, step -> rows


def two_moons(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points (N, 2), about as wide as the noise, and the moon of each (N,)."""
    labels = torch.randint(2, (size,), generator=generator)
    angles = torch.pi * torch.rand(size, generator=generator)
    upper = torch.stack([angles.cos() - 0.5, angles.sin() - 0.25], 1)
    points = torch.where(labels[:, None] == 0, upper, -upper)
    return 2 * points + 0.1 * torch.randn(size, 2, generator=generator), labels


class Flow(nn.Module):
    """A velocity v(x, t), or v(x, t, label)."""

    def __init__(self, conditional: bool) -> None:
        super().__init__()
        self.conditional = conditional
        layers: list[nn.Module] = [nn.Linear(5, 128), nn.SiLU()]
        for _ in range(2):
            layers += [nn.Linear(128, 128), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(128, 2))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        moons = nn.functional.one_hot(labels, 2) * float(self.conditional)
        return self.layers(torch.cat([x, t[:, None], moons], 1))


def train(data: Tensor, labels: Tensor, pair: Pairing, conditional: bool, steps: int) -> Flow:
    """A flow that follows straight lines between pairs."""
    torch.manual_seed(0)
    flow, generator = Flow(conditional), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        noise = torch.randn(BATCH, 2, generator=generator)
        batch = torch.randint(len(data), (BATCH,), generator=generator)
        rows = pair(noise, batch, step)
        t = torch.rand(BATCH, generator=generator)
        x = torch.lerp(noise, data[rows], t[:, None])
        loss = (flow(x, t, labels[rows]) - (data[rows] - noise)).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return flow


@torch.no_grad()
def follow(flow: Flow, noise: Tensor, labels: Tensor, steps: int) -> tuple[Tensor, float, float]:
    """Samples after some Euler steps, the energy of their paths, how far from straight they are."""
    x, velocities = noise, []
    for step in range(steps):
        t = torch.full((len(x),), step / steps)
        velocities.append(flow(x, t, labels))
        x = x + velocities[-1] / steps
    speed = torch.stack(velocities)
    energy = speed.square().sum(2).mean()
    bend = (speed - (x - noise)).square().sum(2).mean()
    return x, float(energy), float(bend)


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="of training (%(default)s)")
    parser.add_argument("--points", type=int, default=1000, help="of training data (%(default)s)")
    parser.add_argument("--samples", type=int, default=1000, help="that are scored (%(default)s)")
    parser.add_argument("--figure", type=Path, help="a picture of all samples, such as flows.png")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    data, labels = two_moons(options.points, generator)
    fresh, moons = two_moons(options.samples, generator)
    other, other_moons = two_moons(options.samples, generator)
    noise = torch.randn(options.samples, 2, generator=generator)

    def heights_of(points: Tensor) -> Tensor:
        # Once for the whole data set; a batch then takes a matrix product.
        return SemiDiscrete(source="gaussian", tolerance=0.5).solve(points).heights

    begin = time.perf_counter()
    heights, by_moon = heights_of(data), torch.empty(len(data), dtype=torch.float64)
    for moon in (0, 1):
        by_moon[labels == moon] = heights_of(data[labels == moon])
    print(f"heights of {len(data)} points in {time.perf_counter() - begin:.0f} s")

    def independent(noise: Tensor, batch: Tensor, step: int) -> Tensor:
        return batch

    def exact(noise: Tensor, batch: Tensor, step: int) -> Tensor:
        return batch[coupling(noise, data[batch]).data]

    def sinkhorn(noise: Tensor, batch: Tensor, step: int) -> Tensor:
        return batch[coupling(noise, data[batch], solver=Sinkhorn(epsilon=0.05), seed=step).data]

    def stored(noise: Tensor, batch: Tensor, step: int) -> Tensor:
        return coupling(noise, data, solver=heights).data

    def within(noise: Tensor, batch: Tensor, step: int) -> Tensor:
        return batch[coupling(noise, data[batch], condition=labels[batch]).data]

    def stored_within(noise: Tensor, batch: Tensor, step: int) -> Tensor:
        given = {"condition": labels, "noise_condition": labels[batch]}
        return coupling(noise, data, solver=by_moon, **given).data

    def distance(x: Tensor, y: Tensor) -> float:
        return float(exact_wasserstein(x, y))

    def by_moons(x: Tensor, y: Tensor, x_moons: Tensor, y_moons: Tensor) -> float:
        return sum(distance(x[x_moons == m], y[y_moons == m]) for m in (0, 1)) / 2

    drawn = []
    print("\nwithout a condition   W_2: 1 step  2 steps  100 steps  energy  not straight  seconds")
    for name, pair in (
        ("independent", independent),
        ("exact", exact),
        ("Sinkhorn", sinkhorn),
        ("stored heights", stored),
    ):
        begin = time.perf_counter()
        flow = train(data, labels, pair, False, options.steps)
        seconds = time.perf_counter() - begin
        paths = [follow(flow, noise, other_moons, steps) for steps in EULER]
        values = [distance(samples, fresh) for samples, _, _ in paths]
        _, energy, bend = paths[-1]
        drawn.append((name, paths))
        print(
            f"{name:20s} {values[0]:12.3f} {values[1]:8.3f} {values[2]:10.3f} "
            f"{energy:7.3f} {bend:13.4f} {seconds:8.1f}"
        )
    least = distance(noise, fresh) ** 2
    floor = distance(other, fresh)
    print(f"{'a perfect flow':20s} {floor:12.3f} {floor:8.3f} {floor:10.3f} {least:7.3f} {0:13.4f}")

    print("\ngiven the moon        W_2: 1 step  2 steps  100 steps  noise of a moon")
    for name, pair in (
        ("independent", independent),
        ("exact, all", exact),
        ("exact, within moons", within),
        ("heights, by moon", stored_within),
    ):
        flow = train(data, labels, pair, True, options.steps)
        paths = [follow(flow, noise, other_moons, steps) for steps in EULER]
        values = [by_moons(samples, fresh, other_moons, moons) for samples, _, _ in paths]
        drawn.append((name, paths))
        shift = noise_of_moons(data, labels, pair)
        print(f"{name:20s} {values[0]:12.3f} {values[1]:8.3f} {values[2]:10.3f} {shift:16.3f}")
    floor = by_moons(other, fresh, other_moons, moons)
    chance = noise_of_moons(data, labels, independent, seed=1)
    print(f"{'a perfect flow':20s} {floor:12.3f} {floor:8.3f} {floor:10.3f} {chance:16.3f}")
    if options.figure:
        draw(drawn, fresh, other_moons, options.figure)


def noise_of_moons(data: Tensor, labels: Tensor, pair: Pairing, seed: int = 0) -> float:
    """W_2 between noise that was paired with a moon and other noise, the mean over moons."""
    generator = torch.Generator().manual_seed(seed)
    noise, moons = [], []
    for step in range(4):
        noise.append(torch.randn(BATCH, 2, generator=generator))
        batch = torch.randint(len(data), (BATCH,), generator=generator)
        moons.append(labels[pair(noise[-1], batch, step)])
    paired, of = torch.cat(noise), torch.cat(moons)
    plain = torch.randn(len(paired), 2, generator=generator)
    return sum(float(exact_wasserstein(paired[of == m], plain)) for m in (0, 1)) / 2


def draw(drawn: list, fresh: Tensor, moons: Tensor, path: Path) -> None:
    """Samples of all flows after 1, 2 and 100 steps: without a condition, and given the moon."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(len(drawn) // 2, 2 * len(EULER), sharex=True, sharey=True)
    sides = axes[:, : len(EULER)], axes[:, len(EULER) :]
    lines = [line for side in sides for line in side]
    for number, ((name, paths), line) in enumerate(zip(drawn, lines, strict=True)):
        colours = torch.zeros_like(moons) if number < len(sides[0]) else moons
        for (samples, _, _), steps, axis in zip(paths, EULER, line, strict=True):
            axis.scatter(*fresh.T, s=1, c="0.8", linewidths=0)
            axis.scatter(*samples.T, s=2, c=colours, cmap="coolwarm", linewidths=0)
            axis.set_title(f"{name}: {steps}", fontsize=7)
            axis.tick_params(labelsize=6)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
