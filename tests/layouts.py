"""CIFAR-10 and CelebA in small, in the layouts that torchvision reads."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def write_cifar10(
    root: Path, monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray, labels: list[int]
) -> None:
    """Five training batches and one of tests, with torchvision's checksums replaced by theirs.

    Args:
        root: The folder of the data.
        monkeypatch: Replaces the checksums.
        pixels: uint8 (6, N, 3, 32, 32).
        labels: N classes, of each batch.
    """
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir()
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for name, images in zip(names, pixels, strict=True):
        content = {"data": images.reshape(len(images), -1), "labels": labels}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5(folder / name)] for name in names[:-1]])
    monkeypatch.setattr(CIFAR10, "test_list", [[names[-1], md5(folder / names[-1])]])
    meta = CIFAR10.meta | {"md5": md5(folder / "batches.meta")}
    monkeypatch.setattr(CIFAR10, "meta", meta)


def write_celeba(
    root: Path, monkeypatch: pytest.MonkeyPatch, faces: list[np.ndarray], parts: list[int]
) -> None:
    """Aligned faces and their tables, with torchvision's checksums replaced by theirs.

    Args:
        root: The folder of the data.
        monkeypatch: Replaces the checksums.
        faces: uint8 (218, 178, 3) each.
        parts: 0 for training, 1 for validation, 2 for tests, of each face.
    """
    from torchvision.datasets import CelebA

    folder, num = root / CelebA.base_folder, len(faces)
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(1, num + 1)]
    for name, face in zip(names, faces, strict=True):
        Image.fromarray(face).save(folder / "img_align_celeba" / name, quality=95)
    table = {
        "list_eval_partition.txt": ([], [[part] for part in parts]),
        "identity_CelebA.txt": ([], [[number] for number in range(num)]),
        "list_bbox_celeba.txt": ([num, "image_id x_1 y_1 width height"], [[1, 2, 3, 4]] * num),
        "list_landmarks_align_celeba.txt": ([num, "lefteye_x lefteye_y"], [[69, 111]] * num),
        "list_attr_celeba.txt": ([num, "Bald Smiling"], [[-1, 1]] * num),
    }
    for file, (head, rows) in table.items():
        lines = [f"{name} {' '.join(map(str, row))}" for name, row in zip(names, rows, strict=True)]
        (folder / file).write_text("\n".join([*map(str, head), *lines]) + "\n")
    sums = [("id", md5(folder / file), file) for file in table]
    monkeypatch.setattr(CelebA, "file_list", [("id", "0", "img_align_celeba.zip"), *sums])
