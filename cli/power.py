"""`otmetrics power`: how many samples show a difference."""

from pathlib import Path
from typing import Any

import click

from .options import (
    INPUT,
    INPUTS,
    JSON,
    Command,
    extraction_options,
    field_options,
    given_fields,
    make_extraction,
    ranks_here,
    resolved_device,
)
from .score import SOLVERS, make_scoring
from .terminal import echo

_PLANNING = ("difference", "power")
_SCORING = ("metrics", "num_neighbors", "exact_max", "sinkhorn_max", "pairs_max")
_HELP = f"""How many samples it takes to see a difference, from a pilot of REAL and FAKE.

For each score: the difference between two models like FAKE that is seen with as many samples; the
samples that --difference takes; and the samples per side at which a permutation test tells FAKE
from REAL. A few hundred samples are a pilot. Real comes first. Each of them is
{INPUTS}
\b
otmetrics power real/ fake/
otmetrics power real/ fake/ --metrics kernel_distance --difference 0.002
"""


def _power_options() -> list[click.Option]:
    """The options of planning, of scoring, of its solvers, and of extraction."""
    from otmetrics.scoring.options import Scoring, Sinkhorn, Sliced
    from otmetrics.scoring.planning import Planning

    return [
        *field_options(Planning, _PLANNING),
        *field_options(Scoring, _SCORING),
        *field_options(Sliced, ("num_projections", "tolerance", "max_projections")),
        *field_options(Sinkhorn, SOLVERS["sinkhorn_divergence"]),
        *extraction_options(),
    ]


@click.command(cls=Command, more=_power_options, help=_HELP)
@click.argument("real", type=INPUT)
@click.argument("fake", type=INPUT)
@JSON
def power(
    real: Path,
    fake: Path,
    json_targets: tuple[str, ...],
    quiet: bool,
    verbose: bool,
    timeout: float,
    **given: Any,
) -> None:
    """Score the pilot and print the plan."""
    from otmetrics.scoring.extraction import extracted
    from otmetrics.scoring.planning import Planning, sample_sizes

    from .progress import progress_bars
    from .render import check_targets, print_json, print_notes, print_table

    check_targets(json_targets)
    device = resolved_device(given["device"])
    scoring, extraction = make_scoring(given, device, _SCORING), make_extraction(given, device)
    planning, need = Planning(**given_fields(given, _PLANNING)), scoring.need.samples
    with ranks_here(timeout) as ranks, progress_bars(quiet or not ranks.first) as progress:
        sets = extracted([real, fake], extraction, at_least=need, progress=progress, ranks=ranks)
        if not ranks.first:
            return
        plan = sample_sizes(*sets, planning=planning, scoring=scoring, progress=progress)

    # JSON on stdout must be all that is there.
    if "-" not in json_targets:
        print_table(*plan.table(), left=(0,))
        echo(
            f"difference seen: between two models like this one, with a probability of "
            f"{plan.power:g}; -: not shown by this pilot"
        )
    print_json(plan, json_targets)
    if not quiet:
        print_notes(plan.notes)
