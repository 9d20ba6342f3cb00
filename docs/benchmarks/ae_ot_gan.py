"""AE-OT-GAN on MNIST: what the weights of its losses do, as Markdown.

    python docs/benchmarks/ae_ot_gan.py --data-root DATA [--jobs 2]

One autoencoder and one transport, then 2000 adversarial steps for each pair of weights, all from
the same checkpoint; 1000 held-out digits, as `otmetrics evaluate` scores the best generator of
each. What is done lies in `--out`, and is not done again.
"""

import argparse
import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from otmetrics.reference_models.data import Data, load_data
from otmetrics.reference_models.evaluation import Evaluator
from otmetrics.reference_models.presets import config_for
from otmetrics.reference_models.reporter import Reporter
from otmetrics.reference_models.saving import load_generator
from otmetrics.reference_models.training import RunOptions, train

WEIGHTS = ((0.0, 0.0), (1.0, 0.1), (10.0, 0.0), (10.0, 0.1), (10.0, 10.0), (100.0, 0.1))
CODING, STEPS = 3000, 5000
BEGUN = CODING + 2  # with the step of the transport, and one that changes nothing
SHOWN = ("sliced_wasserstein", "frechet_distance", "precision", "recall", "coverage")


def trained(data: Data, folder: Path, options: dict[str, Any], objective: dict[str, Any]) -> None:
    """Train, or go on."""
    share = CODING / options["steps"]
    config = config_for("ae-ot-gan", data, options, {"autoencoder_share": share} | objective)
    reporter = Reporter(folder, tensorboard=False)
    how = RunOptions(resume=True, allow_change=True, device="cpu")
    train(config, data, folder, reporter=reporter, options=how)


def one_run(root: Path, out: Path, content: float, feature: float) -> str:
    """A row of the table."""
    torch.set_num_threads(1)
    data, folder = load_data("mnist", root=root), out / f"{content:g}-{feature:g}"
    result = folder / "result.json"
    if not result.exists():
        if not folder.exists():
            copied = folder.with_name(f".{folder.name}")
            shutil.rmtree(copied, ignore_errors=True)
            shutil.copytree(out / "begun", copied)
            copied.rename(folder)
        trained(data, folder, {"steps": STEPS}, {"content": content, "feature": feature})
        sampler, config, _ = load_generator(folder)
        evaluator = Evaluator(config, data, torch.device("cpu"))
        report, _ = evaluator.report(sampler)
        codes = evaluator.code_scores(sampler)
        assert codes is not None
        found = {name: report.scores[name].value for name in SHOWN}
        result.write_text(json.dumps(found | {"reconstruction": codes.reconstruction}))
    found = json.loads(result.read_text())
    cells = [f"{content:g}", f"{feature:g}", *(f"{value:.4f}" for value in found.values())]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/ae-ot-gan"))
    options = parser.parse_args()
    if not (options.out / "begun" / "generator.safetensors").exists():
        data = load_data("mnist", root=options.data_root)
        still = {"steps": BEGUN, "lr_generator": 1e-12, "lr_critic": 1e-12}
        trained(data, options.out / "begun", still, {})
    asked = [(options.data_root, options.out, *pair) for pair in WEIGHTS]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(one_run, *zip(*asked, strict=True)))
    print(f"| content | feature | {' | '.join(SHOWN)} | reconstruction |")
    print(f"|{' --- |' * (3 + len(SHOWN))}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
