"""What torchmetrics' own FID and KID do in a program, and ours: one Markdown table on stdout.

    python docs/scripts/torchmetrics_table.py

Every cell is what happened when the check of its row ran just now: "yes", or "no" with the error,
or with the value that came and the one that should have come. A cell of several metrics says "yes"
only if all of them pass. Instead of Inception all metrics get one small network with fixed weights,
so nothing is downloaded. torchmetrics' KID averages over random subsets of the samples; wherever
that is not the question, its subsets hold all samples, so that its value is a matter of fact.
"""

import argparse
import contextlib
import copy
import io
import json
import math
import os
import pickle
import re
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection, MetricTracker
from torchmetrics import __version__ as torchmetrics_version
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.wrappers import BootStrapper, FeatureShare

from otmetrics import FrechetFeatureDistance, KernelFeatureDistance, WassersteinFeatureDistance
from otmetrics.features import FrozenExtractor
from otmetrics.features.preprocessing import Preprocessing

NUM, BATCH, SIDE = 40, 8, 8
RANK_SECONDS, RUN_SECONDS = 20, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--library", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.rank is None:
        print(table())
    else:
        be_a_rank(options.rank, options.library, options.folder)


# The metrics.


class Network(nn.Module):
    """A small network for images of any dtype; one instance has the weights of the next."""

    num_features = 6
    calls = 0

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * SIDE**2, self.num_features)
        self.dropout = nn.Dropout(dropout)
        weights = torch.randn(self.linear.weight.shape, generator=torch.Generator().manual_seed(0))
        self.linear.load_state_dict({"weight": weights / 8, "bias": torch.zeros(len(weights))})

    def forward(self, images: Tensor) -> Tensor:
        Network.calls += 1  # of the class, as a metric may hold a copy
        return self.dropout(self.linear(images.flatten(1).float() / 255))


class Given(nn.Identity):
    """One feature a sample, the input itself."""

    num_features = 1


@lru_cache(maxsize=1)
def resizing(network: nn.Module) -> FrozenExtractor:
    """The network as an extractor of images, which is what our `normalize` is for."""
    return FrozenExtractor(network, Preprocessing(size=SIDE), "network")


@dataclass(frozen=True)
class Subject:
    """A metric under test.

    Attributes:
        cls: Its class.
        on_the_line: Its value for samples with one feature each, in exact arithmetic.
        options: Options of every instance.
        others: Options that make another metric of it, one set each.
        drawing: Options with which it draws random subsets, if it does.
    """

    cls: type[Metric]
    on_the_line: Callable[[list[Fraction], list[Fraction]], float]
    options: dict = field(default_factory=dict)
    others: tuple[dict, ...] = ()
    drawing: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.cls.__name__

    @property
    def library(self) -> str:
        return self.cls.__module__.split(".")[0]

    def __call__(
        self, feature: nn.Module | None = None, normalize: bool = False, **options: Any
    ) -> Metric:
        feature = feature or Network()
        if normalize and self.library == "otmetrics":
            feature = resizing(feature)
        metric = self.cls(feature=feature, normalize=normalize, **self.options | options)
        if normalize and self.library == "torchmetrics":
            metric.used_custom_model = False  # or `normalize` would only count for its Inception
        return metric

    def shared(self, network: nn.Module, **options: Any) -> MetricCollection:
        """All metrics of the library around one network, in the collection for that."""
        collection = FeatureShare if self.library == "torchmetrics" else MetricCollection
        family = [subject for subject in SUBJECTS if subject.library == self.library]
        return collection({subject.name: subject(network, **options) for subject in family})


def frechet_on_the_line(real: list[Fraction], fake: list[Fraction]) -> float:
    (mean, std), (other_mean, other_std) = moments(real), moments(fake)
    return float((mean - other_mean) ** 2) + (std - other_std) ** 2


def moments(side: list[Fraction]) -> tuple[Fraction, float]:
    mean = sum(side) / len(side)
    return mean, math.sqrt(sum((x - mean) ** 2 for x in side) / (len(side) - 1))


def kernel_on_the_line(real: list[Fraction], fake: list[Fraction]) -> float:
    def mean(first: list[Fraction], second: list[Fraction], skipped: int) -> Fraction:
        total = sum((x * y + 1) ** 3 for x in first for y in second)
        return (total - skipped * sum((x * x + 1) ** 3 for x in first)) / (
            len(first) * (len(second) - skipped)
        )

    return float(mean(real, real, 1) + mean(fake, fake, 1) - 2 * mean(real, fake, 0))


def wasserstein_on_the_line(real: list[Fraction], fake: list[Fraction]) -> float:
    pairs = zip(sorted(real), sorted(fake), strict=True)
    return math.sqrt(sum((x - y) ** 2 for x, y in pairs) / len(real))


SUBJECTS = FID, KID, FRECHET, KERNEL, WASSERSTEIN = (
    Subject(FrechetInceptionDistance, frechet_on_the_line),
    Subject(
        KernelInceptionDistance,
        kernel_on_the_line,
        options={"subsets": 3, "subset_size": NUM},
        others=({"subset_size": 10}, {"subset_size": 20}),
        drawing={"subset_size": 10},
    ),
    Subject(FrechetFeatureDistance, frechet_on_the_line),
    Subject(
        KernelFeatureDistance,
        kernel_on_the_line,
        others=({"kernel": "rbf"}, {"max_samples": 20}, {"max_samples": 20, "seed": 1}),
    ),
    Subject(
        WassersteinFeatureDistance,
        wasserstein_on_the_line,
        others=({"method": "exact"}, {"seed": 1}, {"max_samples": 20}),
    ),
)
VERSION = ".".join(torchmetrics_version.split(".")[:2])
COLUMNS = {
    f"torchmetrics {VERSION} FID": [FID],
    f"torchmetrics {VERSION} KID": [KID],
    "otmetrics": [FRECHET, KERNEL, WASSERSTEIN],
}


# What the checks are made of.


class UnmetError(Exception):
    """What came instead of what should have come."""


def images(seed: int, high: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, high, (NUM, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


REAL, FAKE, OTHERS = images(0, 256), images(1, 200), images(2, 230)
BOTH, IS_REAL = torch.cat([REAL, FAKE]), torch.arange(2 * NUM) < NUM


def filled(metric: Any, real: Tensor = REAL, fake: Tensor = FAKE, batch: int = BATCH) -> Any:
    """A metric or a collection that has seen both sides."""
    for side, is_real in ((real, True), (fake, False)):
        for part in side.split(batch) if len(side) else ():
            metric.update(part, real=is_real)
    return metric


def scalar(value: Any) -> float:
    return (value[0] if isinstance(value, tuple) else value).item()


def value(metric: Metric) -> float:
    torch.manual_seed(0)  # of random subsets
    return scalar(metric.compute())


def answer(metric: Metric) -> float | str:
    """The value, or the error that came in its place."""
    try:
        return value(metric)
    except Exception as error:
        return described(error)


def described(error: Exception) -> str:
    """Type and first line, without what differs between two runs."""
    line = (str(error).strip().splitlines() or [""])[0]
    line = re.sub(r"^\[\S+\] | at 0x[0-9a-f]+| \[[\d.]+\]:\d+", "", line)
    return f"{type(error).__name__}, {textwrap.shorten(line, 90)}".replace("|", "\\|")


def agree(found: float | str, expected: float, tolerance: float = 1e-4, when: str = "") -> None:
    if isinstance(found, str):
        raise UnmetError(when + found)
    if not math.isclose(found, expected, rel_tol=tolerance, abs_tol=1e-9):
        raise UnmetError(f"{when}{found:.4g} instead of {expected:.4g}")


def refused(call: Callable[[], Any], taken: Callable[[Any], str]) -> None:
    """Raise unless the call does."""
    try:
        came = call()
    except (TypeError, ValueError, RuntimeError):
        return
    raise UnmetError(taken(came))


# The checks: each returns if the metric passes, and raises if not.


def forward_of_both_sides(subject: Subject) -> None:
    metric = filled(subject(), OTHERS)
    agree(scalar(metric(BOTH, IS_REAL)), value(filled(subject())))


def forward_of_one_side(subject: Subject) -> None:
    metric = filled(subject())
    refused(lambda: metric(REAL, real=True), taken=lambda found: f"gives {found}")
    agree(answer(metric), value(filled(subject())), when="afterwards ")


def kept_real_samples(subject: Subject) -> None:
    metric = subject(reset_real_features=False)
    metric.update(REAL, real=True)
    for _ in range(2):
        metric(FAKE, real=False)
        agree(value(metric), value(filled(subject())))
        metric.reset()


def merged(subject: Subject) -> None:
    whole = subject()
    for part in (slice(0, 15), slice(15, NUM)):
        whole.merge_state(filled(subject(), REAL[part], FAKE[part]))
    agree(value(whole), value(filled(subject())))


def resumed(subject: Subject) -> None:
    metric, file = filled(subject()), io.BytesIO()
    metric.persistent(True)
    torch.save(metric.state_dict(), file)
    file.seek(0)
    fresh = subject()
    fresh.load_state_dict(torch.load(file))
    agree(value(fresh), value(metric))
    agree(value(filled(fresh, OTHERS)), value(filled(metric, OTHERS)))


def copied(subject: Subject) -> None:
    metric = filled(subject())
    for copy_of in (lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy):
        other = copy_of(metric)
        agree(value(other), value(metric))
        filled(other, OTHERS)
        agree(value(metric), value(filled(subject())))


def cast_with_its_parent(subject: Subject) -> None:
    for cast in (nn.Module.half, nn.Module.double):
        parent = cast(nn.ModuleList([subject()]))
        agree(value(filled(parent[0])), value(filled(subject())))


def trained_with_its_parent(subject: Subject) -> None:
    parent = nn.ModuleList([subject(Network(dropout=0.5))]).train()
    agree(value(filled(parent[0])), value(filled(subject())))


def out_of_its_parent(subject: Subject) -> None:
    parent = nn.ModuleDict({"metric": subject()})
    seen = {"parameters()": parent.named_parameters(), "state_dict()": parent.state_dict().items()}
    for where, tensors in seen.items():
        if names := [name for name, _ in tensors]:
            raise UnmetError(f"{where} has {', '.join(names)}")


def any_batches(subject: Subject) -> None:
    expected = scalar(filled(subject(**subject.drawing)).compute())
    for real, fake, batch in ((REAL, FAKE, 17), (REAL.flip(0), FAKE.flip(0), NUM)):
        metric = filled(subject(**subject.drawing), real, fake, batch)
        agree(scalar(metric.compute()), expected)


def far_from_zero(subject: Subject) -> None:
    spread = torch.randn(NUM, 1, generator=torch.Generator().manual_seed(0))
    real, fake = 1e4 + spread, 1e4 + 2 * spread.flip(0)
    exact = ([Fraction(x) for x in side.flatten().tolist()] for side in (real, fake))
    metric = filled(subject(Given()), real, fake)
    agree(value(metric), subject.on_the_line(*exact), tolerance=1e-6)


def in_a_collection(subject: Subject) -> None:
    network = Network()
    options = [{}, {"reset_real_features": False}, *subject.others]
    alone = [subject(network, **own) for own in options]
    collection = MetricCollection(
        {str(i): subject(network, **own) for i, own in enumerate(options)}
    )
    for real in (REAL, OTHERS):
        filled(collection, real)
        for i, metric in enumerate(alone):
            own = "".join(f"{option}={choice}: " for option, choice in options[i].items())
            agree(value(collection[str(i)]), value(filled(metric, real)), when=own)
            metric.reset()
        collection.reset()


def one_extraction(subject: Subject, normalize: bool = False) -> None:
    collection = subject.shared(Network(), normalize=normalize)
    Network.calls = 0
    filled(collection, *((side / 255 if normalize else side) for side in (REAL, FAKE)))
    if Network.calls != (batches := 2 * NUM // BATCH):
        raise UnmetError(f"{Network.calls} runs for {batches} batches")


def refilled_buffer(subject: Subject) -> None:
    collection, buffer = subject.shared(Network()), REAL.clone()
    collection.update(buffer, real=True)
    collection.update(buffer.copy_(FAKE), real=False)
    agree(value(collection[subject.name]), value(filled(subject())))


def pickled_share(subject: Subject) -> None:
    collection = filled(subject.shared(Network()))
    collection = pickle.loads(pickle.dumps(collection))
    agree(value(collection[subject.name]), value(filled(subject())))


def bootstrapped(subject: Subject) -> None:
    torch.manual_seed(0)
    found = filled(BootStrapper(subject(**subject.drawing), num_bootstraps=4), batch=NUM).compute()
    if not (found["mean"].isfinite() and found["std"] > 0):
        raise UnmetError(f"{found}")


def tracked(subject: Subject) -> None:
    tracker = MetricTracker(subject())
    for real in (OTHERS, FAKE, REAL):
        tracker.increment()
        filled(tracker, real)
    _, best = tracker.best_metric(return_step=True)
    if best != 1:
        raise UnmetError(f"best step {best} instead of 1")


def returns_a_scalar(subject: Subject) -> None:
    found = filled(subject()).compute()
    if not (isinstance(found, Tensor) and found.ndim == 0):
        raise UnmetError(f"a {type(found).__name__}")


def too_few(subject: Subject) -> None:
    for sizes in ((NUM, 0), (0, NUM)):
        metric = filled(subject(), REAL[: sizes[0]], FAKE[: sizes[1]])
        refused(partial(value, metric), taken=lambda found: f"{found} from an empty side")
    found = answer(filled(subject(), REAL[:1], FAKE[:1]))  # between two points there is a distance
    if found != found:
        raise UnmetError("NaN from one sample per side")


def not_a_number(subject: Subject) -> None:
    metric, broken = filled(subject()), FAKE.float()
    broken[3] = math.nan
    # Not what comes of it: decompositions of NaN have been seen to abort the process.
    refused(partial(metric.update, broken, real=False), taken=lambda _: "`update` takes it")
    agree(answer(metric), value(filled(subject())), when="afterwards ")


# Two processes. They may hang or die, so they are not this one.

SHARES = {  # samples of the first rank, real and fake; the rest is of the second
    "uneven": (24, 24),
    "empty": (0, 0),
}


def two_ranks(subject: Subject, name: str) -> None:
    for rank, answers in enumerate(answers_of_ranks(subject.library)):
        found = answers.get(f"{name} {subject.name}", "no answer, it hung or died")
        agree(found, value(filled(subject())), when=f"rank {rank}: ")


@lru_cache
def answers_of_ranks(library: str) -> list[dict[str, Any]]:
    """What each of two processes found: values, or errors."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--library", library, "--folder", folder, "--rank"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        run_out(
            [
                subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.DEVNULL)
                for rank in range(2)
            ]
        )
        files = [Path(folder, f"{rank}.json") for rank in range(2)]
        return [json.loads(file.read_text()) if file.exists() else {} for file in files]


def run_out(processes: list[subprocess.Popen]) -> None:
    """Wait, but not for ever; what a process wrote until then counts."""
    deadline = time.monotonic() + RUN_SECONDS
    try:
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0, deadline - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.wait()


def be_a_rank(rank: int, library: str, folder: Path) -> None:
    """Write the answers of one process, after each of them, as the next may be the end of it."""
    answers: dict[str, Any] = {}
    for name, sizes in SHARES.items():
        parts = [
            side.split([size, NUM - size])[rank]
            for side, size in zip((REAL, FAKE), sizes, strict=True)
        ]
        for subject in SUBJECTS:
            if subject.library == library:
                key = f"{name} {subject.name}"
                answers[key] = answer_of_ranks(filled(subject(), *parts), rank, folder / key)
                written = folder / f"{rank}.part"
                written.write_text(json.dumps(answers))
                written.replace(folder / f"{rank}.json")


def answer_of_ranks(metric: Metric, rank: int, file: Path) -> float | str:
    """That of a process group of its own, which no earlier failure touches."""
    store, timeout = dist.FileStore(str(file), 2), timedelta(seconds=RANK_SECONDS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timeout)
    found = answer(metric)
    if isinstance(found, str) and "onnection" in found:  # gloo words it as it falls
        found = "RuntimeError, the connection to the other process broke"
    if isinstance(found, float):  # a rank that leaves early is an error for the other one
        store.set(f"{rank}", "done")
        with contextlib.suppress(RuntimeError):
            store.wait(["0", "1"], timedelta(seconds=5))
    dist.destroy_process_group()
    return found


# The table.

CHECKS: dict[str, Callable[[Subject], None]] = {
    "`forward` of a batch with both sides gives the score of that batch": forward_of_both_sides,
    "`forward` of one side is an error that changes no state": forward_of_one_side,
    "`reset_real_features=False`: `forward` and `reset` count real samples once": kept_real_samples,
    "parts merged into a fresh metric by `merge_state` give the value of one run": merged,
    "a fresh metric goes on from a saved `state_dict`": resumed,
    "pickle and deepcopy keep the value, and the copy is independent": copied,
    "`parent.half()` and `parent.double()` leave the value": cast_with_its_parent,
    "`parent.train()` leaves a network of your own in eval mode": trained_with_its_parent,
    "the network is out of `parent.parameters()` and `parent.state_dict()`": out_of_its_parent,
    "same samples, same value: again, in other batches, in another order": any_batches,
    "six digits from float32 features whose mean is 10 000 times their spread": far_from_zero,
    "members of a `MetricCollection` give what they give alone": in_a_collection,
    "members that share a network run it once a batch": one_extraction,
    "... with `normalize=True` too": partial(one_extraction, normalize=True),
    "... and see new images in a buffer that is filled again": refilled_buffer,
    "... and can be pickled": pickled_share,
    "works in `BootStrapper`": bootstrapped,
    "works in `MetricTracker`": tracked,
    "`compute` returns a scalar tensor": returns_a_scalar,
    "two processes, uneven shares: both get the value of one process": partial(
        two_ranks, name="uneven"
    ),
    "two processes, one without samples: both get the value of one process": partial(
        two_ranks, name="empty"
    ),
    "too few samples are an error, never NaN": too_few,
    "NaN in a batch is an error that changes no state": not_a_number,
}


def table() -> str:
    rows = [["property", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    rows += [[name, *(cell(name, column) for column in COLUMNS)] for name in CHECKS]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(name: str, column: str) -> str:
    """The outcome of one check for the metrics of one column."""
    subjects = COLUMNS[column]
    outcomes = {subject.name: outcome(CHECKS[name], subject) for subject in subjects}
    failures = {name: reason for name, reason in outcomes.items() if reason}
    if not failures:
        return "yes"
    if len(subjects) == 1:
        return "no: " + failures[subjects[0].name]
    return "no: " + "; ".join(f"{name}: {reason}" for name, reason in failures.items())


def outcome(check: Callable[[Subject], None], subject: Subject) -> str:
    """Why a metric does not pass, or nothing."""
    with warnings.catch_warnings():
        if subject.library == "torchmetrics":
            warnings.simplefilter("ignore")  # they advise, and are no part of the outcome
        try:
            check(subject)
        except UnmetError as reason:
            return str(reason)
        except Exception as error:
            return described(error)
    return ""


if __name__ == "__main__":
    main()
