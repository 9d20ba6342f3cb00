"""The user's own network as an extractor, named on the command line."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from otmetrics.features.base import FrozenExtractor


def user_module(path: str) -> FrozenExtractor:
    """Build the extractor `module:package.name:attr`: the user's own network on untouched images.

    Args:
        path: `package.name:attr`, importable from here or from the current working directory.
            `attr` is an nn.Module, or a class or function that returns one when called without
            arguments. It receives the images as they come, uint8 (N, 3, H, W), and returns features
            (N, D).

    Returns:
        The frozen extractor.

    Raises:
        ValueError: If the module or the attribute does not exist, or is no nn.Module.
    """
    module_name, _, attribute = path.partition(":")
    if not attribute or not all(part.isidentifier() for part in module_name.split(".")):
        raise ValueError(f"`name` must be module:package.name:attr, got module:{path}.")
    network = _attribute(_imported(module_name), attribute, path)
    if not isinstance(network, nn.Module) and callable(network):
        network = _called(network, path)
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"`name` must be a torch.nn.Module, got {type(network).__name__} at module:{path}; "
            "name a module, or a class or function that returns one."
        )
    return FrozenExtractor(network, None, f"module:{path}")


def _imported(name: str) -> object:
    """Import a module, from the working directory too."""
    try:
        with _working_directory_on_path():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that the user's module itself misses is another error, and keeps its traceback.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"`name` must be module:package.name:attr with an importable module, got {name!r}; "
            f"run where it can be imported, or install it ({error})."
        ) from error


@contextmanager
def _working_directory_on_path() -> Iterator[None]:
    """Let an import find modules of the working directory, which console scripts leave out."""
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _attribute(module: object, attribute: str, path: str) -> object:
    """Follow a dotted attribute."""
    value = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            names = [name for name in vars(value) if not name.startswith("_")]
            close = difflib.get_close_matches(part, names) or names[:5]
            raise ValueError(
                f"`name` must lead to an existing attribute, got module:{path} without {part!r}; "
                f"choose from {', '.join(close)}."
            )
        value = getattr(value, part)
    return value


def _called(factory: Any, path: str) -> object:
    """Call what should return the network, if it takes no arguments."""
    try:
        inspect.signature(factory).bind()
    except ValueError:
        pass  # Some builtins have no signature to read.
    except TypeError as error:
        raise ValueError(
            f"`name` must be callable without arguments, got module:{path} ({error}); "
            "wrap it in a function that fills them in."
        ) from error
    return factory()
