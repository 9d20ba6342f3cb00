"""`otmetrics train`, `sample`, `evaluate` and `models` as their users type them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Finished
from otmetrics.reference_models import saving, training
from otmetrics.reference_models.presets import PRESETS
from otmetrics.reference_models.saving import load_generator
from PIL import Image

from otmetrics.errors import DataError

TINY = ("--steps", 8, "--batch-size", 16, "--width", 8, "--eval-num", 40, "--eval-every", 4)


@pytest.fixture(scope="module")
def digits(forks, tmp_path_factory):
    """A run on scikit-learn's digits, by another process: signals and streams are its own."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    process = forks.start("otmetrics", "train", "swg", "--data", "digits", "--out", out, *TINY)
    finished = Finished(process.wait(), *process.communicate())
    assert finished.code == 0, finished.stderr
    return out, finished


def test_a_run_leaves_all_that_belongs_to_it(digits):
    out, finished = digits
    assert "8 steps of swg on digits; best at" in finished.stdout
    assert "sliced_wasserstein" in finished.stdout
    assert "sliced_wasserstein on fresh samples: " in finished.stdout
    assert "8/8" in finished.stderr
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "config.json",
        "checkpoint.pt",
        "best.pt",
        "generator.safetensors",
        "log.jsonl",
        "log.csv",
        "losses.png",
        "scores.png",
        "samples",
        "tensorboard",
    }
    assert not [name for name in names if name.endswith(".partial")]
    for path in (out / "losses.png", out / "scores.png", *(out / "samples").iterdir()):
        with Image.open(path) as image:
            image.load()
            assert np.asarray(image).std() > 0
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == set(range(1, 9))
    table = (out / "log.csv").read_text().splitlines()
    assert len(table) == len(rows) + 1
    assert "critic_loss" in table[0]
    assert "score/recall" in table[0]


def test_samples_go_straight_into_score(otmetrics, digits, tmp_path):
    out, _ = digits
    finished = otmetrics("sample", out, tmp_path / "fake", "--num", 30)
    assert finished.code == 0
    assert finished.stdout.strip().endswith("30 images")
    assert otmetrics("sample", out, tmp_path / "fake.npz", "--num", 30).code == 0
    images = np.load(tmp_path / "fake.npz")["images"]
    assert images.shape == (30, 8, 8, 1)
    assert images.dtype == np.uint8
    files = sorted((tmp_path / "fake").iterdir())
    assert len(files) == 30
    for path, image in zip(files, images, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), image[..., 0])
    few = otmetrics("sample", out, tmp_path / "few.npz", "--num", 5)
    assert few.code == 0
    assert np.array_equal(np.load(tmp_path / "few.npz")["images"], images[:5])
    scored = otmetrics(
        "score", tmp_path / "fake", tmp_path / "fake.npz", "--features", "pixels", "--json"
    )
    assert scored.code == 0
    scores = json.loads(scored.stdout)["scores"]
    assert scores["wasserstein"]["value"] == pytest.approx(0, abs=1e-6)


def test_points_are_in_their_own_coordinates(otmetrics, tmp_path):
    out = tmp_path / "run"
    options = (*TINY, "--noise", "normal", "--lr-generator", 0.01)
    finished = otmetrics("train", "exact-ot", "--data", "grid25", "--out", out, *options, "-q")
    assert finished.code == 0, finished.stderr
    assert finished.stderr == ""
    assert otmetrics("sample", out, tmp_path / "fake.npz", "--num", 500).code == 0
    fake = np.load(tmp_path / "fake.npz")["features"]
    assert fake.shape == (500, 2)
    assert fake.dtype == np.float64
    # The networks' unit is the standard deviation of the mixture: its modes have 8 on an axis.
    sampler, _, _ = load_generator(out)
    noise = sampler.prior.sample(100, torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = sampler.generator(noise).double().numpy()
    np.testing.assert_allclose(fake[:100], outputs * np.sqrt(8 + 0.05**2), rtol=1e-5, atol=1e-7)
    real = tmp_path / "real.npy"
    np.save(real, np.random.default_rng(0).normal(0, 3, (500, 2)))
    assert otmetrics("score", real, tmp_path / "fake.npz", "--metrics", "wasserstein").code == 0
    refused = otmetrics("sample", out, tmp_path / "folder")
    assert refused.code == 2
    assert "must end in .npz for points" in refused.stderr


def test_a_twelfth_of_the_first_run_finds_all_modes(otmetrics, tmp_path):
    """What README trains, 1000 steps of it; all of them make nearly every sample a good one."""
    out = tmp_path / "run"
    options = ("--steps", 1000, "--eval-every", 1000, "--no-tensorboard", "-q")
    assert otmetrics("train", "wgan-gp", "--data", "ring8", "--out", out, *options).code == 0
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["score/modes"] == 8
    assert rows[-1]["score/modes_kl"] < 0.05
    assert rows[-1]["score/high_quality"] > 0.4


def test_evaluate_has_floors_and_modes(otmetrics, tmp_path):
    out = tmp_path / "run"
    assert otmetrics("train", "swg", "--data", "ring8", "--out", out, *TINY, "-q").code == 0
    finished = otmetrics("evaluate", out)
    assert finished.code == 0
    assert "sliced Wasserstein" in finished.stdout
    assert "floor: the score between" in finished.stdout
    assert "modes: " in finished.stdout
    report = json.loads(otmetrics("evaluate", out, "--json").stdout)
    assert report["modes"]["num_modes"] == 8
    assert not [note for note in report["notes"] if "same input" in note]
    other = otmetrics("evaluate", out, "--data", "grid25")
    assert other.code == 2
    assert "--data must be ring8" in other.stderr
    report = json.loads(otmetrics("evaluate", out, "--json").stdout)
    assert report["scores"]["recall"]["floor"] is not None


def test_a_decoder_is_trained_sampled_and_evaluated_as_any_other(otmetrics, tmp_path):
    """With what its codes say; a resumed run has the options of its objective."""
    out = tmp_path / "run"
    few = ("--num-codes", 30, "--angle", 2.0)
    command = ("train", "ae-ot-gan", "--data", "ring8", "--out", out)
    finished = otmetrics(*command, *TINY, *few)
    assert finished.code == 0, finished.stderr
    report = otmetrics("evaluate", out)
    assert report.code == 0
    assert "mean squared error of held-out samples" in report.stdout
    assert "of the noise kept" in report.stdout
    assert "samples between codes of one class" in report.stdout
    codes = json.loads(otmetrics("evaluate", out, "--json").stdout)["codes"]
    assert 0 < codes["kept"] <= 1
    assert codes["purity"] <= 1
    assert otmetrics("sample", out, tmp_path / "fake.npz", "--num", 150).code == 0
    fake = np.load(tmp_path / "fake.npz")["features"]
    assert fake.shape == (150, 2)
    assert len(np.unique(fake, axis=0)) > 140  # of so narrow a decoder some may agree
    assert otmetrics(*command, "--resume", "-q").code == 0
    refused = otmetrics(*command, "--resume", "--angle", 3.0)
    assert refused.code == 2
    assert "angle 2.0 -> 3.0" in refused.stderr
    few = ("--autoencoder-share", 0.99)
    short = otmetrics("train", "ae-ot-gan", "--data", "ring8", "--out", tmp_path / "o", *TINY, *few)
    assert short.code == 2
    assert "--steps must be above the" in short.stderr
    assert not (tmp_path / "o").exists()
    no_codes = json.loads((out / "config.json").read_text())
    assert no_codes["objective"]["num_codes"] == 30


def test_models_and_help_tell_what_there_is(otmetrics):
    table = "".join(otmetrics("models").stdout.split())
    for name, preset in PRESETS.items():
        assert f"{name}{preset.minutes['points']:.1f}" in table
        assert "".join(preset.paper.split()) in table
        help_text = "".join(otmetrics("train", name, "--help").stdout.split())
        assert "".join(preset.loss.split()) in help_text  # lines break at hyphens too
        assert "--batch-size" in help_text
    text = otmetrics("train", "wgan-gp", "--help").stdout
    assert "lambda E (|grad f(z)| - 1)^2" in text
    assert "Ours: the penalty is float32" in text
    regression = " ".join(otmetrics("train", "wgan-qc", "--help").stdout.split())
    assert "L_D = 1/2 (mean D(x) - mean f)^2" in regression
    assert "L_G = -E D(y)" in regression
    assert "--penalty" in text
    settings = otmetrics("models", "wgan-gp").stdout
    assert "steps" in settings
    assert "points" in settings


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "wgan-gq", "--data", "ring8", "--out", "{new}"], 2, "did you mean wgan-"),
        (["train", "swg", "--out", "{new}"], 2, "--data"),
        (["train", "swg", "--data", "ring9", "--out", "{new}"], 2, "did you mean ring8"),
        (["train", "swg", "--data", "mnist", "--out", "{new}"], 2, "--data-root"),
        (["train", "swg", "--data", "ring8", "--out", "{new}", "--steps", "0"], 2, "--steps must"),
        (["train", "swg", "--data", "ring8", "--out", "{new}", "--penalty", "1"], 2, "--penalty"),
        (["train", "wgan-gp", "--data", "ring8", "--out", "{new}", "--penalty", "-1"], 2, "--pen"),
        (["train", "swg", "--data", "ring8", "--out", "{file}/run"], 3, "cannot be written"),
        (["train", "swg", "--data", "ring8", "--out", "{new}", "--log-every", "-1"], 2, "--log"),
        (["train", "swg", "--data", "digits", "--out", "{new}", "--eval-features", "x"], 2, "`x`"),
        (["train", "swg", "--data", "ring8", "--out", "{new}", "--device", "cuda"], 2, "as torch"),
        (["sample", "{new}", "{new}.npz"], 3, "does not exist"),
        (["sample", "{new}", "{new}.npz", "--num", "0"], 2, "--num must be"),
        (["sample", "{file}", "{new}.npz"], 3, "generator of this version"),
        (["evaluate", "{new}"], 3, "does not exist"),
    ],
)
def test_bad_input_is_one_line_and_a_code(otmetrics, tmp_path, arguments, code, words):
    places = {"new": tmp_path / "new", "file": tmp_path / "file"}
    places["file"].write_text("no run")
    finished = otmetrics(*(argument.format(**places) for argument in arguments))
    assert finished.code == code
    assert words in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not places["new"].exists()


@pytest.mark.parametrize(
    ("preset", "options", "words"),
    [
        ("ot-gan", ("--cost", "cosine", "--order", 1), '--order must be 2 for --cost "cosine"'),
        ("rot-gan", ("--cost", "cosine"), '--self-terms must be True for --cost "cosine"'),
        ("swg", ("--width", 1_000_000), "--width 1000000 and --latent"),
        ("swg", ("--architecture", "dcgan"), "--architecture must be mlp for samples of shape"),
        ("ae-ot", ("--angle", 1e-7, "--max-rounds", 0), "--angle 1e-07 keeps"),
    ],
)
def test_options_are_told_as_flags(otmetrics, tmp_path, preset, options, words):
    own = ("--num-codes", 30) if preset == "ae-ot" else ()
    finished = otmetrics(
        *("train", preset, "--data", "ring8", "--out", tmp_path / "run", "-q"),
        *("--no-tensorboard", "--steps", 2, "--batch-size", 8, *own, *options),
    )
    assert finished.code == 2
    assert words in finished.stderr


def test_resume_takes_the_options_of_the_run(otmetrics, tmp_path):
    arguments = ("train", "swg", "--data", "ring8", "--out", tmp_path / "run", "-q")
    assert otmetrics(*arguments, *TINY, "--num-projections", 7).code == 0
    again = otmetrics(*arguments, "--resume")
    assert again.code == 0, again.stderr
    assert "8 steps of swg" in again.stdout
    more = otmetrics(*arguments, "--resume", "--steps", 10)
    assert more.code == 2
    assert "steps 8 -> 10" in more.stderr
    longer = otmetrics(*arguments, "--resume", "--steps", 10, "--allow-change")
    assert "10 steps of swg" in longer.stdout
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    assert (config["steps"], config["batch_size"]) == (10, 16)
    assert config["objective"]["num_projections"] == 7
    # What another version of the package may have written.
    file.write_text(json.dumps(config | {"gone": 1, "objective": config["objective"] | {"old": 2}}))
    assert otmetrics(*arguments, "--resume").code == 0


def test_resume_takes_the_data_of_the_run_unless_it_is_a_path(otmetrics, tmp_path):
    ring, own = tmp_path / "ring", tmp_path / "own"
    few = (*TINY, "--steps", 2, "-q", "--no-tensorboard")
    assert otmetrics("train", "swg", "--data", "ring8", "--out", ring, *few).code == 0
    again = otmetrics("train", "swg", "--out", ring, "--resume", "-q", "--no-tensorboard")
    assert again.code == 0, again.stderr
    assert "2 steps of swg on ring8" in again.stdout

    path = tmp_path / "points.npz"
    np.savez(path, np.random.default_rng(0).normal(size=(400, 2)))
    assert otmetrics("train", "swg", "--data", f"npz:{path}", "--out", own, *few).code == 0
    refused = otmetrics("train", "swg", "--out", own, "--resume")
    assert refused.code == 2
    assert f"nothing is read on its word: name the data yourself, with --data npz:{path}" in (
        refused.stderr
    )

    nothing = otmetrics("train", "swg", "--out", tmp_path / "none", "--resume")
    assert nothing.code == 2
    assert "Missing option '--data'" in nothing.stderr


def test_a_run_of_another_preset_is_told_as_one(otmetrics, tmp_path):
    out = tmp_path / "run"
    few = (*TINY, "--steps", 2, "-q", "--no-tensorboard")
    assert otmetrics("train", "exact-ot", "--data", "ring8", "--out", out, *few).code == 0
    refused = otmetrics("train", "swg", "--data", "ring8", "--out", out, "--resume")
    assert refused.code == 2
    told = f"`{out}` is a run of exact-ot: use `train exact-ot`, or another --out."
    assert refused.stderr == f"error: {told}\n"


def test_resume_says_what_changed(otmetrics, digits):
    out, _ = digits
    arguments = ("train", "swg", "--data", "digits", "--out", out, *TINY)
    assert otmetrics(*arguments).code == 2
    changed = otmetrics(*arguments, "--resume", "--seed", 1)
    assert changed.code == 2
    assert "seed 0 -> 1" in changed.stderr
    assert "--allow-change" in changed.stderr
    assert otmetrics(*arguments, "--resume", "-q").code == 0


def test_samples_replace_nothing(otmetrics, digits, tmp_path):
    out, _ = digits
    (tmp_path / "fake.partial").mkdir()
    (tmp_path / "fake.partial" / "mine.txt").write_text("mine")
    assert otmetrics("sample", out, tmp_path / "fake", "--num", 3).code == 0
    assert (tmp_path / "fake.partial" / "mine.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"fake", "fake.partial"}
    for target, code, words in (
        ("fake", 3, "or pass --overwrite"),
        ("x.npy", 2, "end in .npz"),
        ("no/x.npz", 3, "create it first"),
    ):
        finished = otmetrics("sample", out, tmp_path / target)
        assert finished.code == code
        assert words in finished.stderr


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), KeyboardInterrupt()])
def test_an_error_while_samples_are_replaced_loses_none(digits, tmp_path, monkeypatch, error):
    out, _ = digits
    target = tmp_path / "fake"
    saving.write_samples(out, target, num=3)
    rename = Path.rename

    def failing(self, other):
        if self.name == "samples":
            raise error
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(DataError if isinstance(error, OSError) else KeyboardInterrupt):
        saving.write_samples(out, target, num=2, overwrite=True)
    assert len(list(target.iterdir())) == 3
    assert list(tmp_path.iterdir()) == [target]


def test_what_only_looks_like_samples_is_not_replaced(otmetrics, digits, tmp_path):
    out, _ = digits
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.png").write_bytes(b"mine")
    np.savez(tmp_path / "mine.npz", features=np.zeros(3), protocol=np.zeros(1))
    (tmp_path / "text.npz").write_text("mine")
    for name in ("photos", "mine.npz", "text.npz"):
        refused = otmetrics("sample", out, tmp_path / name, "--num", 2, "--overwrite")
        assert refused.code == 3
        assert "is not samples of a run alone" in refused.stderr


def test_help_of_presets_has_no_list_of_papers(otmetrics):
    for preset in ("rot-gan", "wgan-gp"):
        told = otmetrics("train", preset, "--help").stdout
        assert "References:" not in told
        assert "--batch-size" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), ""),
        (("--eval-features", "pixels"), ""),
        (("--eval-features", "module:a:net"), " --eval-features module:a:net"),
        (
            ("--eval-features", "inception", "--download"),
            " --eval-features inception --download",
        ),
    ],
)
def test_the_command_that_goes_on_names_an_evaluator_that_a_folder_may_not_choose(
    otmetrics, tmp_path, monkeypatch, options, told
):
    def stopped(*args, **options):
        raise KeyboardInterrupt("saved")

    monkeypatch.setattr(training, "train", stopped)
    finished = otmetrics(
        *("train", "dcgan", "--data", "digits", "--out", tmp_path / "run"), *options, "-q"
    )
    command = f"otmetrics train dcgan --out {tmp_path / 'run'} --resume{told}"
    assert finished.stderr.splitlines()[-1] == f"interrupted: saved; go on with: {command}"


def test_samples_replace_samples_alone(otmetrics, digits, tmp_path):
    out, _ = digits
    for name, num in (("fake", 3), ("fake", 2), ("fake.npz", 3), ("fake.npz", 2)):
        arguments = ("sample", out, tmp_path / name, "--num", num, "--overwrite")
        assert otmetrics(*arguments).code == 0
    assert len(list((tmp_path / "fake").iterdir())) == 2
    assert np.load(tmp_path / "fake.npz")["images"].shape[0] == 2
    (tmp_path / "fake" / "mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "fake.npz")
    for name in ("fake", "link"):
        refused = otmetrics("sample", out, tmp_path / name, "--num", 2, "--overwrite")
        assert refused.code == 3
        assert "is not samples of a run alone" in refused.stderr
    assert len(list((tmp_path / "fake").iterdir())) == 3


def test_other_samples_under_the_same_name_are_another_run(otmetrics, tmp_path):
    points, moved = tmp_path / "points.npz", tmp_path / "moved.npz"
    np.savez(points, np.random.default_rng(0).normal(size=(400, 3)))
    name = ("--data", f"npz:{points}")
    arguments = ("train", "exact-ot", *name, "--out", tmp_path / "run", *TINY, "-q")
    assert otmetrics(*arguments).code == 0
    points.rename(moved)
    assert otmetrics("evaluate", tmp_path / "run", *name).code == 3
    finished = otmetrics("evaluate", tmp_path / "run", "--data", f"npz:{moved}", "--device", "cpu")
    assert finished.code == 0, finished.stderr
    flat = otmetrics("evaluate", tmp_path / "run", "--data", "ring8")
    assert flat.code == 2
    assert "--data must have samples of shape (3,)" in flat.stderr
    np.savez(points, np.random.default_rng(1).normal(size=(400, 3)))
    refused = otmetrics(*arguments, "--resume")
    assert refused.code == 2
    assert "was made with other samples under the name of --data" in refused.stderr
    assert otmetrics(*arguments, "--resume", "--allow-change").code == 0


def test_a_folder_is_evaluated_at_the_size_of_the_run(otmetrics, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (150, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    (tmp_path / "folder").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "folder" / f"{number:03d}.png")
    few = (*TINY, "--steps", 1, "--eval-features", "pixels", "-q")
    for made, other in (
        ("npz:{}/images.npz", "folder:{}/folder"),
        ("folder:{}/folder", "npz:{}/images.npz"),
    ):
        out = tmp_path / made[:3]
        size = ("--size", 32) if made.startswith("folder") else ()
        run = otmetrics("train", "swg", "--data", made.format(tmp_path), "--out", out, *few, *size)
        assert run.code == 0, run.stderr
        scored = otmetrics("evaluate", out, "--data", other.format(tmp_path))
        assert scored.code == 0, scored.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "is_fork"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_a_run_that_is_interrupted_keeps_its_last_step(forks, tmp_path, number, is_fork):
    out = tmp_path / "run"
    options = ["--batch-size", "16", "--width", "8", "--eval-num", "40", "--steps", "1000000"]
    command = ["otmetrics", "train", "exact-ot", "--data", "ring8", "--out", out, *options]
    command += ["--log-every", "1"]
    if is_fork:
        process = forks.start(*command)
    else:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, command)],
            stderr=subprocess.PIPE,
            text=True,
            # A background shell hands down an ignored SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    log, deadline = out / "log.jsonl", time.monotonic() + 180
    try:
        while not log.exists() or len(log.read_text().splitlines()) < 20:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert saving.load(out / saving.LAST)["step"] == steps[-1] < 50_000
    command = f"otmetrics train exact-ot --out {out} --resume"
    assert f"interrupted: `{out}` is saved up to step {steps[-1]}; go on with: {command}" in stderr


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_process_that_is_killed_goes_on_to_the_same_weights(otmetrics, forks, tmp_path):
    """SIGKILL, which nothing can catch, at a moment of the run's own."""
    command = ["train", "wgan-gp", "--data", "ring8", "-q"]
    options = ["--batch-size", "16", "--width", "8", "--eval-num", "40", "--steps", "150"]
    options += ["--eval-every", "50", "--checkpoint-every", "5", "--no-tensorboard"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert otmetrics(*command, "--out", whole, *options).code == 0
    process = forks.start("otmetrics", *command, "--out", killed, *options)
    log = killed / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (killed / saving.LAST).exists() or len(log.read_text().splitlines()) < 40:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped = torch.load(killed / saving.LAST, weights_only=True)["step"]
    assert stopped < 150
    assert otmetrics(*command, "--out", killed, *options, "--resume").code == 0
    one, two = (torch.load(out / saving.LAST, weights_only=True) for out in (whole, killed))
    for name in ("generator", "average", "networks"):
        for key, value in one[name].items():
            assert torch.equal(value, two[name][key])
    assert one["best"] == two["best"]


def test_a_run_outlives_the_reader_of_its_progress(tmp_path):
    """As in `otmetrics train ... 2>&1 | head`."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "otmetrics", "train", "exact-ot", "--data", "ring8"]
    options = (*TINY, "--log-every", 1, "--no-tensorboard")
    process = subprocess.Popen(
        [*map(str, (*command, "--out", out, *options))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"FORCE_COLOR": "1"},
    )
    process.stderr.close()
    with process.stdout as stream:
        stdout = stream.read()
    assert process.wait() == 0
    assert "8 steps of exact-ot on ring8" in stdout
    assert saving.load(out / saving.LAST)["step"] == 8


def test_a_run_without_a_checkpoint_begins_anew_with_its_options(otmetrics, tmp_path):
    out = tmp_path / "run"
    command = ("train", "exact-ot", "--data", "ring8", "--out", out)
    assert otmetrics(*command, *TINY, "-q", "--no-tensorboard").code == 0
    before = saving.load(out / saving.LAST)
    for name in (saving.LAST, saving.BEST, "generator.safetensors"):
        (out / name).unlink()
    refused = otmetrics(*command, *TINY)
    assert refused.code == 2
    assert "stopped before its first checkpoint: set --resume to begin it again" in refused.stderr
    again = otmetrics(*command, "--resume", "--no-tensorboard")
    assert again.code == 0
    assert "has no checkpoint: the run starts from step 0" in " ".join(again.stderr.split())
    after = saving.load(out / saving.LAST)
    assert after["config"] == before["config"]
    pairs = zip(after["generator"].values(), before["generator"].values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_a_damaged_run_is_one_line(otmetrics, tmp_path):
    """Of a run that is whole, `config.json` is only a copy of what the checkpoint has."""
    out = tmp_path / "run"
    command = ("train", "exact-ot", "--data", "ring8", "--out", out)
    assert otmetrics(*command, *TINY, "-q", "--no-tensorboard").code == 0
    config = out / "config.json"
    whole = config.read_text()
    for content in (whole.replace('"steps": 8', '"steps": 9'), "{", "[]", '{"preset": []}'):
        config.write_text(content)
        assert otmetrics(*command, "--resume", "-q", "--no-tensorboard").code == 0
        assert config.read_text() == whole
    for name, commands in {
        saving.LAST: [(*command, "--resume")],
        saving.BEST: [(*command, "--resume")],
        "generator.safetensors": [("evaluate", out), ("sample", out, tmp_path / "fake.npz")],
    }.items():
        content = bytearray((out / name).read_bytes())
        content[-400] ^= 4
        (out / name).write_bytes(content)
        for arguments in commands:
            finished = otmetrics(*arguments)
            assert finished.code == 3
            assert finished.stdout == ""
            assert f"{name}` is not" in finished.stderr
            assert len(finished.stderr.splitlines()) == 1
        content[-400] ^= 4
        (out / name).write_bytes(content)
