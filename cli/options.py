"""Options that several commands share, made of the fields of the library's option objects."""

import dataclasses
import inspect
import os
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otmetrics.errors import Argument, DataError, OptionError

if TYPE_CHECKING:
    from otmetrics.scoring.options import Extraction
    from otmetrics.scoring.ranks import Ranks

_FLAGS = {
    "num_workers": "workers",
    "json_targets": "json",
    "html_target": "html",
    "csv_target": "csv",
    "form": "format",
    "kept": "summarize",
}
GONE = "the working folder is gone: change to one that exists."
_LONGEST_TIMEOUT = 1e8  # seconds
# In which processes that share their work may differ.
_OWN_OPTIONS = {"device", "num_workers", "timeout", "memory_limit", "overwrite", "quiet", "verbose"}
_EXTRACTION_FIELDS = (
    *("features", "weights", "download", "resize", "num", "dtype", "runtime"),
    *("batch_size", "cache_verify", "skip_corrupt"),
)

INPUTS = """
\b
a folder                       its images, searched recursively; its .tar, .zip or .parquet
                               files, or the Hugging Face dataset that it is
.zip, .tar, 'a-{00..12}.tar'   images in archives, read in place (webdataset shards too)
.parquet                       a column of encoded images
.txt                           the image files that it names, one per line
.npy, .npz                     images (N, H, W, C) in uint8, or features (N, D), such as
                               `otmetrics extract` writes
cifar10:test                   a data set that torchvision reads (also mnist, fashion_mnist,
                               kmnist, cifar100, svhn, stl10), in the folder that the
                               environment variable OTMETRICS_DATA names, else data/
python:package.module:function batches of uint8 images that the function yields
"""


# --- types -----------------------------------------------------------------------------------


class _Path(click.Path):
    """A path; an unset shell variable is not the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse the empty string."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        # A path drops its "./", and what is left may be the name of a data set, or of code.
        if isinstance(value, str) and value.startswith("./") and ":" in value:
            value = os.path.abspath(value)  # noqa: PTH100
        return super().convert(value, param, ctx)


class _Size(click.ParamType):
    """Bytes, as people write them: 800M, 4G, 1.5e9."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = value.strip().lower().removesuffix("b").removesuffix("i")
        unit = text[-1:] if text[-1:] in ("k", "m", "g", "t") else ""
        try:
            size = float(text.removesuffix(unit)) * 1000.0 ** " kmgt".index(unit or " ")
        except ValueError:
            size = 0.0
        # A megabyte at least: who writes 4 means 4G. The comparison is false for NaN too.
        if not 1e6 <= size < float("inf"):
            self.fail(f"{value!r} is not a size of 1M or more: give bytes, or 800M, 4G", param, ctx)
        return size


class _Names(click.ParamType):
    """A list separated by commas."""

    name = "a,b,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return tuple(name.strip() for name in value.split(","))


INPUT = _Path(path_type=Path)


# --- options of fields ------------------------------------------------------------------------


def flag(name: str) -> str:
    """An option as the command line writes it: the one place where names become flags."""
    name = _FLAGS.get(name, name)
    return "--" + name.replace("_", "-")


def field_options(kind: type, names: Sequence[str]) -> list[click.Option]:
    """Options of some fields of a dataclass: type, choices, default and help are the field's.

    A field that documents itself by metadata has a default that depends on what is trained.
    """
    documented = _field_docs(kind)
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    return [_field_option(fields[name], hints[name], documented) for name in names]


def _field_option(item: dataclasses.Field, hint: Any, documented: dict[str, str]) -> click.Option:
    """The option of one field; None stands for one that was not given."""
    name, flags = item.name, [flag(item.name), item.name]
    text, choices = item.metadata.get("help"), item.metadata.get("choices")
    fixed = text is None
    if text is None:
        # No docstring is there under python -OO.
        text = _with_flags(documented.get(name, ""), set(documented))
    kinds = typing.get_args(hint) or (hint,)
    if bool in kinds:
        # What is off for all data needs no --no-; what is on, or on for some data, does.
        if item.default is False and fixed:
            return click.Option(flags, is_flag=True, default=None, help=text)
        both = f"{flag(name)}/--no-{flag(name)[2:]}"
        return click.Option([both, name], default=None, help=text)

    # click's own type of several, `multiple`, would want the flag again for each name.
    if typing.get_origin(hint) is tuple:
        kind: Any = _Names()
        text += f" They are {', '.join(choices or ())}."
    elif choices:
        kind = click.Choice(choices)
    elif Path in kinds:
        kind = INPUT
    else:
        # The first that an optional field takes: `int | None` is an int.
        kind = next((one for one in (float, int) if one in kinds), str)
    # None is a default that the field's text explains.
    if fixed and isinstance(item.default, int | float | str):
        text += f" Default: {item.default}."
    return click.Option(flags, type=kind, default=None, help=text)


def names_option(name: str, choices: Sequence[str], text: str) -> click.Option:
    """An option of several names with commas."""
    text += f" They are {', '.join(choices)}; by default all."
    return click.Option([flag(name), name], type=_Names(), default=None, help=text)


def _field_docs(kind: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each field."""
    found = {}
    # From the bases down, so that what a class says of a field is said last.
    for cls in reversed(kind.__mro__):
        _, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
        section = attributes.partition("\n\n")[0]
        # An entry goes on in lines that are indented deeper than its name.
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {5}.*)*)", section, re.MULTILINE):
            found[name] = " ".join(text.split())
    return found


def _with_flags(text: str, names: set[str]) -> str:
    """Documentation in which other fields are named as their flags."""
    return re.sub(r"`(\w+)`", lambda m: flag(m[1]) if m[1] in names else m[0], text)


def given_fields(given: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What was given of some fields; the library knows the defaults of the others."""
    return {name: given[name] for name in names if given.get(name) is not None}


DEVICE: dict[str, Any] = {
    "default": "auto",
    "show_default": True,
    "metavar": "auto|cpu|cuda[:i]|mps",
    "help": "Where network and maths run; auto takes CUDA, else MPS, else the CPU. MPS, which has "
    "no float64, runs the network only.",
}


def _json_targets(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Keep `--json REAL FAKE` from taking REAL for the file to write."""
    for value in values:
        if value != "-" and not value.lower().endswith(".json"):
            raise click.BadParameter(
                f"the next word is taken for FILE, which must end in .json, got {value!r}; for "
                "JSON on stdout put --json last.",
                context,
                option,
            )
    return values


JSON = click.option(
    "--json",
    "json_targets",
    multiple=True,
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    callback=_json_targets,
    help="JSON on stdout instead of the table. If the next word is a FILE that ends in .json, JSON "
    "into it, next to the table; give --json twice for both.",
)


def _html_target(
    context: click.Context, option: click.Parameter, value: Path | None
) -> Path | None:
    """Keep `--html REAL FAKE` from taking REAL for the file to write."""
    if value is not None and value.suffix.lower() not in (".html", ".htm"):
        raise click.BadParameter(
            f"the next word is taken for FILE, which must end in .html, got {str(value)!r}.",
            context,
            option,
        )
    return value


HTML = click.option(
    "--html",
    "html_target",
    type=INPUT,
    metavar="FILE",
    callback=_html_target,
    help="The result as a page as well: one FILE that ends in .html, with drawings, and opens by a "
    "double click.",
)


NO_IMAGES = click.option(
    "--no-images",
    is_flag=True,
    help="Leave the images out of --html, as where nobody else may see them.",
)


def extraction_options() -> list[click.Option]:
    """The options of extraction, and those that differ from the library's."""
    from otmetrics.scoring.options import Extraction
    from otmetrics.scoring.ranks import TIMEOUT_SECONDS

    return [
        *field_options(Extraction, _EXTRACTION_FIELDS),
        click.Option(
            ["--seed"],
            type=int,
            help=f"Decides every draw: samples, floors, directions. Default: {Extraction.seed}.",
        ),
        click.Option(["--device"], **DEVICE),
        click.Option(
            ["--workers", "num_workers"],
            type=int,
            metavar="N",
            help="Processes that read images. Default: one per core for a GPU, at most 16; else 0, "
            "which means threads.",
        ),
        click.Option(
            ["--no-cache"],
            is_flag=True,
            help="Compute all features, and keep none. Without it features of images are kept, and "
            "those of files that have not changed are not computed again: `otmetrics cache info`.",
        ),
        click.Option(
            ["--timeout"],
            type=float,
            default=TIMEOUT_SECONDS,
            show_default=True,
            metavar="SECONDS",
            help="Among several processes (torchrun): how long the first one waits for the others "
            "when its own part is done, before it gives up.",
        ),
        click.Option(
            ["--memory-limit"],
            type=_Size(),
            metavar="SIZE",
            help="Memory for features and solvers, half for each, such as 4G: more features stay "
            "in files, mapped, and solvers work in blocks. Default: the machine's.",
        ),
        click.Option(["--quiet", "-q"], is_flag=True, help="No progress and no notes on stderr."),
        click.Option(
            ["--verbose", "-v"],
            is_flag=True,
            help="Name every image that was left out, not five only.",
        ),
    ]


def make_extraction(given: dict[str, Any], device: str) -> "Extraction":
    """The library's options; a GPU needs more images than threads of one process read."""
    from otmetrics.scoring.environment import number_in_environment
    from otmetrics.scoring.options import Extraction

    num_workers = given["num_workers"]
    if num_workers is None:
        # The cores that this process may use, where the system says so: often not all of them.
        affinity = getattr(os, "sched_getaffinity", lambda process: range(os.cpu_count() or 1))
        # Processes that torchrun started on this machine share its cores.
        local = number_in_environment("LOCAL_WORLD_SIZE", 1, least=1)
        cores = max(1, len(affinity(0)) // local)
        num_workers = min(16, cores) if device.startswith("cuda") else 0
    if given["no_cache"] and given["cache_verify"]:
        raise OptionError(
            Argument("cache_verify"), " needs the cache: leave out ", Argument("no_cache"), "."
        )
    return Extraction(
        device=device,
        num_workers=num_workers,
        cache=not given["no_cache"],
        memory_limit=half(given["memory_limit"]),
        **given_fields(given, (*_EXTRACTION_FIELDS, "seed")),
    )


def half(memory_limit: float | None) -> float | None:
    """What features, and what solvers, have of the memory."""
    return None if memory_limit is None else memory_limit / 2


# --- devices and processes -------------------------------------------------------------------


def resolved_device(name: str, *, mps: bool = True) -> str:
    """The device behind a name, checked; `mps` says whether the command can use one."""
    import torch

    from otmetrics.scoring.environment import number_in_environment

    # Read even where no GPU asks for it: a value that is no number is an error on every machine.
    local = number_in_environment("LOCAL_RANK", 0)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = mps and torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if gpus else "mps" if has_mps else "cpu"
    # Each process that torchrun started on the machine has a GPU of its own.
    if name == "cuda" and gpus:
        return f"cuda:{local % gpus}" if local else "cuda"
    # torch knows more devices, such as meta, which the library does not compute on.
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise click.UsageError(f"--device must be auto, cpu, cuda, cuda:i or mps, got {name!r}.")
    if device.type == "mps" and not has_mps:
        reason = "is not on this machine" if mps else "has no float64, which this command needs"
        raise click.UsageError(f"--device {name} {reason}: use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise click.UsageError(
            f"--device {name} is not on this machine ({gpus} CUDA device(s), as torch sees it): "
            "use --device cpu."
        )
    return name


@contextmanager
def ranks_here(timeout: float) -> Iterator["Ranks"]:
    """This process among those that torchrun or Slurm started."""
    from otmetrics.scoring.ranks import ranks_of_environment

    if not 1 <= timeout <= _LONGEST_TIMEOUT:
        raise OptionError(
            Argument("timeout"), f" must be from 1 to {_LONGEST_TIMEOUT:g}, got {timeout:g}."
        )
    ranks = ranks_of_environment(timeout, _task())
    yield ranks
    # Not after an error: the others would be told that this process is gone before it says why, and
    # torchrun ends all where one fails.
    ranks.close()


def _task() -> dict[str, str]:
    """What this command was asked for, of all that decides its numbers."""
    context = click.get_current_context()
    asked = {"command": str(context.command.name)}
    for name, value in context.params.items():
        if name not in _OWN_OPTIONS:
            asked[name] = str(value.absolute() if isinstance(value, Path) else value)
    return asked


# --- the command -----------------------------------------------------------------------------


class Command(click.Command):
    """A command that makes `more` options, those of the library, when it is asked for them.

    The library, with torch, takes seconds to load: `otmetrics --help` does without.
    """

    def __init__(
        self,
        *args: Any,
        more: Callable[[], Sequence[click.Parameter]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._more = more

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """All arguments and options."""
        if self._more is not None:
            # Once only: click asks for the parameters of a command again and again.
            more, self._more = self._more, None
            self.params = [*more(), *self.params]
        return super().get_params(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse more arguments than there are by their number, and suggest one option at most."""
        # click would name the arguments that are left over, which may be thousands.
        ctx.allow_extra_args = True
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            del (error.possibilities or [])[1:]  # the closest comes first; click sorts by name
            raise

        if rest and not ctx.resilient_parsing:
            arguments = [item for item in self.params if isinstance(item, click.Argument)]
            names = " ".join(item.human_readable_name for item in arguments) or "none"
            ctx.fail(
                f"Got {len(arguments) + len(rest)} arguments, but {self.name} takes {names}. A "
                "shell makes many of a pattern such as real/*.png: give the folder instead, or "
                "quote the pattern where archives have one, as in 'a-{00..12}.tar'."
            )

        # Only here, after --help, which works where the working folder is gone.
        if ctx.find_root().obj is GONE:
            raise DataError(GONE)
        return rest
