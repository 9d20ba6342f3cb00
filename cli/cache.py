"""`otmetrics cache`: the features that are kept, and how to be rid of them."""

import time

import click

from .options import Command
from .terminal import echo


@click.group()
def cache() -> None:
    """Look at the features that `score` and `extract` keep, or remove them.

    Features of images are kept under what they were computed from: path, size, number and times
    of change of each file (or its content, with --cache-verify), the extractor and its weights,
    the resize, the dtype, and the versions of what computes. What has changed is computed
    again; nothing else is. They lie in the user's cache folder, or in the folder that the
    environment variable OTMETRICS_CACHE names, about 5 kB per image, until they are removed.
    """


@cache.command(cls=Command)
def info() -> None:
    """Say what is kept, where, and when it was used last."""
    from otmetrics.scoring.cache import cache_folder, cache_info

    from .render import print_table

    # A shelf without shards holds no features, only what a kill has left of one.
    shelves = [shelf for shelf in cache_info() if shelf.shards]
    total = sum(shelf.num_bytes for shelf in shelves)
    echo(f"{cache_folder()}: {_size(total)}")
    if shelves:
        header = ("size", "files", "last used", "extractor", "images of")
        rows = [
            (
                _size(shelf.num_bytes),
                str(shelf.shards),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(shelf.last_used)),
                shelf.extractor,
                shelf.source,
            )
            for shelf in shelves
        ]
        print_table(header, rows, left=(2, 3, 4))


@cache.command(cls=Command)
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="DAYS",
    help="Leave what was used since. Default: remove everything.",
)
def clear(older_than: float) -> None:
    """Remove features that are kept; they are computed again when they are needed."""
    from otmetrics.scoring.cache import cache_folder, clear_cache

    removed = clear_cache(older_than)
    total = sum(shelf.num_bytes for shelf in removed)
    echo(f"{cache_folder()}: {_size(total)} removed")


def _size(num_bytes: int) -> str:
    """Bytes in a unit that suits them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"
