"""`otmetrics train`, one subcommand a preset, with the options of its objective."""

import dataclasses
import difflib
import inspect
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from otmetrics.errors import OptionError

from .options import INPUT, Command, field_options, resolved_device
from .progress import training_progress
from .terminal import echo

_COUNT = click.IntRange(min=0)
_RUN_OPTIONS = (
    click.Option(
        ["--data"],
        metavar="NAME",
        help="ring8, grid25, digits, mnist, fashion_mnist, cifar10, celeba, stacked_mnist, "
        "folder:PATH of images, or npz:PATH of images or of points (N, D).",
    ),
    click.Option(["--out"], required=True, type=INPUT, metavar="RUN", help="Folder of the run."),
    click.Option(
        ["--data-root"], type=INPUT, help="Where torchvision's data sets lie, or are put."
    ),
    click.Option(
        ["--download"],
        is_flag=True,
        help="Fetch torchvision's data set, or weights of --eval-features, if they are missing.",
    ),
    click.Option(
        ["--resume"],
        is_flag=True,
        help="Go on from the last checkpoint in RUN, if it has one. Options that are not given are "
        "those of RUN; a path in --data must be given again.",
    ),
    click.Option(
        ["--allow-change"],
        is_flag=True,
        help="Resume although options or samples differ from RUN's.",
    ),
    click.Option(
        ["--device"],
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="auto takes a GPU where there is one.",
    ),
    click.Option(
        ["--log-every"], type=_COUNT, default=0, help="Steps between rows; 0: 200 in a run."
    ),
    click.Option(
        ["--checkpoint-every"],
        type=_COUNT,
        default=0,
        help="Steps between checkpoints; 0: twenty in a run.",
    ),
    click.Option(["--no-tensorboard"], is_flag=True, help="Write no TensorBoard file."),
    click.Option(["--quiet", "-q"], is_flag=True, help="No progress and no warnings on stderr."),
)


class _Presets(click.Group):
    """One command a preset, made when it is asked for: the library loads only then."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        with trainer():
            from otmetrics.reference_models.presets import PRESETS
        return list(PRESETS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = self.list_commands(ctx)
        if cmd_name not in known:
            near = difflib.get_close_matches(cmd_name.lower(), known, n=2)
            advice = f"did you mean {' or '.join(near)}?" if near else "see otmetrics models."
            raise OptionError(f"there is no preset {cmd_name!r}: {advice}")
        return _command(cmd_name)


@click.command(cls=_Presets, subcommand_metavar="PRESET [OPTIONS]")
def train() -> None:
    """Train one of the bundled GANs.

    \b
    otmetrics models                                  the presets, their papers and losses
    otmetrics train wgan-gp --help                    the options of one
    otmetrics train wgan-gp --data ring8 --out runs/ring
    otmetrics sample runs/ring samples.npz --num 2500

    RUN holds checkpoints, the best generator (generator.safetensors), a log (log.jsonl, log.csv),
    samples and curves. A run that was stopped goes on with --resume, to the same weights. Several
    GPUs: accelerate launch -m otmetrics train PRESET ...
    """  # noqa: D301 - \b is click's mark for text that keeps its lines


@contextmanager
def trainer() -> Iterator[None]:
    """Name the extra where one of its packages is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        # A module of our own that is missing is a bug, not an extra.
        if (error.name or "").startswith("otmetrics"):
            raise
        raise OptionError(
            f"the trainer needs {error.name}: install it with pip install 'otmetrics[train]'."
        ) from error


def _command(name: str) -> click.Command:
    """The command of one preset, its options read off the fields of the library."""
    from otmetrics.reference_models.config import TrainConfig
    from otmetrics.reference_models.objectives import OBJECTIVES
    from otmetrics.reference_models.presets import PRESETS

    preset, kind = PRESETS[name], OBJECTIVES[name]
    own = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
    common = [item.name for item in dataclasses.fields(TrainConfig) if "help" in item.metadata]
    described, _, _ = inspect.cleandoc(kind.__doc__ or "").partition("\n\nReferences:")
    _, *formulas = (" ".join(part.split()) for part in described.split("\n\n"))
    defaults = f"What options are by default depends on the data: otmetrics models {name}"
    parts = [f"Train {name}: {preset.loss}.", preset.paper + ".", *formulas, defaults]
    about = "\n\n".join(parts)

    def run(**given: Any) -> None:
        # What was not given depends on the data, or on the run that is resumed.
        chosen = {key: value for key, value in given.items() if value is not None}
        # Says why there is no GPU; accelerate takes one by itself, and has no name for it.
        if chosen["device"] == "cuda":
            resolved_device("cuda")
            chosen["device"] = "auto"
        objective = {item: chosen.pop(item) for item in own if item in chosen}
        options = {item: chosen.pop(item) for item in common if item in chosen}
        run_training(name, options, objective, **chosen)

    params = [
        *_RUN_OPTIONS,
        *field_options(kind, own),
        *field_options(TrainConfig, common),
    ]
    return Command(name, callback=run, params=list(params), help=about, short_help=preset.loss)


def run_training(
    name: str,
    options: dict[str, Any],
    objective: dict[str, Any],
    *,
    out: Path,
    data: str | None = None,
    data_root: Path | None = None,
    quiet: bool = False,
    no_tensorboard: bool = False,
    **how_to_run: Any,
) -> None:
    """Load, train, and say what is where; `how_to_run` are fields of `RunOptions`."""
    with trainer():
        from otmetrics.reference_models.data import load_data
        from otmetrics.reference_models.evaluation import check_data_claim, check_extractor_claim
        from otmetrics.reference_models.presets import config_for
        from otmetrics.reference_models.reporter import Reporter
        from otmetrics.reference_models.resuming import earlier_options
        from otmetrics.reference_models.training import RunOptions
        from otmetrics.reference_models.training import train as train_generator
    from otmetrics.scoring.environment import number_in_environment, place_in_environment

    # accelerate, which trains, reads torchrun's variables only, not Slurm's.
    rank, world = place_in_environment(slurm=False)
    # Not used here, but accelerate would fail on one that is not a number, with a traceback.
    number_in_environment("LOCAL_RANK", 0)
    first = rank == 0

    how = RunOptions(**how_to_run)
    if how.resume and (before := earlier_options(out, name)) is not None:
        # A folder of a run may come from anybody: what it names is not read on its word.
        if data is None:
            check_data_claim(before.data, out)
            data = before.data
        if "eval_features" not in options:
            check_extractor_claim(before.options.get("eval_features", "auto"), out)
        options, objective = before.options | options, before.objective | objective
    if data is None:
        raise click.UsageError("Missing option '--data'.")

    # What 0 is to the configuration, None is to the loader: its own size.
    size = options.get("size") or None
    with _first_alone(world, how.device == "cpu"):
        samples = load_data(data, root=data_root, download=how.download, size=size)
    config = config_for(name, samples, options, objective)
    with training_progress(quiet or not first) as (progress, warn):
        reporter = Reporter(
            out if first else None, progress=progress, warn=warn, tensorboard=not no_tensorboard
        )
        try:
            state = train_generator(config, samples, out, reporter=reporter, options=how)
        except KeyboardInterrupt as error:
            # Only the interrupt that has saved a checkpoint comes with words.
            if not error.args:
                raise
            again = ["otmetrics", "train", name, "--out", str(out), "--resume"]
            again += ["--data", data] if ":" in data else []
            again += ["--data-root", str(data_root)] if data_root else []
            again += _evaluator_flags(config.eval_features, how.download)
            again += ["--device", how.device] if how.device != "auto" else []
            raise KeyboardInterrupt(f"{error}; go on with: {shlex.join(again)}") from error
    if first:
        best = state.best
        echo(f"{out}: {state.step} steps of {name} on {data}; best at {int(best['step'])}:")
        for key, value in best.items():
            if key != "step":
                echo(f"  {key:20} {value:.4g}")
        for line in reporter.conclusion:
            echo(line)


def _evaluator_flags(name: str, download: bool) -> list[str]:
    """What a resumed run must be given again of its evaluator, which no folder may choose."""
    from otmetrics.features import is_installed

    flags = [] if name in ("auto", "none") or is_installed(name) else ["--eval-features", name]
    return [*flags, "--download"] if download else flags


@contextmanager
def _first_alone(world: int, on_cpu: bool) -> Iterator[None]:
    """Of several processes the first one goes ahead, for it may fetch what the others read."""
    if world == 1:
        yield
        return
    with trainer():
        from accelerate import PartialState
    from otmetrics.scoring.environment import RankError, number_in_environment

    # Where there is none accelerate has its own; a bad one it would take as it is.
    if "MASTER_PORT" in os.environ:
        number_in_environment("MASTER_PORT", least=1, most=65535)
    try:
        state = PartialState(cpu=on_cpu)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RankError(f"the {world} processes did not meet ({reason}): see torchrun.") from error
    with state.main_process_first():
        yield
