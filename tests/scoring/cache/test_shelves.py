"""The folder of the cache: what it holds, and what is asked and removed of it."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_checks import features, shards

from otmetrics.images.facts import ImageFacts, facts_array
from otmetrics.scoring.cache import Shelf, cache_folder, cache_info, clear_cache
from otmetrics.scoring.image_features import Reading


def test_info_and_removal(folder):
    assert cache_info() == clear_cache() == []
    features(folder)
    (info,) = cache_info()
    assert (info.source, info.extractor, info.shards) == (str(folder), "slow", 5)
    assert info.num_bytes == sum(path.stat().st_size for path in shards())
    assert clear_cache(older_than_days=1) == []
    for path in shards():
        os.utime(path, (time.time() - 3 * 86400,) * 2)
    assert [one.path for one in clear_cache(older_than_days=2)] == [info.path]
    assert cache_info() == []


def test_what_else_lies_in_the_folder_is_nobodys_business(folder, cache):
    features(folder)
    for name in ("thesis", "0" * 32):
        (cache / name).mkdir()
        (cache / name / "a.tex").write_text("years of work")
    (cache / "f").write_text("a file")
    assert len(clear_cache()) == 1
    assert (cache / "thesis" / "a.tex").exists()
    assert (cache / ("0" * 32) / "a.tex").exists()


def test_use_makes_a_shelf_young(folder):
    features(folder)
    for path in shards():
        os.utime(path, (time.time() - 3 * 86400,) * 2)
    features(folder)
    assert clear_cache(older_than_days=2) == []


def test_the_users_folder_is_the_default(monkeypatch, tmp_path):
    monkeypatch.delenv("OTMETRICS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().parts[-2:] == ("otmetrics", "features")


def test_a_shelf_holds_any_rows():
    shelf = Shelf("source", {"extractor": "x"})
    keys = [bytes([index]) * 16 for index in range(5)]
    rows = np.arange(15, dtype=np.float64).reshape(5, 3)
    facts = facts_array([ImageFacts("png", "RGB", 8, 10 + index, 7) for index in range(5)])
    shelf.store(keys[:3], rows[:3], [False, True, False], facts[:3])
    shelf.store(keys[3:], rows[3:], [False, False], facts[3:])
    shelf.store(keys[2:4], rows[2:4], [False, False], facts[2:4])  # some of them twice
    wanted = [keys[4], None, keys[1], keys[2], b"?" * 16, keys[1]]
    found = {}
    for columns in shelf.find_stored(wanted):
        for index, row, flag, known in zip(*columns, strict=True):
            assert index not in found
            found[int(index)] = (row.tolist(), flag, int(known[3]))
    assert found == {
        0: ([12, 13, 14], False, 14),
        2: ([3, 4, 5], True, 11),
        3: ([6, 7, 8], False, 12),
        5: ([3, 4, 5], True, 11),
    }


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is mapped")
def test_many_rows_are_mapped_from_a_file(folder, expected):
    found = features(folder, memory_limit=100.0)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "cache/" in line]
    assert mapped
    assert torch.equal(found.features, expected)
    with pytest.raises(ValueError, match="`memory_limit` must be a positive finite number"):
        Reading(memory_limit=0)
