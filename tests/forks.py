"""`python -m MODULE` as forks of a process that has imported the library, which takes seconds each.

A fork has an environment, a folder, streams and signals of its own. It waits for its threads and
calls what is registered for its end, but frees no modules, which takes as long as their import.
Tests of how a process starts and ends start a real one.
"""

import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

IMPORTED = [
    *("otmetrics.cli.main", "otmetrics.cli.extract", "otmetrics.cli.score", "otmetrics.cli.render"),
    *("otmetrics.scoring.score", "otmetrics.scoring.comparison", "otmetrics.scoring.ranks"),
    *("otmetrics.metrics", "otmetrics.reference_models.training", "rich.progress"),
]


def as_ranks(world: int) -> list[dict[str, str]]:
    """The environment of each process of one run, as torchrun would give it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


class Fork:
    """One process; the part of `subprocess.Popen` that tests take."""

    def __init__(self, forks: "Forks", pid: int, streams: list[Path]) -> None:
        self.forks, self.pid, self.streams = forks, pid, streams
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit code; None while it runs."""
        if self.returncode is None:
            self.returncode = self.forks.ask({"ended": self.pid})
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        """Exit code, minus the number of the signal that ended it."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Output and errors of all its time."""
        self.wait(timeout)
        out, err = (path.read_text() for path in self.streams)
        return out, err

    def send_signal(self, number: int) -> None:
        """As to any process, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(9)


class Forks:
    """The process that has imported the library; close it."""

    def __init__(self) -> None:
        self._streams = tempfile.TemporaryDirectory()
        self._count = 0
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # As the command line sets them before it imports torch.
            env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "FATAL"},
        )

    def ask(self, question: dict[str, object]) -> int | None:
        """Its answer in one line."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(
        self,
        module: str,
        *arguments: object,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> Fork:
        """Run a module with arguments, in a folder, with variables beside those of this process."""
        self._count += 1
        streams = [Path(self._streams.name, f"{self._count}.{name}") for name in ("out", "err")]
        command = {
            "module": module,
            "arguments": [*map(str, arguments)],
            "cwd": str(cwd or Path.cwd()),
            "environment": os.environ | (environment or {}),
            "streams": [*map(str, streams)],
        }
        pid = self.ask(command)
        assert pid is not None
        return Fork(self, pid, streams)

    def close(self) -> None:
        """End it."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()
        self._streams.cleanup()


def _serve() -> dict[str, object] | None:
    """Fork for each command; what to run in a fork, None where all is done."""
    for line in sys.stdin:
        asked = json.loads(line)
        if "ended" in asked:
            pid, status = os.waitpid(asked["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                return asked
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()
    return None


def _run(module: str, arguments: list[str], cwd: str, environment: dict, streams: list) -> None:
    """Be `python -m MODULE ARGUMENTS`."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, cwd)
    sys.argv = [module, *arguments]
    # A background shell hands down an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    for _name in IMPORTED:
        importlib.import_module(_name)
    _asked = _serve()
    if _asked is not None:
        _run(**_asked)
    os._exit(0)
