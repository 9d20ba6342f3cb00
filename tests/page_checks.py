"""Reading a page back, and the results that pages are made of."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import otmetrics
from otmetrics import Comparison, Explanation, FeatureSet, ScoreReport, Scoring
from otmetrics.images import thumbnail, write_png
from otmetrics.pages.elements import element
from otmetrics.pages.elements import name as name_of
from otmetrics.pages.frame import Section, Top, page
from otmetrics.pages.planes import Curve, Points, curves, scatter
from otmetrics.pages.regions import captioned, figure, gallery
from otmetrics.pages.rows import bar, row_scale
from otmetrics.pages.tables import heat_table, table
from otmetrics.pages.thumbnails import Thumbnails

AXES = ("across", "down")
VOID = {"br", "hr", "img", "link", "meta"}
HOSTILE = (
    "<script>alert(1)</script>.png",
    '" onmouseover="alert(1)',
    "'><img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "אבג \"x\", 'y'",
    "\u202egnp.exe",
    "a\nb\x00\ud800&amp;",
)
"""Names that somebody may give to a file, a model or a class."""


class Tag(NamedTuple):
    name: str
    attributes: dict[str, str | None]
    line: int


class Page(HTMLParser):
    """A page taken apart; raises where an element is not closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[Tag] = []
        self.text: list[str] = []
        self.inside: dict[str, list[str]] = {}
        self.tables: dict[str, list[list[str]]] = {}
        """By their captions: the cells of each row."""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), attrs
        self.tags.append(Tag(tag, dict(attrs), self.getpos()[0]))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "caption":
            self._rows: list[list[str]] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(Tag(tag, dict(attrs), self.getpos()[0]))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        for tag in set(self._open):
            self.inside.setdefault(tag, []).append(data)
        if "caption" in self._open:
            self.tables[data] = self._rows
        # What a drawing says of itself is no text of its cell.
        elif {"td", "th"} & set(self._open) and "svg" not in self._open:
            self._rows[-1][-1] += data.rstrip("\n")

    def all(self, name: str) -> list[Tag]:
        return [tag for tag in self.tags if tag.name == name]

    def values(self, attribute: str) -> list[str]:
        found = (tag.attributes.get(attribute) for tag in self.tags)
        return [value for value in found if value is not None]


def clouds(count: int = 2, samples: int = 40) -> Iterator[torch.Tensor]:
    """Real samples, then those of models that are further and further away."""
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        yield torch.randn(samples, 4, generator=generator, dtype=torch.float64) + 0.4 * index


def report(**scoring: object) -> ScoreReport:
    """Scores of small clouds."""
    return otmetrics.score_features(*clouds(), scoring=Scoring(**scoring))


def comparison(names: tuple[str, ...] = ("a", "b", "c"), **comparing: object) -> Comparison:
    """Models of small clouds."""
    real, *fakes = clouds(len(names) + 1)
    return otmetrics.compare_features(
        real, dict(zip(names, fakes, strict=True)), comparing=otmetrics.Comparing(**comparing)
    )


def explanation(
    names: tuple[str, str] = ("light", "dark"), root: Path | None = None
) -> Explanation:
    """Reasons for small clouds with classes of these names; of images in a folder, with one."""
    if root is not None:
        return _explained_images(root, names)
    real, fake, train = clouds(3, samples=80)
    fake[:20] *= 9
    fake[30:40] = train[30:40]
    labels = [names[i % 2] for i in range(80)]
    of_fake = [names[i % 4 == 0] for i in range(80)]
    sides = [
        FeatureSet(cloud, {"extractor": "none"}, _source(name), labels=given)
        for cloud, name, given in ((real, "real", labels), (fake, "fake", of_fake))
    ]
    scoring = Scoring(metrics=("kernel_distance", "recall"), per_class=True)
    return otmetrics.explain_features(*sides, train=train, scoring=scoring)


def _source(name: str) -> dict[str, object]:
    return {"path": name, "kind": "features", "available": 80, "used": 80}


def _explained_images(root: Path, names: tuple[str, str]) -> Explanation:
    generator = np.random.default_rng(0)
    for side in ("real", "fake", "train"):
        for number in range(60):
            level = 180 if number % 3 else 60
            pixels = generator.normal(level, 15, (3, 12, 12))
            if side == "fake" and number < 12:
                pixels = generator.uniform(0, 255, (3, 12, 12))
            folder = root / side / names[number % 3 == 0]
            folder.mkdir(parents=True, exist_ok=True)
            image = torch.from_numpy(pixels.clip(0, 255).astype(np.uint8))
            write_png(folder / f"{names[0][:40]}-{number}.png", image)
    return otmetrics.explain(
        root / "real",
        root / "fake",
        train=root / "train",
        extraction=otmetrics.Extraction(features="pixels"),
        scoring=Scoring(metrics=("kernel_distance",)),
    )


def specimen() -> str:
    """A page with every drawing, a table of shades, and pictures."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(3, 60, 2, generator=generator).tolist()
    groups = [Points(name, draw[i]) for i, name in enumerate(("real", "fake", HOSTILE[4]))]
    names = [group.name for group in groups]
    arrows = [(tuple(draw[0][i]), tuple(draw[1][i])) for i in range(9)]
    lines = [
        Curve(name, [(x, 1 + i + 10 / x) for x in (10.0, 100.0, 1000.0)], [(0.5 + i, 2.0 + i)] * 3)
        for i, name in enumerate(names)
    ]
    scale = row_scale([-1.0, 3.0])
    bars = [
        [name, element("td", bar(f"{name}: 2", scale, 2.0 - i, beside=0.5), class_="drawn")]
        for i, name in enumerate(names)
    ]
    images = Thumbnails()
    pictures = [
        captioned(
            [images.show(k % 3, _picture(k % 3), f"{HOSTILE[0]}, {k}") for k in range(many)],
            f"{many} pictures, 3.2 times as far from the others as usual, {HOSTILE[0]}",
        )
        for many in (1, 2, 8)
    ]
    shades = [[-2.0 + 0.5 * (i + j) for i in range(9)] for j in range(3)]
    sections = [
        Section("bars", "Bars", table("Bars", ["part", "drawn"], bars, left=(0, 1))),
        Section(
            "plane",
            "Plane",
            [
                figure(
                    "Plane",
                    scatter("Plane", groups, AXES, arrows, "No two groups differ."),
                    "A plane.",
                    names,
                ),
                figure(
                    "Curve",
                    curves("Against samples", lines, AXES, logarithmic=True),
                    "A curve.",
                    names,
                ),
            ],
        ),
        Section(
            "shades", "Shades", heat_table("Flow", names, list("abcdefghi"), shades, corner="x")
        ),
        Section("pictures", "Pictures", gallery(pictures)),
    ]
    top = Top(HOSTILE[0], ["Every drawing of ", name_of(HOSTILE[0])], ["One of each."], [])
    return page(top, sections, {"names": HOSTILE[0]}, images)


def _picture(index: int) -> bytes:
    return thumbnail(torch.full((3, 32, 32), 80 * index, dtype=torch.uint8))
