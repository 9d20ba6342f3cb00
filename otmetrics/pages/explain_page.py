"""The page of an Explanation: the verdict, the scores, and the pictures of what is wrong."""

from collections.abc import Sequence
from typing import Any

from otmetrics.explanation.copies import Copies, Copy
from otmetrics.explanation.directions import QUANTILES
from otmetrics.explanation.shares import Share
from otmetrics.explanation.uncovered import Gap
from otmetrics.scoring.effects import ratio_text, side_texts
from otmetrics.scoring.explanation import Classes, Explanation, FakeSample
from otmetrics.scoring.legend import provenance, read_lines, sample_lines

from .drawing import Scale
from .elements import Child, Element, element, name
from .frame import NOWHERE, Origin, Section, Top, last_sections, page, path_name
from .maps import curve_section, map_content
from .most_serious import first_pictures, pair
from .regions import bullets, captioned, folded
from .rows import bar, interval_line, row_scale, signs
from .score_page import class_section, scores_content, unconverged
from .shown import Shown, gallery_of
from .tables import heat_table, table
from .thumbnails import Thumbnails
from .words import counted, percent

_WORST, _GAPS, _COPIES = 24, 6, 24  # of each that are shown
_MOST_FLOWS = 12  # classes whose flows make a table that can be read
_LISTED = 40  # lines of a table
_MOST_IN_DATA = 1000  # samples in the JSON of the page: --json and --csv have all
_MOST_FLOWS_IN_DATA = 40  # classes whose flows are there
_MOST_TIMES = 10.0  # of ratios of shares, where drawings end
_PARTS = {
    "mean": "shift of the mean",
    "covariance": "spread and correlation",
    "shape": "shape and sampling noise",
    "total": "squared exact distance",
}
_WORST_COLUMNS = (
    "strangeness: how far a fake lies from the real samples, by distance or by direction; half of "
    "the real samples have less than 0, and 5 % more than 1; p: the share of real samples that are "
    "as strange",
    "cost: what the optimal plan pays to move it to its partners, squared units",
    "partner: the real sample that the plan gives it; nearest real: the one that looks most like "
    "it to the network",
    "differs along: the two directions, numbered as below, along which it is furthest from its "
    "partner, in standard deviations of the real samples",
)


def explain_page(found: Explanation, origin: Origin = NOWHERE) -> str:
    """A page with the verdict first, then scores, pictures and maps, and what repeats them."""
    report, inputs = found.report, found.protocol["inputs"]
    first, *rest = found.verdict()
    images = Thumbnails()
    shown = Shown(found, images)
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
        pictures=first_pictures(found, shown),
    )
    notes = [note for note in found.notes if note not in read_lines(report)]
    basis = [*sample_lines(report), provenance(report.protocol)]
    sections = [
        Section("scores", "Scores", scores_content(report)),
        *_reasons(found, shown),
        *last_sections(found.protocol, basis, [*unconverged(report), *notes], origin),
    ]
    return page(top, sections, _data(found), images)


def _reasons(found: Explanation, shown: Shown) -> list[Section]:
    """What was found in the order of the headline, then the whole, then what found nothing."""
    kinds = {
        "copies": _copies(found, shown),
        "unlike": [Section("worst", "Fakes unlike any real sample", _worst(found, shown))],
        "classes": _classes(found),
        "clusters": [
            Section("uncovered", "Kinds that are missing, or too many", _uncovered(found, shown))
        ],
        "attributes": _attributes(found),
    }
    pictured = (
        (_directions_differ(found), Section("directions", "Directions", _directions(found, shown))),
        (found.plane.excess is not None, Section("map", "Map", map_content(found))),
    )
    there = found.kinds()
    return [
        *(one for kind in there for one in kinds[kind]),
        Section("parts", "Where the distance comes from", _waterfall(found)),
        *class_section(found.report),
        *(one for differs, one in pictured if differs),
        *curve_section(found),
        *(one for kind, made in kinds.items() if kind not in there for one in made),
        *(one for differs, one in pictured if not differs),
    ]


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


def _waterfall(found: Explanation) -> list[Child]:
    """The parts of W_2^2 as bars."""
    sides = found.waterfall.value, found.waterfall.floor, found.waterfall.excess
    numbers = {part: [getattr(side, part) for side in sides] for part in _PARTS}
    scale = row_scale([0.0, *(number for row in numbers.values() for number in row)])
    rows: list[list[Child]] = []
    for part, (value, floor, excess) in numbers.items():
        drawing = bar(f"{_PARTS[part]}: {value:.4g}, floor {floor:.4g}", scale, value, beside=floor)
        cell = element("td", drawing, class_="drawn")
        rows.append([_PARTS[part], f"{value:.4g}", f"{floor:.4g}", f"{excess:+.3g}", cell])
    header: list[Child] = ["part", "value", "floor", "excess"]
    header.append(element("th", "value above its floor", scope="col", class_="words"))
    drawn, beside = signs("bar", "beside")
    return [
        table("Parts of the squared exact distance, which add up", header, rows),
        element(
            "ul", element("li", drawn, " value"), element("li", beside, " floor"), class_="legend"
        ),
        element(
            "p",
            f"At {found.waterfall.size} samples per side. Floor: the same between two parts of the "
            "real samples. Excess: the value above its floor; only this is a difference.",
            class_="quiet",
        ),
    ]


def _worst(found: Explanation, shown: Shown) -> list[Child]:
    """The fakes that lie furthest, with their partners."""
    told: list[Child] = [element("p", line) for line in found.sample_findings()]
    if found.worst:
        return [*told, *_furthest(found.worst, shown)]
    furthest = _furthest(list(found.samples[: _WORST // 3]), shown)
    return [*told, folded("The furthest ones, which may be so by chance", furthest)]


def _furthest(samples: Sequence[FakeSample], shown: Shown) -> list[Child]:
    """Fakes with their partners, as pictures where there are any, and as a table."""
    made = [_worst_table(samples, shown), bullets(_WORST_COLUMNS)]
    if not shown.any:
        return [*made]
    return [
        element(
            "p",
            "Fake, its partner in the plan, which is the real sample that optimal transport moves "
            "to it, and the nearest real sample:",
        ),
        gallery_of([_trio(sample, shown) for sample in samples[:_WORST]]),
        folded("As a table", made),
    ]


def _worst_table(samples: Sequence[FakeSample], shown: Shown) -> Element:
    """What is known of the first of these samples."""
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
        for one in samples[:_LISTED]
    ]
    header = ["fake", "strangeness", "p", "cost", "differs along", "partner", "nearest real"]
    more = f", the first {_LISTED} of {len(samples)}" if len(samples) > _LISTED else ""
    return table(f"Fakes unlike any real sample{more}", header, rows, left=(0, 4, 5, 6))


def _trio(sample: FakeSample, shown: Shown) -> list[Child] | None:
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


def _uncovered(found: Explanation, shown: Shown) -> list[Child]:
    """Clusters that fakes avoid or crowd, each with its pictures."""
    gaps, crowded = found.uncovered.gaps, found.uncovered.crowded
    content: list[Child] = [
        element(
            "p",
            f"The real samples are {found.uncovered.clusters} clusters, made on one half of them. "
            "The share of each among the fakes is compared with that among the other half. Its own "
            f"clusters agree with these by {found.uncovered.agreement:.2f} (adjusted Rand index: 1 "
            "for the same clusters, 0 for chance).",
        )
    ]
    if not gaps and not crowded:
        return [*content, element("p", "No cluster is avoided or crowded.")]
    both = [(one, "too few fakes") for one in gaps[:_GAPS]]
    both += [(one, "too many fakes") for one in crowded[:_GAPS]]
    scale = _ratio_scale([one for one, _ in both])
    rows: list[list[Child]] = [
        [
            f"cluster {one.cluster + 1}",
            way,
            percent(one.real / found.uncovered.real),
            percent(one.fake / found.uncovered.fake),
            ratio_text(one),
            _ratio_cell(f"cluster {one.cluster + 1}", one, scale),
        ]
        for one, way in both
    ]
    header: list[Child] = [
        "cluster",
        "what",
        "of real",
        "of fakes",
        "times its share",
        _ratio_head(),
    ]
    content.append(table("Clusters with another share", header, rows, left=(0, 1)))
    for one, way in both:
        content += _gap(one, way, shown)
    return content


def _ratio_scale(shares: Sequence[Gap | Share]) -> Scale:
    """One scale for the ratios of a table, with room to both sides of 1."""
    return row_scale([0.0, 2.0, *(_ends(one)[1] for one in shares)])


def _ratio_head() -> Element:
    return element("th", "ratio, 1 dashed", scope="col", class_="words")


def _ratio_cell(label: str, share: Gap | Share, scale: Scale) -> Element:
    """The ratio of a share among fakes to that among real samples, in its interval."""
    low, high = _ends(share)
    drawing = interval_line(
        f"{label}: {ratio_text(share)} times its share",
        scale,
        high if share.ratio is None else share.ratio,
        (low, high),
        marks=[1.0],
    )
    return element("td", drawing, class_="drawn")


def _ends(share: Gap | Share) -> tuple[float, float]:
    """The ends of the interval of a ratio, for drawing."""
    high = _MOST_TIMES if share.high is None else share.high
    return min(share.low, _MOST_TIMES), min(high, _MOST_TIMES)


def _gap(gap: Gap, way: str, shown: Shown) -> list[Child]:
    """What a cluster looks like: real samples of it, and the fakes in it or near it."""
    real = gallery_of([shown.item("real", row, shown.name("real", row)) for row in gap.examples])
    near = gap.fakes or (gap.nearest_fake,)
    fake = gallery_of([shown.item("fake", row, shown.name("fake", row)) for row in near])
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
    scale = _ratio_scale(shares)
    sizes = sum(one.real for one in classes.shares), sum(one.fake for one in classes.shares)
    rows: list[list[Child]] = [
        [
            name(one.name),
            counted(one.real, sizes[0]),
            counted(one.fake, sizes[1]),
            ratio_text(one),
            f"{one.pvalue:.2g}",
            "differs" if one.found else "",
            _ratio_cell(one.name, one, scale),
        ]
        for one in shares
    ]
    header: list[Child] = ["class", f"real, of {sizes[0]}", f"fake, of {sizes[1]}"]
    header += ["times its share", "p", "found", _ratio_head()]
    content.append(table("Classes and their shares", header, rows, left=(0, 5)))
    content.append(_rule("Fisher's exact test of both shares", "classes", found.rate))
    content += _flows(classes)
    return [Section("classes", "Classes", content)]


def _rule(test: str, kind: str, rate: float) -> Element:
    """What the word "differs" stands for in a table."""
    return element(
        "p",
        f"Differs: by {test}, with the rate of false discoveries held at {100 * rate:g} % over all "
        f"{kind}.",
        class_="quiet",
    )


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
        rows: list[list[Child]] = [[name(a), name(b), percent(value)] for a, b, value in largest]
        title = "Mass that moves between classes, above the floor"
        content.append(table(title, ["real", "becomes fake", "of all"], rows, left=(0, 1)))
    else:
        content.append(
            element("p", "No flow between classes was told from those between real samples.")
        )
    if len(flow.names) <= _MOST_FLOWS:
        names = [name(one) for one in flow.names]
        values = [[100 * value for value in row] for row in flow.excess]
        made = heat_table(
            "Flows above the floor, percent of all mass: from real (rows) to fake (columns)",
            names,
            names,
            values,
            corner="real, fake",
        )
        content.append(made if largest else folded("All flows, which may be chance", made))
    return content


def _directions_differ(found: Explanation) -> bool:
    """Whether any direction carries more than it does between real samples."""
    return any(one.excess is not None for one in found.directions)


def _directions(found: Explanation, shown: Shown) -> list[Child]:
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
    if not _directions_differ(found):
        told = "As a whole, the cost has no more excess above its floor than chance may give."
        lines = _direction_lines(found, shown)
        return [*content, element("p", told), folded("The directions with most of the cost", lines)]
    return [*content, *_direction_lines(found, shown)]


def _direction_lines(found: Explanation, shown: Shown) -> list[Child]:
    """Each direction with the samples along it."""
    told = (
        "Cost: the squared distance over which the optimal plan moves the samples; excess: what of "
        "it is above the same between real samples. Percent below the pictures: the share of the "
        "samples that lie further back along the direction."
    )
    content: list[Child] = [element("p", told, class_="quiet")]
    for place, one in enumerate(found.directions):
        content.append(element("h3", f"Direction {place + 1}"))
        goes = [f"{what} ({value:+.2f})" for what, value in one.attributes[:3]]
        told = f"{percent(one.share)} of the cost"
        told += "" if one.excess is None else f", {percent(one.excess)} of the excess"
        told += f"; goes with {', '.join(goes)}." if goes else "."
        content.append(element("p", told))
        for side, rows in (("real", one.real), ("fake", one.fake)):
            items = [
                shown.item(side, row, f"{side}, {100 * share:g} %")
                for row, share in zip(rows, QUANTILES, strict=True)
            ]
            content.append(gallery_of(items))
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
            *side_texts(one),
            "-" if one.shift is None else f"{one.shift:+.2g}",
            f"{one.pvalue:.2g}" if one.pvalue > 0 else "< 1e-300",
            "differs" if one.found else "",
        ]
        for one in found.attributes
    ]
    header = ["attribute", "real", "fake", "shift in sd", "p", "found"]
    made: list[Child] = [
        table("Medians of plain attributes of the images", header, rows, left=(0, 5)),
        _rule("the test of Kolmogorov and Smirnov", "attributes", found.rate),
        element(
            "p",
            "The shift is in standard deviations (sd) of the real images. One change may move "
            "several attributes: look at the largest shift first. A grid of 2 pixels is what "
            "neighbouring pixels have by turns more and less, as upsampling leaves it.",
            class_="quiet",
        ),
    ]
    if not any(one.found for one in found.attributes):
        told = "No difference was found in brightness, contrast or the like."
        made = [element("p", told), folded("The attributes", made)]
    return [Section("attributes", "Plain attributes", made)]


def _copies(found: Explanation, shown: Shown) -> list[Section]:
    """Fakes next to the training samples that they copy."""
    copies = found.copies
    if copies is None:
        return []
    content: list[Child] = [element("p", line) for line in _copy_lines(copies)]
    content.append(gallery_of([_captioned_pair(one, shown) for one in copies.rows[:_COPIES]]))
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


def _captioned_pair(copy: Copy, shown: Shown) -> list[Child] | None:
    """A fake next to the training sample that it is close to, and their names."""
    there = pair(copy, shown)
    names = shown.name("fake", copy.fake), "; training ", shown.name("train", copy.train)
    return captioned(there, *names) if there else None


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
            f"C_T = {copies.c_t:.2f}, below 0 where fakes lie nearer to the training samples than "
            f"real ones do: p = {copies.c_t_pvalue:.2g}, {_sign(copies)}."
        )
    return lines


def _sign(copies: Copies) -> str:
    """What the p-value of C_T says, next to the copies that were found."""
    if copies.c_t_pvalue is not None and copies.c_t_pvalue <= 0.05:
        return "a sign of copying on average"
    return "no sign of copying on average" + (", though these copies are" if copies.rows else "")
