"""Images whose paths stand in a text file."""

from collections.abc import Iterator
from pathlib import Path

from otmetrics.errors import DataError
from otmetrics.images.decode import check_regular
from otmetrics.images.limits import foreign_content
from otmetrics.images.sources import ImageFiles

MAX_LIST_BYTES = 2**29
"""The largest text file that is read."""

MAX_LINE = 2**16
"""The longest line, in characters."""


class ListedImages(ImageFiles):
    """The image files that a text file names, one path a line, in its order.

    Relative paths start at the folder of the text file. Empty lines, and those that begin with
    `#`, are left out. A file of more than `MAX_LIST_BYTES`, or a line of more than `MAX_LINE`
    characters, is refused.

    Args:
        path: The text file, in UTF-8.

    Attributes:
        path: The text file.
        names: The paths as they stand there.
        labels: None.

    Raises:
        DataError: The file cannot be read, is no text or names nothing, or a file that it names is
            missing.
    """

    kind = "list"

    def __init__(self, path: str | Path) -> None:
        file = Path(path)
        try:
            check_regular(file)
            names = tuple(_lines(file))
        except DataError as error:
            raise DataError(f"`{path}` {error}") from error
        except FileNotFoundError as error:
            raise DataError(f"`{path}` does not exist: check the path.") from error
        except UnicodeDecodeError as error:
            raise DataError(f"`{path}` is no text in UTF-8: write one path a line.") from error
        except OSError as error:
            raise DataError(
                f"`{path}` cannot be read ({error.strerror}): check its permissions."
            ) from error
        if not names:
            raise DataError(f"`{path}` names no images: write one path a line.")
        super().__init__(file, file.parent, names, None)


def _lines(path: Path) -> Iterator[str]:
    """Yield the paths that a text file names, each looked for as it comes."""
    if path.stat().st_size > MAX_LIST_BYTES:
        raise DataError(f"has more than the {MAX_LIST_BYTES} bytes that a list may have: split it.")
    with path.open(encoding="utf-8-sig") as file:
        first = True
        while line := file.readline(MAX_LINE + 1):
            name = line.strip()
            if not name or name.startswith("#"):
                continue
            if first and (found := foreign_content(name.encode())):
                raise DataError(found)
            if len(line) > MAX_LINE or not _there(path.parent / name):
                shown = name if len(name) <= 100 else f"{name[:100]}..."
                raise DataError(
                    f"names `{shown}`, which does not exist: correct the line; relative paths "
                    "start at the folder of the text file."
                )
            first = False
            yield name


def _there(path: Path) -> bool:
    """Whether there is such a file; a line that can be no name says that there is not."""
    try:
        return path.exists()
    except OSError:
        return False
