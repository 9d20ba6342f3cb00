"""The cache and the devices as the command line has them."""

import json
import os
import shutil
import time

import pytest
import torch
from command import write_images
from otmetrics.cli.options import resolved_device

from otmetrics.images import files
from otmetrics.scoring.cache import cache_folder


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders of images that count as settled, and a cache of their own."""
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.0)
    monkeypatch.setenv("OTMETRICS_CACHE", str(tmp_path / "cache"))
    found = [write_images(tmp_path / name, 8, seed=seed) for seed, name in enumerate("ab")]
    for path in tmp_path.glob("?/*"):
        os.utime(path, (time.time() - 60,) * 2)
    return found


def shards():
    return {path: path.stat().st_mtime_ns for path in cache_folder().glob("*/*.safetensors")}


def test_a_second_score_is_the_first_one(otmetrics, folders):
    options = ("--json", "-q", "--metrics", "sliced_wasserstein,frechet_distance")
    first = otmetrics("score", *folders, *options)
    kept = shards()
    assert len(kept) == 2
    assert otmetrics("score", *folders, *options).stdout == first.stdout
    assert shards().keys() == kept.keys()
    listed = otmetrics("cache", "info").stdout
    assert all(str(folder) in listed for folder in folders)
    assert listed.count("efficientnet_lite0") == 2
    again = json.loads(otmetrics("score", *folders, *options, "--no-cache").stdout)
    assert again == json.loads(first.stdout)


def test_nothing_is_kept_where_nobody_wants_it(otmetrics, folders, tmp_path):
    for command in (("score", *folders), ("extract", folders[0], tmp_path / "a.npz")):
        assert otmetrics(*command, "--no-cache", "-q").code == 0
    assert not cache_folder().exists()
    wrong = otmetrics("score", *folders, "--no-cache", "--cache-verify")
    assert (wrong.code, wrong.stderr) == (
        2,
        "error: --cache-verify needs the cache: leave out --no-cache.\n",
    )


def test_contents_are_known_wherever_they_lie(otmetrics, folders, tmp_path):
    options = ("--cache-verify", "-q", "--overwrite")
    assert otmetrics("extract", folders[0], tmp_path / "a.npz", *options).code == 0
    kept = shards()
    copy = tmp_path / "copy"
    shutil.copytree(folders[0], copy)
    assert otmetrics("extract", copy, tmp_path / "b.npz", *options).code == 0
    assert shards().keys() == kept.keys()


def test_the_cache_is_cleared(otmetrics, folders):
    assert otmetrics("cache", "info").stdout == f"{cache_folder()}: 0 bytes\n"
    otmetrics("score", *folders, "-q", "--metrics", "frechet_distance")
    assert otmetrics("cache", "clear", "--older-than", "1").stdout.endswith(": 0 bytes removed\n")
    assert len(shards()) == 2
    assert otmetrics("cache", "clear").stdout.endswith(" kB removed\n")
    assert not shards()
    assert otmetrics("cache", "clear", "--older-than", "-1").code == 2


def test_a_stdout_without_room_is_told(otmetrics, monkeypatch, folders):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("otmetrics.cli.main.give_up_stdout", lambda: None)
    monkeypatch.setattr("otmetrics.scoring.cache.cache_info", full)
    found = otmetrics("cache", "info")
    assert (found.code, found.stderr) == (
        3,
        "error: no room is left for the output (No space left on device): free some.\n",
    )


@pytest.mark.parametrize(
    ("cuda", "mps", "local", "name", "expected"),
    [
        (0, False, None, "auto", "cpu"),
        (0, True, None, "auto", "mps"),
        (2, True, None, "auto", "cuda"),
        (2, True, "0", "auto", "cuda"),
        (2, True, "3", "auto", "cuda:1"),
        (2, False, "1", "cuda", "cuda:1"),
        (2, False, "1", "cuda:0", "cuda:0"),
        (2, True, "1", "cpu", "cpu"),
    ],
)
def test_devices(monkeypatch, cuda, mps, local, name, expected):
    # What torch says of other machines than this one.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_RANK", local)
    assert resolved_device(name) == expected
