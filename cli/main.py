"""The `otmetrics` command: its subcommands, its exit codes, its last line of defence."""

import os
import sys
from pathlib import Path

import click

from otmetrics.errors import DataError, DivergedError, OptionError, printable, tell

from .cache import cache
from .compare import compare
from .demo import demo
from .explain import explain
from .extract import extract
from .features import features
from .options import GONE, flag
from .power import power
from .runs import evaluate, models, sample
from .score import NOT_CONVERGED, score
from .summarize import merge, summarize
from .terminal import NO_ROOM, echo, give_up_stdout, prepare
from .train import train

BAD_DATA = 3
INTERRUPTED = 130
_HELP = ("-h", "--help")
_CODES = {
    DataError: BAD_DATA,
    DivergedError: NOT_CONVERGED,
    OptionError: click.UsageError.exit_code,
}


@click.group(context_settings={"help_option_names": [*_HELP], "max_content_width": 100})
@click.version_option(package_name="otmetrics", message="otmetrics %(version)s")
def cli() -> None:
    """How far is generated data from real data?

    Scores two sets of images (or of features of any kind) by optimal transport in feature space,
    with FID's formula, kernel distance, precision, recall, density and coverage next to it. Every
    score stands next to its noise floor: the same score between two halves of the real data.

    \b
    Try it:      otmetrics demo
    Your data:   otmetrics score real/ fake/
    Which model: otmetrics compare real/ a/ b/
    What is off: otmetrics explain real/ fake/ --html report.html

    Results go to stdout, everything else to stderr. Exit codes: 0 done, 2 usage, 3 bad data or
    place to write, 4 a solver did not converge (its value is printed with its state) or a training
    diverged, 130 interrupted, 1 `compare --fail-if-worse` found a model that is worse; 1 with a
    traceback is an error in your own network, or a bug.
    """  # noqa: D301 - \b is click's mark for text that keeps its lines


_COMMANDS = (
    *(score, compare, explain, power, extract, summarize, merge, features, cache, demo),
    *(train, sample, evaluate, models),
)
for command in _COMMANDS:
    cli.add_command(command)


def _check_folder() -> str | None:
    """Raise where the working folder was removed; for help alone another takes its place."""
    try:
        Path.cwd()
    except OSError as error:
        if sys.argv[1:] and not {"--version", *_HELP} & {*sys.argv[1:]}:
            raise DataError(GONE) from error
        # torch, which help is made with, ends the process where there is no working folder.
        os.chdir(os.sep)
        return GONE
    return None


def main() -> None:
    """Run the command line; every expected failure is one line on stderr and an exit code."""
    # Before torch is loaded, which would print the stack of its network code where another process
    # is gone.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    try:
        prepare()
        code = cli.main(prog_name="otmetrics", standalone_mode=False, obj=_check_folder())
        sys.stdout.flush()

    # What the user can mend.
    except click.ClickException as error:
        # Help, which some versions of click raise, keeps its lines.
        if not isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            # It may hold words of the command line.
            setattr(error, "message", printable(error.message))  # noqa: B010 - final, says mypy
        error.show()
        code = error.exit_code

    # What ends the run from outside.
    except (KeyboardInterrupt, click.Abort) as error:
        # What the trainer says of its checkpoint; click wraps it.
        kept = tell(error.__cause__ or error, flag)
        echo(f"interrupted: {kept}" if kept else "interrupted", err=True)
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has all that it wants, as `head` does.
        give_up_stdout()
        code = 0
    except OSError as error:
        # Whatever else the system refuses is told where it is met: here it is a bug.
        if error.errno not in NO_ROOM:
            raise
        give_up_stdout()
        where = f"`{error.filename}`" if error.filename else "the output"
        echo(f"error: no room is left for {where} ({error.strerror}): free some.", err=True)
        code = BAD_DATA
    except (DataError, DivergedError, OptionError) as error:
        echo(f"error: {tell(error, flag)}", err=True)
        code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
    sys.exit(code if isinstance(code, int) else 0)
