"""HTML as a tree, and the one door by which text enters it.

Every string is escaped when it is written, and nothing takes markup as a string: names of files and
models cannot become elements, by accident or by intent. What could run or reach the network, such
as scripts, handlers and addresses, is refused when an element is made.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Union

from otmetrics.errors import printable

Child = Union[str, "Element", None, Iterable["Child"]]
"""What stands inside an element: text, elements, nothing, or several of them."""

_VOID = {"br", "hr", "img", "link", "meta"}
_SHAPES = {"circle", "image", "line", "path", "polygon", "polyline", "rect", "use"}
_LINES = {  # a line of their own each, so that two reports can be compared by lines
    *("html", "head", "body", "header", "main", "footer", "nav", "section", "figure", "figcaption"),
    *("h1", "h2", "h3", "h4", "p", "ul", "ol", "li", "dl", "dd", "div", "pre", "table", "caption"),
    *("thead", "tbody", "tfoot", "tr", "details", "summary", "meta", "link", "title", "style"),
    *("script", "svg"),
}
_TAGS = (
    _VOID
    | _SHAPES
    | (_LINES - {"script", "style"})
    | {"a", "bdi", "code", "defs", "desc", "dt", "em", "g", "span", "strong", "symbol", "td"}
    | {"text", "th"}
)
_ADDRESSES = ("#", "data:image/", "data:,")  # of this very file


@dataclass(frozen=True)
class Element:
    """An element that `element`, `stylesheet` or `json_data` made.

    Attributes:
        tag: Its name.
        attributes: Names and values; None as a value for an attribute that is there or not.
        children: Strings are text, which is escaped when it is written.
        verbatim: The content of a style or script, which its maker has checked; None elsewhere.
    """

    tag: str
    attributes: tuple[tuple[str, str | None], ...] = ()
    children: tuple[Union[str, "Element"], ...] = ()
    verbatim: str | None = None


def element(tag: str, /, *children: Child, **attributes: str | float | bool | None) -> Element:
    """An element with its children.

    Attributes are written as Python allows: `class_`, `aria_label`, `stroke_width`. None and False
    leave one out; floats are rounded to hundredths.
    """
    if tag not in _TAGS:
        raise ValueError(f"`tag` must be one that shows something, got {tag!r}.")
    given = {}
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = key.rstrip("_").replace("_", "-")
        text = None if value is True else _attribute_text(value)
        _check_attribute(name, text)
        given[name] = text
    return Element(tag, tuple(given.items()), tuple(_flat(children)))


def name(text: str) -> Element:
    """Somebody's name of a file, folder or model; its direction of writing stays its own."""
    return element("bdi", text)


def named_sentence(text: str, names: Iterable[str]) -> list[Child]:
    """A sentence, in which names that are written from the right are kept apart.

    Two of them with only a comma between would change places.
    """
    rightward = sorted({one for one in names if _is_rightward(one)}, key=len, reverse=True)
    if not rightward:
        return [text]
    parts = re.split("(" + "|".join(map(re.escape, rightward)) + ")", text)
    return [name(part) if part in rightward else part for part in parts]


def stylesheet(css: str) -> Element:
    """The style of a page."""
    if "<" in css or "url(" in css or "@import" in css:
        raise ValueError("`css` must hold no markup and no address.")
    return Element("style", verbatim=f"\n{css}")


def json_data(identity: str, data: Any) -> Element:
    """Data for programs that read the page; browsers neither show nor run it."""
    # NaN is not JSON: an error is better than data that other programs cannot read. No text ends
    # the element, or begins a comment, without this sign.
    text = json.dumps(data, indent=1, allow_nan=False).replace("<", "\\u003c")
    attributes = (("type", "application/json"), ("id", _escaped(identity)))
    return Element("script", attributes, verbatim=f"\n{text}\n")


def rendered(item: Element) -> str:
    """The element as HTML."""
    parts: list[str] = []
    _render(item, parts)
    return "".join(parts)


def _render(item: Element, parts: list[str]) -> None:
    attributes = "".join(
        f" {key}" if value is None else f' {key}="{_escaped(value)}"'
        for key, value in item.attributes
    )
    end = "\n" if item.tag in _LINES else ""
    if item.tag in _VOID:
        parts.append(f"<{item.tag}{attributes}>{end}")
    elif item.tag in _SHAPES and not item.children:
        parts.append(f"<{item.tag}{attributes}/>{end}")
    else:
        parts.append(f"<{item.tag}{attributes}>")
        parts.append(item.verbatim or "")
        for child in item.children:
            if isinstance(child, Element):
                _render(child, parts)
            else:
                parts.append(_escaped(child))
        parts.append(f"</{item.tag}>{end}")


def _escaped(text: str) -> str:
    """Text that is only text, between tags and between quotes."""
    # First what no page may hold, such as NUL, and what changes the direction of the text after it.
    text = printable(text)
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(sign, entity)
    return text


def _attribute_text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    if not abs(value) < float("inf"):
        raise ValueError("a number of a drawing must be finite.")
    if isinstance(value, int):
        return str(value)
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _check_attribute(key: str, value: str | None) -> None:
    """Refuse what runs, what a policy forbids, and addresses that are not in this file."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z-]*\d?", key) or key.startswith("on") or key == "style":
        raise ValueError(f"an element has no attribute {key!r} here.")
    if key in ("href", "src") and not (value or "").startswith(_ADDRESSES):
        raise ValueError(f"{key!r} must lead to a place in the page, or hold an image.")


def _flat(children: Iterable[Child]) -> Iterable[str | Element]:
    for child in children:
        if isinstance(child, str | Element):
            yield child
        elif child is not None:
            yield from _flat(child)


def _is_rightward(text: str) -> bool:
    return any(unicodedata.bidirectional(sign) in ("R", "AL", "AN") for sign in text)
