"""Seconds of `otmetrics score` by stage, first and from the cache: Markdown on stdout.

    python docs/benchmarks/score.py ../shared/data/cifar10_12k.npz mnist:test [--num 10000]

Two inputs that `score` reads are written as folders of PNG files, then scored twice with a cache of
their own. "features" is everything before the first score: start, reading, network, cache.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from otmetrics.images import open_input
from otmetrics.images.decode import write_png


def write_folder(text: str, folder: Path, num: int) -> None:
    source = open_input(text)
    folder.mkdir()
    for index in range(min(num, len(source))):
        write_png(folder / f"{index:06d}.png", source.read(index).pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("real")
    parser.add_argument("fake")
    parser.add_argument("--num", type=int, default=10_000, help="images per side (%(default)s)")
    parser.add_argument("--metrics", help="as for `otmetrics score`; default: all")
    options = parser.parse_args()
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / name for name in ("real", "fake")]
        for text, folder in zip((options.real, options.fake), folders, strict=True):
            write_folder(text, folder, options.num)
        time.sleep(3)  # files that were written a moment ago are not trusted by the cache
        command = [sys.executable, "-m", "otmetrics", "score", *map(str, folders)]
        command += ["--metrics", options.metrics] if options.metrics else []
        reports = []
        for _ in range(2):
            began = time.perf_counter()
            done = subprocess.run(
                [*command, "--json"],
                env=os.environ | {"OTMETRICS_CACHE": str(Path(root) / "cache")},
                capture_output=True,
                text=True,
                check=True,
            )
            total = time.perf_counter() - began
            reports.append(json.loads(done.stdout)["scores"])
            line = next(line for line in done.stderr.splitlines() if " s: features " in line)
            parts = [part.rsplit(" ", 1) for part in line.split(": ", 2)[2].split(", ")]
            stages = {name: float(value) for name, value in parts}
            stages = {"start": total - sum(stages.values()), **stages, "in all": total}
            for name, seconds in stages.items():
                rows.setdefault(name, []).append(seconds)
    assert reports[0] == reports[1], "the cache changed a score"
    print("| seconds | first run | from the cache |\n| --- | --- | --- |")
    for name, (first, second) in rows.items():
        print(f"| {name} | {first:.1f} | {second:.1f} |")
    before = [sum(rows[name][run] for name in ("start", "features")) for run in (0, 1)]
    print(f"\nBefore the scores: {before[1] / before[0]:.1%} of the first run. Equal scores.")


if __name__ == "__main__":
    main()
