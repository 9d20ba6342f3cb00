"""The bundled GANs on MNIST: grids of samples, and scores beside their floors as Markdown.

    python docs/benchmarks/mnist.py --data-root DATA [--presets swg ...] [--figures docs/figures]

DATA holds MNIST as torchvision lays it out. Each preset is trained as `otmetrics train PRESET
--data mnist` does it, one after the other, with all cores. Its best generator is scored as
`otmetrics evaluate` does it, and draws 64 samples into `--figures`, none of them chosen. What is
done with the same settings lies in `--out`, and is not done again: other code wants another folder.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from otmetrics.reference_models.data import Data, load_data
from otmetrics.reference_models.evaluation import Evaluator
from otmetrics.reference_models.export import loaded
from otmetrics.reference_models.pictures import grid
from otmetrics.reference_models.presets import config_for
from otmetrics.reference_models.reporter import Reporter
from otmetrics.reference_models.sampling import generated
from otmetrics.reference_models.training import train

PRESETS = ("dcgan", "wgan-gp", "rot-gan", "ot-gan", "swg")
NUM_SHOWN = 64


def one_run(
    preset: str, data: Data, out: Path, figures: Path, options: dict[str, Any]
) -> dict[str, Any]:
    """Train, score and draw once, or read what was found before."""
    config = config_for(preset, data, options, {})
    folder = out / f"{preset}-{config.hash[:8]}"
    result = folder / "result.json"
    if not result.exists():
        reporter = Reporter(folder, tensorboard=False)
        train(config, data, folder, reporter=reporter, resume=True, device="cpu")
        report, _ = Evaluator(config, data, torch.device("cpu")).report(loaded(folder)[0])
        found = {"preset": preset, "steps": config.steps, "seconds": reporter.rows[-1]["seconds"]}
        result.write_text(json.dumps(found | report.to_dict()))
    sampler, _, known = loaded(folder)
    figures.mkdir(parents=True, exist_ok=True)
    grid(
        figures / f"mnist-{preset}.png",
        generated(sampler, known, NUM_SHOWN, config.seed),
    )
    return json.loads(result.read_text())


def row(found: dict[str, Any]) -> str:
    """Scores, each before its floor."""
    cells = [found["preset"], str(found["steps"]), f"{found['seconds'] / 60:.1f}"]
    for score in found["scores"].values():
        floor = score["floor"]
        cells.append(f"{score['value']:.3f} ({floor['value']:.3f})")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="instead of each preset's own")
    parser.add_argument("--out", type=Path, default=Path("runs/mnist"))
    parser.add_argument("--figures", type=Path, default=Path("runs/mnist/figures"))
    options = parser.parse_args()
    data = load_data("mnist", root=options.data_root)
    own = {"seed": options.seed} | ({} if options.steps is None else {"steps": options.steps})
    runs = [one_run(name, data, options.out, options.figures, own) for name in options.presets]
    names = list(runs[0]["scores"])
    print(f"| preset | steps | minutes | {' | '.join(names)} |")
    print(f"|{' --- |' * (3 + len(names))}")
    for found in runs:
        print(row(found))


if __name__ == "__main__":
    main()
