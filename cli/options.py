"""Options that several commands share, and how their text becomes the library's objects."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otmetrics.errors import DataError, OptionError

if TYPE_CHECKING:
    from otmetrics.scoring.ranks import Ranks

_Function = Callable[..., Any]


class _Path(click.Path):
    """A path; an unset shell variable is not the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse the empty string."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        if isinstance(value, str) and value.startswith("./"):
            # A path drops its "./", and what is left may be the name of a data set, or of code.
            value = os.path.abspath(value) if ":" in value else value  # noqa: PTH100
        return super().convert(value, param, ctx)


_LEAST_SIZE = 1e6
_LONGEST_TIMEOUT = 1e8  # seconds
# In which processes that share their work may differ.
_OWN_OPTIONS = {"device", "num_workers", "timeout", "memory_limit", "overwrite", "quiet", "verbose"}


class _Size(click.ParamType):
    """Bytes, as people write them: 800M, 4G, 1.5e9."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number of bytes."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)([kmgt]?)(?:i?b)?", value.strip().lower())
        try:
            size = float(found[1]) * 1000 ** " kmgt".index(found[2] or " ") if found else 0.0
        except ValueError:
            size = 0.0
        if size < _LEAST_SIZE:
            self.fail(f"{value!r} is no size of 1M or more: give bytes, or 800M, 4G", param, ctx)
        return size


INPUT = _Path(path_type=Path)
SIZE = _Size()

DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda[:i]|mps",
    help="Where network and maths run; auto takes CUDA, else MPS, else the CPU. MPS, which has no "
    "float64, runs the network only.",
)

WHAT_INPUTS_ARE = """
    \b
    a folder                       its images, searched recursively; its .tar, .zip or .parquet
                                   files, or the Hugging Face dataset that it is
    .zip, .tar, 'a-{00..12}.tar'   images in archives, read in place (webdataset shards too)
    .parquet                       a column of encoded images
    .txt                           the image files that it names, one a line
    .npy, .npz                     images (N, H, W, C) in uint8, or features (N, D), such as
                                   `otmetrics extract` writes
    cifar10:test                   a data set that torchvision reads (also mnist, fashion_mnist,
                                   kmnist, cifar100, svhn, stl10), in the folder that the
                                   environment variable OTMETRICS_DATA names, else data/
    python:package.module:function batches of uint8 images that the function yields
"""

_EXTRACTION = (
    click.option(
        "--features",
        metavar="NAME",
        help="Extractor; `otmetrics features` lists them. Default: efficientnet_lite0, or the one "
        "that made a feature file among the inputs, if it is installed with otmetrics.",
    ),
    click.option("--weights", type=INPUT, help="Weights file for the extractor."),
    click.option(
        "--download",
        is_flag=True,
        help="Fetch the published weights of inception or timm:MODEL if they are not on this "
        "machine. Nothing is fetched without it.",
    ),
    click.option(
        "--resize",
        type=click.Choice(["bicubic", "bilinear", "tf1"]),
        help="How images reach the extractor's size: antialiased bicubic (default) or bilinear in "
        "float, or tf1, the aliased filter behind published FIDs.",
    ),
    click.option(
        "--num", type=int, metavar="N", help="Use N samples of each input, drawn with --seed."
    ),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        help="Decides every draw: samples, floors, directions.",
    ),
    DEVICE,
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        show_default=True,
        help="In what the network computes. bfloat16 is faster on a GPU and moves features by "
        "percents, so it does not compare with float32.",
    ),
    click.option(
        "--runtime",
        type=click.Choice(["auto", "openvino", "torch"]),
        help="What runs the network on a CPU. auto: OpenVINO, in float32, if it agrees with torch.",
    ),
    click.option("--batch-size", type=int, default=32, show_default=True, help="Images per batch."),
    click.option(
        "--workers",
        "num_workers",
        type=int,
        metavar="N",
        help="Processes that read images. Default: one a core for a GPU, at most 16; else 0, which "
        "means threads.",
    ),
    click.option(
        "--no-cache",
        is_flag=True,
        help="Compute all features, and keep none. Without it features of images are kept, and "
        "those of files that have not changed are not computed again: `otmetrics cache info`.",
    ),
    click.option(
        "--cache-verify",
        is_flag=True,
        help="Know files by their content instead of path, size, number and times of change.",
    ),
    click.option(
        "--skip-corrupt",
        is_flag=True,
        help="Leave out images that cannot be read, and name them, instead of stopping.",
    ),
    click.option(
        "--timeout",
        type=float,
        default=600.0,
        show_default=True,
        metavar="SECONDS",
        help="Among several processes (torchrun): give one up that shows no sign of life so long.",
    ),
    click.option(
        "--memory-limit",
        type=SIZE,
        metavar="SIZE",
        help="Memory beside the program itself and its batches, such as 4G. Features beyond half "
        "of it stay in files, mapped; a score that cannot keep to the other half is refused. "
        "Default: the machine's.",
    ),
    click.option("--quiet", "-q", is_flag=True, help="No progress and no notes on stderr."),
    click.option(
        "--verbose", "-v", is_flag=True, help="Name every image that was left out, not five only."
    ),
)


@contextmanager
def checked_options() -> Iterator[None]:
    """Turn a rule that an option breaks into an error of usage."""
    try:
        yield
    except DataError:
        raise
    except ValueError as error:
        raise OptionError(str(error)) from error


def extraction_options(command: _Function) -> _Function:
    """Add the options of feature extraction to a command, and what its inputs may be."""
    command.__doc__ = (command.__doc__ or "").replace(
        "INPUTS\n", WHAT_INPUTS_ARE.strip("\n") + "\n"
    )
    for option in reversed(_EXTRACTION):
        command = option(command)
    return command


def resolved_device(name: str, *, mps: bool = True) -> str:
    """The device behind a name, checked; `mps` says whether the command can use one."""
    import torch

    from otmetrics.scoring.ranks import number_in_environment

    number_in_environment("LOCAL_RANK", 0)  # also where no GPU asks which one it is
    if name == "auto":
        if torch.cuda.is_available():
            return _own_gpu()
        return "mps" if mps and torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        return _own_gpu()
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise click.UsageError(f"--device must be auto, cpu, cuda, cuda:i or mps, got {name!r}.")
    if device.type == "mps" and not (mps and torch.backends.mps.is_available()):
        reason = "is not on this machine" if mps else "has no float64, which this command needs"
        raise click.UsageError(f"--device {name} {reason}: use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise click.UsageError(
            f"--device {name} is not on this machine "
            f"({torch.cuda.device_count()} CUDA device(s)): use --device cpu."
        )
    return name


def _own_gpu() -> str:
    """The GPU of this process among those that torchrun started on the machine."""
    import torch

    from otmetrics.scoring.ranks import number_in_environment

    local = number_in_environment("LOCAL_RANK", 0)
    return f"cuda:{local % torch.cuda.device_count()}" if local else "cuda"


def maths_device(device: str) -> str:
    """Where the scores are computed, in float64, which MPS does not have."""
    return "cpu" if device == "mps" else device


def extraction_of(
    device: str,
    *,
    num_workers: int | None = None,
    no_cache: bool = False,
    memory_limit: float | None = None,
    **options: Any,
) -> Any:
    """The library's options; a GPU needs more images than threads of one process read."""
    from otmetrics.scoring.extraction import Extraction
    from otmetrics.scoring.ranks import number_in_environment

    if num_workers is None:
        affinity = getattr(os, "sched_getaffinity", lambda process: range(os.cpu_count() or 1))
        beside = number_in_environment("LOCAL_WORLD_SIZE", 1, least=1)  # they share the cores
        cores = max(1, len(affinity(0)) // beside)
        num_workers = min(16, cores) if device.startswith("cuda") else 0
    if no_cache and options.get("cache_verify"):
        raise OptionError("`cache_verify` needs the cache: leave out --no-cache.")
    return Extraction(
        device=device,
        num_workers=num_workers,
        cache=not no_cache,
        memory_limit=None if memory_limit is None else memory_limit / 2,
        **options,
    )


@contextmanager
def ranks_here(timeout: float) -> Iterator["Ranks"]:
    """This process among those that torchrun started; an error of any is told by the first."""
    from otmetrics.scoring.ranks import RankError, ranks_of_environment

    if not 1 <= timeout <= _LONGEST_TIMEOUT:
        raise OptionError(f"`timeout` must be from 1 to {_LONGEST_TIMEOUT:g}, got {timeout:g}.")
    ranks = ranks_of_environment(timeout, _task())
    try:
        yield ranks
        ranks.done()
    except RankError:
        raise  # the first one is gone, or tells of another
    except (DataError, OptionError) as error:
        if ranks.first:
            raise
        told = name_flags(str(error)) if isinstance(error, OptionError) else str(error)
        with suppress(Exception):  # the first one may be gone
            ranks.report_failure(told)
        raise click.exceptions.Exit(0) from error  # torchrun would end the first one
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        what = "was interrupted" if interrupted else f"failed: {type(error).__name__}: {error}"
        with suppress(Exception):
            ranks.report_failure(f"rank {ranks.rank} {what}")
        raise
    finally:
        ranks.close()


def _task() -> dict[str, str]:
    """What this command was asked for, of all that decides its numbers."""
    context = click.get_current_context()
    asked = {"command": str(context.command.name)}
    for name, value in context.params.items():
        if name not in _OWN_OPTIONS:
            asked[name] = str(value.absolute() if isinstance(value, Path) else value)
    return asked


def name_flags(message: str) -> str:
    """A message about options, with those of this command named as they are given."""
    context = click.get_current_context(silent=True)
    if context is None:
        return message
    flags = dict(_flags(context.command))
    # A file of the user may be called as an option is: messages have either in backticks.
    for value in context.params.values():
        flags.pop(str(value), None)
    return re.sub(r"`([a-z_]+)`", lambda found: flags.get(found[1], found[0]), message)


def _flags(command: click.Command) -> Iterator[tuple[str, str]]:
    """Options of a command: their names in Python, and as they are given."""
    for item in command.params:
        flag = max(item.opts, key=len)
        if flag.startswith("--"):
            yield flag[2:].replace("-", "_"), flag
            if item.name is not None:
                yield item.name, flag


class Command(click.Command):
    """A command whose errors name its options, and do not list what a shell made of a pattern."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse more arguments than there are by their number."""
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            arguments = [item for item in self.params if isinstance(item, click.Argument)]
            names = " ".join(item.human_readable_name for item in arguments) or "none"
            ctx.fail(
                f"Got {len(arguments) + len(rest)} arguments, but {self.name} takes {names}. A "
                "shell makes many of a pattern such as real/*.png: give the folder instead, or "
                "quote the pattern where archives have one, as in 'a-{00..12}.tar'."
            )
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run, with the options in errors named as they are given."""
        try:
            Path.cwd()
        except OSError as error:
            raise DataError("the working folder is gone: change to one that exists.") from error
        try:
            return super().invoke(ctx)
        except (OptionError, KeyboardInterrupt) as error:
            raise type(error)(name_flags(str(error))) from error
