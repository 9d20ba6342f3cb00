"""Images inside zip and tar archives, read in place: nothing is unpacked, nothing written."""

import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from otmetrics.errors import DataError
from otmetrics.images.decode import DecodedImage, check_regular, decoded_from
from otmetrics.images.files import (
    check_member,
    digest,
    identity_of,
    is_hidden,
    is_image,
    labels_of,
    same_file,
    splits_of,
)
from otmetrics.images.limits import MAX_MEMBER_BYTES, Bounded, TarHeaders, foreign_content

MAX_SHARDS = 100_000

MAX_DIRECTORY_BYTES = 2**28
"""The longest directory of a zip archive: of some two million files."""

MAX_TAR_HEADER_BYTES = 2**16
"""The longest header of a member of a tar archive: of names, times and rights."""

MAX_PADDING_BYTES = 2**20
"""The most zeros behind the end of a tar archive; tar itself pads to 10 kB, with -b to 1 MB."""

_READ_BYTES = 2**20


@dataclass(frozen=True)
class _Archive:
    """An archive as it was when it was opened; no other is read in its place."""

    path: Path
    status: os.stat_result
    identity: bytes | None

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open it for one member: files of a great many archives cannot all stay open."""
        with self.path.open("rb") as file:
            self._check(file)
            yield file
            self._check(file)

    def _check(self, file: BinaryIO) -> None:
        """Raise where the archive is another one, or was written to."""
        if not same_file(os.fstat(file.fileno()), self.status):
            raise DataError("lies in an archive that was replaced meanwhile: run again.")


class _Member(NamedTuple):
    """An image inside an archive: where, and how to read it."""

    archive: _Archive
    name: str
    size: int
    read: Callable[[], bytes]


class PackedImages:
    """The images in one or several archives, sorted by archive and name.

    Zip and tar are told apart by content. A tar may be the shard of a webdataset: its members that
    are images are read, whatever lies beside them. Nothing leaves the archives, and yet members
    whose names are absolute or climb out of it, and links, are refused: what they mean depends on
    where somebody unpacks them. Hidden members and those of `__MACOSX` are left out. Of equal names
    in one archive the last one counts. Archives beyond the limits of this module are refused, and
    those with data before their first or behind their last member, or a great many zeros: what is
    left of a download, or of archives that were put together.

    Args:
        paths: The archives.

    Attributes:
        path: The first archive.
        names: Names of the members; behind the archive's name where there are several.
        labels: Top folder of each image, where all of them lie in one; else None.
        num_others: How many visible files of other kinds lie among them.
        remarks: What else to know, a line each.

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
        self.remarks: list[str] = []
        for path in archives:
            found, twice = _members(path)
            if twice:
                self.remarks.append(
                    f"`{path.name}` holds {len(twice)} names more than once, such as `{twice[0]}`: "
                    "the last one of each counts"
                )
            images = {name: found[name] for name in sorted(found) if is_image(name)}
            self._members += images.values()
            self.num_others += len(found) - len(images)
        if not self._members:
            raise DataError(
                f"`{self.path}` holds no images ({self.num_others} other files): "
                "give an archive with image files."
            )
        several = len(archives) > 1
        if splits := splits_of([path.name for path in archives]):
            self.remarks.append(
                f"the splits {', '.join(splits)} are read as one set: give the files of one of them"
            )
        self.names = tuple(
            f"{member.archive.path.name}/{member.name}" if several else member.name
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
        name = f"{member.archive.path}/{member.name}"
        return decoded_from(lambda: io.BytesIO(_bytes(member)), name)

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
            except (DataError, OSError, zipfile.BadZipFile, zlib.error, struct.error):
                return None
        archive = member.archive.identity
        return None if archive is None else digest("member", archive, member.name)


def expand_braces(path: str | Path) -> list[Path]:
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
        raise DataError(
            f"has {member.size} bytes, more than the {MAX_MEMBER_BYTES} that are read: pack it "
            "again, or pass --skip-corrupt to leave such files out."
        )
    return member.read()


def _members(path: Path) -> tuple[dict[str, _Member], list[str]]:
    """The visible files of an archive by their names, and the images whose names occur twice."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            archive = _Archive(path, status, identity_of(path, status))
            start = file.read(512)
            if reason := foreign_content(start):
                raise DataError(reason)
            if start[:2] in {b"\x1f\x8b", b"BZ"} or start[:6] == b"\xfd7zXZ\x00":
                raise DataError(
                    "is compressed as a whole, which must be read from its start each time"
                )
            file.seek(0)
            read = _zip_members if start[:2] == b"PK" else _tar_members
            found = read(archive, file)
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
        raise DataError(_damage_message(path, error)) from error
    except Exception as error:  # zipfile and tarfile raise nearly anything on a damaged file
        raise DataError(_damage_message(path, error)) from error
    visible = [member for member in found if not is_hidden(member.name)]
    counts = Counter(member.name for member in visible)
    twice = [name for name, count in counts.items() if count > 1 and is_image(name)]
    return {member.name: member for member in visible}, twice


def _damage_message(path: Path, error: Exception) -> str:
    """Say that an archive cannot be understood."""
    detail = " ".join(str(error).split()) or type(error).__name__
    return f"`{path}` is no zip or tar archive, or a damaged one ({detail}): pack it again."


def _zip_members(archive: _Archive, file: BinaryIO) -> list[_Member]:
    """Files of a zip archive."""
    found = []
    with zipfile.ZipFile(Bounded(file, MAX_DIRECTORY_BYTES)) as names:
        _check_ends(names, file, archive.status.st_size)
        for info in names.infolist():
            if info.is_dir():
                continue
            kind = info.external_attr >> 28  # of Unix, where the archive says so
            check_member(info.filename, is_link=kind == 0o12)
            if info.flag_bits & 1:
                raise DataError(f"is encrypted (`{info.filename}`)")
            if info.header_offset + info.compress_size > archive.status.st_size:
                raise DataError(f"is cut off or damaged, for `{info.filename}` lies behind its end")
            reader = _ZipReader(
                archive,
                info.header_offset,
                info.compress_size,
                info.file_size,
                info.compress_type,
                info.CRC,
            )
            size = max(info.file_size, info.compress_size)
            found.append(_Member(archive, info.filename, size, reader))
    return found


def _check_ends(names: zipfile.ZipFile, file: BinaryIO, size: int) -> None:
    """Raise where a zip archive holds more than its directory says: zipfile skips it silently."""
    file.seek(max(0, size - 22 - len(names.comment)))
    end = file.read(12)
    first = min((info.header_offset for info in names.infolist()), default=0)
    if end[:4] != b"PK\x05\x06" or first > 4:  # a mark of four bytes may come first
        raise DataError(
            "is damaged, for data lie before its first file or behind its end: if several "
            "archives were put together, pack them as one."
        )
    count = int.from_bytes(end[10:], "little")  # the largest one stands for more
    if count != min(len(names.infolist()), 0xFFFF):
        raise DataError(f"is damaged, for its directory has not the {count} files that it says")


@dataclass(frozen=True, slots=True)
class _ZipReader:
    """Reads one member of a zip archive: threads need not wait for each other, as in zipfile.

    The local header is skipped; sizes and checksum are those of the archive's directory.
    """

    archive: _Archive
    offset: int  # of the local header
    packed: int
    size: int
    method: int
    checksum: int

    def __call__(self) -> bytes:
        if self.method not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise DataError("is compressed in another way than zip's own: pack it again.")
        with self.archive.open() as file:
            file.seek(self.offset)
            signature, name, extra = struct.unpack("<4s22xHH", file.read(30))
            file.seek(name + extra, os.SEEK_CUR)
            content = file.read(self.packed)
        if self.method == zipfile.ZIP_DEFLATED:
            content = _inflate(content, self.size)
        whole = signature == b"PK\x03\x04" and len(content) == self.size
        if not whole or zlib.crc32(content) != self.checksum:
            raise zipfile.BadZipFile("size or checksum differ")
        return content


def _inflate(content: bytes, size: int) -> bytes:
    """Unpack in parts, never more than a member says of itself: one part would be held twice."""
    unpacker, found = zlib.decompressobj(-zlib.MAX_WBITS), bytearray()
    while len(found) <= size:
        part = unpacker.decompress(content, min(_READ_BYTES, size + 1 - len(found)))
        if not part:
            break
        found += part
        content = unpacker.unconsumed_tail
    return bytes(found)


def _tar_members(archive: _Archive, file: BinaryIO) -> list[_Member]:
    """Files of a tar archive, by one pass over its headers."""
    found, place, special = [], -1, ""
    bounded: Any = TarHeaders(file, MAX_TAR_HEADER_BYTES)
    with tarfile.open(fileobj=bounded, mode="r:") as headers:
        for info in headers:
            headers.members.clear()  # type: ignore[attr-defined] # else all of them stay in memory
            if info.size < 0 or info.offset <= place:
                raise DataError(f"is damaged, for `{info.name}` leads back to what was read")
            place = info.offset
            stored = info.isreg() and not info.issparse()
            if stored and info.offset_data + info.size > archive.status.st_size:
                raise DataError(f"is cut off, for `{info.name}` lies behind its end")
            if info.isdir():
                continue
            check_member(info.name, is_link=info.issym() or info.islnk())
            if stored:
                reader = _TarReader(archive, info.offset_data, info.size)
                found.append(_Member(archive, info.name.removeprefix("./"), info.size, reader))
            else:
                special = info.name
        end = headers.offset
    _check_end(file, end, archive.status.st_size)
    if special and not found:
        raise DataError(
            f"holds no images but pipes, devices or sparse files, such as `{special}`, none of "
            "which is read: pack the image files themselves."
        )
    return found


def _check_end(file: BinaryIO, end: int, size: int) -> None:
    """Raise where tarfile ended without a word, and yet the archive does not end there."""
    file.seek(end)
    if file.read(512) != bytes(512):
        raise DataError("is cut off or damaged, for the mark of its end is missing")
    if size - end > MAX_PADDING_BYTES + 1024:
        raise DataError(
            f"is incomplete or damaged, for {size - end} bytes follow the mark of its end: fetch "
            "it again, or pack it again."
        )
    if file.read().strip(b"\0"):
        raise DataError(
            "is incomplete or damaged, for data follow the mark of its end: fetch it again, or, if "
            "several archives were put together, pack them as one."
        )


@dataclass(frozen=True, slots=True)
class _TarReader:
    """Reads one member of a tar archive, which lies there as it is."""

    archive: _Archive
    offset: int
    size: int

    def __call__(self) -> bytes:
        with self.archive.open() as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise DataError("is cut off with its archive: pack it again.")
        return content
