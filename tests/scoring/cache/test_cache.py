"""The cache of features: what it knows again, what it computes anew."""

import io
import os
import shutil
import time
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from cache_checks import NUM, PIXELS, age, extractor, features, shards
from PIL import Image

from otmetrics.errors import DataError
from otmetrics.images import ImageArray, ImageFolder, arrays, files, open_input
from otmetrics.images.facts import count_facts
from otmetrics.images.files import digest, file_identity
from otmetrics.scoring.cache import cache_folder, cache_info
from otmetrics.scoring.extraction import Extraction, extracted
from otmetrics.scoring.image_features import Reading, is_kept

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
