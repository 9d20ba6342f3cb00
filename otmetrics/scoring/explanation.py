"""What explaining returns: the scores, and what makes them what they are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from otmetrics.explanation.attributes import Attribute
from otmetrics.explanation.classes import Flow
from otmetrics.explanation.copies import Copies
from otmetrics.explanation.curve import CurvePoint
from otmetrics.explanation.directions import Direction, WidestDirection
from otmetrics.explanation.plane import Node, Plane
from otmetrics.explanation.shares import Share
from otmetrics.explanation.uncovered import Gap, Uncovered
from otmetrics.explanation.waterfall import Waterfall
from otmetrics.scoring.pictures import Pictures
from otmetrics.scoring.report import ScoreReport, listed

_NAMED = 3  # classes, clusters or attributes that a sentence names


@dataclass(frozen=True)
class FakeSample:
    """What is known of one fake sample.

    Attributes:
        fake: Its row.
        strangeness: How far it lies from the real samples, by distance or by direction, whichever
            is more: 0 for half of the real samples, and 1 for what only 5 % of them exceed.
        distance: Its mean distance to the nearest real samples, in the units of the features.
        pvalue: Share of the real samples, and of itself, that are as strange to the others.
        found: Whether it lies further than real does, with the rate of false discoveries held.
        nearest: The row of the nearest real sample, by what it stands out by.
        partner: The row of the real sample that the plan gives it most mass of; None where the plan
            is of a part of the samples that it is not in.
        cost: What it costs, |x - y|^2 averaged over its partners: their mean is W_2^2.
        effect: By how much W_2^2 grows per mass that is moved to it; of mean 0.
        by_direction: Whether it stands out by its direction from the origin, not by its distance.
        directions: The two directions, as they are numbered in `Explanation.directions`, along
            which it is furthest from its partner, in standard deviations of the real samples.
        name: Its class or cluster.
    """

    fake: int
    strangeness: float
    distance: float
    pvalue: float
    found: bool
    nearest: int
    partner: int | None = None
    cost: float | None = None
    effect: float | None = None
    directions: tuple[tuple[int, float], ...] = ()
    name: str = ""
    by_direction: bool = False


@dataclass(frozen=True)
class Classes:
    """The classes of both sides.

    Attributes:
        shares: Each class with its share on both sides, the most different first.
        flow: What the plan sends from class to class above the floor.
        labelled: Whose classes come from where: "given" on both sides, or "by vote" of the nearest
            real samples for the fake ones.
        agreement: The share of held-out real samples that this vote gives the class that they
            have; None where the classes of both sides were given.
    """

    shares: tuple[Share, ...]
    flow: Flow
    labelled: str
    agreement: float | None = None


@dataclass(frozen=True)
class Explanation:
    """Why two sets of samples have the scores that they have.

    Attributes:
        report: The scores.
        waterfall: The distance in parts that add up to it.
        samples: Every fake sample, those that lie furthest from real ones first.
        repeated: Real and fake samples that equal an earlier one of their side.
        same: Fake samples that equal a real one.
        uncovered: Clusters of real samples that fakes avoid, or crowd.
        classes: Classes, where the real samples have any.
        directions: The directions that carry most of the excess, of the largest first.
        widest: The direction along which both sides differ most, with its test.
        attributes: Attributes of images, the most different first; none without images.
        copies: Fakes that copy training samples; None without these.
        plane: The plane of the first two directions.
        curve: The sliced distance and its floor at several numbers of samples.
        nodes: Clusters on a map.
        flow: What the plan sends from cluster to cluster above the floor.
        rate: The rate of false discoveries that each kind of finding holds.
        names: Names of the samples by side, "real", "fake" and "train", where they have any.
        pictures: Their images by side, where there are any.
        seconds: What took how long; explanations that differ in nothing else are equal.
        notes: What a reader should know, one line each.
        protocol: Inputs, extractor, options, seeds and versions, JSON-able.
    """

    report: ScoreReport
    waterfall: Waterfall
    samples: tuple[FakeSample, ...]
    repeated: tuple[int, int]
    same: int
    uncovered: Uncovered
    classes: Classes | None
    directions: tuple[Direction, ...]
    widest: WidestDirection
    attributes: tuple[Attribute, ...]
    copies: Copies | None
    plane: Plane
    curve: tuple[CurvePoint, ...]
    nodes: tuple[Node, ...]
    flow: Flow
    rate: float
    names: Mapping[str, tuple[str, ...]]
    pictures: Mapping[str, Pictures] = field(default_factory=dict, repr=False, compare=False)
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    notes: list[str] = field(default_factory=list)
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def worst(self) -> list[FakeSample]:
        """The fakes that lie further from real than real does, the furthest first."""
        return [sample for sample in self.samples if sample.found]

    @property
    def converged(self) -> bool:
        """Whether every solver reached its tolerance."""
        return self.report.converged

    def __str__(self) -> str:
        """The scores as a table, and the verdict, in plain text."""
        return "\n".join([self.headline(), str(self.report), *self.findings()])

    def verdict(self) -> list[str]:
        """What the scores say, and what was found.

        Returns:
            Plain sentences: one that sums up what was found, those of the report, and those of
            `findings`.
        """
        return [self.headline(), *self.report.verdict(), *self.findings()]

    def headline(self) -> str:
        """What was found, in one sentence.

        Returns:
            A sentence with a part for each kind of finding.
        """
        parts = []
        if self.worst:
            parts.append(f"{len(self.worst)} of {len(self.samples)} fakes lie apart from real")
        gaps, crowded = self.uncovered.gaps, self.uncovered.crowded
        for kinds, way in ((gaps, "rare or missing"), (crowded, "too frequent")):
            if kinds:
                count = "one kind" if len(kinds) == 1 else f"{len(kinds)} kinds"
                parts.append(f"{count} of real samples {_is(kinds)} {way}")
        for classes, way in zip(self._classes_found(), ("rare", "frequent"), strict=True):
            if classes:
                names = [one.name for one in classes[:_NAMED]]
                names += [f"{len(classes) - _NAMED} more"] if len(classes) > _NAMED else []
                parts.append(f"{listed(names)} {_is(classes)} too {way}")
        differing = [one.name for one in self.attributes if one.found]
        if differing:
            parts.append(f"images differ in {listed(differing)}")
        if self.copies is not None and self.copies.rows:
            parts.append(f"{len(self.copies.rows)} fakes are close to training samples")
        if not parts:
            return "No fault was found of the kinds that were looked for."
        text = "; ".join(parts)
        return text[0].upper() + text[1:] + "."

    def _classes_found(self) -> tuple[list[Share], list[Share]]:
        """The classes that are too rare among fakes, and those that are too frequent."""
        found = [] if self.classes is None else [one for one in self.classes.shares if one.found]
        rare = [one for one in found if one.ratio is not None and one.ratio < 1]
        return rare, [one for one in found if one not in rare]

    def findings(self) -> list[str]:
        """What was found, one sentence for each kind of fault that was looked for.

        Each kind holds the rate of false discoveries by itself: of the fakes that are named, of
        the clusters, of the classes, of the attributes and of the copies.

        Returns:
            Sentences.
        """
        rate = f"false discovery rate {100 * self.rate:g} %"
        found = [self._of_samples(rate), *self._of_repeated()]
        found += self._of_clusters()
        found += self._of_classes()
        differing = [one for one in self.attributes if one.found]
        if differing:
            told = [f"{one.name} ({shift_text(one)})" for one in differing]
            found.append(f"Images differ in {listed(told)}.")
        elif self.attributes:
            found.append("No difference was found in brightness, contrast or the like.")
        if self.copies is not None:
            number, shared = len(self.copies.rows), len(self.copies.shared)
            if shared:
                found.append(f"{shared} real samples are in the training samples themselves.")
            found.append(
                f"{number} of {self.copies.samples} fakes are closer to a training sample than "
                f"real samples are ({rate})."
                if number
                else "No fake was found that is closer to training samples than real samples are."
            )
        return found

    def _of_samples(self, rate: str) -> str:
        """How many fakes lie too far; where none is told to, how many lie beyond all real ones."""
        number, total = len(self.worst), len(self.samples)
        if number:
            return (
                f"{number} of {total} fakes lie apart from the real samples, further than these do "
                f"from each other ({rate})."
            )
        real = self.report.protocol["inputs"]["real"]["used"]
        least = min((sample.pvalue for sample in self.samples), default=1.0)
        beyond = sum(sample.pvalue == least for sample in self.samples) if least < 2 / real else 0
        told = f"No fake is told to lie apart from the real samples ({rate})"
        expected = total / (real + 1)
        if beyond > 1 + 2 * expected:
            told += f"; {beyond} further than every real sample, where chance puts {expected:.2g}"
        return told + "."

    def _of_repeated(self) -> list[str]:
        """How many fakes equal real ones; or each other, where more do than real samples."""
        sizes = [self.report.protocol["inputs"][side]["used"] for side in ("real", "fake")]
        lines = []
        if self.same:
            lines.append(f"{self.same} of {sizes[1]} fakes equal a real sample exactly.")
        of_real, of_fake = (count / size for count, size in zip(self.repeated, sizes, strict=True))
        if of_fake > of_real:
            real, fake = self.repeated
            lines.append(
                f"{fake} of {sizes[1]} fakes repeat another fake exactly; of {sizes[0]} real "
                f"samples {real} do."
            )
        return lines

    def _of_clusters(self) -> list[str]:
        """What is not covered, and what is crowded."""
        gaps, crowded = self.uncovered.gaps, self.uncovered.crowded
        if not gaps and not crowded:
            return ["No cluster of real samples was found that fakes avoid or crowd."]
        found = []
        for side, way in ((gaps, "too seldom"), (crowded, "too often")):
            if side:
                told = [f"{self.cluster_name(one)} ({_times(one.ratio)})" for one in side[:_NAMED]]
                more = f" and {len(side) - _NAMED} more" if len(side) > _NAMED else ""
                found.append(f"Fakes lie {way} in {'; '.join(told)}{more}.")
        return found

    def cluster_name(self, gap: Gap) -> str:
        """A cluster by its number, and by the image in its middle where there are images.

        Args:
            gap: One of `uncovered`.

        Returns:
            "cluster 3, around cat-07.png".
        """
        number = f"cluster {gap.cluster + 1}"
        names = self.names.get("real")
        return f"{number}, around {names[gap.medoid]}" if names else number

    def _of_classes(self) -> list[str]:
        """Which classes have another share."""
        if self.classes is None:
            return []
        rare, frequent = self._classes_found()
        lines = []
        alone = [one for one in self.classes.shares if one.real == 0 and one.fake]
        if alone:
            names = [one.name for one in alone[:_NAMED]]
            names += [f"{len(alone) - _NAMED} more"] if len(alone) > _NAMED else []
            number = sum(one.fake for one in alone)
            lines.append(f"{number} fakes are of classes that no real sample has: {listed(names)}.")
        if not rare and not frequent:
            return [*lines, "No class was found that has another share among fakes."]
        for some, way in ((rare, "rare"), (frequent, "frequent")):
            if some:
                told = [f"{one.name} ({_times(one.ratio)})" for one in some[:_NAMED]]
                more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
                lines.append(f"Classes too {way} among fakes: {', '.join(told)}{more}.")
        return lines

    def tables(self, most: int) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
        """What was found as tables of text.

        Args:
            most: Lines of each at most.

        Returns:
            Header and rows of each table: fakes too far from real, classes with another share, and
            copies; only those in which something was found.
        """
        tables: list[tuple[tuple[str, ...], list[tuple[str, ...]]]] = []
        rows: list[tuple[str, ...]]
        if self.worst:
            rows = [
                (
                    self.name_of("fake", one.fake) or "",
                    f"{one.strangeness:.3g}",
                    f"{one.pvalue:.2g}",
                    self.name_of("real", one.nearest) or "",
                )
                for one in self.worst[:most]
            ]
            tables.append((("far from real", "strangeness", "p", "nearest real"), rows))
        shares = [] if self.classes is None else [one for one in self.classes.shares if one.found]
        if shares:
            rows = [
                (one.name, str(one.real), str(one.fake), f"{one.pvalue:.2g}", ratio_text(one))
                for one in shares[:most]
            ]
            tables.append((("class", "real", "fake", "p", "times its share"), rows))
        if self.copies is not None and self.copies.rows:
            rows = [
                (
                    self.name_of("fake", one.fake) or "",
                    f"{one.ratio:.2g}",
                    f"{one.pvalue:.2g}",
                    self.name_of("train", one.train) or "",
                )
                for one in self.copies.rows[:most]
            ]
            tables.append((("copy", "ratio", "p", "training sample"), rows))
        return tables

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON: the keys of the report, and `explanation`.

        Returns:
            Samples stand as their rows; the names of those under `names`, by side and row.
        """
        kinds = ("waterfall", "uncovered", "widest", "plane", "flow")
        explanation: dict[str, Any] = {name: asdict(getattr(self, name)) for name in kinds}
        for name in ("directions", "attributes", "curve", "nodes"):
            explanation[name] = [asdict(one) for one in getattr(self, name)]
        explanation |= {"repeated": list(self.repeated), "same": self.same}
        explanation["worst"] = [asdict(one) for one in self.worst]
        for name in ("classes", "copies"):
            part = getattr(self, name)
            explanation[name] = None if part is None else asdict(part)
        explanation["waterfall"]["excess"] = asdict(self.waterfall.excess)
        shown = {"rate": self.rate, "findings": self.findings(), **explanation}
        names = {
            side: {str(row): self.names[side][row] for row in sorted(rows)}
            for side, rows in self._mentioned().items()
            if side in self.names
        }
        report = self.report.to_dict()
        return report | {
            "notes": [*self.notes],
            "protocol": self.protocol,
            "explanation": shown | {"names": names},
        }

    def _mentioned(self) -> dict[str, set[int]]:
        """The rows of samples of each side that some finding names."""
        rows: dict[str, set[int]] = {"real": set(), "fake": set(), "train": set()}
        for sample in self.worst:
            rows["fake"].add(sample.fake)
            rows["real"].add(sample.nearest)
            rows["real"] |= set() if sample.partner is None else {sample.partner}
        for gap in (*self.uncovered.gaps, *self.uncovered.crowded):
            rows["real"] |= {gap.medoid, *gap.examples}
            rows["fake"] |= {gap.nearest_fake, *gap.fakes}
        for one in self.directions:
            rows["real"].update(one.real)
            rows["fake"].update(one.fake)
        for side, shown in zip(("real", "fake"), self.plane.rows, strict=True):
            rows[side].update(shown)
        if self.copies is not None:
            rows["fake"] |= {one.fake for one in self.copies.rows}
            rows["train"] |= {one.train for one in self.copies.rows}
            rows["real"] |= {row for row, _ in self.copies.shared}
            rows["train"] |= {row for _, row in self.copies.shared}
        return rows

    def to_table(self) -> list[dict[str, Any]]:
        """One row for each fake sample, the furthest first, with plain values.

        Returns:
            Rows with the keys source, row, class, strangeness, distance, pvalue, found, cost,
            effect, partner, nearest, copy_of and copy_pvalue, which `pandas.DataFrame`,
            `wandb.Table` and others take; None where nothing is known.
        """
        copies = {}
        if self.copies is not None:
            copies = {one.fake: one for one in self.copies.rows}
        return [
            {
                "source": self.name_of("fake", sample.fake),
                "row": sample.fake,
                "class": sample.name,
                "strangeness": sample.strangeness,
                "distance": sample.distance,
                "pvalue": sample.pvalue,
                "found": sample.found,
                "cost": sample.cost,
                "effect": sample.effect,
                "partner": self.name_of("real", sample.partner),
                "nearest": self.name_of("real", sample.nearest),
                "copy_of": self.name_of("train", copies[sample.fake].train)
                if sample.fake in copies
                else None,
                "copy_pvalue": copies[sample.fake].pvalue if sample.fake in copies else None,
            }
            for sample in self.samples
        ]

    def name_of(self, side: str, row: int | None) -> str | None:
        """The name of a sample.

        Args:
            side: "real", "fake" or "train".
            row: Its row; None gives None.

        Returns:
            The name of its image, or the file of its features with its row.
        """
        if row is None:
            return None
        names = self.names.get(side)
        if names:
            return names[row]
        return f"{self.protocol['inputs'][side]['path']}[{row}]"


def _is(some: Sequence[Any]) -> str:
    return "is" if len(some) == 1 else "are"


def ratio_text(share: Share | Gap) -> str:
    """A ratio of shares with its interval."""
    if share.ratio is None:
        return "in fakes alone"
    return f"{share.ratio:.2g} [{share.low:.2g}, {share.high:.2g}]"


def _times(ratio: float | None) -> str:
    """A ratio of shares in a sentence."""
    return "in fakes alone" if ratio is None else f"{ratio:.2g} times its share"


def shift_text(attribute: Attribute) -> str:
    """By how much an attribute differs."""
    if attribute.shift is None:
        return f"{attribute.real:.3g} of all real ones, {attribute.fake:.3g} of fakes"
    return f"{attribute.shift:+.2g} sd"
