"""Explaining finds what was planted, names it, and says nothing where nothing was."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch
from PIL import Image
from torch import Tensor

from otmetrics import DataError, Extraction, Scoring, exact_wasserstein
from otmetrics.explanation.attributes import Attribute
from otmetrics.explanation.shares import Share
from otmetrics.images import write_png
from otmetrics.images.looks import ATTRIBUTES
from otmetrics.pages.explain_page import explain_page
from otmetrics.scoring.explain import Explaining, explain, explain_features
from otmetrics.scoring.feature_set import FeatureSet
from otmetrics.scoring.report import ScoreTest

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


def test_formats_and_sizes_of_files(folders, tmp_path):
    """Fakes that are the real images as JPEG: told once, as findings."""
    for path in sorted((folders / "real").glob("*.png")):
        (tmp_path / "fake").mkdir(exist_ok=True)
        Image.open(path).save(tmp_path / "fake" / f"{path.stem}.jpg", quality=75)
    found = explain(folders / "real", tmp_path / "fake", extraction=EXTRACTION, scoring=QUICK)
    rows = {one.name: one for one in found.attributes}
    kind, size = rows["file format"], rows["file size"]
    assert kind.found
    assert size.found
    assert kind.formats == (("jpg", 0.0, 1.0), ("png", 1.0, 0.0))
    wanted = np.median([path.stat().st_size for path in (tmp_path / "fake").iterdir()])
    assert size.fake == pytest.approx(wanted)
    assert any("file format (png 100 % of real, jpg 100 % of fakes)" in x for x in found.findings())
    assert not any("file formats differ" in line for line in found.notes)
    assert any("file formats differ" in line for line in found.report.notes)
    row = found.to_dict()["explanation"]["attributes"]
    json.dumps(row, allow_nan=False)
    assert "png 100 %" in explain_page(found)

    same = explain(folders / "real", folders / "fake", extraction=EXTRACTION, scoring=QUICK)
    assert {one.name for one in same.attributes} == {*ATTRIBUTES, "file size"}


def test_images_that_are_gone_or_others_are_told_and_not_shown(folders, tmp_path):
    for side in ("real", "fake"):
        (tmp_path / side).mkdir()
        for path in sorted((folders / side).glob("*.png")):
            (tmp_path / side / path.name).write_bytes(path.read_bytes())

    def change(task: str, done: int, total: int) -> None:
        if task == "reasons: plans" and done == 0:
            for number in range(20, 25):
                (tmp_path / "real" / f"{number:03}.png").unlink(missing_ok=True)
            for number in range(30, 33):
                other = (folders / "fake" / "000.png").read_bytes()
                (tmp_path / "real" / f"{number:03}.png").write_bytes(other)

    sides = tmp_path / "real", tmp_path / "fake"
    found = explain(*sides, extraction=EXTRACTION, scoring=QUICK, progress=change)
    (line,) = [line for line in found.notes if "read again" in line]
    assert line.startswith("8 of the 120 real images that were looked at could not be read again")
    brightness = next(one for one in found.attributes if one.name == "brightness")
    assert brightness.images == (112, 120)
    shown = [found.pictures["real"].thumbnail(row) is not None for row in range(120)]
    assert [row for row in range(120) if not shown[row]] == [*range(20, 25), *range(30, 33)]


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


def test_one_sentence_sums_it_up_with_the_most_serious_first(planted):
    line = planted.headline()
    parts = line.split("; ")
    assert parts[0] == f"{len(planted.copies.rows)} of 300 fakes nearly copy a training sample"
    assert parts[1] == f"{len(planted.worst)} of 300 fakes are unlike any real sample"
    assert re.match(r"of 3 classes c \(0\.\d+ times its share\) is too rare", parts[2])
    assert line.endswith(".")
    assert planted.verdict()[0] == line


def test_what_was_found_stands_before_what_was_not(planted):
    lines = planted.findings()
    missing = [line.startswith("No ") for line in lines]
    assert missing == sorted(missing)
    assert "nearly copy a training sample" in lines[0]
    assert planted.sample_findings() == [lines[1]]

    none = replace(planted, samples=tuple(replace(one, found=False) for one in planted.samples))
    assert none.findings()[0] == lines[0]
    (told,) = none.sample_findings()
    assert told.startswith("No fakes were found that are unlike any real sample")
    assert told in none.findings()[-len([one for one in none.findings() if one[:3] == "No "]) :]


def test_of_attributes_that_move_together_the_sentence_names_the_one_that_moves_most(planted):
    shifts = {"contrast": 0.1, "brightness": -0.3, "sharpness": 0.2}
    rows = [Attribute(name, 0.0, one, one, 1e-9, True, (9, 9)) for name, one in shifts.items()]
    found = replace(planted, attributes=(*rows, Attribute("grid", 0, 9.0, 9.0, 0.5, False, (9, 9))))
    assert found.headline().endswith(
        "; fake images differ most in brightness (-0.3 sd), and in 2 more attributes."
    )
    assert (
        "Images differ in brightness (-0.3 sd), sharpness (+0.2 sd) and contrast (+0.1 sd)."
        in found.findings()
    )
    alike = [replace(rows[1], shift=-0.3004), replace(rows[2], shift=0.3)]
    assert "differ most in brightness" in replace(found, attributes=alike).headline()
    assert "differ most in sharpness" in replace(found, attributes=alike[::-1]).headline()
    alone = replace(found, attributes=rows[:1])
    assert alone.headline().endswith("fake images differ slightly in contrast (+0.1 sd).")
    assert "Images differ slightly in contrast (+0.1 sd)." in alone.findings()
    slight = replace(found, attributes=(rows[0], replace(rows[1], shift=-0.19)))
    assert slight.headline().endswith(
        "differ slightly in brightness (-0.19 sd), and in 1 more attribute."
    )
    flat = replace(found, attributes=(*rows, Attribute("grid", 0.0, 9.0, None, 1e-9, True, (9, 9))))
    assert "differ most in grid (0 of all real ones, 9 of fakes), and in 3 more" in flat.headline()


def with_pvalue(report, pvalue):
    """The same report, with a test of its only score."""
    ((name, score),) = report.scores.items()
    test = ScoreTest(pvalue, 0.0, (-1.0, 1.0), 199, (9, 9))
    return replace(report, scores={name: replace(score, test=test)})


def test_the_larger_effect_comes_first(planted):
    """Of shares and attributes, and of what is too rare and what is too frequent."""
    shares = (
        Share("a", 50, 80, 1.6, 1.1, 2.0, 1e-9, True),
        Share("b", 50, 40, 0.8, 0.6, 0.9, 1e-9, True),
        Share("c", 50, 35, 0.7, 0.5, 0.9, 1e-3, True),
    )
    none = replace(planted.uncovered, gaps=(), crowded=())
    found = replace(
        planted,
        report=with_pvalue(planted.report, 0.005),
        samples=(),
        copies=None,
        uncovered=none,
        classes=replace(planted.classes, shares=shares),
        attributes=(Attribute("contrast", 1.0, 2.0, 0.3, 1e-9, True, (9, 9)),),
    )
    assert found.kinds() == ["classes", "attributes"]
    assert found.headline() == (
        "Of 3 classes a (1.6 times its share) is too frequent, and c (0.7 times its share) and b "
        "(0.8 times its share) are too rare; fake images differ in contrast (+0.3 sd)."
    )
    shifted = (replace(found.attributes[0], shift=-0.5),)  # log 1.6 = 0.47
    found = replace(found, attributes=shifted)
    assert found.kinds() == ["attributes", "classes"]
    assert found.headline().startswith("Fake images differ in contrast (-0.5 sd); of 3 classes")
    first, *_ = found.findings()
    assert first == "Images differ in contrast (-0.5 sd)."
    missing = (replace(shares[1], ratio=0.0),)
    assert replace(found, classes=replace(found.classes, shares=missing)).kinds()[0] == "classes"
    assert planted.kinds()[:3] == ["copies", "unlike", "classes"]


def test_what_the_scores_do_not_show_is_no_contradiction(planted):
    report = with_pvalue(planted.report, 0.5)
    found = replace(planted, report=report)
    assert report.differs is False
    assert found.headline() == planted.headline()
    assert found.verdict()[1] == "The scores show no difference as a whole at this sample size."
    shares = replace(found, samples=(), copies=None)
    assert shares.headline().startswith("No score shows a difference; of 3 classes c (")
    assert "No difference is shown" not in str(shares)

    nothing = replace(shares, classes=None, uncovered=replace(found.uncovered, gaps=(), crowded=()))
    assert nothing.headline().startswith("No fault was found")
    assert nothing.verdict()[1] == report.verdict()[0]
    shown = replace(shares, report=with_pvalue(report, 0.005))
    assert shown.report.differs
    assert shown.verdict()[1] == shown.report.verdict()[0]
    assert shown.headline().startswith("Of 3 classes c (")


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


def test_fakes_of_one_folder_are_of_that_class():
    real, of_real = mixture(60, [0.4, 0.3, 0.3], 0)
    fake, _ = mixture(60, [0.4, 0.3, 0.3], 1)
    side = labelled(fake, None, "fake")
    side.source["top_folder"] = "b"
    found = explain_features(labelled(real, of_real, "real"), side, scoring=QUICK)
    assert found.classes.labelled == "given"
    assert {sample.name for sample in found.samples} == {"b"}
