"""`otmetrics score`: streams, formats, options, and every way to go wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from command import on_a_terminal, write_features, write_images
from PIL import Image

from otmetrics.scoring.options import METRICS
from otmetrics.transport.sliced.sliced import Sliced


@pytest.fixture
def features(tmp_path):
    real = write_features(tmp_path / "real.npy", 60, seed=1)
    fake = write_features(tmp_path / "fake.npy", 50, seed=2, shift=0.5)
    return real, fake


def scores(finished):
    assert finished.code == 0, finished.stderr
    return json.loads(finished.stdout)


def test_json_has_the_documented_shape(otmetrics, features):
    report = scores(otmetrics("score", *features, "--json"))
    assert list(report) == ["schema", "scores", "protocol", "notes", "joint_pvalue", "classes"]
    assert report["schema"] == 1
    assert tuple(report["scores"]) == METRICS
    for score in report["scores"].values():
        floor = score["floor"]
        assert floor["size"] == 30
        assert floor["excess"] == pytest.approx(floor["at_floor_size"] - floor["value"])
        assert score["sizes"] == [60, 50]
    assert report["scores"]["sliced_wasserstein"]["standard_error"] > 0
    assert report["scores"]["wasserstein"]["standard_error"] is None
    assert report["protocol"]["inputs"]["real"]["used"] == 60
    assert report["protocol"]["scoring"]["sinkhorn"]["epsilon"] == 0.05


def test_only_json_goes_to_stdout_and_progress_to_stderr(otmetrics, features):
    finished = otmetrics("score", *features, "--json")
    json.loads(finished.stdout)
    assert "scores" in finished.stderr
    quiet = otmetrics("score", *features, "--json", "--quiet")
    assert quiet.stderr == ""
    assert quiet.stdout == finished.stdout


def test_json_file_stands_beside_the_table(otmetrics, features, tmp_path):
    target = tmp_path / "scores.json"
    finished = otmetrics("score", *features, "--json", target)
    assert "exact Wasserstein" in finished.stdout
    assert json.loads(target.read_text())["schema"] == 1
    assert not list(tmp_path.glob("*.partial"))


def test_json_goes_to_a_file_and_to_stdout(otmetrics, features, tmp_path):
    target = tmp_path / "scores.json"
    one = ("--json", target, "--metrics", "wasserstein", "--json", "-q")
    finished = otmetrics("score", *features, *one)
    assert finished.code == 0, finished.stderr
    assert target.read_text() == finished.stdout
    assert list(json.loads(finished.stdout)["scores"]) == ["wasserstein"]


def test_json_does_not_swallow_an_input(otmetrics, features):
    finished = otmetrics("score", "--json", *features)
    assert finished.code == 2
    assert "put --json last" in finished.stderr


def test_table_in_a_pipe_is_plain_and_complete(otmetrics, features):
    lines = otmetrics("score", *features).stdout.splitlines()
    assert lines[0].split()[:2] == ["score", "value"]
    assert len(lines) == 1 + len(METRICS) + 7
    assert lines[1 + len(METRICS)].startswith("Real and fake differ by ")
    assert "Fréchet distance" in lines[4]
    assert "\x1b" not in "".join(lines)


def test_what_was_read_stands_under_the_table_or_in_the_notes(otmetrics, tmp_path):
    real = write_images(tmp_path / "real", 12, seed=1)
    fake = write_images(tmp_path / "fake", 10, seed=2, suffix="jpg")
    arguments = ("score", real, fake, "--features", "pixels", "--metrics", "frechet_distance")
    with Image.open(next(real.iterdir())) as image:
        shape = image.size
    read = [
        f"{name}: {count} images, {shape[0]} x {shape[1]}, RGB 8 bit, {kind}"
        for name, count, kind in (("real", 12, "png"), ("fake", 10, "jpg"))
    ]
    plain = otmetrics(*arguments)
    assert [line for line in plain.stdout.splitlines() if "images" in line] == read
    assert not [line for line in read if line in plain.stderr]
    asked = otmetrics(*arguments, "--json")
    assert json.loads(asked.stdout)["notes"][:2] == read
    assert [line for line in read if f"note: {line}\n" in asked.stderr] == read
    assert "samples:" not in plain.stdout


def test_metrics_are_chosen_and_ordered(otmetrics, features):
    report = scores(otmetrics("score", *features, "--json", "--metrics", "recall, wasserstein"))
    assert list(report["scores"]) == ["wasserstein", "recall"]
    everything = scores(otmetrics("score", *features, "--json"))
    assert report["scores"]["recall"] == everything["scores"]["recall"]


def test_score_equals_the_solver(otmetrics, features):
    report = scores(otmetrics("score", *features, "--json"))
    real, fake = (torch.from_numpy(np.load(path)) for path in features)
    assert report["scores"]["sliced_wasserstein"]["value"] == Sliced()(real, fake).item()


def test_floor_compares_disjoint_real_parts(otmetrics, tmp_path):
    # Each sample stands alone, so an overlap of the halves would show as a distance too small:
    # points on a line at distance 1 have W_1 >= 1 / 2 between any two disjoint halves.
    np.save(tmp_path / "line.npy", np.arange(40.0)[:, None])
    report = scores(otmetrics("score", *[tmp_path / "line.npy"] * 2, "--json"))
    assert report["scores"]["wasserstein"]["value"] == 0
    assert report["scores"]["wasserstein"]["floor"]["value"] > 0.5
    assert report["scores"]["wasserstein"]["floor"]["size"] == 20


def test_floor_with_other_real(otmetrics, features, tmp_path):
    other = write_features(tmp_path / "other.npy", 45, seed=3)
    report = scores(otmetrics("score", *features, "--json", "--floor-with", other))
    assert report["scores"]["wasserstein"]["floor"]["size"] == 45
    assert report["protocol"]["inputs"]["floor_with"]["path"] == str(other)


def test_equal_sizes_need_no_second_score(otmetrics, tmp_path):
    paths = [write_features(tmp_path / f"{i}.npy", 30, seed=i) for i in range(3)]
    finished = otmetrics("score", *paths[:2], "--json", "--floor-with", paths[2])
    for score in scores(finished)["scores"].values():
        assert score["floor"]["at_floor_size"] == score["value"]


def test_no_floor(otmetrics, features):
    report = scores(otmetrics("score", *features, "--json", "--no-floor"))
    assert all(score["floor"] is None for score in report["scores"].values())


def test_exact_max_bounds_the_exact_distance_and_says_so(otmetrics, features):
    finished = otmetrics("score", *features, "--json", "--exact-max", "20")
    report = scores(finished)
    assert report["scores"]["wasserstein"]["sizes"] == [20, 20]
    assert report["scores"]["wasserstein"]["floor"]["size"] == 20
    assert report["scores"]["recall"]["sizes"] == [60, 50]
    assert "20 samples per side" in finished.stderr
    assert "--exact-max changes it" in finished.stderr
    assert "wasserstein uses 20 samples per side at most, drawn at random; `exact_max` changes" in (
        " ".join(report["notes"])
    )


def test_memory_limit_is_a_size_and_changes_no_number(otmetrics, features):
    free = scores(otmetrics("score", *features, "--json"))
    assert scores(otmetrics("score", *features, "--json", "--memory-limit", "8G")) == free
    for text in ("much", "-1", "0", "4", "4 apples"):
        finished = otmetrics("score", *features, "--memory-limit", text)
        assert finished.code == 2
        assert "800M, 4G" in finished.stderr
    tight = ("--memory-limit", "1M", "--metrics", "sliced_wasserstein", "--json")
    found = scores(otmetrics("score", *features, *tight))["scores"]
    assert found == {name: free["scores"][name] for name in found}


def test_seed_decides_everything(otmetrics, features):
    arguments = ("score", *features, "--json", "--num", "40", "--seed")
    first, again = (otmetrics(*arguments, "3").stdout for _ in range(2))
    assert first == again
    assert otmetrics(*arguments, "4").stdout != first


def test_seed_draws_the_directions_too(otmetrics, features):
    arguments = ("score", *features, "--metrics", "sliced_wasserstein", "--json", "--seed")
    values = [
        scores(otmetrics(*arguments, seed))["scores"]["sliced_wasserstein"]["value"]
        for seed in (0, 1)
    ]
    assert values[0] != values[1]


def test_images_end_to_end(otmetrics, tmp_path):
    real = write_images(tmp_path / "real", 30, seed=1)
    fake = write_images(tmp_path / "fake", 24, seed=2, suffix="jpg")
    (fake / "notes.txt").write_text("not an image")
    finished = otmetrics("score", real, fake, "--features", "pixels", "--json")
    report = scores(finished)
    assert report["protocol"]["features"]["extractor"] == "pixels"
    assert report["protocol"]["inputs"]["fake"]["formats"] == {"jpg": 24}
    assert "file formats differ (png and jpg)" in finished.stderr
    # The sliced directions come from the scoring seed, never from the batch size.
    other = scores(
        otmetrics("score", real, fake, "--features", "pixels", "--json", "--batch-size", "7")
    )
    assert other["scores"] == report["scores"]


def test_default_extractor_on_real_folders(otmetrics, tmp_path):
    real, fake = (write_images(tmp_path / name, 12, seed=4) for name in ("real", "fake"))
    report = scores(otmetrics("score", real, fake, "--json", "--metrics", "wasserstein,precision"))
    assert report["protocol"]["features"]["extractor"] == "efficientnet_lite0"
    assert report["protocol"]["features"]["dimension"] == 1280
    assert report["scores"]["wasserstein"]["value"] == pytest.approx(0, abs=1e-6)
    assert report["scores"]["precision"]["value"] == 1


def test_skip_corrupt_goes_on_and_names_the_files(otmetrics, tmp_path):
    real = write_images(tmp_path / "real", 20, seed=1)
    fake = write_images(tmp_path / "fake", 20, seed=2)
    (fake / "005.png").write_bytes((fake / "005.png").read_bytes()[:60])
    stopped = otmetrics("score", real, fake, "--features", "pixels")
    assert stopped.code == 3
    assert "005.png" in stopped.stderr
    assert "--skip-corrupt" in stopped.stderr
    assert stopped.stdout == ""
    finished = otmetrics("score", real, fake, "--features", "pixels", "--skip-corrupt", "--json")
    report = scores(finished)
    assert report["protocol"]["inputs"]["fake"]["used"] == 19
    assert "005.png" in report["protocol"]["inputs"]["fake"]["skipped"][0]
    assert "note: fake: left out" in finished.stderr
    assert "--skip-corrupt" not in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["score", "{real}", "{missing}"], 3, "does not exist"),
        (["score", "{real}", "{empty}"], 3, "no images"),
        (["score", "{real}", "{text}"], 3, "is not a folder"),
        (["score", "{real}", "{single}"], 3, "at least 6 are needed"),
        (["score", "{real}", "{nan}"], 3, "NaN"),
        (["score", "{real}", "{wide}"], 3, "extract both alike"),
        (["score", "{real}", "{folder}"], 3, "bare features"),
        (["score", "{real}", "{five}"], 3, "ask for fewer scores with --metrics"),
        (["score", "{real}", "{real}", "--num", "61"], 3, "fewer than --num 61"),
        (["score", "{real}", "{real}", "--json", "/nowhere/x.json"], 3, "create it first"),
        (["score", "{real}"], 2, "Missing argument"),
        (["score", "{real}", "{real}", "--unknown"], 2, "No such option"),
        (["score", "{real}", "{real}", "--metrics", "fid"], 2, "FID itself needs --features inc"),
        (["score", "{real}", "{real}", "--num", "1"], 2, "--num must be"),
        (["score", "{real}", "{real}", "--num", "5"], 3, "per side: raise --num, or ask for fewer"),
        (
            ["score", "{real}", "{five}", "--metrics", "recall"],
            3,
            "more, or lower --num-neighbors.",
        ),
        (["score", "{real}", "{real}", "--metric", "recall"], 2, "Did you mean '--metrics'?"),
        (["score", "{real}", "{real}", "--seed", "-1"], 2, "--seed must be"),
        (["score", "{real}", "{real}", "--exact-max", "1"], 2, "--exact-max must be"),
        (["score", "{real}", "{real}", "--batch-size", "0"], 2, "--batch-size must be"),
        (["score", "{real}", "{real}", "--device", "tpu"], 2, "--device"),
        (["score", "{real}", "{real}", "--device", "cuda:99"], 2, "not on this machine"),
        (["score", "{real}", "{real}", "--resize", "tf1"], 2, "already holds features"),
        (["score", "{folder}", "{folder}", "--features", "vgg"], 2, "vgg"),
        (["score", "{folder}", "{folder}", "--features", "none"], 3, "name another"),
        (["score", "{folder}", "{folder}", "--features", "pixels", "--weights", "x"], 2, "weights"),
        (["score", "{real}", "{real}", "--metrics", ""], 2, "--metrics must be among"),
        (["score", "{real}", "{real}", "--seed", str(2**70)], 2, "--seed must be below"),
        (["score", "{real}", "{real}", "--floor-with", "{real}"], 2, "--floor-with must hold"),
        (["score", "{real}", "{real}", "--json", "{folder_json}"], 3, "is a folder"),
        (["score", "{real}", "{five}", "--floor-with", "{five}"], 2, "--floor-with must hold"),
        (
            ["score", "{real}", "{real}", "--floor-with", "{five}", "--no-floor"],
            2,
            "needs a floor, so --floor",
        ),
        (["score", "{real}", "{real}", "--metrics", "recal"], 2, "Did you mean recall?"),
        (["score", "{real}", "{real}", "--epsilon", "0"], 2, "--epsilon must be"),
        (["score", "{real}", "{real}", "--tolerance", "1"], 2, "--tolerance must be"),
        (["score", "{real}", "{real}", "--max-projections", "9"], 2, "needs --tolerance"),
        (["extract", "{real}", "{new}"], 2, "already holds features"),
        (["score", "", "{real}"], 2, "path is empty"),
        (["score", "{huge}", "{real}"], 3, "scale both clouds down"),
        (["score", "{folder}", "{folder}", "--features", "timm:nope"], 2, "timm:nope"),
        (["nothing"], 2, "No such command"),
    ],
)
def test_bad_input_is_one_line_and_a_code(otmetrics, tmp_path, arguments, code, words):
    places = {
        "real": write_features(tmp_path / "real.npy", 60, seed=1),
        "single": write_features(tmp_path / "single.npy", 1, seed=1),
        "five": write_features(tmp_path / "five.npy", 5, seed=1),
        "wide": write_features(tmp_path / "wide.npy", 60, seed=1, dimension=7),
        "nan": tmp_path / "nan.npy",
        "folder": write_images(tmp_path / "folder", 7, seed=1),
        "empty": tmp_path / "empty",
        "folder_json": tmp_path / "folder.json",
        "huge": tmp_path / "huge.npy",
        "new": tmp_path / "new.npz",
        "text": tmp_path / "text.csv",
        "missing": tmp_path / "missing",
    }
    np.save(places["nan"], np.full((60, 6), np.nan))
    np.save(places["huge"], np.full((60, 6), 1e160))
    places["empty"].mkdir()
    places["folder_json"].mkdir()
    places["text"].write_text("1,2")
    before = sorted(tmp_path.rglob("*"))
    finished = otmetrics(*(argument.format_map(places) for argument in arguments))
    assert finished.code == code, finished.stderr
    assert words in finished.stderr
    assert len(finished.stderr.splitlines()) <= (1 if finished.stderr.startswith("error") else 5)
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before, "nothing half-written"


def test_unconverged_solver_prints_and_exits_4(otmetrics, tmp_path):
    paths = [write_features(tmp_path / f"{i}.npy", 60, seed=i) for i in range(2)]
    starved = ("--epsilon", "1e-4", "--max-iterations", "1")
    finished = otmetrics("score", *paths, *starved)
    assert finished.code == 4
    row = next(line for line in finished.stdout.splitlines() if line.startswith("Sinkhorn"))
    assert row.count("!") == 2
    assert "raise --max-iterations (1) or --epsilon (0.0001)" in finished.stderr
    report = json.loads(otmetrics("score", *paths, *starved, "--json").stdout)
    assert report["scores"]["sinkhorn_divergence"]["converged"] is False
    assert report["scores"]["sinkhorn_divergence"]["floor"]["converged"] is False
    assert report["scores"]["wasserstein"]["converged"] is True


def test_floor_that_did_not_converge_is_not_blamed_on_the_value(otmetrics, tmp_path):
    # Equal clouds converge at once, their halves not within 20 iterations at this epsilon.
    path = write_features(tmp_path / "a.npy", 60, seed=1)
    finished = otmetrics("score", path, path, "--max-iterations", "20", "--epsilon", "0.01")
    assert finished.code == 4
    row = next(line for line in finished.stdout.splitlines() if line.startswith("Sinkhorn"))
    assert row.split()[-1] == "!"
    assert row.count("!") == 1
    assert "real and fake are the same input" in finished.stderr


def test_options_reach_the_solvers(otmetrics, features):
    options = ("--num-projections", "7", "--num-neighbors", "3", "--epsilon", "0.5")
    report = scores(otmetrics("score", *features, *options, "--json"))
    used = report["protocol"]["scoring"]
    assert used["sliced"]["num_projections"] == 7
    assert used["num_neighbors"] == 3
    assert used["sinkhorn"]["epsilon"] == 0.5
    plain = scores(otmetrics("score", *features, "--json"))["scores"]
    for name in ("sliced_wasserstein", "sinkhorn_divergence", "density"):
        assert report["scores"][name]["value"] != plain[name]["value"]


def test_directions_are_added_until_the_error_is_small(otmetrics, features):
    few = ("--metrics", "sliced_wasserstein", "--num-projections", "32")
    found = scores(otmetrics("score", *features, *few, "--tolerance", "0.002", "--json"))
    score = found["scores"]["sliced_wasserstein"]
    assert score["standard_error"] <= 0.002 * score["value"]
    plain = scores(otmetrics("score", *features, *few, "--json"))["scores"]["sliced_wasserstein"]
    assert plain["standard_error"] > 0.002 * plain["value"]
    starved = ("--tolerance", "1e-6", "--max-projections", "64")
    finished = otmetrics("score", *features, *few, *starved)
    assert finished.code == 4
    assert "raise it or --max-projections (64)" in finished.stderr
    assert "options here: --num-projections, --tolerance, --max-projections" in finished.stderr


def test_the_table_tells_how_a_distance_was_estimated(otmetrics, features):
    finished = otmetrics("score", *features, "--richardson", "--tolerance", "0.05")
    assert finished.code == 0
    assert "1024 directions and more to an error of 5 %" in finished.stdout
    assert "of the mean cost, extrapolated" in finished.stdout


def test_options_that_exclude_each_other_are_named_as_flags(otmetrics, features):
    finished = otmetrics("score", *features, "--debiased", "--tolerance", "0.1")
    assert finished.code == 2
    assert "--tolerance must be None with --debiased, whose value may be 0." in finished.stderr


def test_a_debiased_distance_is_squared_so_that_floors_subtract(otmetrics, features):
    options = ("--metrics", "sliced_wasserstein", "--debiased")
    finished = otmetrics("score", *features, *options)
    assert finished.code == 0
    assert "sliced, squared" in finished.stdout
    assert "1024 directions along split halves" in finished.stdout
    found = scores(otmetrics("score", *features, *options, "--json"))["scores"]
    real, fake = (torch.from_numpy(np.load(path)) for path in features)
    expected = Sliced(debiased=True).solve(real, fake)
    score = found["sliced_wasserstein"]
    assert score["value"] == pytest.approx(float(expected.cost))
    error = 2 * abs(float(expected.value)) * float(expected.standard_error)
    assert score["standard_error"] == pytest.approx(error)
    floor = score["floor"]
    assert floor["excess"] == pytest.approx(floor["at_floor_size"] - floor["value"])
    assert otmetrics("score", *features, *options, "--tolerance", "0.1").code == 2


SLOW = """
import pathlib, time
import torch

class Network(torch.nn.Module):
    def forward(self, images):
        pathlib.Path("begun").touch()
        time.sleep(60)
        return images.flatten(1)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_interrupt_ends_cleanly(forks, tmp_path):
    """Amid extraction."""
    folder = write_images(tmp_path / "images", 8, seed=1)
    (tmp_path / "slow.py").write_text(SLOW)
    options = ("--features", "module:slow:Network", "--runtime", "torch")
    process = forks.start("otmetrics", "score", folder, folder, *options, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=50)
    assert process.returncode == 130
    assert stdout == ""
    assert "interrupted" in stderr
    assert "Traceback" not in stderr


def test_reader_that_leaves_is_no_error(tmp_path):
    paths = [write_features(tmp_path / f"{i}.npy", 20, seed=i) for i in range(2)]
    command = f"'{sys.executable}' -m otmetrics score {paths[0]} {paths[1]} -q | head -n 1"
    finished = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert finished.stdout.startswith("score")
    assert finished.stderr == ""


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX terminal")
def test_table_on_a_terminal_fits_80_columns(features):
    output = on_a_terminal(["score", *map(str, features), "-q"], columns=80)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output)
    table = [line for line in text.splitlines() if "↓" in line and "interval:" not in line]
    assert len(table) == 5, "one line a distance: nothing wraps"
    assert "─" in text
    assert "\x1b[1m" in output


def test_output_survives_a_narrow_encoding(features):
    """Of a process from its start, which chooses how it encodes."""
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-m", "otmetrics", "score", *features, "-q"]
    finished = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert b"exact Wasserstein" in finished.stdout


def test_json_survives_names_that_are_no_text(otmetrics, tmp_path):
    names = [os.fsdecode(f"{side}\xff.npy".encode("latin-1")) for side in ("real", "fake")]
    for seed, name in enumerate(names):
        write_features(tmp_path / name, 20, seed=seed)
    target = tmp_path / "scores.json"
    finished = otmetrics("score", *(tmp_path / name for name in names), "--json", target, "-q")
    assert finished.code == 0, finished.stderr
    assert json.loads(target.read_text())["protocol"]["inputs"]["real"]["used"] == 20


def test_bug_in_the_users_network_keeps_its_traceback(forks, tmp_path):
    folder = write_images(tmp_path / "folder", 8, seed=1)
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, images):\n"
        "        raise ValueError('my own bug')\n"
    )
    options = ("--features", "module:mine:Net", "-q")
    process = forks.start("otmetrics", "score", folder, folder, *options, cwd=tmp_path)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert "Traceback" in stderr
    assert "my own bug" in stderr
