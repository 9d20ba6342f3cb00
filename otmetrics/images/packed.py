"""Images inside zip and tar archives, read in place: nothing is unpacked, nothing written."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from otmetrics.errors import DataError
from otmetrics.images.decode import DecodedImage, check_regular, decoded_from
from otmetrics.images.identity import digest, file_identity
from otmetrics.images.names import (
    MAX_MEMBER_BYTES,
    check_member,
    is_hidden,
    is_image,
    labels_of,
)

MAX_SHARDS = 100_000


class _Member(NamedTuple):
    """An image inside an archive: where, and how to read it."""

    archive: Path
    name: str
    size: int
    read: Callable[[], bytes]


class PackedImages:
    """The images in one or several archives, sorted by archive and name.

    Zip and tar are told apart by content. A tar may be the shard of a webdataset: its members that
    are images are read, whatever lies beside them. Nothing leaves the archives, and yet members
    whose names are absolute or climb out of it, and links, are refused: what they mean depends on
    where somebody unpacks them. Hidden members and those of `__MACOSX` are left out. Of equal names
    in one archive the last one counts.

    Args:
        paths: The archives.

    Attributes:
        path: The first archive.
        names: Names of the members; behind the archive's name where there are several.
        labels: Top folder of each image, where all of them lie in one; else None.
        num_others: How many visible files of other kinds lie among them.

    Raises:
        DataError: An archive cannot be read, is compressed as a whole, holds what is refused, or
            no images.
    """

    kind = "archive"

    def __init__(self, paths: Iterable[str | Path]) -> None:
        archives = [Path(path) for path in paths]
        self.path = archives[0]
        self.num_others = 0
        self._members: list[_Member] = []
        # When they are opened: what is replaced later is not what is read.
        self._identities = {path: file_identity(path, content=False) for path in archives}
        for archive in archives:
            found = _members(archive)
            images = {name: found[name] for name in sorted(found) if is_image(name)}
            self._members += images.values()
            self.num_others += len(found) - len(images)
        if not self._members:
            raise DataError(
                f"`{self.path}` holds no images ({self.num_others} other files): "
                "give an archive with image files."
            )
        several = len(archives) > 1
        self.names = tuple(
            f"{member.archive.name}/{member.name}" if several else member.name
            for member in self._members
        )
        self.labels = labels_of([member.name for member in self._members])

    def __len__(self) -> int:
        return len(self._members)

    def read(self, index: int) -> DecodedImage:
        """Decode one image.

        Args:
            index: Its place in `names`.

        Returns:
            The pixels and whether they were transparent.
        """
        member = self._members[index]
        return decoded_from(lambda: io.BytesIO(_bytes(member)), f"{member.archive}/{member.name}")

    def identity(self, index: int, content: bool) -> bytes | None:
        """Tell one image from all others without decoding it.

        Args:
            index: Its place in `names`.
            content: Read the member instead of asking for path, size and time of the archive.

        Returns:
            16 bytes; None where it cannot be read or the archive was changed a moment ago.
        """
        member = self._members[index]
        if content:
            try:
                return digest("content", _bytes(member))
            except (DataError, OSError, zipfile.BadZipFile, RuntimeError, EOFError):
                return None
        archive = self._identities[member.archive]
        return None if archive is None else digest("member", archive, member.name)


def expanded(path: str | Path) -> list[Path]:
    """Write out a name with `{000..012}` in it, as the shards of a webdataset are named.

    Args:
        path: A path, with at most one range of numbers.

    Returns:
        The paths it stands for, in order; itself where it has no range, or is there as it is.

    Raises:
        DataError: The range is empty or beyond reason.
    """
    text = str(path)
    before, opening, rest = text.partition("{")
    span, closing, after = rest.partition("}")
    first, dots, last = span.partition("..")
    ranged = opening and closing and dots and first.isdecimal() and last.isdecimal()
    if not ranged or os.path.lexists(text):
        return [Path(path)]
    if not int(first) <= int(last) < int(first) + MAX_SHARDS:
        raise DataError(
            f"`{path}` must count up, to at most {MAX_SHARDS} files: correct {{{span}}}."
        )
    return [
        Path(f"{before}{number:0{len(first)}d}{after}")
        for number in range(int(first), int(last) + 1)
    ]


def _bytes(member: _Member) -> bytes:
    """Content of a member, unless it is a trap."""
    if member.size > MAX_MEMBER_BYTES:
        raise DataError(f"has {member.size} bytes, more than the {MAX_MEMBER_BYTES} that are read.")
    return member.read()


def _members(path: Path) -> dict[str, _Member]:
    """The visible files of an archive by their names."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            start = file.read(6)
        if start[:2] in {b"\x1f\x8b", b"BZ"} or start == b"\xfd7zXZ\x00":
            raise DataError("is compressed as a whole, which must be read from its start each time")
        found = _zip_members(path) if start[:2] == b"PK" else _tar_members(path)
    except DataError as error:
        advice = (
            "" if str(error).endswith(".") else ": unpack it, or pack it again as .zip or .tar."
        )
        raise DataError(f"`{path}` {error}{advice}") from error
    except FileNotFoundError as error:
        raise DataError(f"`{path}` does not exist: check the path.") from error
    except OSError as error:
        if error.errno:
            raise DataError(
                f"`{path}` cannot be read ({os.strerror(error.errno)}): check its permissions."
            ) from error
        raise DataError(_damaged(path, error)) from error
    except Exception as error:  # zipfile and tarfile raise nearly anything on a damaged file
        raise DataError(_damaged(path, error)) from error
    return {member.name: member for member in found if not is_hidden(member.name)}


def _damaged(path: Path, error: Exception) -> str:
    """Say that an archive cannot be understood."""
    detail = " ".join(str(error).split()) or type(error).__name__
    return f"`{path}` is no zip or tar archive, or a damaged one ({detail}): pack it again."


def _zip_members(path: Path) -> list[_Member]:
    """Files of a zip archive."""
    archive = _Zip(path)
    found = []
    for info in archive.file.infolist():
        if info.is_dir():
            continue
        kind = info.external_attr >> 28  # of Unix, where the archive says so
        check_member(info.filename, is_link=kind == 0o12)
        if info.flag_bits & 1:
            raise DataError(f"is encrypted (`{info.filename}`)")
        found.append(_Member(path, info.filename, info.file_size, _ZipReader(archive, info)))
    return found


class _Zip:
    """A zip archive that threads share, and that another process opens for itself."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, zipfile.ZipFile(path)

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return _Zip, (self.path,)


@dataclass(frozen=True)
class _ZipReader:
    """Reads one member of a zip archive; zipfile checks its CRC."""

    archive: _Zip
    info: zipfile.ZipInfo

    def __call__(self) -> bytes:
        if self.info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise DataError("is compressed in another way than zip's own: pack it again.")
        parts, left = [], self.info.file_size + 1
        with self.archive.file.open(self.info) as file:
            while left > 0 and (part := file.read(min(left, 2**20))):  # never more than it says
                parts.append(part)
                left -= len(part)
        return b"".join(parts)


def _tar_members(path: Path) -> list[_Member]:
    """Files of a tar archive, by one pass over its headers."""
    found = []
    with tarfile.open(path, "r:") as archive:
        for info in archive:
            if info.isdir():
                continue
            check_member(info.name, is_link=info.issym() or info.islnk())
            if info.isreg() and not info.issparse():
                reader = _TarReader(path, info.offset_data, info.size)
                found.append(_Member(path, info.name.removeprefix("./"), info.size, reader))
        end = archive.offset
    with path.open("rb") as file:  # tarfile ends without a word at a damaged header, too
        file.seek(end)
        if file.read(512) != bytes(512):
            raise DataError("is cut off or damaged, for the mark of its end is missing")
    return found


@dataclass(frozen=True)
class _TarReader:
    """Reads one member of a tar archive, which lies there as it is."""

    path: Path
    offset: int
    size: int

    def __call__(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise DataError("is cut off with its archive: pack it again.")
        return content
