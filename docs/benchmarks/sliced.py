"""Sliced Wasserstein against POT on the same features and directions: Markdown on stdout.

    python docs/benchmarks/sliced.py [--features real.npy fake.npy] [--repeats 7]

`value`: N = 10 000, L = 1000 directions, the same for all; features are float32, and POT gets them
in float64 too, as its sums in float32 cost its value digits; `sort` is the bare matrix product and
numpy's sort in place, without which no one can answer. `gradient`: a training step, forward and
backward, at N = 1024, D = 512, L = 512. `1 %`: until the standard error of the value is one percent
of it, from 256 directions on; POT, which knows no error, is handed the number of independent
directions that it takes. Each runs in a process of its own: peak memory is above what features and
libraries take. Seconds are medians over `--repeats` runs, of POT's long ones over three. Without
`--features` the clouds are two samples of the mixture of `exact.py`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from exact import clouds
from torch import Tensor

from otmetrics import Sliced
from otmetrics.functional import random_directions

SIZE, PROJECTIONS = 10_000, 1000
STEP_SIZE, STEP_DIMENSION, STEP_PROJECTIONS = 1024, 512, 512


@cache
def directions(dimension: int, num: int) -> Tensor:
    """Independent directions (D, L) in float32."""
    generator = torch.Generator().manual_seed(0)
    return random_directions(dimension, num, generator=generator, orthogonal=False).float()


def value_ours(real: Tensor, fake: Tensor) -> float:
    return float(Sliced()(real, fake, directions=directions(real.shape[1], PROJECTIONS)))


def value_pot(real: Tensor, fake: Tensor) -> float:
    import ot

    projections = directions(real.shape[1], PROJECTIONS).to(real.dtype).numpy()
    found = ot.sliced_wasserstein_distance(real.numpy(), fake.numpy(), projections=projections)
    return float(found)


def value_pot_double(real: Tensor, fake: Tensor) -> float:
    return value_pot(real.double(), fake.double())


def value_sort(real: Tensor, fake: Tensor) -> float:
    """The least that there is to do."""
    rows = directions(real.shape[1], PROJECTIONS).T.contiguous()
    for cloud in (real, fake):
        projected = rows @ cloud.T
        projected.numpy().sort(axis=1)
    return float("nan")


def step(distance: Callable[[Tensor, Tensor], Tensor], real: Tensor, fake: Tensor) -> float:
    """Value and gradient of a training step; the norm of the gradient."""
    real = real[:STEP_SIZE, :STEP_DIMENSION]
    fake = fake[:STEP_SIZE, :STEP_DIMENSION].clone().requires_grad_()
    return float(torch.autograd.grad(distance(real, fake), fake)[0].norm())


def gradient_ours(real: Tensor, fake: Tensor) -> float:
    rows = directions(STEP_DIMENSION, STEP_PROJECTIONS)
    return step(lambda x, y: Sliced()(x, y, directions=rows), real, fake)


def gradient_pot(real: Tensor, fake: Tensor) -> float:
    import ot

    rows = directions(STEP_DIMENSION, STEP_PROJECTIONS)
    return step(lambda x, y: ot.sliced_wasserstein_distance(x, y, projections=rows), real, fake)


def percent_ours(real: Tensor, fake: Tensor) -> float:
    return float(Sliced(num_projections=256, tolerance=0.01).solve(real, fake).value)


def percent_pot(real: Tensor, fake: Tensor, num: int) -> float:
    import ot

    found = ot.sliced_wasserstein_distance(real.numpy(), fake.numpy(), n_projections=num, seed=0)
    return float(found)


def needed(real: Tensor, fake: Tensor) -> int:
    """Independent directions for a standard error of one percent of the value, by the delta method.

    From 1024 slices of 2000 samples.
    """
    rows = directions(real.shape[1], 1024).T
    slices = [Sliced().solve(real[:2000], fake[:2000], directions=row[:, None]) for row in rows]
    costs = torch.stack([result.cost for result in slices]).double()
    return int((costs.std() / (2 * costs.mean()) / 0.01) ** 2) + 1


CALLS: dict[str, dict[str, Callable[..., float]]] = {
    "value": {
        "otmetrics": value_ours,
        "POT": value_pot,
        "POT, float64": value_pot_double,
        "sort": value_sort,
    },
    "gradient": {"otmetrics": gradient_ours, "POT": gradient_pot},
    "1 %": {"otmetrics": percent_ours, "POT": percent_pot},
}
LONG = ("value", "1 %")


def memory(field: str) -> float:
    """A field of the memory of this process in MiB: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure(task: str, name: str, options: argparse.Namespace) -> None:
    """Time one call here, and print it as JSON."""
    options.dimension = 1280
    real, fake = (cloud.float() for cloud in clouds(SIZE, options))
    call = CALLS[task][name]
    if name.startswith("POT"):
        import ot  # noqa: F401
    num = None
    if call is percent_pot:  # it is told how many directions it needs, outside of the time
        num = needed(real, fake)
        call = partial(percent_pot, num=num)
    if task in ("gradient", "value"):
        call(real[:64], fake[:64])  # directions, and what torch loads on first use
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak
    before = memory("VmRSS")
    seconds = []
    for _ in range(3 if name.startswith("POT") and task in LONG else options.repeats):
        start = time.perf_counter()
        found = call(real, fake)
        seconds.append(time.perf_counter() - start)
    print(json.dumps([statistics.median(seconds), memory("VmHWM") - before, found, num]))


def table() -> None:
    """Every call of every task."""
    columns = ("task", "library", "seconds", "peak MiB", "value", "times ours")
    print(f"| {' | '.join(columns)} |")
    print("| --- " * len(columns) + "|")
    for task, calls in CALLS.items():
        base = None
        for name in calls:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", task, name]
            finished = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, peak, value, num = json.loads(finished.stdout.splitlines()[-1])
            base = base or seconds
            shown = "" if name == "sort" else f"{value:.7g}"
            told = f"{task}, {num} directions" if num else task
            print(
                f"| {told} | {name} | {seconds:.3g} | {peak:.0f} | {shown} | "
                f"{seconds / base:.2f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", nargs=2, type=Path, metavar="NPY", help="real and fake")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(*options.child, options)
    else:
        table()


if __name__ == "__main__":
    main()
