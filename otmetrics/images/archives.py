"""Images inside zip and tar archives, read in place: nothing is unpacked, nothing written."""

import io
import os
import re
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from braceexpand import braceexpand

from otmetrics.errors import DataError
from otmetrics.images import limits
from otmetrics.images.damage import check_regular, check_start, name_errors
from otmetrics.images.decode import DecodedImage, decoded_from
from otmetrics.images.files import (
    check_member,
    digest,
    identity_of,
    is_hidden,
    is_image,
    labels_of,
    splits_remark,
    unchanged,
)


class _Archive(NamedTuple):
    """An archive, as it was when its names were read; no other is read in its place."""

    path: Path
    status: os.stat_result
    identity: bytes | None


# Bits of the flags that zip archives have for each file.
_ENCRYPTED, _PATCHED, _ENCRYPTED_STRONGLY, _UTF_8 = 0x1, 0x20, 0x40, 0x800


class _Zipped(NamedTuple):
    """What the directory of a zip archive says of a file: to parse it again takes seconds."""

    method: int
    packed: int  # bytes in the archive
    size: int
    checksum: int
    stored_name: str  # before zipfile cut or cleaned it


class _Member(NamedTuple):
    """A file inside an archive, from where it starts: in a zip that is its header."""

    archive: _Archive
    name: str
    size: int
    start: int
    zipped: _Zipped | None = None

    def read(self) -> bytes:
        """Read its content, unless it is a trap."""
        if self.size > limits.MAX_MEMBER_BYTES:
            raise DataError(
                f"has {self.size} bytes, more than the {limits.MAX_MEMBER_BYTES} that are read: "
                "pack it again."
            )

        # Opened for each member: the files of a great many archives cannot all stay open, and
        # threads that shared one would wait for each other.
        path = self.archive.path
        with unchanged(path, self.archive.status), path.open("rb") as file:
            file.seek(self.start)
            if self.zipped is not None:
                return _read_zipped(file, self.name, self.zipped)
            content = file.read(self.size)
            if len(content) < self.size:
                raise DataError("is cut off with its archive: pack it again.")
        return content


class PackedImages:
    """The images in one or several archives, sorted by archive and name.

    Zip and tar are told apart by content. A tar may be the shard of a webdataset: its members that
    are images are read, whatever lies next to them. Nothing leaves the archives, and yet links and
    members whose names are absolute or climb out are refused: what they mean depends on where
    somebody unpacks them. Hidden members and those of `__MACOSX` are left out. Of equal names in
    one archive the last one counts. Archives beyond the limits are refused, and those with data
    before their first or after their last member: what is left of a download, or of archives that
    were put together.

    Names are those of the members, after that of the archive where there are several.
    """

    kind = "archive"

    def __init__(self, paths: Iterable[str | Path]) -> None:
        archives = [Path(path) for path in paths]
        self.path = archives[0]
        self.num_others = 0
        self._members: list[_Member] = []
        self.remarks: list[str] = []
        for path in archives:
            self._add(path)
        if not self._members:
            raise DataError(
                f"`{self.path}` holds no images ({self.num_others} other files): "
                "give an archive with image files."
            )

        self.remarks += splits_remark([path.name for path in archives], "the files of one of them")
        several = len(archives) > 1
        self.names = tuple(
            f"{member.archive.path.name}/{member.name}" if several else member.name
            for member in self._members
        )
        self.labels = labels_of([member.name for member in self._members])

    def _add(self, path: Path) -> None:
        """Add the images of one archive, in the order of their names."""
        visible = [member for member in _list_members(path) if not is_hidden(member.name)]
        counts = Counter(member.name for member in visible)
        twice = [name for name, count in counts.items() if count > 1 and is_image(name)]
        if twice:
            self.remarks.append(
                f"`{path.name}` holds {len(twice)} names more than once, such as `{twice[0]}`: "
                "the last one of each counts"
            )

        # As when somebody unpacks it: what comes later takes the place of what came before.
        by_name = {member.name: member for member in visible}
        images = [by_name[name] for name in sorted(by_name) if is_image(name)]
        self._members += images
        self.num_others += len(by_name) - len(images)

    def __len__(self) -> int:
        return len(self._members)

    def read(self, index: int) -> DecodedImage:
        """Decode one image."""
        member = self._members[index]
        return decoded_from(
            lambda: io.BytesIO(member.read()), f"{member.archive.path}/{member.name}"
        )

    def size(self, index: int) -> int:
        """Bytes of a member."""
        return self._members[index].size

    def identity(self, index: int, content: bool) -> bytes | None:
        """Tell one image from all others, by its archive and name or by its bytes."""
        member = self._members[index]
        if content:
            try:
                return digest("content", member.read())
            except Exception:  # reading it for its features will say what is wrong
                return None
        whole = member.archive.identity
        return None if whole is None else digest("member", whole, member.name)

    def file_size(self, index: int) -> int:
        """Bytes of the file of one image, unpacked."""
        member = self._members[index]
        return member.size if member.zipped is None else member.zipped.size


def expand_braces(path: str | Path) -> list[Path]:
    """The paths that a pattern such as `a-{000..012}.tar` stands for, as in a shell.

    A path that exists, or has no pattern, stands for itself.
    """
    text = str(path)
    if os.path.lexists(text):
        return [Path(path)]

    # The package writes out each range at once, so its size must be looked at before.
    found = []
    too_many = any(
        max(len(first), len(last)) > 9 or abs(int(last) - int(first)) >= limits.MAX_SHARDS
        for first, last in re.findall(r"(-?\d+)\.\.(-?\d+)", text)
    )
    if not too_many:
        try:
            found = list(islice(braceexpand(text, escape=False), limits.MAX_SHARDS + 1))
        except (ValueError, RecursionError):  # braces that do not match
            return [Path(path)]
    if too_many or len(found) > limits.MAX_SHARDS:
        raise DataError(f"`{path}` stands for more than {limits.MAX_SHARDS} files: give fewer.")
    return [Path(name) for name in found]


def _list_members(path: Path) -> list[_Member]:
    """All files of an archive."""
    damage = "is not a zip or tar archive, or a damaged one"
    with name_errors(path, damage, "unpack it, or pack it again as .zip or .tar"):
        check_regular(path)
        with path.open("rb") as file:
            # Of the file that is open: another one may take its place at any time.
            status = os.fstat(file.fileno())
            archive = _Archive(path, status, identity_of(path, status))
            start = file.read(512)
            check_start(start)
            if start[:2] in {b"\x1f\x8b", b"BZ"} or start[:6] == b"\xfd7zXZ\x00":
                raise DataError(
                    "is compressed as a whole, which must be read from its start each time"
                )

            file.seek(0)
            return (_list_zip if start[:2] == b"PK" else _list_tar)(archive, file)


# --- zip --------------------------------------------------------------------------------------


def _list_zip(archive: _Archive, file: BinaryIO) -> list[_Member]:
    """Files of a zip archive, by its directory."""
    found, end = [], archive.status.st_size
    bounded: Any = limits.BoundedFile(file, limits.MAX_ZIP_DIRECTORY_BYTES)
    with zipfile.ZipFile(bounded) as packed:
        _check_zip_ends(packed, file, end)

        for info in packed.infolist():
            if info.is_dir():
                continue
            kind = info.external_attr >> 28  # of Unix, where the archive says so
            check_member(info.filename, is_link=kind == 0o12)

            if info.flag_bits & (_ENCRYPTED | _ENCRYPTED_STRONGLY):
                raise DataError(f"is encrypted (`{info.filename}`)")
            if info.flag_bits & _PATCHED:
                raise DataError(f"holds a patch instead of a file (`{info.filename}`)")
            if info.header_offset + info.compress_size > end:
                raise DataError(f"is cut off or damaged: `{info.filename}` lies after its end")

            # A stored file may lie about either of its sizes.
            size = max(info.file_size, info.compress_size)
            zipped = _Zipped(
                info.compress_type,
                info.compress_size,
                info.file_size,
                info.CRC,
                info.orig_filename,
            )
            found.append(_Member(archive, info.filename, size, info.header_offset, zipped))
    return found


def _check_zip_ends(packed: zipfile.ZipFile, file: BinaryIO, size: int) -> None:
    """Raise where a zip archive holds more than its directory says: zipfile skips it silently."""
    # The record of the end has 22 bytes and a comment.
    file.seek(max(0, size - 22 - len(packed.comment)))
    end = file.read(12)
    first = min((info.header_offset for info in packed.infolist()), default=0)
    if end[:4] != b"PK\x05\x06" or first > 4:  # a mark of four bytes may come first
        raise DataError(
            "is damaged: data lie before its first file or after its end. If several archives were "
            "put together, pack them as one."
        )
    count = int.from_bytes(end[10:], "little")  # the largest number stands for more
    if count != min(len(packed.infolist()), 0xFFFF):
        raise DataError(f"is damaged: its directory does not have the {count} files that it says")


def _read_zipped(file: BinaryIO, name: str, zipped: _Zipped) -> bytes:
    """Unpack one file of a zip archive, open at its header, checked against its checksum."""
    if zipped.method not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        # The others unpack as much as they like at once.
        raise DataError("is compressed in another way than zip's own: pack it again.")
    # A ZipFile would read the directory first. Sizes are those of the directory, not of the header.
    signature, flags, name_bytes, extra_bytes = struct.unpack("<4s2xH18xHH", file.read(30))
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile("its directory leads to something else")
    # Two entries that lead to one header would be one image twice.
    there = file.read(name_bytes).decode("utf-8" if flags & _UTF_8 else "cp437")
    if there != zipped.stored_name:
        raise zipfile.BadZipFile(f"its directory leads to {there!r}")
    file.seek(extra_bytes, os.SEEK_CUR)

    info = zipfile.ZipInfo(name)
    info.compress_type, info.compress_size, info.file_size, info.CRC, _ = zipped
    with zipfile.ZipExtFile(file, "r", info) as entry:
        # With a size: without one zipfile unpacks 2 GB at once, whatever the directory says.
        content = entry.read(zipped.size)
    if len(content) != zipped.size:
        raise zipfile.BadZipFile("it is shorter than its directory says")
    return content


# --- tar --------------------------------------------------------------------------------------


def _list_tar(archive: _Archive, file: BinaryIO) -> list[_Member]:
    """Files of a tar archive, by one pass over its headers."""
    found, place, special, size = [], -1, "", archive.status.st_size
    bounded: Any = limits.TarHeaders(file, limits.MAX_TAR_HEADER_BYTES)
    with tarfile.open(fileobj=bounded, mode="r:") as headers:
        for info in headers:
            headers.members.clear()  # type: ignore[attr-defined] # else all of them stay in memory
            if info.size < 0 or info.offset <= place:
                raise DataError(f"is damaged: `{info.name}` leads back to what was read")
            place = info.offset

            # Sparse files are not stored as they are.
            stored = info.isreg() and not info.issparse()
            if stored and info.offset_data + info.size > size:
                raise DataError(f"is cut off: `{info.name}` lies after its end")

            if info.isdir():
                continue
            check_member(info.name, is_link=info.issym() or info.islnk())
            if stored:
                # `tar -cf a.tar .` begins each name so.
                name = info.name.removeprefix("./")
                found.append(_Member(archive, name, info.size, info.offset_data))
            else:
                special = info.name
        end = headers.offset

    _check_tar_end(file, end, size)
    if special and not found:
        raise DataError(
            f"holds no images but pipes, devices or sparse files, such as `{special}`, none of "
            "which is read: pack the image files themselves."
        )
    return found


def _check_tar_end(file: BinaryIO, end: int, size: int) -> None:
    """Raise where tarfile ended without a word, and yet the archive does not end there."""
    # tarfile ends at a damaged header as it does at the mark of the end, a block of zeros.
    file.seek(end)
    if file.read(512) != bytes(512):
        raise DataError("is cut off or damaged: the mark of its end is missing")

    # What follows is read, but not gigabytes of it that a sparse file may have for nothing.
    if size - end > limits.MAX_TAR_PADDING_BYTES + 1024:
        raise DataError(
            f"is incomplete or damaged: {size - end} bytes follow the mark of its end. Fetch it "
            "again, or pack it again."
        )
    if file.read().strip(b"\0"):
        raise DataError(
            "is incomplete or damaged: data follow the mark of its end. Fetch it again, or, if "
            "several archives were put together, pack them as one."
        )
