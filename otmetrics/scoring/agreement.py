"""What several processes must have in common before they share the images of their inputs."""

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from otmetrics.errors import DataError
from otmetrics.images import FeatureArray, StoredImages
from otmetrics.scoring.ranks import Ranks

_NUM_READ = 16  # images of each input


def check_agreement(
    drawn: list[tuple[str, StoredImages | FeatureArray, list[int]]],
    extractor: dict[str, Any],
    ranks: Ranks,
) -> None:
    """Raise on all processes where one has other inputs or another extractor than the first one.

    `drawn` are the inputs by what the user calls them, with the indices of the images to use. Takes
    a look at the size of each image file, and reads some images.
    """
    facts = {}
    for path, source, pick in drawn:
        if getattr(source, "kind", "") == "function":
            raise DataError(
                f"`{path}` yields its images again in each process, and they may differ: write "
                "them to files first, or use one process."
            )
        for what, fact in _facts(source, pick):
            facts[f"{what} of `{path}`"] = fact
    ranks.agree(facts | {"extractor": json.dumps(extractor, sort_keys=True)})


def _facts(source: StoredImages | FeatureArray, pick: list[int]) -> Iterator[tuple[str, str]]:
    """What tells an input from others that have its path, on this machine or another."""
    if isinstance(source, FeatureArray):
        yield "features", f"{source.features.dtype} {source.features.shape}"
        rows = source.features[:: -(-len(source.features) // _NUM_READ) or 1]
        yield "content", _digest(row.tobytes() for row in rows)
        return

    # No times: machines may have copies of the same files, each of its own age. Instead some images
    # are read, for files of one size, such as arrays, may hold others.
    yield "number of images", str(len(source))
    yield "names", _digest(source.names)
    yield "sizes", _digest(source.size(index) for index in pick)
    some = pick[:: -(-len(pick) // _NUM_READ)]
    yield "content", _digest(source.identity(index, content=True) for index in some)


def _digest(values: Iterable[object]) -> str:
    hashed = blake2b(digest_size=8)
    for value in values:
        hashed.update(f"{value!r}\n".encode())
    return hashed.hexdigest()
