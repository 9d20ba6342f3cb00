"""Files whose claims tests bend: arrays, archives and tables, and what reading them may cost."""

import io
import json
import struct
import tarfile
import time
import tracemalloc
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
GIGABYTES = 5 * 2**30


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@contextmanager
def cheap(seconds=2.0, megabytes=20):
    """Little time, and little memory as Python and numpy know of it."""
    tracemalloc.start()
    start = time.monotonic()
    try:
        yield
        assert time.monotonic() - start < seconds
        assert tracemalloc.get_traced_memory()[1] < megabytes * 1e6
    finally:
        tracemalloc.stop()


def write_tar(path, content):
    with tarfile.open(path, "w") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_zip(path, content, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def lying(path, entry, size):
    """Let the directory of an archive claim another size of its only entry."""
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(entry)
    old, new = (struct.pack("<II", info.compress_size, n) for n in (info.file_size, size))
    assert content.count(old) == 2
    path.write_bytes(content.replace(old, new))


IMAGES = {f"{index}.png": png(pixels) for index, pixels in enumerate(PIXELS)}


def npy(array, shape=None):
    """A `.npy` file whose header may say another shape."""
    file = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(file, header | {"shape": shape or array.shape})
    return file.getvalue() + array.tobytes()


FEATURES = np.random.default_rng(0).normal(size=(40, 3))


def write_dataset(folder, rows, **state):
    """What `save_to_disk` writes."""
    pyarrow = pytest.importorskip("pyarrow")
    folder.mkdir(exist_ok=True)
    table = pyarrow.table(rows)
    with pyarrow.ipc.new_stream(str(folder / "data.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=4)
    (folder / "dataset_info.json").write_text("{}")
    content = {"_data_files": [{"filename": "data.arrow"}]} | state
    (folder / "state.json").write_text(json.dumps(content))
    return folder


ROWS = {
    "image": [{"bytes": data, "path": name} for name, data in IMAGES.items()],
    "label": ["a", "b"] * 3,
}
