"""`otmetrics extract`: features of images, saved with their protocol."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otmetrics.errors import OptionError

from .options import (
    INPUT,
    Command,
    checked_options,
    extraction_of,
    extraction_options,
    ranks_here,
    resolved_device,
)
from .terminal import echo

if TYPE_CHECKING:
    from otmetrics.scoring.feature_set import FeatureSet


@click.command(cls=Command)
@click.argument("source", metavar="INPUT", type=INPUT)
@click.argument("target", metavar="OUT.npz", type=INPUT)
@click.option("--overwrite", is_flag=True, help="Replace OUT.npz if it is there.")
@extraction_options
def extract(
    source: Path,
    target: Path,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
    timeout: float,
    **options: Any,
) -> None:
    """Save the features of INPUT to OUT.npz, for `score` to use again.

    OUT.npz holds the array `features` (N, D), the classes where INPUT has any, and the protocol
    that made it, so that `score` can refuse to compare features of different extractors. INPUT is

    INPUTS
    """
    from otmetrics.scoring.extraction import extracted
    from otmetrics.scoring.feature_set import check_target, save_features

    from .progress import progress_bars
    from .render import further_left_out, print_notes

    check_target(target, overwrite=overwrite)
    options["device"] = resolved_device(options["device"])
    with checked_options():
        extraction = extraction_of(**options)
    with ranks_here(timeout) as ranks, progress_bars(quiet or not ranks.first) as progress:
        found = extracted([source], extraction, at_least=1, progress=progress, ranks=ranks)
    if not found:
        return  # another process writes
    features = found[0]
    _check_images(features)
    save_features(features, target, overwrite=overwrite)
    if not quiet:
        print_notes(features.notes + (further_left_out(features.source) if verbose else []))
    rows, columns = features.features.shape
    echo(f"{target}: {rows} x {columns} features of {features.extractor['extractor']}")


def _check_images(features: "FeatureSet") -> None:
    """Refuse to extract features from features."""
    if features.source["kind"] == "features":
        path = features.source["path"]
        raise OptionError(f"INPUT must hold images, but `{path}` already holds features.")
