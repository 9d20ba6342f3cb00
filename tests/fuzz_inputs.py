"""Mutated inputs of every kind, each scored or resumed in a process of its own.

    python tests/fuzz_inputs.py --count 10000 --seed 0 [--kinds png,zip] [--only INDEX] [--jobs 2]

What must hold of each: exit code 0, 2, 3 or 4; exactly one `error:` line with 2 and 3, none with
0; no traceback, no signal; an end within 20 s; at most 1 GB of memory beyond that of the imports;
no control character on the terminal; no code of a file run, no file beside touched; no value other
than that of the sound input without a word, where checksums or the like could tell.

One process imports the library; every case is a fork of it. Seed, kind and index decide a case.
"""

import argparse
import contextlib
import gc
import importlib
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"  # a fork of a process with threads may hang
os.environ.update(COLUMNS="200", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", MPLBACKEND="agg")

from fuzz_corpus import KINDS, Kind, summary, write_shared  # noqa: E402
from fuzz_mutations import Damage, mutated  # noqa: E402

CODES = {0, 2, 3, 4}
SECONDS = 20.0
IMPORT_SECONDS = 300.0  # the sound input of a kind is first, and imports what the others find
MEMORY = 2**30
_PAGE = os.sysconf("SC_PAGE_SIZE")
# What many sound inputs would import, each on its own; the rest is what they did import.
_HEAVY = [
    *("otmetrics.cli.main", "otmetrics.scoring.score", "otmetrics.reference_models.training"),
    *("otmetrics.reference_models.presets", "otmetrics.cli.render", "matplotlib.figure"),
    *("pyarrow.parquet", "rich.progress", "timm", "torchvision.utils"),
]


@dataclass
class Finished:
    """How a case ended."""

    code: int
    signal: int
    out: str
    err: str
    seconds: float
    memory: int
    stopped: str = ""


class Child:
    """A fork that runs the command line on the input in a folder."""

    def __init__(self, place: Path, kind: Kind, shared: Path, limit: float) -> None:
        self.limit, self.place = limit, place
        self.start, self.stopped, self.peak = time.monotonic(), "", 0
        self.base = _resident(os.getpid())
        self.pid = os.fork()
        if self.pid == 0:
            _run_and_exit(place, kind, shared)

    def poll(self) -> Finished | None:
        """How it ended; None while it runs. What takes too long or too much is ended."""
        seconds = self._seconds()
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            self.peak = max(self.peak, _resident(self.pid) - self.base)
            if not self.stopped and self.peak > 1.2 * MEMORY:
                self.stop("memory")
            if not self.stopped and seconds > self.limit:
                self.stop("hang")
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # processes that it left behind
        out, err = (
            (self.place / name).read_bytes().decode(errors="replace") for name in ("out", "err")
        )
        memory = max(self.peak, usage.ru_maxrss * 1024 - self.base)
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1
        return Finished(code, ended, out, err, seconds, memory, self.stopped)

    def _seconds(self) -> float:
        """How long it has run, without the time that others had the core."""
        try:
            waited = int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            waited = 0.0
        return time.monotonic() - self.start - waited

    def stop(self, why: str) -> None:
        """End it."""
        self.stopped = why
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _resident(pid: int) -> int:
    """Bytes that a process holds now."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _run_and_exit(place: Path, kind: Kind, shared: Path) -> None:
    """Be the command line."""
    code = 1
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(place)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.path.append(str(shared / "canary"))
        os.environ.update({"OTMETRICS_CACHE": "cache", "FUZZ_CANARY": str(place / "ran")})
        os.environ.update(kind.environment)
        sys.argv = ["otmetrics", *(part.format(shared="../../shared") for part in kind.arguments)]
        from otmetrics.cli.main import main

        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
            (place / "modules").write_text("\n".join(sys.modules))
        os._exit(code)


def fault(case: "Case", found: Finished, sound: Finished | None) -> str | None:
    """What is wrong with the end of a case; None where nothing is."""
    if found.stopped:
        return found.stopped
    if found.signal:
        return f"signal {found.signal}"
    if found.memory > MEMORY:
        return "memory"
    if "Traceback (most recent call last)" in found.err:
        last = [line for line in found.err.splitlines() if line and not line.startswith(" ")][-1]
        return f"traceback: {last[:60]}"
    if found.code not in CODES:
        return f"exit code {found.code}"
    errors = [line for line in found.err.splitlines() if line.lower().startswith("error:")]
    if len(errors) != (found.code in {2, 3}) and not (found.code == 4 and len(errors) == 1):
        return f"{len(errors)} error lines with exit code {found.code}"
    if any(_moves_a_cursor(c) for c in found.out + found.err):
        return "control characters"
    if (case.place / "ran").exists():
        return "code of a file ran"
    if (case.place / "victim.png").read_bytes() != b"victim":
        return "a file beside was changed"
    if sound is None or sound.code or found.code:
        return None
    return _other_value(case, found, sound)


def _moves_a_cursor(character: str) -> bool:
    code = ord(character)
    return (
        (code < 32 and character not in "\n\r\t")
        or 127 <= code < 160
        or code in range(0x202A, 0x202F)
    )


def _other_value(case: "Case", found: Finished, sound: Finished) -> str | None:
    """Whether a value differs without a word."""
    kind, known = case.kind, case.kind.checked and not case.done.is_sound
    try:
        before, after = summary(kind, sound.out), summary(kind, found.out)
    except (ValueError, KeyError, TypeError) as error:
        return f"no report: {type(error).__name__}"
    if before is None or after is None:
        quiet = known and found.out != sound.out and _words(found) == _words(sound)
        return "another result without a word" if quiet else None
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in after[0].values()):
        return "a value that is not finite"
    near = before[0].keys() == after[0].keys() and all(
        math.isclose(before[0][name], after[0][name], rel_tol=1e-6, abs_tol=1e-9)
        for name in before[0]
    )
    if not near and (kind.same or (known and before[1] == after[1])):
        return "another value without a word"
    return None


def _words(found: Finished) -> list[str]:
    return [line for line in found.err.splitlines() if line.startswith(("note:", "warning:"))]


@dataclass
class Case:
    """One mutated input; `index` None is the sound one."""

    kind: Kind
    index: int | None
    place: Path
    done: Damage
    child: Child


class Fuzz:
    """Cases of one seed in folders below another."""

    def __init__(self, work: Path, seed: int, kept: Path) -> None:
        self.work, self.seed, self.kept, self.shared = work, seed, kept, work / "shared"
        self.sound: dict[str, Finished] = {}
        self.counts: dict[str, Counter[str]] = {kind.name: Counter() for kind in KINDS}
        self.slowest: dict[str, float] = Counter()
        self.largest: dict[str, int] = Counter()
        self.others: list[Path] = []
        self.modules: set[str] = set()

    def build(self, kinds: list[Kind]) -> None:
        """Write the sound inputs, in a fork: what writes them may start threads."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.environ["OTMETRICS_CACHE"] = str(self.work / "no cache")
                import datasets

                datasets.disable_progress_bars()
                write_shared(self.shared)
                for kind in kinds:
                    place = self.work / "sound" / kind.name / "in"
                    place.mkdir(parents=True)
                    os.chdir(place.parent)  # paths that are kept are those of the cases
                    kind.build(Path("in"))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        if os.waitpid(pid, 0)[1]:
            raise SystemExit("the sound inputs cannot be made")
        files = (self.work / "sound").rglob("*")
        self.others = sorted(
            path for path in files if path.is_file() and path.stat().st_size < 2**17
        )

    def started(self, kind: Kind, index: int | None) -> Case:
        """Copy a sound input, damage it, and run it."""
        place = self.work / "cases" / f"{kind.name}-{'sound' if index is None else index}"
        shutil.copytree(self.work / "sound" / kind.name, place)
        (place / "victim.png").write_bytes(b"victim")
        done = Damage("nothing", True)
        if index is not None:
            rng = random.Random(f"{self.seed}/{kind.name}/{index}")
            done = mutated(place / "in", kind.pattern, rng, self.others)
        limit = SECONDS if index is not None else IMPORT_SECONDS
        return Case(kind, index, place, done, Child(place, kind, self.shared, limit))

    def ended(self, case: Case, found: Finished) -> bool:
        """Judge a case, count it, and keep it where it fails; whether it holds."""
        name, sound = case.kind.name, self.sound.get(case.kind.name)
        wrong = fault(case, found, sound)
        if case.index is None:
            self.sound[name] = found
            with contextlib.suppress(FileNotFoundError):
                self.modules |= set((case.place / "modules").read_text().split())
            if wrong is None and (found.code != 0) != case.kind.refused:
                told = (found.err.strip().splitlines() or ["nothing"])[-1]
                wrong = f"the sound input is refused: {told[:150]}"
        counts = self.counts[name]
        counts["cases"] += case.index is not None
        counts["scored" if found.code == 0 else "refused"] += (
            wrong is None and case.index is not None
        )
        self.slowest[name] = max(self.slowest[name], found.seconds)
        self.largest[name] = max(self.largest[name], found.memory)
        if wrong is None:
            shutil.rmtree(case.place)
            return True
        counts[wrong] += 1
        kept = self.kept / f"{self.seed}-{case.place.name}"
        shutil.rmtree(kept, ignore_errors=True)
        self.kept.mkdir(parents=True, exist_ok=True)
        shutil.move(case.place, kept)
        only = "" if case.index is None else f" --only {case.index}"
        again = f"python tests/fuzz_inputs.py --seed {self.seed} --kinds {name}{only}"
        done = ascii(case.done.text)[1:-1]
        print(f"FAILS {wrong}\n      {done}\n      kept in {kept}\n      {again}", flush=True)
        return False

    def run(self, todo: list[tuple[Kind, int | None]], jobs: int) -> int:
        """Run cases, some at once; how many fail."""
        running: list[Case] = []
        failed, waiting = 0, iter(todo)
        upcoming = next(waiting, None)
        try:
            while upcoming or running:
                while upcoming and len(running) < jobs:
                    running.append(self.started(*upcoming))
                    upcoming = next(waiting, None)
                for case in list(running):
                    found = case.child.poll()
                    if found is not None:
                        running.remove(case)
                        failed += not self.ended(case, found)
                time.sleep(0.004)
        finally:
            for case in running:
                case.child.stop("interrupted")
        return failed

    def table(self) -> str:
        """Counts by kind."""
        rows = [f"{'kind':22}{'cases':>7}{'scored':>8}{'refused':>9}{'fail':>6}{'s':>7}{'MB':>7}"]
        for name, counts in self.counts.items():
            if name in self.sound:
                fails = {k: n for k, n in counts.items() if k not in {"cases", "scored", "refused"}}
                row = f"{name:22}{counts['cases']:7}{counts['scored']:8}{counts['refused']:9}"
                row += f"{sum(fails.values()):6}{self.slowest[name]:7.1f}"
                row += f"{self.largest[name] / 1e6:7.0f}"
                what = "; ".join(
                    f"{n} x {k}" for k, n in sorted(fails.items(), key=lambda i: -i[1])
                )
                rows.append(f"{row}  {what}".rstrip())
        return "\n".join(rows)


def import_all(names: Iterable[str]) -> None:
    """Load modules, so that the forks need not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def shared_out(kinds: list[Kind], count: int) -> list[tuple[Kind, int | None]]:
    """Cases of all kinds by their weights, in turns."""
    total = sum(kind.weight for kind in kinds)
    cases = []
    for kind in kinds:
        own = max(1, round(count * kind.weight / total))
        cases += [((index + 0.5) / own, kind.name, kind, index) for index in range(own)]
    return [(kind, index) for _, _, kind, index in sorted(cases, key=lambda case: case[:2])]


def _times(start: float) -> str:
    """How long it took, and how long one core."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cores = sum(one.ru_utime + one.ru_stime for one in used)
    return f"{time.monotonic() - start:.0f} s, {cores:.0f} s of a core"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=300, help="cases in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help="some of " + ",".join(kind.name for kind in KINDS))
    parser.add_argument("--only", type=int, metavar="INDEX", help="this case of each kind alone")
    parser.add_argument("--jobs", type=int, default=1, help="cases at once")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz_inputs")
    parser.add_argument("--json", type=Path, help="where to write the counts")
    given = parser.parse_args()
    kinds = KINDS
    if given.kinds:
        chosen = given.kinds.split(",")
        kinds = [kind for kind in KINDS if kind.name in chosen]
        if len(kinds) != len(chosen):
            parser.error(f"no such kind among {given.kinds}")
    start = time.monotonic()
    import_all(_HEAVY)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    failed, ended = 0, True
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        fuzz = Fuzz(Path(work), given.seed, given.keep)
        try:
            fuzz.build(kinds)
            failed = fuzz.run([(kind, None) for kind in kinds], given.jobs)
            import_all(fuzz.modules - set(sys.modules))
            gc.freeze()
            print(f"imports and {len(kinds)} sound inputs: {_times(start)}")
            todo = shared_out(kinds, given.count)
            if given.only is not None:
                todo = [(kind, given.only) for kind in kinds]
            failed += fuzz.run(todo, given.jobs)
        except KeyboardInterrupt:
            ended = False  # the table says how far it came
    print(fuzz.table())
    cases = sum(counts["cases"] for counts in fuzz.counts.values())
    print(f"{cases} cases in {_times(start)}, {failed} fail")
    if given.json:
        given.json.write_text(json.dumps(fuzz.counts, indent=1))
    return int(failed > 0 or not ended)


if __name__ == "__main__":
    sys.exit(main())
