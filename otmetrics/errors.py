"""What can go wrong with an input, as the user sees it."""


class DataError(ValueError):
    """The input cannot be scored; the message names the file, the rule and the remedy."""


class ConvergenceWarning(UserWarning):
    """A solver stopped before its tolerance; its result says so too (`converged`)."""
