"""Scoring in memory: floors, draws, protocols, and what cannot be scored."""

import json
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import otmetrics
from otmetrics import (
    ConvergenceWarning,
    DataError,
    Exact,
    Extraction,
    Scoring,
    Sinkhorn,
    Sliced,
    score_features,
)
from otmetrics.scoring.feature_set import FeatureSet
from otmetrics.scoring.options import METRICS


def clouds(n=40, m=36, d=5):
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return real, torch.randn(m, d, generator=generator, dtype=torch.float64) + 0.3


def test_report_is_plain_json():
    report = score_features(*clouds())
    again = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert again["scores"]["recall"]["value"] == report.scores["recall"].value


def test_numpy_arrays_are_features_too():
    real, fake = clouds()
    assert score_features(real.numpy(), fake.numpy()).scores == score_features(real, fake).scores


def test_paths_and_features_have_each_their_door():
    real, fake = clouds()
    with pytest.raises(TypeError, match=r"images in memory become .*load_extractor\(name\)"):
        otmetrics.score(real, fake)
    images = torch.zeros(8, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(
        DataError, match=r"`fake` must be .* images in memory .*load_extractor\(name\)"
    ):
        score_features(real, images)
    with pytest.raises(TypeError, match="`floor_with` must be"):
        score_features(real, fake, Scoring())


def test_too_few_samples_name_the_way_out_in_python():
    few = torch.randn(2, 3, 4)
    with pytest.raises(DataError, match=r"fewer scores with `scoring=Scoring\(metrics=...\)`"):
        score_features(*few)
    with pytest.raises(DataError, match=r"or lower `scoring=Scoring\(num_neighbors=...\)`"):
        score_features(*few, scoring=Scoring(metrics=("recall",)))


def test_a_report_prints_as_a_table():
    report = score_features(*clouds())
    header, *lines = str(report).splitlines()
    assert header.split() == ["score", "value", "95", "%", "interval", "floor", "excess"]
    assert lines[len(METRICS) :] == report.verdict()
    assert f"{report.scores['recall'].value:.4g}" in lines[METRICS.index("recall")]
    assert repr(report).startswith("ScoreReport(scores=")


def test_order_of_the_inputs_does_not_matter_for_whole_scores():
    real, fake = clouds()
    first = score_features(real, fake, scoring=Scoring(floor=False))
    second = score_features(real.flip(0), fake.flip(0), scoring=Scoring(floor=False))
    for name in METRICS:
        assert second.scores[name].value == pytest.approx(first.scores[name].value, rel=1e-9)


def test_real_comes_first():
    # A collapsed generator is precise and has no recall; swapped arguments would say the reverse.
    real = clouds(n=60)[0]
    collapsed = real[:1] + 1e-3 * torch.randn(60, 5, dtype=torch.float64)
    report = score_features(real, collapsed)
    assert report.scores["precision"].value > 0.9
    assert report.scores["recall"].value < 0.1


def test_float32_features_are_scored_in_float64_but_for_their_projections():
    real, fake = clouds()
    narrow = score_features(real.float(), fake.float())
    wide = score_features(real.float().double(), fake.float().double())
    for name, score in wide.scores.items():
        if name == "sliced_wasserstein":
            assert narrow.scores[name].value == pytest.approx(score.value, rel=1e-6)
        else:
            found = narrow.scores[name]
            assert found.value == score.value
            assert (found.floor.value, found.floor.excess) == (
                score.floor.value,
                score.floor.excess,
            )
            ends = found.interval.low, found.interval.high
            assert ends == pytest.approx((score.interval.low, score.interval.high), rel=1e-6)
    assert narrow.protocol["dtype"] == {"scores": "float64", "projections": "float32"}
    assert wide.protocol["dtype"] == {"scores": "float64", "projections": "float64"}


def test_small_real_side_leaves_the_floor_out_and_says_so():
    real, fake = clouds(n=8, m=8)
    report = score_features(real, fake)
    assert report.scores["precision"].floor is None  # halves of 4 have no 5 neighbours
    assert report.scores["wasserstein"].floor.size == 4
    assert any("floors are missing" in note for note in report.notes)


def test_floor_needs_fake_samples_too():
    real, fake = clouds(n=100, m=20)
    report = score_features(real, fake)
    assert report.scores["wasserstein"].floor.size == 20
    assert report.scores["wasserstein"].sizes == (100, 20)


def test_fewer_samples_than_neighbours_are_refused():
    with pytest.raises(ValueError, match=r"`pairs_max` must be larger than `num_neighbors`, 5"):
        Scoring(pairs_max=5)
    assert Scoring(pairs_max=5, metrics=("kernel_distance",)).pairs_max == 5


def test_equal_laws_have_no_excess():
    # Over 20 draws the mean excess of two samples of one law stays within 4 of its standard errors.
    excess = {name: [] for name in ("sliced_wasserstein", "wasserstein", "frechet_distance")}
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        real, fake = torch.randn(2, 80, 4, generator=generator, dtype=torch.float64)
        report = score_features(real, fake, scoring=Scoring(metrics=tuple(excess), seed=seed))
        for name, score in report.scores.items():
            excess[name].append(score.floor.excess)
    for values in map(torch.tensor, excess.values()):
        assert values.mean().abs() < 4 * values.std() / 20**0.5


@pytest.mark.parametrize(
    "bad",
    [torch.randn(5), torch.randn(1, 4), torch.zeros(9, 4, dtype=torch.int64)],
    ids=["1-d", "one sample", "integers"],
)
def test_what_cannot_be_scored_raises(bad):
    with pytest.raises(DataError, match="`fake`"):
        score_features(torch.randn(9, 4), bad)


def test_nan_features_raise():
    real, fake = clouds()
    fake[3, 2] = torch.nan
    with pytest.raises(ValueError, match="`<fake>` must be finite"):
        score_features(real, fake)


def test_sets_of_different_extractors_raise():
    real, fake = clouds()
    sets = [
        FeatureSet(cloud, {"extractor": "x", "weights_sha256": weights}, {"path": weights})
        for cloud, weights in ((real, "a"), (fake, "b"))
    ]
    with pytest.raises(DataError, match="differ in weights_sha256"):
        score_features(*sets)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metrics": ("fid",)}, "`metrics`"),
        ({"metrics": ()}, "`metrics`"),
        ({"num_neighbors": 0}, "`num_neighbors`"),
        ({"sinkhorn_max": 1}, "`sinkhorn_max`"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        Scoring(**options)


def test_open_gap_of_the_exact_distance_shows_in_the_score():
    # No tolerance that rounding could meet.
    scoring = Scoring(metrics=("wasserstein",), exact=Exact(tolerance=1e-30))
    report = score_features(*clouds(), scoring=scoring)
    assert not report.converged
    assert "duality gap" in report.scores["wasserstein"].message


def test_scores_in_threads_leave_the_filters_of_warnings_alone(tmp_path):
    """All solvers end unconverged, and features come from arrays and from images."""
    rng = np.random.default_rng(0)
    for side in ("real", "fake"):
        np.savez(tmp_path / f"{side}.npz", rng.normal(size=(40, 3)))
        np.save(tmp_path / f"{side}.npy", rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8))
    scoring = Scoring(
        sliced=Sliced(num_projections=64, tolerance=1e-6, max_projections=64),
        sinkhorn=Sinkhorn(max_iterations=1),
    )
    extraction = Extraction(features="pixels", cache=False)

    def scored(index):
        if index % 2:
            return otmetrics.score(tmp_path / "real.npz", tmp_path / "fake.npz", scoring=scoring)
        inputs = tmp_path / "real.npy", tmp_path / "fake.npy"
        return otmetrics.score(*inputs, scoring=scoring, extraction=extraction)

    for index in range(2):
        scored(index)  # packages that are imported now add filters of their own
    swapped = threading.Event()  # a look while they work: that two of them meet takes luck
    before, filters = list(warnings.filters), warnings.filters
    with ThreadPoolExecutor(8) as threads:
        reports = [threads.submit(scored, index) for index in range(16)]
        while not all(report.done() for report in reports):
            if any(
                item[0] == "ignore" and item[2] is ConvergenceWarning for item in warnings.filters
            ):
                swapped.set()
            time.sleep(0.001)
    assert not any(report.result().converged for report in reports)
    assert not swapped.is_set()
    assert warnings.filters is filters
    assert warnings.filters == before
