"""What all sources of images have in common, and the plainest one: a folder."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Protocol

from otmetrics.errors import DataError
from otmetrics.images.decode import DecodedImage, decoded_image
from otmetrics.images.identity import file_identity
from otmetrics.images.names import EXTENSIONS, is_image, labels_of


class ImageSource(Protocol):
    """A sequence of images with names: what `batches` reads from."""

    @property
    def names(self) -> tuple[str, ...]:
        """What each image is called in messages."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> DecodedImage:
        """Return one image."""


class StoredImages(ImageSource, Protocol):
    """Images on disk, which can be told apart without decoding them.

    Attributes:
        kind: What records call it.
    """

    kind: str

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class of each image, or None where nothing says it."""

    def identity(self, index: int, content: bool) -> bytes | None:
        """Return what tells one image from all others, by its content or by its place and age."""


class ImageFiles:
    """Image files by their paths.

    Args:
        path: What the user named.
        root: Where relative names start.
        names: Their paths, relative to the root or absolute.
        labels: Class of each, where it is known.

    Attributes:
        path: What the user named.
        names: The paths.
        labels: Class of each image, or None.
    """

    kind: str

    def __init__(
        self, path: Path, root: Path, names: tuple[str, ...], labels: tuple[str, ...] | None
    ) -> None:
        self.path, self.names, self.labels = path, names, labels
        self._root = root

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> DecodedImage:
        """Decode one image.

        Args:
            index: Its place in `names`.

        Returns:
            The pixels and whether they were transparent.
        """
        return decoded_image(self._root / self.names[index])

    def identity(self, index: int, content: bool) -> bytes | None:
        """Tell one image from all others without decoding it.

        Args:
            index: Its place in `names`.
            content: Read the file instead of asking for path, size and time of change.

        Returns:
            16 bytes; None where the file cannot be read or was changed a moment ago.
        """
        return file_identity(self._root / self.names[index], content)


class ImageFolder(ImageFiles):
    """The images in a folder and its subfolders, sorted by their relative POSIX path.

    Hidden files and folders (`.name`) are left out. Links to folders are followed, and left out
    where they lead back to a folder that contains them. Files are not opened before `read`.

    Args:
        path: The folder.

    Attributes:
        path: The folder.
        names: Relative POSIX paths, sorted.
        labels: Top folder of each image, where all of them lie in one; else None.
        num_others: How many visible files of other kinds lie among them.

    Raises:
        DataError: The folder is missing, not a folder, not readable or holds no images.
    """

    kind = "folder"

    def __init__(self, path: str | Path) -> None:
        root = Path(path)
        try:
            files = list(_visible_files(root))
        except FileNotFoundError as error:
            raise DataError(f"`{error.filename}` does not exist: check the path.") from error
        except NotADirectoryError as error:
            raise DataError(f"`{path}` is {_file_advice(root)}") from error
        except OSError as error:
            raise DataError(
                f"`{error.filename}` cannot be read ({error.strerror}): check its permissions."
            ) from error
        names = tuple(sorted(name for file in files if is_image(name := file.as_posix())))
        super().__init__(root, root, names, labels_of(names))
        self.num_others = len(files) - len(self.names)
        if not self.names:
            raise DataError(
                f"`{path}` holds no images ({len(files)} other files): "
                f"give a folder with {', '.join(EXTENSIONS)} files."
            )


def _visible_files(root: Path) -> Iterator[PurePath]:
    """Yield what is not a folder below `root`, relative to it."""
    pending: list[tuple[Path, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while pending:
        folder, above = pending.pop()
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            continue  # a link to a folder that contains it
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    pending.append((folder / entry.name, above | {identity}))
                else:
                    yield (folder / entry.name).relative_to(root)


def _is_folder(path: Path | os.DirEntry[str]) -> bool:
    """Say whether a path is a folder; a link that leads nowhere counts as a file."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _file_advice(path: Path) -> str:
    """Say what to give instead of a file that is neither a folder nor an array."""
    if path.suffix.lower() in EXTENSIONS:
        return "one image file: give the folder that holds it."
    return (
        "no folder, nor a kind of file that is read: give a folder of images, a .zip, .tar or "
        ".parquet of them, a .txt of paths, or a .npy or .npz file of images or features."
    )
