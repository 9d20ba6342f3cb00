"""What a page puts around its content: lists, what opens, what scrolls, figures, galleries."""

from collections.abc import Iterable, Sequence

from .elements import Child, Element, element
from .planes import legend


def bullets(texts: Iterable[Child]) -> Element:
    """Sentences as a list."""
    return element("ul", [element("li", text) for text in texts])


def folded(summary: str, *content: Child) -> Element:
    """What only some readers want, behind a line that opens it."""
    return element("details", element("summary", summary), content)


def scrolling(title: str, *content: Child) -> Element:
    """What may be wider than the screen; with the focus in it, keys move it."""
    return element("div", content, class_="scroll", role="region", aria_label=title, tabindex=0)


def figure(title: str, drawing: Child, caption: Child, names: Sequence[str] = ()) -> Element:
    """A drawing with words for all to see, and the names of its groups in their order."""
    return element(
        "figure",
        element("figcaption", caption),
        legend(names) if names else None,
        scrolling(title, drawing),
    )


def gallery(items: Iterable[Child]) -> Element:
    """Pictures with their captions in rows; several pictures in one item stand side by side."""
    return element("ul", [element("li", item) for item in items], class_="gallery")


def captioned(pictures: Sequence[Child], *caption: Child) -> list[Child]:
    """Pictures that belong together, such as a fake and the real sample next to it, and words."""
    return [element("div", pictures, class_="together"), element("div", caption, class_="caption")]
