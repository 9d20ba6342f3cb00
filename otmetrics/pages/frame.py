"""The frame of every page: what it is, its verdict first, its sections, and the data in it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from otmetrics.errors import tell

from .elements import (
    Child,
    Element,
    element,
    json_data,
    name,
    named_sentence,
    rendered,
    stylesheet,
)
from .regions import bullets, folded
from .tables import record
from .thumbnails import Thumbnails

# Whatever a name in the page might become: nothing runs, and nothing is fetched.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_DATA = "result"  # the identity of the JSON


class Origin(NamedTuple):
    """Where a result comes from, for its page.

    Attributes:
        command: The command that repeats it; empty where it was asked for in Python.
        flag: How notes write the name of an argument; None as Python does.
    """

    command: str = ""
    flag: Callable[[str], str] | None = None

    def tell(self, said: str) -> str:
        """A note, with its arguments as they were given."""
        return tell(said, self.flag)


NOWHERE = Origin()


class Section(NamedTuple):
    """A part of a page under a heading of its own.

    Attributes:
        identity: Its place in the page, for links.
        heading: What it is about.
        content: What it shows.
    """

    identity: str
    heading: str
    content: Child


class Top(NamedTuple):
    """What stands above all sections.

    Attributes:
        title: The page in a list of pages, in plain text.
        heading: What was asked.
        verdict: The answer: a sentence, and more of them after it.
        sides: What was compared, a line each.
        pictures: What the answer looks like.
    """

    title: str
    heading: Child
    verdict: Sequence[Child]
    sides: Sequence[Child]
    pictures: Child = None


def page(
    top: Top, sections: Sequence[Section], data: dict[str, Any], images: Thumbnails | None = None
) -> str:
    """A whole page as HTML."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", top.title),
        element("link", rel="icon", href="data:,"),  # else browsers ask for one
        stylesheet(style),
    )
    body = element(
        "body",
        None if images is None else images.store(),
        _header(top, sections),
        element("main", [_section(one) for one in sections]),
        json_data(_DATA, data),
    )
    return "<!DOCTYPE html>\n" + rendered(element("html", head, body, lang="en"))


def last_sections(
    protocol: dict[str, Any],
    lines: Sequence[str],
    notes: Sequence[str],
    origin: Origin,
    names: Sequence[str] = (),
) -> list[Section]:
    """How every page ends: what a reader should know, and what repeats the numbers.

    `lines` stand above the protocol; `names` are those of models that notes may name.
    """
    told = [named_sentence(origin.tell(note), names) for note in notes]
    sections = [Section("notes", "Notes", bullets(told))] if told else []
    return [*sections, _protocol_section(protocol, lines, origin)]


def _protocol_section(protocol: dict[str, Any], lines: Sequence[str], origin: Origin) -> Section:
    """What repeats the numbers: the command, all that decides them, and the JSON in the page."""
    content: list[Child] = []
    if origin.command:
        command = element("pre", element("code", origin.command))
        content += [element("p", "The same numbers again:"), command]
    content += [element("p", line) for line in lines]
    content.append(folded("All that decides the numbers", record("Protocol", protocol)))
    content.append(
        element(
            "p",
            "The source of this page holds all of it as JSON, in the element ",
            element("code", f'<script type="application/json" id="{_DATA}">'),
            ".",
            class_="quiet",
        )
    )
    return Section("protocol", "Protocol", content)


def path_name(source: dict[str, Any]) -> Element:
    """The name of an input, of which its record says the path."""
    path = str(source["path"])
    # Arrays have none: "<real>" stands for the argument.
    given = source.get("kind") == "tensor" and path.startswith("<") and path.endswith(">")
    return name(path[1:-1] if given else path)


def _header(top: Top, sections: Sequence[Section]) -> Element:
    first, *rest = top.verdict
    links = [element("li", element("a", one.heading, href=f"#{one.identity}")) for one in sections]
    return element(
        "header",
        element("h1", top.heading),
        element("p", first, class_="verdict"),
        top.pictures,
        [element("p", line) for line in rest],
        element("ul", [element("li", side) for side in top.sides], class_="sides"),
        element("nav", element("ul", links), aria_label="Contents"),
    )


def _section(one: Section) -> Element:
    heading = f"{one.identity}-heading"
    return element(
        "section",
        element("h2", one.heading, id=heading),
        one.content,
        id=one.identity,
        aria_labelledby=heading,
    )
