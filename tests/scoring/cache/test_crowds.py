"""Kills, many runs at once and a cache that is cleared under a run."""

import json
import random
import shutil
import time
from functools import partial

import pytest
import torch
from cache_checks import NUM, features, shards

from otmetrics.scoring.cache import _sha256

# --- kills and crowds -----------------------------------------------------------------------


@pytest.fixture
def start(forks):
    """Start a process that extracts, so many seconds an image."""
    return partial(forks.start, "cache_checks")


def test_a_run_that_is_killed_at_any_moment_goes_on_and_gives_the_same_bits(
    start, folder, cache, tmp_path, expected, monkeypatch
):
    result, generator, states = tmp_path / "result.json", random.Random(0), []
    start(folder, tmp_path / "other", result, 0.0).wait()  # the first one waits for the imports
    began = time.monotonic()
    start(folder, tmp_path / "another", result, 0.01).wait()
    whole = time.monotonic() - began
    finished = result.rename(tmp_path / "finished.json")
    scores = json.loads(finished.read_text())["scores"]
    done = result.with_suffix(".done")
    for _ in range(14):
        done.unlink(missing_ok=True)
        process = start(folder, cache, result, 0.01)
        time.sleep(generator.uniform(0, whole))
        process.kill()
        process.wait()
        states.append(len(shards()))
        copy = tmp_path / f"after kill {len(states)}"
        if cache.exists():
            shutil.copytree(cache, copy)
        monkeypatch.setenv("OTMETRICS_CACHE", str(copy))
        found = features(folder)
        assert torch.equal(found.features, expected)
        before = int(done.read_text() or 0) if done.exists() else 0
        assert found.num_cached > before - 8  # at most one shard is lost
        monkeypatch.setenv("OTMETRICS_CACHE", str(cache))
        if states[-1] == 5:
            shutil.rmtree(cache)  # all was done: begin again
    assert len({1, 2, 3, 4} & set(states)) > 1, states
    start(folder, cache, result, 0.0).wait()
    content = json.loads(result.read_text())
    assert torch.equal(torch.tensor(content["features"]), expected)
    assert content["scores"] == scores
    assert features(folder).num_cached == NUM


def test_four_runs_share_one_cache(start, folder, cache, tmp_path, expected):
    results = [tmp_path / f"{index}.json" for index in range(4)]
    processes = [start(folder, cache, result, 0.005) for result in results]
    while any(process.poll() is None for process in processes):
        features(folder)  # a fifth one, again and again
    assert [process.returncode for process in processes] == [0] * 4
    for result in results:
        assert torch.equal(torch.tensor(json.loads(result.read_text())["features"]), expected)
    assert features(folder).num_cached == NUM
    assert all(path.stem == _sha256(path.read_bytes()) for path in shards())


def test_a_cache_that_is_cleared_meanwhile_costs_work_only(
    start, folder, cache, tmp_path, expected
):
    features(folder)
    result = tmp_path / "result.json"
    process = start(folder, cache, result, 0.005)
    while process.poll() is None:
        shutil.rmtree(cache, ignore_errors=True)
    assert process.returncode == 0
    assert torch.equal(torch.tensor(json.loads(result.read_text())["features"]), expected)
