"""The other commands: help, extract, features, demo."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from command import write_images

FEATURES = ["--features", "pixels"]


@pytest.mark.parametrize("command", [[], ["score"], ["extract"], ["features"], ["demo"]])
def test_help_teaches(otmetrics, command):
    finished = otmetrics(*command, "--help")
    assert finished.code == 0
    assert finished.stdout.startswith("Usage: otmetrics")
    for line in finished.stdout.splitlines():
        assert len(line) <= 100


def test_version(otmetrics):
    assert otmetrics("--version").stdout.startswith("otmetrics 0.")


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['otmetrics', '--help']\n"
        "from otmetrics.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'timm', 'rich', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_features_lists_every_extractor(otmetrics):
    from otmetrics.features import EXTRACTORS

    finished = otmetrics("features")
    assert finished.code == 0
    for name in EXTRACTORS:
        assert name in finished.stdout
    default = next(line for line in finished.stdout.splitlines() if "efficientnet" in line)
    assert default.split()[4] == "yes"


def test_extract_then_score_equals_score(otmetrics, tmp_path):
    folders = [write_images(tmp_path / name, 20, seed=i) for i, name in enumerate("ab")]
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for folder, file in zip(folders, files, strict=True):
        finished = otmetrics("extract", folder, file, *FEATURES)
        assert finished.code == 0, finished.stderr
        assert "20 x 3072 features of pixels" in finished.stdout
    direct = json.loads(otmetrics("score", *folders, *FEATURES, "--json").stdout)
    for inputs in (files, [files[0], folders[1]]):
        stored = json.loads(otmetrics("score", *inputs, "--json").stdout)
        assert stored["scores"] == direct["scores"]
        assert stored["protocol"]["features"] == direct["protocol"]["features"]


def test_extracted_file_holds_features_and_protocol(otmetrics, tmp_path):
    folder = write_images(tmp_path / "a", 5, seed=0)
    otmetrics("extract", folder, tmp_path / "a.npz", *FEATURES)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as data:
        assert data["features"].shape == (5, 3072)
        protocol = json.loads(str(data["protocol"]))
    assert protocol["extractor"]["extractor"] == "pixels"
    assert protocol["source"]["available"] == 5


def test_different_extractors_are_not_compared(otmetrics, tmp_path):
    folder = write_images(tmp_path / "a", 8, seed=0)
    otmetrics("extract", folder, tmp_path / "bicubic.npz", *FEATURES)
    otmetrics("extract", folder, tmp_path / "tf1.npz", *FEATURES, "--resize", "tf1")
    np.save(tmp_path / "bare.npy", np.zeros((8, 3072)))
    for other in ("tf1.npz", "bare.npy"):
        finished = otmetrics("score", tmp_path / "bicubic.npz", tmp_path / other)
        assert finished.code == 3
        assert "differ in" in finished.stderr
    vouched = ("score", tmp_path / "bicubic.npz", tmp_path / "bare.npy", "--features", "none")
    assert otmetrics(*vouched).code == 0
    named = otmetrics("score", *[tmp_path / "tf1.npz"] * 2, "--features", "efficientnet_lite0")
    assert named.code == 3
    assert "not of `efficientnet_lite0`" in named.stderr


def test_extract_loses_nothing(otmetrics, tmp_path):
    folder = write_images(tmp_path / "a", 3, seed=0)
    target = tmp_path / "a.npz"
    target.write_bytes(b"precious")
    finished = otmetrics("extract", folder, target, *FEATURES)
    assert finished.code == 3
    assert "--overwrite" in finished.stderr
    assert target.read_bytes() == b"precious"
    (folder / "bad.png").write_bytes(b"")
    assert otmetrics("extract", folder, target, *FEATURES, "--overwrite").code == 3
    assert target.read_bytes() == b"precious"
    (folder / "bad.png").unlink()
    assert otmetrics("extract", folder, target, *FEATURES, "--overwrite").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.npz"]


@pytest.mark.parametrize("target", ["a.npy", "missing/a.npz"])
def test_extract_checks_its_target_first(otmetrics, tmp_path, target):
    finished = otmetrics("extract", tmp_path / "nothing", tmp_path / target, *FEATURES)
    assert finished.code == 3
    assert target.split("/")[0] in finished.stderr


def test_demo_shows_dropped_modes(otmetrics, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-x").mkdir()  # looks like an option where it is handed on
    finished = otmetrics("demo", "--out=-x")
    assert finished.code == 0, finished.stderr
    rows = {line[:21].strip(" ↓↑"): line for line in finished.stdout.splitlines()[1:10]}

    def excess(name):
        *_, value, _ = re.split(r"\s{2,}", rows[name])
        return float(value)

    assert excess("recall") < -0.05
    assert excess("coverage") < -0.2
    assert excess("exact Wasserstein") > 1
    assert abs(excess("precision")) < 0.1


def test_notes_survive_extraction(otmetrics, tmp_path):
    png, jpg = (write_images(tmp_path / kind, 10, seed=1, suffix=kind) for kind in ("png", "jpg"))
    (jpg / "bad.jpg").write_bytes(b"")
    for folder in (png, jpg):
        target = tmp_path / f"{folder.name}.npz"
        finished = otmetrics("extract", folder, target, *FEATURES, "--skip-corrupt")
        assert finished.code == 0, finished.stderr
        assert ("bad.jpg" in finished.stderr) == (folder is jpg)
    finished = otmetrics("score", tmp_path / "png.npz", tmp_path / "jpg.npz")
    assert "bad.jpg" in finished.stderr
    assert "file formats differ" in finished.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_extracted_file_obeys_the_umask(otmetrics, tmp_path):
    folder = write_images(tmp_path / "a", 3, seed=0)
    otmetrics("extract", folder, tmp_path / "a.npz", *FEATURES)
    (tmp_path / "plain").write_bytes(b"")
    modes = [(tmp_path / name).stat().st_mode for name in ("a.npz", "plain")]
    assert modes[0] == modes[1]


def test_help_states_the_defaults_of_the_library(otmetrics):
    from otmetrics.scoring.options import METRICS, Scoring

    text = " ".join(otmetrics("score", "--help").stdout.split())
    assert ", ".join(METRICS) in text
    defaults = Scoring()
    for value in (
        defaults.exact_max,
        defaults.num_neighbors,
        defaults.sliced.num_projections,
        defaults.sliced.max_projections,
        defaults.sinkhorn.epsilon,
        defaults.sinkhorn.max_iterations,
    ):
        assert f"Default: {value}." in text


def test_demo_spoils_no_folder_of_the_user(otmetrics, tmp_path):
    mine = write_images(tmp_path / "mine", 3, seed=0)
    finished = otmetrics("demo", "--out", mine)
    assert finished.code == 3
    assert "--out" in finished.stderr
    assert sorted(path.name for path in mine.iterdir()) == ["000.png", "001.png", "002.png"]


def test_files_of_other_kinds_are_counted(otmetrics, tmp_path):
    folder = write_images(tmp_path / "a", 8, seed=0)
    (folder / "b.avif").write_bytes(b"")
    finished = otmetrics("extract", folder, tmp_path / "a.npz", *FEATURES)
    assert "files of other kinds, not read: 1" in finished.stderr


def test_one_image_can_be_extracted_but_not_none(otmetrics, tmp_path):
    folder = write_images(tmp_path / "a", 1, seed=0)
    assert otmetrics("extract", folder, tmp_path / "a.npz", *FEATURES).code == 0
    (folder / "000.png").write_bytes(b"")
    arguments = ("extract", folder, tmp_path / "b.npz", *FEATURES, "--skip-corrupt")
    finished = otmetrics(*arguments)
    assert finished.code == 3
    assert "gives 0 sample(s)" in finished.stderr
    assert not (tmp_path / "b.npz").exists()
