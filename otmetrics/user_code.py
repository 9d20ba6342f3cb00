"""Objects of the user's own code, named as `package.module:attribute`."""

import difflib
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any


class NoSuchObjectError(ValueError):
    """A name leads to nothing that can be used; the message is a clause about it, with a remedy."""


def is_object_name(text: str) -> bool:
    """Whether a text has the form `package.module:attribute`, both sides dotted names."""
    module, colon, attribute = text.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def import_object(name: str) -> Any:
    """What `package.module:attribute` names, be it in the working directory.

    What the module itself raises comes through, with its traceback.
    """
    if not is_object_name(name):
        raise NoSuchObjectError("must have the form package.module:attribute")
    module_name, _, attribute = name.partition(":")

    before = list(sys.path)
    sys.path.append(str(Path.cwd()))  # which console scripts leave out
    importlib.invalidate_caches()
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that the user's module itself misses is another error.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise NoSuchObjectError(
            f"has no module that can be imported here ({error}); check the name, or run "
            "where it can be imported"
        ) from error
    finally:
        sys.path[:] = before

    for part in attribute.split("."):
        if not hasattr(value, part):
            names = [one for one in vars(value) if not one.startswith("_")]
            close = difflib.get_close_matches(part, names) or names[:5]
            raise NoSuchObjectError(f"has no {part!r}; choose from {', '.join(close)}")
        value = getattr(value, part)
    return value


def check_takes_no_arguments(function: Any) -> None:
    """Raise unless a function of the user's can be called without arguments."""
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise NoSuchObjectError(
            f"must take no arguments ({error}); wrap it in a function that fills them in"
        ) from error
    except ValueError:
        pass  # compiled code does not say what it takes
