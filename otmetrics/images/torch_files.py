"""Files of `torch.save`, read without torch: containers, tensors and arrays of numpy, no code.

torch's own safe way (`weights_only`) admits no arrays of numpy, which is what statistics are, and
takes memory and strides as the file claims them.
"""

import math
import zipfile
from typing import Any, BinaryIO

import numpy as np

from otmetrics.errors import DataError
from otmetrics.images import limits
from otmetrics.images.pickles import Global, Rest, unpickled

FIRST_NUMBER = 0x1950A86A20F9469CFC6C
"""With it begin files before torch 1.6, or with `_use_new_zipfile_serialization=False`."""

_DTYPES = {
    **{"DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "LongStorage": "i8"},
    **{"IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1"},
    "BoolStorage": "b1",
}
_REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


def read_zipped(opened: BinaryIO, size: int) -> Any:
    """What `torch.save` wrote into an archive of `size` bytes, whose directory is a short one."""
    with zipfile.ZipFile(opened) as archive:
        pickled = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder = pickled[0].rpartition("/")[0]
        if f"{folder}/constants.pkl" in archive.namelist():
            raise DataError("is a program of TorchScript: save its tensors with torch.save.")
        storages = _Storages(archive, folder, size)
        entry = archive.getinfo(pickled[0])
        _check_stored(entry)
        with archive.open(entry) as file:
            # To its end, where the checksum is compared.
            rest = Rest(file, entry.file_size)
            value = unpickled(rest, storages.functions, storages.find)
            if rest.read(1):
                raise ValueError("bytes behind the end of a pickle")
        return value


def read_legacy(file: Rest) -> Any:
    """What follows the magic number in a file without an archive: containers and arrays."""
    version, _ = unpickled(file), unpickled(file)
    if version != 1001:
        raise ValueError(f"version {version}")
    value = unpickled(file, persistent=_refuse_tensor)
    if unpickled(file) != []:
        raise ValueError("tensors that nothing names")
    return value


def _refuse_tensor(_: Any) -> Any:
    raise DataError("holds tensors in the format before torch 1.6: save it again with torch.save.")


def _check_stored(entry: zipfile.ZipInfo) -> None:
    """Raise where a member is compressed: it may hold far more than the file."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise DataError("has compressed members, which torch.save never writes: save it again.")


class _Storages:
    """The numbers of all tensors, which lie next to the pickle that says their shapes."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, size: int) -> None:
        self._archive, self._folder, self._left = archive, folder, size
        self._known: dict[str, np.ndarray] = {}
        kinds = {Global("torch", name): _refuse_call for name in _DTYPES}
        self.functions = {**kinds, _REBUILD: _tensor}
        self._order = "<"
        order = f"{folder}/byteorder"
        if order in archive.namelist() and self._read(order).tobytes() == b"big":
            self._order = ">"

    def find(self, claim: Any) -> np.ndarray:
        """The numbers (N,) of a storage that a pickle names."""
        what, kind, key, _, count = claim
        if what != "storage" or type(kind) is not Global or type(key) is not str:
            raise ValueError("an object outside of the file")
        if kind.name not in _DTYPES:
            raise DataError(f"holds tensors of {kind.name}: convert them to float32.")
        if key not in self._known:
            self._known[key] = self._read(f"{self._folder}/data/{key}")
        values = self._known[key].view(self._order + _DTYPES[kind.name])
        if len(values) != count:
            raise ValueError(f"{len(values)} numbers instead of {count}")
        return values

    def _read(self, name: str) -> np.ndarray:
        """The bytes of a member."""
        entry = self._archive.getinfo(name)
        _check_stored(entry)
        # Members may lie upon each other.
        self._left -= entry.file_size
        if self._left < 0:
            raise ValueError("its members claim more bytes than it has")
        room, filled = limits.room_for(entry.file_size), 0
        with self._archive.open(entry) as file:
            while part := file.read(2**20):
                room[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
                filled += len(part)
        if filled != len(room):
            raise ValueError("fewer bytes than its directory says")
        return room


def _refuse_call(*_: Any) -> Any:
    raise ValueError("a call of what is no function")


def _tensor(values: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    """A tensor as an array: a view of its storage, no number of which it may repeat."""
    claims = (offset, *shape, *strides)
    if type(values) is not np.ndarray or any(type(one) is not int or one < 0 for one in claims):
        raise ValueError("a tensor without storage or shape")
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if math.prod(shape) > len(values) or (math.prod(shape) and last >= len(values)):
        raise ValueError("a tensor beyond its storage")
    width = values.itemsize
    start = values[offset:] if math.prod(shape) else values[:0]
    return np.lib.stride_tricks.as_strided(start, shape, [step * width for step in strides])
