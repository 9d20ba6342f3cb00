"""Pages of results: what they say, in which order, and what no name can do to them."""

import dataclasses
import json
import re
from itertools import pairwise

import pytest
import torch
from page_checks import HOSTILE, Page, comparison, explanation, report

import otmetrics
from otmetrics import Score, Scoring, Standing
from otmetrics.errors import Argument, Message, printable
from otmetrics.pages.elements import element, rendered
from otmetrics.pages.frame import Origin
from otmetrics.pages.rows import row_scale
from otmetrics.pages.writing import page_of


def unranked(found):
    """The same where the score that decides has no intervals."""
    board = found.decisive
    standings = {name: Standing(one.value, one.runs) for name, one in board.standings.items()}
    board = dataclasses.replace(board, standings=standings, reference=None, contest=None)
    return dataclasses.replace(found, leaderboards=found.leaderboards | {found.by: board})


RESULTS = {
    "score": lambda: report(),
    "score with tests": lambda: report(test=39),
    "score alone": lambda: report(metrics=("recall",), interval=False, floor=False),
    "compare": lambda: comparison(),
    "compare with a baseline": lambda: comparison(baseline="b", margin=0.5),
    "compare what does not rank": lambda: unranked(comparison()),
    "explain": lambda: explanation(),
}


@pytest.fixture(scope="module", params=RESULTS)
def result(request):
    return RESULTS[request.param]()


@pytest.fixture(scope="module")
def page(result):
    return Page(page_of(result))


def test_a_page_is_html_that_stands_for_itself(page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert page.all("html")[0].attributes["lang"] == "en"
    assert not [tag for tag in page.tags if tag.name in ("iframe", "object", "embed", "base")]
    for tag in page.tags:
        for key, value in tag.attributes.items():
            assert not key.startswith("on")
            if key in ("href", "src"):
                assert value.startswith(("#", "data:"))
            if key == "href" and len(value) > 1 and value[0] == "#":
                assert value[1:] in ids
            if key == "aria-labelledby":
                assert value in ids
    assert not re.search(r"https?:|url\(|@import", page_text(page))
    (script,) = page.all("script")
    assert script.attributes["type"] == "application/json"


def page_text(page):
    return "".join(page.inside["style"])


def test_headings_go_down_one_step_at_a_time(page):
    levels = [int(tag.name[1]) for tag in page.tags if re.fullmatch(r"h\d", tag.name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


def test_tables_have_captions_and_heads_with_a_scope(page):
    assert len(page.all("caption")) == len(page.all("table")) > 1
    assert {tag.attributes.get("scope") for tag in page.all("th")} == {"col", "row"}
    regions = [tag for tag in page.tags if tag.attributes.get("role") == "region"]
    assert len(regions) == len(page.all("table")) + len(page.all("figure"))
    names = [tag.attributes["aria-label"] for tag in regions]
    assert len(set(names)) == len(names)
    assert {tag.attributes["tabindex"] for tag in regions} == {"0"}


def test_the_data_is_the_json_of_the_command_line(result, page):
    assert json.loads("".join(page.inside["script"])) == json.loads(json.dumps(result.to_dict()))


def test_equal_results_have_equal_pages(result):
    again = dataclasses.replace(result, seconds={"features": 123.456})
    assert page_of(again) == page_of(result)
    assert "123.4" not in page_of(again)


def test_the_numbers_are_those_of_the_terminal(result, page):
    report = result.report if isinstance(result, otmetrics.Explanation) else result
    tables = (
        [(report.header(), report.rows())]
        if isinstance(report, otmetrics.ScoreReport)
        else [result.leaderboard(), result.summary()]
    )
    shown = {text.strip() for tag in ("td", "th") for text in page.inside[tag]}
    for header, rows in tables:
        assert {cell for row in rows for cell in row if cell != "-"} <= shown
        assert set(header[1:]) <= shown | {"minus a", "minus b"}
    text = "".join(page.text)
    for line in result.verdict():
        assert line in text
    for note in result.notes:
        assert note in text


def test_every_number_stands_under_its_name():
    one = report(test=39)
    (head, *rows) = Page(page_of(one)).tables["Scores of fake against real"]
    assert [cell for cell in head if cell != "value and excess"] == list(one.header())
    drawn = head.index("value and excess")
    assert [tuple(row[:drawn] + row[drawn + 1 :]) for row in rows] == one.rows()
    assert {row[drawn] for row in rows} == {""}

    found = comparison(baseline="b")
    tables, (header, lines) = Page(page_of(found)).tables, found.leaderboard()
    for title, columns in (
        ("Models by sliced Wasserstein ↓, the best first", header[1:5]),
        ("Differences by sliced Wasserstein ↓", header[5:]),
    ):
        head, *rows = tables[title]
        (drawn,) = {"difference", "estimate and interval"} & set(head)
        for row in rows:
            shown = dict(zip(head, row, strict=True))
            (line,) = [dict(zip(header, one, strict=True)) for one in lines if one[0] == row[0]]
            assert shown.pop("model") == row[0]
            assert shown.pop(drawn) == ""
            assert shown == {column: line[column] for column in columns}
    head, *rows = tables["Values of all scores, with letters that tied models share"]
    assert (tuple(head), [tuple(row) for row in rows]) == found.summary()


def test_the_verdict_comes_first_and_the_protocol_last():
    page = Page(page_of(report(test=39)))
    text = "".join(page.text)
    told = ["How far is fake from real?", report(test=39).verdict()[0], "value and excess"]
    told += ["What the columns mean", "What the scores mean", "All that decides the numbers"]
    places = [text.rindex(one) for one in told]
    assert places == sorted(places)
    # No notes, no section for them: what was read stands at the top.
    assert page.inside["h2"] == ["Scores", "Protocol"]


def test_the_comparison_in_its_order():
    found = comparison(baseline="b", margin=0.5, changes=True)
    page = Page(page_of(found))
    assert page.inside["h2"] == [
        *("Leaderboard", "Differences", "All scores", "What is covered", "Notes", "Protocol")
    ]
    assert page.inside["h1"] == ["Which of 3 models is closest to ", "real", "?"]
    text = "".join(page.text)
    assert " margin of 0.5" in text
    assert "better is below 0" in text
    # The baseline has no difference from itself.
    assert {"a minus b", "c minus b"} <= {one[:9] for one in page.inside["title"]}


@pytest.mark.parametrize(("by", "side"), [("kernel_distance", 1), ("recall", -1)])
def test_the_margin_stands_on_the_side_of_worse(by, side):
    found = comparison(baseline="b", margin=0.5, by=by)
    dashed = [
        tag for tag in Page(page_of(found)).all("line") if "stroke-dasharray" in tag.attributes
    ]
    board = found.decisive
    ends = [x for one in board.standings.values() if (d := one.difference) for x in (d.low, d.high)]
    scale = row_scale([0.0, *ends, 0.5, -0.5])
    # The first ones stand in the table, the last in its legend.
    assert {tag.attributes["x1"] for tag in dashed[:-1]} == {
        rendered(element("g", x=scale.place(0.5 * side))).split('"')[1]
    }


def test_the_excess_is_drawn_at_the_size_of_the_floor():
    one = report(metrics=("kernel_distance",))
    floor, interval = one.scores["kernel_distance"].floor, one.scores["kernel_distance"].interval
    scale = row_scale([0.0, interval.low, interval.high, floor.value, floor.at_floor_size])
    bar = Page(page_of(one)).all("rect")[0].attributes
    ends = sorted((scale.place(floor.value), scale.place(floor.at_floor_size)))
    assert float(bar["x"]) == pytest.approx(ends[0], abs=0.01)
    assert float(bar["width"]) == pytest.approx(ends[1] - ends[0], abs=0.02)


def test_where_a_score_does_not_rank_there_are_no_differences():
    page = Page(page_of(unranked(comparison())))
    assert "Differences" not in page.inside["h2"]
    assert "rank" not in page.inside["th"]


def test_what_cannot_be_told_is_said():
    page = Page(page_of(RESULTS["score alone"]()))
    assert "have no intervals and no tests" in "".join(page.inside["p"])


def test_what_did_not_converge_is_marked_and_explained():
    score = Score(1.5, (4, 4), converged=False, message=Message("raise ", Argument("epsilon"), "."))
    one = dataclasses.replace(report(), scores={"sinkhorn_divergence": score})
    page = Page(page_of(one, Origin("otmetrics score a b", lambda name: f"--{name}")))
    assert "1.5 !" in page.inside["td"]
    assert "Sinkhorn divergence did not converge: raise --epsilon." in page.inside["li"]
    assert "!: the solver did not converge, see the notes" in page.inside["li"]
    assert page.inside["code"][0] == "otmetrics score a b"
    assert "raise `epsilon`." in "".join(Page(page_of(one)).inside["li"])


@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_only_names(text):
    plain = Page(page_of(comparison(("x", "b"))))
    found = comparison((text, "b"))
    found = dataclasses.replace(found, notes=[*found.notes, f"left out `{text}`"])
    hostile = Page(page_of(found))
    assert printable(text) in hostile.inside["bdi"]
    # One note more, and no other element; names from the right stand in elements of their own.
    elements = [tag.name for tag in hostile.tags if tag.name not in ("bdi", "li")]
    assert elements == [tag.name for tag in plain.tags if tag.name not in ("bdi", "li")]
    assert len(hostile.all("li")) == len(plain.all("li")) + 1


@pytest.mark.parametrize("text", HOSTILE)
def test_paths_of_inputs_are_only_names(text):
    plain, hostile = report(metrics=("recall",)), report(metrics=("recall",))
    for side in ("real", "fake"):
        hostile.protocol["inputs"][side]["path"] = text
    pages = [Page(page_of(one)) for one in (plain, hostile)]
    assert [tag.name for tag in pages[0].tags] == [tag.name for tag in pages[1].tags]
    assert pages[1].inside["title"][0] == f"{printable(text)} against {printable(text)}: otmetrics"


def test_long_records_are_shortened_but_in_the_data():
    one = report(metrics=("recall",))
    one.protocol["inputs"]["real"]["skipped"] = [f"{i}.png" for i in range(1000)]
    page = Page(page_of(one))
    shown = ", ".join(f"{i}.png" for i in range(10)) + " and 990 more, which the JSON has"
    assert shown in page.inside["bdi"]
    assert "999.png" in "".join(page.inside["script"])


def test_every_score_is_explained():
    one = otmetrics.score_features(
        torch.rand(12, 2), torch.rand(12, 2), scoring=Scoring(floor=False)
    )
    page = Page(page_of(one))
    assert len(page.all("dt")) == len(page.all("dd")) == len(otmetrics.METRICS)


def test_the_explanation_in_its_order():
    page = Page(page_of(explanation()))
    assert page.inside["h2"] == [
        *("Scores", "Fakes far from real", "Kinds that are missing, or too many", "Classes"),
        *("Scores of each class", "Directions", "Copies of training samples", "Map"),
        *("Against the number of samples", "Notes", "Protocol"),
    ]


def test_an_explanation_of_images_shows_each_of_them_once(tmp_path):
    found = explanation(root=tmp_path)
    page = Page(page_of(found))
    images = page.all("image")
    assert 20 < len(images) < 200
    assert len({tag.attributes["href"] for tag in images}) == len(images)
    shown = [tag.attributes["href"][1:] for tag in page.all("use")]
    assert set(shown) == {tag.attributes["id"] for tag in images}
    worst = found.worst[0]
    assert any(found.name_of("fake", worst.fake) in title for title in page.inside["title"])
    assert "Plain attributes" in page.inside["h2"]
    hidden = dataclasses.replace(found, pictures={})
    assert not Page(page_of(hidden)).all("image")


def test_images_that_are_gone_leave_the_page(tmp_path):
    found = explanation(root=tmp_path)
    for path in (tmp_path / "fake").rglob("*.png"):
        path.unlink()
    page = Page(page_of(found))
    assert page.all("image")
    assert all("fake image" not in title for title in page.inside["title"])


@pytest.mark.parametrize("text", HOSTILE)
def test_names_of_classes_are_only_names(text):
    plain, hostile = (Page(page_of(explanation((name, "b")))) for name in ("x", text))
    assert [tag.name for tag in hostile.tags] == [tag.name for tag in plain.tags]
    assert printable(text) in "".join(hostile.text)


def test_a_page_of_many_findings_still_opens():
    found = explanation()
    worst = tuple(dataclasses.replace(found.samples[0], found=True) for _ in range(20_000))
    names = tuple(map(str, range(300)))
    flow = dataclasses.replace(
        found.flow, names=names, excess=((0.1,) * 300,) * 300, errors=((0.01,) * 300,) * 300
    )
    classes = dataclasses.replace(found.classes, flow=flow)
    many = dataclasses.replace(found, samples=worst, classes=classes)
    assert len(page_of(many).encode()) < 1_000_000
