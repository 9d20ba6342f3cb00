"""Pages as a browser shows them: nothing runs, nothing is fetched, all can be read and reached."""

import importlib.util
import os
import shutil
from contextlib import contextmanager
from itertools import pairwise

import pytest
from page_checks import HOSTILE, comparison, explanation, report, specimen

from otmetrics.errors import printable
from otmetrics.pages.frame import Origin
from otmetrics.pages.writing import page_of, write_page

CHROMIUM = next(
    filter(None, [os.environ.get("CHROMIUM"), *map(shutil.which, ("chromium", "google-chrome"))]),
    None,
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None,
        reason='needs playwright: pip install -e ".[browser]"',
    ),
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="needs chromium: apt-get install chromium, or name it in the variable CHROMIUM",
    ),
]

PAGES = ("score", "compare", "explain", "specimen")
CLASSES = (HOSTILE[0].replace("/", "-"), "אבג 'x'")  # as folders may be called
MODELS = (HOSTILE[0], HOSTILE[4], "דהו", HOSTILE[1], "a " + "long name " * 30, "x" * 300)


def hostile_score():
    found = report(test=39)
    for side, text in zip(("real", "fake"), HOSTILE, strict=False):
        found.protocol["inputs"][side]["path"] = text
    found.notes.extend(f"left out `{text}`: it is no image" for text in HOSTILE)
    return page_of(found, Origin("otmetrics score " + " ".join(HOSTILE) + " --num 5" * 40))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Every kind of page, as files."""
    folder = tmp_path_factory.mktemp("pages")
    made = {"score": hostile_score(), "compare": page_of(comparison(MODELS, baseline=MODELS[0]))}
    made["explain"] = page_of(explanation(CLASSES, folder))
    made["specimen"] = specimen()
    for name, page in made.items():
        write_page(page, folder / f"{name}.html")
    return folder


@pytest.fixture(scope="module")
def browser():
    """One browser for the module; it ends with it, as its event loop would be in others' way."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        # Root, which containers run as, has no sandbox.
        flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        running = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        running.close()


@pytest.fixture
def opened(browser, pages):
    """Open a page, with all that is folded; what goes wrong in it fails the test."""

    @contextmanager
    def opening(name, *, width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
        )
        told, address = [], (pages / f"{name}.html").as_uri()
        page = context.new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda one: told.append(one.url) if reaches_out(one.url, address) else 0)
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        yield page
        context.close()
        assert told == []

    return opening


def reaches_out(url, address):
    return url.split("#")[0] != address and not url.startswith("data:")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [360, 1600])
def test_only_tables_scroll_to_the_side(opened, name, width):
    with opened(name, width=width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # What is wider than its place can be moved by keys.
        stuck = page.evaluate(
            """[...document.querySelectorAll('main *')].filter(one =>
                one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0
                && getComputedStyle(one).overflowX === 'auto' && one.tabIndex !== 0).length"""
        )
        assert stuck == 0


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_fault_that_shuts_people_out(opened, name, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(name, scheme=scheme) as page:
        found = axe.run(page).response["violations"]
    serious = [
        (one["id"], [node["html"][:200] for node in one["nodes"][:3]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.parametrize("name", PAGES)
def test_names_are_shown_and_do_nothing(opened, name):
    with opened(name) as page:
        assert page.evaluate("document.scripts.length") == 1
        assert page.evaluate("document.scripts[0].type") == "application/json"
        handlers = """[...document.querySelectorAll('*')].some(one =>
            one.getAttributeNames().some(name => name.startsWith('on')))"""
        assert page.evaluate(handlers) is False
        assert page.evaluate("document.querySelectorAll('img').length") == 0
        text = page.evaluate("document.body.textContent")
        shown = {"score": HOSTILE, "compare": MODELS, "explain": CLASSES, "specimen": HOSTILE[:1]}
        for one in shown[name]:
            assert printable(one) in text
        assert page.evaluate("JSON.parse(document.getElementById('result').textContent)")
    if name in ("score", "specimen"):
        with opened(name) as page:
            assert HOSTILE[0] in page.title()


def test_names_from_the_right_stay_in_their_order(opened):
    with opened("compare") as page:
        places = page.evaluate(
            """[...document.querySelectorAll('.sides li:last-child bdi')].slice(0, 3).map(one =>
                [one.getBoundingClientRect().top, one.getBoundingClientRect().left])"""
        )
    assert len(places) == 3
    assert all(first < second for first, second in pairwise(places))


def test_all_images_load(opened):
    with opened("specimen") as page:
        sizes = page.evaluate(
            """Promise.all([...document.querySelectorAll('image')].map(async one => {
                const image = new Image();
                image.src = one.getAttribute('href');
                await image.decode();
                return [image.naturalWidth, image.naturalHeight];
            }))"""
        )
        assert sizes == [[32, 32]] * 3
        boxes = page.evaluate(
            """[...document.querySelectorAll('.thumbnail use')].map(one =>
                one.getBoundingClientRect().width)"""
        )
        assert boxes == [96] * 11
        # What is shown is the picture, not only a place for it.
        shot = page.locator(".thumbnail").nth(5).screenshot()
        assert mean_of(shot) == pytest.approx(160, abs=3)


def mean_of(png):
    import io

    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("L")).mean()


def test_names_below_one_picture_are_whole(opened):
    with opened("specimen") as page:
        lines = page.evaluate(
            """['fake.npz[2262]', 'train.npz[831]'].map(text => {
                const name = document.createElement('bdi');
                name.textContent = text;
                document.querySelector('.caption').replaceChildren('near ', name);
                const range = document.createRange();
                range.selectNodeContents(name);
                return range.getClientRects().length;
            })"""
        )
    assert lines == [1, 1]


def test_keys_reach_all_that_opens_or_scrolls(opened):
    with opened("score") as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = false)")
        reached = []
        for _ in range(12):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate(
                    """[document.activeElement.tagName,
                        getComputedStyle(document.activeElement).outlineStyle]"""
                )
            )
            if reached[-1][0] == "SUMMARY":
                page.keyboard.press("Enter")
        assert {"A", "DIV", "SUMMARY"} <= {tag for tag, _ in reached}
        assert {outline for tag, outline in reached if tag != "BODY"} == {"solid"}
        assert page.evaluate("document.querySelectorAll('details[open]').length") == 2


def test_paper_has_all_and_no_links(opened):
    with opened("score") as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = false)")
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible()
        assert page.locator("dl").is_visible()
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(31, 35, 40)"


def test_without_its_style_the_page_reads_in_order(opened):
    with opened("score") as page:
        page.evaluate("document.querySelector('style').remove()")
        tops = page.evaluate(
            """['h1', '.verdict', '#scores table', '#notes', '#protocol'].map(one =>
                document.querySelector(one).getBoundingClientRect().top)"""
        )
        assert all(first < second for first, second in pairwise(tops))
        assert page.evaluate("getComputedStyle(document.querySelector('rect')).fill") == (
            "rgb(179, 80, 11)"
        )
