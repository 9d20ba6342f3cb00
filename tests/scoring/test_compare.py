"""Comparing models in memory and from files: values, ties, runs, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from otmetrics import (
    Comparing,
    DataError,
    Extraction,
    FeatureSet,
    OptionError,
    Scoring,
    Sinkhorn,
    Sliced,
    compare,
    compare_features,
    score_features,
)
from otmetrics.scoring.options import METRICS
from otmetrics.summaries.summary import Summary

QUICK = Scoring(sliced=Sliced(num_projections=128))
KERNEL = Scoring(metrics=("kernel_distance",))


def cloud(num, seed, *, shift=0.0, scale=1.0, dimension=4):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num, dimension, generator=generator).double() + shift


REAL = cloud(240, 0)
MODELS = {"far": cloud(200, 1, shift=1.0), "near": cloud(200, 2), "too": cloud(200, 3)}


@pytest.fixture(scope="module")
def compared():
    return compare_features(REAL, MODELS, scoring=QUICK)


def test_values_and_intervals_are_those_of_score(compared):
    """One door to each number, but for the regularisation, which all models share here."""
    report = score_features(REAL, MODELS["far"], scoring=QUICK)
    for name, one in report.scores.items():
        standing = compared.leaderboards[name].standings["far"]
        if name != "sinkhorn_divergence":
            assert standing.value == one.value
            assert standing.interval.target == one.interval.target
            ends = standing.interval.low, standing.interval.high
            assert ends == pytest.approx((one.interval.low, one.interval.high), rel=1e-9)


def test_one_regularisation_for_all(compared):
    epsilon = 0.05 * float(torch.cdist(REAL, REAL).square().mean())
    solver = Sinkhorn(epsilon=epsilon, relative=False)
    for name, fake in MODELS.items():
        standing = compared.leaderboards["sinkhorn_divergence"].standings[name]
        assert standing.value == pytest.approx(float(solver.solve(REAL, fake).cost), rel=1e-6)


def test_who_is_better_and_who_is_tied(compared):
    board = compared.decisive
    assert board.score == "sliced_wasserstein"
    assert set(board.best_set) == {"near", "too"}
    assert board.standings["far"].ranks == (3, 3)
    assert list(board.standings)[2] == "far"
    assert board.standings["near"].letters == board.standings["too"].letters == "a"
    assert board.standings["far"].letters == "b"
    gap = board.difference("far", "near")
    assert gap.low > 0
    assert gap.pvalue < 1e-6
    assert compared.leaderboards["coverage"].standings["far"].ranks[0] > 1
    assert "undecided" in "\n".join(compared.verdict())


def test_the_exact_distance_is_ranked_where_it_is_asked_for(compared):
    board = compared.leaderboards["wasserstein"]
    assert board.reference is None
    assert board.best_set == []
    assert all(one.ranks is None and one.interval for one in board.standings.values())
    assert any("wasserstein is not ranked" in note for note in compared.notes)
    asked = compare_features(REAL, MODELS, scoring=Scoring(metrics=("wasserstein",)))
    assert asked.decisive.standings["far"].ranks == (3, 3)
    by = compare_features(REAL, MODELS, comparing=Comparing(by="wasserstein"), scoring=QUICK)
    assert by.decisive.standings["far"].ranks == (3, 3)
    plane = {name: fake[:, :2] for name, fake in MODELS.items()}
    assert compare_features(REAL[:, :2], plane, scoring=QUICK).leaderboards["wasserstein"].best_set


def test_it_is_plain_json_and_one_seed_decides(compared):
    again = compare_features(REAL, MODELS, scoring=QUICK)
    text = json.dumps(compared.to_dict(), allow_nan=False)
    assert text == json.dumps(again.to_dict(), allow_nan=False)
    assert list(json.loads(text)["leaderboards"]) == list(METRICS)
    assert compared == again
    assert "near" in str(compared)


def test_the_order_of_models_changes_nothing():
    few = replace(QUICK, exact_max=50)
    turned = compare_features(REAL, dict(reversed(MODELS.items())), scoring=few)
    assert turned.leaderboards == compare_features(REAL, MODELS, scoring=few).leaderboards


def test_runs_are_means_with_the_spread_of_training():
    runs = [cloud(150, seed, shift=shift) for seed, shift in ((1, 0.2), (2, 0.6), (3, 1.0))]
    found = compare_features(REAL, {"one": runs[0], "three": runs}, scoring=KERNEL).decisive
    alone = [
        score_features(REAL, run, scoring=Scoring(metrics=("kernel_distance",), floor=False))
        for run in runs
    ]
    values = [report.scores["kernel_distance"].value for report in alone]
    three = found.standings["three"]
    assert three.runs == pytest.approx(values)
    assert three.value == pytest.approx(np.mean(values))
    width = three.interval.high - three.interval.low
    of_runs = alone[1].scores["kernel_distance"].interval
    assert width > 3 * (of_runs.high - of_runs.low)
    assert "b" not in found.standings["one"].letters + three.letters


def test_what_runs_say_is_told(compared):
    assert "nothing is said about retraining" in compared.verdict()[-1]
    runs = [cloud(60, seed) for seed in range(2)]
    mixed = compare_features(REAL, {"a": runs, "b": runs[0]}, scoring=KERNEL)
    assert mixed.verdict()[-1] == "One training run of b: nothing is said about retraining it."
    both = compare_features(REAL, {"a": runs, "b": runs[::-1]}, scoring=KERNEL)
    assert not any("retraining" in line for line in both.verdict())


def test_a_baseline_and_a_margin():
    models = {"old": cloud(400, 1), "same": cloud(400, 2), "worse": cloud(400, 3, shift=0.8)}
    real = cloud(400, 4)
    plain = compare_features(real, models, comparing=Comparing(baseline="old"), scoring=KERNEL)
    assert plain.worse == ["worse"]
    assert plain.decisive.standings["old"].difference is None
    assert "worse is worse than old." in plain.verdict()

    reach = max(abs(plain.decisive.standings["same"].difference.high), 1e-6)
    wide = Comparing(baseline="old", margin=1.01 * reach)
    assert compare_features(real, models, comparing=wide, scoring=KERNEL).worse == ["worse"]
    narrow = Comparing(baseline="old", margin=0.99 * reach)
    strict = compare_features(real, models, comparing=narrow, scoring=KERNEL)
    assert set(strict.worse) == {"same", "worse"}


def test_a_gate_on_a_score_that_is_better_when_higher():
    models = {"old": cloud(200, 1), "narrow": cloud(200, 2, scale=0.4)}
    comparing = Comparing(by="recall", baseline="old")
    found = compare_features(REAL, models, comparing=comparing, scoring=QUICK)
    assert found.worse == ["narrow"]
    assert found.decisive.difference("narrow", "old").value < 0


def test_the_level_where_all_models_are_as_good_as_real():
    """The case in which naive theory breaks: errors of second order are larger than the first."""
    apart = {"sliced_wasserstein": 0, "kernel_distance": 0, "frechet_distance": 0}
    scoring = Scoring(metrics=tuple(apart), sliced=Sliced(num_projections=64))
    repetitions = 60
    for seed in range(repetitions):
        real, a, b = (cloud(60, 3 * seed + i, dimension=3) for i in range(3))
        found = compare_features(real, {"a": a, "b": b}, scoring=scoring)
        for name, board in found.leaderboards.items():
            apart[name] += len(board.best_set) == 1
    assert max(apart.values()) <= 0.06 * repetitions + 4  # two binomial errors more


def features(tmp_path, name, num, **options):
    path = tmp_path / f"{name}.npy"
    np.save(path, cloud(num, len(name), **options).numpy())
    return path


def test_paths_are_compared_as_features_are(tmp_path):
    real = features(tmp_path, "real", 90)
    models = {name: features(tmp_path, name, 80, shift=len(name)) for name in ("a", "bb")}
    found = compare(real, models, scoring=KERNEL)
    clouds = {name: cloud(80, len(name), shift=len(name)) for name in models}
    wanted = compare_features(cloud(90, 4), clouds, scoring=KERNEL)
    assert found.leaderboards == wanted.leaderboards
    assert found.protocol["inputs"]["bb"]["path"] == str(models["bb"])
    third = features(tmp_path, "ccc", 80)
    runs = compare(real, {"a": [third], "b": list(models.values())}, scoring=KERNEL)
    assert runs.protocol["models"] == {"a": ["a"], "b": ["b, run 1", "b, run 2"]}


def test_real_images_go_through_the_network_once(tmp_path, monkeypatch):
    from command import write_images

    monkeypatch.setenv("OTMETRICS_CACHE", str(tmp_path / "cache"))
    folders = [write_images(tmp_path / name, 12, seed=i) for i, name in enumerate("rab")]
    tasks = []
    compare(
        folders[0],
        dict(zip("ab", folders[1:], strict=True)),
        extraction=Extraction(features="pixels"),
        scoring=KERNEL,
        progress=lambda task, done, total: tasks.append((task, done, total)),
    )
    ended = [task for task, done, total in tasks if done == total and "features of" in task]
    assert sorted(ended) == sorted(f"features of {folder}" for folder in folders)


def moments(dimension=4):
    summary = Summary(9, torch.zeros(dimension).double(), torch.eye(dimension).double())
    source = {"path": "stats.npz", "kind": "statistics", "used": 0, "available": 0}
    empty = torch.zeros(0, dimension).double()
    return FeatureSet(empty, {"extractor": "none"}, source, summary=summary)


MISNAMED = {
    "one model": ({"a": REAL}, "must name two models or more, got 1"),
    "no run": ({"a": REAL, "b": []}, "`b` must have samples of one training run or more"),
    "no name": ({"": REAL, "b": REAL}, "must have names, each its own"),
    "real": ({"real": REAL, "b": REAL}, "must have names, each its own"),
    "runs": ({"a": [REAL, REAL], "a, run 1": REAL}, "must have names, each its own"),
}
BAD = {
    "sizes": ({"a": REAL, "b": REAL[:99]}, "gives 240 samples and `<b>` 99, but"),
    "dimensions": ({"a": REAL, "b": REAL[:, :3]}, "has 3: extract both alike"),
    "statistics": ({"a": REAL, "b": moments()}, "stats.npz` holds no samples"),
    "not finite": ({"a": REAL, "b": REAL * float("nan")}, "`<b>` must be finite"),
    "few": ({"a": REAL[:4], "b": REAL[:4]}, "4 sample"),
}


@pytest.mark.parametrize(("models", "words"), MISNAMED.values(), ids=MISNAMED)
def test_models_have_names_and_runs(models, words):
    with pytest.raises(OptionError, match=words.replace("(", r"\(")):
        compare_features(REAL, models)


@pytest.mark.parametrize(("models", "words"), BAD.values(), ids=BAD)
def test_what_does_not_compare_is_refused(models, words):
    with pytest.raises(DataError, match=words.replace("(", r"\(")):
        compare_features(REAL, models)


def test_another_extractor_is_refused():
    source = {"path": "b.npz", "kind": "features", "used": 240, "available": 240}
    sets = [FeatureSet(REAL, {"extractor": name}, source) for name in ("inception", "pixels")]
    with pytest.raises(DataError, match="differ in extractor"):
        compare_features(sets[0], {"a": sets[0], "b": sets[1]})


def test_options_that_do_not_fit():
    with pytest.raises(OptionError, match="`by` must be one of"):
        Comparing(by="fid")
    with pytest.raises(OptionError, match="`margin` needs `baseline`"):
        Comparing(margin=0.1)
    with pytest.raises(ValueError, match="`margin` must"):
        Comparing(baseline="a", margin=-0.1)
    with pytest.raises(OptionError, match="`baseline` must be one of far, near, too"):
        compare_features(REAL, MODELS, comparing=Comparing(baseline="b"))
    with pytest.raises(OptionError, match="`by` must be among kernel_distance"):
        compare_features(REAL, MODELS, comparing=Comparing(by="recall"), scoring=KERNEL)
    found = compare_features(REAL, MODELS, scoring=KERNEL).decisive
    with pytest.raises(ValueError, match="`second` must be one of"):
        found.difference("near", "b")


def test_where_nothing_can_be_told_it_says_so():
    scoring = Scoring(metrics=("precision", "recall"), num_neighbors=5)
    found = compare_features(REAL[:8], {"a": REAL[:8], "b": REAL[9:17]}, scoring=scoring)
    assert found.decisive.best_set == []
    assert "cannot be ranked at this size" in found.verdict()[0]
    assert "-" in found.leaderboard()[1][0]
    with pytest.raises(ValueError, match="has no interval at this size"):
        found.decisive.difference("a", "b")


def test_sizes_and_statistics_are_told_before_images_are_read(tmp_path):
    from command import write_images

    folders = [
        write_images(tmp_path / name, num, seed=0)
        for name, num in zip("rab", (9, 9, 8), strict=True)
    ]
    np.savez(tmp_path / "stats.npz", mu=np.zeros(4), sigma=np.eye(4))
    tasks = []
    for models, words in (
        ({"a": folders[1], "b": folders[2]}, "gives 9 samples and .* 8, but scores"),
        ({"a": folders[1], "b": tmp_path / "stats.npz"}, "holds no samples"),
    ):
        with pytest.raises(DataError, match=words):
            compare(folders[0], models, progress=lambda *step: tasks.append(step))
    assert not tasks


def test_a_gate_where_nothing_can_be_told_is_no_pass():
    comparing = Comparing(baseline="a", margin=0.01)
    scoring = Scoring(metrics=("precision",))
    with pytest.raises(DataError, match="precision has no interval at this size"):
        compare_features(
            REAL[:8], {"a": REAL[:8], "b": REAL[9:17]}, comparing=comparing, scoring=scoring
        )


def test_models_are_named_and_files_are_given_once(tmp_path):
    with pytest.raises(TypeError, match="`models` must map the name"):
        compare_features(REAL, [REAL, REAL])
    real, one = (features(tmp_path, name, 60) for name in ("real", "one"))
    with pytest.raises(OptionError, match=r"one.npy` is named twice"):
        compare(real, {"a": [one, one], "b": real}, scoring=KERNEL)
    other = tmp_path / ".." / tmp_path.name / one.name  # the same in other words
    with pytest.raises(OptionError, match=r"one.npy` is named twice"):
        compare(real, {"a": one, "b": other}, scoring=KERNEL)


def test_few_samples_are_told_to_be_few():
    found = compare_features(REAL[:20], {"a": REAL[:20], "b": REAL[20:40]}, scoring=KERNEL)
    assert any("rough with fewer than 50 samples" in note for note in found.notes)


def test_costs_that_are_no_number_do_not_rank():
    big = {name: fake * 1e200 for name, fake in MODELS.items()}
    with pytest.raises(DataError, match="scale"):
        compare_features(REAL * 1e200, big, scoring=KERNEL)
