"""The cache of features: what it knows again, what it computes anew, and damage."""

import io
import json
import os
import shutil
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_checks import NUM, PIXELS, age, extractor, features, shards
from PIL import Image

from otmetrics.errors import DataError
from otmetrics.images import ImageArray, ImageFolder, arrays, files, open_input
from otmetrics.images.facts import ImageFacts, count_facts, facts_array
from otmetrics.images.files import digest, file_identity
from otmetrics.scoring import cache
from otmetrics.scoring.cache import Shelf, cache_folder, cache_info, clear_cache
from otmetrics.scoring.extraction import Extraction, extracted
from otmetrics.scoring.image_features import Reading, image_features, is_kept

# --- what is known again --------------------------------------------------------------------


def test_a_second_run_computes_nothing(folder, expected, monkeypatch):
    first = features(folder)
    assert (first.num_cached, len(shards())) == (0, 5)
    monkeypatch.setattr(
        "otmetrics.scoring.image_features.pipeline", None
    )  # would raise if it was called
    second = features(folder)
    assert second.num_cached == NUM
    for found in (first, second):
        assert torch.equal(found.features, expected)
        assert found.indices == list(range(NUM))


@pytest.mark.parametrize("verify", [False, True])
def test_one_file_that_changes_is_computed_alone(folder, verify):
    features(folder, cache_verify=verify)
    Image.fromarray(255 - PIXELS[7]).save(folder / "07.png")
    age(folder, seconds=30) if verify else os.utime(folder / "07.png", (time.time() - 30,) * 2)
    again = features(folder, cache_verify=verify)
    assert again.num_cached == NUM - 1
    assert torch.equal(again.features, features(folder, cache=False).features)


def test_a_file_of_the_same_time_and_another_size_is_computed_anew(folder):
    features(folder)
    state = (folder / "07.png").stat()
    Image.fromarray(np.zeros((6, 7, 3), np.uint8)).save(folder / "07.png")
    os.utime(folder / "07.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert features(folder).num_cached == NUM - 1


@pytest.mark.parametrize("how", ["content", "record"])
def test_a_file_that_was_just_written_is_not_trusted_yet(folder, monkeypatch, how):
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.5)
    time.sleep(0.6)
    (folder / "07.png").touch() if how == "content" else (folder / "07.png").chmod(0o600)
    features(folder)
    assert features(folder).num_cached == NUM - 1
    assert features(folder, cache_verify=True).num_cached == 0
    assert features(folder, cache_verify=True).num_cached == NUM  # contents have no such doubt


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.zip", "folder/0.png", "a.parquet"])
def test_what_takes_a_place_with_the_same_size_and_time_is_computed_anew(tmp_path, name):
    """What unpacking an archive over an older one of the same layout does."""

    def write(path, pixels):
        path.parent.mkdir(exist_ok=True, parents=True)
        if path.suffix == ".png":
            Image.fromarray(pixels[0]).save(path.with_suffix(".bmp"))
            path.with_suffix(".bmp").replace(path)
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                for index, one in enumerate(pixels):
                    archive.writestr(f"{index}.bmp", bitmap(one))
        elif path.suffix == ".parquet":
            pyarrow = pytest.importorskip("pyarrow")
            parquet = pytest.importorskip("pyarrow.parquet")
            rows = pyarrow.table({"image": [bitmap(one) for one in pixels]})
            parquet.write_table(rows, path, compression="none")
        else:
            (np.save if path.suffix == ".npy" else np.savez)(path, pixels)
        os.utime(path, (1e9, 1e9))

    path, other = tmp_path / name, tmp_path / "other" / name
    for place, pixels in ((path, PIXELS[:4]), (other, 255 - PIXELS[:4])):
        write(place, pixels)
    assert path.stat().st_size == other.stat().st_size
    asked = path.parent if path.suffix == ".png" else path
    before = features(asked)
    assert features(asked).num_cached == len(before.features)
    other.replace(path)
    after = features(asked)
    assert after.num_cached == 0
    assert torch.equal(after.features, features(asked, cache=False).features)
    path.write_bytes(path.read_bytes())  # in place: the same number
    os.utime(path, (1e9, 1e9))
    assert features(asked).num_cached == 0


def bitmap(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_contents_that_have_no_end_are_not_waited_for(folder, monkeypatch):
    os.mkfifo(folder / "pipe.png")
    assert file_identity(folder / "pipe.png", content=True) is None
    whole = (folder / "00.png").read_bytes()
    assert file_identity(folder / "00.png", content=True) == digest("content", whole)
    monkeypatch.setattr("otmetrics.images.limits.MAX_MEMBER_BYTES", len(whole) - 1)
    assert file_identity(folder / "00.png", content=True) is None


def test_content_is_known_wherever_it_lies(folder, tmp_path, expected):
    features(folder, cache_verify=True)
    shutil.copytree(folder, tmp_path / "copy")
    for name in ("08.png", "09.png"):  # copies of one image share a key
        shutil.copy(folder / "07.png", tmp_path / "copy" / name)
    found = features(tmp_path / "copy", cache_verify=True)
    assert found.num_cached == NUM
    assert torch.equal(found.features, expected[[*range(8), 7, 7, *range(10, NUM)]])
    assert features(tmp_path / "copy").num_cached == 0  # by path it is another folder


def test_files_that_come_and_go_leave_the_others(folder):
    features(folder)
    (folder / "00.png").unlink()
    Image.fromarray(PIXELS[0]).save(folder / "a.png")
    os.utime(folder / "a.png", (time.time() - 30,) * 2)
    again = features(folder)
    assert again.num_cached == NUM - 1
    assert torch.equal(again.features, features(folder, cache=False).features)


def test_arrays_are_known_by_file_and_row_or_by_pixels(tmp_path):
    np.save(tmp_path / "a.npy", PIXELS)
    age(tmp_path)
    assert [features(tmp_path / "a.npy").num_cached for _ in range(2)] == [0, NUM]
    np.save(tmp_path / "b.npy", PIXELS[::-1])
    options = {"cache_verify": True}
    found = [features(tmp_path / f"{name}.npy", **options).num_cached for name in "ab"]
    assert found == [0, NUM]


def test_transparency_and_unreadable_files_are_told_each_time(folder):
    alpha = np.full((6, 7, 1), 100, np.uint8)
    Image.fromarray(np.concatenate([PIXELS[3], alpha], axis=-1)).save(folder / "03.png")
    (folder / "05.png").write_bytes(b"no image")
    age(folder)
    first, second = (features(folder, skip_corrupt=True) for _ in range(2))
    assert second.num_cached == NUM - 1
    assert torch.equal(first.features, second.features)
    for found in (first, second):
        assert found.transparent.sum() == 1
        assert len(found.skipped) == 1
        assert found.indices == [i for i in range(NUM) if i != 5]
    with pytest.raises(DataError, match=r"05\.png"):
        features(folder)


def test_an_error_keeps_what_was_done_before(folder):
    (folder / "30.png").write_bytes(b"no image")
    age(folder)
    with pytest.raises(DataError, match=r"30\.png"):
        features(folder, shard=1000)
    assert features(folder, skip_corrupt=True).num_cached == 28  # whole batches of four


def test_a_cached_run_says_what_was_read_as_the_first_one_did(folder):
    Image.fromarray(PIXELS[0, ..., 0].astype(np.uint16) * 16).save(folder / "00.png")
    Image.fromarray(PIXELS[1]).save(folder / "01.png", format="JPEG")
    frames = [Image.fromarray(pixels) for pixels in PIXELS[2:5]]
    frames[0].save(folder / "02.png", format="TIFF", save_all=True, append_images=frames[1:])
    age(folder)
    first, second = (features(folder) for _ in range(2))
    assert second.num_cached == NUM
    assert np.array_equal(first.facts, second.facts)
    largest = int(PIXELS[0, ..., 0].max()) * 16
    assert count_facts(first.facts, "") == {
        "formats": {"jpg": 1, "png": NUM - 2, "tif": 1},
        "modes": {"RGB 8 bit": NUM - 1, "grey 16 bit": 1},
        "sizes": {"smallest": [7, 6], "middle": [7, 6], "largest": [7, 6], "different": 1},
        "frames": {"files": 1, "left_out": 2},
        "largest": {"8": int(first.facts[1:, 6].max()), "16": largest},
        "two_levels": 0,
    }


# --- what it depends on ---------------------------------------------------------------------


def test_everything_that_features_depend_on_has_its_shelf(folder, tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS)
    age(tmp_path)
    torch_runs = {"runtime": "torch"}
    kinds = [{}, torch_runs | {"resize": "bilinear"}, {"dtype": "bfloat16"}, torch_runs]
    for done, options in enumerate(kinds):
        options = Extraction(num=2, cache=True, **options)
        extracted([folder], options)
        assert len(cache_info()) == done + 1
    before = len(shards())
    extracted([folder], Extraction(num=2, cache=True))  # all is there: nothing is compiled
    assert len(shards()) == before
    extracted(
        [folder], Extraction(num=2, cache=True, seed=1, **torch_runs)
    )  # other images, the same shelf
    assert len(cache_info()) == len(kinds)
    assert {info.extractor for info in cache_info()} == {"efficientnet_lite0"}
    assert {info.source for info in cache_info()} == {str(folder)}


def test_a_network_that_does_not_compile_is_kept_under_what_ran_it(folder, monkeypatch):
    def fail(*args):
        raise RuntimeError("no converter")

    options = Extraction(num=2, cache=True)
    extracted([folder], options)
    monkeypatch.setattr("otmetrics.features.openvino.CompiledNetwork", fail)
    with pytest.warns(UserWarning, match="OpenVINO cannot run this network"):
        (found,) = extracted([folder], Extraction(num=3, cache=True))
    assert found.source["runtime"].startswith("torch")
    assert len(cache_info()) == 2


def test_networks_without_weights_and_modules_of_the_user_are_not_kept(folder):
    extracted([folder], Extraction(features="pixels", cache=True))
    assert not cache_folder().exists()
    mine = extractor()
    assert is_kept(mine)
    mine.name = "module:mine:network"
    assert not is_kept(mine)


def test_without_cache_nothing_is_read_or_written(folder, expected):
    assert not cache_folder().exists()
    assert torch.equal(features(folder, cache=False).features, expected)
    with pytest.raises(ValueError, match="`cache_verify` needs `cache`"):
        Reading(cache_verify=True)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "pixels"])
def test_processes_and_threads_give_the_same_features(folder, name):
    threads, processes = (
        extracted([folder], Extraction(features=name, num_workers=count))[0] for count in (0, 1)
    )
    assert torch.equal(threads.features, processes.features)
    assert threads.source == processes.source


# --- damage ---------------------------------------------------------------------------------


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


# --- its commands ---------------------------------------------------------------------------


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


def test_a_file_that_is_replaced_before_it_is_read_is_not_kept(folder, expected, monkeypatch):
    from otmetrics.images import ImageFolder as Folder

    read = Folder.read

    def replaced(self, index):
        if index == 7 and self.names[index] == "07.png":
            Image.fromarray(255 - PIXELS[7]).save(folder / "07.png")
            os.utime(folder / "07.png", (time.time() - 30,) * 2)
        return read(self, index)

    monkeypatch.setattr(Folder, "read", replaced)
    features(folder)
    monkeypatch.undo()
    monkeypatch.setenv("OTMETRICS_CACHE", str(folder.parent / "cache"))
    assert features(folder).num_cached == NUM - 1


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_an_array_that_is_replaced_while_it_is_open_is_not_kept(tmp_path, name):
    def write(pixels, seconds):
        np.save(tmp_path / name, pixels) if name == "a.npy" else np.savez(tmp_path / name, pixels)
        age(tmp_path, seconds)

    write(PIXELS, 60)
    source = open_input(tmp_path / name)
    before = source.identity(0, content=False)
    assert before is not None
    (tmp_path / name).unlink()
    write(PIXELS[::-1], 30)
    assert source.identity(0, content=False) is None
    assert open_input(tmp_path / name).identity(0, content=False) not in (None, before)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_an_array_that_is_replaced_while_it_is_opened_is_refused(tmp_path, monkeypatch, name):
    write = np.save if name == "a.npy" else np.savez
    write(tmp_path / name, PIXELS)
    write(tmp_path / f"new {name}", PIXELS[::-1])
    read = arrays._header

    def replaced(*args):
        with suppress(FileNotFoundError):
            (tmp_path / f"new {name}").replace(tmp_path / name)
        return read(*args)

    monkeypatch.setattr(arrays, "_header", replaced)
    with pytest.raises(DataError, match="was replaced while it was read: run again"):
        open_input(tmp_path / name)


def test_a_file_that_grows_while_it_is_hashed_has_no_content(folder, monkeypatch):
    assert file_identity(folder / "00.png", content=True) is not None
    size = files.os.fstat
    for difference in (1, -1):

        def other(number, difference=difference):
            status = list(size(number))
            status[6] += difference  # st_size
            return os.stat_result(status)

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fstat", other)
            assert file_identity(folder / "00.png", content=True) is None


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


def test_sources_tell_their_images_apart(folder):
    whole = file_identity(folder / "00.png", content=False)
    source = ImageFolder(folder)
    array = ImageArray(PIXELS, folder / "00.png", identity=whole)
    assert ImageArray(PIXELS, folder / "00.png").identity(0, content=False) is None
    for content in (False, True):
        keys = [one.identity(index, content) for one in (source, array) for index in range(NUM)]
        assert len(set(keys)) == 2 * NUM
        assert all(len(key) == 16 for key in keys)
    (folder / "07.png").unlink()
    assert source.identity(7, content=False) is source.identity(7, content=True) is None
