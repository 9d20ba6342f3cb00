"""`summarize` and `merge`: parts of an input, one file each, are the file of one pass."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command import write_features, write_images
from safetensors.numpy import load_file
from summary_cases import assert_same, network  # noqa: F401 - a fixture

from otmetrics.images import files
from otmetrics.scoring.cache import cache_folder
from otmetrics.summaries.files import is_summary
from otmetrics.summaries.summary import Summary

SMALL = ("--samples", "7", "--num-projections", "16")
SCORED = ("--num-projections", "16", "--json", "-q")


@pytest.fixture
def inputs(tmp_path: Path, network: str) -> tuple[str, ...]:  # noqa: F811
    """Folders of images, one of them with classes, and the options that all runs share."""
    for name in ("ones", "others"):
        write_images(tmp_path / "real" / name, 10, seed=len(name))
    write_images(tmp_path / "fake", 18, seed=9)
    return (*SMALL, "--features", network, "-q")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def parts(otmetrics, inputs) -> list[str]:
    """Three parts of the real side."""
    for number in (1, 2, 3):
        done = otmetrics("summarize", "real", f"{number}.npz", "--shard", f"{number}/3", *inputs)
        assert (done.code, done.stderr) == (0, "")
    return ["1.npz", "2.npz", "3.npz"]


@pytest.fixture
def whole(otmetrics, inputs) -> Summary:
    assert otmetrics("summarize", "real", "whole.npz", *inputs).code == 0
    return Summary.load("whole.npz")


def refused(done, said: str, code: int = 3) -> None:
    """One line that says it."""
    assert done.code == code
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr, done.stderr


# --- one pass, and its parts ------------------------------------------------------------------


def test_a_summary_of_images(otmetrics, inputs, whole):
    assert (whole.count, whole.dimension, len(whole.samples)) == (20, 12, 7)
    assert whole.source["classes"] == {"ones": 10, "others": 10}
    assert all(name.startswith(("real/ones/", "real/others/")) for name in whole.samples.names)
    told = [name.split("/")[1] for name in whole.samples.names]
    assert list(whole.samples.labels) == told
    assert whole.extractor["extractor"] == inputs[-2]
    done = otmetrics("summarize", "real", "again.npz", *inputs)
    size = Path("again.npz").stat().st_size / 1e6
    said = f"again.npz: 20 x 12 features of {inputs[-2]}, 7 of them kept, {size:.1f} MB\n"
    assert done.stdout == said
    assert Path("again.npz").read_bytes() == Path("whole.npz").read_bytes()


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_merged_parts_are_one_pass(otmetrics, parts, whole, order):
    names = [f"{number}.npz" for number in order]
    done = otmetrics("merge", *names, "merged.npz")
    assert (done.code, done.stderr) == (0, "")
    merged = Summary.load("merged.npz")
    assert merged.source.pop("parts") == [[i, 3, 20, "real"] for i in (1, 2, 3)]
    assert_same(merged, whole)
    with np.load("merged.npz") as found, np.load("whole.npz") as expected:
        assert set(found.files) == set(expected.files)
        for name in set(found.files) - {"mu", "sigma", "summary"}:
            assert found[name].tobytes() == expected[name].tobytes()


def test_merging_in_two_steps_is_merging_in_one(otmetrics, parts):
    assert otmetrics("merge", *parts, "straight.npz").code == 0
    assert otmetrics("merge", *parts[1:], "two.npz", "--incomplete").code == 0
    assert otmetrics("merge", "two.npz", parts[0], "merged.npz").code == 0
    assert_same(Summary.load("merged.npz"), Summary.load("straight.npz"))


def scores_of(done) -> dict:
    """All that a report says, but for paths and times, and for the record of the parts."""
    report = json.loads(done.stdout)
    report.pop("seconds", None)
    for side in report["protocol"]["inputs"].values():
        side.pop("path")
        side.get("origin", {}).pop("parts", None)
    return report


def rounded(value: object) -> object:
    """Numbers to six digits: effects of samples are in float32."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def test_scores_of_merged_parts_are_those_of_one_summary(otmetrics, inputs, parts, whole):
    assert otmetrics("merge", *parts, "merged.npz").code == 0
    assert otmetrics("summarize", "fake", "fake.npz", *inputs).code == 0
    found, expected = (
        scores_of(otmetrics("score", name, "fake.npz", *SCORED))
        for name in ("merged.npz", "whole.npz")
    )
    assert len(found["scores"]) == 9
    for name, score in found["scores"].items():
        if name != "frechet_distance":
            assert score["value"] == expected["scores"][name]["value"]
            assert score["floor"] == expected["scores"][name]["floor"]
        if name not in {"frechet_distance", "sliced_wasserstein"}:
            assert score == expected["scores"][name]
    value, other = (report["scores"]["frechet_distance"]["value"] for report in (found, expected))
    assert value == pytest.approx(other, rel=1e-10)
    assert found["protocol"] == expected["protocol"]
    assert found["notes"] == expected["notes"]
    assert rounded(found["scores"]) == rounded(expected["scores"])


def test_parts_of_a_draw(otmetrics, inputs):
    """With --num the parts share the one random draw."""
    drawn = ("--num", 12, *inputs)
    assert otmetrics("summarize", "real", "whole.npz", *drawn).code == 0
    for number in (1, 2):
        name = f"{number}.npz"
        assert otmetrics("summarize", "real", name, "--shard", f"{number}/2", *drawn).code == 0
    assert otmetrics("merge", "1.npz", "2.npz", "merged.npz").code == 0
    merged, whole = Summary.load("merged.npz"), Summary.load("whole.npz")
    merged.source.pop("parts")
    assert merged.count == 12
    assert_same(merged, whole)


def test_corrupt_images_are_left_out_and_named(otmetrics, inputs):
    Path("real/ones/003.png").write_bytes(b"no image")
    refused(otmetrics("summarize", "real", "x.npz", *inputs), "003.png")
    assert not Path("x.npz").exists()
    done = otmetrics("summarize", "real", "whole.npz", *inputs[:-1], "--skip-corrupt")
    assert done.code == 0
    assert "note: left out" in done.stderr
    assert "003.png" in done.stderr
    for number in (1, 2, 3):
        shard = ("--shard", f"{number}/3", "--skip-corrupt")
        assert otmetrics("summarize", "real", f"{number}.npz", *shard, *inputs).code == 0
    assert otmetrics("merge", "1.npz", "2.npz", "3.npz", "merged.npz").code == 0
    merged, whole = Summary.load("merged.npz"), Summary.load("whole.npz")
    merged.source.pop("parts")
    assert merged.count == 19
    assert len(merged.source["skipped"]) == 1
    assert_same(merged, whole)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_features_are_summarised_too(otmetrics, tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    write_features(tmp_path / "x.npy", 30, seed=1)
    features = np.load("x.npy")
    np.savez("x.npz", features=features, labels=np.arange(30) % 3)
    name = f"x.{suffix}"
    assert otmetrics("summarize", name, "whole.out.npz", *SMALL, "-q").code == 0
    for number in (1, 2, 3, 4):
        shard = ("--shard", f"{number}/4", *SMALL, "-q")
        assert otmetrics("summarize", name, f"{number}.part.npz", *shard).code == 0
    done = otmetrics("merge", *(f"{i}.part.npz" for i in (2, 4, 1, 3)), "merged.npz")
    assert done.code == 0, done.stderr
    merged, whole = Summary.load("merged.npz"), Summary.load("whole.out.npz")
    merged.source.pop("parts")
    assert_same(merged, whole)
    assert torch.equal(whole.mean, torch.from_numpy(features).mean(0))
    rows = [int(name.partition("[")[2][:-1]) for name in whole.samples.names]
    assert torch.equal(whole.samples.features, torch.from_numpy(features)[rows])
    if suffix == "npz":
        assert list(whole.samples.labels) == [str(row % 3) for row in rows]


# --- what is kept and written -----------------------------------------------------------------


@pytest.mark.parametrize("kept", ["moments", "sketch", "samples", "moments,sketch", "all"])
def test_keep(otmetrics, inputs, whole, kept):
    options = () if kept == "all" else ("--keep", kept)
    assert otmetrics("summarize", "real", "x.npz", *options, *inputs).code == 0
    found = Summary.load("x.npz")
    names = ("sketch", "samples") if kept == "all" else kept.split(",")
    assert_same(found, whole.only(*names))
    with np.load("x.npz") as file:
        assert {"mu", "sigma"} <= set(file.files)
        assert ("samples" in file.files) == ("samples" in names)


def test_a_part_that_is_not_known_is_refused(otmetrics, inputs):
    done = otmetrics("summarize", "real", "x.npz", "--keep", "mean", *inputs)
    assert done.code == 2
    assert "moments" in done.stderr
    assert not Path("x.npz").exists()


@pytest.mark.parametrize(
    ("form", "names"), [("pytorch-fid", {"mu", "sigma"}), ("clean-fid", {"mu", "sigma", "feats"})]
)
def test_files_of_other_programs(otmetrics, inputs, whole, form, names):
    assert otmetrics("summarize", "real", "x.npz", "--format", form, *inputs).code == 0
    assert not is_summary(Path("x.npz"))
    with np.load("x.npz") as file:
        assert set(file.files) == names
        np.testing.assert_array_equal(file["mu"], whole.mean.numpy())
        np.testing.assert_array_equal(file["sigma"], whole.covariance.numpy())
        if "feats" in names:
            np.testing.assert_array_equal(file["feats"], whole.samples.features.numpy())


def test_targets(otmetrics, inputs, parts):
    before = Path("1.npz").read_bytes()
    for command in (("summarize", "fake"), ("merge", "2.npz", "3.npz", "--incomplete")):
        options = inputs if command[0] == "summarize" else ()
        refused(otmetrics(*command, "1.npz", *options), "`1.npz` exists: choose another name, or")
        refused(otmetrics(*command, "1.npy", *options), "must end in .npz")
        refused(otmetrics(*command, "no/x.npz", *options), "is not a folder: create it first")
    assert Path("1.npz").read_bytes() == before
    assert otmetrics("summarize", "fake", "1.npz", "--overwrite", *inputs).code == 0
    assert Summary.load("1.npz").count == 18
    assert otmetrics("merge", "2.npz", "3.npz", "1.npz", "--incomplete", "--overwrite").code == 0
    assert Summary.load("1.npz").count == 13


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1/0"])
def test_parts_that_are_none(otmetrics, inputs, shard):
    done = otmetrics("summarize", "real", "x.npz", "--shard", shard, *inputs)
    assert done.code == 2
    assert "shard" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shard", ["x", "1", "1/", "/3", "-1/3", "1/2/3", "1.0/3", "1/" + "9" * 30])
def test_parts_that_are_no_text_of_one(otmetrics, inputs, shard):
    done = otmetrics("summarize", "real", "x.npz", f"--shard={shard}", *inputs)
    assert done.code == 2
    assert "give a part of how many, as 2/64" in done.stderr


def test_more_parts_than_samples_of_a_network_of_unknown_dimension(otmetrics, inputs):
    done = otmetrics("summarize", "real", "x.npz", "--shard", "21/40", *inputs)
    refused(done, "`real` has no sample for part 21 of 40: take fewer")
    assert otmetrics("summarize", "real", "x.npz", "--shard", "20/40", *inputs).code == 0
    assert Summary.load("x.npz").count == 1


def test_a_summary_is_not_summarised(otmetrics, inputs, whole):
    refused(otmetrics("summarize", "whole.npz", "x.npz"), "is a summary, or has one: give samples")
    np.savez("statistics.npz", mu=np.zeros(3), sigma=np.eye(3))
    refused(otmetrics("summarize", "statistics.npz", "x.npz"), "is a summary, or has one")


def test_parts_that_are_missing_or_twice(otmetrics, parts):
    missing = otmetrics("merge", "1.npz", "3.npz", "x.npz")
    refused(missing, "of 3 parts of `real` 2 is missing: give all of them, or pass --incomplete")
    refused(otmetrics("merge", "2.npz", "x.npz"), "of 3 parts of `real` 1, 3 are missing")
    refused(otmetrics("merge", *parts, "1.npz", "x.npz"), "are of the same samples: give each once")
    assert otmetrics("merge", *parts, "all.npz").code == 0
    refused(otmetrics("merge", "all.npz", "2.npz", "x.npz"), "holds samples that others hold too")
    assert not Path("x.npz").exists()


def test_parts_of_moments_that_are_twice(otmetrics, inputs):
    """No sample tells it; the record does."""
    for number in (1, 2, 3):
        options = ("--shard", f"{number}/3", "--keep", "moments", *inputs)
        assert otmetrics("summarize", "real", f"{number}.npz", *options).code == 0
    assert otmetrics("merge", "1.npz", "2.npz", "3.npz", "all.npz").code == 0
    refused(otmetrics("merge", "all.npz", "2.npz", "x.npz"), "a part of `real` is there twice")


def test_samples_that_overlap(otmetrics, inputs, parts, whole):
    """Parts of another cut hold some samples of these."""
    done = otmetrics("summarize", "real", "half.npz", "--shard", "1/2", *inputs)
    assert done.code == 0
    said = "holds samples that others hold too"
    refused(otmetrics("merge", "1.npz", "half.npz", "x.npz", "--incomplete"), said)
    refused(otmetrics("merge", "whole.npz", "half.npz", "x.npz", "--incomplete"), said)


def test_folders_of_the_same_names_are_merged(otmetrics, inputs, whole):
    """An image of one name in another folder is another image."""
    write_images(Path("more/ones"), 10, seed=77)
    assert otmetrics("summarize", "more", "more.npz", *inputs).code == 0
    assert otmetrics("merge", "whole.npz", "more.npz", "both.npz").code == 0
    both = Summary.load("both.npz")
    assert both.count == 30
    assert both.source["path"] == "more, real"
    # Of one class no folder tells.
    assert both.samples.labels is None
    assert "classes" not in both.source
    write_images(Path("more/others"), 3, seed=78)
    assert otmetrics("summarize", "more", "more.npz", "--overwrite", *inputs).code == 0
    assert otmetrics("merge", "whole.npz", "more.npz", "all.npz").code == 0
    assert Summary.load("all.npz").source["classes"] == {"ones": 20, "others": 13}


def test_what_does_not_fit(otmetrics, inputs, whole):
    for name, options in {
        "seed": ("--seed", 1),
        "num_projections": ("--num-projections", 17),
    }.items():
        command = ("summarize", "fake", f"{name}.npz", *inputs, *options)
        assert otmetrics(*command).code == 0
        done = otmetrics("merge", "whole.npz", f"{name}.npz", "x.npz")
        refused(done, f"`{name}.npz` does not fit the others: `other` must have the {name}")
    changed = replace(whole, extractor={"extractor": "pixels"}, fingerprint=1).only("moments")
    changed.save("extractor.npz")
    refused(otmetrics("merge", "whole.npz", "extractor.npz", "x.npz"), "must have the extractor")
    np.savez("features.npz", features=np.ones((3, 2)))
    refused(
        otmetrics("merge", "whole.npz", "features.npz", "x.npz"), "`features.npz` is no summary"
    )
    refused(otmetrics("merge", "whole.npz", "nothing.npz", "x.npz"), "does not exist")
    assert otmetrics("merge", "x.npz").code == 2


def test_parts_of_two_inputs_do_not_fill_each_other(otmetrics, here):
    for name in ("a", "b"):
        np.save(f"{name}.npy", np.random.default_rng(len(name)).normal(size=(9, 3)) + ord(name))
    small = ("--samples", "4", "--num-projections", "8", "-q")
    assert otmetrics("summarize", "a.npy", "a1.npz", "--shard", "1/2", *small).code == 0
    assert otmetrics("summarize", "b.npy", "b2.npz", "--shard", "2/2", *small).code == 0
    refused(otmetrics("merge", "a1.npz", "b2.npz", "x.npz"), "of 2 parts of `a.npy` 2 is missing")


def test_an_input_that_changes_between_its_parts_is_told(otmetrics, here):
    small = ("--keep", "moments", "-q")
    for number, rows in ((1, 20), (2, 19)):
        np.save("x.npy", np.random.default_rng(0).normal(size=(rows, 3)))
        shard = ("--shard", f"{number}/2")
        assert otmetrics("summarize", "x.npy", f"{number}.npz", *shard, *small).code == 0
    refused(otmetrics("merge", "1.npz", "2.npz", "new.npz"), "has changed meanwhile")


def test_an_input_whole_and_in_parts_is_refused(otmetrics, here):
    np.save("x.npy", np.random.default_rng(0).normal(size=(20, 3)))
    small = ("--keep", "moments", "-q")
    for number in (1, 2):
        shard = ("--shard", f"{number}/2")
        assert otmetrics("summarize", "x.npy", f"{number}.npz", *shard, *small).code == 0
    assert otmetrics("summarize", "x.npy", "whole.npz", *small).code == 0
    for order in (("1.npz", "2.npz", "whole.npz"), ("whole.npz", "1.npz", "2.npz")):
        refused(
            otmetrics("merge", *order, "all.npz"),
            "is there in parts, and whole besides",
        )


def test_parts_with_equal_names_are_chosen_from_one_by_one(otmetrics, here):
    """Features of jobs, each numbered from 0: what is kept is no bundle of equal numbers."""
    small = ("--samples", "30", "--num-projections", "8", "-q")
    for number in range(6):
        rows = np.arange(100.0)[:, None] * [1, 0] + [0, number]
        np.save(f"job{number}.npy", rows)
        assert otmetrics("summarize", f"job{number}.npy", f"{number}.npz", *small).code == 0
    assert otmetrics("merge", *(f"{number}.npz" for number in range(6)), "all.npz").code == 0
    kept = Summary.load("all.npz").samples.features
    assert len(kept) == 30
    # Bundles would be five numbers, six times each.
    assert len(kept[:, 0].unique()) > 20


def test_equal_samples_of_honest_parts_are_merged(otmetrics, here):
    """Such as black images, which both have under other names."""
    small = ("--samples", "40", "--num-projections", "8", "-q")
    for number in (1, 2):
        rows = np.random.default_rng(number).normal(size=(30, 3))
        rows[number::3] = 0
        np.save(f"{number}.npy", rows)
        assert otmetrics("summarize", f"{number}.npy", f"{number}.npz", *small).code == 0
    assert otmetrics("merge", "1.npz", "2.npz", "all.npz").code == 0
    assert Summary.load("all.npz").count == 60


def test_more_parts_than_samples(otmetrics, here):
    np.save("x.npy", np.random.default_rng(0).normal(size=(2, 3)))
    small = ("--samples", "4", "--num-projections", "8", "-q")
    for number in (1, 2, 3):
        done = otmetrics("summarize", "x.npy", f"{number}.npz", "--shard", f"{number}/3", *small)
        assert done.code == 0, done.stderr
    assert otmetrics("merge", "1.npz", "2.npz", "3.npz", "all.npz").code == 0
    assert Summary.load("all.npz").count == 2


def test_an_input_is_not_replaced(otmetrics, here):
    np.savez("x.npz", features=np.random.default_rng(0).normal(size=(20, 3)))
    done = otmetrics("summarize", "x.npz", "x.npz", "--overwrite")
    assert done.code == 2
    assert "must not be `x.npz`, which is an input" in done.stderr


def test_a_part_of_any_number_of_parts_takes_no_time(otmetrics, inputs, whole):
    """What a file says is a claim."""
    parts = [[1, 10**15, 20, "real"]]
    claim = replace(whole, source=whole.source | {"parts": parts, "available": 1})
    claim.save("claim.npz")
    done = otmetrics("merge", "claim.npz", "x.npz")
    refused(
        done,
        "of 1000000000000000 parts of `real` 2, 3, 4, 5, 6 and 999999999999994 more are missing",
    )


# --- killed -----------------------------------------------------------------------------------


def test_what_is_killed_leaves_no_file_and_goes_on(otmetrics, forks, tmp_path, monkeypatch):
    folder = write_images(tmp_path / "real", 14, seed=3)
    for path in folder.iterdir():
        os.utime(path, (time.time() - 60,) * 2)
    monkeypatch.setenv("OTMETRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.0)
    options = ("--keep", "moments", "--batch-size", 4, "-q")
    killed = forks.start(
        "summary_checks",
        *("summarize", folder, tmp_path / "x.npz", *options),
        environment={"OTMETRICS_CACHE": str(tmp_path / "cache")},
    )
    assert killed.wait() == -9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "real"]
    kept = sorted(cache_folder().glob("*/*.safetensors"))
    assert len(kept) == 2

    # What was kept is not computed again.
    done = otmetrics("summarize", folder, tmp_path / "x.npz", *options)
    assert done.code == 0
    more = [path for path in cache_folder().glob("*/*.safetensors") if path not in kept]
    before, after = (sum(len(load_file(path)["keys"]) for path in paths) for paths in (kept, more))
    assert before >= 2
    assert before + after == 14
    assert otmetrics("summarize", folder, tmp_path / "y.npz", "--no-cache", *options).code == 0
    assert_same(Summary.load(tmp_path / "x.npz"), Summary.load(tmp_path / "y.npz"))


def test_a_part_of_which_no_image_can_be_read(otmetrics, inputs):
    for path in Path("fake").iterdir():
        path.write_bytes(b"no image")
    done = otmetrics("summarize", "fake", "x.npz", "--skip-corrupt", *inputs)
    refused(done, "`fake` gives 0 sample(s), but at least 1 are needed")
    assert not Path("x.npz").exists()
