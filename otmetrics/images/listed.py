"""Images whose paths stand in a text file."""

from pathlib import Path

from otmetrics.errors import DataError
from otmetrics.images.decode import check_regular
from otmetrics.images.sources import ImageFiles


class ListedImages(ImageFiles):
    """The image files that a text file names, one path a line, in its order.

    Relative paths start at the folder of the text file. Empty lines, and those that begin with
    `#`, are left out.

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
            lines = file.read_text(encoding="utf-8-sig").splitlines()
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
        kept = (line.strip() for line in lines)
        names = tuple(line for line in kept if line and not line.startswith("#"))
        if not names:
            raise DataError(f"`{path}` names no images: write one path a line.")
        for name in names:
            if not _there(file.parent / name):
                raise DataError(
                    f"`{path}` names `{name}`, which does not exist: correct the line; relative "
                    "paths start at the folder of the text file."
                )
        super().__init__(file, file.parent, names, None)


def _there(path: Path) -> bool:
    """Whether there is such a file; a line that can be no name says that there is not."""
    try:
        return path.exists()
    except OSError:
        return False
