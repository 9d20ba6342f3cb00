"""What docs/first-scores.md claims, on fewer images: spoilt data scores worse in the known way."""

import importlib.util
import os
from pathlib import Path

import pytest

from otmetrics import Extraction, Scoring, extracted, score_features

ROOT = Path(__file__).parents[2]
CIFAR = Path(os.environ.get("OTMETRICS_DATA", ROOT.parent / "shared" / "data"), "cifar10_12k.npz")
DISTANCES = ("sliced_wasserstein", "wasserstein", "sinkhorn_divergence", "frechet_distance")
SCORES = (*DISTANCES, "kernel_distance", "recall", "coverage")
NUM = 120
NAMES = ("real", "other", "blurred", "noisy", "half-classes")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    if not CIFAR.is_file():
        pytest.skip("set OTMETRICS_DATA to a folder with cifar10_12k.npz, 12 000 CIFAR-10 images")
    script = ROOT / "docs" / "scripts" / "first_scores.py"
    spec = importlib.util.spec_from_file_location("first_scores", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("cifar")
    module.write_sets(CIFAR, folder, NUM)
    real, *others = extracted([folder / name for name in NAMES], Extraction())
    return {
        name: score_features(real, other, scoring=Scoring(metrics=SCORES)).scores
        for name, other in zip(NAMES[1:], others, strict=True)
    }


@pytest.mark.parametrize("name", [*DISTANCES, "kernel_distance"])
@pytest.mark.parametrize("spoilt", ["blurred", "noisy"])
def test_blur_and_noise_raise_every_distance(reports, name, spoilt):
    assert reports[spoilt][name].value > 1.02 * reports["other"][name].value
    assert reports[spoilt][name].floor.excess > 0


@pytest.mark.parametrize("name", ["recall", "coverage"])
def test_dropped_classes_lower_recall_and_coverage(reports, name):
    assert reports["half-classes"][name].value < reports["other"][name].value - 0.02


def test_another_draw_of_real_stays_at_its_floor(reports):
    for name in DISTANCES:
        floor = reports["other"][name].floor
        assert abs(floor.excess) < 0.1 * floor.value, name
