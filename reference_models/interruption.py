"""A wish to stop that waits until nothing is lost by it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred_interrupts(wanted: bool) -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C or SIGTERM; a second one does what it did before.

    Outside the main thread, where Python takes no signals, nothing changes.

    Args:
        wanted: Whether to; else nothing changes either.

    Yields:
        Whether one has come.
    """
    asked = False
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield lambda: asked
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        restore()

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as of a job that a shell put in the background
            signal.signal(number, note)
    try:
        yield lambda: asked
    finally:
        restore()
