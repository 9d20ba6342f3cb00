"""What explaining returns: the scores, and what makes them what they are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from otmetrics.explanation.attributes import Attribute
from otmetrics.explanation.classes import Flow
from otmetrics.explanation.copies import Copies
from otmetrics.explanation.curve import CurvePoint
from otmetrics.explanation.directions import Direction, WidestDirection
from otmetrics.explanation.plane import Node, Plane
from otmetrics.explanation.shares import Share
from otmetrics.explanation.uncovered import Gap, Uncovered
from otmetrics.explanation.waterfall import Waterfall
from otmetrics.scoring.effects import (
    NAMED,
    effect,
    first_named,
    is_or_are,
    larger_first,
    ratio_text,
    shift,
    shift_text,
    slight,
    times,
)
from otmetrics.scoring.pictures import FILE_SIZE, Pictures
from otmetrics.scoring.report import ScoreReport, listed, plain_table

_UNLIKE = "are unlike any real sample"


class _Told(NamedTuple):
    """Sentences on what was found, and on what was looked for and not found."""

    found: Sequence[str] = ()
    missing: Sequence[str] = ()


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
        headline, *others = self.verdict()
        scores = plain_table(self.report.header(), self.report.rows(), left=(0,))
        return "\n".join([headline, *scores, *others])

    def kinds(self) -> list[str]:
        """The kinds of which something was found, the most serious first.

        Copies come first, then fakes unlike any real sample. Shares of classes and clusters, and
        attributes, weigh the same: the larger effect comes first, by the logarithm of a ratio of
        shares and by the shift in standard deviations.

        Returns:
            Some of "copies", "unlike", "classes", "clusters" and "attributes".
        """
        rare, frequent = self._classes_found()
        found = {
            "copies": self.copies is not None and len(self.copies.rows) > 0,
            "unlike": bool(self.worst),
            "classes": bool(rare or frequent),
            "clusters": bool(self.uncovered.gaps or self.uncovered.crowded),
            "attributes": bool(self._attributes_found()),
        }
        return [kind for kind in ("copies", "unlike", *self._lighter()) if found[kind]]

    def _lighter(self) -> tuple[str, str, str]:
        """The kinds that weigh the same, the one with the largest effect first."""
        rare, frequent = self._classes_found()
        shares: list[Share | Gap] = [*rare, *frequent]
        shares += [*self.uncovered.gaps, *self.uncovered.crowded]
        shifts = [shift(one) for one in self._attributes_found()[:1]]
        if max(shifts, default=0.0) > max(map(effect, shares), default=0.0):
            return "attributes", "classes", "clusters"
        return "classes", "clusters", "attributes"

    def verdict(self) -> list[str]:
        """What the scores say, and what was found.

        Returns:
            Plain sentences: one that sums up what was found, those on the scores, and those of
            `findings`.
        """
        return [self.headline(), *self._of_scores(), *self.findings()]

    def _of_scores(self) -> list[str]:
        """What the scores say; where they show nothing and something was found, as a whole."""
        if self.report.differs is not False or not self.kinds():
            return self.report.verdict()
        joint = self.report.joint_pvalue
        together = "" if joint is None else f": all together have p = {joint:.3g}"
        return [f"The scores show no difference as a whole at this sample size{together}."]

    def headline(self) -> str:
        """What was found, in one sentence, in the order of `kinds`.

        Returns:
            A sentence with a part for each kind of finding: copies, fakes unlike any real sample,
            what is missing or too frequent, and how images differ. It says so where no score shows
            a difference and no fake by itself was found.
        """
        kinds = self.kinds()
        if not kinds:
            return "No fault was found of the kinds that were looked for."
        tell = {
            "copies": self._copies_told,
            "unlike": self._unlike_told,
            "classes": self._classes_told,
            "clusters": self._clusters_told,
            "attributes": self._attributes_told,
        }
        parts = [part for kind in kinds for part in tell[kind]()]
        if self.report.differs is False and not {"copies", "unlike"} & set(kinds):
            parts.insert(0, "no score shows a difference")
        text = "; ".join(parts)
        return text[0].upper() + text[1:] + "."

    def _copies_told(self) -> list[str]:
        if self.copies is None:
            return []
        number, total = len(self.copies.rows), self.copies.samples
        return [f"{number} of {total} fakes nearly copy a training sample"]

    def _unlike_told(self) -> list[str]:
        return [f"{len(self.worst)} of {len(self.samples)} fakes {_UNLIKE}"]

    def _classes_told(self) -> list[str]:
        """The classes with another share, of how many."""
        told = [
            f"{listed(first_named([f'{one.name} ({times(one.ratio)})' for one in some]))} "
            f"{is_or_are(some)} too {way}"
            for some, way in larger_first(self._classes_found(), ("rare", "frequent"))
        ]
        number = 0 if self.classes is None else len(self.classes.shares)
        return [f"of {number} classes {', and '.join(told)}"]

    def _clusters_told(self) -> list[str]:
        """How many clusters have another share."""
        both = self.uncovered.gaps, self.uncovered.crowded
        return [
            f"{'one kind' if len(some) == 1 else f'{len(some)} kinds'} of real samples "
            f"{is_or_are(some)} {way}"
            for some, way in larger_first(both, ("rare or missing", "too frequent"))
        ]

    def _attributes_told(self) -> list[str]:
        """The attribute that shifts most, and how many others do."""
        differing = self._attributes_found()
        most, *others = differing
        noun = "attribute" if len(others) == 1 else "attributes"
        more = f", and in {len(others)} more {noun}" if others else ""
        way = "slightly in" if slight(differing) else "most in" if others else "in"
        return [f"fake images differ {way} {most.name} ({shift_text(most)}){more}"]

    def _attributes_found(self) -> list[Attribute]:
        """The attributes that differ, the one with the largest shift first."""

        def size(one: Attribute) -> float:
            # Of shifts that read alike the one of the smaller p-value, as they stand, comes first.
            # Size follows from the content.
            return -1.0 if one.name == FILE_SIZE else float(f"{shift(one):.2g}")

        return sorted((one for one in self.attributes if one.found), key=size, reverse=True)

    def _classes_found(self) -> tuple[list[Share], list[Share]]:
        """The classes that are too rare and too frequent among fakes, the largest effect first."""
        found = [] if self.classes is None else [one for one in self.classes.shares if one.found]
        found.sort(key=effect, reverse=True)
        rare = [one for one in found if one.ratio is not None and one.ratio < 1]
        return rare, [one for one in found if one not in rare]

    def findings(self) -> list[str]:
        """What was found, and then what was looked for and not found, the most serious first.

        Each kind holds the rate of false discoveries by itself: of the fakes that are named, of
        the clusters, of the classes, of the attributes and of the copies.

        Returns:
            Sentences.
        """
        lighter = {
            "classes": self._of_classes,
            "clusters": self._of_clusters,
            "attributes": self._of_attributes,
        }
        kinds = [
            *(self._of_copies(), self._of_samples(), self._of_repeated()),
            *(lighter[kind]() for kind in self._lighter()),
        ]
        return [line for one in kinds for line in one.found] + [
            line for one in kinds for line in one.missing
        ]

    def sample_findings(self) -> list[str]:
        """What `findings` says of fakes that are unlike any real sample.

        Returns:
            Sentences.
        """
        return [line for told in self._of_samples() for line in told]

    def _of_samples(self) -> _Told:
        """How many fakes lie too far; where none is told to, how many lie beyond all real ones."""
        number, total = len(self.worst), len(self.samples)
        if number:
            return _Told(
                [
                    f"{number} of {total} fakes {_UNLIKE}: they are further from the real ones "
                    f"than these are from each other ({self._rate})."
                ]
            )
        real = self.report.protocol["inputs"]["real"]["used"]
        least = min((sample.pvalue for sample in self.samples), default=1.0)
        beyond = sum(sample.pvalue == least for sample in self.samples) if least < 2 / real else 0
        told = f"No fakes were found that {_UNLIKE} ({self._rate})"
        expected = total / (real + 1)
        if beyond > 1 + 2 * expected:
            told += (
                f"; {beyond} are further from the others than every real sample is, where chance "
                f"puts {expected:.2g}"
            )
        return _Told([], [told + "."])

    @property
    def _rate(self) -> str:
        return f"false discovery rate {100 * self.rate:g} %"

    def _of_copies(self) -> _Told:
        """How many fakes are too close to training samples."""
        if self.copies is None:
            return _Told()
        number, shared, found = len(self.copies.rows), len(self.copies.shared), []
        if number:
            found.append(
                f"{number} of {self.copies.samples} fakes nearly copy a training sample: they are "
                f"closer to it than real samples are to any ({self._rate})."
            )
        if shared:
            found.append(f"{shared} real samples are in the training samples themselves.")
        return _Told(found, [] if number else ["No fakes were found that copy training samples."])

    def _of_attributes(self) -> _Told:
        """In which attributes images differ."""
        if not self.attributes:
            return _Told()
        differing = self._attributes_found()
        if not differing:
            return _Told([], ["No difference was found in brightness, contrast or the like."])
        told = listed([f"{one.name} ({shift_text(one)})" for one in differing])
        return _Told([f"Images differ{' slightly' if slight(differing) else ''} in {told}."])

    def _of_repeated(self) -> _Told:
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
        return _Told(lines)

    def _of_clusters(self) -> _Told:
        """What is not covered, and what is crowded."""
        found = []
        both = self.uncovered.gaps, self.uncovered.crowded
        for side, way in larger_first(both, ("too seldom", "too often")):
            # Names of clusters have commas.
            told = [f"{self.cluster_name(one)} ({times(one.ratio)})" for one in side[:NAMED]]
            more = f" and {len(side) - NAMED} more" if len(side) > NAMED else ""
            found.append(f"Fakes lie {way} in {'; '.join(told)}{more}.")
        if found:
            return _Told(found)
        return _Told([], ["No cluster of real samples was found that fakes avoid or crowd."])

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

    def _of_classes(self) -> _Told:
        """Which classes have another share."""
        if self.classes is None:
            return _Told()
        lines = []
        for some, way in larger_first(self._classes_found(), ("rare", "frequent")):
            told = listed(first_named([f"{one.name} ({times(one.ratio)})" for one in some]))
            lines.append(f"Classes too {way} among fakes: {told}.")
        missing = [] if lines else ["No class was found that has another share among fakes."]
        alone = [one for one in self.classes.shares if one.real == 0 and one.fake]
        if alone:
            names = listed(first_named([one.name for one in alone]))
            number = sum(one.fake for one in alone)
            lines.append(f"{number} fakes are of classes that no real sample has: {names}.")
        return _Told(lines, missing)

    def tables(self, most: int) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
        """What was found as tables of text.

        Args:
            most: Lines of each at most.

        Returns:
            Header and rows of each table: fakes unlike any real sample, classes with another share,
            and copies; only those in which something was found.
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
            tables.append((("unlike real", "strangeness", "p", "nearest real"), rows))
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
