"""A wish to stop that waits until nothing is lost by it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred_interrupts(wanted: bool) -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C and the first SIGTERM; a second one does what it did before.

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
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    # Ignored: a job that a shell put in the background. None: not Python's, nor to be put back.
    before = {
        n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)
    }

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
