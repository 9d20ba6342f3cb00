"""`--html`: a page next to the results, and the command in it that repeats them."""

import json
import shlex

import numpy as np
import pytest
from command import write_features
from page_checks import Page

import otmetrics as library
from otmetrics.pages.frame import Origin
from otmetrics.pages.writing import page_of

ONE = ("--metrics", "recall", "-q")


@pytest.fixture
def inputs(tmp_path):
    return [
        write_features(tmp_path / f"{name}.npy", 40, seed=i, shift=i / 2)
        for i, name in enumerate(("real", "fake", "other"))
    ]


def command_in(path):
    """The words of the command that a page says repeats it."""
    return shlex.split(Page(path.read_text()).inside["code"][0])


def test_a_page_stands_next_to_the_table(otmetrics, inputs, tmp_path):
    target = tmp_path / "report.html"
    plain = otmetrics("score", *inputs[:2], "--metrics", "recall")
    done = otmetrics("score", *inputs[:2], "--metrics", "recall", "--html", target)
    assert done.code == 0
    assert done.stdout == plain.stdout
    assert f"note: `{target}` has the page (" in done.stderr
    assert target.read_text().startswith("<!DOCTYPE html>\n")
    assert not list(tmp_path.glob(".*"))
    assert otmetrics("score", *inputs[:2], *ONE, "--html", target).stderr == ""


def test_json_and_page_have_the_same_data(otmetrics, inputs, tmp_path):
    target = tmp_path / "report.html"
    done = otmetrics("score", *inputs[:2], *ONE, "--html", target, "--json")
    assert json.loads("".join(Page(target.read_text()).inside["script"])) == json.loads(done.stdout)


def test_models_have_a_page(otmetrics, inputs, tmp_path):
    target = tmp_path / "report.html"
    arguments = ("compare", *inputs, "--metrics", "kernel_distance", "--html", target)
    done = otmetrics(*arguments)
    assert done.code == 0
    assert f"note: `{target}` has the page (" in done.stderr
    page = Page(target.read_text())
    assert page.inside["h1"] == ["Which of 2 models is closest to ", str(inputs[0]), "?"]
    assert page.inside["code"][0].endswith(
        "fake.npy " + str(inputs[2]) + " --metrics kernel_distance"
    )


def test_the_command_in_the_page_writes_the_same_page(otmetrics, inputs, tmp_path):
    odd = tmp_path / 'it\'s "so" $HOME.npy'
    inputs[1].rename(odd)
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    options = ("--no-floor", "--metrics", "recall,sliced_wasserstein", "--memory-limit", "4G")
    options += ("--tolerance", "0.01", "--confidence-level", "0.123456789", "--seed", "3")
    done = otmetrics("score", inputs[0], odd, *options, "-q", "--verbose", "--html", first)
    assert done.code == 0, done.stderr
    program, *words = command_in(first)
    assert program == "otmetrics"
    assert not {"--html", "--quiet", "-q", "--verbose"} & set(words)
    assert otmetrics(*words, "--html", second, "-q").code == 0
    assert second.read_bytes() == first.read_bytes()


def test_an_input_like_an_option_is_still_an_input(otmetrics, inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs[0].rename(tmp_path / "-real.npy")
    inputs[1].rename(tmp_path / "--fake.npy")
    assert otmetrics("score", *ONE, "--html", "a.html", "--", "-real.npy", "--fake.npy").code == 0
    words = command_in(tmp_path / "a.html")[1:]
    assert words == ["score", "--metrics", "recall", "--", "-real.npy", "--fake.npy"]
    assert otmetrics(words[0], "-q", "--html", "b.html", *words[1:]).code == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_python_writes_the_same_but_for_the_command(otmetrics, inputs, tmp_path):
    target = tmp_path / "report.html"
    assert otmetrics("score", *inputs[:2], *ONE, "--html", target).code == 0
    scoring = library.Scoring(metrics=("recall",))
    report = library.score(*inputs[:2], scoring=scoring)
    words = shlex.join(command_in(target))
    assert page_of(report, Origin(words)) == target.read_text()


def test_a_page_of_a_former_run_is_replaced(otmetrics, inputs, tmp_path):
    target = tmp_path / "report.htm"
    target.write_text("old")
    assert otmetrics("score", *inputs[:2], *ONE, "--html", target).code == 0
    assert target.read_text().startswith("<!DOCTYPE html>\n")


def test_what_did_not_converge_has_a_page_and_says_so(otmetrics, inputs, tmp_path):
    target = tmp_path / "report.html"
    options = ("--metrics", "sinkhorn_divergence", "--epsilon", "0.001", "--max-iterations", "2")
    done = otmetrics("score", *inputs[:2], *options, "--html", target, "-q")
    assert done.code == 4
    (told,) = [one for one in Page(target.read_text()).inside["li"] if "did not converge: " in one]
    # Arguments are named as this command has them.
    assert "--max-iterations" in told


@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        ("", 2, "the path is empty"),
        ("report", 2, "which must end in .html, got 'report'"),
        ("real.npy", 2, "the next word is taken for FILE"),
        ("missing/report.html", 3, "is not a folder: create it first"),
        ("folder.html", 3, "is not a regular file): name a file"),
    ],
)
@pytest.mark.parametrize("command", ["score", "compare"])
def test_places_are_refused_before_anything_is_read(
    otmetrics, tmp_path, monkeypatch, command, target, code, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    # The inputs do not exist: the place is looked at first.
    done = otmetrics(command, *"abc"[: 2 + (command == "compare")], "--html", target)
    assert done.code == code
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_page_that_cannot_be_written_loses_no_numbers(otmetrics, inputs, tmp_path, monkeypatch):
    from otmetrics.pages import writing

    monkeypatch.setattr(writing, "MOST_BYTES", 1000)
    target = tmp_path / "report.html"
    done = otmetrics("score", *inputs[:2], *ONE, "--html", target)
    assert done.code == 3
    assert "recall" in done.stdout
    assert "show fewer images or models" in done.stderr
    assert not target.exists()


def test_what_is_known_by_its_moments_alone_has_a_page(otmetrics, inputs, tmp_path):
    features = np.load(inputs[0])
    moments, target = tmp_path / "moments.npz", tmp_path / "report.html"
    np.savez(moments, mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    options = ("--metrics", "frechet_distance", "--features", "none", "-q", "--html", target)
    done = otmetrics("score", moments, inputs[1], *options)
    assert done.code == 0, done.stderr
    page = Page(target.read_text())
    assert "real: mean and covariance, 6-d" in page.inside["li"]
    assert "".join(page.inside["p"]).startswith("The scores have no intervals and no tests")


def test_other_real_samples_stand_at_the_top_too(otmetrics, inputs, tmp_path):
    target = tmp_path / "report.html"
    options = ("--floor-with", inputs[2], *ONE, "--html", target)
    assert otmetrics("score", *inputs[:2], *options).code == 0
    assert "floor_with: 40 features, 6-d" in Page(target.read_text()).inside["li"]
    assert "--floor-with" in command_in(target)
