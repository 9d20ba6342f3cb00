"""Results on stdout: a table on a terminal, plain columns in a pipe, JSON on request."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from otmetrics.errors import DataError
from otmetrics.score_report import Score, ScoreReport

_LOWER, _HIGHER = "lower is better", "higher is better"
_LABELS = {
    "sliced_wasserstein": ("sliced Wasserstein", _LOWER),
    "wasserstein": ("Wasserstein (exact)", _LOWER),
    "sinkhorn_divergence": ("Sinkhorn divergence", _LOWER),
    "frechet_distance": ("Fréchet distance", _LOWER),
    "kernel_distance": ("kernel distance (MMD²)", _LOWER),
    "precision": ("precision", _HIGHER),
    "recall": ("recall", _HIGHER),
    "density": ("density", _HIGHER),
    "coverage": ("coverage", _HIGHER),
}
_HEADER = ("score", "value", "samples", "at n", "floor at n", "excess", "n", "")
_LEGEND = """\
floor: the same score between two disjoint parts of the real samples, n each; excess: the score at n
samples a side minus the floor (compare scores at one n only); ±: error of the random directions."""


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> None:
    """Print rows under a header; the columns in `left` align left, the others right."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(header_style="bold")
        for index, name in enumerate(header):
            table.add_column(name, justify="left" if index in left else "right")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def print_report(report: ScoreReport) -> None:
    """Print the scores, and under them what they were computed on."""
    features = report.protocol["features"]
    rows = [_row(name, score, features["extractor"]) for name, score in report.scores.items()]
    print_table(_HEADER, rows, left=(0, 7))
    click.echo(_LEGEND)
    click.echo(_provenance(features, report.protocol["scoring"]))


def print_json(report: ScoreReport, target: str) -> None:
    """Write the report as JSON to stdout ("-") or to a file, whole or not at all."""
    text = json.dumps(report.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
    if target == "-":
        click.echo(text)
        return
    path = Path(target)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise DataError(f"`{path}` cannot be written ({error.strerror}).") from error


def _row(name: str, score: Score, extractor: str) -> tuple[str, ...]:
    """One line of the table."""
    label, direction = _LABELS[name]
    if name == "frechet_distance" and extractor == "inception":
        label = "FID"
    value = _number(score.value)
    if score.standard_error is not None:
        value += f" ± {score.standard_error:.1g}"
    if not score.converged:
        value += " (not converged)"
    real, fake = score.sizes
    samples = str(real) if real == fake else f"{real} / {fake}"
    if score.floor is None:
        return label, value, samples, "-", "-", "-", "-", direction
    floor = score.floor
    numbers = (floor.at_floor_size, floor.value, floor.excess)
    return label, value, samples, *map(_number, numbers), str(floor.size), direction


def _number(value: float) -> str:
    """Five significant digits, without an exponent where that is readable."""
    return f"{value:.5g}"


def _provenance(features: dict[str, Any], scoring: dict[str, Any]) -> str:
    """One line that says which features and options the numbers rest on."""
    resize = features.get("resize") or {}
    mode = f", {resize['mode']} to {resize['size']} px" if resize.get("size") else ""
    return (
        f"features: {features['extractor']} ({features['dimension']}-d{mode}); "
        f"{scoring['sliced']['num_projections']} directions, epsilon "
        f"{scoring['sinkhorn']['epsilon']:g} of the mean cost, k = {scoring['num_neighbors']}, "
        f"seed {scoring['seed']}"
    )
