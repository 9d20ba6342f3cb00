"""Images read in processes: the same ones, the same errors, and no process that stays."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from otmetrics.errors import DataError
from otmetrics.images import ImageFolder, Readers, ReadingReport, batches, reading

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 5, 4, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """50 images, of which 20 is cut short and 30 is of another size."""
    path = tmp_path_factory.mktemp("images")
    for index, pixels in enumerate(PIXELS):
        Image.fromarray(pixels[:3] if index == 30 else pixels).save(path / f"{index:02d}.png")
    (path / "20.png").write_bytes((path / "20.png").read_bytes()[:60])
    return ImageFolder(path)


def read(folder, **options):
    report = ReadingReport()
    options = {"transform": torch.clone, "batch_size": 7, "uniform": False} | options
    found = list(batches(folder, skip_corrupt=True, report=report, **options))
    return [image for batch in found for image in batch], report


def test_processes_give_what_threads_give(folder):
    expected, expected_report = read(folder)
    images, report = read(folder, readers=Readers(num_workers=2))
    assert report == expected_report
    assert len(images) == 49
    for image, other in zip(images, expected, strict=True):
        assert torch.equal(image, other)
    assert not multiprocessing.active_children()


def test_more_processes_than_cores_change_no_filter_of_warnings():
    """Filters are those of all threads: leaving one's own in another order keeps them for good."""
    with pytest.warns(UserWarning, match="This DataLoader will create 999 worker"):
        DataLoader(range(3), num_workers=999)
    filters = list(warnings.filters)
    reading._Loader(range(3), num_workers=999)  # where a warning would be an error
    assert warnings.filters == filters
    assert not hasattr(reading, "warnings")


def test_the_error_of_a_process_names_the_file(folder):
    iterator = batches(
        folder, transform=torch.clone, batch_size=8, uniform=False, readers=Readers(num_workers=2)
    )
    with pytest.raises(DataError, match=r"20\.png` is "):
        list(iterator)
    assert not multiprocessing.active_children()


class Deadly(ImageFolder):
    """Ends the process that reads its sixth image, as the system does when memory is short."""

    def read(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


@pytest.mark.skipif(sys.platform == "win32", reason="kills by a POSIX signal")
def test_a_process_that_is_killed_is_told(folder):
    stream = batches(
        Deadly(folder.path),
        transform=torch.clone,
        batch_size=4,
        uniform=False,
        readers=Readers(num_workers=1),
    )
    with pytest.raises(DataError, match=r"a process that reads images was killed.*`num_workers`"):
        list(stream)
    assert not multiprocessing.active_children()


def test_what_cannot_be_transformed_is_named(folder):
    def narrow(pixels):
        if pixels.shape[1] == 3:
            raise ValueError("too long")
        return pixels

    with pytest.raises(DataError, match=r"30\.png` cannot be scored: too long"):
        list(batches(folder, transform=narrow, batch_size=4, indices=[29, 30]))
    assert [
        len(batch)
        for batch in batches(
            folder, transform=narrow, batch_size=4, indices=[29, 30], skip_corrupt=True
        )
    ] == [1]


def test_processes_draw_the_same_numbers_each_time(folder):
    noise = partial(torch.rand_like, dtype=torch.float32)
    options = {"transform": noise, "indices": range(20), "readers": Readers(num_workers=2)}
    first, second = (read(folder, **options)[0] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert len({float(one.sum()) for one in first}) == 20


def test_processes_leave_the_callers_random_numbers_alone(folder):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    read(folder, readers=Readers(num_workers=1))
    assert torch.equal(torch.rand(2), expected)


SCRIPT = """
import sys, time, torch
from otmetrics.images import ImageFolder, Readers, batches

if __name__ == "__main__":
    indices = list(range(20)) * 100_000
    stream = batches(ImageFolder(sys.argv[1]), transform=torch.clone, batch_size=8,
                     uniform=False, readers=Readers(num_workers=2), indices=indices)
    next(stream)
    print("reading", flush=True)
    time.sleep(600)
"""


def children(pid):
    """Processes below a process, from the process table."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in table.stdout.splitlines()]
    found = {pid}
    while more := {child for child, parent in pairs if parent in found} - found:
        found |= more
    return found - {pid}


@pytest.mark.skipif(sys.platform == "win32", reason="asks ps for the processes")
def test_processes_end_with_a_parent_that_is_killed(folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "reading\n"
        below = children(parent.pid)
        assert len(below) >= 2
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while alive := [pid for pid in below if _runs(pid)]:
        assert time.monotonic() < deadline, f"{alive} live on"
        time.sleep(0.1)


def _runs(pid):
    """Whether a process runs; one that nobody has asked how it ended does not."""
    found = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()[:1] not in {"", "Z"}
