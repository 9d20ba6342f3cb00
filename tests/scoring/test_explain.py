"""Explaining finds what was planted, names it, and says nothing where nothing was."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from otmetrics import DataError, Extraction, Scoring, exact_wasserstein
from otmetrics.images import write_png
from otmetrics.scoring.explain import Explaining, explain, explain_features
from otmetrics.scoring.feature_set import FeatureSet

QUICK = Scoring(metrics=("kernel_distance",))
EXTRACTION = Extraction(features="pixels")


def mixture(num: int, shares: list[float], seed: int) -> tuple[Tensor, list[str]]:
    """Samples of classes a, b, c, far from each other, in these shares."""
    generator = torch.Generator().manual_seed(seed)
    counts = [round(num * share) for share in shares]
    classes = [name for name, count in zip("abc", counts, strict=True) for _ in range(count)]
    centres = torch.eye(3, 6, dtype=torch.float64) * 12
    rows = torch.tensor(["abc".index(name) for name in classes])
    noise = torch.randn(len(rows), 6, generator=generator, dtype=torch.float64)
    order = torch.randperm(len(rows), generator=generator)
    return (centres[rows] + noise)[order], [classes[i] for i in order.tolist()]


def labelled(features: Tensor, labels: list[str] | None, name: str) -> FeatureSet:
    source = {"path": name, "kind": "features", "available": len(features), "used": len(features)}
    return FeatureSet(features, {"extractor": "none"}, source, labels=labels)


@pytest.fixture(scope="module")
def planted():
    """Class c at a tenth, 12 outliers, and 10 copies of training samples."""
    real, of_real = mixture(300, [0.4, 0.3, 0.3], 0)
    train, _ = mixture(300, [0.4, 0.3, 0.3], 1)
    fake, of_fake = mixture(300, [0.55, 0.42, 0.03], 2)
    fake[:12] += 15 * torch.sign(fake[:12] - 2)
    fake[20:30] = train[20:30] + 1e-3
    sides = labelled(real, of_real, "real"), labelled(fake, of_fake, "fake")
    return explain_features(
        *sides, train=labelled(train, None, "train"), scoring=QUICK, explaining=Explaining()
    )


def test_outliers_are_named_with_what_they_cost(planted):
    assert {sample.fake for sample in planted.worst} >= set(range(12))
    costs = [sample.cost for sample in planted.samples]
    assert all(cost is not None for cost in costs)
    assert min(sample.cost for sample in planted.worst[:12]) > 5 * np.median(costs)


def test_copies_are_named_with_their_originals(planted):
    found = {(one.fake, one.train) for one in planted.copies.rows}
    assert found >= {(i, i) for i in range(20, 30)}


def test_the_rare_class_is_named(planted):
    first = planted.classes.shares[0]
    assert (first.name, first.found) == ("c", True)
    assert first.low < 0.1 < first.high
    assert planted.classes.labelled == "given"
    assert any(gap.ratio < 0.3 for gap in planted.uncovered.gaps)
    assert any("Classes too rare among fakes: c (" in line for line in planted.findings())


def test_costs_of_all_fakes_are_the_distance():
    real, _ = mixture(60, [0.4, 0.3, 0.3], 0)
    fake, _ = mixture(90, [0.4, 0.3, 0.3], 1)
    found = explain_features(real, fake, scoring=QUICK)
    mean = np.mean([sample.cost for sample in found.samples])
    assert mean == pytest.approx(float(exact_wasserstein(real, fake)) ** 2)


def test_nothing_is_found_where_nothing_is_planted():
    """Ten draws of one distribution: kinds of findings at a rate of 10 % each come by chance."""
    kinds = []
    for seed in range(10):
        real, of_real = mixture(200, [0.4, 0.3, 0.3], 3 * seed)
        fake, of_fake = mixture(200, [0.4, 0.3, 0.3], 3 * seed + 1)
        sides = labelled(real, of_real, "real"), labelled(fake, of_fake, "fake")
        found = explain_features(*sides, scoring=QUICK)
        kinds += [
            len(found.worst) > 0,
            len(found.uncovered.gaps + found.uncovered.crowded) > 0,
            any(share.found for share in found.classes.shares),
        ]
    # Of 30 chances of 10 % more than 9 come once in a thousand times.
    assert sum(kinds) <= 9


def test_fakes_without_classes_get_those_of_their_neighbours():
    real, of_real = mixture(240, [0.4, 0.3, 0.3], 0)
    fake, of_fake = mixture(240, [0.6, 0.4, 0.0], 1)
    found = explain_features(labelled(real, of_real, "real"), fake, scoring=QUICK)
    assert (found.classes.labelled, found.classes.agreement) == ("by vote", 1.0)
    first = found.classes.shares[0]
    assert (first.name, first.fake, first.found) == ("c", 0, True)
    names = {sample.fake: sample.name for sample in found.samples}
    assert [names[row] for row in range(240)] == of_fake


def test_it_is_plain_data_and_the_same_again(planted):
    text = json.dumps(planted.to_dict(), allow_nan=False)
    real, of_real = mixture(300, [0.4, 0.3, 0.3], 0)
    train, _ = mixture(300, [0.4, 0.3, 0.3], 1)
    fake, of_fake = mixture(300, [0.55, 0.42, 0.03], 2)
    fake[:12] += 15 * torch.sign(fake[:12] - 2)
    fake[20:30] = train[20:30] + 1e-3
    sides = labelled(real, of_real, "real"), labelled(fake, of_fake, "fake")
    again = explain_features(*sides, train=labelled(train, None, "train"), scoring=QUICK)
    assert json.dumps(again.to_dict(), allow_nan=False) == text
    table = planted.to_table()
    assert len(table) == 300
    first = table[0]
    assert first["source"] == f"fake[{first['row']}]"
    copies = [row for row in table if row["copy_of"] is not None]
    assert {row["copy_of"] for row in copies} >= {f"train[{i}]" for i in range(20, 30)}


def test_fakes_that_repeat_each_other_are_told():
    generator = torch.Generator().manual_seed(13)
    real, fake = torch.randn(2, 60, 3, generator=generator, dtype=torch.float64)
    fake[20:50] = fake[3]
    found = explain_features(real, fake, scoring=QUICK)
    assert found.repeated == (0, 30)
    assert (
        "30 of 60 fakes repeat another fake exactly; of 60 real samples 0 do." in found.findings()
    )


def test_fakes_that_are_the_real_samples_are_told():
    generator = torch.Generator().manual_seed(14)
    real = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    found = explain_features(real, real.flip(0), scoring=QUICK)
    assert "60 of 60 fakes equal a real sample exactly." in found.findings()
    assert found.worst == []


def test_few_samples_are_refused():
    with pytest.raises(DataError, match="at least 20 are needed"):
        explain_features(torch.randn(12, 3), torch.randn(30, 3), scoring=QUICK)


@pytest.mark.parametrize("kwargs", [{"rate": 0.0}, {"rate": 2}, {"num_clusters": 1}])
def test_options_have_rules(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        Explaining(**kwargs)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Grey images with noise; the fake ones are brighter, and 12 of them are black."""
    root = tmp_path_factory.mktemp("folders")
    generator = np.random.default_rng(0)
    for side, level in (("real", 100), ("fake", 115)):
        (root / side).mkdir()
        for number in range(120):
            base = level + generator.normal(0, 10)
            if side == "fake" and number < 12:
                base = -300
            noise = generator.normal(base, 20, (3, 8, 8)).clip(0, 255)
            pixels = torch.from_numpy(noise.astype(np.uint8))
            write_png(root / side / f"{number:03}.png", pixels)
    return root


def test_images_are_named_looked_at_and_shown(folders):
    found = explain(folders / "real", folders / "fake", extraction=EXTRACTION, scoring=QUICK)
    assert {found.name_of("fake", one.fake) for one in found.worst} >= {
        f"{number:03}.png" for number in range(12)
    }
    first = found.attributes[0]
    assert (first.name, first.found) == ("brightness", True)
    assert first.fake - first.real == pytest.approx(15 / 255, rel=0.5)
    small = found.pictures["fake"].thumbnail(found.worst[0].fake)
    assert small is not None
    assert small[8:12] == b"WEBP"


def test_a_table_of_classes(folders, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("".join(f"{i:03}.png,{'even' if i % 2 == 0 else 'odd'}\n" for i in range(120)))
    found = explain(
        folders / "real", folders / "fake", labels=path, extraction=EXTRACTION, scoring=QUICK
    )
    # Fakes of the same names are other images: they have no classes.
    assert found.classes.labelled == "by vote"
    assert {share.name for share in found.classes.shares} == {"even", "odd"}
    missing = tmp_path / "none.csv"
    with pytest.raises(DataError, match="cannot be read"):
        explain(folders / "real", folders / "fake", labels=missing, scoring=QUICK)


def test_training_samples_are_all_looked_at(folders, tmp_path):
    """Of others as many are drawn as were asked for."""
    (tmp_path / "train").mkdir()
    for path in sorted((folders / "fake").glob("*.png")):
        (tmp_path / "train" / path.name).write_bytes(path.read_bytes())
    few = Extraction(features="pixels", num=60)
    found = explain(
        folders / "real", folders / "fake", train=tmp_path / "train", extraction=few, scoring=QUICK
    )
    inputs = found.protocol["inputs"]
    assert [inputs[side]["used"] for side in ("real", "fake", "train")] == [60, 60, 120]
    assert found.copies.number == 60
    pairs = [
        (found.name_of("fake", one.fake), found.name_of("train", one.train))
        for one in found.copies.rows
    ]
    # The first twelve are black and alike.
    assert all(fake == train for fake, train in pairs if fake > "012.png")


def test_one_sentence_sums_it_up(planted):
    line = planted.headline()
    assert line.startswith(f"{len(planted.worst)} of 300 fakes lie apart from real; ")
    assert "c is too rare" in line
    assert line.endswith(f"{len(planted.copies.rows)} fakes are close to training samples.")
    assert planted.verdict()[0] == line


def test_nothing_found_is_said():
    generator = torch.Generator().manual_seed(5)
    sides = torch.randn(2, 80, 4, generator=generator, dtype=torch.float64)
    assert explain_features(*sides, scoring=QUICK).headline().startswith("No fault was found")


def test_json_has_the_names_of_those_that_are_named(folders):
    found = explain(folders / "real", folders / "fake", extraction=EXTRACTION, scoring=QUICK)
    data = found.to_dict()["explanation"]
    for one in data["worst"]:
        assert data["names"]["fake"][str(one["fake"])] == found.name_of("fake", one["fake"])
        assert str(one["nearest"]) in data["names"]["real"]
    assert "train" not in data["names"]


def test_samples_in_the_order_of_their_classes():
    """Parts of them are random parts: fakes in another order are no other ones."""
    generator = torch.Generator().manual_seed(6)
    centres = torch.randn(10, 8, generator=generator, dtype=torch.float64) * 4
    sides = [
        centres.repeat_interleave(40, 0)
        + torch.randn(400, 8, generator=generator, dtype=torch.float64)
        for _ in range(2)
    ]
    found = explain_features(sides[0], sides[1].flip(0), scoring=QUICK)
    for point in found.curve:
        assert point.value < 2 * point.floor
    fake = sides[1].clone()
    fake[:, 0] += 3
    assert explain_features(sides[0], fake, scoring=QUICK).widest.pvalue == 0.005


@pytest.mark.parametrize("dimension", [1, 2])
def test_few_features(dimension):
    generator = torch.Generator().manual_seed(7)
    real, fake = torch.randn(2, 60, dimension, generator=generator, dtype=torch.float64)
    found = explain_features(real, fake + 3, scoring=QUICK)
    json.dumps(found.to_dict(), allow_nan=False)
    assert len(found.directions) == dimension
    assert all(len(place) == 2 for place in found.plane.real)


def test_what_has_nothing_above_its_floor_has_no_share_of_it():
    generator = torch.Generator().manual_seed(12)
    real, fake = torch.randn(2, 80, 30, generator=generator, dtype=torch.float64)
    found = explain_features(real, 0.7 * fake, scoring=QUICK)
    assert found.waterfall.excess.total < 0
    assert all(one.excess is None for one in found.directions)
    assert found.plane.excess is None


def test_real_samples_that_are_all_alike():
    with pytest.raises(DataError, match="different samples, to have 10 neighbours"):
        explain_features(torch.ones(40, 3), torch.randn(40, 3), scoring=QUICK)


def test_directions_of_a_sample_are_among_those_that_are_described(planted):
    for sample in planted.samples:
        assert all(0 <= place < len(planted.directions) for place, _ in sample.directions)


@pytest.fixture(scope="module")
def shifted():
    """Two classes far apart, and a shift of 2 along the third feature; as many samples of each."""
    generator = torch.Generator().manual_seed(9)
    labels = ["a", "b"] * 60
    far = torch.tensor([0.0, 30.0]).double().repeat(60)[:, None]
    real, fake = torch.randn(2, 120, 4, generator=generator, dtype=torch.float64)
    real[:, :1] += far
    fake[:, :1] += far
    fake[:, 2] += 2
    sides = labelled(real, labels, "real"), labelled(fake, labels, "fake")
    return real, fake, explain_features(*sides, scoring=QUICK)


def test_partners_and_costs_are_those_of_the_plan(shifted):
    real, fake, found = shifted
    rows, columns = scipy.optimize.linear_sum_assignment(torch.cdist(real, fake).square().numpy())
    partners = dict(zip(columns.tolist(), rows.tolist(), strict=True))
    for sample in found.samples:
        assert sample.partner == partners[sample.fake]
        cost = float((fake[sample.fake] - real[sample.partner]).square().sum())
        assert sample.cost == pytest.approx(cost)
        (_, first), (_, second) = sample.directions
        assert abs(first) >= abs(second)


def test_value_and_floor_are_not_mixed_up():
    generator = torch.Generator().manual_seed(15)
    real, fake = torch.randn(2, 400, 4, generator=generator, dtype=torch.float64)
    fake[:, 2] += 2
    found = explain_features(real, fake, scoring=QUICK)
    assert found.waterfall.value.mean == pytest.approx(4, abs=1)
    assert found.waterfall.floor.mean < 0.2
    assert found.waterfall.excess.mean == pytest.approx(4, abs=1)
    assert len(found.curve) == 4
    for point in found.curve:
        assert point.value > 1.3 * point.floor


def test_the_widest_direction_is_not_tested_on_the_half_that_chose_it():
    generator = torch.Generator().manual_seed(10)
    pvalues = []
    for _ in range(12):
        sides = torch.randn(2, 60, 50, generator=generator, dtype=torch.float64)
        pvalues.append(explain_features(*sides, scoring=QUICK).widest.pvalue)
    # On the half that chose it each would be the least one.
    assert np.median(pvalues) > 0.1


def test_errors_of_a_vote_are_on_both_sides():
    """Of classes that overlap a vote is often wrong, of held-out real samples as of fakes."""
    generator = torch.Generator().manual_seed(11)
    found = []
    for _ in range(2):
        classes = torch.randint(4, (400,), generator=generator)
        noise = torch.randn(400, 3, generator=generator, dtype=torch.float64)
        features = noise + torch.eye(4, 3).double()[classes]
        found.append((features, [str(i) for i in classes.tolist()]))
    explained = explain_features(labelled(*found[0], "real"), found[1][0], scoring=QUICK)
    assert explained.classes.agreement < 0.8
    assert not any(share.found for share in explained.classes.shares)
    assert np.trace(np.array(explained.classes.flow.excess)) < 0.12


def test_classes_of_fakes_alone_are_told():
    real, of_real = mixture(60, [0.4, 0.3, 0.3], 0)
    fake, _ = mixture(60, [0.4, 0.3, 0.3], 1)
    sides = labelled(real, of_real, "real"), labelled(fake, [f"new {i}" for i in range(60)], "fake")
    lines = explain_features(*sides, scoring=QUICK).findings()
    assert any("60 fakes are of classes that no real sample has: new 0, " in line for line in lines)
