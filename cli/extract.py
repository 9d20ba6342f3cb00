"""`otmetrics extract`: features of images, saved with their protocol."""

from pathlib import Path
from typing import Any

import click

from otmetrics.errors import OptionError

from .options import (
    INPUT,
    INPUTS,
    Command,
    extraction_options,
    make_extraction,
    ranks_here,
    resolved_device,
)
from .terminal import echo

_HELP = f"""Save the features of INPUT to OUT.npz, for `score` to use again.

OUT.npz holds the array `features` (N, D), the classes where INPUT has any, and the protocol that
made it, so that `score` can refuse to compare features of different extractors. INPUT is
{INPUTS}
"""


@click.command(cls=Command, more=extraction_options, help=_HELP)
@click.argument("source", metavar="INPUT", type=INPUT)
@click.argument("target", metavar="OUT.npz", type=INPUT)
@click.option("--overwrite", is_flag=True, help="Replace OUT.npz if it is there.")
def extract(
    source: Path,
    target: Path,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
    timeout: float,
    **given: Any,
) -> None:
    """Compute, save, and say what became of the images."""
    from otmetrics.safe_files import check_target
    from otmetrics.scoring.extraction import extracted
    from otmetrics.scoring.feature_set import save_features

    from .progress import progress_bars
    from .render import further_left_out, print_notes

    # The network may take hours: what cannot be saved is told now.
    check_target(target, (".npz",), overwrite=overwrite)
    device = resolved_device(given["device"])
    extraction = make_extraction(given, device)
    with ranks_here(timeout) as ranks, progress_bars(quiet or not ranks.first) as progress:
        found = extracted([source], extraction, at_least=1, progress=progress, ranks=ranks)
    if not ranks.first:
        return  # another process writes
    (features,) = found
    # Only now: what an input holds is known once it was opened.
    if features.source["kind"] in ("features", "statistics", "summary"):
        path = features.source["path"]
        raise OptionError(f"INPUT must hold images, but `{path}` already holds features.")
    save_features(features, target, overwrite=overwrite)
    if not quiet:
        print_notes(features.notes + further_left_out(features.source, verbose))
    rows, columns = features.features.shape
    echo(f"{target}: {rows} x {columns} features of {features.extractor['extractor']}")
