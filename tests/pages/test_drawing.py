"""Drawings: places are right, and what is no number is left out."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_checks import AXES, Page

from otmetrics.pages import planes, rows
from otmetrics.pages.drawing import Scale
from otmetrics.pages.elements import element, rendered
from otmetrics.pages.planes import Curve, Points
from otmetrics.pages.rows import row_scale
from otmetrics.pages.tables import heat_table

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


def read(made):
    return Page(rendered(made))


def numbers(page, tag, attribute):
    return [float(one.attributes[attribute]) for one in page.all(tag)]


@given(st.lists(NUMBERS))
def test_a_scale_holds_all_numbers(values):
    scale = row_scale(values)
    assert scale.low < scale.high
    finite = [value for value in values if abs(value) < 1e300]
    assert all(scale.low <= value <= scale.high for value in finite)
    assert 1 <= len(scale.ticks()) <= 6
    if finite:
        assert scale.start - 1e-9 <= scale.place(min(finite)) <= scale.place(max(finite))


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_round_and_on_the_scale(low, width):
    scale = row_scale([low, low + width])
    ticks = scale.ticks()
    assert ticks == sorted(set(ticks))
    assert 1 <= len(ticks) <= 6
    slack = 1e-6 * (scale.high - scale.low)
    assert all(scale.low - slack <= tick <= scale.high + slack for tick in ticks)


def test_what_is_beyond_a_scale_lies_at_its_end():
    scale = Scale(0.0, 1.0, 10, 110)
    assert [scale.place(value) for value in (-5.0, 0.25, 7.0)] == [10, 35, 110]


def test_ticks_of_a_scale_that_people_read():
    assert Scale(0.0, 1.0, 0, 100).ticks() == [0.0, 0.5, 1.0]
    assert Scale(0.0, 1.0, 0, 100).ticks(5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert Scale(-0.13, 0.42, 0, 100).ticks() == [0.0, 0.2, 0.4]


@pytest.mark.parametrize(("floor", "value"), [(1.0, 2.0), (0.9, 0.4)])
def test_the_bar_goes_from_the_floor_to_the_score_at_its_size(floor, value):
    scale = row_scale([0.0, 4.0], rows.NARROW)
    page = read(rows.floor_bar("t", scale, floor, value))
    (bar,) = page.all("rect")
    start, width = (float(bar.attributes[key]) for key in ("x", "width"))
    low, high = sorted((floor, value))
    assert start == pytest.approx(scale.place(low), abs=0.01)
    assert start + width == pytest.approx(scale.place(high), abs=0.01)
    ends = [round(one, 1) for one in numbers(page, "line", "x1")]
    assert ends == [round(scale.place(x), 1) for x in (0.0, floor)]
    assert page.tags[0].attributes["width"] == str(rows.NARROW)


def test_lines_of_a_table_share_a_scale():
    scale = row_scale([-1.0, 3.0])
    page = read(rows.interval_line("t", scale, 1.0, (0.0, 2.0), marks=[3.0]))
    found = [round(one, 1) for one in numbers(page, "line", "x1")]
    assert found == [round(scale.place(x), 1) for x in (0.0, 3.0, 0.0, 0.0, 2.0)]
    assert page.all("line")[1].attributes["stroke-dasharray"]


DRAWINGS = {
    "floor_bar": lambda x: rows.floor_bar("t", row_scale([0.0, x]), x, 1.0),
    "interval_line": lambda x: rows.interval_line("t", row_scale([x]), x, (x, x)),
    "bar": lambda x: rows.bar("t", row_scale([0.0, x]), x, beside=x),
    "axis": lambda x: rows.axis(row_scale([x, 2.0])),
    "scatter": lambda x: planes.scatter(
        "t", [Points("a", [(x, 1.0), (0.0, x)])], AXES, [((x, 1.0), (0.0, x))]
    ),
    "curves": lambda x: planes.curves("t", [Curve("a", [(1.0, x), (2.0, x)], [(x, x)] * 2)], AXES),
    "heat_table": lambda x: heat_table("t", ["a"], ["b", "c"], [[x, -1.0]], corner="real, fake"),
}


@pytest.mark.parametrize("kind", DRAWINGS)
@given(value=NUMBERS)
def test_whatever_the_number_no_drawing_has_another_than_finite(kind, value):
    page = read(DRAWINGS[kind](value))
    for attribute in ("d", "points", "x", "x1", "width", "cx"):
        assert not re.search(r"nan|inf", " ".join(page.values(attribute)))


@pytest.mark.parametrize("kind", sorted(set(DRAWINGS) - {"heat_table"}))
def test_a_drawing_says_what_it_shows(kind):
    page = read(DRAWINGS[kind](1.5))
    assert page.tags[0].name == "svg"
    assert page.tags[0].attributes["role"] == "img"
    assert page.tags[1].name == "title"
    assert page.inside["title"] != [""]


def test_groups_differ_by_shape_and_lines_by_dashes():
    groups = [Points(str(i), [(0.0, 0.0), (1.0, 1.0)]) for i in range(4)]
    paths = [one.attributes["d"] for one in read(planes.scatter("t", groups, AXES)).all("path")]
    assert len(set(paths)) == 4
    lines = [Curve(str(i), [(0.0, 0.0), (1.0, 1.0)]) for i in range(4)]
    drawn = read(planes.curves("t", lines, AXES)).all("polyline")
    assert len({one.attributes.get("stroke-dasharray") for one in drawn}) == 4


def test_a_logarithmic_axis_names_the_numbers_themselves():
    line = Curve("a", [(10.0, 1.0), (1000.0, 2.0)])
    page = read(planes.curves("t", [line], AXES, logarithmic=True))
    assert {"10", "100", "1000"} <= set(page.inside["text"])


def test_arrows_go_from_one_point_to_the_other_and_axes_have_their_names():
    corners = Points("a", [(0.0, 0.0), (10.0, 10.0)])
    arrow = ((2.0, 5.0), (8.0, 5.0))
    page = read(planes.scatter("t", [corners], ("this way", "that way"), [arrow, (arrow[0],) * 2]))
    assert {"this way →", "↑ that way"} <= set(page.inside["text"])
    (path,) = [
        tag.attributes["d"] for tag in page.all("path") if "arrows" in tag.attributes["class"]
    ]
    (start, end, tip, *_) = [
        tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", path)
    ]
    across, _ = planes._frame([corners], margin=0.04)
    assert (start[0], end[0]) == pytest.approx((across.place(2.0), across.place(8.0)), abs=0.06)
    assert start[1] == end[1] == tip[1]
    assert tip[0] == pytest.approx(end[0], abs=0.11)
    assert path.count("Z") == 1  # what does not move has no arrow


def test_a_heat_table_is_darkest_where_it_is_furthest_from_zero():
    table = heat_table("t", ["a", "b"], ["c", "d"], [[4.0, -4.0], [0.1, -2.0]], corner="x")
    shades = [tag.attributes.get("class") for tag in read(table).all("td")]
    assert shades == ["above-4", "below-4", None, "below-2"]
    assert read(table).inside["td"] == ["+4", "-4", "+0.1", "-2"]


def test_the_legend_shows_what_the_drawing_shows():
    page = read(element("div", planes.legend(["real", "fake"])))
    assert [text.strip() for text in page.inside["li"] if text.strip()] == ["real", "fake"]
    assert all(tag.attributes["aria-hidden"] == "true" for tag in page.all("svg"))
