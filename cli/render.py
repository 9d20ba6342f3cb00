"""Results on stdout: a table on a terminal, plain columns in a pipe, JSON on request."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from otmetrics.errors import DataError, printable
from otmetrics.safe_files import check_replaceable, replace_file, writing
from otmetrics.scoring.feature_set import NAMED
from otmetrics.scoring.inventory import read_line
from otmetrics.scoring.report import Score, ScoreReport

from .terminal import echo, echo_text

_LABELS = {
    "sliced_wasserstein": "sliced Wasserstein ↓",
    "wasserstein": "exact Wasserstein ↓",
    "sinkhorn_divergence": "Sinkhorn divergence ↓",
    "frechet_distance": "Fréchet distance ↓",
    "kernel_distance": "kernel distance ↓",
    "precision": "precision ↑",
    "recall": "recall ↑",
    "density": "density ↑",
    "coverage": "coverage ↑",
}
_HEADER = ("score", "value", "at n", "floor at n", "excess", "n")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> None:
    """Print rows under a header; the columns in `left` align left, the others right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(header_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
        for index, name in enumerate(header):
            side: Literal["left", "right"] = "left" if index in left else "right"
            # Names are for copying: the last column wraps, the others never.
            last = index == len(header) - 1
            table.add_column(name, justify=side, no_wrap=not last, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))  # which is never markup
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        echo("  ".join(cells).rstrip())


def print_report(report: ScoreReport) -> None:
    """Print the scores, and under them what they were computed on."""
    features = report.protocol["features"]
    squared = report.protocol["scoring"]["sliced"]["debiased"]
    rows = [
        _row(name, score, features["extractor"], squared) for name, score in report.scores.items()
    ]
    print_table(_HEADER, rows, left=(0,))
    for line in _legend(report):
        echo(line)
    for line in (*read_lines(report), *_samples(report)):
        echo(line)
    echo(_provenance(report))


def _legend(report: ScoreReport) -> list[str]:
    """What the columns and marks of this table mean."""
    scores = report.scores.values()
    lines = []
    if any(score.floor is not None for score in scores):
        lines += [
            "floor: the same score between two parts of the real samples, n each",
            "excess: the score at n samples a side minus the floor; compare scores at one n only",
        ]
    marks = "↓ lower is better, ↑ higher is better"
    if any(score.standard_error is not None for score in scores):
        marks = f"±: error of the random directions; {marks}"
    lines.append(marks)
    if not report.converged:
        lines.append("!: the solver did not converge, see the warning")
    return lines


def print_notes(notes: Sequence[str]) -> None:
    """Print what a reader of the numbers should know, beside them."""
    for note in notes:
        echo(f"note: {note}", err=True)


def further_left_out(source: dict[str, Any], verbose: bool) -> list[str]:
    """Images left out of an input that its notes do not name, or how to see them."""
    further = (source.get("origin") or source).get("skipped", [])[NAMED:]
    if further and not verbose:
        return [f"--verbose or --json names the other {len(further)} that were left out"]
    return [f"left out {reason}" for reason in further]


def check_json_targets(targets: Sequence[str]) -> None:
    """Raise where JSON cannot be written, before anybody waits for it."""
    for path in (Path(target) for target in targets if target != "-"):
        if path.is_dir():
            raise DataError(f"`{path}` is a folder: name a file in it.")
        if not path.parent.is_dir():
            raise DataError(f"`{path.parent}` is not a folder: create it first.")
        try:
            check_replaceable(path)
        except OSError:
            raise DataError(
                f"`{path}` is a device, pipe or socket, which no file replaces: name a file, or "
                "give --json last for JSON on stdout."
            ) from None
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise DataError(f"`{path}` cannot be written: check its permissions.")


def print_json(report: ScoreReport, targets: Sequence[str], **more: Any) -> None:
    """Write the report, and more next to it, as JSON to stdout ("-") and to files."""
    if not targets:
        return
    text = json.dumps(report.to_dict() | more, indent=2, allow_nan=False)
    for target in targets:
        if target == "-":
            echo_text(text)
            continue
        path = Path(target)
        with writing(path), replace_file(path) as file:
            file.write(f"{text}\n".encode())


def _row(name: str, score: Score, extractor: str, squared: bool) -> tuple[str, ...]:
    """One line of the table."""
    label = _LABELS[name]
    if name == "sliced_wasserstein" and squared:
        label = "sliced, squared ↓"
    if name == "frechet_distance" and extractor == "inception":
        label = "FID ↓"
    value = _number(score.value)
    if score.standard_error is not None:
        value += f" ± {score.standard_error:.1g}"
    if not score.converged:
        value += " !"
    if score.floor is None:
        return label, value, "-", "-", "-", "-"
    floor = score.floor
    numbers = [_number(value) for value in (floor.at_floor_size, floor.value, floor.excess)]
    if not floor.converged:
        numbers[2] += " !"
    return label, value, *numbers, str(floor.size)


def _number(value: float) -> str:
    """Four significant digits; the files have them all."""
    return f"{value:.4g}"


def read_lines(report: ScoreReport) -> list[str]:
    """What was read, one line a side, as the notes of the report have it, too."""
    dimension = report.protocol["features"]["dimension"]
    inputs = report.protocol["inputs"].items()
    return [f"{name}: {read_line(source, dimension)}" for name, source in inputs]


def _samples(report: ScoreReport) -> list[str]:
    """One line with the sample sizes behind the column `value`, where not all were used."""
    used = {name: item["used"] for name, item in report.protocol["inputs"].items()}
    whole = (used["real"], used["fake"])
    fewer = [
        f"{name} {score.sizes[0]} and {score.sizes[1]}"
        for name, score in report.scores.items()
        if None not in whole and score.sizes != whole
    ]
    return [f"samples: {', '.join(fewer)}"] if fewer else []


def _provenance(report: ScoreReport) -> str:
    """One line that says which features and options the numbers rest on."""
    features, scoring = report.protocol["features"], report.protocol["scoring"]
    resize = features.get("resize") or {}
    mode = f", {resize['mode']} to {resize['size']} px" if resize.get("size") else ""
    options = {
        "sliced_wasserstein": _sliced_options(scoring["sliced"]),
        "sinkhorn_divergence": _sinkhorn_options(scoring["sinkhorn"]),
    }
    used = [text for name, text in options.items() if name in report.scores]
    if {"precision", "recall", "density", "coverage"} & set(report.scores):
        used.append(f"k = {scoring['num_neighbors']}")
    used.append(f"seed {scoring['seed']}")
    name = "given" if features["extractor"] == "none" else features["extractor"]
    return f"features: {name} ({features['dimension']}-d{mode}); {', '.join(used)}"


def _sliced_options(sliced: dict[str, Any]) -> str:
    """How the sliced distance was estimated."""
    text = f"{sliced['num_projections']} directions"
    if sliced["tolerance"] is not None:
        text += f" and more to an error of {100 * sliced['tolerance']:g} %"
    return text + (" along split halves" if sliced["debiased"] else "")


def _sinkhorn_options(sinkhorn: dict[str, Any]) -> str:
    """How the Sinkhorn divergence was regularised."""
    text = f"epsilon {sinkhorn['epsilon']:g} of the mean cost"
    return text + (", extrapolated" if sinkhorn["richardson"] else "")
