"""What can go wrong, as the user sees it."""

import inspect
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_UNTOLD = ContextVar("_UNTOLD", default=False)
_FILTERS = threading.RLock()


def printable(text: str) -> str:
    r"""Show characters that would move a cursor, colour a terminal or forge a line as escapes.

    Names of files, members of archives and extractors are other people's text: `a\nerror: ...`
    must not look like a second line, nor may an escape sequence reach the terminal.

    Args:
        text: Any text.

    Returns:
        The text with control characters, line ends, marks that reverse the direction of writing
        and lone surrogates written as Python writes them, such as `\n` and `\x1b`. On one line.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class DataError(ValueError):
    """The input cannot be scored; the message names the file, the rule and the remedy."""

    def __str__(self) -> str:
        return printable(super().__str__())


class OptionError(ValueError):
    """An option does not fit the others or does not exist; the message names it and the rule."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConvergenceWarning(UserWarning):
    """A solver stopped before its tolerance; its result says so too (`converged`)."""


class DivergedError(RuntimeError):
    """A loss or a weight of a training run is no longer finite; the message names which."""


def warn_unconverged(message: str) -> None:
    """Warn that a solver stopped before its tolerance, at the line outside the library that asked.

    The result says the same in `message`.
    """
    if _UNTOLD.get():
        return
    # Solvers, losses and scores call each other at many depths: no fixed stacklevel finds the user.
    frame, level = inspect.currentframe(), 1
    while frame is not None and _is_internal(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, ConvergenceWarning, stacklevel=level if frame else 2)


def _is_internal(module: str) -> bool:
    """Whether a module is one of the library, or of torch, whose modules call our losses."""
    return module.split(".")[0] in ("otmetrics", "torch")


@contextmanager
def unconverged_untold() -> Iterator[None]:
    """Solve without warnings of convergence in this thread: who asks reads it off the result.

    Filters of warnings belong to all threads: two that swap them in the wrong order leave the
    program silent for good.

    Yields:
        Nothing.
    """
    token = _UNTOLD.set(True)
    try:
        yield
    finally:
        _UNTOLD.reset(token)


@contextmanager
def ignored_warnings(message: str = "") -> Iterator[None]:
    """Ignore warnings of other packages, one thread at a time, so that all filters come back.

    Args:
        message: How they begin, as a regular expression.

    Yields:
        Nothing.
    """
    with _FILTERS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message)
        yield
