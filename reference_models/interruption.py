"""A wish to stop that waits until nothing is lost by it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTED = b"\nStopping as soon as this step is kept; once more to stop at once.\n"


@contextmanager
def deferred_interrupts(wanted: bool) -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C and the first SIGTERM; a second one does what it did before.

    Gives a function that tells whether one has come; a line on the standard error says so at once.
    Nothing changes where it is not wanted, nor outside the main thread, where Python takes no
    signals.
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
        with suppress(OSError):  # closed
            os.write(2, _NOTED)  # unbuffered: a print may be what was interrupted

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
