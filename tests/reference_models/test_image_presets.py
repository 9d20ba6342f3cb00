"""Presets of CIFAR-10 and CelebA end to end, on small data in the official layouts."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from command import Runner
from otmetrics.reference_models.presets import PRESETS
from PIL import Image

RNG = np.random.default_rng(0)
SHORT = ("--steps", 20, "--batch-size", 4, "--width", 8, "--eval-num", 20, "--eval-every", 20)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def otmetrics(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Runner:
    return Runner(monkeypatch, capsys)


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 images a batch, with torchvision's checksums replaced by theirs."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for name in names:
        pixels = RNG.integers(0, 256, (24, 3072), np.uint8)
        content = {"data": pixels, "labels": [index % 10 for index in range(24)]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5(folder / name)] for name in names[:-1]])
    monkeypatch.setattr(CIFAR10, "test_list", [[names[-1], md5(folder / names[-1])]])
    meta = CIFAR10.meta | {"md5": md5(folder / "batches.meta")}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return tmp_path


@pytest.fixture
def celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty faces of noise, half of them held out."""
    from torchvision.datasets import CelebA

    folder = tmp_path / CelebA.base_folder
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(1, 61)]
    for name in names:
        face = RNG.integers(0, 256, (218, 178, 3), np.uint8)
        Image.fromarray(face).save(folder / "img_align_celeba" / name)
    table = {
        "list_eval_partition.txt": ([], [[number % 3] for number in range(60)]),
        "identity_CelebA.txt": ([], [[number] for number in range(60)]),
        "list_bbox_celeba.txt": (["60", "image_id x_1 y_1 width height"], [[1, 2, 3, 4]] * 60),
        "list_landmarks_align_celeba.txt": (["60", "lefteye_x lefteye_y"], [[69, 111]] * 60),
        "list_attr_celeba.txt": (["60", "Bald Smiling"], [[-1, 1]] * 60),
    }
    for file, (head, rows) in table.items():
        lines = [f"{name} {' '.join(map(str, row))}" for name, row in zip(names, rows, strict=True)]
        (folder / file).write_text("\n".join([*head, *lines]) + "\n")
    sums = [("id", md5(folder / file), file) for file in table]
    monkeypatch.setattr(CelebA, "file_list", [("id", "0", "img_align_celeba.zip"), *sums])
    return tmp_path


def check_run(otmetrics: Runner, name: str, data: str, root: Path, side: int) -> None:
    """Train, sample, and score the samples."""
    out = root / "run"
    arguments = ("train", name, "--data", data, "--data-root", root, "--out", out, *SHORT)
    rest = ("--eval-features", "pixels", "--no-tensorboard", "--quiet")
    few = ("--no-warm-up",) if name in ("wgan", "rot-gan") else ()  # which is 100 steps at first
    finished = otmetrics(*arguments, *rest, *few)
    assert finished.code == 0, finished.stderr
    config = json.loads((out / "config.json").read_text())
    assert config["architecture"] == "resnet"
    assert config["preset"] == name
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == 20
    assert otmetrics("sample", out, root / "fake.npz", "--num", 8).code == 0
    images = np.load(root / "fake.npz")["images"]
    assert images.shape == (8, side, side, 3)
    assert len(np.unique(images.reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize("name", PRESETS)
def test_cifar10(name: str, otmetrics: Runner, cifar10: Path) -> None:
    check_run(otmetrics, name, "cifar10", cifar10, 32)


@pytest.mark.parametrize("name", ["sngan", "wgan-gp", "swg", "rot-gan", "ot-gan"])
def test_celeba(name: str, otmetrics: Runner, celeba: Path) -> None:
    check_run(otmetrics, name, "celeba", celeba, 64)
