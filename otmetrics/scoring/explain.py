"""From two inputs, and the training samples perhaps, to reasons for their scores."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from otmetrics.checks import check_at_least, check_share
from otmetrics.errors import DataError
from otmetrics.explanation.attributes import Attribute, compared_attributes
from otmetrics.explanation.classes import Flow, excess_flow, voted_classes
from otmetrics.explanation.clusters import Clusters, find_clusters
from otmetrics.explanation.copies import find_copies
from otmetrics.explanation.curve import sample_curve
from otmetrics.explanation.directions import (
    Axes,
    WidestDirection,
    described_directions,
    excess_axes,
    widest_direction,
)
from otmetrics.explanation.outliers import Outliers, find_outliers
from otmetrics.explanation.pairs import Pairs, optimal_pairs
from otmetrics.explanation.plane import cluster_nodes, transport_plane
from otmetrics.explanation.shares import compared_shares
from otmetrics.explanation.uncovered import find_uncovered
from otmetrics.explanation.waterfall import Waterfall, cost_parts
from otmetrics.scoring.appearance import Appearance, appearance_of
from otmetrics.scoring.clouds import Sets, as_set, check_inputs, clouds_of, sets_at_hand
from otmetrics.scoring.explanation import Classes, Explanation, FakeSample
from otmetrics.scoring.extraction import Progress, features_of, open_inputs
from otmetrics.scoring.feature_set import FeatureSet, check_comparable
from otmetrics.scoring.inventory import FORMATS_DIFFER
from otmetrics.scoring.labels import labels_from, labels_of, read_labels
from otmetrics.scoring.options import Extraction, Scoring
from otmetrics.scoring.ranks import ALONE, Ranks
from otmetrics.scoring.score import score_sets
from otmetrics.transport.exact.exact import Exact
from otmetrics.unknown_options import ToldOptions, told_options

EXPLAINED = ("sliced_wasserstein", "frechet_distance", "kernel_distance")
"""The scores next to an explanation: the others take longer than all the rest, and can be asked."""

_AXES = 3
_FURTHEST = 2  # directions that are told of a fake sample
_CHOSEN_ON = 2000  # samples per side that the widest direction is looked for on
_FEWEST = 20  # real samples: of fewer, halves show nothing


@dataclass(frozen=True)
class Explaining(ToldOptions):
    """What is looked for.

    Attributes:
        rate: The share of findings of each kind that are false, at most, on average.
        num_clusters: Clusters of the real samples that are looked at one by one.
        num_looked_at: Images of each side whose pixels are looked at again, for their brightness
            and the like.

    Raises:
        ValueError: If an option breaks its rule.
    """

    rate: float = 0.1
    num_clusters: int = 20
    num_looked_at: int = 5000

    def __post_init__(self) -> None:
        check_share("rate", self.rate)
        check_at_least("num_clusters", self.num_clusters, 2)
        check_at_least("num_looked_at", self.num_looked_at, 0)


@told_options
def explain(
    real: str | Path,
    fake: str | Path,
    *,
    train: str | Path | None = None,
    labels: str | Path | None = None,
    explaining: Explaining = Explaining(),
    extraction: Extraction = Extraction(),
    scoring: Scoring = Scoring(metrics=EXPLAINED),
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> Explanation | None:
    """Say what makes fake samples differ from real ones: which samples, clusters, classes.

    Args:
        real: Folder of images, or file of images or features, that the generator was not trained
            on.
        fake: The same of the generator's samples.
        train: What the generator was trained on, to look for copies of it; all of it, whatever
            `extraction.num` is.
        labels: A CSV file of two columns, the name of a real image and its class. By default, and
            for fake ones, the folders of images, or the labels in a file, say the classes.
        explaining: What is looked for.
        extraction: How to turn the inputs into features.
        scoring: The scores next to it; by default those of `EXPLAINED`.
        progress: Called with a task's name, the steps done and the steps in all.
        ranks: The processes that share the extraction of features; all of them call this alike.

    Returns:
        The explanation; None on all processes but the first.

    Raises:
        DataError: If an input cannot be read, is too small, or does not compare with the others.
        OptionError: If an option does not fit the inputs.
    """
    paths = [real, fake] if train is None else [real, fake, train]
    ranks = ranks or ALONE
    table = None if labels is None else read_labels(labels)
    began = time.perf_counter()
    inputs = open_inputs(paths, extraction)
    if train is not None:  # a part of it would hide what was copied from the rest
        inputs[2] = replace(inputs[2], whole=True)
    check_inputs(inputs)
    found = features_of(inputs, extraction, scoring.need, progress, ranks)
    if not ranks.first:
        return None
    seconds = {"features": time.perf_counter() - began}
    sets = dict(zip(("real", "fake", "train"), found, strict=False))
    if table is not None:
        assert labels is not None
        sets["real"] = replace(sets["real"], labels=labels_from(table, labels, sets["real"]))
    protocol = {"num": extraction.num, "extraction_seed": extraction.seed}
    made = _explain_sets(sets, explaining, scoring, protocol, progress)
    return replace(made, seconds=seconds | made.seconds)


@told_options
def explain_features(
    real: FeatureSet | Tensor | np.ndarray,
    fake: FeatureSet | Tensor | np.ndarray,
    *,
    train: FeatureSet | Tensor | np.ndarray | None = None,
    explaining: Explaining = Explaining(),
    scoring: Scoring = Scoring(metrics=EXPLAINED),
    progress: Progress | None = None,
) -> Explanation:
    """The same of features that are in memory or mapped from files.

    Args:
        real: Feature set, or (N, D) tensor or array; the labels of a set are its classes.
        fake: The same, (M, D).
        train: The same, of what the generator was trained on.
        explaining: What is looked for.
        scoring: The scores next to it; by default those of `EXPLAINED`.
        progress: Called with a task's name, the steps done and the steps in all.

    Returns:
        The explanation. Time of the scores, of three more exact solves, and of nearest neighbours.

    Raises:
        DataError: If a side has too few samples or values that cannot be scored, or the sets do
            not compare.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> real, fake = torch.randn(2, 400, 3, generator=generator)
        >>> fake[:20] += 20.0
        >>> scoring = Scoring(metrics=("kernel_distance",))
        >>> sorted(sample.fake for sample in explain_features(real, fake, scoring=scoring).worst)
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
    """
    given = {"real": real, "fake": fake, "train": train}
    sets = {name: as_set(name, item) for name, item in given.items() if item is not None}
    check_comparable(list(sets.values()), "none")
    return _explain_sets(sets, explaining, scoring, {}, progress)


class _Halves(NamedTuple):
    """Rows of two halves of the real samples, and as many fake ones; and what transports them."""

    reference: Tensor
    held_out: Tensor
    fake: Tensor
    pairs: Pairs
    floor: Pairs


def _explain_sets(
    sets: Sets,
    explaining: Explaining,
    scoring: Scoring,
    protocol: dict[str, Any],
    progress: Progress | None,
) -> Explanation:
    """Explain feature sets that compare."""
    sets = sets_at_hand(sets)
    if len(sets["real"]) < _FEWEST:
        raise DataError(
            f"`{sets['real'].source['path']}` gives {len(sets['real'])} samples, but at least "
            f"{_FEWEST} are needed to explain a difference: give more."
        )
    compared = {side: sets[side] for side in ("real", "fake")}
    clouds = clouds_of(compared, scoring)
    # Apart: of another dtype they change no score.
    train = clouds_of({"train": sets["train"]}, scoring)["train"] if "train" in sets else None
    report = score_sets(compared, scoring, protocol, progress, clouds)
    real, fake, steps = clouds["real"], clouds["fake"], _Steps(progress)

    steps.begin("plans")
    clusters = find_clusters(real, fake, num_clusters=explaining.num_clusters, seed=scoring.seed)
    halves = _halves(real, fake, clusters, scoring)
    axes = excess_axes(halves.pairs, halves.floor, min(_AXES, real.shape[1]))

    steps.begin("samples")
    with _told_of(sets):
        outliers = find_outliers(real, fake, rate=explaining.rate)
    uncovered = find_uncovered(real, fake, clusters=clusters, rate=explaining.rate)
    copies = None
    if train is not None:
        steps.begin("copies")
        with _told_of(sets):
            copies = find_copies(real, fake, train=train, rate=explaining.rate, seed=scoring.seed)

    steps.begin("shares")
    classes, of_fake = _classes(sets, real, fake, halves, explaining, scoring)
    cluster_names = [f"cluster {i + 1}" for i in range(len(clusters.medoids))]
    flow = _flow(cluster_names, clusters.real, clusters.fake, halves)

    steps.begin("images")
    seen = _appearance(sets, explaining, scoring, steps)
    attributes = compared_attributes(seen.looks, explaining.rate, seen.formats)
    steps.begin("directions")
    return Explanation(
        report=report,
        waterfall=_waterfall(real, fake, halves),
        samples=_samples(real, fake, outliers, axes, of_fake, scoring),
        repeated=(outliers.repeated, len(fake) - len(fake.unique(dim=0))),
        same=int(outliers.same.sum()),
        uncovered=uncovered,
        classes=classes,
        directions=described_directions(axes, real, fake, seen.numbers()),
        widest=_widest(real, fake, halves, scoring),
        attributes=attributes,
        copies=copies,
        plane=transport_plane(
            real, fake, axes, (halves.pairs, halves.reference, halves.fake), halves.floor
        ),
        curve=sample_curve(
            real[halves.reference], real[halves.held_out], fake[halves.fake], scoring.sliced
        ),
        nodes=cluster_nodes(cluster_names, real, clusters.real, clusters.fake),
        flow=flow,
        rate=explaining.rate,
        names=_names(sets),
        pictures={side: one.pictures for side, one in sets.items() if one.pictures is not None},
        seconds=report.seconds | steps.end(),
        notes=_notes(sets, report.notes, attributes) + seen.notes,
        protocol=_protocol(sets, report.protocol, explaining),
    )


class _Steps:
    """Progress, and the seconds that each step took."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._seconds: dict[str, float] = {}
        self._now, self._began = "", 0.0

    def begin(self, name: str) -> None:
        """End one step and begin the next."""
        self.end()
        self._now, self._began = name, time.perf_counter()
        if self._progress is not None:
            self._progress(f"reasons: {name}", 0, 1)

    def tell(self, done: int, total: int) -> None:
        """How far a step is."""
        if self._progress is not None:
            self._progress(f"reasons: {self._now}", done, total)

    def end(self) -> dict[str, float]:
        """The seconds of all steps so far."""
        if self._now:
            self._seconds[self._now] = time.perf_counter() - self._began
            self.tell(1, 1)
        self._now = ""
        return self._seconds


@contextmanager
def _told_of(sets: Sets) -> Iterator[None]:
    """Tell what is wrong with samples as a fault of their input."""
    try:
        yield
    except ValueError as error:
        # The argument that it names first.
        text = str(error)
        side = next((one for one in sets if text.startswith(f"`{one}`")), "real")
        raise DataError(f"`{sets[side].source['path']}`: {text}") from error


def _halves(real: Tensor, fake: Tensor, clusters: Clusters, scoring: Scoring) -> _Halves:
    """Both halves of real, fake in their size, and optimal plans from the first to the others."""
    sides = [mask.nonzero()[:, 0] for mask in (~clusters.held_out, clusters.held_out)]
    size = min(*map(len, sides), len(fake), scoring.exact_max)
    generator = torch.Generator().manual_seed(scoring.seed)

    def some(rows: Tensor) -> Tensor:
        # In random order: of what follows, parts are the first ones.
        return rows[torch.randperm(len(rows), generator=generator)[:size]].to(real.device)

    reference, held_out = map(some, sides)
    of_fake = some(torch.arange(len(fake)))
    solver = _squared(scoring)
    pairs = optimal_pairs(real[reference].double(), fake[of_fake].double(), solver)
    floor = optimal_pairs(real[reference].double(), real[held_out].double(), solver)
    return _Halves(reference, held_out, of_fake, pairs, floor)


def _waterfall(real: Tensor, fake: Tensor, halves: _Halves) -> Waterfall:
    """The parts of the cost of fake and of held-out samples to the reference ones."""
    reference = real[halves.reference]
    value = cost_parts(reference, fake[halves.fake], halves.pairs.cost)
    floor = cost_parts(reference, real[halves.held_out], halves.floor.cost)
    return Waterfall(len(reference), value, floor)


def _squared(scoring: Scoring) -> Exact:
    """The exact solver of the scores, for squared costs: only these have parts that add up."""
    return replace(scoring.exact, order=2.0)


def _samples(
    real: Tensor,
    fake: Tensor,
    outliers: Outliers,
    axes: Axes,
    names: Sequence[str],
    scoring: Scoring,
) -> tuple[FakeSample, ...]:
    """All that is known of each fake sample, the furthest first."""
    partners = _partners(real, fake, axes, scoring)
    order = outliers.scores.argsort(descending=True, stable=True).tolist()
    return tuple(
        FakeSample(
            row,
            float(outliers.scores[row]),
            float(outliers.distances[row]),
            float(outliers.pvalues[row]),
            bool(outliers.found[row]),
            int(outliers.nearest[row]),
            **partners.get(row, {}),
            name=names[row] if names else "",
            by_direction=bool(outliers.by_direction[row]),
        )
        for row in order
    )


def _partners(
    real: Tensor, fake: Tensor, axes: Axes, scoring: Scoring
) -> dict[int, dict[str, Any]]:
    """What the plan of all samples, or of as many as are solved, says of each fake one."""
    generator = torch.Generator().manual_seed(scoring.seed)
    rows = [
        torch.randperm(len(cloud), generator=generator)[: scoring.exact_max].sort().values
        for cloud in (real, fake)
    ]
    x, y = (
        cloud[some.to(cloud.device)].double()
        for cloud, some in zip((real, fake), rows, strict=True)
    )
    pairs = optimal_pairs(x, y, _squared(scoring))
    costs = torch.zeros(len(y), dtype=torch.float64, device=y.device)
    costs = costs.index_add_(0, pairs.fake, pairs.costs) * len(y)
    spread = (real.double() @ axes.vectors).std(0).clamp_min(torch.finfo(torch.float64).tiny)
    steps = (pairs.moves @ axes.vectors) / spread

    # The partner with most of the mass is the last of those that are written to one place.
    order = pairs.masses.argsort(stable=True).cpu().numpy()
    best = np.empty(len(y), np.int64)
    best[pairs.fake.cpu().numpy()[order]] = order
    found = {}
    for place, row in enumerate(rows[1].tolist()):
        pair = int(best[place])
        largest = steps[pair].abs().argsort(descending=True)[:_FURTHEST].tolist()
        found[row] = {
            "partner": int(rows[0][pairs.real[pair]]),
            "cost": float(costs[place]),
            "effect": float(pairs.effects[place]),
            "directions": tuple((one, float(steps[pair, one])) for one in largest),
        }
    return found


def _widest(real: Tensor, fake: Tensor, halves: _Halves, scoring: Scoring) -> WidestDirection:
    """The widest direction: looked for on one half of both sides, tested on the other."""
    generator = torch.Generator().manual_seed(scoring.seed)
    order = torch.randperm(len(fake), generator=generator).to(fake.device)
    middle = len(fake) // 2
    chosen = real[halves.reference[:_CHOSEN_ON]], fake[order[:middle][:_CHOSEN_ON]]
    tested = real[halves.held_out], fake[order[middle:]]
    return widest_direction(chosen, tested, scoring.seed)


def _classes(
    sets: Sets,
    real: Tensor,
    fake: Tensor,
    halves: _Halves,
    explaining: Explaining,
    scoring: Scoring,
) -> tuple[Classes | None, list[str]]:
    """The classes, and that of each fake sample; None and no names where real has no classes."""
    given = sets["real"].labels
    if given is None or len(set(given)) < 2:
        return None, []
    of_fake = labels_of(sets["fake"], sets["real"])
    names = sorted({*given, *(of_fake or ())})
    numbers = {name: number for number, name in enumerate(names)}
    x = np.array([numbers[name] for name in given])

    agreement = None
    counted = x
    if of_fake is not None:
        y = np.array([numbers[name] for name in of_fake])
        labelled = "given"
    else:
        # Held-out real samples get theirs by the same vote: its errors are on both sides.
        reference, held_out = halves.reference, halves.held_out
        y = voted_classes(real[reference], x[reference.cpu()], fake)
        counted = voted_classes(real[reference], x[reference.cpu()], real[held_out])
        agreement = float(np.mean(counted == x[held_out.cpu()]))
        x = x.copy()
        x[held_out.cpu()] = counted
        labelled = "by vote"
    counts = [np.bincount(side, minlength=len(names)) for side in (counted, y)]
    shares = compared_shares(names, *counts, rate=explaining.rate)
    flow = _flow(names, torch.from_numpy(x), torch.from_numpy(y), halves)
    return Classes(shares, flow, labelled, agreement), [names[number] for number in y]


def _flow(names: list[str], of_real: Tensor, of_fake: Tensor, halves: _Halves) -> Flow:
    """The flow from class to class above its floor."""
    device = halves.reference.device
    of_real, of_fake = of_real.to(device), of_fake.to(device)
    reference = of_real[halves.reference]
    return excess_flow(
        names,
        (halves.pairs, reference, of_fake[halves.fake]),
        (halves.floor, reference, of_real[halves.held_out]),
        len(halves.reference),
    )


def _appearance(sets: Sets, explaining: Explaining, scoring: Scoring, steps: _Steps) -> Appearance:
    """How the images of both sides look."""
    found = {side: sets[side].pictures for side in ("real", "fake")}
    known = {side: one for side, one in found.items() if one is not None}
    return appearance_of(known, explaining.num_looked_at, scoring.seed, steps.tell)


def _names(sets: Sets) -> dict[str, tuple[str, ...]]:
    """The names of the images of each side."""
    return {
        side: tuple(one.pictures.names()) for side, one in sets.items() if one.pictures is not None
    }


def _notes(sets: Sets, notes: list[str], attributes: Sequence[Attribute]) -> list[str]:
    """The notes of the scores, and what was read of the training samples."""
    if any(one.formats and one.found for one in attributes):  # told as a finding
        notes = [line for line in notes if not line.startswith(FORMATS_DIFFER)]
    if "train" not in sets:
        return notes
    return [*notes, *(f"train: {line}" for line in sets["train"].notes)]


def _protocol(sets: Sets, protocol: dict[str, Any], explaining: Explaining) -> dict[str, Any]:
    """The protocol of the scores, and what was looked for."""
    inputs = {name: item.source for name, item in sets.items()}
    return protocol | {"inputs": inputs, "explaining": asdict(explaining)}
