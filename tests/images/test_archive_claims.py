"""What archives, folders and lists claim: what is not so is told, in little time and memory."""

import os
import tarfile
import zipfile

import pytest
from claim_cases import GIGABYTES, IMAGES, PIXELS, cheap, lying, png, write_tar, write_zip

from otmetrics.errors import DataError
from otmetrics.images import (
    ImageFolder,
    limits,
    open_input,
)

# --- tar and zip ----------------------------------------------------------------------------


def test_a_tar_with_zeros_inside(tmp_path):
    path = write_tar(tmp_path / "a.tar", IMAGES)
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        third = archive.getmembers()[2].offset
    for length in (512, 1024, 2048):
        path.write_bytes(whole[:third] + bytes(length) + whole[third + length :])
        with pytest.raises(DataError, match=r"data follow the mark of its end\. Fetch it again"):
            open_input(path)


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_tar_without_a_file(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a.png", "b.png"):
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
    with pytest.raises(
        DataError, match=r"holds no images but pipes, devices or sparse files, .* `b\.png`"
    ):
        open_input(tmp_path / "a.tar")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_with_zeros_in_a_long_name(tmp_path, form):
    """They hide the name of a member, and with it that it is an image."""
    path, name = tmp_path / "a.tar", "x" * 120
    with tarfile.open(path, "w", format=form) as archive:
        for index in range(3):
            archive.addfile(tarfile.TarInfo(f"{index}{name}.png"))
    whole = path.read_bytes()
    assert len(open_input(path)) == 3
    place = whole.index(f"1{name}.png".encode()) // 512 * 512
    path.write_bytes(whole[:place] + bytes(512) + whole[place + 512 :])
    with pytest.raises(DataError, match="is incomplete or damaged: a header is full of zeros"):
        open_input(path)


def test_a_zip_whose_directory_swallows_files(tmp_path):
    path = write_zip(tmp_path / "a.zip", IMAGES)
    content = bytearray(path.read_bytes())
    first, second = (content.index(b"PK\1\2", start) for start in (0, content.index(b"PK\1\2") + 4))
    content[first + 32 : first + 34] = (second - first).to_bytes(2, "little")  # of its comment
    path.write_bytes(content)
    with pytest.raises(DataError, match="its directory does not have the 6 files that it says"):
        open_input(path)


def test_a_tar_whose_rest_was_never_written(tmp_path):
    path = write_tar(tmp_path / "a.tar", IMAGES)
    os.truncate(path, 3 * 1024)
    os.truncate(path, GIGABYTES)
    with (
        cheap(),
        pytest.raises(DataError, match=r"bytes follow the mark of its end\. Fetch it again"),
    ):
        open_input(path)


@pytest.mark.parametrize("writer", [write_tar, write_zip])
def test_archives_that_were_put_together(tmp_path, writer):
    path = writer(tmp_path / f"a.{writer.__name__[-3:]}", IMAGES)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(DataError, match="archives were put together, pack them as one"):
        open_input(path)


@pytest.mark.parametrize("data", [b"x", bytes(100), b"PK\5\6"])
def test_a_zip_with_data_behind_its_end(tmp_path, data):
    path = write_zip(tmp_path / "a.zip", IMAGES)
    with path.open("ab") as file:
        file.write(data)
    with pytest.raises(DataError, match=r"a\.zip` is"):
        open_input(path)


def test_comments_are_no_damage(tmp_path):
    path = write_zip(tmp_path / "a.zip", IMAGES)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"made by hand"
    assert len(open_input(path)) == 6


def test_each_place_where_a_tar_is_cut(tmp_path):
    path = write_tar(tmp_path / "a.tar", IMAGES)
    whole = path.read_bytes()
    end = 6 * 1024  # each member takes two blocks
    for length in range(600, end, 200):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.tar` "):
            open_input(path)


def header(name, size, kind=tarfile.REGTYPE):
    """A header of a tar archive that says any size."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block[:512])


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [2**31, -1024])
def test_headers_of_a_tar_beyond_reason(tmp_path, kind, size):
    path = tmp_path / "a.tar"
    path.write_bytes(header("x.png", size, kind))
    os.truncate(path, GIGABYTES)
    with cheap(), pytest.raises(DataError, match=r"has a header or directory of|negative size"):
        open_input(path)


def test_headers_of_a_tar_that_lead_back_or_out(tmp_path):
    path = tmp_path / "a.tar"
    for size, message in ((-512, "leads back"), (-1024, "leads back"), (2**40, "after its end")):
        path.write_bytes(header("x.png", 0) + header("y.png", size) + bytes(2048))
        with cheap(), pytest.raises(DataError, match=message):
            open_input(path)


def test_headers_of_a_tar_that_are_full_of_digits(tmp_path):
    path, size = tmp_path / "a.tar", 60_000
    data = b"1" * size + bytes(-size % 512)
    path.write_bytes(header("x", size, tarfile.XHDTYPE) + data + header("x.png", 0) + bytes(1024))
    with cheap(), pytest.raises(DataError, match="a header is full of digits"):
        open_input(path)


def test_members_unpack_to_what_they_say_at_most(tmp_path):
    data = bytes(5_000_000)
    path = write_zip(tmp_path / "a.zip", {"x.png": data}, zipfile.ZIP_DEFLATED)
    with cheap(megabytes=11):
        assert open_input(path)._members[0].read() == data
    lying(path, "x.png", 99)
    with cheap(megabytes=1), pytest.raises(zipfile.BadZipFile):
        open_input(path)._members[0].read()


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_names_that_occur_twice_are_told(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    (write_tar if suffix == "tar" else write_zip)(path, {"a.png": png(PIXELS[0]), "b.png": b""})
    assert open_input(path).remarks == []
    if suffix == "tar":
        with tarfile.open(path, "a") as archive:
            archive.addfile(tarfile.TarInfo("a.png"))
    else:
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", b"")
    assert len(open_input(path)) == 2
    (remark,) = open_input(path).remarks
    assert "holds 1 names more than once, such as `a.png`" in remark


# --- folders and lists ----------------------------------------------------------------------


def test_a_folder_of_links_with_billions_of_paths(tmp_path):
    for level in range(25):
        (tmp_path / str(level)).mkdir()
        for side in "ab":
            (tmp_path / str(level) / side).symlink_to(tmp_path / str(level + 1))
    (tmp_path / "25").mkdir()
    (tmp_path / "25" / "x.png").write_bytes(png(PIXELS[0]))
    with cheap(), pytest.raises(DataError, match=f"to more than {limits.MAX_REVISITS} of its"):
        open_input(tmp_path / "0")


def test_folders_that_are_reached_twice_are_told(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(png(PIXELS[0]))
    assert ImageFolder(tmp_path).remarks == []
    (tmp_path / "b").symlink_to("a")
    folder = ImageFolder(tmp_path)
    assert folder.names == ("a/x.png", "b/x.png")
    assert folder.remarks[0].startswith("links lead to 1 folders again, such as `")


def test_lists_beyond_reason(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.touch()
    os.truncate(path, GIGABYTES)
    with cheap(), pytest.raises(DataError, match="bytes that a list may have: split it"):
        open_input(path)
    os.truncate(path, 10**8)
    with cheap(), pytest.raises(DataError, match="which does not exist"):
        open_input(path)
    (tmp_path / "x.png").write_bytes(png(PIXELS[0]))
    path.write_text("x.png\n" * 3)
    monkeypatch.setattr(limits, "MAX_LIST_BYTES", 17)
    with pytest.raises(DataError, match="has more than the 17 bytes"):
        open_input(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["a.txt", "a.zip", "a.tar", "a.parquet", "set"])
def test_pipes_are_not_waited_for(tmp_path, name):
    path = tmp_path / name
    if name == "set":
        path.mkdir()
        (path / "dataset_info.json").write_text("{}")
        os.mkfifo(path / "state.json")
    else:
        os.mkfifo(path)
    with cheap(seconds=10), pytest.raises(DataError, match="device, pipe or socket"):
        open_input(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_among_images_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "a.txt").write_text("x.png")
    for source in (open_input(tmp_path), open_input(tmp_path / "a.txt")):
        with pytest.raises(DataError, match="device, pipe or socket"):
            source.read(0)
        assert source.identity(0, content=True) is None
