"""Maps of an explanation: the plane of transport, the graph of clusters, the curve against n."""

from otmetrics.scoring.explanation import Explanation

from .elements import Child, element
from .frame import Section
from .graph import cluster_graph
from .planes import Curve, Points, curves, scatter
from .regions import figure, folded
from .tables import table
from .words import percent

_LISTED = 40  # lines of a table


def map_content(found: Explanation) -> list[Child]:
    """The transport plane, and the graph of clusters; folded where nothing is above the floor."""
    drawn = [*_plane(found), *_clusters(found)]
    if found.plane.excess is not None:
        return drawn
    told = "What the plan moves has no more excess above its floor than chance may give."
    return [element("p", told), folded("Plane and clusters", drawn)]


def _plane(found: Explanation) -> list[Child]:
    """Samples in the plane of the first two directions, and where the plan moves them."""
    plane = found.plane
    ends = [
        dict(zip(rows, places, strict=True))
        for rows, places in zip(plane.rows, (plane.real, plane.fake), strict=True)
    ]
    arrows = [(ends[0][real], ends[1][fake]) for real, fake in plane.moves]
    told = f"{len(plane.real)} real and {len(plane.fake)} fake samples"
    moves = "No arrows: what the plan moves has no more above its floor than chance may give."
    if plane.excess is not None:
        moves = "No move of the plan is longer here than 99 % of those between real samples."
    if arrows:
        moves = (
            f"The {len(arrows)} arrows go from a real sample to the fake one that the plan makes "
            "of it, where it moves further along this plane than 99 % of real samples do to real "
            "ones."
        )
    return [
        element("p", "Distances show what lies in this plane, and nothing else."),
        figure(
            "Plane of the first two directions",
            scatter(
                "Real and fake samples in the plane of the first two directions",
                [Points("real", plane.real), Points("fake", plane.fake)],
                _axis_names(found),
                arrows,
                f"{told}, {len(arrows)} arrows",
            ),
            f"{told}, most of them drawn at random. {moves}",
            ["real", "fake"],
        ),
    ]


def _axis_names(found: Explanation) -> tuple[str, str]:
    """The axes of the plane with their shares of the excess; of the cost where there is none."""
    names = []
    for place in range(2):
        if place >= len(found.directions):
            names.append("nothing: one feature has one direction")
        elif found.plane.excess is not None:
            share = percent(found.plane.excess[place])
            names.append(f"direction {place + 1}: {share} of the excess")
        else:
            share = percent(found.directions[place].share)
            names.append(f"direction {place + 1}: {share} of the cost, whose excess may be chance")
    return names[0], names[1]


def _clusters(found: Explanation) -> list[Child]:
    """The graph of clusters, and its numbers."""
    nodes: list[list[Child]] = [
        [one.name, percent(one.real), percent(one.fake), percent(one.fake - one.real, "+")]
        for one in found.nodes
    ]
    content: list[Child] = [
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
                nodes,
            ),
        ),
    ]
    flows = found.flow.largest()[:_LISTED]
    if flows:
        rows: list[list[Child]] = [[a, b, percent(value)] for a, b, value in flows]
        title = "Mass that moves between clusters, above the floor"
        content.append(table(title, ["real", "becomes fake", "of all"], rows, left=(0, 1)))
    return content


def curve_section(found: Explanation) -> list[Section]:
    """The distance against the number of samples."""
    if len(found.curve) < 2:
        return []
    # The first colour is that of real samples everywhere, the second that of fakes.
    names = ["two parts of real", "real and fake"]
    lines = [
        Curve(
            names[0],
            [(one.size, one.floor) for one in found.curve],
            [one.floor_interval for one in found.curve],
        ),
        Curve(
            names[1],
            [(one.size, one.value) for one in found.curve],
            [one.value_interval for one in found.curve],
        ),
    ]
    drawing = curves(
        "Sliced Wasserstein distance against samples per side",
        lines,
        ("samples per side", "sliced Wasserstein distance"),
        logarithmic=True,
    )
    content = figure(
        "Distance against samples per side",
        drawing,
        "The sliced Wasserstein distance of samples falls with their number. Where the upper curve "
        "levels off above the lower one, there is a difference that more samples would show more "
        "clearly. Bands are intervals of 95 % for the mean over new samples, by the effects of "
        "single samples on the distance; of curves that lie on each other they are too wide.",
        names,
    )
    return [Section("curve", "Against the number of samples", content)]
