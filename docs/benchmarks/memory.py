"""Memory and seconds of `otmetrics score` on many samples: Markdown on stdout.

    python docs/benchmarks/memory.py [--num 1000000] [--limit 8G] [--score-options ...]
    python docs/benchmarks/memory.py --images --limit 700M --score-options --pairs-max 5000 ...

Two files of features, normal with a decaying spectrum, are written and scored by the command; or,
with `--images`, a folder and a tar archive of as many PNG files of 8 x 8 pixels, through a network
of 64 features that takes no time. What counts is the memory that no file stands behind (RssAnon,
Linux only), sampled every 10 ms; pages of mapped files leave when others need them. The scratch
folder holds the files (`TMPDIR`), 4 N D bytes each or 5 GB a million images, and what is drawn from
them for the floors.
"""

import argparse
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from PIL import Image

ROWS = 10_000
NETWORK = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        weights = torch.randn(192, 64, generator=torch.Generator().manual_seed(0))
        self.register_buffer("weights", weights)

    def forward(self, images):
        return images.flatten(1).float() @ self.weights

network = Tiny()
"""


def write_features(path: Path, num: int, dimension: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    scales = (1 + np.arange(dimension, dtype=np.float32)) ** -0.5
    values = np.lib.format.open_memmap(path, "w+", np.float32, (num, dimension))
    for start in range(0, num, ROWS):
        rows = values[start : start + ROWS]
        rows[:] = generator.standard_normal(rows.shape, np.float32) * scales + 0.1 * seed
    values.flush()


def write_images(path: Path, num: int, seed: int) -> None:
    """Into a tar archive, or else a folder of ten classes."""
    generator = np.random.default_rng(seed)
    with tarfile.open(path, "w") if path.suffix == ".tar" else nullcontext() as archive:
        for index in range(num):
            file = io.BytesIO()
            pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(file, "PNG", compress_level=1)
            name = f"{index % 10}/{index:08d}.png"
            if archive is None:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(file.getvalue())
            else:
                member = tarfile.TarInfo(name)
                member.size = file.tell()
                archive.addfile(member, io.BytesIO(file.getvalue()))


def anonymous(pid: int) -> int:
    found = re.search(r"RssAnon:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num", type=int, default=1_000_000, help="samples per side (%(default)s)")
    parser.add_argument("--dimension", type=int, default=1280, help="of features (%(default)s)")
    parser.add_argument("--images", action="store_true", help="images instead of features")
    parser.add_argument("--limit", default="8G", help="as --memory-limit of score (%(default)s)")
    parser.add_argument("--score-options", nargs=argparse.REMAINDER, default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        if options.images:
            paths = [Path(root) / "real", Path(root) / "fake.tar"]
            for seed, path in enumerate(paths):
                write_images(path, options.num, seed)
            (Path(root) / "tiny.py").write_text(NETWORK)
            chosen = ["--features", "module:tiny:network"]
        else:
            paths = [Path(root) / f"{side}.npy" for side in ("real", "fake")]
            for seed, path in enumerate(paths):
                write_features(path, options.num, options.dimension, seed)
            chosen = []
        command = [sys.executable, "-m", "otmetrics", "score", *map(str, paths)]
        command += [*chosen, "--memory-limit", options.limit, *options.score_options]
        began, peak = time.perf_counter(), 0
        environment = os.environ | {"OTMETRICS_CACHE": str(Path(root) / "cache")}
        streams = [Path(root) / name for name in ("out", "err")]
        with streams[0].open("w") as out, streams[1].open("w") as err:
            process = subprocess.Popen(command, env=environment, cwd=root, stdout=out, stderr=err)
            while process.poll() is None:
                peak = max(peak, anonymous(process.pid))
                time.sleep(0.01)
        output, notes = (path.read_text() for path in streams)
        if process.returncode:
            sys.exit(notes)
        size = 256 if options.images else 4 * options.dimension
        print(f"`{' '.join(['otmetrics', 'score', *command[4:]])}`\n")
        print(f"Features: 2 x {size * options.num / 1e9:.2f} GB. Limit: {options.limit}. ", end="")
        print(f"Most memory, with the program: {peak / 1e9:.2f} GB. ", end="")
        print(f"{time.perf_counter() - began:.0f} s.\n\n```\n{output}```\n")
        print(next(line for line in notes.splitlines() if re.match(r"note: [0-9.]+ s: ", line)))


if __name__ == "__main__":
    main()
