"""The figures of docs/is-the-difference-real.md: intervals that hold, and what labels tell.

    OMP_NUM_THREADS=1 python docs/scripts/difference_figures.py [--out docs/figures]

All data are normal distributions in float64, drawn from one seed. Needs matplotlib.
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from otmetrics import Scoring, Sliced, score_features, sliced_wasserstein, two_sample_test

DIMENSION, SHIFT = 16, 0.25  # of fake along every axis: SW_2 of the distributions is 0.25
NUM, DRAWS, RESAMPLES = 200, 40, 200
SLICED = Sliced(num_projections=256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="folder of figures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    mpl.rcParams.update(
        {"svg.hashsalt": "otmetrics", "svg.fonttype": "none", "font.size": 9, "axes.titlesize": 9}
    )
    mpl.rcParams.update({"axes.grid": True, "grid.alpha": 0.3, "legend.fontsize": 8})
    draw_intervals(options.out / "difference-intervals.svg")
    draw_labels(options.out / "difference-labels.svg")


def pair(seed: int, shift: float, num: int = NUM) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    real, fake = torch.randn(2, num, DIMENSION, generator=generator, dtype=torch.float64)
    return real, fake + shift


def draw_intervals(path: Path) -> None:
    """Forty draws: our interval, and the naive bootstrap's, next to the truth."""
    scoring = Scoring(metrics=("sliced_wasserstein",), sliced=SLICED, floor=False)
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.4), sharex=True, sharey=True)
    titles = "otmetrics", "bootstrap"
    held = [0, 0]
    for draw in range(DRAWS):
        real, fake = pair(draw, SHIFT)
        score = score_features(real, fake, scoring=scoring).scores["sliced_wasserstein"]
        assert score.interval is not None
        ends = (score.interval.low, score.interval.high), bootstrap(real, fake, draw)
        for place, (low, high) in enumerate(ends):
            holds = low <= SHIFT <= high
            held[place] += holds
            axes[place].plot([low, high], [draw] * 2, color="C0" if holds else "C3", lw=1.4)
            axes[place].plot(score.value, draw, "k.", ms=3)
    for axis, title, number in zip(axes, titles, held, strict=True):
        axis.axvline(SHIFT, color="k", lw=0.8, ls="--")
        axis.set(
            title=f"{title}: {number} of {DRAWS} intervals hold the truth",
            xlabel="SW$_2$",
            yticks=[],
        )
    axes[0].set_ylabel(f"{DRAWS} draws of {NUM} + {NUM} samples")
    save(figure, path)
    print(f"intervals: {held[0]} of {DRAWS}; bootstrap: {held[1]} of {DRAWS}")


def bootstrap(real: Tensor, fake: Tensor, seed: int) -> tuple[float, float]:
    """Quantiles of the score on samples drawn again with replacement, as most code does it."""
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(RESAMPLES):
        ids = torch.randint(NUM, (2, NUM), generator=generator)
        values.append(sliced_wasserstein(real[ids[0]], fake[ids[1]], num_projections=256))
    low, high = torch.stack(values).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high


def draw_labels(path: Path) -> None:
    """Scores under random labels, and under the true ones, for one distribution and for two."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.6), sharex=True)
    for axis, shift in zip(axes, (0.0, 0.1), strict=True):
        test = two_sample_test(*pair(1, shift), n_resamples=999)
        axis.hist(test.null_distribution.numpy(), bins=30, color="C0", label="random labels")
        axis.axvline(test.statistic, color="C3", label="true labels")
        title = "one distribution" if shift == 0 else f"two, {shift:g} apart along every axis"
        axis.set(title=f"{title}: p = {test.pvalue:.3g}", xlabel="SW$_2$")
        print(f"{title}: p = {test.pvalue:.3g}")
    axes[0].set_ylabel("of 999")
    axes[0].legend(loc="upper right")
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout()
    # No date and no version: the same script gives the same file.
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
