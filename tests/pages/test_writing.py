"""Files of pages: whole or not at all, where they may be, and never too large."""

import os
import stat

import pytest
from page_checks import comparison, report

import otmetrics
from otmetrics import DataError, safe_files
from otmetrics.pages import writing


@pytest.fixture(scope="module")
def result():
    return report(metrics=("recall",))


def names_in(folder):
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("name", ["report.html", "report.HTM"])
def test_a_file_is_written_whole(result, tmp_path, name):
    otmetrics.write_html(result, tmp_path / name)
    assert (tmp_path / name).read_bytes() == writing.page_of(result).encode()
    assert names_in(tmp_path) == [name]


def test_pages_are_small(tmp_path):
    otmetrics.write_html(comparison(), tmp_path / "a.html")
    assert (tmp_path / "a.html").stat().st_size < 150_000


def test_a_file_that_is_there_stays_unless_asked(result, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(DataError, match=r"exists: choose another name, or pass `overwrite`\."):
        otmetrics.write_html(result, path)
    assert path.read_text() == "old"
    otmetrics.write_html(result, str(path), overwrite=True)
    assert path.read_text().startswith("<!DOCTYPE html>")


def test_a_link_is_replaced_and_what_it_leads_to_stays(result, tmp_path):
    target, link = tmp_path / "target", tmp_path / "report.html"
    target.write_text("mine")
    link.symlink_to(target)
    otmetrics.write_html(result, link, overwrite=True)
    assert target.read_text() == "mine"
    assert not link.is_symlink()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "report.pdf", "must end in .html"),
        (lambda folder: folder / "html", "must end in .html"),
        (lambda folder: folder / "missing" / "report.html", "is not a folder: create it first"),
    ],
)
def test_places_that_are_refused(result, tmp_path, make, words):
    with pytest.raises(DataError, match=words):
        otmetrics.write_html(result, make(tmp_path))
    assert names_in(tmp_path) == []


def test_folders_and_pipes_are_not_replaced(result, tmp_path):
    (tmp_path / "a.html").mkdir()
    with pytest.raises(DataError, match="name a file"):
        otmetrics.write_html(result, tmp_path / "a.html", overwrite=True)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "b.html")
        with pytest.raises(DataError, match="name a file"):
            otmetrics.write_html(result, tmp_path / "b.html", overwrite=True)
        assert stat.S_ISFIFO((tmp_path / "b.html").stat().st_mode)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the rights of a file bind others")
def test_a_protected_file_stays(result, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    path.chmod(0o444)
    with pytest.raises(DataError, match="cannot be written: check its permissions"):
        otmetrics.write_html(result, path, overwrite=True)


def test_where_writing_fails_the_former_file_is_there(result, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safe_files.os, "fdopen", full)
    with pytest.raises(DataError, match="No space left on device"):
        otmetrics.write_html(result, path, overwrite=True)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["report.html"]


def test_a_page_that_no_browser_opens_is_not_written(result, tmp_path):
    page = writing.page_of(result)
    large = page.replace("</main>", "x" * writing.MOST_BYTES + "</main>")
    with pytest.raises(DataError, match=r"would have 10\.0 MB, more than the 10 MB"):
        writing.write_page(large, tmp_path / "a.html")
    assert names_in(tmp_path) == []


def test_other_results_have_no_page(tmp_path):
    with pytest.raises(
        TypeError, match="`result` must be a ScoreReport, a Comparison or an Explanation"
    ):
        otmetrics.write_html({}, tmp_path / "a.html")
    assert names_in(tmp_path) == []
