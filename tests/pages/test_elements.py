"""The tree of elements: text stays text, and what could run is refused."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_checks import HOSTILE, Page

from otmetrics.errors import printable
from otmetrics.pages.elements import element, json_data, name, named_sentence, rendered, stylesheet
from otmetrics.pages.thumbnails import Thumbnails

TEXTS = st.one_of(st.text(), st.sampled_from(HOSTILE), st.text(alphabet="<>&\"'/-!ab= "))


@given(TEXTS, TEXTS)
def test_text_comes_out_as_it_went_in(inside, around):
    page = Page(rendered(element("p", element("bdi", inside), title=around)))
    assert [tag.name for tag in page.tags] == ["p", "bdi"]
    assert "".join(page.text).rstrip("\n") == printable(inside)
    assert page.tags[0].attributes == {"title": printable(around)}


@given(st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)))
def test_data_comes_out_as_it_went_in(data):
    page = Page(rendered(json_data("result", data)))
    assert page.tags[0].attributes == {"type": "application/json", "id": "result"}
    assert len(page.tags) == 1
    assert json.loads("".join(page.text)) == data


def test_data_without_a_number_is_an_error():
    with pytest.raises(ValueError, match="JSON"):
        json_data("result", {"x": math.nan})


@pytest.mark.parametrize("tag", ["script", "style", "iframe", "object", "b onclick=x", "SCRIPT"])
def test_what_runs_is_no_element(tag):
    with pytest.raises(ValueError, match="`tag`"):
        element(tag, "alert(1)")


@pytest.mark.parametrize(
    "attributes",
    [
        {"onclick": "alert(1)"},
        {"style": "color: red"},
        {"a b": "c"},
        {"href": "https://example.org"},
        {"href": "javascript:alert(1)"},
        {"src": "x.png"},
        {"x": math.nan},
        {"x": math.inf},
    ],
)
def test_attributes_that_run_or_reach_out_are_refused(attributes):
    with pytest.raises(ValueError, match=r"attribute|lead|finite"):
        element("a", **attributes)


@pytest.mark.parametrize("css", ["</style>", "a { background: url(x) }", "@import 'x'"])
def test_a_style_reaches_nothing(css):
    with pytest.raises(ValueError, match="`css`"):
        stylesheet(css)


def test_attributes_as_python_writes_them():
    made = element("td", None, ["a", ("b",)], class_="x", aria_label="y", hidden=True, id=None)
    assert rendered(made) == '<td class="x" aria-label="y" hidden>ab</td>'
    numbers = element("circle", cx=1.0, cy=-0.001, r=2.345, z=10)
    assert rendered(numbers) == '<circle cx="1" cy="0" r="2.35" z="10"/>'


def test_only_names_that_are_written_from_the_right_are_kept_apart():
    first, second = "אבג", "אבג דהו"
    parts = named_sentence(f"Any of {first}, {second} and a may be the best.", [first, second, "a"])
    assert parts == ["Any of ", name(first), ", ", name(second), " and a may be the best."]
    assert named_sentence("a is the best", ["a"]) == ["a is the best"]


def test_an_image_is_in_the_page_once():
    images = Thumbnails()
    assert images.store() is None
    shown = [
        images.show(("fake", i % 2), b"\x89PNG" + bytes([i % 2]), f"fake {i}") for i in range(4)
    ]
    page = Page(rendered(element("div", images.store(), shown)))
    assert page.values("id") == ["image-0", "image-1"]
    assert [tag.attributes["href"] for tag in page.all("use")] == ["#image-0", "#image-1"] * 2
    assert page.inside["title"] == [f"fake {i}" for i in range(4)]
    with pytest.raises(ValueError, match="PNG, JPEG or WebP"):
        images.show("x", b"<svg>", "")
