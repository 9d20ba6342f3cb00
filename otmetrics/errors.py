"""What can go wrong, as the user sees it."""


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
