"""Compiled work that lets other threads run, on all cores."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")
_S = TypeVar("_S")


def in_threads(
    work: Callable[[_T], _S], items: Iterable[_T], num_threads: int | None = None
) -> list[_S]:
    """Compiled work on many items.

    Args:
        work: Work that lets other threads run.
        items: What it is done on.
        num_threads: Threads; None for one a core.

    Returns:
        Its results in order.
    """
    if num_threads == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
        return list(pool.map(work, items))
