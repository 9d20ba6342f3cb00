"""`otmetrics summarize` and `merge`: one small file that stands for all samples."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from otmetrics.errors import Argument, OptionError

from .options import (
    INPUT,
    INPUTS,
    Command,
    extraction_options,
    field_options,
    given_fields,
    make_extraction,
    names_option,
    ranks_here,
    resolved_device,
)
from .terminal import echo

_KEEPING = ("samples", "num_projections")
# As `summary.FORMS`, which help does without: the library takes seconds to load.
_FORMATS = ("pytorch-fid", "clean-fid")
_HELP = f"""Summarise INPUT as OUT.npz, which `score` takes in its place.

The file holds the moments of all samples, from which the Fréchet distance follows exactly,
histograms along random directions for sliced distances, and some samples, chosen at random, for
all other scores, floors and tests. Other programs read its `mu` and `sigma` as theirs.

\b
otmetrics summarize real/ real.npz
otmetrics score real.npz fake/
otmetrics summarize real/ part2.npz --shard 2/64    one of 64 jobs
otmetrics merge part*.npz real.npz

What is killed goes on where it was, as features are kept in the cache. INPUT is
{INPUTS}
"""


class _Shard(click.ParamType):
    """A part of how many: 2/64."""

    name = "I/K"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        number, slash, count = value.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and len(value) < 20):
            self.fail(f"give a part of how many, as 2/64, got {value!r}.", param, ctx)
        return int(number), int(count)


def _summary_options() -> list[click.Parameter]:
    """The options of what is kept, and of extraction."""
    from otmetrics.summaries.keeping import PARTS, Keeping

    return [
        names_option("keep", PARTS, "What the file keeps, with commas; the moments always."),
        *field_options(Keeping, _KEEPING),
        *extraction_options(),
    ]


@click.command(cls=Command, more=_summary_options, help=_HELP)
@click.argument("source", metavar="INPUT", type=INPUT)
@click.argument("target", metavar="OUT.npz", type=INPUT)
@click.option("--shard", type=_Shard(), help="One part of how many, as 2/64; `merge` joins them.")
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    help="Write the file of another program instead: mu and sigma for pytorch-fid, and the samples "
    "as `feats` for clean-fid.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT.npz if it is there.")
def summarize(
    source: Path,
    target: Path,
    shard: tuple[int, int] | None,
    form: str | None,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
    timeout: float,
    **given: Any,
) -> None:
    """Summarise, write, and say what was read."""
    from otmetrics.safe_files import check_target
    from otmetrics.scoring.summarizing import notes_of
    from otmetrics.scoring.summarizing import summarize as compute
    from otmetrics.summaries.keeping import PARTS, Keeping

    from .progress import progress_bars
    from .render import further_left_out, print_notes

    check_target(target, (".npz",), overwrite=overwrite)
    kept = given["keep"] or PARTS
    if unknown := [name for name in kept if name not in PARTS]:
        said = f" must be among {', '.join(PARTS)}; got {', '.join(unknown)}."
        raise OptionError(Argument("keep"), said)
    if form == "clean-fid" and "samples" not in kept:
        raise OptionError(
            Argument("form"), " clean-fid needs the samples: ", Argument("keep"), " them."
        )
    _check_no_input(target, [source])
    device = resolved_device(given["device"])
    extraction = make_extraction(given, device)
    keeping = Keeping(**given_fields(given, (*_KEEPING, "seed")), sketch="sketch" in kept)
    if "samples" not in kept:
        keeping = replace(keeping, samples=0)
    with ranks_here(timeout) as ranks, progress_bars(quiet or not ranks.first) as progress:
        made = compute(
            source,
            shard=shard or (1, 1),
            keeping=keeping,
            extraction=extraction,
            progress=progress,
            ranks=ranks,
        )
    if made is None:  # another process writes
        return
    if not quiet:
        print_notes(notes_of(made) + further_left_out(made.source, verbose))
    _write(made, target, form, overwrite)


@click.command(cls=Command)
@click.argument("parts", metavar="PART.npz...", nargs=-1, required=True, type=INPUT)
@click.argument("target", metavar="OUT.npz", type=INPUT)
@click.option(
    "--incomplete", is_flag=True, help="Merge parts of a --shard of which others are missing."
)
@click.option("--overwrite", is_flag=True, help="Replace OUT.npz if it is there.")
def merge(parts: tuple[Path, ...], target: Path, incomplete: bool, overwrite: bool) -> None:
    """Merge the summaries PART.npz into OUT.npz: that of all of their samples.

    The order does not matter, and the result is that of one pass. Parts must be by one network,
    with one seed. A part of a --shard that is missing or twice is refused, and so are the same
    samples again, as far as names and kept samples tell.
    """
    from otmetrics.safe_files import check_target
    from otmetrics.scoring.summarizing import merge_summaries

    check_target(target, (".npz",), overwrite=overwrite)
    _check_no_input(target, parts)
    _write(merge_summaries(parts, incomplete=incomplete), target, None, overwrite)


def _check_no_input(target: Path, inputs: Sequence[Path]) -> None:
    """Raise where a summary would take the place of what it is made of."""
    if target.resolve() in [one.resolve() for one in inputs]:
        raise OptionError(f"OUT.npz must not be `{target}`, which is an input: name another file.")


def _write(made: Any, target: Path, form: str | None, overwrite: bool) -> None:
    """Write a summary and say what it is of."""
    if form is None:
        made.save(target, overwrite=overwrite)
    else:
        made.export(target, form, overwrite=overwrite)
    size = target.stat().st_size / 1e6
    kept = 0 if made.samples is None or form == "pytorch-fid" else len(made.samples)
    count = "an unknown number" if made.count is None else made.count
    echo(
        f"{target}: {count} x {made.dimension} features of {made.extractor['extractor']}, "
        f"{kept} of them kept, {size:.1f} MB"
    )
