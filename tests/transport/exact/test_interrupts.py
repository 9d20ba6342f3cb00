"""The solver in its thread: what interrupts it, and what it raises."""

import subprocess
import sys

import pytest

from otmetrics.transport.exact import simplex


def test_ctrl_c_does_not_wait_for_the_solver() -> None:
    # In a process of its own, whose main thread takes the interrupt.
    code = """
import os, signal, threading
from otmetrics.transport.exact.simplex import _interruptible

signal.signal(signal.SIGINT, signal.default_int_handler)
never = threading.Event()
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    _interruptible(never.wait)
except KeyboardInterrupt:
    print("interrupted")
"""
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert finished.stdout == "interrupted\n"


def test_errors_of_the_solver_come_through() -> None:
    with pytest.raises(ZeroDivisionError):
        simplex._interruptible(lambda: 1 / 0)
