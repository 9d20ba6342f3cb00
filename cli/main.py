"""The `otmetrics` command: its subcommands, its exit codes, its last line of defence."""

import errno
import io
import os
import sys

import click

from otmetrics.errors import DataError, DivergedError, OptionError

from .cache import cache
from .demo import demo
from .extract import extract
from .features import features
from .options import spoken
from .runs import evaluate, models, sample
from .score import NOT_CONVERGED, score
from .train import train

BAD_DATA = 3
INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="otmetrics", message="otmetrics %(version)s")
def cli() -> None:
    """How far is generated data from real data?

    Scores two sets of images (or of features of any kind) by optimal transport in feature space,
    with FID's formula, kernel distance, precision, recall, density and coverage beside it. Every
    score stands beside its noise floor: the same score between two halves of the real data.

    \b
    Try it:      otmetrics demo
    Your data:   otmetrics score real/ fake/

    Results go to stdout, everything else to stderr. Exit codes: 0 done, 2 usage, 3 bad data or
    place to write, 4 a solver did not converge (its value is printed with its state) or a training
    diverged, 130 interrupted; 1 with a traceback is an error in your own network, or a bug.
    """  # noqa: D301 - \b is click's mark for text that keeps its lines


for command in (score, extract, features, cache, demo, train, sample, evaluate, models):
    cli.add_command(command)


def main() -> None:
    """Run the command line; every expected failure is one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without an arrow is no reason to fail
    # Before torch is loaded: without the stacks of its network, where another process is gone.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        code = cli.main(prog_name="otmetrics", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        # What the trainer says of its checkpoint; click wraps it.
        kept = str(error.__cause__ or error)
        # Not without need: it imports the commands, perhaps in the middle of an import.
        kept = spoken(kept, cli.commands.values()) if kept else ""
        click.echo(f"interrupted: {kept}" if kept else "interrupted", err=True)
        code = INTERRUPTED
    except BrokenPipeError:
        _give_up_stdout()  # the reader of a pipe has gone
        code = 0
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        _give_up_stdout()
        where = f"`{error.filename}`" if error.filename else "the output"
        click.echo(f"error: no room is left for {where} ({error.strerror}): free some.", err=True)
        code = BAD_DATA
    except DataError as error:
        click.echo(f"error: {spoken(str(error), cli.commands.values())}", err=True)
        code = BAD_DATA
    except DivergedError as error:
        click.echo(f"error: {error}", err=True)
        code = NOT_CONVERGED
    except OptionError as error:
        click.echo(f"error: {spoken(str(error), cli.commands.values())}", err=True)
        code = click.UsageError.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _give_up_stdout() -> None:
    """Keep Python from complaining about stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
