"""What all sources of images have in common, and the plainest one: a folder."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Protocol

from otmetrics.errors import DataError
from otmetrics.images.decode import DecodedImage, decoded_image
from otmetrics.images.identity import file_identity
from otmetrics.images.names import EXTENSIONS, is_image, labels_of, splits_of

MAX_REVISITS = 1000
"""How many folders of one input may be reached once more, through links to folders."""


class ImageSource(Protocol):
    """A sequence of images with names: what `batches` reads from."""

    @property
    def names(self) -> Sequence[str]:
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
    where they lead back to a folder that contains them. At most `MAX_REVISITS` folders may be
    reached once more through links: a few links to links make billions of paths. Files are not
    opened before `read`.

    Args:
        path: The folder.

    Attributes:
        path: The folder.
        names: Relative POSIX paths, sorted.
        labels: Top folder of each image, where all of them lie in one; else None.
        num_others: How many visible files of other kinds lie among them.
        remarks: What else to know, a line each.

    Raises:
        DataError: The folder is missing, not a folder, not readable, beyond the limits or holds no
            images.
    """

    kind = "folder"

    def __init__(self, path: str | Path) -> None:
        root = Path(path)
        again: list[str] = []
        try:
            files = list(_visible_files(root, again))
        except DataError as error:
            raise DataError(f"`{path}` {error}") from error
        except FileNotFoundError as error:
            raise DataError(f"`{error.filename}` does not exist: check the path.") from error
        except NotADirectoryError as error:
            raise DataError(f"`{path}` is {_file_advice(root)}") from error
        except OSError as error:
            raise DataError(
                f"`{error.filename}` cannot be read ({error.strerror}): check its permissions."
            ) from error
        names = tuple(sorted(filter(is_image, files)))
        super().__init__(root, root, names, labels_of(names))
        self.num_others = len(files) - len(self.names)
        self.remarks = []
        if again:
            self.remarks.append(
                f"links lead to {len(again)} folders once more, such as `{again[0]}`: their images "
                "count twice"
            )
        if splits := splits_of(sorted({name.split("/")[0] for name in self.names})):
            self.remarks.append(
                f"the splits {', '.join(splits)} are read as one set: give one of the folders"
            )
        if not self.names:
            raise DataError(f"`{path}` {_empty_advice(files)}")


def _empty_advice(files: list[str]) -> str:
    """Say what lies in a folder instead of images, and what to give."""
    kinds = Counter(PurePath(file).suffix.lower() for file in files)
    arrays = kinds[".npy"] + kinds[".npz"]
    if arrays:
        return (
            f"holds {arrays} .npy or .npz files and no images: give one of them, or put them "
            "together with np.concatenate and np.save."
        )
    for kind in (".parquet", ".tar", ".zip"):
        if kinds[kind]:
            below = sorted({str(PurePath(file).parent) for file in files if file.endswith(kind)})
            return (
                f"holds no images but {kinds[kind]} {kind} files in {', '.join(below[:5])}: give "
                "the folder that holds them, or one of them."
            )
    return (
        f"holds no images ({len(files)} other files): "
        f"give a folder with {', '.join(EXTENSIONS)} files."
    )


def _visible_files(root: Path, again: list[str]) -> Iterator[str]:
    """Yield the relative paths of what is no folder; folders reached once more go to `again`."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    seen: set[tuple[int, int]] = set()
    while pending:
        folder, above = pending.pop()
        status = (root / folder).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            continue  # a link to a folder that contains it
        if identity in seen:
            again.append(folder)
        seen.add(identity)
        if len(again) > MAX_REVISITS:
            raise DataError(
                f"has links that lead to more than {MAX_REVISITS} of its folders once more: remove "
                "them, or give a folder below it."
            )
        within = above | {identity}
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    pending.append((f"{folder}{entry.name}/", within))
                    continue
                yield folder + entry.name


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
