"""Scores of summaries: which are of all samples, which of those at hand, and with what error."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import cloud
from command import write_images
from summary_cases import network  # noqa: F401 - a fixture
from torch import Tensor

import otmetrics
from otmetrics import DataError, Extraction, Scoring, Sliced, score_features
from otmetrics.scoring.compare import compare
from otmetrics.scoring.explain import explain
from otmetrics.scoring.extraction import extracted
from otmetrics.scoring.feature_set import FeatureSet, save_features
from otmetrics.scoring.options import MANIFOLD, METRICS
from otmetrics.scoring.planning import sample_sizes
from otmetrics.scoring.report import ScoreReport
from otmetrics.scoring.summarizing import summarize
from otmetrics.summaries.keeping import Keeping
from otmetrics.summaries.summary import Summary

SIZES, KEPT = (1200, 900), 150
SLICED = Sliced(num_projections=64)
KEEPING = Keeping(samples=KEPT, num_projections=64)
QUICK = Scoring(sliced=SLICED)
OF_ALL = ("sliced_wasserstein", "frechet_distance")
FRECHET = Scoring(metrics=("frechet_distance",))
SCALES = torch.tensor([1.0, 0.5, 2.0, 1.0])


def sides(sizes: tuple[int, int] = SIZES, seed: int = 0) -> tuple[Tensor, Tensor]:
    real, fake = (cloud(size, 4, seed=2 * seed + side) for side, size in enumerate(sizes))
    return real * SCALES, 1.2 * fake * SCALES + 0.3


def summarised(features: Tensor, keeping: Keeping = KEEPING) -> Summary:
    return Summary.of(features, names=list(map(str, range(len(features)))), keeping=keeping)


def in_memory(summary: Summary) -> FeatureSet:
    """A side of which some samples are at hand."""
    kept = summary.samples.features
    source = {"path": "<summary>", "kind": "summary", "available": summary.count}
    source |= {"used": summary.count, "kept": len(kept)}
    return FeatureSet(kept, {"extractor": "none"}, source, summary=summary)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both sides as features, whole and in parts, with all and with some of what may be kept."""
    place, found = tmp_path_factory.mktemp("sides"), {}
    for name, features in zip(("real", "fake"), sides(), strict=True):
        labels = [str(index % 2) for index in range(len(features))]
        summary = Summary.of(
            features, names=list(map(str, range(len(features)))), labels=labels, keeping=KEEPING
        )
        found[f"{name}.npy"] = features.numpy()
        kinds = {
            "kept": summary,
            "moments": summary.only("moments"),
            "sketch": summary.only("sketch"),
            "no sketch": summary.only("samples"),
            "whole": Summary.of(features, keeping=replace(KEEPING, samples=10_000)),
        }
        for kind, one in kinds.items():
            one.save(place / f"{name} {kind}.npz")
        np.save(place / f"{name}.npy", features.numpy())
    return {path.name: path for path in place.iterdir()}


@pytest.fixture(scope="module")
def of_all() -> ScoreReport:
    return score_features(*sides(), scoring=QUICK)


@pytest.fixture(scope="module")
def of_summaries(files: dict[str, Path]) -> ScoreReport:
    return otmetrics.score(files["real kept.npz"], files["fake kept.npz"], scoring=QUICK)


def bounds(message: str) -> tuple[float, float]:
    """What is said of where the value of the samples lies."""
    found = re.fullmatch(
        r"of histograms: that of the samples lies between ([\d.e+-]+) and ([\d.e+-]+)", message
    )
    assert found is not None, message
    return float(found[1]), float(found[2])


# --- values -----------------------------------------------------------------------------------


def test_what_is_known_of_all_samples_is_scored_of_all(of_summaries, of_all):
    frechet, exact = (report.scores["frechet_distance"] for report in (of_summaries, of_all))
    assert frechet.value == pytest.approx(exact.value, rel=1e-9)
    assert frechet.sizes == exact.sizes == SIZES
    sliced, exact = (report.scores["sliced_wasserstein"] for report in (of_summaries, of_all))
    low, high = bounds(sliced.message)
    assert low * (1 - 1e-3) <= exact.value <= high * (1 + 1e-3)  # printed with four digits
    assert low < sliced.value < high
    assert high - low < 0.02 * exact.value
    # Far better than what is certain.
    assert sliced.value == pytest.approx(exact.value, rel=1e-4)
    assert sliced.sizes == SIZES
    assert sliced.standard_error == pytest.approx(exact.standard_error, rel=0.05)
    note = "sliced_wasserstein and frechet_distance are of all samples, all else of those at hand"
    assert note in of_summaries.notes
    assert f"sliced_wasserstein is {sliced.message}" in of_summaries.notes


def test_all_else_is_that_of_the_kept_samples(of_summaries):
    kept = [summarised(side).samples.features for side in sides()]
    expected = score_features(*kept, scoring=QUICK)
    for name in METRICS:
        found, other = of_summaries.scores[name], expected.scores[name]
        if name in OF_ALL:
            assert found.floor.value == other.floor.value
            assert found.floor.at_floor_size == other.floor.at_floor_size
        elif name in MANIFOLD:  # of sides in the proportion of all samples
            assert found.sizes == (KEPT, round(KEPT * SIZES[1] / SIZES[0]))
            assert found.floor.value == other.floor.value
        else:
            assert found == other
            assert found.sizes == (KEPT, KEPT)


def test_the_report_says_what_stands_for_what(of_summaries):
    inputs = of_summaries.protocol["inputs"]
    for name, size in zip(("real", "fake"), SIZES, strict=True):
        assert inputs[name]["kind"] == "summary"
        assert (inputs[name]["used"], inputs[name]["kept"]) == (size, KEPT)
    json.dumps(of_summaries.to_dict(), allow_nan=False)


KINDS = (".npy", " kept.npz", " moments.npz", " sketch.npz", " no sketch.npz", " whole.npz")


@pytest.mark.parametrize("fake", KINDS)
@pytest.mark.parametrize("real", KINDS)
def test_any_mixture_has_one_frechet_distance(files, of_all, real, fake):
    inputs = files[f"real{real}"], files[f"fake{fake}"]
    score = otmetrics.score(*inputs, scoring=FRECHET).scores["frechet_distance"]
    exact = of_all.scores["frechet_distance"]
    assert score.value == pytest.approx(exact.value, rel=1e-9)
    assert score.sizes == SIZES
    at_hand = all(kind not in {" moments.npz", " sketch.npz"} for kind in (real, fake))
    assert (score.floor is not None) == at_hand
    assert (score.interval is not None) == at_hand


@pytest.mark.parametrize("fake", [".npy", " kept.npz", " sketch.npz", " whole.npz"])
@pytest.mark.parametrize("real", [" kept.npz", " sketch.npz"])
def test_any_mixture_with_histograms_has_one_sliced_distance(files, of_all, real, fake):
    scoring = replace(QUICK, metrics=("sliced_wasserstein", "frechet_distance"))
    report = otmetrics.score(files[f"real{real}"], files[f"fake{fake}"], scoring=scoring)
    score, exact = report.scores["sliced_wasserstein"], of_all.scores["sliced_wasserstein"].value
    low, high = bounds(score.message)
    assert low * (1 - 1e-3) <= exact <= high * (1 + 1e-3)
    assert score.value == pytest.approx(exact, rel=1e-4)
    assert score.sizes == SIZES


@pytest.mark.parametrize("outlier", [False, True])
@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
def test_the_bound_holds_at_every_order(order, outlier):
    """Also where one sample far out, on both sides, makes bins wider than the rest is apart."""
    real, fake = sides((300, 300))
    if outlier:
        real[0] = fake[0] = 3000.0
    scoring = Scoring(
        metrics=("sliced_wasserstein",), sliced=replace(SLICED, order=order), floor=False
    )
    found = score_features(
        in_memory(summarised(real)), in_memory(summarised(fake)), scoring=scoring
    )
    exact = score_features(real, fake, scoring=scoring).scores["sliced_wasserstein"]
    score = found.scores["sliced_wasserstein"]
    low, high = bounds(score.message)
    assert low * (1 - 1e-3) <= exact.value <= high * (1 + 1e-3)
    assert score.interval is not None


def test_folders_features_and_summaries_of_images(tmp_path, network):  # noqa: F811
    extraction = Extraction(features=network)
    names, kinds = ("real", "fake"), ("folder", "features", "summary", "whole")
    for seed, name in enumerate(names):
        folder = write_images(tmp_path / f"{name} folder", 30, seed=seed)
        (features,) = extracted([folder], extraction)
        save_features(features, tmp_path / f"{name} features.npz")
        for kind, size in (("summary", 20), ("whole", 100)):
            made = summarize(folder, keeping=replace(KEEPING, samples=size), extraction=extraction)
            made.save(tmp_path / f"{name} {kind}.npz")
    paths = {path.stem: path for path in tmp_path.iterdir()}
    scoring = replace(QUICK, metrics=("sliced_wasserstein", "frechet_distance", "kernel_distance"))
    exact = otmetrics.score(
        paths["real folder"], paths["fake folder"], extraction=extraction, scoring=scoring
    )
    for real in kinds:
        for fake in kinds:
            inputs = paths[f"real {real}"], paths[f"fake {fake}"]
            scores = otmetrics.score(*inputs, extraction=extraction, scoring=scoring).scores
            value = exact.scores["frechet_distance"].value
            assert scores["frechet_distance"].value == pytest.approx(value, rel=1e-9)
            value = exact.scores["sliced_wasserstein"].value
            assert scores["sliced_wasserstein"].value == pytest.approx(value, rel=1e-3)
            sizes = tuple(20 if kind == "summary" else 30 for kind in (real, fake))
            assert scores["kernel_distance"].sizes == sizes


def test_a_whole_summary_is_as_good_as_features(files, of_all):
    report = otmetrics.score(files["real whole.npz"], files["fake whole.npz"], scoring=QUICK)
    for name, score in report.scores.items():
        exact = of_all.scores[name]
        assert score.value == pytest.approx(exact.value, rel=1e-9)
        assert score.sizes == exact.sizes
        assert (score.floor.size, score.interval.target) == (
            exact.floor.size,
            exact.interval.target,
        )
    assert not any("at hand" in note or "histograms" in note for note in report.notes)
    assert report.protocol["inputs"]["real"]["kind"] == "features"


def test_two_dtypes_compare():
    """A summary in float32 and features in float64, as programs leave them."""
    real, fake = sides()
    scoring = replace(QUICK, metrics=OF_ALL)
    mixed = score_features(in_memory(summarised(real.float())), fake, scoring=scoring)
    alike = score_features(in_memory(summarised(real)), fake, scoring=scoring)
    for name in OF_ALL:
        found, expected = mixed.scores[name], alike.scores[name]
        assert found.value == pytest.approx(expected.value, rel=1e-5)
        assert found.sampling_error == pytest.approx(expected.sampling_error, rel=1e-4)


# --- intervals --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_ALL)
def test_intervals_are_about_those_of_all_samples(of_summaries, of_all, name):
    """Not those of an eighth of them, which are almost three times as wide."""
    found, exact = of_summaries.scores[name], of_all.scores[name]
    assert found.interval.target == exact.interval.target == "limit"
    assert found.sampling_error == pytest.approx(exact.sampling_error, rel=0.2)
    assert found.debiased == pytest.approx(exact.debiased, abs=0.3 * exact.sampling_error)
    widths = [one.interval.high - one.interval.low for one in (found, exact)]
    assert widths[0] == pytest.approx(widths[1], rel=0.25)
    centres = [(one.interval.high + one.interval.low) / 2 for one in (found, exact)]
    assert centres[0] == pytest.approx(centres[1], abs=0.2 * widths[1])


def test_the_error_is_that_of_all_samples_in_closed_form():
    """On a line: N(0, 1) against N(t, s^2), whose samples have known effects on the cost."""
    shift, scale, kept = 0.5, 1.3, 1000
    sizes = (8000, 5000)
    real = cloud(sizes[0], 1, seed=5)
    fake = scale * cloud(sizes[1], 1, seed=6) + shift

    def variance(own: float, other: float) -> float:
        """Of 2 d (x - m) + (1 - s'/s) (x - m)^2 for normal x of variance s^2."""
        return 4 * shift**2 * own**2 + 2 * own**4 * (1 - other / own) ** 2

    variances = variance(1.0, scale), variance(scale, 1.0)
    expected = math.sqrt(sum(v / n for v, n in zip(variances, sizes, strict=True)))
    of_kept = math.sqrt(sum(v / kept for v in variances))
    keeping = replace(KEEPING, samples=kept)
    summaries = [in_memory(summarised(side, keeping)) for side in (real, fake)]
    scores = score_features(*summaries, scoring=replace(QUICK, metrics=OF_ALL)).scores
    for score in scores.values():
        assert score.sampling_error == pytest.approx(expected, rel=0.1)
        assert score.sampling_error < 0.6 * of_kept
    # The root of the cost here, and the cost.
    limit = shift**2 + (scale - 1) ** 2
    for name, value in (("frechet_distance", limit), ("sliced_wasserstein", math.sqrt(limit))):
        assert scores[name].interval.low < value < scores[name].interval.high


def test_far_from_the_origin_an_interval_is_the_same():
    real, fake = (side.float() for side in sides())
    found = []
    for place in (0.0, 1e4):
        moved = [in_memory(summarised(side + place)) for side in (real, fake)]
        scores = score_features(*moved, scoring=replace(QUICK, metrics=OF_ALL, floor=False)).scores
        found.append([scores[name].sampling_error for name in OF_ALL])
    assert found[1] == pytest.approx(found[0], rel=0.02)


def test_directions_have_their_share_of_the_error():
    """Of few directions the value is unsure, of histograms as of samples."""
    solver = Sliced(num_projections=16, orthogonal=False)
    keeping = Keeping(samples=10_000, num_projections=16, orthogonal=False)
    real, fake = sides()
    fake = fake * torch.tensor([1.0, 1.0, 4.0, 1.0])
    scoring = Scoring(metrics=("sliced_wasserstein",), sliced=solver, floor=False)
    exact = score_features(real, fake, scoring=scoring).scores["sliced_wasserstein"].interval
    sets = [in_memory(summarised(side, keeping)) for side in (real, fake)]
    found = score_features(*sets, scoring=scoring).scores["sliced_wasserstein"].interval
    assert found.high - found.low == pytest.approx(exact.high - exact.low, rel=0.03)


def test_intervals_cover():
    """Of 95 %, in 40 repetitions: more than 7 miss in 1 of 1000 cases."""
    scoring = Scoring(metrics=OF_ALL, floor=False, sliced=Sliced(num_projections=16))
    keeping = Keeping(samples=100, num_projections=16)
    # d = 0.3 on each of four axes, and spreads of 1 and 1.2 times the scales.
    frechet = 4 * 0.3**2 + float((0.2 * SCALES).square().sum())
    limits = {"frechet_distance": frechet, "sliced_wasserstein": math.sqrt(frechet / 4)}
    held, wide = dict.fromkeys(OF_ALL, 0), dict.fromkeys(OF_ALL, 0.0)
    for seed in range(40):
        real, fake = sides((400, 400), seed=100 + seed)
        sets = [in_memory(summarised(side, keeping)) for side in (real, fake)]
        for name, score in score_features(*sets, scoring=scoring).scores.items():
            held[name] += score.interval.low <= limits[name] <= score.interval.high
            wide[name] += score.interval.high - score.interval.low
    assert min(held.values()) >= 33
    # Not by being as wide as those of the hundred.
    alone = [0.0, 0.0]
    for seed in range(100, 110):
        kept = [side[:100] for side in sides((400, 400), seed=seed)]
        for place, name in enumerate(OF_ALL):
            one = score_features(*kept, scoring=scoring).scores[name].interval
            alone[place] += (one.high - one.low) / 10
    for place, name in enumerate(OF_ALL):
        assert wide[name] / 40 < 0.75 * alone[place]


# --- floors and tests -------------------------------------------------------------------------


def test_a_floor_is_never_compared_with_the_value_of_all():
    """Also where as many are kept as its parts have: the score at its size is measured."""
    real, fake, other = (*sides(), cloud(1000, 4, seed=9) * SCALES)
    keeping = replace(KEEPING, samples=50)
    sets = [in_memory(summarised(side, keeping)) for side in (real, fake, other)]
    scores = score_features(*sets, scoring=replace(QUICK, metrics=OF_ALL)).scores
    at_hand = score_features(*(one.features for one in sets), scoring=QUICK).scores
    for name in OF_ALL:
        floor = scores[name].floor
        assert floor.size == 50
        assert floor.at_floor_size != scores[name].value
        assert floor.at_floor_size == at_hand[name].value
        assert floor.value == at_hand[name].floor.value
        assert floor.excess_error is not None


def test_tests_and_classes_are_of_the_samples_at_hand(files):
    scoring = replace(QUICK, metrics=("sliced_wasserstein", "frechet_distance"), test=39)
    scoring = replace(scoring, per_class=True, floor=False)
    report = otmetrics.score(files["real kept.npz"], files["fake kept.npz"], scoring=scoring)
    for score in report.scores.values():
        assert score.test.sizes == (KEPT, KEPT)
        assert score.test.pvalue <= 0.1
    assert sum(one.sizes[0] for one in report.classes.values()) == KEPT


# --- refusals ---------------------------------------------------------------------------------


def test_histograms_along_other_directions_are_not_used(files):
    for solver in (
        replace(SLICED, seed=1),
        replace(SLICED, num_projections=32),
        replace(SLICED, orthogonal=False),
        replace(SLICED, debiased=True),
        replace(SLICED, tolerance=0.5),
    ):
        scoring = Scoring(metrics=OF_ALL, sliced=solver, floor=False)
        report = otmetrics.score(files["real kept.npz"], files["fake kept.npz"], scoring=scoring)
        score = report.scores["sliced_wasserstein"]
        assert score.sizes == (KEPT, KEPT)
        assert "histograms" not in score.message
        assert "frechet_distance is of all samples, all else of those at hand" in report.notes
        with pytest.raises(DataError, match="has histograms along other directions"):
            otmetrics.score(files["real sketch.npz"], files["fake sketch.npz"], scoring=scoring)


@pytest.mark.parametrize(
    ("kind", "metrics", "said"),
    [
        ("moments", METRICS, "so only frechet_distance can be"),
        ("moments", ("frechet_distance", "sliced_wasserstein"), "so only frechet_distance can be"),
        ("sketch", METRICS, "so only sliced_wasserstein and frechet_distance can be"),
        ("sketch", ("kernel_distance",), "so only sliced_wasserstein and frechet_distance can be"),
    ],
)
@pytest.mark.parametrize("side", ["real", "fake"])
def test_what_is_not_known_is_refused_in_one_line(files, kind, metrics, said, side):
    inputs = {"real": files["real.npy"], "fake": files["fake.npy"]}
    inputs[side] = files[f"{side} {kind}.npz"]
    with pytest.raises(DataError, match=said) as raised:
        otmetrics.score(**inputs, scoring=replace(QUICK, metrics=metrics))
    message = str(raised.value)
    assert message.startswith(f"`{inputs[side]}` holds no samples")
    assert "a summary that keeps some" in message
    assert "\n" not in message


def test_notes_say_what_is_missing(files):
    scoring = replace(QUICK, metrics=OF_ALL)
    report = otmetrics.score(files["real sketch.npz"], files["fake kept.npz"], scoring=scoring)
    assert all(score.floor is score.interval is None for score in report.scores.values())
    assert any("no floor: no samples of a side are at hand" in note for note in report.notes)
    assert any(note.startswith("no interval: nothing is known") for note in report.notes)


def test_summaries_of_other_features_do_not_compare(tmp_path, files):
    Summary.of(cloud(20, 5), keeping=KEEPING).save(tmp_path / "other.npz")
    Summary.of(cloud(20, 4), keeping=KEEPING, extractor={"extractor": "pixels"}).save(
        tmp_path / "pixels.npz"
    )
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(5), sigma=np.eye(5))
    real = files["real kept.npz"]
    with pytest.raises(DataError, match=r"has 4 features per sample, .* has 5: extract both alike"):
        otmetrics.score(real, tmp_path / "other.npz", scoring=FRECHET)
    with pytest.raises(DataError, match=r"has 4 features per sample, .* has 5: extract both alike"):
        otmetrics.score(real, tmp_path / "statistics.npz", scoring=FRECHET)
    with pytest.raises(DataError, match="differ in extractor"):
        otmetrics.score(real, tmp_path / "pixels.npz", scoring=FRECHET)


def test_values_too_large_for_a_score_are_refused(tmp_path):
    for name in ("real", "fake"):
        summary = Summary.of(1e130 * cloud(20, 4, seed=int(name == "fake")), keeping=KEEPING)
        summary.only("sketch").save(tmp_path / f"{name}.npz")
    paths = tmp_path / "real.npz", tmp_path / "fake.npz"
    scoring = Scoring(metrics=("sliced_wasserstein",), sliced=replace(SLICED, order=3))
    with pytest.raises(DataError, match="must be small enough for"):
        otmetrics.score(*paths, scoring=scoring)
    assert otmetrics.score(*paths, scoring=FRECHET).scores["frechet_distance"].value > 1e250
    np.savez(paths[0], mu=np.full(4, 1e200), sigma=np.eye(4))
    with pytest.raises(DataError, match="a value is too large for its square to fit float64"):
        otmetrics.score(*paths, scoring=FRECHET)


# --- what looks at single samples -------------------------------------------------------------


def test_what_looks_at_single_samples_takes_those_at_hand_and_says_so(files, tmp_path):
    real, fake = files["real kept.npz"], files["fake kept.npz"]
    said = [f"of the {size} samples {KEPT} are at hand, and looked at" for size in SIZES]
    scoring = Scoring(metrics=("kernel_distance",), floor=False)
    kept = [summarised(side).samples.features for side in sides()]
    value = score_features(*kept, scoring=scoring).scores["kernel_distance"].value

    again = shutil.copy(fake, tmp_path / "again.npz")
    compared = compare(real, {"a": fake, "b": again}, scoring=scoring)
    standings = compared.leaderboards["kernel_distance"].standings
    explained = explain(real, fake, scoring=scoring)
    sets = extracted([real, fake])
    planned = sample_sizes(*sets, scoring=scoring)
    for found in (compared, explained, planned):
        for line in said:
            assert any(line in note for note in found.notes), line
    assert standings["a"].value == pytest.approx(value, rel=1e-9)


def test_what_looks_at_single_samples_refuses_what_has_none(files):
    none, some, other = (
        files[name] for name in ("real sketch.npz", "fake kept.npz", "real kept.npz")
    )
    scoring = Scoring(metrics=("kernel_distance",), floor=False)
    for work in (
        lambda: compare(none, {"a": some, "b": other}, scoring=scoring),
        lambda: compare(some, {"a": none, "b": some}, scoring=scoring),
        lambda: explain(none, some, scoring=scoring),
        lambda: sample_sizes(*extracted([none, some], at_least=0), scoring=scoring),
    ):
        with pytest.raises(DataError, match="holds no samples, but what is known of all") as raised:
            work()
        assert "give samples, or a summary that keeps some" in str(raised.value)


def test_a_summary_is_not_drawn_from(files):
    """It is of all samples, and of these alone: `num` is for what is drawn."""
    scoring = replace(FRECHET, floor=False)
    inputs = files["real kept.npz"], files["fake.npy"]
    score = otmetrics.score(*inputs, extraction=Extraction(num=500), scoring=scoring)
    assert score.scores["frechet_distance"].sizes == (SIZES[0], 500)


# --- what reviewers would ask -----------------------------------------------------------------


def test_against_moments_alone_the_interval_over_fakes_holds():
    """The mean of the score over fakes, the real moments fixed."""
    generator = torch.Generator().manual_seed(0)
    real = Summary.of(torch.randn(3000, 6, generator=generator)).only("moments")
    source = {"path": "real.npz", "kind": "summary", "used": 3000, "available": 3000}
    side = FeatureSet(
        torch.empty(0, 6, dtype=torch.float64), {"extractor": "none"}, source, summary=real
    )
    scoring = Scoring(metrics=("frechet_distance",), over="fake")
    found = []
    for _ in range(80):
        fake = 1.1 * torch.randn(300, 6, generator=generator) + 0.2
        report = score_features(side, fake, scoring=scoring)
        found.append(report.scores["frechet_distance"])
    mean = sum(score.value for score in found) / len(found)
    assert all(score.interval.over == "fake" for score in found)
    assert sum(score.interval.low <= mean <= score.interval.high for score in found) >= 72
    both = score_features(side, fake, scoring=replace(scoring, over="both"))
    assert both.scores["frechet_distance"].interval is None
    assert any("no interval" in note for note in both.notes)


def test_neighbours_are_those_of_sides_in_the_proportion_of_all(tmp_path):
    """Coverage of a few kept real samples by all fakes would be that of another question."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(600, 5, generator=generator)
    fake = torch.randn(300, 5, generator=generator)
    np.save(tmp_path / "fake.npy", fake.numpy())
    keeping = Keeping(samples=200, num_projections=16)
    Summary.of(real, names=[str(i) for i in range(600)], keeping=keeping).save(
        tmp_path / "real.npz"
    )
    scoring = Scoring(metrics=("coverage", "kernel_distance"), floor=False)
    scores = otmetrics.score(tmp_path / "real.npz", tmp_path / "fake.npy", scoring=scoring).scores
    assert scores["coverage"].sizes == (200, 100)
    assert scores["kernel_distance"].sizes == (200, 300)
    whole = score_features(real, fake, scoring=scoring).scores["coverage"].value
    assert abs(scores["coverage"].value - whole) < 0.12


def test_a_side_without_spread_has_a_distance(tmp_path):
    for name, value in (("a", 0.0), ("b", 2.0)):
        Summary.of(torch.full((5, 3), value)).only().save(tmp_path / f"{name}.npz")
    scoring = Scoring(metrics=("frechet_distance",))
    report = otmetrics.score(tmp_path / "a.npz", tmp_path / "b.npz", scoring=scoring)
    assert report.scores["frechet_distance"].value == pytest.approx(12.0)


def test_histograms_along_other_directions_are_told(tmp_path):
    Summary.of(torch.randn(50, 3)).only("sketch").save(tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", np.ones((9, 3)))
    scoring = Scoring(metrics=("sliced_wasserstein",), sliced=Sliced(num_projections=7))
    with pytest.raises(DataError, match=r"a\.npz` has histograms along other directions"):
        otmetrics.score(tmp_path / "a.npz", tmp_path / "b.npy", scoring=scoring)
