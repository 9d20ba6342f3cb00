"""`--html FILE`: the result as a page, and the command that repeats it."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .options import flag

if TYPE_CHECKING:
    from otmetrics.scoring.comparison import Comparison
    from otmetrics.scoring.explanation import Explanation
    from otmetrics.scoring.report import ScoreReport

# What changes nothing in the numbers.
_NOT_REPEATED = {"html_target", "json_targets", "csv_target", "no_images", "quiet", "verbose"}


def check_html_target(path: Path | None) -> None:
    """Raise where a page cannot be written, before anybody waits for it."""
    if path is None:
        return
    from otmetrics.pages.writing import SUFFIXES
    from otmetrics.safe_files import check_target

    # As with --json, a command that is run again replaces what it wrote.
    check_target(path, SUFFIXES, overwrite=True)


def write_html_page(
    result: "ScoreReport | Comparison | Explanation", path: Path | None
) -> list[str]:
    """Write the page that was asked for; notes of where it is."""
    if path is None:
        return []
    from otmetrics.pages.frame import Origin
    from otmetrics.pages.writing import page_of, write_page

    origin = Origin(_repeating_command(click.get_current_context()), flag)
    size = write_page(page_of(result, origin), path)
    return [f"`{path}` has the page ({size / 1000:.0f} kB)"]


def _repeating_command(context: click.Context) -> str:
    """The command as it was given, without what only says where results go."""
    options, arguments = [], []
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params.get(str(parameter.name))
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not given or name in _NOT_REPEATED:
            continue
        if isinstance(parameter, click.Argument):
            arguments += [str(one) for one in (value if isinstance(value, tuple) else (value,))]
        elif isinstance(value, bool):
            options.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            options += [parameter.opts[0], _word(value)]
    # Whatever begins with a dash would be an option.
    end = ["--"] if any(one.startswith("-") for one in arguments) else []
    words = [*options, *end, *arguments] if end else [*arguments, *options]
    return f"{context.command_path} {shlex.join(words)}"


def _word(value: Any) -> str:
    """The value of an option as it is written."""
    if isinstance(value, tuple):
        return ",".join(value)
    # All digits of a number: %g would round it.
    return repr(value) if isinstance(value, float) else str(value)
