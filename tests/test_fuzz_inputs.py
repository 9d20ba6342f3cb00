"""Damaged inputs of every kind: an error in one line, never a crash, a hang or a silent value."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fuzz_inputs.py")
COUNT = int(os.environ.get("FUZZ_COUNT", "240"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs the memory of a process")
def test_damaged_inputs_of_every_kind(tmp_path):
    """FUZZ_COUNT=10000 is the long run; what fails names the command that repeats it."""
    command = [sys.executable, SCRIPT, "--count", COUNT, "--seed", SEED, "--jobs", 2]
    command += ["--keep", tmp_path / "kept"]
    finished = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-2000:]
    assert " 0 fail" in finished.stdout
