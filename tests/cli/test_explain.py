"""`otmetrics explain`, and `score --per-class`, on the command line."""

import csv
import json

import numpy as np
import pytest
import torch

from otmetrics.images import write_png

QUICK = ("--metrics", "kernel_distance", "--features", "pixels", "--no-cache", "-q")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Light and dark images in two classes; fakes have few dark ones, and 12 are noise."""
    root = tmp_path_factory.mktemp("folders")
    generator = np.random.default_rng(0)
    for side, dark in (("real", 60), ("fake", 12), ("train", 60)):
        for number in range(120):
            name, level = ("dark", 60) if number < dark else ("light", 180)
            pixels = generator.normal(level + generator.normal(0, 10), 12, (3, 8, 8))
            if side == "fake" and number >= 108:
                pixels = generator.uniform(0, 255, (3, 8, 8))
            folder = root / side / name
            folder.mkdir(parents=True, exist_ok=True)
            image = torch.from_numpy(pixels.clip(0, 255).astype(np.uint8))
            write_png(folder / f"{number:03}.png", image)
    return root


def test_findings_json_csv_and_a_page(otmetrics, folders, tmp_path):
    targets = [tmp_path / name for name in ("out.json", "out.csv", "out.html")]
    done = otmetrics(
        "explain",
        folders / "real",
        folders / "fake",
        "--train",
        folders / "train",
        *QUICK,
        *("--json", targets[0], "--csv", targets[1], "--html", targets[2]),
    )
    assert done.code == 0, done.stderr
    assert "12 of 120 fakes are unlike any real sample" in done.stdout
    assert "Classes too rare among fakes: dark (0.2 times its share)." in done.stdout
    assert "light/110.png" in done.stdout

    found = json.loads(targets[0].read_text())
    assert {one["fake"] for one in found["explanation"]["worst"]} == set(range(108, 120))
    assert found["protocol"]["explaining"]["rate"] == 0.1
    with targets[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 120
    assert [row["found"] for row in rows].count("True") == 12
    page = targets[2].read_text()
    assert page.count("data:image/webp;base64,") > 30
    assert "otmetrics explain" in page

    hidden = tmp_path / "hidden.html"
    command = ("explain", folders / "real", folders / "fake", *QUICK, "--html", hidden)
    assert otmetrics(*command, "--no-images").code == 0
    assert "data:image/webp" not in hidden.read_text()


def test_names_are_no_formulas(otmetrics, folders, tmp_path):
    """A spreadsheet would run what begins with a sign."""
    fake = tmp_path / "fake"
    fake.mkdir()
    for number, path in enumerate(sorted((folders / "fake").rglob("*.png"))):
        (fake / f"=cmd{number}.png").write_bytes(path.read_bytes())
    target = tmp_path / "out.csv"
    done = otmetrics("explain", folders / "real", fake, *QUICK, "--csv", target)
    assert done.code == 0, done.stderr
    with target.open(newline="") as file:
        assert all(row["source"].startswith("'=cmd") for row in csv.DictReader(file))


def test_places_are_checked_first(otmetrics, folders, tmp_path):
    missing = tmp_path / "none" / "out.csv"
    done = otmetrics("explain", folders / "real", folders / "fake", *QUICK, "--csv", missing)
    assert done.code == 3
    assert "is not a folder: create it first" in done.stderr


def test_no_input_is_written_over(otmetrics, folders, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("a,b\n")
    command = ("explain", folders / "real", folders / "fake", "--labels", labels, *QUICK)
    for target, says in ((labels, "which is an input"), (tmp_path / "out.npy", "must end in .csv")):
        done = otmetrics(*command, "--csv", target)
        assert done.code == 2
        assert "--csv" in done.stderr
        assert says in done.stderr
    assert labels.read_text() == "a,b\n"


def test_training_samples_that_are_the_real_ones(otmetrics, folders):
    real, fake = folders / "real", folders / "fake"
    done = otmetrics("explain", real, fake, "--train", real, *QUICK)
    assert done.code == 3
    assert "give real samples that the model was not trained on" in done.stderr


def test_scores_of_each_class(otmetrics, folders, tmp_path):
    target = tmp_path / "out.json"
    command = ("score", folders / "real", folders / "fake", *QUICK, "--per-class")
    done = otmetrics(*command, "--json", target)
    assert done.code == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    rows = {words[0]: words for words in lines if words and words[0] in ("dark", "light", "mean")}
    assert rows["dark"][1:3] == ["60", "12"]
    assert rows["light"][1:3] == ["60", "108"]
    classes = json.loads(target.read_text())["classes"]
    score = classes["light"]["scores"]["kernel_distance"]
    assert rows["light"][3] == f"{score['value']:.4g}"
    assert score["interval"]["low"] <= score["value"] <= score["interval"]["high"]
    mean = np.mean([one["scores"]["kernel_distance"]["value"] for one in classes.values()])
    assert rows["mean"][1] == f"{mean:.4g}"


def test_classes_that_nothing_says(otmetrics, folders):
    done = otmetrics(
        "score", folders / "real" / "dark", folders / "fake" / "dark", *QUICK, "--per-class"
    )
    assert done.code == 3
    assert "--per-class needs the class of each sample" in done.stderr
