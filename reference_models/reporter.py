"""What a run leaves behind next to its weights: log, curves, samples, and lines for a terminal."""

import csv
import io
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otmetrics.errors import DataError
from otmetrics.images import write_png
from otmetrics.safe_files import replace_file, writing

from .config import FILE, TrainConfig
from .data import Data
from .sampling import Sampler, generate_samples

LOG, TABLE, SAMPLES, BOARD = "log.jsonl", "log.csv", "samples", "tensorboard"
_SHOWN_IMAGES, _SHOWN_POINTS = 64, 2500
_LONGEST = 1 << 20  # characters of a row
_LARGEST = 1 << 30  # bytes of a log
PARTIAL = re.compile(r"\..*\.[0-9a-f]{16}\.partial")  # what a kill leaves of a file
_NOT_CURVES = {"step", "images", "seconds", "best_set"}
_ENDS = ("low/", "high/")  # of intervals, with the name of the score behind

Progress = Callable[[int, int, str], None]
"""Called with the steps done, the steps in all, and the last numbers as text."""


class Reporter:
    """Files of a run, and callbacks for whoever watches it.

    `log.jsonl` has a row for each log and each evaluation, `log.csv` the same as a table; `samples`
    a picture of the same noise at each evaluation; `losses.png` and `scores.png` curves.
    TensorBoard gets all of it where it is installed. A run that is resumed keeps the rows up to its
    checkpoint, and no others. Nothing is written before `start`; what cannot be written is a
    DataError.

    `out` is None on processes but the first, which leave nothing behind. `progress` is called at
    each log, `warn` with each warning.
    """

    def __init__(
        self,
        out: Path | None,
        *,
        progress: Progress | None = None,
        warn: Callable[[str], None] | None = None,
        tensorboard: bool = True,
    ) -> None:
        self.out, self.progress, self.warn = out, progress, warn
        self.rows: list[dict[str, Any]] = []
        self.conclusion: list[str] = []  # lines on the best generator of a run that is done
        self._wants_tensorboard, self._writer = tensorboard, None
        self._last_score, self._began = "", time.monotonic()

    def start(self, config: TrainConfig, data: Data, step: int) -> None:
        """Begin, or go on after the last step of the checkpoint."""
        self.config, self.data = config, data
        if self.out is None:
            return

        # Steps after the checkpoint are taken again, and their rows with them.
        self.rows = [row for row in _read(self.out / LOG) if row["step"] <= step]
        with writing(self.out):
            (self.out / SAMPLES).mkdir(parents=True, exist_ok=True)
            for path in self.out.iterdir():  # what kills have left
                if PARTIAL.fullmatch(path.name):
                    path.unlink()

        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        for name, content in ((FILE, config.text), (LOG, lines)):
            with writing(self.out / name), replace_file(self.out / name) as file:
                file.write(content.encode())

        # The clock of a resumed run goes on where its rows end.
        self._seconds_before = self.rows[-1]["seconds"] if self.rows else 0.0
        self._writer = _tensorboard(self.out, step) if self._wants_tensorboard else None
        self._began = time.monotonic()

    def log(self, step: int, images: int, values: dict[str, float]) -> None:
        """A row of losses after a step, and so many fake samples."""
        self._row(step, images, values)
        shown = [f"{name} {value:.3g}" for name, value in values.items() if "loss" in name]
        self._show(step, "  ".join([*shown, self._last_score]))

    def note(self, step: int, logs: dict[str, Tensor]) -> None:
        """Show numbers of a round of transport, which is part of a step."""
        shown = (f"{name} {float(logs[name]):.3g}" for name in ("misfit", "empty_cells"))
        self._show(step, "  ".join(["transport:", *shown]))

    def begun(self, step: int, what: str) -> None:
        """Tell that something has begun that may take minutes."""
        self._show(step, f"{what} ...")

    def tell(self, step: int, warning: str) -> None:
        """Tell a warning, if there is one."""
        if self.warn is not None and warning:
            self.warn(f"step {step}: " + warning)

    def scores(
        self,
        step: int,
        images: int,
        scores: dict[str, float],
        sampler: Sampler,
        known: dict[str, float],
    ) -> None:
        """A row of scores and of what is known of their errors, and a picture of samples."""
        row = {f"score/{name}": value for name, value in scores.items()}
        self._row(step, images, row | known)
        shown = self.config.select if self.config.select in scores else next(iter(scores))
        self._last_score = f"{shown} {scores[shown]:.4g}"
        if self.out is not None:
            self._draw(self.out, step, sampler)

    def _draw(self, out: Path, step: int, sampler: Sampler) -> None:
        """A picture of samples, of the same noise at each call.

        While the sampler has no prior, held-out samples are shown next to what is rebuilt of their
        codes.
        """
        num = _SHOWN_POINTS if len(self.data.shape) == 1 else _SHOWN_IMAGES
        if sampler.prior.known:
            samples = generate_samples(sampler, self.data, num, self.config.seed)
        else:
            samples = _with_rebuilt(self.data.held_out[:num], sampler, self.data)

        path = out / SAMPLES / f"step_{step:07d}.png"
        with writing(path):
            show(path, samples, self.data)
        if self._writer is not None and samples.ndim == 4:
            with writing(out / BOARD):
                self._writer.add_images("samples", samples, step)

    def flush(self) -> None:
        """Write the table, once a checkpoint is."""
        if self.out is None or not self.rows:
            return

        # Rows of losses and of scores have other columns; all of them in the order they came up.
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(self.rows)
        with writing(self.out / TABLE), replace_file(self.out / TABLE) as file:
            file.write(text.getvalue().encode())

    def end(self) -> None:
        """Draw the curves, also of a run that broke off, whose own error comes first."""
        if self.out is None:
            return

        # Called while an error is on its way, which one of ours would hide.
        broken = sys.exc_info()[0] is not None
        with suppress(DataError) if broken else nullcontext():
            self.flush()
            with writing(self.out):
                curves(self.out, self.rows)
            if self._writer is not None:
                with writing(self.out / BOARD):
                    self._writer.close()

    def _row(self, step: int, images: int, values: dict[str, float]) -> None:
        """Add a row to the log."""
        if self.out is None:
            return
        seconds = self._seconds_before + time.monotonic() - self._began
        row = {"step": step, "images": images, "seconds": round(seconds, 3), **values}
        self.rows.append(row)

        # Appended: what a kill leaves of a row has no end of line, and is left out by `_read`.
        with writing(self.out / LOG), (self.out / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

        if self._writer is not None:
            with writing(self.out / BOARD):
                for name, value in values.items():
                    self._writer.add_scalar(name, value, step)

    def _show(self, step: int, text: str) -> None:
        """Show a text to whoever watches."""
        if self.progress is not None:
            self.progress(step, self.config.steps, text)


def _with_rebuilt(samples: Tensor, sampler: Sampler, data: Data) -> Tensor:
    """Images each before what is rebuilt of it, as many as there were; points only rebuilt."""
    rebuilt = data.from_network(sampler.rebuilt(samples, data))
    if samples.ndim != 4:
        return rebuilt
    return torch.stack([samples, rebuilt], 1).flatten(0, 1)[: len(samples)]


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """Whole rows of a log, without what a kill or a damage left of others."""
    if not path.exists():
        return
    if not path.is_file() or path.stat().st_size > _LARGEST:
        raise DataError(
            f"`{path}` is not the log of a run: it must be a regular file of at most 1 GiB; remove "
            "it."
        )

    try:
        # A damaged log may have no line ends: no more than a row may have is read at a time.
        with path.open(encoding="utf-8", errors="replace") as file:
            while line := file.readline(_LONGEST):
                if row := _row_of(line):
                    yield row
    except OSError as error:
        raise DataError(f"`{path}` cannot be read ({error.strerror}): remove it.") from error


def _row_of(line: str) -> dict[str, Any]:
    """A row; nothing if the line holds none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    whole = line.endswith("\n") and isinstance(row, dict)
    if not whole or not {"step", "seconds"} <= row.keys():
        return {}

    # Not `isinstance`: True is an int. Whole numbers from 2^53 on have no float of their own.
    numbers = all(type(v) is float or (type(v) is int and abs(v) < 2**53) for v in row.values())
    return row if numbers and type(row["step"]) is int and math.isfinite(row["seconds"]) else {}


def _tensorboard(out: Path, step: int) -> Any:
    """A writer that forgets rows after a step, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    with writing(out / BOARD):
        return SummaryWriter(str(out / BOARD), purge_step=step + 1 if step else None)


# --- pictures ---------------------------------------------------------------------------------


def show(path: Path, samples: Tensor, data: Data) -> None:
    """Write a PNG of samples: a grid of images, or a plane of points over held-out ones."""
    if samples.ndim == 4:
        grid(path, samples)
    else:
        _cloud(path, samples, data)


def grid(path: Path, images: Tensor, *, columns: int = 8) -> None:
    """Write a grid of images uint8 (N, C, H, W), small ones enlarged pixel by pixel."""
    from torchvision.utils import make_grid

    factor = max(1, 64 // images.shape[-1])
    large = images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    with replace_file(path) as file:
        write_png(file, make_grid(large, nrow=columns, padding=2, pad_value=255))


def curves(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write `losses.png` and `scores.png`, one panel per number in the rows of a log.

    A score with intervals has them as a band.
    """
    for name, of_scores in (("losses.png", False), ("scores.png", True)):
        chosen: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            for key, value in row.items():
                if key in _NOT_CURVES or key.startswith(_ENDS):
                    continue
                if key.startswith("score/") == of_scores:
                    chosen.setdefault(key.removeprefix("score/"), []).append((row["step"], value))

        # One point is no curve, unless there is one of everything.
        most = max((len(points) for points in chosen.values()), default=0)
        lines = {key: points for key, points in chosen.items() if len(points) > 1 or most == 1}
        if lines:
            bands = {key: _band(rows, key) for key in lines} if of_scores else {}
            _panels(out / name, lines, bands)


def _band(rows: list[dict[str, Any]], name: str) -> list[tuple[int, float, float]]:
    """Steps, and the ends of the interval of a score."""
    low, high = (f"{end}{name}" for end in _ENDS)
    return [(row["step"], row[low], row[high]) for row in rows if {low, high} <= row.keys()]


def _panels(
    path: Path,
    lines: dict[str, list[tuple[int, float]]],
    bands: dict[str, list[tuple[int, float, float]]],
) -> None:
    """One panel for each line, three in a row."""
    # Not pyplot, which keeps every figure and looks for a display.
    from matplotlib.figure import Figure

    num = -(-len(lines) // 3)
    figure = Figure(figsize=(12, 2.6 * num), layout="constrained")
    axes = figure.subplots(num, 3, squeeze=False).flatten()

    for axis, (name, points) in zip(axes, lines.items(), strict=False):
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, marker="." if len(points) < 30 else None, linewidth=1)
        if band := bands.get(name):
            axis.fill_between(*zip(*band, strict=True), alpha=0.2, linewidth=0)
            name += ", 95 % interval"
        # Names may come from a file: a dollar in them begins no formula.
        axis.set_title(name, fontsize=9, parse_math=False)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes[len(lines) :]:
        axis.set_visible(False)

    figure.supxlabel("generator steps", fontsize=8)
    with replace_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _cloud(path: Path, points: Tensor, data: Data) -> None:
    """Fake points over as many real ones, both axes to one scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    real = data.held_out[: len(points)]

    for cloud, label, colour in ((real, "real", "0.75"), (points, "fake", "tab:red")):
        # Points of a line are drawn along the horizontal axis.
        plane = cloud if cloud.shape[1] > 1 else torch.cat([cloud, torch.zeros_like(cloud)], 1)
        axis.scatter(plane[:, 0], plane[:, 1], s=4, c=colour, label=label, linewidths=0)

    # The window is that of real points, which data of a file of a generator lacks: fake ones far
    # off would make them a dot.
    if len(real):
        low, high = real.amin(0)[:2], real.amax(0)[:2]
        margin = 0.3 * float((high - low).max())
        axis.set_xlim(float(low[0]) - margin, float(high[0]) + margin)
        axis.set_ylim(float(low[-1]) - margin, float(high[-1]) + margin)
    axis.set_aspect("equal")
    axis.legend(loc="upper right", fontsize=8)
    with replace_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
