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
from otmetrics.explanation.copies import Copy
from otmetrics.explanation.uncovered import Gap
from otmetrics.pages.elements import element, rendered
from otmetrics.pages.frame import Origin
from otmetrics.pages.rows import NARROW, row_scale
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
    drawn = [head.index(name) for name in ("interval, drawn", "from floor to score")]
    assert [head[place - 1] for place in drawn] == ["95 % interval", "excess"]
    shown = [[cell for k, cell in enumerate(row) if k not in drawn] for row in (head, *rows)]
    place = head.index("95 % interval")
    below = [row[place].partition("around ")[2] for row in shown]
    for row in shown:
        row[place] = row[place].partition("around ")[0]
    assert shown == [list(one.header()), *map(list, one.rows())]
    # Of scores with a bias the interval is for another number, which stands below it.
    unbiased = [score.debiased is not None for score in one.scores.values()]
    assert [told.endswith(", without bias") for told in below] == [False, *unbiased]
    assert {True, False} == set(unbiased)
    assert below[1] == f"{one.scores['sliced_wasserstein'].debiased ** 0.5:.4g}, without bias"
    assert {row[place] for row in rows for place in drawn} == {""}

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
    told = ["How far is fake from real?", report(test=39).verdict()[0], "from floor to score"]
    told += [
        "excess: the score at that size minus the floor",
        "What the scores mean",
        "All that decides the numbers",
    ]
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
    floor = one.scores["kernel_distance"].floor
    scale = row_scale([0.0, floor.value, floor.at_floor_size], NARROW)
    bar = Page(page_of(one)).all("rect")[0].attributes
    ends = sorted((scale.place(floor.value), scale.place(floor.at_floor_size)))
    assert float(bar["x"]) == pytest.approx(ends[0], abs=0.01)
    assert float(bar["width"]) == pytest.approx(ends[1] - ends[0], abs=0.02)


@pytest.mark.parametrize("metric", ["sliced_wasserstein", "frechet_distance", "recall"])
def test_the_mark_of_a_score_lies_in_its_interval(metric):
    """That of 40 samples does not, where the interval is for a distance without their bias."""
    one = report(metrics=(metric,))
    score = one.scores[metric]
    unbiased = metric != "recall"
    assert (score.debiased is not None) == unbiased
    ends = (score.interval.low, score.interval.high)
    drawn = [title for title in Page(page_of(one)).inside["title"] if " in [" in title]
    (shown,) = [float(title.split(": ")[1].split(" ")[0]) for title in drawn]
    assert ends[0] < shown < ends[1]
    assert (shown == pytest.approx(score.value, rel=1e-3)) != unbiased
    order = 2 if metric == "sliced_wasserstein" else 1
    if unbiased:
        assert shown**order == pytest.approx(score.debiased, rel=1e-2)


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
        *("Scores", "Copies of training samples", "Fakes unlike any real sample"),
        *("Classes", "Where the distance comes from", "Scores of each class", "Directions", "Map"),
        *("Against the number of samples", "Kinds that are missing, or too many"),
        *("Notes", "Protocol"),
    ]


def nothing_found(found):
    """The same explanation without a finding."""
    return dataclasses.replace(
        found,
        samples=tuple(dataclasses.replace(one, found=False) for one in found.samples),
        copies=dataclasses.replace(found.copies, rows=(), number=0),
        classes=dataclasses.replace(
            found.classes,
            shares=tuple(dataclasses.replace(one, found=False) for one in found.classes.shares),
        ),
        uncovered=dataclasses.replace(found.uncovered, gaps=(), crowded=()),
        attributes=tuple(dataclasses.replace(one, found=False) for one in found.attributes),
        directions=tuple(dataclasses.replace(one, excess=None) for one in found.directions),
        plane=dataclasses.replace(found.plane, excess=None, moves=()),
    )


def test_sections_that_found_nothing_come_last_and_are_folded(tmp_path):
    found = nothing_found(explanation(root=tmp_path))
    page = Page(page_of(found))
    assert page.inside["h2"][:3] == [
        *("Scores", "Where the distance comes from", "Against the number of samples"),
    ]
    assert page.inside["h2"][3:9] == [
        *("Copies of training samples", "Fakes unlike any real sample", "Classes"),
        *("Kinds that are missing, or too many", "Plain attributes", "Directions"),
    ]
    # All pictures are of what may be chance, and none stands under the headline.
    hidden, told = "".join(page.inside["details"]), "".join(page.text)
    titles = [title for title in page.inside["title"] if " image " in title]
    assert titles
    assert all(title in hidden for title in titles)
    assert hidden.count(" image ") == told.count(" image ")
    for line in ("No fakes were found that are unlike", "No difference was found in brightness"):
        assert line in "".join(page.inside["p"])
    assert "no sign of copying on average." in told

    avoided = with_gap(found)
    assert avoided.kinds() == ["clusters"]
    assert Page(page_of(avoided)).inside["h2"][1] == "Kinds that are missing, or too many"


def with_gap(found):
    """The same explanation with a cluster that fakes avoid."""
    gap = Gap(3, 9, 2, 0.2, 0.1, 0.5, 0.01, 0, 1, 2.0, 1.0, (0, 4, 5), (7,))
    return dataclasses.replace(found, uncovered=dataclasses.replace(found.uncovered, gaps=(gap,)))


def test_the_most_serious_finding_is_shown_under_the_headline(tmp_path):
    found = explanation(root=tmp_path)
    assert found.kinds()[0] == "unlike"
    titles = [title for title in Page(page_of(found)).inside["header"] if " image " in title]
    worst = [found.name_of("fake", one.fake) for one in found.worst[:8]]
    assert titles == [printable(f"fake image {one}") for one in worst]

    pairs = tuple(Copy(row, row + 1, 0.1, 0.01) for row in range(9))
    copied = dataclasses.replace(found, copies=dataclasses.replace(found.copies, rows=pairs))
    header = Page(page_of(copied)).inside["header"]
    titles = [one for one in header if one.startswith(("fake image ", "training image "))]
    assert [title.split(" ")[0] for title in titles] == ["fake", "training"] * 4

    header = Page(page_of(with_gap(nothing_found(found)))).inside["header"]
    titles = [title for title in header if title.startswith("real image ")]
    assert titles == [printable(f"real image {found.name_of('real', row)}") for row in (0, 4, 5)]
    assert any("Real images of cluster 4, in which fakes lie too seldom" in line for line in header)
    hidden = dataclasses.replace(found, pictures={})
    assert not any(" image " in line for line in Page(page_of(hidden)).inside["header"])


def test_classes_are_counted_on_both_sides():
    found = explanation()
    head, *rows = Page(page_of(found)).tables["Classes and their shares"]
    shares = found.classes.shares
    real, fake = (sum(getattr(one, side) for one in shares) for side in ("real", "fake"))
    assert head[1:3] == [f"real, of {real}", f"fake, of {fake}"]
    assert [row[1:3] for row in rows] == [
        [
            f"{one.real} ({100 * one.real / real:.0f} %)",
            f"{one.fake} ({100 * one.fake / fake:.0f} %)",
        ]
        for one in shares
    ]


@pytest.mark.parametrize(
    ("pvalue", "rows", "told"),
    [
        (0.5, True, "no sign of copying on average, though these copies are."),
        (0.5, False, "no sign of copying on average."),
        (0.01, True, "p = 0.01, a sign of copying on average."),
    ],
)
def test_what_the_sign_of_copying_says(pvalue, rows, told):
    found = explanation()
    copies = dataclasses.replace(
        found.copies, c_t=-0.4, c_t_pvalue=pvalue, rows=found.copies.rows if rows else ()
    )
    page = Page(page_of(dataclasses.replace(found, copies=copies)))
    (line,) = [line for line in page.inside["p"] if "C_T" in line]
    assert line.endswith(told)


def test_real_is_blue_and_fake_is_orange_in_all_drawings():
    found = explanation()
    page = Page(page_of(found))
    assert [tag.attributes["class"] for tag in page.all("polygon")] == ["fill-first", "fill-second"]
    bands = [tag.attributes["points"].split() for tag in page.all("polygon")]
    tops = [[float(place.split(",")[1]) for place in band] for band in bands]
    last = found.curve[-1]
    assert last.value > last.floor
    # Larger is higher up: the band of the floor lies below.
    assert min(tops[0]) > min(tops[1])


def test_the_map_has_its_shares_and_its_moves_on_the_drawing():
    found = explanation()
    page = Page(page_of(found))
    words = " ".join(page.inside["text"])
    assert re.search(r"direction 1: [\d.]+ % of the excess →", words)
    assert re.search(r"↑ direction 2: -?[\d.]+ % of the excess", words)
    (arrows,) = [
        tag for tag in page.all("path") if "arrows" in tag.attributes.get("class", "").split()
    ]
    assert arrows.attributes["d"].count("Z") == len(found.plane.moves) > 5
    assert f"The {len(found.plane.moves)} arrows go from a real sample" in "".join(page.text)

    plane = dataclasses.replace(found.plane, excess=None, moves=())
    page = Page(page_of(dataclasses.replace(found, plane=plane)))
    share = f"{100 * found.directions[0].share:.0f} % of the cost, whose excess may be chance"
    assert any(share in one for one in page.inside["text"])
    assert "No arrows: what the plan moves has no more" in "".join(page.text)


def test_the_curve_has_bands_of_its_intervals():
    page = Page(page_of(explanation()))
    bands = page.all("polygon")
    assert len(bands) == 2
    assert [len(tag.attributes["points"].split()) for tag in bands] == [6, 6]


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
