"""Memory and seconds of `otmetrics score` on features of many images: Markdown on stdout.

    python docs/benchmarks/memory.py [--num 1000000] [--limit 8G] [--score-options ...]

Two files of features, normal with a decaying spectrum, are written and scored by the command. What
counts is the memory that no file stands behind (RssAnon, Linux only), sampled every 10 ms; pages of
mapped files leave when others need them. The scratch folder holds the files (`TMPDIR`), 4 N D bytes
each, and what is drawn from them for the floors.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROWS = 10_000


def write_features(path: Path, num: int, dimension: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    scales = (1 + np.arange(dimension, dtype=np.float32)) ** -0.5
    values = np.lib.format.open_memmap(path, "w+", np.float32, (num, dimension))
    for start in range(0, num, ROWS):
        rows = values[start : start + ROWS]
        rows[:] = generator.standard_normal(rows.shape, np.float32) * scales + 0.1 * seed
    values.flush()


def anonymous(pid: int) -> int:
    found = re.search(r"RssAnon:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num", type=int, default=1_000_000, help="rows a side (%(default)s)")
    parser.add_argument("--dimension", type=int, default=1280, help="(%(default)s)")
    parser.add_argument("--limit", default="8G", help="as --memory-limit of score (%(default)s)")
    parser.add_argument("--score-options", nargs=argparse.REMAINDER, default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        paths = [Path(root) / f"{side}.npy" for side in ("real", "fake")]
        for seed, path in enumerate(paths):
            write_features(path, options.num, options.dimension, seed)
        command = [sys.executable, "-m", "otmetrics", "score", *map(str, paths)]
        command += ["--memory-limit", options.limit, *options.score_options]
        began, peak = time.perf_counter(), 0
        environment = os.environ | {"OTMETRICS_CACHE": str(Path(root) / "cache")}
        streams = [Path(root) / name for name in ("out", "err")]
        with streams[0].open("w") as out, streams[1].open("w") as err:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=err)
            while process.poll() is None:
                peak = max(peak, anonymous(process.pid))
                time.sleep(0.01)
        output, notes = (path.read_text() for path in streams)
        if process.returncode:
            sys.exit(notes)
        gigabytes = 4 * options.num * options.dimension / 1e9
        print(f"`{' '.join(['otmetrics', 'score', *command[4:]])}`\n")
        print(f"Files: 2 x {gigabytes:.2f} GB. Limit: {options.limit}. ", end="")
        print(f"Most memory, with the program: {peak / 1e9:.2f} GB. ", end="")
        print(f"{time.perf_counter() - began:.0f} s.\n\n```\n{output}```\n")
        print(next(line for line in notes.splitlines() if re.match(r"note: [0-9.]+ s: ", line)))


if __name__ == "__main__":
    main()
