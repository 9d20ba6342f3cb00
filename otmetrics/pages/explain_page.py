"""The page of an Explanation: the verdict, the scores, and the pictures of what is wrong."""

from collections.abc import Sequence
from typing import Any

from otmetrics.explanation.copies import Copies, Copy
from otmetrics.explanation.directions import QUANTILES
from otmetrics.explanation.plane import Node
from otmetrics.explanation.uncovered import Gap
from otmetrics.scoring.explanation import Classes, Explanation, FakeSample, ratio_text
from otmetrics.scoring.legend import provenance, read_lines, sample_lines

from .elements import Child, Element, element, name
from .frame import (
    NOWHERE,
    Origin,
    Section,
    Top,
    notes_section,
    page,
    path_name,
    protocol_section,
)
from .graph import cluster_graph
from .planes import Curve, Points, curves, scatter
from .regions import bullets, captioned, figure, folded, gallery
from .rows import bar, interval_line, row_scale, signs
from .score_page import class_section, scores_content, unconverged
from .tables import heat_table, table
from .thumbnails import Thumbnails

_WORST, _GAPS, _COPIES = 24, 6, 24  # of each that are shown
_MOST_FLOWS = 12  # classes whose flows make a table that can be read
_LISTED = 40  # lines of a table
_MOST_IN_DATA = 1000  # samples in the JSON of the page: --json and --csv have all
_MOST_FLOWS_IN_DATA = 40  # classes whose flows are there
_SIDES = {"real": "real", "fake": "fake", "train": "training"}


def explain_page(found: Explanation, origin: Origin = NOWHERE) -> str:
    """A page with the verdict first, then scores, pictures and maps, and what repeats them."""
    report, inputs = found.report, found.protocol["inputs"]
    first, *rest = found.verdict()
    top = Top(
        title=f"{inputs['fake']['path']} against {inputs['real']['path']}, explained: otmetrics",
        heading=[
            "What makes ",
            path_name(inputs["fake"]),
            " differ from ",
            path_name(inputs["real"]),
            "?",
        ],
        verdict=[first, bullets(rest)] if rest else [first],
        sides=read_lines(report),
    )
    notes = [note for note in found.notes if note not in read_lines(report)]
    images = Thumbnails()
    shown = _Shown(found, images)
    sections = [
        Section("scores", "Scores", [scores_content(report), *_waterfall(found)]),
        Section("worst", "Fakes far from real", _worst(found, shown)),
        Section("uncovered", "Kinds that are missing, or too many", _uncovered(found, shown)),
        *_classes(found),
        *class_section(report),
        Section("directions", "Directions", _directions(found, shown)),
        *_attributes(found),
        *_copies(found, shown),
        Section("map", "Map", _map(found)),
        *_curve(found),
        *notes_section([*unconverged(report), *notes], origin),
        protocol_section(
            found.protocol, [*sample_lines(report), provenance(report.protocol)], origin
        ),
    ]
    return page(top, sections, _data(found), images)


def _data(found: Explanation) -> dict[str, Any]:
    """The JSON of the page; of one that would not open, the first samples and no flows."""
    data = found.to_dict()
    reasons = data["explanation"]
    reasons["worst"] = reasons["worst"][:_MOST_IN_DATA]
    if reasons["copies"] is not None:
        reasons["copies"]["rows"] = reasons["copies"]["rows"][:_MOST_IN_DATA]
    flows = [reasons["flow"], *([] if reasons["classes"] is None else [reasons["classes"]["flow"]])]
    for flow in flows:
        if len(flow["names"]) > _MOST_FLOWS_IN_DATA:
            flow.update(excess=None, errors=None)
    return data


class _Shown:
    """Samples as a page shows them: a picture where there is one, and the name."""

    def __init__(self, found: Explanation, images: Thumbnails) -> None:
        self._found, self._images = found, images
        self._read: dict[tuple[str, int], bytes | None] = {}

    @property
    def any(self) -> bool:
        """Whether there are pictures of both sides."""
        return {"real", "fake"} <= set(self._found.pictures)

    def picture(self, side: str, row: int | None) -> Element | None:
        """The picture of a sample; None where there is none."""
        pictures = self._found.pictures.get(side)
        if row is None or pictures is None:
            return None
        key = (side, row)
        if key not in self._read:
            self._read[key] = pictures.thumbnail(row)
        content = self._read[key]
        if content is None:
            return None
        text = f"{_SIDES[side]} image {self._found.name_of(side, row)}"
        return self._images.show(key, content, text)

    def name(self, side: str, row: int | None) -> Element:
        """Its name."""
        return name(self._found.name_of(side, row) or "-")

    def item(self, side: str, row: int, *caption: Child) -> list[Child] | None:
        """A picture with its caption, for a gallery; None without a picture."""
        picture = self.picture(side, row)
        return None if picture is None else captioned([picture], *caption)


def _gallery(items: Sequence[list[Child] | None]) -> Element | None:
    """Pictures side by side; nothing where there is none."""
    there = [one for one in items if one is not None]
    return gallery(there) if there else None


def _waterfall(found: Explanation) -> list[Child]:
    """The parts of W_2^2 as bars."""
    value, floor, excess = (
        found.waterfall.value,
        found.waterfall.floor,
        found.waterfall.excess,
    )
    parts = [
        ("shift of the mean", value.mean, floor.mean, excess.mean),
        ("spread and correlation", value.covariance, floor.covariance, excess.covariance),
        ("shape and sampling noise", value.shape, floor.shape, excess.shape),
        ("squared exact distance", value.total, floor.total, excess.total),
    ]
    scale = row_scale([0.0, *(number for _, *numbers in parts for number in numbers)])
    rows: list[list[Child]] = [
        [
            label,
            f"{a:.4g}",
            f"{b:.4g}",
            f"{c:+.3g}",
            element(
                "td",
                bar(f"{label}: {a:.4g}, floor {b:.4g}", scale, a, beside=b),
                class_="drawn",
            ),
        ]
        for label, a, b, c in parts
    ]
    header: list[Child] = ["part", "value", "floor", "excess"]
    header.append(element("th", "value above its floor", scope="col", class_="words"))
    drawn, beside = signs("bar", "beside")
    return [
        element("h3", "Where the distance comes from"),
        table("Parts of the squared exact distance, which add up", header, rows),
        element(
            "ul", element("li", drawn, " value"), element("li", beside, " floor"), class_="legend"
        ),
        element(
            "p",
            f"At {found.waterfall.size} samples per side; the floor is the same between two parts "
            "of the real samples. Only what is above it is a difference.",
            class_="quiet",
        ),
    ]


def _worst(found: Explanation, shown: _Shown) -> list[Child]:
    """The fakes that lie furthest, with their partners."""
    number, content = len(found.worst), list[Child]()
    samples = found.worst[:_WORST] if number else list(found.samples[: _WORST // 3])
    content.append(element("p", found.findings()[0]))
    if not number:
        content.append(
            element("p", "These are the furthest ones, which may be so by chance:", class_="quiet")
        )
    if shown.any:
        content.append(element("p", "Fake, its partner in the plan, and the nearest real sample:"))
        content.append(_gallery([_trio(sample, shown) for sample in samples]))
    listed = found.worst[:_LISTED] if number else samples
    rows: list[list[Child]] = [
        [
            shown.name("fake", one.fake),
            f"{one.strangeness:.3g}",
            f"{one.pvalue:.2g}",
            "-" if one.cost is None else f"{one.cost:.4g}",
            _along(one),
            shown.name("real", one.partner),
            shown.name("real", one.nearest),
        ]
        for one in listed
    ]
    header = ["fake", "strangeness", "p", "cost", "differs along", "partner", "nearest real"]
    more = f", the first {len(listed)} of {number}" if number > len(listed) else ""
    title = f"Fakes far from real{more}"
    made = table(title, header, rows, left=(0, 4, 5, 6))
    content.append(folded("As a table", made) if shown.any else made)
    content.append(
        folded(
            "What the columns mean",
            bullets(
                [
                    "strangeness: how far a fake lies from the real samples, by distance or by "
                    "direction; half of the real samples have less than 0, and 5 % more than 1; p: "
                    "the share of real samples that are as strange",
                    "cost: what the optimal plan pays to move it to its partners, squared units",
                    "partner: the real sample that the plan gives it; nearest real: the one that "
                    "looks most like it to the network",
                    "differs along: the two directions, numbered as below, along which it is "
                    "furthest from its partner, in standard deviations of the real samples",
                ]
            ),
        )
    )
    return content


def _trio(sample: FakeSample, shown: _Shown) -> list[Child] | None:
    """A fake next to its partner and its nearest real sample."""
    fake = shown.picture("fake", sample.fake)
    others = shown.picture("real", sample.partner), shown.picture("real", sample.nearest)
    if fake is None:
        return None
    caption: list[Child] = [shown.name("fake", sample.fake)]
    if sample.partner is not None:
        caption += ["; partner ", shown.name("real", sample.partner)]
    caption += ["; nearest ", shown.name("real", sample.nearest)]
    return captioned([one for one in (fake, *others) if one is not None], caption)


def _along(sample: FakeSample) -> str:
    """The two directions along which a fake is furthest from its partner."""
    told = [f"{place + 1}: {steps:+.2g} sd" for place, steps in sample.directions]
    return ", ".join(told) or "-"


def _uncovered(found: Explanation, shown: _Shown) -> list[Child]:
    """Clusters that fakes avoid or crowd, each with its pictures."""
    gaps, crowded = found.uncovered.gaps, found.uncovered.crowded
    content: list[Child] = [
        element(
            "p",
            f"The real samples are {found.uncovered.clusters} clusters, made on one half of them. "
            "The share of each among the fakes is compared with that among the other half.",
        )
    ]
    if not gaps and not crowded:
        return [*content, element("p", "No cluster is avoided or crowded.")]
    both = [(one, "too few fakes") for one in gaps[:_GAPS]]
    both += [(one, "too many fakes") for one in crowded[:_GAPS]]
    rows: list[list[Child]] = []
    scale = row_scale([0.0, 2.0, *(_ends(one)[1] for one, _ in both)])
    for one, way in both:
        low, high = _ends(one)
        drawing = interval_line(
            f"cluster {one.cluster + 1}: {ratio_text(one)} times its share",
            scale,
            high if one.ratio is None else one.ratio,
            (low, high),
            marks=[1.0],
        )
        cell = element("td", drawing, class_="drawn")
        share = _percent(one.real / found.uncovered.real)
        rows.append(
            [f"cluster {one.cluster + 1}", way, share, str(one.fake), ratio_text(one), cell]
        )
    header: list[Child] = ["cluster", "what", "of real", "fakes", "times its share"]
    header.append(element("th", "ratio, 1 dashed", scope="col", class_="words"))
    content.append(table("Clusters with another share", header, rows, left=(0, 1)))
    for one, way in both:
        content += _gap(one, way, shown)
    return content


def _ends(gap: Gap) -> tuple[float, float]:
    """The ends of the interval of a ratio, for drawing."""
    high = gap.high if gap.high is not None else 2 * max(gap.low, 1.0)
    return min(gap.low, 10.0), min(high, 10.0)


def _gap(gap: Gap, way: str, shown: _Shown) -> list[Child]:
    """What a cluster looks like: real samples of it, and the fakes in it or near it."""
    real = _gallery([shown.item("real", row, shown.name("real", row)) for row in gap.examples])
    near = gap.fakes or (gap.nearest_fake,)
    fake = _gallery([shown.item("fake", row, shown.name("fake", row)) for row in near])
    if real is None and fake is None:
        return []
    return [
        element("h3", f"Cluster {gap.cluster + 1}: {way}"),
        element("p", "Real samples of it:"),
        real,
        element("p", "Fakes in it:" if gap.fakes else "The fake nearest to it:"),
        fake,
        element(
            "p",
            f"From its middle it is {gap.distance:.3g} to the nearest fake, and {gap.usual:.3g} to "
            "the nearest real sample.",
            class_="quiet",
        ),
    ]


def _classes(found: Explanation) -> list[Section]:
    """Shares of classes, and the flow between them."""
    classes = found.classes
    if classes is None:
        return []
    content: list[Child] = [element("p", line) for line in _class_lines(classes)]
    shares = classes.shares[:_LISTED]
    scale = row_scale([0.0, 2.0, *(min(one.high or 0.0, 10.0) for one in shares)])
    rows: list[list[Child]] = []
    for one in shares:
        high = min(one.high, 10.0) if one.high is not None else 10.0
        drawing = interval_line(
            f"{one.name}: {ratio_text(one)} times its share",
            scale,
            high if one.ratio is None else one.ratio,
            (min(one.low, 10.0), high),
            marks=[1.0],
        )
        rows.append(
            [
                name(one.name),
                str(one.real),
                str(one.fake),
                ratio_text(one),
                f"{one.pvalue:.2g}",
                "differs" if one.found else "",
                element("td", drawing, class_="drawn"),
            ]
        )
    header: list[Child] = ["class", "real", "fake", "times its share", "p", "found"]
    header.append(element("th", "ratio, 1 dashed", scope="col", class_="words"))
    content.append(table("Classes and their shares", header, rows, left=(0, 5)))
    content += _flows(classes)
    return [Section("classes", "Classes", content)]


def _class_lines(classes: Classes) -> list[str]:
    """Where the classes come from."""
    if classes.agreement is None:
        return ["Classes are those that were given for both sides."]
    return [
        "Fakes have no classes: each gets that of most of its nearest real samples. Held-out real "
        f"samples, counted by the same vote, get their own in {100 * classes.agreement:.3g} % of "
        "cases. Where that is low, a class that is missing shows as several that are rarer."
    ]


def _flows(classes: Classes) -> list[Child]:
    """What the plan sends from class to class, above the floor."""
    flow = classes.flow
    content: list[Child] = [element("h3", "What the plan sends from class to class")]
    largest = flow.largest()[:_LISTED]
    if largest:
        rows: list[list[Child]] = [[name(a), name(b), _percent(value)] for a, b, value in largest]
        title = "Mass that moves between classes, above the floor"
        content.append(table(title, ["real", "becomes fake", "of all"], rows, left=(0, 1)))
    else:
        content.append(
            element("p", "No flow between classes was told from those between real samples.")
        )
    if len(flow.names) <= _MOST_FLOWS:
        names = [name(one) for one in flow.names]
        percent = [[100 * value for value in row] for row in flow.excess]
        content.append(
            heat_table(
                "Flows above the floor, percent of all mass: from real (rows) to fake (columns)",
                names,
                names,
                percent,
                corner="real, fake",
            )
        )
    return content


def _directions(found: Explanation, shown: _Shown) -> list[Child]:
    """Which directions carry the difference, and what lies along them."""
    widest = found.widest
    content: list[Child] = [
        element(
            "p",
            "Directions of features along which fakes are further from real than real from real; "
            f"the widest of all, looked for on one half of the samples, has a distance of "
            f"{widest.held_out:.3g} on the other half (p = {widest.pvalue:.2g}).",
        )
    ]
    for place, one in enumerate(found.directions):
        content.append(element("h3", f"Direction {place + 1}"))
        goes = [f"{what} ({value:+.2f})" for what, value in one.attributes[:3]]
        told = f"{_percent(one.share)} of the cost"
        told += "" if one.excess is None else f", {_percent(one.excess)} of the excess"
        told += f"; goes with {', '.join(goes)}." if goes else "."
        content.append(element("p", told))
        for side, rows in (("real", one.real), ("fake", one.fake)):
            items = [
                shown.item(side, row, f"{side}, {100 * share:g} %")
                for row, share in zip(rows, QUANTILES, strict=True)
            ]
            content.append(_gallery(items))
    if any(one.excess is not None and one.excess > 1 for one in found.directions):
        content.append(
            element(
                "p",
                "A share of the excess above 100 % means that other directions make up for it: "
                "along those, fakes spread less than real samples do.",
                class_="quiet",
            )
        )
    return content


def _attributes(found: Explanation) -> list[Section]:
    """Brightness, contrast and the like."""
    if not found.attributes:
        return []
    rows: list[list[Child]] = [
        [
            one.name,
            f"{one.real:.3g}",
            f"{one.fake:.3g}",
            "-" if one.shift is None else f"{one.shift:+.2g}",
            f"{one.pvalue:.2g}",
            "differs" if one.found else "",
        ]
        for one in found.attributes
    ]
    header = ["attribute", "real", "fake", "shift in sd", "p", "found"]
    title = "Medians of plain attributes of the images"
    return [Section("attributes", "Plain attributes", table(title, header, rows, left=(0, 5)))]


def _copies(found: Explanation, shown: _Shown) -> list[Section]:
    """Fakes next to the training samples that they copy."""
    copies = found.copies
    if copies is None:
        return []
    content: list[Child] = [element("p", line) for line in _copy_lines(copies)]
    content.append(_gallery([_pair(one, shown) for one in copies.rows[:_COPIES]]))
    if copies.rows:
        rows: list[list[Child]] = [
            [
                shown.name("fake", one.fake),
                f"{one.ratio:.3g}",
                f"{one.pvalue:.2g}",
                shown.name("train", one.train),
            ]
            for one in copies.rows[:_LISTED]
        ]
        header = ["fake", "ratio", "p", "training sample"]
        made = table("Copies, the nearest first", header, rows, left=(0, 3))
        content.append(folded("As a table", made) if shown.any else made)
    return [Section("copies", "Copies of training samples", content)]


def _pair(copy: Copy, shown: _Shown) -> list[Child] | None:
    """A fake next to the training sample that it is close to."""
    pictures = shown.picture("fake", copy.fake), shown.picture("train", copy.train)
    there = [one for one in pictures if one is not None]
    if len(there) < len(pictures):
        return None
    return captioned(
        there, shown.name("fake", copy.fake), "; training ", shown.name("train", copy.train)
    )


def _copy_lines(copies: Copies) -> list[str]:
    """What the measures of copying say."""
    lines = [
        f"{copies.number} of {copies.samples} fakes are closer to one training sample than to "
        "others, more so than real samples are that nobody trained on."
    ]
    if copies.shared:
        lines.append(
            f"{len(copies.shared)} real samples are in the training samples themselves, up to "
            "small changes; they are not counted."
        )
    low, high = copies.difference
    lines.append(
        f"Authentic, further from its nearest training sample than that is from another: "
        f"{100 * copies.authentic:.3g} % of fakes, {100 * copies.authentic_held_out:.3g} % of real "
        f"samples; difference [{100 * low:.2g}, {100 * high:.2g}] %."
    )
    if copies.c_t is not None:
        lines.append(
            f"C_T = {copies.c_t:.2f} (p = {copies.c_t_pvalue:.2g} for copying): below 0 where "
            "fakes are nearer to the training samples than real ones are."
        )
    return lines


def _map(found: Explanation) -> list[Child]:
    """The transport plane, and the graph of clusters."""
    plane = found.plane
    told = "Samples along direction 1 (across) and direction 2 (up)"
    if plane.excess is not None:
        first, second = map(_percent, plane.excess)
        told += f", which have {first} and {second} of the excess cost"
    names = ["real", "fake"]
    places = [(name, side) for name, side in zip(names, (plane.real, plane.fake), strict=True)]
    content: list[Child] = [
        element("p", told + ". Distances show what lies in this plane, and nothing else."),
        figure(
            "Plane of the first two directions",
            scatter(
                "Real and fake samples in the plane of the first two directions",
                [Points(label, side) for label, side in places],
                f"{len(plane.real)} real and {len(plane.fake)} fake samples",
            ),
            f"{len(plane.real)} real and {len(plane.fake)} fake samples, drawn at random.",
            names,
        ),
        element("h3", "Clusters"),
        figure(
            "Graph of clusters",
            cluster_graph("Clusters of samples", found.nodes, found.flow),
            "Each circle is a cluster of real samples, at a distance from others much like theirs; "
            "the ring is its share of real samples, the disc that of fakes. Arrows show mass that "
            "the plan sends from one to another, above what it sends between real samples.",
        ),
        folded(
            "As a table",
            table(
                "Clusters and their shares on both sides",
                ["cluster", "of real", "of fake", "difference"],
                [_node(one) for one in found.nodes],
            ),
        ),
    ]
    flows = found.flow.largest()[:_LISTED]
    if flows:
        rows: list[list[Child]] = [[a, b, _percent(value)] for a, b, value in flows]
        title = "Mass that moves between clusters, above the floor"
        content.append(table(title, ["real", "becomes fake", "of all"], rows, left=(0, 1)))
    return content


def _curve(found: Explanation) -> list[Section]:
    """The distance against the number of samples."""
    if len(found.curve) < 2:
        return []
    names = ["real and fake", "two parts of real"]
    lines = [
        Curve(names[0], [(one.size, one.value) for one in found.curve]),
        Curve(names[1], [(one.size, one.floor) for one in found.curve]),
    ]
    drawing = curves(
        "Sliced Wasserstein distance against samples per side", lines, logarithmic=True
    )
    content = figure(
        "Distance against samples per side",
        drawing,
        "The sliced Wasserstein distance of samples falls with their number. Where the upper curve "
        "levels off above the lower one, there is a difference that more samples would show more "
        "clearly.",
        names,
    )
    return [Section("curve", "Against the number of samples", content)]


def _node(node: Node) -> list[Child]:
    return [
        node.name,
        _percent(node.real),
        _percent(node.fake),
        _percent(node.fake - node.real, "+"),
    ]


def _percent(share: float, sign: str = "") -> str:
    """A share as percent, with two digits at least."""
    percent = 100 * share
    return f"{percent:{sign}.0f} %" if abs(percent) >= 10 else f"{percent:{sign}.2g} %"
