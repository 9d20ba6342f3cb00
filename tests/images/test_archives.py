"""Archives read in place: the same images as in a folder, and nothing that climbs out of them."""

import io
import os
import pickle
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from otmetrics.errors import DataError
from otmetrics.images import ImageFolder, Readers, batches, files, limits, open_input
from otmetrics.images.archives import PackedImages, expand_braces

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
NAMES = ["b/1.png", "a/2.PNG", "a/10.png", "c/d/3.png", "b/2.png", "a/1.png"]


def png(pixels):
    """A PNG file as bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


CONTENT = dict(zip(NAMES, map(png, PIXELS), strict=True))


def write_zip(path, content, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def write_tar(path, content, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


WRITERS = {"zip": write_zip, "tar": write_tar}


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """Writes one kind of archive."""
    return lambda content, name="a": WRITERS[request.param](
        tmp_path / f"{name}.{request.param}", content
    )


@pytest.fixture
def folder(tmp_path):
    for name, data in CONTENT.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return ImageFolder(tmp_path / "folder")


# --- what is read ---------------------------------------------------------------------------


def test_an_archive_is_what_the_folder_is(write, folder):
    source = open_input(write(CONTENT | {"notes.txt": b"x"}))
    assert isinstance(source, PackedImages)
    assert source.names == folder.names
    assert source.labels == folder.labels == ("a", "a", "a", "b", "b", "c")
    assert source.num_others == 1
    assert len(source) == 6
    for index in range(6):
        assert torch.equal(source.read(index).pixels, folder.read(index).pixels)


def test_sizes_are_those_of_the_files(write, folder):
    source = PackedImages([write(CONTENT)])
    sizes = [len(CONTENT[name]) for name in source.names]
    for images in (source, folder):
        assert [images.file_size(index) for index in range(6)] == sizes


def test_a_compressed_zip_is_read_too(tmp_path, folder):
    path = write_zip(tmp_path / "a.zip", CONTENT, compression=zipfile.ZIP_DEFLATED)
    assert torch.equal(open_input(path).read(2).pixels, folder.read(2).pixels)


def test_threads_and_processes_read_at_once(write, folder):
    source = open_input(write(CONTENT))
    wanted = [index % 6 for index in range(300)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.read, wanted))
    for index, image in zip(wanted, found, strict=True):
        assert torch.equal(image.pixels, folder.read(index).pixels)
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(again.read(3).pixels, folder.read(3).pixels)
    (batch,) = batches(source, transform=torch.clone, batch_size=9, readers=Readers(num_workers=1))
    assert torch.equal(torch.stack(batch), torch.stack([folder.read(i).pixels for i in range(6)]))


def test_hidden_members_and_those_of_macos_are_left_out(write):
    content = {"a/.x.png": b"", ".b/y.png": b"", "__MACOSX/a/1.png": b"", "a/1.png": b""}
    assert open_input(write(content)).names == ("a/1.png",)


def test_a_leading_dot_of_tar_is_no_hidden_folder(tmp_path, folder):
    path = write_tar(tmp_path / "a.tar", {f"./{name}": data for name, data in CONTENT.items()})
    assert open_input(path).names == folder.names


def test_of_equal_names_the_last_one_counts(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for pixels in PIXELS[:2]:
            info = tarfile.TarInfo("x.png")
            info.size = len(png(pixels))
            archive.addfile(info, io.BytesIO(png(pixels)))
    source = open_input(path)
    assert len(source) == 1
    assert torch.equal(source.read(0).pixels, torch.from_numpy(PIXELS[1]).permute(2, 0, 1))


def test_shards_of_a_webdataset_follow_each_other(tmp_path):
    for shard in range(3):
        content = {f"{shard}{index}.png": png(PIXELS[2 * shard + index]) for index in range(2)}
        content |= {f"{shard}{index}.cls": b"3" for index in range(2)}
        write_tar(tmp_path / f"s-{shard:03d}.tar", content)
    by_range, by_folder = open_input(tmp_path / "s-{000..002}.tar"), open_input(tmp_path)
    for source in (by_range, by_folder):
        assert source.names[:3] == ("s-000.tar/00.png", "s-000.tar/01.png", "s-001.tar/10.png")
        found = torch.stack([source.read(index).pixels for index in range(6)])
        assert torch.equal(found, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    with pytest.raises(DataError, match=r"s-003\.tar` does not exist"):
        open_input(tmp_path / "s-{000..003}.tar")
    assert len(open_input(tmp_path / "s-{001..001}.tar")) == 2


def test_names_without_a_range_stand_for_themselves():
    for name in ("a.tar", "{a}.tar", "{1..x}.tar", "{1..2", "a}{.tar"):
        assert [str(path) for path in expand_braces(name)] == [name]
    assert [str(path) for path in expand_braces("{08..11}.tar")] == [
        f"{n:02d}.tar" for n in range(8, 12)
    ]
    assert [str(path) for path in expand_braces("a{1,x}-{2..1}")] == [
        "a1-2",
        "a1-1",
        "ax-2",
        "ax-1",
    ]


def test_members_are_told_apart(write, tmp_path, monkeypatch):
    path = write(CONTENT)
    source = open_input(path)
    assert source.identity(0, content=False) is None  # written a moment ago
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.0)
    os.utime(path, (time.time() - 60,) * 2)
    source = open_input(path)
    by_place = [source.identity(index, content=False) for index in range(6)]
    by_content = [source.identity(index, content=True) for index in range(6)]
    assert len({*by_place, *by_content}) == 12
    other = tmp_path / ("other" + path.suffix)
    other.write_bytes(path.read_bytes())
    os.utime(other, (time.time() - 60,) * 2)
    assert [open_input(other).identity(index, content=True) for index in range(6)] == by_content
    assert open_input(other).identity(0, content=False) != by_place[0]


def test_another_archive_in_its_place_is_not_read(write, tmp_path):
    path = write(CONTENT)
    os.utime(path, (time.time() - 60,) * 2)
    source = pickle.loads(pickle.dumps(open_input(path)))
    source.read(0)
    write(dict(zip(NAMES, reversed(CONTENT.values()), strict=True)), "b").replace(path)
    with pytest.raises(DataError, match=r"was replaced while it was read: run again"):
        source.read(0)
    assert source.identity(0, content=True) is None


def test_no_other_image_is_left_out_for_an_archive_that_was_replaced(write, tmp_path):
    path = write(CONTENT)
    os.utime(path, (time.time() - 60,) * 2)
    source = open_input(path)
    write(dict(zip(NAMES, reversed(CONTENT.values()), strict=True)), "b").replace(path)
    with pytest.raises(DataError, match=r"was replaced while it was read: run again\.$"):
        list(batches(source, transform=torch.clone, batch_size=2, skip_corrupt=True))


def test_rights_and_links_of_an_archive_may_change(write, tmp_path):
    path = write(CONTENT)
    os.utime(path, (time.time() - 60,) * 2)
    source = open_input(path)
    path.chmod(0o600)
    os.link(path, tmp_path / "link")
    source.read(0)


def test_the_directory_of_a_zip_is_parsed_once(tmp_path, monkeypatch):
    source = open_input(write_zip(tmp_path / "a.zip", CONTENT))
    copy = pickle.dumps(source)
    monkeypatch.setattr(zipfile, "ZipFile", None)  # would raise if it was called
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(source.read, range(6)))
    other = pickle.loads(copy)
    assert all(torch.equal(other.read(i).pixels, found[i].pixels) for i in range(6))


def test_more_archives_than_files_may_be_open(write, tmp_path):
    resource = pytest.importorskip("resource")
    shards = tmp_path / "shards"
    shards.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        for index in range(80):
            path = write({"x.png": CONTENT["a/1.png"]}, f"s{index:02d}")
            path.replace(shards / path.name)
        source = open_input(shards)
        assert len(source) == 80
        expected = torch.from_numpy(PIXELS[5]).permute(2, 0, 1)  # a/1.png
        assert all(torch.equal(source.read(i).pixels, expected) for i in (0, 79))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- attacks --------------------------------------------------------------------------------


def test_ranges_beyond_reason_are_refused(tmp_path):
    names = ["{0..99999999999}", "{1..100001}", "{-99999..2}", "{1..999}{1..999}", "{a,b}" * 20]
    names += ["{0.." + "9" * 5000 + "}", "{0..99999999999..10000000000}"]
    for name in names:
        with pytest.raises(DataError, match="stands for more than 100000 files"):
            expand_braces(f"x-{name}.tar")
    path = write_zip(tmp_path / "x{1..2}.zip", CONTENT)  # there as it is
    assert len(open_input(path)) == 6


CLIMBING = [
    "../x.png",
    "a/../../x.png",
    "/etc/x.png",
    "..\\x.png",
    "C:\\x.png",
    "C:/x.png",
    "C:x.png",
]


@pytest.mark.parametrize("name", CLIMBING)
def test_names_that_climb_out_are_refused(write, name):
    with pytest.raises(DataError, match="whose name leads out of it: pack it again without"):
        open_input(write(CONTENT | {name: png(PIXELS[0])}))


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret.png", "a/1.png"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar_are_refused(tmp_path, target, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a/link.png")
        info.type, info.linkname = kind, target
        archive.addfile(info)
    with pytest.raises(DataError, match=r"holds `a/link\.png`, a link, which is not followed"):
        open_input(tmp_path / "a.tar")


def test_links_in_a_zip_are_refused(tmp_path):
    info = zipfile.ZipInfo("link.png")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match=r"holds `link\.png`, a link"):
        open_input(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices_in_a_tar_are_no_images(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("device.png")
        info.type = kind
        archive.addfile(info)
    with pytest.raises(DataError, match="holds no images"):
        open_input(tmp_path / "a.tar")


def test_a_member_that_claims_to_be_huge_is_not_read(write, monkeypatch):
    monkeypatch.setattr(limits, "MAX_MEMBER_BYTES", 50)
    source = open_input(write(CONTENT))
    with pytest.raises(DataError, match=r"a/1\.png` has \d+ bytes, more than the 50 that are read"):
        source.read(0)
    assert source.identity(0, content=True) is None


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packers_that_cannot_be_stopped_are_refused(tmp_path, method):
    path = write_zip(tmp_path / "a.zip", CONTENT, compression=method)
    with pytest.raises(DataError, match="is compressed in another way than zip's own"):
        open_input(path).read(0)


def test_a_member_that_lies_about_its_size_is_cut_there(tmp_path):
    bomb = bytes(50_000_000)
    path = write_zip(tmp_path / "a.zip", {"x.png": bomb}, compression=zipfile.ZIP_DEFLATED)
    content = path.read_bytes()
    path.write_bytes(content.replace(len(bomb).to_bytes(4, "little"), (99).to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"x\.png` is truncated or corrupt"):
        open_input(path).read(0)


@pytest.mark.parametrize(
    ("bit", "words"),
    [(0x1, "is encrypted"), (0x40, "is encrypted"), (0x20, "holds a patch instead of a file")],
)
def test_an_encrypted_zip_is_refused(tmp_path, bit, words):
    path = write_zip(tmp_path / "a.zip", {"x.png": CONTENT["a/1.png"]})
    content = bytearray(path.read_bytes())
    for offset in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        content[offset] |= bit
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{words} \(`x\.png`\): unpack it"):
        open_input(path)


def test_a_directory_that_leads_to_another_file(tmp_path):
    """Two entries on one header would be one image twice."""
    path = write_zip(tmp_path / "a.zip", {"x.png": CONTENT["a/1.png"]})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"x.png", b"y.png", 1))
    with pytest.raises(DataError, match=r"x\.png` is truncated or corrupt.*leads to 'y\.png'"):
        open_input(path).read(0)


@pytest.mark.parametrize("name", ["ü.png", "图.png", "a b.png"])
def test_names_in_utf_8(tmp_path, name):
    source = open_input(write_zip(tmp_path / "a.zip", {name: CONTENT["a/1.png"]}))
    assert source.names == (name,)
    source.read(0)


def test_names_in_the_old_encoding(tmp_path):
    """Of zip's early days, code page 437: archivers that say nothing write it."""
    path = write_zip(tmp_path / "a.zip", {"0.png": CONTENT["a/1.png"]})
    path.write_bytes(path.read_bytes().replace(b"0.png", b"\x81.png"))
    source = open_input(path)
    assert source.names == ("ü.png",)
    source.read(0)


# --- damage ---------------------------------------------------------------------------------


def test_a_damaged_member_names_itself_and_can_be_left_out(write):
    path = write(CONTENT)
    content = path.read_bytes()
    middle = content.index(CONTENT["b/1.png"]) + 45
    path.write_bytes(content[:middle] + bytes(4) + content[middle + 4 :])
    source = open_input(path)
    with pytest.raises(DataError, match=r"b/1\.png` is truncated or corrupt"):
        source.read(3)
    (batch,) = batches(source, transform=torch.clone, batch_size=9, skip_corrupt=True)
    assert len(batch) == 5


def test_an_archive_that_is_cut_is_refused_or_says_what_is_missing(write):
    path = write(CONTENT)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"a\.(zip|tar)"):
        read_all(path)


def read_all(path):
    source = open_input(path)
    return [source.read(index) for index in range(len(source))]


def test_a_damaged_header_inside_a_tar_does_not_shorten_it(tmp_path):
    path = write_tar(tmp_path / "a.tar", CONTENT)
    content = bytearray(path.read_bytes())
    content[2 * 1024 + 5] ^= 1  # in the third header
    path.write_bytes(content)
    with pytest.raises(DataError, match="is cut off or damaged"):
        open_input(path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_tar_that_is_compressed_as_a_whole_is_refused(tmp_path, mode):
    path = write_tar(tmp_path / f"a.tar.{mode[2:]}", CONTENT, mode)
    with pytest.raises(DataError, match="is compressed as a whole"):
        open_input(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive" * 100, bytes(5000)])
@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_what_is_no_archive_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is not a zip or tar archive|holds no images"):
        open_input(path)


def test_missing_and_empty_archives_are_refused(tmp_path, write):
    with pytest.raises(DataError, match=r"b\.zip` does not exist: check the path"):
        open_input(tmp_path / "b.zip")
    with pytest.raises(DataError, match=r"holds no images \(1 other files\)"):
        open_input(write({"a.txt": b"x"}))
