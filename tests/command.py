"""Running the command line inside the test process, and small inputs for it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from otmetrics.cli.main import main
from PIL import Image


class Finished(NamedTuple):
    code: int
    stdout: str
    stderr: str


class Runner:
    """Calls `otmetrics ARGUMENTS` as the console script does, exit code and streams included."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Finished:
        self.monkeypatch.setattr(sys, "argv", ["otmetrics", *map(str, arguments)])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        output = self.capsys.readouterr()
        return Finished(stopped.value.code or 0, output.out, output.err)


def on_a_terminal(arguments: list[str], *, columns: int) -> str:
    """What `otmetrics ARGUMENTS` shows on a POSIX terminal that is so wide."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    command = [sys.executable, "-m", "otmetrics", *arguments]
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environment)
    os.close(theirs)
    output = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:  # Linux says so when the other end is closed
            break
        if not block:
            break
        output += block
    assert process.wait(timeout=60) == 0, process.stderr.read()
    process.stderr.close()
    os.close(ours)
    return output.decode()


def write_images(
    folder: Path, count: int, *, seed: int, size: int = 16, suffix: str = "png"
) -> Path:
    """Smooth random images: a 4 x 4 grid of colours, enlarged."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        colours = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(colours).resize((size, size), Image.Resampling.BICUBIC)
        image.save(folder / f"{index:03d}.{suffix}")
    return folder


def write_features(
    path: Path, count: int, *, seed: int, dimension: int = 6, shift: float = 0
) -> Path:
    """Gaussian features in a .npy file."""
    rng = np.random.default_rng(seed)
    np.save(path, rng.normal(shift, 1, (count, dimension)))
    return path
