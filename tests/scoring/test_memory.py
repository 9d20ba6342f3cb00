"""Scores keep to the memory that they are given, and large features stay in files."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from otmetrics import DataError, Exact, Scoring, Sinkhorn, score_features
from otmetrics.scoring.mapped import new_array, rows_of

# Samples, dimension, limits and the most that a score may take next to the features: measured were
# 181 and 186 to 203, 262 and 275, 39, 32, 40 and 40, 115 and 115 MB. The first limit of each binds:
# costs do not fit, or the floor's parts have to go to files; the second leaves all in memory.
SIZES = {
    "sliced_wasserstein": (60_000, 32, (40e6, 400e6), 230e6),
    "wasserstein": (6000, 32, (100e6, 400e6), 300e6),
    "sinkhorn_divergence": (2500, 32, (20e6,), 80e6),
    "frechet_distance": (400_000, 64, (64e6,), 80e6),
    "kernel_distance": (6000, 32, (4e6, 280e6), 60e6),
    "precision": (6000, 32, (4e6, 280e6), 160e6),
}
CASES = [(name, limit) for name, (_, _, limits, _) in SIZES.items() for limit in limits]

# A fixed threshold makes malloc give large blocks back at once: by its own rule it keeps some, by
# chance, and the peak would be of what was used before as well.
ANONYMOUS = """
import ctypes, sys, threading, time
import numpy as np
from otmetrics import Extraction, Scoring, extracted, score, score_features

M_MMAP_THRESHOLD = -3
assert ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1_000_000)

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))
"""

SCORES = """
name, limit = sys.argv[1], float(sys.argv[2])
few = (np.load(path, mmap_mode="r")[:200].copy() for path in sys.argv[3:])
score_features(*few, scoring=Scoring(metrics=(name,)))
scoring = Scoring(metrics=(name,), memory_limit=limit)
before, peak, done = anonymous(), [0], threading.Event()

def watch():
    while not done.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
score(*sys.argv[3:], extraction=Extraction(memory_limit=limit), scoring=scoring)
done.set()
watcher.join()
print(peak[0] - before)
"""


def measured(forks, folder, script, *arguments):
    """The numbers that a process of its own prints."""
    (folder / "script.py").write_text(ANONYMOUS + script)
    cache = {"OTMETRICS_CACHE": str(folder / "cache")}
    process = forks.start("script", *arguments, cwd=folder, environment=cache)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return [float(word) for word in out.split()]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for its memory")
@pytest.mark.parametrize(("name", "limit"), CASES)
def test_scores_keep_to_their_memory(name, limit, forks, tmp_path):
    size, dimension, limits, most = SIZES[name]
    kept = 4 * size**2 if name in ("wasserstein", "sinkhorn_divergence") else 0
    half = 4 * size * dimension / 2
    assert limits[0] < kept or limits[0] / 16 < half, "it does not bind"
    paths = []
    for side in ("real", "fake"):
        values = torch.randn(size, dimension, generator=torch.Generator().manual_seed(len(paths)))
        paths.append(tmp_path / f"{side}.npy")
        np.save(paths[-1], values.numpy())
    (taken,) = measured(forks, tmp_path, SCORES, name, limit, *paths)
    assert taken <= most


@pytest.mark.parametrize(
    ("solver", "name"), [(Exact, "wasserstein"), (Sinkhorn, "sinkhorn_divergence")]
)
def test_solvers_leave_room_for_copies_of_the_clouds(solver, name, monkeypatch):
    limits, solve = [], solver.solve

    def noted(self, *args, **options):
        limits.append(self.memory_limit)
        return solve(self, *args, **options)

    monkeypatch.setattr(solver, "solve", noted)
    clouds = torch.randn(50, 20), torch.randn(100, 20)
    options = {"metrics": (name,), "floor": False}
    for limit in (None, 1e6, 1.0):
        score_features(*clouds, scoring=Scoring(memory_limit=limit, **options))
    field = "exact" if solver is Exact else "sinkhorn"
    own = {field: solver(memory_limit=5e5)}
    score_features(*clouds, scoring=Scoring(memory_limit=1e6, **own, **options))
    assert limits == [None, 1e6 - 48 * 100 * 20, 0.25, 5e5]


def test_the_limit_changes_no_number():
    clouds = torch.randn(2, 300, 5)
    free = score_features(*clouds)
    bound = score_features(*clouds, scoring=Scoring(memory_limit=2e9))
    assert bound.scores == free.scores
    assert bound.protocol == free.protocol


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_parts_in_files_change_no_number(offset):
    clouds = torch.randn(2, 300, 5) + offset
    names = ("sliced_wasserstein", "frechet_distance")
    free = score_features(*clouds, scoring=Scoring(metrics=names))
    bound = score_features(*clouds, scoring=Scoring(metrics=names, memory_limit=1.0))
    assert bound.scores == free.scores


def test_a_limit_that_nothing_fits_moves_the_last_digits_alone():
    clouds = torch.randn(2, 80, 5)
    free = score_features(*clouds)
    bound = score_features(*clouds, scoring=Scoring(memory_limit=1.0))
    for name, score in free.scores.items():
        # Sinkhorn stops within its tolerance, on whatever blocks it iterates.
        relative = 1e-4 if name == "sinkhorn_divergence" else 1e-6
        assert bound.scores[name].value == pytest.approx(score.value, rel=relative)


def test_clouds_of_two_dtypes_are_scored_in_the_wider_one():
    real, fake = torch.randn(2, 60, 5)
    mixed = score_features(real, fake.double())
    assert mixed.scores == score_features(real.double(), fake.double()).scores
    assert mixed.protocol["dtype"]["projections"] == "float64"
    half = score_features(real.half(), fake.half())
    assert half.protocol["dtype"]["projections"] == "float32"


def test_pairs_beyond_the_limit_are_drawn():
    clouds = torch.randn(2, 60, 5)
    report = score_features(*clouds, scoring=Scoring(pairs_max=30))
    assert report.scores["kernel_distance"].sizes == (30, 30)
    assert report.scores["coverage"].sizes == (30, 30)
    assert report.scores["frechet_distance"].sizes == (60, 60)
    assert sum("`pairs_max`" in note for note in report.notes) == 2


@pytest.mark.parametrize("limit", [0.0, 1e9])
def test_rows_are_the_same_in_memory_and_in_a_file(limit):
    cloud = torch.randn(500, 7)
    rows = torch.randperm(500)[:200].sort().values
    copy = rows_of(cloud, rows, limit)
    assert torch.equal(copy, cloud[rows])
    copy[0] = 0  # a copy, whose file is its own
    assert not torch.equal(copy, cloud[rows])


def test_a_folder_that_takes_no_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("OTMETRICS_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(DataError, match=r"below` takes no file \(Not a directory\).*_CACHE"):
        new_array((10, 10), np.float32, 0)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs POSIX")
def test_a_file_that_does_not_fit_is_told_before_it_is_written_to():
    with pytest.raises(DataError, match=r"MB of features need a file, .* (has no room|takes no)"):
        new_array((2**45, 2**10), np.float32, 0)


FEATURES = """
extracted([sys.argv[2]], Extraction(memory_limit=1e6))
before = anonymous()
(found,) = extracted([sys.argv[1]], Extraction(memory_limit=1e6))
print(anonymous() - before, float(found.features.double().sum()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for its memory")
@pytest.mark.parametrize("kind", ["npy", "npz", "big-endian", "float16"])
def test_features_of_files_stay_in_files(kind, forks, tmp_path):
    generator = np.random.default_rng(0)
    values = generator.standard_normal((200_000, 100), np.float32)  # 80 MB
    values = values.astype({"big-endian": ">f4", "float16": "f2"}.get(kind, "f4"))
    path, small = tmp_path / f"a.{'npz' if kind == 'npz' else 'npy'}", tmp_path / "small.npy"
    np.savez(path, features=values) if kind == "npz" else np.save(path, values)
    np.save(small, values[:100])
    growth, total = measured(forks, tmp_path, FEATURES, path, small)
    assert growth < 30e6
    assert total == pytest.approx(float(values.astype(np.float64).sum()), rel=1e-6)
