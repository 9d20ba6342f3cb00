"""Kills, many runs at once and a cache that is cleared under a run."""

import json
import multiprocessing
import os
import random
import shutil
import time

import torch
from cache_checks import NUM, features, main, shards

from otmetrics.scoring.cache import _sha256

# --- kills and crowds -----------------------------------------------------------------------

SERVER = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
if os.name == "posix":
    SERVER.set_forkserver_preload(["cache_checks"])


def start(folder, cache, result, seconds):
    process = SERVER.Process(target=main, args=(str(folder), str(cache), str(result), seconds))
    process.start()
    return process


def test_a_run_that_is_killed_at_any_moment_goes_on_and_gives_the_same_bits(
    folder, cache, tmp_path, expected, monkeypatch
):
    result, generator, states = tmp_path / "result.json", random.Random(0), []
    start(folder, tmp_path / "other", result, 0.0).join()  # the first start loads torch
    began = time.monotonic()
    start(folder, tmp_path / "another", result, 0.01).join()
    whole = time.monotonic() - began
    finished = result.rename(tmp_path / "finished.json")
    scores = json.loads(finished.read_text())["scores"]
    done = result.with_suffix(".done")
    for _ in range(20):
        done.unlink(missing_ok=True)
        process = start(folder, cache, result, 0.01)
        time.sleep(generator.uniform(0, whole))
        process.kill()
        process.join()
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
    start(folder, cache, result, 0.0).join()
    content = json.loads(result.read_text())
    assert torch.equal(torch.tensor(content["features"]), expected)
    assert content["scores"] == scores
    assert features(folder).num_cached == NUM


def test_four_runs_share_one_cache(folder, cache, tmp_path, expected):
    results = [tmp_path / f"{index}.json" for index in range(4)]
    processes = [start(folder, cache, result, 0.005) for result in results]
    while any(process.is_alive() for process in processes):
        features(folder)  # a fifth one, again and again
    assert [process.exitcode for process in processes] == [0] * 4
    for result in results:
        assert torch.equal(torch.tensor(json.loads(result.read_text())["features"]), expected)
    assert features(folder).num_cached == NUM
    assert all(path.stem == _sha256(path.read_bytes()) for path in shards())


def test_a_cache_that_is_cleared_meanwhile_costs_work_only(folder, cache, tmp_path, expected):
    features(folder)
    result = tmp_path / "result.json"
    process = start(folder, cache, result, 0.005)
    while process.is_alive():
        shutil.rmtree(cache, ignore_errors=True)
    assert process.exitcode == 0
    assert torch.equal(torch.tensor(json.loads(result.read_text())["features"]), expected)
