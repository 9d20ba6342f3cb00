"""Results on stdout: a table on a terminal, plain columns in a pipe, JSON on request."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from otmetrics.errors import DataError, printable, tell
from otmetrics.safe_files import check_replaceable, replace_file, writing
from otmetrics.scoring.comparison import Comparison
from otmetrics.scoring.feature_set import NAMED
from otmetrics.scoring.inventory import read_line
from otmetrics.scoring.planning import Plan
from otmetrics.scoring.report import ScoreReport, listed, plain_table

from .options import flag
from .terminal import echo, echo_text

_ARROWS = "↓ lower is better, ↑ higher is better"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> None:
    """Print rows under a header; the columns in `left` align left, the others right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    lines = plain_table(header, rows, left)
    # A frame cuts what is too wide for the terminal; plain lines are whole.
    widest = max(map(len, lines)) + 2 * len(header)
    if sys.stdout.isatty() and widest <= shutil.get_terminal_size().columns:
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

    # A pipe gets no box and no width of a terminal: programs take such lines apart.
    for line in lines:
        echo(line)


def print_report(report: ScoreReport) -> None:
    """Print the scores, what they say, and what they were computed on."""
    print_table(report.header(), report.rows(), left=(0,))
    for line in (*report.verdict(), *_legend(report)):
        echo(line)
    if not report.converged:
        echo("!: the solver did not converge, see the warning")
    for line in (*read_lines(report), *_samples(report), _provenance(report)):
        echo(line)


def print_comparison(found: Comparison) -> None:
    """Print the leaderboard of the score that decides, all scores, and what they say."""
    for header, rows in (found.leaderboard(), found.summary()):
        print_table(header, rows, left=(0,))
        echo("")
    for line in found.verdict():
        echo(line)
    echo("estimate: the score without the bias of few samples, where that is known")
    echo("tied: models that share a letter are not told apart; " + _ARROWS)
    echo(_provenance(found))


def seconds_line(seconds: dict[str, float]) -> str:
    """What took how long."""
    parts = [f"{name} {value:.1f}" for name, value in seconds.items()]
    return f"{sum(seconds.values()):.1f} s: {', '.join(parts)}"


def _legend(report: ScoreReport) -> list[str]:
    """What the columns mean, a line each."""
    scores, lines = report.scores.values(), []
    limits, targets = [], set()
    for row, score in zip(report.rows(), scores, strict=True):
        if score.interval is not None:
            targets.add(score.interval.target)
            limits += [row[0][:-2]] if score.interval.target == "limit" else []
    if targets:
        over = "" if report.protocol["scoring"]["over"] == "both" else ", these real samples fixed"
        lines.append(f"interval: where the score may lie in other samples{over}; {_ARROWS}")
    if limits:
        others = "" if len(targets) == 1 else "; of the others for the mean at these sizes"
        lines.append(
            f"of {listed(limits)} it is for the distance between the distributions, without the "
            f"bias of few samples{others}"
        )

    floors = [score.floor.size for score in scores if score.floor is not None]
    if floors:
        sizes = f"{min(floors)}" if len(set(floors)) == 1 else f"{min(floors)} to {max(floors)}"
        lines.append(
            f"floor: the score between two parts of real, {sizes} samples each; excess: the score "
            "at that size minus the floor"
        )
    if any(score.test is not None for score in scores):
        lines.append("p: share of random labels of the samples that differ at least as much")
    return lines or [_ARROWS]


def print_notes(notes: Sequence[str]) -> None:
    """Print what a reader of the numbers should know, next to them."""
    for note in notes:
        echo(f"note: {tell(note, flag)}", err=True)


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
        # A file that is write-protected stays, though its folder would let it be replaced.
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise DataError(f"`{path}` cannot be written: check its permissions.")


def print_json(
    report: ScoreReport | Comparison | Plan, targets: Sequence[str], **more: Any
) -> None:
    """Write a report, and more next to it, as JSON to stdout ("-") and to files."""
    if not targets:
        return
    # NaN is not JSON: an error is better than a file that other programs cannot read.
    text = json.dumps(report.to_dict() | more, indent=2, allow_nan=False)
    for target in targets:
        if target == "-":
            echo_text(text)
            continue
        path = Path(target)
        with writing(path), replace_file(path) as file:
            file.write(f"{text}\n".encode())


def read_lines(report: ScoreReport) -> list[str]:
    """What was read, one line per side, as the notes of the report have it, too."""
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


def _provenance(report: ScoreReport | Comparison) -> str:
    """One line that says which features and options the numbers rest on."""
    features, scoring = report.protocol["features"], report.protocol["scoring"]
    name = "given" if features["extractor"] == "none" else features["extractor"]
    resize = features.get("resize") or {}
    mode = f", {resize['mode']} to {resize['size']} px" if resize.get("size") else ""

    names, used = scoring["metrics"], []
    if "sliced_wasserstein" in names:
        sliced = scoring["sliced"]
        text = f"{sliced['num_projections']} directions"
        if sliced["tolerance"] is not None:
            text += f" and more to an error of {100 * sliced['tolerance']:g} %"
        used.append(text + (" along split halves" if sliced["debiased"] else ""))
    if "sinkhorn_divergence" in names:
        sinkhorn = scoring["sinkhorn"]
        text = f"epsilon {sinkhorn['epsilon']:g} of the mean cost"
        used.append(text + (", extrapolated" if sinkhorn["richardson"] else ""))
    if {"precision", "recall", "density", "coverage"} & set(names):
        used.append(f"k = {scoring['num_neighbors']}")
    used.append(f"seed {scoring['seed']}")
    return f"features: {name} ({features['dimension']}-d{mode}); {', '.join(used)}"
