"""Files of a run, written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from otmetrics.errors import DataError


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A place to write to, which takes the place of a file when all of it is written.

    Args:
        path: The file, in a folder of the run's own.

    Yields:
        Where to write.

    Raises:
        DataError: If it cannot be written; the former file is still there.
    """
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of errors which file cannot be written.

    Args:
        path: The file.

    Yields:
        Nothing.

    Raises:
        DataError: If the system refuses to write.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"`{path}` cannot be written ({error.strerror or error}).") from error
