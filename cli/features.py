"""`otmetrics features`: the extractors, and whether their weights are here."""

import click

from .options import Command


@click.command(cls=Command)
def features() -> None:
    """List the feature extractors.

    "here" says whether everything that an extractor needs is on this machine, so that it works
    offline. Names in capitals stand for your choice, as in timm:vit_small_patch14_dinov2.lvd142m.
    """
    from otmetrics.features import EXTRACTORS

    from .render import print_table

    header = ("name", "features", "weights", "here", "licence", "what it is")
    rows = [
        (
            info.name,
            str(info.num_features or "by model"),
            info.weights_size,
            _here(info.name),
            info.licence,
            info.description,
        )
        for info in EXTRACTORS.values()
    ]
    print_table(header, rows, left=(0, 2, 3, 4, 5))


def _here(name: str) -> str:
    """Whether an extractor works offline; names that hold a choice cannot say."""
    from otmetrics.features import is_available

    # Of a module of the user's only the form of its name is known.
    if any(part.isupper() for part in name.split(":")) or name.startswith("module:"):
        return "-"
    return "yes" if is_available(name) else "no"
