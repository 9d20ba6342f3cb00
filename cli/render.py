"""Results on stdout: a table on a terminal, plain columns in a pipe, JSON on request."""

import csv
import io
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
from otmetrics.scoring.explanation import Explanation
from otmetrics.scoring.feature_set import NAMED
from otmetrics.scoring.legend import (
    comparison_legend,
    provenance,
    read_lines,
    sample_lines,
    score_legend,
)
from otmetrics.scoring.planning import Plan
from otmetrics.scoring.report import ScoreReport, plain_table

from .options import flag
from .terminal import echo, echo_text

_SHOWN = 8  # samples and classes that a table of findings shows


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
    if report.classes is not None:
        echo("")
        print_table(report.class_header(), report.class_rows(), left=(0,))
    for line in (*report.verdict(), *score_legend(report)):
        echo(line)
    if not report.converged:
        echo("!: the solver did not converge, see the warning")
    for line in (*read_lines(report), *sample_lines(report), provenance(report.protocol)):
        echo(line)


def print_comparison(found: Comparison) -> None:
    """Print the leaderboard of the score that decides, all scores, and what they say."""
    for header, rows in (found.leaderboard(), found.summary()):
        print_table(header, rows, left=(0,))
        echo("")
    for line in (*found.verdict(), *comparison_legend(), provenance(found.protocol)):
        echo(line)


def print_explanation(found: Explanation) -> None:
    """Print the scores, what they say, what was found, and the samples that were found first."""
    headline, *others = found.verdict()
    echo(headline)
    echo("")
    print_table(found.report.header(), found.report.rows(), left=(0,))
    for line in others:
        echo(line)
    for header, rows in found.tables(_SHOWN):
        echo("")
        print_table(header, rows, left=(0, len(header) - 1))
    echo("")
    report = found.report
    for line in (*score_legend(report), *read_lines(report), provenance(report.protocol)):
        echo(line)


def seconds_line(seconds: dict[str, float]) -> str:
    """What took how long."""
    parts = [f"{name} {value:.1f}" for name, value in seconds.items()]
    return f"{sum(seconds.values()):.1f} s: {', '.join(parts)}"


def print_notes(notes: Sequence[str]) -> None:
    """Print what a reader of the numbers should know, next to them."""
    for note in notes:
        echo(f"note: {tell(note, flag)}", err=True)


def notes_of(
    notes: Sequence[str], protocol: dict[str, Any], verbose: bool, shown: Sequence[str] = ()
) -> list[str]:
    """The notes of a result that are not shown yet, and the images that these do not name."""
    told = [note for note in notes if note not in shown]
    for name, item in protocol["inputs"].items():
        told += [f"{name}: {line}" for line in further_left_out(item, verbose)]
    return told


def further_left_out(source: dict[str, Any], verbose: bool) -> list[str]:
    """Images left out of an input that its notes do not name, or how to see them."""
    further = (source.get("origin") or source).get("skipped", [])[NAMED:]
    if further and not verbose:
        return [f"--verbose or --json names the other {len(further)} that were left out"]
    return [f"left out {reason}" for reason in further]


def check_targets(targets: Sequence[str]) -> None:
    """Raise where JSON or CSV cannot be written, before anybody waits for it."""
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
    report: ScoreReport | Comparison | Plan | Explanation, targets: Sequence[str], **more: Any
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


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows of plain values as a CSV file, with the names of the columns first."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    with writing(path), replace_file(path) as file:
        file.write(text.getvalue().encode())


def _cell(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula: names of files may begin like one."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
