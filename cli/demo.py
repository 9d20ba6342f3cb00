"""`otmetrics demo`: two small folders of images, and their scores."""

from pathlib import Path

import click

from .options import INPUT, Command
from .score import score
from .terminal import echo

_STORY = """\
{real} holds {num_real} tiles of eleven photographs, {fake} {num_fake} other tiles of only five of
them: a stand-in for a generator whose images look real but miss six modes.

$ otmetrics score {real} {fake} --test 199
"""
_MORAL = """
Precision stays close to its floor, recall and coverage fall far below theirs, and every distance
stands above its floor: the images are real, but six photographs are missing.
Now your own data:  otmetrics score REAL FAKE"""


@click.command(cls=Command)
@click.option(
    "--out",
    type=INPUT,
    default=Path("otmetrics-demo"),
    show_default=True,
    metavar="DIR",
    help="Where the two folders go.",
)
@click.option("--quiet", "-q", is_flag=True, help="No progress and no story, only the scores.")
def demo(out: Path, quiet: bool) -> None:
    """Write two small folders of images and score them.

    The images are tiles of photographs in the public domain. No download, under a minute.
    """
    from otmetrics.images import write_demo

    real, fake = write_demo(out)
    if not quiet:
        counts = {"num_real": len([*real.iterdir()]), "num_fake": len([*fake.iterdir()])}
        for line in _STORY.split("\n"):
            echo(line.format(real=real, fake=fake, **counts), err=True)
    quietly = ["--quiet"] if quiet else []
    arguments = ["--no-cache", "--test", "199", *quietly, "--", str(real), str(fake)]
    code = score.main(arguments, "otmetrics score", standalone_mode=False)
    if code:
        raise click.exceptions.Exit(code)
    if not quiet:
        for line in _MORAL.split("\n"):
            echo(line, err=True)
