"""Scores of each class are those of its samples alone."""

import pytest
import torch

from otmetrics import DataError, Scoring, kernel_distance, score_features
from otmetrics.scoring.feature_set import FeatureSet


def item(features, labels, name):
    source = {"path": name, "kind": "features", "available": len(features), "used": len(features)}
    return FeatureSet(features, {"extractor": "none"}, source, labels=labels)


@pytest.fixture
def sides():
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 60, 3, generator=generator, dtype=torch.float64)
    of_real = ["a", "b", "b"] * 20
    of_fake = ["b", "a", "a"] * 19 + ["c", "c", "c"]
    return item(real, of_real, "real"), item(fake, of_fake, "fake")


def test_each_class_alone(sides):
    scoring = Scoring(metrics=("kernel_distance", "recall"), per_class=True)
    report = score_features(*sides, scoring=scoring)
    assert list(report.classes) == ["a", "b", "c"]
    for name in "ab":
        part = [
            one.features[torch.tensor([label == name for label in one.labels])] for one in sides
        ]
        found = report.classes[name]
        assert found.sizes == (len(part[0]), len(part[1]))
        value = found.scores["kernel_distance"].value
        assert value == pytest.approx(float(kernel_distance(*part)))
    # Of no real sample nothing is scored.
    assert report.classes["c"].sizes == (0, 3)
    assert report.classes["c"].scores == {}
    whole = score_features(*sides, scoring=Scoring(metrics=("kernel_distance", "recall")))
    assert whole.scores == report.scores


def test_the_table_has_the_worst_first_and_means_last(sides):
    scoring = Scoring(metrics=("kernel_distance",), per_class=True)
    report = score_features(*sides, scoring=scoring)
    rows = report.class_rows()
    values = {
        name: one.scores["kernel_distance"].value
        for name, one in report.classes.items()
        if one.scores
    }
    worst = max(values, key=values.get)
    assert rows[0][:4] == (worst, *map(str, report.classes[worst].sizes), f"{values[worst]:.4g}")
    assert rows[2] == ("c", "0", "3", "-", "-")
    assert rows[3][0] == "mean"
    assert rows[3][3] == f"{sum(values.values()) / 2:.4g}"
    assert report.class_header() == ("class", "real", "fake", "kernel distance ↓", "interval")


def test_classes_must_be_said_on_both_sides(sides):
    real, fake = sides
    with pytest.raises(DataError, match="does not say: put its images in a folder for each class"):
        score_features(real, fake.features, scoring=Scoring(per_class=True))


def test_classes_without_fakes_come_first(sides):
    real, fake = sides
    kept = torch.tensor([label != "a" for label in fake.labels])
    few = item(fake.features[kept], [label for label in fake.labels if label != "a"], "fake")
    scoring = Scoring(metrics=("kernel_distance",), per_class=True)
    rows = score_features(real, few, scoring=scoring).class_rows()
    assert rows[0][:4] == ("a", "20", "0", "-")
