"""The bundled GANs on MNIST: grids of samples, and scores next to their floors as Markdown.

    python docs/benchmarks/mnist.py --data-root DATA [--presets swg ...] [--figures docs/figures]

DATA holds MNIST as torchvision lays it out. Each preset is trained as `otmetrics train PRESET
--data mnist` does it, one after the other, with all cores. Its best generator is scored as
`otmetrics evaluate` does it, and draws 64 samples into `--figures`, none of them chosen. What is
done with the same settings lies in `--out`, and is not done again: other code wants another folder.

With `--classes` a second table reads the digits of 5000 samples by a small classifier: how many of
the ten there are, KL of their histogram to that of the training digits, and of 1000 samples the
median distance in pixels to the nearest training digit, in units of that of held-out digits. The
last rows are training digits as the autoencoder of `ae-ot` rebuilds them, and held-out digits.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from otmetrics.reference_models.codes import nearest
from otmetrics.reference_models.data import Data, load_data
from otmetrics.reference_models.evaluation import Evaluator
from otmetrics.reference_models.modes import fit_digit_classifier, read_digits
from otmetrics.reference_models.presets import config_for
from otmetrics.reference_models.reporter import Reporter, grid
from otmetrics.reference_models.sampling import generate_samples
from otmetrics.reference_models.saving import load_generator
from otmetrics.reference_models.training import RunOptions, train
from torch import Tensor, nn

PRESETS = ("dcgan", "wgan-gp", "rot-gan", "ot-gan", "swg")
NUM_SHOWN, NUM_READ, NUM_NEAR = 64, 5000, 1000
_GO_ON = RunOptions(resume=True, device="cpu")


def folder_of(preset: str, data: Data, out: Path, options: dict[str, Any]) -> Path:
    """Where the run of a preset with these settings lies."""
    return out / f"{preset}-{config_for(preset, data, options, {}).hash[:8]}"


def one_run(
    preset: str, data: Data, out: Path, figures: Path, options: dict[str, Any]
) -> dict[str, Any]:
    """Train, score and draw once, or read what was found before."""
    config = config_for(preset, data, options, {})
    folder = folder_of(preset, data, out, options)
    result = folder / "result.json"
    if not result.exists():
        reporter = Reporter(folder, tensorboard=False)
        train(config, data, folder, reporter=reporter, options=_GO_ON)
        report, _ = Evaluator(config, data, torch.device("cpu")).report(load_generator(folder)[0])
        found = {"preset": preset, "steps": config.steps, "seconds": reporter.rows[-1]["seconds"]}
        result.write_text(json.dumps(found | report.to_dict()))
    sampler, _, known = load_generator(folder)
    figures.mkdir(parents=True, exist_ok=True)
    grid(
        figures / f"mnist-{preset}.png",
        generate_samples(sampler, known, NUM_SHOWN, config.seed),
    )
    return json.loads(result.read_text())


class Classes:
    """Reads digits, and looks for training digits near samples."""

    def __init__(self, data: Data) -> None:
        assert data.labels is not None
        self.data = data
        self.classifier: nn.Module = fit_digit_classifier(data.train, data.labels[0], seed=0)
        self.expected = data.labels[0].bincount(minlength=10).double()
        self.known = data.train.flatten(1).float()
        self.unit = self._near(data.held_out[:NUM_NEAR])

    def _near(self, images: Tensor) -> Tensor:
        """Median distance to the nearest training digit."""
        return nearest(images.flatten(1).float(), self.known).median()

    def row(self, name: str, images: Tensor) -> str:
        """A row of the second table."""
        counts = read_digits(self.classifier, images).bincount(minlength=10).double()
        share, expected = counts / counts.sum(), self.expected / self.expected.sum()
        kl = torch.special.xlogy(share, share / expected).sum()
        near = self._near(images[:NUM_NEAR]) / self.unit
        return f"| {name} | {int((counts > 0).sum())} of 10 | {kl:.4f} | {near:.2f} |"

    def rebuilt(self, folder: Path) -> Tensor:
        """Training digits as the decoder of a run gives them."""
        sampler, _, _ = load_generator(folder)
        return self.data.from_network(sampler.rebuilt(self.data.train[:NUM_READ], self.data))


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
    parser.add_argument("--classes", action="store_true")
    options = parser.parse_args()
    data = load_data("mnist", root=options.data_root)
    own = {"seed": options.seed} | ({} if options.steps is None else {"steps": options.steps})
    runs = [one_run(name, data, options.out, options.figures, own) for name in options.presets]
    names = list(runs[0]["scores"])
    print(f"| preset | steps | minutes | {' | '.join(names)} |")
    print(f"|{' --- |' * (3 + len(names))}")
    for found in runs:
        print(row(found))
    if options.classes:
        print("\n| samples | classes | KL | nearest training digit |")
        print(f"|{' --- |' * 4}")
        classes = Classes(data)
        for name in options.presets:
            folder = folder_of(name, data, options.out, own)
            sampler, config, known = load_generator(folder)
            print(classes.row(name, generate_samples(sampler, known, NUM_READ, config.seed + 1)))
        if "ae-ot" in options.presets:
            rebuilt = classes.rebuilt(folder_of("ae-ot", data, options.out, own))
            print(classes.row("training digits, rebuilt", rebuilt))
        print(classes.row("held-out digits", data.held_out[:NUM_READ]))


if __name__ == "__main__":
    main()
