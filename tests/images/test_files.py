"""What `open_input` accepts, in which order it reads, and what it says about everything else."""

import json
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from otmetrics.errors import DataError
from otmetrics.images import (
    FeatureArray,
    ImageArray,
    ImageFolder,
    decoded_image,
    limits,
    open_input,
)
from otmetrics.scoring.extraction import extracted

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)


def write_image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (value, 0, 0)).save(path, "PNG")
    return path


def saved(path, **entries):
    np.savez(path, **entries)
    return path


def saved_array(path, array):
    np.save(path, array)
    return path


# --- folders --------------------------------------------------------------------------------


def test_names_are_sorted_relative_posix_paths(tmp_path):
    for name in ["b/2.png", "b/10.png", "a.PNG", "B.jpeg", "c/d/e.TiFF", "a/z.webp", "b.gif"]:
        write_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    folder = ImageFolder(tmp_path)
    expected = ("B.jpeg", "a.PNG", "a/z.webp", "b.gif", "b/10.png", "b/2.png", "c/d/e.TiFF")
    assert folder.names == expected
    assert len(folder) == 7
    assert folder.path == tmp_path


def test_every_extension_is_read_in_any_case(tmp_path):
    extensions = ["bmp", "gif", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff"]
    names = {
        f".{case(ext)}" * 2 for ext in [*extensions, "webp"] for case in (str.lower, str.upper)
    }
    for name in names:
        write_image(tmp_path / f"x{name}")
    assert set(ImageFolder(tmp_path).names) == {f"x{name}" for name in names}


def test_read_decodes_the_named_file(tmp_path):
    for value, name in [(7, "a/1.png"), (9, "b.png")]:
        write_image(tmp_path / name, value)
    folder = ImageFolder(str(tmp_path))
    assert [folder.read(index).pixels[0, 0, 0].item() for index in range(2)] == [7, 9]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in ["a.png", "._a.png", ".cache/b.png", "c/.d/e.png"]:
        write_image(tmp_path / name)
    assert ImageFolder(tmp_path).names == ("a.png",)


def test_a_hidden_folder_that_is_asked_for_is_read(tmp_path):
    write_image(tmp_path / ".hidden" / "a.png")
    assert ImageFolder(tmp_path / ".hidden").names == ("a.png",)


def test_links_to_folders_are_followed_and_loops_cut(tmp_path):
    write_image(tmp_path / "elsewhere" / "b.png")
    root = tmp_path / "root"
    write_image(root / "a.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "sub").mkdir()
    (root / "sub" / "up").symlink_to(root)
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    assert ImageFolder(root).names == ("a.png", "linked/b.png")


def test_links_that_lead_nowhere_fail_when_they_are_read(tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "missing")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    folder = ImageFolder(tmp_path)
    assert folder.names == ("gone.png", "loop.png")
    for index, reason in enumerate(["does not exist", "cannot be read"]):
        with pytest.raises(DataError, match=reason):
            folder.read(index)


def test_a_folder_named_like_an_image_is_a_folder(tmp_path):
    write_image(tmp_path / "x.png" / "y.png")
    assert ImageFolder(tmp_path).names == ("x.png/y.png",)
    assert isinstance(open_input(tmp_path / "x.png"), ImageFolder)


def test_folders_without_images(tmp_path):
    for name in ["a.txt", "sub/b.csv", ".hidden"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=r"holds no images .2 other files.: .*\.png.*\.webp"):
        ImageFolder(tmp_path)


def test_missing_folders_and_files(tmp_path):
    with pytest.raises(DataError, match="nowhere` does not exist: check the path"):
        open_input(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is one image file: give the folder"):
        ImageFolder(write_image(tmp_path / "a.png"))


@pytest.mark.parametrize("name", ["", "x", "x.npy", "x.png"])
def test_paths_that_cannot_be_followed(tmp_path, name):
    """What permissions do to others, a link to itself does to root too."""
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=r"cannot be read .*: check its permissions"):
        open_input(tmp_path / "loop" / name)


@pytest.mark.parametrize("name", ["x", "x.npy", "x.png"])
def test_paths_through_a_file(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=f"file/{name}` "):
        open_input(tmp_path / "file" / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_unreadable_subfolders(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "locked").mkdir(mode=0)
    try:
        with pytest.raises(DataError, match=r"locked` cannot be read .*permissions"):
            ImageFolder(tmp_path)
    finally:
        (tmp_path / "locked").chmod(0o700)


# --- arrays of images -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npy", "npz", "NPY"])
def test_image_arrays_are_read_as_they_are(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    with path.open("wb") as file:
        np.savez(file, IMAGES) if suffix == "npz" else np.save(file, IMAGES)
    source = open_input(path)
    assert isinstance(source, ImageArray)
    assert tuple(source.names) == (f"a.{suffix}[0]", f"a.{suffix}[1]", f"a.{suffix}[2]")
    for index in range(len(source)):
        pixels, transparent, _ = source.read(index)
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), IMAGES[index])
        assert not transparent


def test_array_images_own_their_memory(tmp_path):
    source = open_input(saved_array(tmp_path / "a.npy", IMAGES))
    source.read(0).pixels.zero_()
    assert np.array_equal(np.load(tmp_path / "a.npy"), IMAGES)
    assert torch.equal(source.read(0).pixels, torch.from_numpy(IMAGES[0]).permute(2, 0, 1))


def test_grey_arrays_are_replicated():
    pixels, *_ = ImageArray(IMAGES[..., :1], "a.npy").read(1)
    assert all(np.array_equal(channel.numpy(), IMAGES[1, ..., 0]) for channel in pixels)


def test_alpha_of_arrays_is_composited_as_in_files(tmp_path):
    array = RNG.integers(0, 256, (2, 4, 5, 4), dtype=np.uint8)
    array[1, ..., 3] = 255
    source = ImageArray(array, "a.npy")
    for index, transparent in enumerate([True, False]):
        Image.fromarray(array[index]).save(tmp_path / "a.png")
        decoded = decoded_image(tmp_path / "a.png")
        assert torch.equal(source.read(index).pixels, decoded.pixels)
        assert source.read(index).transparent is decoded.transparent is transparent


@pytest.mark.parametrize(("array", "message"), [
    (IMAGES / 255, "convert it to uint8"),
    (IMAGES.astype(np.int64), "convert it to uint8"),
    (IMAGES.transpose(0, 3, 1, 2), r"\.transpose\(0, 2, 3, 1\)"),
    (IMAGES[:0], "it is empty"),
    (IMAGES[:, :0], "it is empty"),
    (np.zeros((2, 5, 5, 2), np.uint8), r"\(N, H, W, C\)"),
    (IMAGES[0], r"\[None\] for one image"),
    (IMAGES[None], r"\(N, H, W, C\)"),
    (np.zeros(5), r"features \(N, D\)"),
    (np.float32(3), r"features \(N, D\)"),
], ids=str)  # fmt: skip
def test_arrays_of_other_kinds_are_refused(tmp_path, array, message):
    path = saved_array(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=message) as error:
        open_input(path)
    assert f"`{path}` holds a {array.dtype} array {array.shape}" in str(error.value)


RAMP = np.linspace(0, 1, 2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
TO_LAST = r"\.astype\('uint8'\)\.transpose\(0, 2, 3, 1\)"


@pytest.mark.parametrize(("array", "message"), [
    (2 * RAMP - 1, r"\(N, C, H, W\) with values from -1 to 1"
     r".*\(\(x \+ 1\) \* 127\.5\)\.round\(\)"
     + TO_LAST),
    (RAMP, r"values from 0 to 1.* with \(x \* 255\)\.round\(\)" + TO_LAST),
    (RAMP * 255, r"values from 0 to 255.* with x\.round\(\)\.clip\(0, 255\)" + TO_LAST),
    (RAMP.transpose(0, 2, 3, 1), r"\(N, H, W, C\) with values from 0 to 1.*\.astype\('uint8'\)\.$"),
    (RAMP * 5 - 2, r"values from -2 to 3.* with \(255 \* \(x - x\.min\(\)\)"),
    (RAMP[:, 0], r"\(N, H, W\) with values from 0 to .*or features \(N, D\).*\[\.\.\., None\]"),
    (np.concatenate([RAMP, RAMP[:, :1]], 1) * 9 - 4, r"look like the latents of an autoencoder"),
    (np.zeros((2, 16, 8, 8), np.float32), r"\.mean\(\(2, 3\)\)"),
    (np.full((2, 3, 8, 8), np.nan), "values from nan to nan"),
    (np.zeros((2, 4, 8, 8, 3), np.uint8), r"\.reshape\(-1, \*x\.shape\[2:\]\)"),
    (np.zeros((2, 8, 8, 3), complex), "complex values are not images"),
    (np.zeros((2, 8), complex), r"np\.concatenate\(\[x\.real, x\.imag\], axis=1\)"),
    (np.zeros(4, [("a", "f4"), ("b", "f4")]), "structured array with the fields a, b"),
], ids=range(13))  # fmt: skip
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_what_is_nearly_images_says_how_it_becomes_some(tmp_path, array, message, suffix):
    path = tmp_path / f"a.{suffix}"
    (np.save if suffix == "npy" else np.savez)(path, array)
    with pytest.raises(DataError, match=message):
        open_input(path)


@pytest.mark.parametrize("images", [
    IMAGES, IMAGES.astype(np.float32), IMAGES / 255, IMAGES / 127.5 - 1, IMAGES.astype(np.int64),
], ids=["u1", "f4", "one", "minus", "i8"])  # fmt: skip
@pytest.mark.parametrize("planar", [False, True])
def test_the_advice_gives_the_images(tmp_path, images, planar):
    """What a message says is done, and gives what was to be scored."""
    x = images.transpose(0, 3, 1, 2) if planar else images
    path = saved_array(tmp_path / "a.npy", x)
    if x.dtype == np.uint8 and not planar:
        return
    with pytest.raises(DataError) as error:
        open_input(path)
    code = str(error.value).split(" with ")[-1].rstrip(".")
    done = eval(code if code.startswith(("x", "(")) else f"x{code}", {"x": x})
    assert done.dtype == np.uint8
    assert np.array_equal(done, IMAGES)
    open_input(saved_array(path, done))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 99\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>Too many downloads</body></html>"
XML = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"


@pytest.mark.parametrize(("content", "message"), [
    (LFS, "is a git-lfs pointer, not the file itself: run `git lfs pull`"),
    (PAGE, "is an HTML page, what a server sends instead of a file: download it again"),
    (b"\xef\xbb\xbf" + PAGE.upper(), "is an HTML page"),
    (XML, "is an XML text, perhaps the error of a server"),
], ids=["lfs", "page", "upper", "xml"])  # fmt: skip
@pytest.mark.parametrize("suffix", ["npy", "npz", "zip", "tar", "parquet", "txt", "png"])
def test_what_stands_in_for_a_file_is_told(tmp_path, content, message, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.{suffix}` {message}"):
        open_input(tmp_path).read(0) if suffix == "png" else open_input(path)


def test_what_torch_and_pickle_write_is_told(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"holds `torch\.nn\..*Linear`, which is neither an array"):
        open_input(tmp_path / "a.npz")
    (tmp_path / "a.npy").write_bytes(b"\x80\4K\1.")
    with pytest.raises(DataError, match="holds no array but a value of type int: save one"):
        open_input(tmp_path / "a.npy")


# --- features -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "u1", ">f4", ">i8"])
def test_features_keep_their_values_and_width(tmp_path, dtype):
    array = RNG.integers(0, 100, (6, 3)).astype(dtype)
    features, path, protocol, labels, *_ = open_input(saved_array(tmp_path / "f.npy", array))
    assert np.array_equal(features, array)
    assert features.dtype == array.dtype
    (found,) = extracted([tmp_path / "f.npy"])
    assert np.array_equal(found.features.numpy(), array)
    exact = array.dtype.kind == "f" and array.dtype.itemsize > 2
    assert found.features.numpy().dtype == (array.dtype.newbyteorder("=") if exact else "f8")
    assert path == tmp_path / "f.npy"
    assert protocol is labels is None


def test_protocol_is_parsed(tmp_path):
    path = tmp_path / "f.npz"
    np.savez(path, features=np.eye(3), protocol=json.dumps({"features": "inception", "n": 3}))
    source = open_input(path)
    assert isinstance(source, FeatureArray)
    assert source.protocol == {"features": "inception", "n": 3}


@pytest.mark.parametrize("protocol", ["{", "[1]", 3.5])
def test_protocols_that_are_no_json_object(tmp_path, protocol):
    with pytest.raises(DataError, match=r"f\.npz` "):
        open_input(saved(tmp_path / "f.npz", features=np.eye(3), protocol=protocol))


def test_choice_of_the_entry(tmp_path):
    one, two = np.eye(2), np.eye(3)
    for entries in [{"features": one, "images": IMAGES, "arr_0": two}, {"arr_0": one, "b": two},
                    {"whatever": one}, {"whatever": one, "protocol": "{}"}]:  # fmt: skip
        assert np.array_equal(open_input(saved(tmp_path / "f.npz", **entries)).features, one)
    assert isinstance(open_input(saved(tmp_path / "f.npz", images=IMAGES, arr_0=one)), ImageArray)


def test_large_entries_are_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAPPED_BYTES", 1)
    kept = {"c": RNG.normal(size=(50, 4)), "f": np.asfortranarray(RNG.normal(size=(5, 4)))}
    for name, array in kept.items():
        path = saved(tmp_path / f"{name}.npz", labels=np.arange(len(array)), features=array)
        source = open_input(path)
        assert isinstance(source.features, np.memmap)
        assert np.array_equal(source.features, array)
        assert source.labels == tuple(map(str, range(len(array))))
    np.savez_compressed(tmp_path / "packed.npz", features=kept["c"])
    assert np.array_equal(open_input(tmp_path / "packed.npz").features, kept["c"])
    content = bytearray(path.read_bytes())
    content[content.index(kept["f"].tobytes(order="F")) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"f\.npz` is truncated or corrupt"):
        open_input(path)


def test_archives_without_a_clear_entry(tmp_path):
    with pytest.raises(DataError, match=r"entries a, sigma: .*'features' or 'images'"):
        open_input(saved(tmp_path / "f.npz", sigma=np.eye(2), a=np.ones(2)))
    with pytest.raises(DataError, match=r"entries \(none\)"):
        open_input(saved(tmp_path / "f.npz", protocol="{}"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 4095, 4096, 9000])
def test_the_first_bad_row_is_named(tmp_path, bad, row):
    features = np.zeros((9001, 2), np.float32)
    features[row, 1] = features[9000, 0] = bad
    with pytest.raises(DataError, match=rf"f\.npy` .* row {row} has a NaN or infinite"):
        open_input(saved_array(tmp_path / "f.npy", features))


@pytest.mark.parametrize("array", [
    np.ones((2, 2), bool), np.ones((2, 2), "U3"), np.ones((2, 2), "M8[s]"),
    np.ones((2, 2), np.longdouble),
], ids=lambda array: array.dtype.name)  # fmt: skip
def test_features_that_are_no_numbers(tmp_path, array):
    with pytest.raises(DataError, match="convert the features to float32"):
        open_input(saved_array(tmp_path / "f.npy", array))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_empty_features(tmp_path, shape, suffix):
    path = tmp_path / f"f.{suffix}"
    (np.save if suffix == "npy" else np.savez)(path, np.zeros(shape))
    with pytest.raises(DataError, match="it is empty"):
        open_input(path)


# --- other files ----------------------------------------------------------------------------


class Trap:
    """Fails the test if anybody unpickles it."""

    def __reduce__(self):
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_nothing_is_unpickled(tmp_path, suffix):
    path = tmp_path / f"f.{suffix}"
    array = np.array([[Trap()]], dtype=object)
    np.save(path, array) if suffix == "npy" else np.savez(path, features=array)
    with pytest.raises(DataError, match=r"pickled objects: .*plain dtype"):
        open_input(path)


def test_one_image_file_is_no_data_set(tmp_path):
    with pytest.raises(DataError, match="is one image file: give the folder"):
        open_input(write_image(tmp_path / "a.PNG"))


@pytest.mark.parametrize("name", ["a.docx", "a"])
def test_other_files_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=r"is not a folder, nor a kind of file that is read: give"):
        open_input(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x93NUMPY\1\0", b"text", b"\x80\4K\1."])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_corrupt_arrays(tmp_path, content, suffix):
    path = tmp_path / f"f.{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"f.{suffix}` (is truncated or corrupt|holds no array)"):
        open_input(path)


@pytest.mark.parametrize("name", ["pipe.npy", "pipe.npz"])
def test_pipes_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="device, pipe or socket"):
        open_input(tmp_path / name)


def test_missing_arrays(tmp_path):
    with pytest.raises(DataError, match=r"f\.npy` does not exist"):
        open_input(tmp_path / "f.npy")
    (tmp_path / "link.npz").symlink_to(tmp_path / "f.npz")
    with pytest.raises(DataError, match=r"link\.npz` does not exist"):
        open_input(tmp_path / "link.npz")


def test_an_archive_entry_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("features", "text")
    with pytest.raises(DataError, match="an entry that is not an array"):
        open_input(tmp_path / "f.npz")
