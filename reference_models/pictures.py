"""Pictures of a run: grids of images, clouds of points, curves."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otmetrics.images import write_png
from otmetrics.safe_files import replaced

from .data import Data

_NOT_CURVES = {"step", "images", "seconds"}


def show(path: Path, samples: Tensor, data: Data) -> None:
    """Write a picture of samples: a grid of images, or a plane of points over real ones.

    Args:
        path: A PNG file.
        samples: Images uint8 (N, C, H, W) or points (N, D); of more axes the first two are drawn.
        data: The data, whose held-out points are drawn behind.
    """
    if samples.ndim == 4:
        grid(path, samples)
    else:
        _cloud(path, samples, data)


def grid(path: Path, images: Tensor, *, columns: int = 8) -> None:
    """Write a grid of images, small ones enlarged pixel by pixel.

    Args:
        path: A PNG file.
        images: Images uint8 (N, C, H, W), C = 1 or 3.
        columns: Images in a row.
    """
    from torchvision.utils import make_grid

    factor = max(1, 64 // images.shape[-1])
    large = images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    with replaced(path) as file:
        write_png(file, make_grid(large, nrow=columns, padding=2, pad_value=255))


def curves(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write `losses.png` and `scores.png`, one panel a number.

    Args:
        out: Folder of the run.
        rows: Rows of its log.
    """
    for name, scores in (("losses.png", False), ("scores.png", True)):
        chosen: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            for key, value in row.items():
                if key not in _NOT_CURVES and key.startswith("score/") == scores:
                    chosen.setdefault(key.removeprefix("score/"), []).append((row["step"], value))
        most = max((len(points) for points in chosen.values()), default=0)
        curves = {key: points for key, points in chosen.items() if len(points) > 1 or most == 1}
        if curves:
            _panels(out / name, curves)


def _panels(path: Path, lines: dict[str, list[tuple[int, float]]]) -> None:
    """One panel for each line, three in a row."""
    from matplotlib.figure import Figure

    num = -(-len(lines) // 3)
    figure = Figure(figsize=(12, 2.6 * num), layout="constrained")
    axes = figure.subplots(num, 3, squeeze=False).flatten()
    for axis, (name, points) in zip(axes, lines.items(), strict=False):
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, marker="." if len(points) < 30 else None, linewidth=1)
        axis.set_title(name, fontsize=9, parse_math=False)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes[len(lines) :]:
        axis.set_visible(False)
    figure.supxlabel("generator steps", fontsize=8)
    with replaced(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _cloud(path: Path, points: Tensor, data: Data) -> None:
    """Fake points over as many real ones, both axes to one scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    real = data.held_out[: len(points)]
    for cloud, label, colour in ((real, "real", "0.75"), (points, "fake", "tab:red")):
        plane = cloud if cloud.shape[1] > 1 else torch.cat([cloud, torch.zeros_like(cloud)], 1)
        axis.scatter(plane[:, 0], plane[:, 1], s=4, c=colour, label=label, linewidths=0)
    if len(real):
        low, high = real.amin(0)[:2], real.amax(0)[:2]
        margin = 0.3 * float((high - low).max())
        axis.set_xlim(float(low[0]) - margin, float(high[0]) + margin)
        axis.set_ylim(float(low[-1]) - margin, float(high[-1]) + margin)
    axis.set_aspect("equal")
    axis.legend(loc="upper right", fontsize=8)
    with replaced(path) as file:
        figure.savefig(file, format="png", dpi=110)
