"""`otmetrics models`, `sample` and `evaluate`: what there is to train, and what became of a run."""

import dataclasses
from pathlib import Path

import click

from otmetrics.errors import OptionError

from .options import INPUT, resolved_device
from .train import trainer


@click.command()
@click.argument("preset", required=False)
def models(preset: str | None) -> None:
    """List the bundled GANs, or the settings of PRESET for each kind of data."""
    with trainer():
        from otmetrics.reference_models.presets import PRESETS, settings_of

    from .render import print_table

    if preset is None:
        models = [(name, item.loss, item.paper) for name, item in PRESETS.items()]
        print_table(("preset", "loss", "paper"), models, left=(0, 1, 2))
        return
    settings = settings_of(preset)
    names = list(dict.fromkeys(name for found in settings.values() for name in found))
    rows = [(name, *(str(found[name]) for found in settings.values())) for name in names]
    kinds = [f"{kind} px" if kind.isdecimal() else kind for kind in settings]
    print_table((preset, *kinds), rows, left=(0,))


@click.command()
@click.argument("run", type=INPUT)
@click.argument("target", metavar="OUT", type=INPUT)
@click.option("--num", type=int, default=1000, show_default=True, help="How many samples.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the samples.")
def sample(run: Path, target: Path, num: int, seed: int) -> None:
    """Write samples of the best generator of RUN to OUT.

    OUT is a folder, made here, that gets one PNG an image; or OUT.npz, which gets one array: images
    (N, H, W, C) in uint8, or points (N, D) in the data's own coordinates. Either goes straight into
    `otmetrics score`.
    """
    with trainer():
        from otmetrics.reference_models.output import write_samples

    count = write_samples(run, target, num=num, seed=seed)
    click.echo(f"{target}: {count}")


@click.command()
@click.argument("run", type=INPUT)
@click.option("--data", metavar="NAME", help="Where the run's data lie now, if they have moved.")
@click.option("--data-root", type=INPUT, help="Where torchvision's data sets lie.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda[:i]",
    help="Where networks and maths run; auto takes CUDA where there is one.",
)
@click.option(
    "--json",
    "json_target",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="JSON on stdout instead of the table, or into FILE beside it.",
)
def evaluate(
    run: Path, data: str | None, data_root: Path | None, device: str, json_target: str | None
) -> None:
    """Score the best generator of RUN against held-out samples, with floors.

    As many samples as in the evaluations of the run and by its extractor, from other noise.
    """
    with trainer():
        import torch
        from otmetrics.reference_models.data import load_data
        from otmetrics.reference_models.evaluation import Evaluator
        from otmetrics.reference_models.export import loaded

    from .render import check_target, print_json, print_report

    if json_target not in (None, "-"):
        check_target(Path(str(json_target)))
    place = torch.device(resolved_device(device))
    generator, config, known = loaded(run)
    samples = load_data(data or config.data, root=data_root, size=config.size or None)
    _check_shape(samples.shape, known.shape, run)
    samples = dataclasses.replace(samples, scaling=known.scaling)
    report, modes = Evaluator(config, samples, place).report(generator.to(place))
    if json_target != "-":
        print_report(report)
        if modes is not None:
            shares = (
                "" if modes.high_quality is None else f", {modes.high_quality:.1%} high quality"
            )
            kl = "-" if modes.kl is None else f"{modes.kl:.3g}"
            click.echo(f"modes: {modes.covered} of {modes.num_modes}{shares}, KL {kl} nats")
    if json_target is not None:
        print_json(report, json_target)


def _check_shape(shape: tuple[int, ...], made: tuple[int, ...], run: Path) -> None:
    """Raise unless samples have the shape of those that a run makes."""
    if shape != made:
        raise OptionError(
            f"`data` must have samples of shape {made}, as `{run}` makes, got {shape}."
        )
