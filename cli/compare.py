"""`otmetrics compare`: several models against the same real samples."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otmetrics.errors import Argument, OptionError

from .options import (
    HTML,
    INPUT,
    INPUTS,
    JSON,
    NO_IMAGES,
    Command,
    extraction_options,
    field_options,
    given_fields,
    make_extraction,
    ranks_here,
    resolved_device,
)
from .score import NOT_CONVERGED, SOLVERS, make_scoring
from .terminal import echo

if TYPE_CHECKING:
    from otmetrics.scoring.comparison import Comparison

WORSE = 1
_COMPARING = ("by", "baseline", "margin")
_SCORING = (
    *("metrics", "confidence_level", "over", "num_neighbors"),
    *("exact_max", "sinkhorn_max", "pairs_max"),
)
_HELP = f"""Compare models by their samples: who is better, who is tied, what cannot be told.

Real comes first, then the samples of two models or more, each as FOLDER or NAME=FOLDER; several
training runs of one model as NAME=FOLDER,FOLDER,... All of them need one number of samples. Each is
{INPUTS}
\b
otmetrics compare real/ a/ b/ c/
otmetrics compare real/ old=a/ new=b1/,b2/,b3/ --baseline old
otmetrics compare real/ old=a/ new=b/ --baseline old --margin 0.002 --fail-if-worse

The first table is the leaderboard of one score: its interval, the ranks that each model may have
(all together at 95 %), letters that tied models share, and the difference from the baseline, or
from the best model. The second has all scores, with their letters.
"""


def _compare_options() -> list[click.Option]:
    """The options of comparing, of scoring, of its solvers, and of extraction."""
    from otmetrics.scoring.compare import Comparing
    from otmetrics.scoring.options import Scoring, Sinkhorn, Sliced

    return [
        *field_options(Comparing, _COMPARING),
        *field_options(Scoring, _SCORING),
        *field_options(Sliced, SOLVERS["sliced_wasserstein"]),
        *field_options(Sinkhorn, SOLVERS["sinkhorn_divergence"]),
        *extraction_options(),
    ]


@click.command(cls=Command, more=_compare_options, help=_HELP)
@click.argument("real", type=INPUT)
@click.argument("models", metavar="[NAME=]MODEL ...", nargs=-1, required=True)
@click.option(
    "--fail-if-worse",
    is_flag=True,
    help="Leave with code 1 where a model is told to be worse than --baseline; with --margin, "
    "where one is not shown to be within it. For release gates.",
)
@JSON
@HTML
@NO_IMAGES
def compare(
    real: Path,
    models: tuple[str, ...],
    fail_if_worse: bool,
    json_targets: tuple[str, ...],
    html_target: Path | None,
    no_images: bool,
    quiet: bool,
    verbose: bool,
    timeout: float,
    **given: Any,
) -> None:
    """Compare, then print; leave with code 1 where the gate is closed."""
    from otmetrics.scoring.compare import Comparing
    from otmetrics.scoring.compare import compare as compute

    from .page import check_html_target, write_html_page
    from .progress import progress_bars
    from .render import check_targets, print_notes, seconds_line

    check_targets(json_targets)
    check_html_target(html_target)
    if fail_if_worse and given["baseline"] is None:
        raise OptionError(
            Argument("fail_if_worse"), " needs ", Argument("baseline"), ": the model to be as good."
        )
    device = resolved_device(given["device"])
    scoring, extraction = make_scoring(given, device, _SCORING), make_extraction(given, device)
    # Only a page shows them.
    comparing = Comparing(**given_fields(given, _COMPARING), changes=html_target is not None)
    runs = _runs(models)
    with ranks_here(timeout) as ranks, progress_bars(quiet or not ranks.first) as progress:
        found = compute(
            real,
            runs,
            comparing=comparing,
            extraction=extraction,
            scoring=scoring,
            progress=progress,
            ranks=ranks,
        )
    if not ranks.first:
        return
    if no_images:
        found = replace(found, pictures=None)
    notes = _print(found, json_targets, verbose=verbose)
    notes += write_html_page(found, html_target)
    if not quiet:
        print_notes([*notes, seconds_line(found.seconds)])
    if not found.converged:
        echo("warning: a solver did not converge: values marked with ! are not exact.", err=True)
        raise click.exceptions.Exit(NOT_CONVERGED)
    if fail_if_worse and found.worse:
        raise click.exceptions.Exit(WORSE)


def _runs(words: tuple[str, ...]) -> dict[str, list[Path]]:
    """Models by their names; what is not named has the name of its file or folder."""
    models: dict[str, list[Path]] = {}
    for word in words:
        name, paths = _named(word)
        if name in models:
            raise OptionError(
                f"two models have the name `{name}`: give names, as in first={paths[0]}."
            )
        models[name] = paths
    return models


def _named(word: str) -> tuple[str, list[Path]]:
    """The name of a model, and the inputs of its runs."""
    name, sign, rest = word.partition("=")
    # A file or folder may have such a name itself.
    if not sign or Path(word).exists():
        path = Path(word)
        return path.stem if path.suffix else path.name or path.resolve().name, [_input(word)]
    runs = [rest] if Path(rest).exists() else rest.split(",")
    return name, [_input(run) for run in runs]


def _input(word: str) -> Path:
    """An input as all commands take it."""
    found: Path = INPUT.convert(word, None, click.get_current_context())
    return found


def _print(found: "Comparison", targets: tuple[str, ...], *, verbose: bool) -> list[str]:
    """Print the tables or JSON; what a reader of the numbers should know next to them."""
    from .render import notes_of, print_comparison, print_json

    # JSON on stdout must be all that is there.
    if "-" not in targets:
        print_comparison(found)
    print_json(found, targets)
    return notes_of(found.notes, found.protocol, verbose)
