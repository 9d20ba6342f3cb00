"""Summaries of streams, of parts, and what they lose: tables as Markdown.

    python docs/benchmarks/summaries.py stream [--num 2000000] [--dimension 1280] [--fits 10000]
    python docs/benchmarks/summaries.py merge [--parts 64] [--rows 10000] [--dimension 1280]
    python docs/benchmarks/summaries.py table FEATURES.npz [--num 50000] [--kept 10000] [...]
    python docs/benchmarks/summaries.py sent [--num 30000] [--dimension 1280]

`stream`: two sides, of N and of N / 10 features, come from a seeded generator in blocks, each is
summarised and merged, and none is kept; a process of its own tells the memory that no file stands
behind. The distance is compared with that of sums of products around a fixed point, taken of the
same stream, by the root of another matrix; the sliced one with that of samples, of as many as fit.
`merge`: files of parts by the command line, and in memory. `table`: both sides are interpolations
between a given feature and one of its nearest neighbours, a smooth bootstrap of two halves of
FEATURES.npz; all scores of a summary with some samples kept next to those of all features.
`sent`: what each of three processes sends of its third of the features, whole and as a summary.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from otmetrics import METRICS, Exact, Scoring, Sinkhorn, Sliced, score, score_features
from otmetrics.scoring.feature_set import FeatureSet
from otmetrics.scoring.report import Score, ScoreReport
from otmetrics.summaries.keeping import Keeping
from otmetrics.summaries.summary import Summary

ROWS = 4096  # of a block
FACTORS = 64  # of the features, next to noise of each
NEIGHBOURS = 10


class Stream(NamedTuple):
    """Features of a generator, the same whenever they are read."""

    num: int
    dimension: int
    seed: int

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Numbers of the first sample, and features (n, D) in float32."""
        basis = (
            torch.randn(FACTORS, self.dimension, generator=torch.Generator().manual_seed(0))
            / FACTORS**0.5
        )
        generator = torch.Generator().manual_seed(1 + self.seed)
        for start in range(0, self.num, ROWS):
            size = min(ROWS, self.num - start)
            factors = torch.randn(size, FACTORS, generator=generator) + 0.1 * self.seed
            noise = torch.randn(size, self.dimension, generator=generator)
            yield start, (factors @ basis).add_(noise, alpha=0.3).relu_()


def summarised(stream: Stream, keeping: Keeping) -> Summary:
    merged: Summary | None = None
    for start, rows in stream.blocks():
        names = [str(start + row) for row in range(len(rows))]
        one = Summary.of(rows, names=names, keeping=keeping)
        merged = one if merged is None else merged.merged(one)
    assert merged is not None
    return merged


def anonymous() -> float:
    """MB of this process that no file stands behind, as in `memory.py`; Linux only."""
    found = re.search(r"RssAnon:\s*(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def written(stream: Stream, path: Path, keeping: Keeping) -> tuple[float, float, float]:
    """Seconds, and the memory of a process before it summarises a stream and at most."""
    before, began, ended = anonymous(), time.perf_counter(), threading.Event()
    most = [before]

    def watch() -> None:
        while not ended.wait(0.01):
            most[0] = max(most[0], anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        summarised(stream, keeping).save(path)
    finally:
        ended.set()
        watching.join()
    return time.perf_counter() - began, before, most[0]


class Sums(NamedTuple):
    """Moments by sums of products around the mean of the first block."""

    mean: np.ndarray
    covariance: np.ndarray


def direct_moments(stream: Stream) -> Sums:
    centre, total, products = np.zeros(stream.dimension), 0.0, 0.0
    for start, block in stream.blocks():
        rows = block.double().numpy()
        if not start:
            centre = rows.mean(0)
        rows -= centre
        total = total + rows.sum(0)
        products = products + rows.T @ rows
    mean = total / stream.num
    covariance = (products - stream.num * np.outer(mean, mean)) / (stream.num - 1)
    return Sums(centre + mean, covariance)


def direct_frechet(x: Sums, y: Sums) -> float:
    """|m - n|^2 + tr(A + B) - 2 tr (A^1/2 B A^1/2)^1/2, with eigenvalues."""
    values, vectors = np.linalg.eigh(x.covariance)
    half = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    roots = np.sqrt(np.linalg.eigvalsh(half @ y.covariance @ half).clip(0))
    spread = np.trace(x.covariance) + np.trace(y.covariance)
    return float(((x.mean - y.mean) ** 2).sum() + spread - 2 * roots.sum())


def bounds(one: Score) -> str:
    return one.message.rpartition("lies ")[2]


def stream(args: argparse.Namespace) -> None:
    keeping = Keeping()
    streams = [
        Stream(num, args.dimension, seed) for seed, num in enumerate((args.num, args.num // 10))
    ]
    with tempfile.TemporaryDirectory() as root:
        paths = [Path(root) / f"{side}.npz" for side in ("real", "fake")]
        print("| samples | seconds | MB before | MB at most | file, MB |\n|" + " ---: |" * 5)
        for one, path in zip(streams, paths, strict=True):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                seconds, before, most = pool.submit(written, one, path, keeping).result()
            size = path.stat().st_size / 1e6
            cells = f"{one.num} | {seconds:.0f} | {before:.0f} | {most:.0f} | {size:.0f}"
            print(f"| {cells} |", flush=True)
        names = ("sliced_wasserstein", "frechet_distance")
        scoring = Scoring(metrics=names, floor=False)
        began = time.perf_counter()
        found = score(*paths, scoring=scoring).scores
        seconds = time.perf_counter() - began
    direct = direct_frechet(*map(direct_moments, streams))
    value = found["frechet_distance"].value
    print(f"\nBoth scores and their intervals of both files: {seconds:.0f} s.\n")
    print(
        "| score | of summaries | of samples | relative difference | stated |\n| --- |"
        + " ---: |" * 4
    )
    print(f"| Fréchet | {value:.12g} | {direct:.12g} | {abs(value / direct - 1):.1e} | rounding |")

    # Of as many samples as fit, from the beginning of each stream.
    fitting = [Stream(min(one.num, args.fits), one.dimension, one.seed) for one in streams]
    samples = [torch.cat([rows for _, rows in one.blocks()]) for one in fitting]
    exact = score_features(*samples, scoring=scoring).scores["sliced_wasserstein"].value
    with tempfile.TemporaryDirectory() as root:
        paths = [Path(root) / f"{side}.npz" for side in ("real", "fake")]
        for rows, path in zip(samples, paths, strict=True):
            # One sample fewer is kept than there are: the histograms are scored.
            Summary.of(rows, keeping=Keeping(samples=len(rows) - 1)).save(path)
        sketched = score(*paths, scoring=scoring).scores["sliced_wasserstein"]
    difference = abs(sketched.value / exact - 1)
    sizes = " and ".join(str(one.num) for one in fitting)
    print(
        f"| sliced, {sizes} samples | {sketched.value:.9g} | {exact:.9g} | {difference:.1e} | "
        f"{bounds(sketched)} |"
    )
    whole = found["sliced_wasserstein"]
    print(f"| sliced, all | {whole.value:.9g} | | | {bounds(whole)} |")


def merge(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as root:
        paths = [Path(root) / f"{number}.npz" for number in range(args.parts)]
        began = time.perf_counter()
        for number, path in enumerate(paths):
            part = Stream(args.rows, args.dimension, number)
            (summary,) = [
                Summary.of(
                    torch.cat([rows for _, rows in part.blocks()]),
                    names=[f"{number}/{row}" for row in range(args.rows)],
                )
            ]
            summary.save(path)
        made, size = time.perf_counter() - began, sum(path.stat().st_size for path in paths)

        began = time.perf_counter()
        command = [sys.executable, "-m", "otmetrics", "merge", *map(str, paths)]
        subprocess.run([*command, str(Path(root) / "merged.npz")], check=True, capture_output=True)
        by_command = time.perf_counter() - began

        seconds = {"read": 0.0, "merge": 0.0}
        merged: Summary | None = None
        for path in paths:
            began = time.perf_counter()
            one = Summary.load(path)
            read = time.perf_counter()
            merged = one if merged is None else merged.merged(one)
            seconds["read"] += read - began
            seconds["merge"] += time.perf_counter() - read
        assert merged is not None
        assert merged.count == args.parts * args.rows
    print(
        "| parts | samples of each | files, MB | made, s | `otmetrics merge`, s | read here, s | "
        "merged here, s |"
    )
    print("|" + " ---: |" * 7)
    cells = [f"{args.parts}", f"{args.rows}", f"{size / 1e6:.0f}", f"{made:.0f}"]
    cells += [f"{by_command:.1f}", f"{seconds['read']:.1f}", f"{seconds['merge']:.1f}"]
    print("| " + " | ".join(cells) + " |")


def bootstrapped(pool: Tensor, num: int, seed: int) -> Tensor:
    """Between a feature and one of its nearest neighbours, up to halfway."""
    near = torch.cat(
        [
            torch.cdist(rows, pool).topk(NEIGHBOURS + 1, largest=False).indices[:, 1:]
            for rows in pool.split(1000)
        ]
    )
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(len(pool), (num,), generator=generator)
    second = near[first, torch.randint(NEIGHBOURS, (num,), generator=generator)]
    share = 0.5 * torch.rand(num, 1, generator=generator)
    return pool[first].lerp_(pool[second], share)


def interval(one: Score) -> str:
    return "-" if one.interval is None else f"[{one.interval.low:.4g}, {one.interval.high:.4g}]"


def row(name: str, one: Score, other: Score) -> str:
    cells = [name.replace("_", " ")]
    cells += [f"{s.value:.5g} ({s.sizes[0]})" for s in (one, other)]
    cells += [f"{other.value - one.value:+.2g}", interval(one), interval(other)]
    for s in (one, other):
        cells.append("-" if s.floor is None else f"{s.floor.value:.4g} ({s.floor.size})")
    cells += ["-" if s.test is None else f"{s.test.pvalue:.3g}" for s in (one, other)]
    return "| " + " | ".join(cells) + " |"


def told(report: ScoreReport, label: str) -> str:
    parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in report.seconds.items())
    return f"Seconds of {label}: {parts}."


def table(args: argparse.Namespace) -> None:
    with np.load(args.features, allow_pickle=False) as file:
        pool = torch.from_numpy(file["features"]).float()
    halves = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))].chunk(2)
    sides = [bootstrapped(half, args.num, 1 + side) for side, half in enumerate(halves)]
    scoring = Scoring(
        exact=Exact(),
        sinkhorn=Sinkhorn(),
        sliced=Sliced(),
        test=args.test,
        exact_max=args.exact_max,
        sinkhorn_max=args.exact_max,
        pairs_max=args.pairs_max,
    )
    with tempfile.TemporaryDirectory() as root:
        paths = [Path(root) / f"{side}.npz" for side in ("real", "fake")]
        for rows, path in zip(sides, paths, strict=True):
            names = [str(number) for number in range(len(rows))]
            Summary.of(rows, names=names, keeping=Keeping(samples=args.kept)).save(path)
        sizes = " and ".join(f"{path.stat().st_size / 1e6:.0f}" for path in paths)
        of_summaries = score(*paths, scoring=scoring)
    of_all = score_features(*sides, scoring=scoring)
    print(f"{args.num} features per side, {args.kept} kept; files of {sizes} MB.\n")
    names = ["score", "all (samples)", "summary (samples)", "difference", "interval, all"]
    names += ["interval, summary", "floor, all (size)", "floor, summary", "p, all", "p, summary"]
    print("| " + " | ".join(names) + " |\n| --- |" + " ---: |" * (len(names) - 1))
    for name in METRICS:
        print(row(name, of_all.scores[name], of_summaries.scores[name]))
    stated = of_summaries.scores["sliced_wasserstein"].message
    print(f"\nStated for the sliced distance: it is {stated}.")
    print(told(of_all, "all features"), told(of_summaries, "summaries"))


def sending(rank: int, port: int, num: int, dimension: int) -> tuple[int, float, int, float]:
    """Bytes and seconds of a process: its features as they are, and its summary."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(place | {"RANK": str(rank), "WORLD_SIZE": "3", "LOCAL_RANK": str(rank)})
    from otmetrics.scoring import ranks as processes
    from otmetrics.scoring.reduction import Part, reduced

    sent, send = 0, processes.send

    def counted(to: int, note: object, arrays: dict[str, np.ndarray]) -> None:
        nonlocal sent
        sent += len(json.dumps(note)) + sum(array.nbytes for array in arrays.values())
        send(to, note, arrays)

    processes.send = counted  # type: ignore[assignment]
    features = torch.cat([rows for _, rows in Stream(num // 3, dimension, rank).blocks()])
    together = processes.ranks_of_environment(600)
    began = time.perf_counter()
    for _ in together.gather({"features": features.numpy()}):
        pass
    whole, seconds = sent, time.perf_counter() - began

    source = {"path": "x", "kind": "features", "used": len(features), "available": len(features)}
    made = FeatureSet(features, {"extractor": "none"}, source)
    names = [f"{rank}/{row}" for row in range(len(features))]
    sent, began = 0, time.perf_counter()
    reduced(Part(made, names, len(features)), Keeping(), together)
    found = whole, seconds, sent, time.perf_counter() - began
    together.close()
    return found


def sent(args: argparse.Namespace) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(sending, rank, port, args.num, args.dimension) for rank in range(3)]
        found = [job.result() for job in jobs]
    print("| process | features, MB | seconds | summary, MB | seconds, with making it |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for rank, (whole, seconds, part, more) in enumerate(found):
        print(f"| {rank} | {whole / 1e6:.1f} | {seconds:.1f} | {part / 1e6:.1f} | {more:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("stream")
    one.add_argument("--num", type=int, default=2_000_000, help="samples (%(default)s)")
    one.add_argument("--fits", type=int, default=10_000, help="of Sliced (%(default)s)")
    two = commands.add_parser("merge")
    two.add_argument("--parts", type=int, default=64)
    two.add_argument("--rows", type=int, default=10_000, help="of a part (%(default)s)")
    for each in (one, two):
        each.add_argument("--dimension", type=int, default=1280, help="(%(default)s)")
    three = commands.add_parser("table")
    three.add_argument("features", help="an .npz file of features (N, D)")
    three.add_argument("--num", type=int, default=50_000, help="samples (%(default)s)")
    three.add_argument("--kept", type=int, default=10_000, help="(%(default)s)")
    three.add_argument("--test", type=int, default=199, help="relabellings (%(default)s)")
    three.add_argument("--exact-max", type=int, default=2000, help="(%(default)s)")
    three.add_argument("--pairs-max", type=int, default=10_000, help="(%(default)s)")
    four = commands.add_parser("sent")
    four.add_argument("--num", type=int, default=30_000, help="of all three (%(default)s)")
    four.add_argument("--dimension", type=int, default=1280, help="(%(default)s)")
    args = parser.parse_args()
    {"stream": stream, "merge": merge, "table": table, "sent": sent}[args.what](args)


if __name__ == "__main__":
    main()
