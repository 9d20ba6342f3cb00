"""`otmetrics score`: every score of two inputs."""

import re
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
    maths_device,
    name_flags,
    ranks_here,
    resolved_device,
)
from .terminal import echo

if TYPE_CHECKING:
    from otmetrics.scoring.report import ScoreReport

NOT_CONVERGED = 4
# Those that the messages of a score's solver may name; the other scores have none here.
_OPTIONS = {
    "sliced_wasserstein": {"num_projections", "tolerance", "max_projections"},
    "sinkhorn_divergence": {"epsilon", "max_iterations"},
}


def _json_target(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Keep `--json REAL FAKE` from taking REAL for the file to write."""
    if value is not None and value != "-" and not value.lower().endswith(".json"):
        raise click.BadParameter(
            f"FILE must end in .json, got {value!r}; for JSON on stdout put --json last.",
            context,
            option,
        )
    return value


def _names(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    """Split a comma-separated list."""
    return None if value is None else tuple(name.strip() for name in value.split(","))


@click.command(cls=Command)
@click.argument("real", type=INPUT)
@click.argument("fake", type=INPUT)
@click.option(
    "--metrics",
    metavar="A,B,...",
    callback=_names,
    help="Among sliced_wasserstein, wasserstein, sinkhorn_divergence, frechet_distance, "
    "kernel_distance, precision, recall, density, coverage. Default: all.",
)
@extraction_options
@click.option(
    "--exact-max",
    type=int,
    help="Most samples a side for the exact distance, whose time grows like n^2.5. Default: 10000.",
)
@click.option(
    "--sinkhorn-max",
    type=int,
    help="The same for the Sinkhorn divergence, whose memory grows like n^2. Default: 10000.",
)
@click.option(
    "--pairs-max",
    type=int,
    help="The same for kernel distance, precision, recall, density and coverage, whose time grows "
    "like n^2. Default: 50000.",
)
@click.option(
    "--epsilon",
    type=float,
    help="Sinkhorn regularisation as a share of the mean cost; more converges faster and blurs "
    "more. Default: 0.05.",
)
@click.option("--max-iterations", type=int, help="Most Sinkhorn iterations a term. Default: 2000.")
@click.option(
    "--richardson",
    is_flag=True,
    help="Extrapolate the Sinkhorn divergence towards epsilon = 0, at twice the time: "
    "2 S(epsilon) - S(1.41 epsilon).",
)
@click.option(
    "--num-projections", type=int, help="Directions of the sliced distance. Default: 1024."
)
@click.option(
    "--tolerance",
    type=float,
    metavar="SHARE",
    help="Add directions until the sliced distance has a standard error below this share of it, "
    "0.01 for one percent. Default: no more than --num-projections.",
)
@click.option(
    "--max-projections", type=int, help="Most directions that --tolerance adds. Default: 65536."
)
@click.option(
    "--debiased",
    is_flag=True,
    help="Squared sliced distance from halves of the samples: on average 0 for two independent "
    "samples of one law, so that it may be negative. Not with --tolerance.",
)
@click.option(
    "--num-neighbors",
    type=int,
    help="k of precision, recall, density and coverage. Default: 5.",
)
@click.option(
    "--floor-with",
    type=INPUT,
    metavar="OTHER_REAL",
    help="More real samples: the floor compares REAL with these, not two halves of REAL.",
)
@click.option(
    "--no-floor",
    is_flag=True,
    help="Leave the floors out, and the two more solves a score that they take.",
)
@click.option(
    "--json",
    "json_target",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    callback=_json_target,
    help="JSON on stdout instead of the table, or into FILE beside it.",
)
def score(real: Path, fake: Path, json_target: str | None, **options: Any) -> None:
    """Score FAKE against REAL.

    Real comes first. Each of them is

    INPUTS

    \b
    otmetrics score real/ fake/
    otmetrics score real/ fake/ --metrics wasserstein,recall --num 2000
    otmetrics score real.npz fake.npz --json scores.json
    """  # noqa: D301 - \b is click's mark for text that keeps its lines
    run_score(real, fake, json_target, **options)


def run_score(
    real: Path,
    fake: Path,
    json_target: str | None,
    *,
    metrics: tuple[str, ...] | None = None,
    exact_max: int | None = None,
    sinkhorn_max: int | None = None,
    pairs_max: int | None = None,
    memory_limit: float | None = None,
    epsilon: float | None = None,
    max_iterations: int | None = None,
    richardson: bool | None = None,
    num_projections: int | None = None,
    tolerance: float | None = None,
    max_projections: int | None = None,
    debiased: bool | None = None,
    num_neighbors: int | None = None,
    floor_with: Path | None = None,
    no_floor: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    timeout: float = 600.0,
    **extraction: Any,
) -> None:
    """Compute, then print; leave with code 4 where a solver did not converge."""
    from otmetrics.scoring.families import Scoring
    from otmetrics.scoring.score import shared_score
    from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
    from otmetrics.transport.sliced.sliced import Sliced

    from .progress import progress_bars
    from .render import (
        check_target,
        further_left_out,
        print_json,
        print_notes,
        print_report,
        read_lines,
    )

    if json_target not in (None, "-"):
        check_target(Path(str(json_target)))
    seed, device = extraction.get("seed", 0), resolved_device(extraction.pop("device", "auto"))
    if max_projections is not None and tolerance is None:
        raise OptionError("`max_projections` needs `tolerance`, which adds directions.")
    with checked_options():
        scoring = Scoring(
            sliced=Sliced(
                seed=seed,
                **_given_options(
                    num_projections=num_projections,
                    tolerance=tolerance,
                    max_projections=max_projections,
                    debiased=debiased,
                ),
            ),
            sinkhorn=Sinkhorn(
                **_given_options(
                    epsilon=epsilon, max_iterations=max_iterations, richardson=richardson
                )
            ),
            floor=not no_floor,
            seed=seed,
            device=maths_device(device),
            **_given_options(
                metrics=metrics,
                num_neighbors=num_neighbors,
                exact_max=exact_max,
                sinkhorn_max=sinkhorn_max,
                pairs_max=pairs_max,
                memory_limit=None if memory_limit is None else memory_limit / 2,
            ),
        )
        options = extraction_of(device, memory_limit=memory_limit, **extraction)
    with ranks_here(timeout) as ranks, progress_bars(quiet or not ranks.first) as progress:
        report = shared_score(
            real,
            fake,
            floor_with=floor_with,
            extraction=options,
            scoring=scoring,
            progress=progress,
            ranks=ranks,
        )
    if report is None:
        return  # another process prints
    if json_target != "-":
        print_report(report)
    if json_target is not None:
        print_json(report, json_target)
    if not quiet:
        more = report.protocol["inputs"].items() if verbose else ()
        all_left_out = [f"{name}: {line}" for name, item in more for line in further_left_out(item)]
        shown = [] if json_target == "-" else read_lines(report)  # under the table
        notes = [note for note in report.notes if note not in shown]
        print_notes([*notes, *all_left_out, _times(report.seconds)])
    end_unconverged(report)


def end_unconverged(report: "ScoreReport") -> None:
    """Say which solvers did not converge, and leave with code 4 where one did not."""
    if report.converged:
        return
    for name, result in report.scores.items():
        if not (result.converged and (result.floor is None or result.floor.converged)):
            advice = _advice(result.message, _OPTIONS.get(name, set()))
            echo(f"warning: {name}: {advice}", err=True)
    raise click.exceptions.Exit(NOT_CONVERGED)


def _advice(message: str, options: set[str]) -> str:
    """A solver's message without what speaks of options that this command does not have."""
    here = {item.name for item in click.get_current_context().command.params}
    parts = []
    for part in re.split(r"(?<=[:;.]) ", message):
        if set(re.findall(r"`(\w+)`", part)) - (options & here):
            break
        parts.append(part)
    return name_flags(" ".join(parts).rstrip(":;.") or "it did not converge") + "."


def _times(seconds: dict[str, float]) -> str:
    """Where the time went."""
    parts = [f"{name} {value:.1f}" for name, value in seconds.items()]
    return f"{sum(seconds.values()):.1f} s: {', '.join(parts)}"


def _given_options(**options: Any) -> dict[str, Any]:
    """The options that the user set; the library knows the defaults of the others."""
    return {name: value for name, value in options.items() if value is not None}
