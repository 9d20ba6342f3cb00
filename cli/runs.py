"""`otmetrics models`, `sample` and `evaluate`: what there is to train, and what became of a run."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from otmetrics.errors import Argument, OptionError

from .options import DEVICE, INPUT, JSON, Command, resolved_device
from .score import end_unconverged
from .terminal import echo
from .train import trainer

_TIMED = ("points", "28")


@click.command(cls=Command)
@click.argument("preset", required=False)
def models(preset: str | None) -> None:
    """List the bundled GANs, or the settings of PRESET for each kind of data.

    A run is evaluated by the library's scores against held-out samples: points as they are, digits
    of 8 pixels as pixels, other images by efficientnet_lite0. The evaluator is the score that keeps
    the best checkpoint. Minutes are those of a run as the preset has it,
    evaluations included, on one core; "-" was not measured.
    """
    with trainer():
        from otmetrics.reference_models.presets import PRESETS, settings_of

    from .render import print_table

    if preset is None:
        header = ("preset", *(f"{_describe_kind(kind)}, min" for kind in _TIMED), "loss; paper")
        models = [
            (name, *_minutes(item.minutes), f"{item.loss}; {item.paper}")
            for name, item in PRESETS.items()
        ]
        print_table(header, models, left=(0, 3))
        for evaluator, which in _by_evaluator({name: settings_of(name) for name in PRESETS}):
            echo(f"evaluator of {which}: {evaluator}")
        return

    settings = settings_of(preset)
    names = list(dict.fromkeys(name for found in settings.values() for name in found))
    rows = [(name, *(str(found[name]) for found in settings.values())) for name in names]
    print_table((preset, *map(_describe_kind, settings)), rows, left=(0,))


def _describe_kind(kind: str) -> str:
    return f"{kind} px" if kind.isdecimal() else kind


def _minutes(measured: dict[str, float]) -> Iterator[str]:
    for kind in _TIMED:
        yield f"{measured[kind]:.1f}" if kind in measured else "-"


def _by_evaluator(settings: dict[str, dict[str, dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """The scores that keep the best checkpoints, each with the presets that it does it for."""
    # Most presets share an evaluator, so one line each for the different ones.
    found: dict[str, list[str]] = {}
    for name, kinds in settings.items():
        scores: dict[str, list[str]] = {}
        for kind, chosen in kinds.items():
            scores.setdefault(chosen["select"], []).append(_describe_kind(kind))
        text = "; ".join(f"{score} ({', '.join(where)})" for score, where in scores.items())
        found.setdefault(text, []).append(name)
    for text, names in found.items():
        yield text, "all presets" if len(found) == 1 else ", ".join(names)


@click.command(cls=Command)
@click.argument("run", type=INPUT)
@click.argument("target", metavar="OUT", type=INPUT)
@click.option("--num", type=int, default=1000, show_default=True, help="How many samples.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the samples.")
@click.option("--overwrite", is_flag=True, help="Replace samples that are there.")
def sample(run: Path, target: Path, num: int, seed: int, overwrite: bool) -> None:
    """Write samples of the best generator of RUN to OUT.

    OUT is a folder, made here, that gets one PNG per image; or OUT.npz, which gets one array:
    images (N, H, W, C) in uint8, or points (N, D) in the data's own coordinates. Either goes
    straight into `otmetrics score`.
    """
    with trainer():
        from otmetrics.reference_models.saving import write_samples

    count = write_samples(run, target, num=num, seed=seed, overwrite=overwrite)
    echo(f"{target}: {count}")


@click.command(cls=Command)
@click.argument("run", type=INPUT)
@click.option(
    "--data",
    metavar="NAME",
    help="The run's data; needed for folder:PATH and npz:PATH, which are not read on the word of "
    "a run.",
)
@click.option("--data-root", type=INPUT, help="Where torchvision's data sets lie.")
@click.option(
    "--eval-features",
    metavar="NAME",
    help="The run's extractor; needed where it is not installed with otmetrics.",
)
@click.option(
    "--download",
    is_flag=True,
    help="Fetch torchvision's data set, or weights of the extractor, if they are missing.",
)
@click.option("--device", **DEVICE)
@JSON
def evaluate(
    run: Path,
    data: str | None,
    data_root: Path | None,
    eval_features: str | None,
    download: bool,
    device: str,
    json_targets: tuple[str, ...],
) -> None:
    """Score the best generator of RUN against held-out samples, with floors.

    As many samples as in the evaluations of the run and by its extractor, from other noise. RUN may
    come from anybody: no path is read and no code is loaded because it says so.
    """
    with trainer():
        import torch
        from otmetrics.reference_models.data import load_data
        from otmetrics.reference_models.evaluation import (
            Evaluator,
            check_data_claim,
            check_extractor_claim,
        )
        from otmetrics.reference_models.saving import load_generator

    from .render import check_targets, print_json, print_report

    check_targets(json_targets)
    place = torch.device(resolved_device(device, mps=False))
    sampler, config, known = load_generator(run)
    # What a run says of its data and extractor may be anybody's word: what would open a path or
    # load code has to be given here.
    if data is None:
        check_data_claim(config.data, run)
    if eval_features is None:
        check_extractor_claim(config.eval_features, run)
    name = data or config.data
    _check_kind(name, config.data, run)
    # Other data sets have one size; images of a folder are resized to that of the run.
    size = known.shape[1] if name.startswith("folder:") and len(known.shape) == 3 else None
    samples = load_data(name, root=data_root, download=download, size=size)
    _check_shape(samples.shape, known.shape, run)
    # The generator makes points in the units of the run's data, not of the samples that are here.
    samples = dataclasses.replace(samples, scaling=known.scaling)
    if eval_features is not None:
        config = dataclasses.replace(config, eval_features=eval_features)

    evaluator = Evaluator(config, samples, place, download)
    report, modes = evaluator.report(sampler.to(place))
    codes = evaluator.code_scores(sampler)
    if "-" not in json_targets:
        print_report(report)
        if modes is not None:
            _print_modes(modes)
        if codes is not None:
            _print_codes(codes)

    # Data without known modes and runs without codes have no entry, rather than an empty one.
    found = {"modes": modes, "codes": codes}
    more = {name: part._asdict() for name, part in found.items() if part is not None}
    print_json(report, json_targets, **more)
    end_unconverged(report)


def _print_modes(modes: Any) -> None:
    """How many of the data's modes the samples have, and how evenly."""
    quality = "" if modes.high_quality is None else f", {modes.high_quality:.1%} high quality"
    kl = "-" if modes.kl is None else f"{modes.kl:.3g}"
    echo(f"modes: {modes.covered} of {modes.num_modes}{quality}, KL {kl} nats")


def _print_codes(codes: Any) -> None:
    """What the codes of an autoencoder say."""
    echo(f"reconstruction: {codes.reconstruction:.4g} mean squared error of held-out samples")
    echo(
        f"codes: {codes.kept:.1%} of the noise kept; {codes.distance:.2f} times as far from "
        f"training codes as those of held-out samples, {codes.copies:.1%} copies (within a tenth)"
    )
    if codes.purity is not None:
        echo(
            f"classes: {codes.purity:.1%} of samples between codes of one class, "
            f"{codes.purity_unfiltered:.1%} without the angle"
        )


def _check_kind(name: str, learned: str, run: Path) -> None:
    """Raise where two named data sets differ; files may have moved into others."""
    if ":" not in name + learned and name != learned:
        raise OptionError(
            Argument("data"), f" must be {learned}, which `{run}` learned from, got {name}."
        )


def _check_shape(shape: tuple[int, ...], made: tuple[int, ...], run: Path) -> None:
    """Raise unless samples have the shape of those that a run makes."""
    if shape != made:
        raise OptionError(
            Argument("data"), f" must have samples of shape {made}, as `{run}` makes, got {shape}."
        )
