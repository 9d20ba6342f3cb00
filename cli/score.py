"""`otmetrics score`: every score of two inputs."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otmetrics.errors import Argument, OptionError, tell

from .options import (
    HTML,
    INPUT,
    INPUTS,
    JSON,
    Command,
    extraction_options,
    field_options,
    flag,
    given_fields,
    half,
    make_extraction,
    ranks_here,
    resolved_device,
)
from .terminal import echo

if TYPE_CHECKING:
    from otmetrics.scoring.options import Scoring
    from otmetrics.scoring.report import ScoreReport
    from otmetrics.summaries.keeping import Keeping
    from otmetrics.transport.sliced.sliced import Sliced

NOT_CONVERGED = 4
_SCORING = (
    "metrics",
    "test",
    "interval",
    "confidence_level",
    "over",
    "floor",
    "per_class",
    "num_neighbors",
    "exact_max",
    "sinkhorn_max",
    "pairs_max",
)
# Of each solver, the fields that are options here.
SOLVERS = {
    "sliced_wasserstein": ("num_projections", "tolerance", "max_projections", "debiased"),
    "sinkhorn_divergence": ("epsilon", "max_iterations", "richardson"),
}
_HELP = f"""Score FAKE against REAL.

Real comes first. Each of them is
{INPUTS}
\b
otmetrics score real/ fake/
otmetrics score real/ fake/ --metrics wasserstein,recall --num 2000
otmetrics score real.npz fake.npz --json scores.json
"""


def _score_options() -> list[click.Option]:
    """The options of scoring, of its solvers, and of extraction."""
    from otmetrics.scoring.options import Scoring, Sinkhorn, Sliced

    return [
        *field_options(Scoring, _SCORING),
        *field_options(Sliced, SOLVERS["sliced_wasserstein"]),
        *field_options(Sinkhorn, SOLVERS["sinkhorn_divergence"]),
        *extraction_options(),
    ]


@click.command(cls=Command, more=_score_options, help=_HELP)
@click.argument("real", type=INPUT)
@click.argument("fake", type=INPUT)
@click.option(
    "--floor-with",
    type=INPUT,
    metavar="OTHER_REAL",
    help="More real samples: the floor compares REAL with these, not two halves of REAL.",
)
@click.option(
    "--summarize",
    "kept",
    type=click.IntRange(min=0),
    metavar="N",
    help="Keep moments and histograms of all samples, and N samples of each input, instead of all "
    "features: memory, and what processes send, then do not grow with the samples.",
)
@JSON
@HTML
def score(
    real: Path,
    fake: Path,
    floor_with: Path | None,
    kept: int | None,
    json_targets: tuple[str, ...],
    html_target: Path | None,
    quiet: bool,
    verbose: bool,
    timeout: float,
    **given: Any,
) -> None:
    """Compute, then print; leave with code 4 where a solver did not converge."""
    from otmetrics.scoring.score import score as compute

    from .page import check_html_target, write_html_page
    from .progress import progress_bars
    from .render import check_targets, print_notes, seconds_line

    check_targets(json_targets)
    check_html_target(html_target)
    device = resolved_device(given["device"])
    scoring, extraction = make_scoring(given, device, _SCORING), make_extraction(given, device)
    if kept is not None:
        extraction = replace(extraction, keeping=_keeping(kept, scoring.sliced))
    with ranks_here(timeout) as ranks, progress_bars(quiet or not ranks.first) as progress:
        report = compute(
            real,
            fake,
            floor_with=floor_with,
            extraction=extraction,
            scoring=scoring,
            progress=progress,
            ranks=ranks,
        )
    if ranks.first:
        notes = _print(report, json_targets, verbose=verbose)
        notes += write_html_page(report, html_target)
        if not quiet:
            print_notes([*notes, seconds_line(report.seconds)])
        end_unconverged(report)


def make_scoring(given: dict[str, Any], device: str, fields: Sequence[str]) -> "Scoring":
    """The library's options, some fields among them; one seed decides all draws."""
    from otmetrics.scoring.options import Scoring, Sinkhorn, Sliced

    if given["max_projections"] is not None and given["tolerance"] is None:
        raise OptionError(
            Argument("max_projections"),
            " needs ",
            Argument("tolerance"),
            ", which adds directions.",
        )
    seed = given_fields(given, ("seed",))
    return Scoring(
        sliced=Sliced(**given_fields(given, SOLVERS["sliced_wasserstein"]), **seed),
        sinkhorn=Sinkhorn(**given_fields(given, SOLVERS["sinkhorn_divergence"])),
        # MPS, on which the network runs, has no float64.
        device="cpu" if device == "mps" else device,
        memory_limit=half(given["memory_limit"]),
        **given_fields(given, fields),
        **seed,
    )


def _print(report: "ScoreReport", targets: Sequence[str], *, verbose: bool) -> list[str]:
    """Print the table or JSON; what a reader of the numbers should know next to them."""
    from otmetrics.scoring.legend import read_lines

    from .render import notes_of, print_json, print_report

    # JSON on stdout must be all that is there.
    if "-" not in targets:
        print_report(report)
    print_json(report, targets)
    # The table has these lines under it already.
    shown = [] if "-" in targets else read_lines(report)
    return notes_of(report.notes, report.protocol, verbose, shown)


def end_unconverged(report: "ScoreReport") -> None:
    """Say which solvers did not converge, and leave with code 4 where one did not."""
    if report.converged:
        return
    # `otmetrics evaluate`, which ends here too, has no options of solvers.
    here = {item.name for item in click.get_current_context().command.params}
    for name, result in report.scores.items():
        if result.converged and (result.floor is None or result.floor.converged):
            continue
        # The exact solver has none on the command line.
        options = [option for option in SOLVERS.get(name, ()) if option in here]
        where = "options in Python alone"
        if options:
            where = f"options here: {', '.join(map(flag, options))}"
        message = tell(result.message or "it did not converge", partial(_flag_of, options))
        echo(f"warning: {name}: {message.rstrip('.')} ({where}).", err=True)
    raise click.exceptions.Exit(NOT_CONVERGED)


def _flag_of(options: Sequence[str], name: str) -> str:
    """The flag of an option, or its name as in Python, which alone has it."""
    return flag(name) if name in options else f"`{name}`"


def _keeping(samples: int, sliced: "Sliced") -> "Keeping":
    """What summaries keep, with histograms along the directions of the score."""
    from otmetrics.summaries.keeping import Keeping

    return Keeping(
        samples=samples,
        num_projections=sliced.num_projections,
        orthogonal=sliced.orthogonal,
        seed=sliced.seed,
    )
