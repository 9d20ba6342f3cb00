"""What can go wrong, as the user sees it."""

import inspect
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_UNTOLD = ContextVar("_UNTOLD", default=False)
_FILTERS = threading.RLock()


def printable(text: str) -> str:
    r"""Show characters that would move a cursor, colour a terminal or forge a line as escapes.

    Names of files, members of archives and extractors are other people's text: `a\nerror: ...`
    must not look like a second line, nor may an escape sequence reach the terminal. Marks that
    reverse the direction of writing and lone surrogates are escaped too.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Argument(str):
    """The name of an argument inside a message: its part that other callers write otherwise.

    Python shows `num`, or what `in_python` says, in backticks; the command line shows `--num`. A
    part of its own, because a file may be called `num` too, and is in backticks as well:
    `DataError(f"`{path}` holds 5 samples: lower ", Argument("num"), ".")`.
    """

    in_python: str

    def __new__(cls, name: str, in_python: str = "") -> "Argument":
        """`in_python` such as `scoring=Scoring(metrics=...)`, for what lies inside an object."""
        argument = super().__new__(cls, name)
        argument.in_python = in_python or name
        return argument


class Message(str):
    """Words that are no error, such as a note or what a solver says of its work, and their parts.

    As a string it names arguments as Python does; sums with other strings keep the parts.
    """

    parts: tuple[str, ...]

    def __new__(cls, *parts: str) -> "Message":
        """`parts` as those of an error."""
        # A message among them gives its own parts, so that arguments in it stay arguments.
        whole = [one for part in parts for one in getattr(part, "parts", (part,))]
        message = super().__new__(cls, _joined(whole, None))
        message.parts = tuple(whole)
        return message

    def __add__(self, other: str, /) -> "Message":
        return Message(self, other)

    def __radd__(self, other: str, /) -> "Message":
        return Message(other, self)


def tell(said: BaseException | str, flag: Callable[[str], str] | None = None) -> str:
    """An error or message on one line, its arguments in backticks or as their flags."""
    parts = said.args if isinstance(said, BaseException) else getattr(said, "parts", (said,))
    return printable(_joined(parts, flag))


def _joined(parts: Iterable[object], flag: Callable[[str], str] | None) -> str:
    """The sum of the parts of a message."""
    shown = []
    for part in parts:
        if isinstance(part, Argument):
            part = flag(part) if flag else f"`{part.in_python}`"
        shown.append(str(part))  # errors may hold anything, such as another error
    return "".join(shown)


class _ToldError(ValueError):
    """An error whose message is the sum of its parts."""

    def __init__(self, *parts: str) -> None:
        super().__init__(*parts)

    def __str__(self) -> str:
        return tell(self)


class DataError(_ToldError):
    """The input cannot be scored; the message names the file, the rule and the remedy."""


class OptionError(_ToldError):
    """An option does not fit the others or does not exist; the message names it and the rule."""


class RangeError(ValueError):
    """Samples, or a cost between them, are NaN, infinite or too large for their dtype."""


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
    # Without a frame outside, at the line of the solver.
    warnings.warn(message, ConvergenceWarning, stacklevel=level if frame else 2)


def _is_internal(module: str) -> bool:
    """Whether a module is one of the library, or of torch, whose modules call our losses."""
    return module.split(".")[0] in ("otmetrics", "torch")


@contextmanager
def unconverged_untold() -> Iterator[None]:
    """Solve without warnings of convergence in this thread: who asks reads it off the result.

    Filters of warnings belong to all threads: two that swap them in the wrong order leave the
    program silent for good.
    """
    token = _UNTOLD.set(True)
    try:
        yield
    finally:
        _UNTOLD.reset(token)


@contextmanager
def ignored_warnings(message: str = "") -> Iterator[None]:
    """Ignore warnings of other packages, one thread at a time, so that all filters come back.

    `message` is a regular expression that they begin with.
    """
    with _FILTERS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message)
        yield
