"""What can go wrong, as the user sees it."""


class DataError(ValueError):
    """The input cannot be scored; the message names the file, the rule and the remedy."""


class OptionError(ValueError):
    """An option does not fit the others or does not exist; the message names it and the rule."""


class ConvergenceWarning(UserWarning):
    """A solver stopped before its tolerance; its result says so too (`converged`)."""


class DivergedError(RuntimeError):
    """A loss or a weight of a training run is no longer finite; the message names which."""
