"""The bundled GANs on mixtures of known modes: Markdown on stdout.

    python docs/benchmarks/gans.py --data ring8 grid25 --seeds 3 [--presets swg ...] [--jobs 2]

Each preset is trained as `otmetrics train PRESET --data NAME --seed SEED` does it, on one thread in
one of `--jobs` processes. The averaged generator of its last step is scored on 2500 samples by the
rules of `otmetrics.reference_models.modes`, and by exact and sliced distances to as many held-out
samples. A row has means over the seeds; `floor` is samples of the distribution itself. What is
done with the same settings lies in `--out`, and is not done again: other code wants another folder.
"""

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from otmetrics.reference_models.data import Data, load_data
from otmetrics.reference_models.presets import PRESETS, config_for
from otmetrics.reference_models.reporter import Reporter
from otmetrics.reference_models.sampling import generate_samples
from otmetrics.reference_models.training import RunOptions, train

from otmetrics import Exact, Sliced

NUM = 2500
_GO_ON = RunOptions(resume=True, device="cpu")
COLUMNS = ("modes", "high_quality", "kl", "exact", "sliced", "seconds")


def scored(samples: torch.Tensor, data: Data) -> dict[str, float]:
    """All numbers of one set of samples."""
    modes = data.mixture.mode_scores(samples)
    real = data.held_out[:NUM]
    return {
        "modes": modes.covered,
        "high_quality": modes.high_quality,
        "kl": float("nan") if modes.kl is None else modes.kl,
        "exact": float(Exact().solve(real, samples).value),
        "sliced": float(Sliced().solve(real, samples).value),
    }


def one_run(preset: str, name: str, seed: int, out: Path, steps: int | None) -> dict[str, Any]:
    """Train and score once, or read what was found before."""
    torch.set_num_threads(1)
    data = load_data(name)
    options = {"seed": seed} | ({} if steps is None else {"steps": steps})
    config = config_for(preset, data, options, {})
    folder = out / f"{preset}-{name}-{seed}-{config.hash[:8]}"
    result = folder / "result.json"
    if result.exists():
        return json.loads(result.read_text())
    reporter = Reporter(folder, tensorboard=False)
    state = train(config, data, folder, reporter=reporter, options=_GO_ON)
    found = scored(generate_samples(state.sampler, data, NUM, seed=12345 + seed), data)
    seconds = reporter.rows[-1]["seconds"]
    found |= {"preset": preset, "data": name, "seed": seed, "seconds": seconds}
    result.write_text(json.dumps(found))
    return found


def row(title: str, runs: list[dict[str, Any]]) -> str:
    """Means of the runs, with the spread of those that decide."""
    means = {key: statistics.fmean(run[key] for run in runs) for key in COLUMNS[:-1]}
    seconds = [run["seconds"] for run in runs if "seconds" in run]
    least = min(run["modes"] for run in runs)
    cells = [
        title,
        f"{means['modes']:.1f} (least {least})",
        f"{100 * means['high_quality']:.1f} %",
        f"{means['kl']:.3f}",
        f"{means['exact']:.4f}",
        f"{means['sliced']:.4f}",
        f"{statistics.fmean(seconds):.0f}" if seconds else "",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["ring8", "grid25"])
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--steps", type=int, help="instead of each preset's own")
    parser.add_argument("--out", type=Path, default=Path("runs/gans"))
    options = parser.parse_args()
    asked = [
        (preset, name, seed, options.out, options.steps)
        for name in options.data
        for seed in range(options.seeds)
        for preset in options.presets
    ]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        runs = list(pool.map(one_run, *zip(*asked, strict=True)))
    for name in options.data:
        data = load_data(name)
        print(f"\n`{name}`\n")
        print("| preset | modes | high quality | KL | W_2 | SW_2 | seconds |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for preset in options.presets:
            print(row(preset, [r for r in runs if (r["preset"], r["data"]) == (preset, name)]))
        parts = data.held_out[NUM:].split(NUM)[: options.seeds]
        floor = [scored(part, data) for part in parts]
        print(row("floor", floor))


if __name__ == "__main__":
    main()
