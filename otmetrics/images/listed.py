"""Images whose paths stand in a text file."""

from pathlib import Path

from otmetrics.errors import DataError
from otmetrics.images.decode import DecodedImage, check_regular, decoded_image
from otmetrics.images.identity import file_identity


class ListedImages:
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
    labels = None

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            check_regular(self.path)
            lines = self.path.read_text(encoding="utf-8-sig").splitlines()
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
        self.names = tuple(line for line in kept if line and not line.startswith("#"))
        if not self.names:
            raise DataError(f"`{path}` names no images: write one path a line.")
        self._files = [self.path.parent / name for name in self.names]
        for name, file in zip(self.names, self._files, strict=True):
            if not _there(file):
                raise DataError(
                    f"`{path}` names `{name}`, which does not exist: correct the line; relative "
                    "paths start at the folder of the text file."
                )

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> DecodedImage:
        """Decode one image.

        Args:
            index: Its place in `names`.

        Returns:
            The pixels and whether they were transparent.
        """
        return decoded_image(self._files[index])

    def identity(self, index: int, content: bool) -> bytes | None:
        """Tell one image from all others without decoding it.

        Args:
            index: Its place in `names`.
            content: Read the file instead of asking for path, size and time of change.

        Returns:
            16 bytes; None where the file cannot be read or was changed a moment ago.
        """
        return file_identity(self._files[index], content)


def _there(path: Path) -> bool:
    """Whether there is such a file; a line that can be no name says that there is not."""
    try:
        return path.exists()
    except OSError:
        return False
