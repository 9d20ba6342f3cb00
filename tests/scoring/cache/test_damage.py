"""Shards and shelves that are damaged, forged, cleared or cannot be written."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_checks import NUM, extractor, features, shards

from otmetrics.images import open_input
from otmetrics.images.facts import ImageFacts, facts_array
from otmetrics.scoring import cache
from otmetrics.scoring.cache import Shelf, cache_folder, cache_info, clear_cache
from otmetrics.scoring.image_features import Reading, image_features


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "text"])
def test_a_damaged_shard_is_thrown_away(folder, expected, damage):
    features(folder)
    path = shards()[2]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(
        {"cut": content[:-9], "flipped": content, "emptied": b"", "text": b"{}" * 40}[damage]
    )
    again = features(folder)
    assert again.num_cached == NUM - 8
    assert torch.equal(again.features, expected)
    assert features(folder).num_cached == NUM
    assert [path for path in shards() if path.stem != cache._sha256(path.read_bytes())] in (
        [],
        [path],  # keys that cannot be read are passed by
    )


def forged(path, **changes):
    """Put another shard in the place of one, under the hash of its content."""
    from safetensors.numpy import load, save

    arrays = load(path.read_bytes()) | changes
    content = save(
        {name: np.ascontiguousarray(one) for name, one in arrays.items() if one is not None}
    )
    path.unlink()
    path = path.with_name(f"{cache._sha256(content)}.safetensors")
    path.write_bytes(content)
    return path


FEATURES = np.ones((8, 16), np.float32)
FACTS = facts_array([ImageFacts("png", "RGB", 8, 7, 6)] * 8)


@pytest.mark.parametrize("changes", [
    {"features": None}, {"keys": None}, {"transparent": None}, {"facts": None},
    {"features": FEATURES[:7]}, {"features": FEATURES[:, 0]}, {"features": FEATURES[:, :0]},
    {"features": FEATURES[..., None]}, {"features": FEATURES.astype(np.int64)},
    {"features": FEATURES.astype(np.float16)}, {"features": FEATURES[:, :15]},
    {"features": FEATURES * np.nan}, {"features": FEATURES * np.inf},
    {"transparent": np.zeros(7, np.uint8)}, {"transparent": np.full(8, 2, np.uint8)},
    {"transparent": np.zeros((8, 1), np.uint8)}, {"transparent": np.zeros(8, np.float32)},
    {"facts": FACTS[:7]}, {"facts": FACTS[:, :5]}, {"facts": FACTS * 0}, {"facts": FACTS + 99},
    {"facts": FACTS.astype(np.int64)}, {"facts": -FACTS},
    {"keys": np.zeros((8, 15), np.uint8)}, {"keys": np.zeros((0, 16), np.uint8)},
    {"keys": np.zeros((8, 16), np.float32)}, {"keys": np.zeros(128, np.uint8)},
], ids="-".join)  # fmt: skip
def test_a_forged_shard_of_another_form_is_passed_by(folder, expected, changes):
    features(folder)
    for path in shards()[1:]:
        path.unlink()
    forged(shards()[0], **changes)
    network = extractor()
    network.num_features = 16
    reading = Reading(batch_size=4, cache=True)
    found = image_features(open_input(folder), folder, list(range(NUM)), network, reading)
    assert found.num_cached == 0
    assert torch.equal(found.features, expected)


@pytest.mark.parametrize(("most", "num_cached"), [(8, 8), (7, 0)])
def test_a_shard_of_more_rows_than_are_written_is_passed_by(folder, monkeypatch, most, num_cached):
    features(folder)
    for path in shards()[1:]:
        path.unlink()
    monkeypatch.setattr(cache, "_MOST_ROWS", most)
    assert features(folder).num_cached == num_cached


def test_an_entry_that_is_not_finite_is_computed_anew_alone(folder, expected):
    features(folder)
    from safetensors.numpy import load

    rows = load(shards()[2].read_bytes())["features"].copy()
    rows[3, 5] = np.nan
    forged(shards()[2], features=rows)
    found = features(folder)
    assert found.num_cached == NUM - 1
    assert torch.equal(found.features, expected)


HEADERS = [b"[" * 3000, b"{}", b"[]", b'{"keys": 1}', b"9" * 4000, b"\xff" * 40]
HEADERS += [
    json.dumps({"keys": {"dtype": "U8", "shape": shape, "data_offsets": offsets}}).encode()
    for shape in ([8, 16], [1e9, 16], [2**40, 16], ["x", 16], [-1, 16], [8], None)
    for offsets in ([0, 128], [-9, 119], [0, 2**60], [2**80, 2**80 + 128], ["a", "b"], None)
]


def test_malformed_headers_are_passed_by(folder, expected):
    """Under the hash of the content, where that was seen, and under another one."""
    features(folder)
    for path in shards()[1:]:
        path.unlink()
    for index, header in enumerate(HEADERS):
        content = len(header).to_bytes(8, "little") + header + bytes(64)
        for name in (cache._sha256(content), f"{index:064x}"):
            shards()[0].with_name(f"{name}.safetensors").write_bytes(content)
    shards()[0].with_name("f" * 64 + ".safetensors").write_bytes(b"\xff" * 8)
    found = features(folder)
    assert found.num_cached == 8
    assert torch.equal(found.features, expected)


@pytest.mark.skipif(os.name != "posix", reason="has no such files")
def test_what_is_no_regular_file_among_shards_is_neither_read_nor_waited_for(folder, expected):
    features(folder)
    (info,) = cache_info()
    whole, other = shards()[:2]
    outside = folder.parent / whole.name
    whole.rename(outside)
    whole.symlink_to(outside)
    other.unlink()
    os.mkfifo(other)
    (info.path / ("0" * 64 + ".safetensors")).mkdir()
    (info.path / ("1" * 64 + ".safetensors")).symlink_to("/dev/zero")
    (info.path / ("2" * 64 + ".safetensors")).symlink_to(folder)
    with (info.path / ("3" * 64 + ".safetensors")).open("wb") as file:
        file.truncate(2**33)  # of zeros, in no space
    (info.path / "shelf.json").unlink()
    os.mkfifo(info.path / "shelf.json")
    found = features(folder)
    assert found.num_cached == NUM - 16
    assert torch.equal(found.features, expected)
    assert found.notes == []
    assert outside.exists()
    assert clear_cache()[0].path == info.path
    assert outside.exists()
    assert len(list(folder.iterdir())) == NUM
    # What was computed anew took the place of the link and of the pipes, and is gone with the rest.
    assert sorted(path.name[0] for path in info.path.iterdir()) == ["0", "1", "2"]


@pytest.mark.parametrize(
    "record",
    ["[" * 10**5, "null", "[]", '{"source": 1}', '{"source": "a", "protocol": []}', "\xff"],
)
def test_malformed_records_of_shelves_are_told_as_unknown(folder, record):
    features(folder)
    (info,) = cache_info()
    (info.path / "shelf.json").write_text(record, encoding="latin-1")
    (again,) = cache_info()
    assert (again.source, again.extractor, again.shards) == ("?", "?", 5)


def test_names_in_records_of_shelves_are_escaped(folder):
    features(folder)
    (info,) = cache_info()
    record = {"source": "a\nb", "protocol": {"extractor": {"extractor": "\x1b[2J"}}}
    (info.path / "shelf.json").write_text(json.dumps(record))
    assert [(one.source, one.extractor) for one in cache_info()] == [(r"a\nb", r"\x1b[2J")]


@pytest.mark.skipif(os.name != "posix", reason="has no such rights")
def test_a_shelf_is_its_users_alone(folder, cache, expected):
    before = os.umask(0)
    try:
        features(folder)
    finally:
        os.umask(before)
    (info,) = cache_info()
    for path in (cache, info.path):
        assert path.stat().st_mode & 0o777 == 0o700
    info.path.chmod(0o777)
    found = features(folder)
    assert found.num_cached == 0
    assert torch.equal(found.features, expected)
    assert "can be written to by other users; name another folder" in found.notes[0]
    info.path.chmod(0o755)
    assert features(folder).num_cached == NUM


@pytest.mark.skipif(os.name != "posix", reason="has no such links")
def test_a_shelf_that_is_a_link_is_neither_read_nor_written(folder, expected):
    features(folder)
    (info,) = cache_info()
    elsewhere = folder.parent / "elsewhere"
    info.path.rename(elsewhere)
    before = sorted(path.name for path in elsewhere.iterdir())
    info.path.symlink_to(elsewhere)
    found = features(folder)
    assert found.num_cached == 0
    assert torch.equal(found.features, expected)
    assert "is a link, or not a folder" in found.notes[0]
    assert cache_info() == clear_cache() == []
    assert sorted(path.name for path in elsewhere.iterdir()) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="gives files away")
def test_what_belongs_to_another_user_is_not_read(folder, expected):
    features(folder)
    (info,) = cache_info()
    os.chown(shards()[0], 12345, 12345)
    found = features(folder)
    assert found.num_cached == NUM - 8
    os.chown(info.path, 12345, 12345)
    found = features(folder)
    assert found.num_cached == 0
    assert torch.equal(found.features, expected)
    assert "belongs to another user" in found.notes[0]
    assert cache_info() == []


def test_many_rows_become_several_shards(monkeypatch):
    monkeypatch.setattr(cache, "_MOST_ROWS", 3)
    shelf = Shelf("source", {"extractor": "x"})
    keys = [bytes([index]) * 16 for index in range(8)]
    shelf.store(keys, FEATURES, np.zeros(8, bool), FACTS)
    assert len(shards()) == 3
    assert sum(len(found[0]) for found in shelf.find_stored(keys)) == 8


def test_features_that_are_not_finite_are_not_kept(folder, monkeypatch):
    monkeypatch.setattr("cache_checks.Slow.forward", lambda self, x: x.flatten(1)[:, :4] / 0)
    features(folder)
    assert shards() == []


def test_a_cache_that_is_cleared_between_two_writes_goes_on(folder, expected, monkeypatch):
    write, calls = Path.write_bytes, []

    def cleared_first(self, content):
        calls.append(self)
        if len(calls) % 3 == 1:
            shutil.rmtree(cache_folder())
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", cleared_first)
    found = features(folder)
    monkeypatch.undo()
    monkeypatch.setenv("OTMETRICS_CACHE", str(folder.parent / "cache"))
    assert torch.equal(found.features, expected)
    assert found.notes == []
    assert shards()


def test_a_shard_without_a_record_is_seen_and_removed(folder):
    features(folder)
    (info,) = cache_info()
    (info.path / "shelf.json").unlink()
    (again,) = cache_info()
    assert (again.shards, again.source) == (5, "?")
    clear_cache()
    assert not info.path.exists()


def test_no_disk_leaves_no_shelf(folder, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("otmetrics.safe_files.os.fdopen", full)
    assert "No space left" in features(folder).notes[0]
    assert cache_info() == []


def test_a_place_that_cannot_be_written_is_no_reason_to_stop(folder, expected, monkeypatch):
    blocked = folder.parent / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("OTMETRICS_CACHE", str(blocked / "cache"))
    found = features(folder)
    assert torch.equal(found.features, expected)
    assert found.notes[0].startswith(f"features are not kept: `{blocked}")
    assert len(found.notes) == 1
