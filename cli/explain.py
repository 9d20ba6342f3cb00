"""`otmetrics explain`: which samples, classes, clusters and directions make a score what it is."""

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
from .score import SOLVERS, end_unconverged, make_scoring

if TYPE_CHECKING:
    from otmetrics.scoring.explanation import Explanation

_EXPLAINING = ("rate", "num_clusters", "num_looked_at")
_SCORING = (
    *("metrics", "test", "confidence_level", "per_class", "num_neighbors"),
    *("exact_max", "sinkhorn_max", "pairs_max"),
)
_HELP = f"""Say why FAKE differs from REAL: which samples, classes, clusters, directions.

Real comes first. Each of them is
{INPUTS}
\b
otmetrics explain real/ fake/ --html report.html
otmetrics explain real/ fake/ --train train/ --html report.html
otmetrics explain real/ fake/ --labels labels.csv --csv samples.csv

Every finding is made next to what real samples show of each other, and of all findings of one kind
a share of --rate is false on average. Classes are the folders of images, the labels in a file, or,
of REAL, those of --labels; fakes without classes get that of the nearest real samples. Next to the
findings stand three scores; --metrics asks for others.
"""


def _explain_options() -> list[click.Option]:
    """The options of explaining, of scoring, of its solvers, and of extraction."""
    from otmetrics.scoring.explain import Explaining
    from otmetrics.scoring.options import Scoring, Sinkhorn, Sliced

    return [
        *field_options(Explaining, _EXPLAINING),
        *field_options(Scoring, _SCORING),
        *field_options(Sliced, SOLVERS["sliced_wasserstein"]),
        *field_options(Sinkhorn, SOLVERS["sinkhorn_divergence"]),
        *extraction_options(),
    ]


@click.command(cls=Command, more=_explain_options, help=_HELP)
@click.argument("real", type=INPUT)
@click.argument("fake", type=INPUT)
@click.option(
    "--train",
    type=INPUT,
    metavar="TRAINING",
    help="What the generator was trained on: look for copies of it. REAL must be other samples.",
)
@click.option(
    "--labels",
    type=INPUT,
    metavar="FILE.csv",
    help="The name of an image of REAL and its class in each line.",
)
@click.option(
    "--csv",
    "csv_target",
    type=INPUT,
    metavar="FILE.csv",
    help="Write a line for each fake: how far it lies from real, its partner, what it copies.",
)
@JSON
@HTML
@NO_IMAGES
def explain(
    real: Path,
    fake: Path,
    train: Path | None,
    labels: Path | None,
    csv_target: Path | None,
    json_targets: tuple[str, ...],
    html_target: Path | None,
    no_images: bool,
    quiet: bool,
    verbose: bool,
    timeout: float,
    **given: Any,
) -> None:
    """Explain, then print; leave with code 4 where a solver did not converge."""
    from otmetrics.scoring.explain import EXPLAINED, Explaining
    from otmetrics.scoring.explain import explain as compute

    from .page import check_html_target, write_html_page
    from .progress import progress_bars
    from .render import check_targets, print_notes, seconds_line, write_csv

    check_targets([*json_targets, *([] if csv_target is None else [str(csv_target)])])
    if csv_target is not None:
        _check_csv(csv_target, [real, fake, train, labels])
    check_html_target(html_target)
    given["metrics"] = given["metrics"] or EXPLAINED
    device = resolved_device(given["device"])
    scoring, extraction = make_scoring(given, device, _SCORING), make_extraction(given, device)
    explaining = Explaining(**given_fields(given, _EXPLAINING))
    with ranks_here(timeout) as ranks, progress_bars(quiet or not ranks.first) as progress:
        found = compute(
            real,
            fake,
            train=train,
            labels=labels,
            explaining=explaining,
            extraction=extraction,
            scoring=scoring,
            progress=progress,
            ranks=ranks,
        )
    if found is None:  # on all processes but the first
        return
    if no_images:
        found = replace(found, pictures={})
    notes = _print(found, json_targets, verbose=verbose)
    if csv_target is not None:
        write_csv(found.to_table(), csv_target)
        notes.append(f"`{csv_target}` has a line for each fake sample")
    notes += write_html_page(found, html_target)
    if not quiet:
        print_notes([*notes, seconds_line(found.seconds)])
    end_unconverged(found.report)


def _check_csv(target: Path, inputs: list[Path | None]) -> None:
    """Raise where the table would take the place of something that is read."""
    if target.suffix.lower() != ".csv":
        raise OptionError(Argument("csv_target"), f" must end in .csv, got {str(target)!r}.")
    if target.resolve() in [one.resolve() for one in inputs if one is not None]:
        raise OptionError(Argument("csv_target"), f" must not be `{target}`, which is an input.")


def _print(found: "Explanation", targets: tuple[str, ...], *, verbose: bool) -> list[str]:
    """Print the findings or JSON; what a reader should know next to them."""
    from otmetrics.scoring.legend import read_lines

    from .render import notes_of, print_explanation, print_json

    # JSON on stdout must be all that is there.
    if "-" not in targets:
        print_explanation(found)
    print_json(found, targets)
    # The table has these lines under it already.
    shown = [] if "-" in targets else read_lines(found.report)
    return notes_of(found.notes, found.protocol, verbose, shown)
