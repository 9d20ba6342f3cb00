"""Presets of CIFAR-10 and CelebA end to end, on small data in the official layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import Runner
from layouts import write_celeba, write_cifar10
from otmetrics.reference_models.presets import PRESETS

RNG = np.random.default_rng(0)
SHORT = ("--steps", 4, "--batch-size", 4, "--width", 8, "--eval-num", 20, "--eval-every", 4)
FEW: dict[str, tuple] = {
    **dict.fromkeys(("wgan", "rot-gan"), ("--no-warm-up",)),  # which is 100 steps at first
    "ae-ot": ("--num-codes", 20),
    "ae-ot-gan": ("--num-codes", 20),
}


@pytest.fixture
def otmetrics(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Runner:
    return Runner(monkeypatch, capsys)


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 images a batch."""
    pixels = RNG.integers(0, 256, (6, 24, 3, 32, 32), np.uint8)
    write_cifar10(tmp_path, monkeypatch, pixels, [index % 10 for index in range(24)])
    return tmp_path


@pytest.fixture
def celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty faces of noise, two thirds of them held out."""
    faces = list(RNG.integers(0, 256, (60, 218, 178, 3), np.uint8))
    write_celeba(tmp_path, monkeypatch, faces, [number % 3 for number in range(60)])
    return tmp_path


def check_run(otmetrics: Runner, name: str, data: str, root: Path, side: int) -> None:
    """Train, sample, and score the samples."""
    out = root / "run"
    arguments = ("train", name, "--data", data, "--data-root", root, "--out", out, *SHORT)
    rest = ("--eval-features", "pixels", "--no-tensorboard", "--quiet")
    finished = otmetrics(*arguments, *rest, *FEW.get(name, ()))
    assert finished.code == 0, finished.stderr
    config = json.loads((out / "config.json").read_text())
    assert config["architecture"] == "resnet"
    assert config["preset"] == name
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == 4
    assert otmetrics("sample", out, root / "fake.npz", "--num", 8).code == 0
    images = np.load(root / "fake.npz")["images"]
    assert images.shape == (8, side, side, 3)
    assert len(np.unique(images.reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize("name", PRESETS)
def test_cifar10(name: str, otmetrics: Runner, cifar10: Path) -> None:
    check_run(otmetrics, name, "cifar10", cifar10, 32)


@pytest.mark.parametrize("name", PRESETS)
def test_celeba(name: str, otmetrics: Runner, celeba: Path) -> None:
    check_run(otmetrics, name, "celeba", celeba, 64)
