"""The bundled demonstration images."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from otmetrics.errors import DataError
from otmetrics.images import ImageFolder, demo, write_demo


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return [ImageFolder(folder) for folder in write_demo(tmp_path_factory.mktemp("demo"))]


def pixels(folder):
    return torch.stack([folder.read(index).pixels for index in range(len(folder))])


def photographs(folder):
    return Counter(name.rsplit("-", 1)[0] for name in folder.names)


def test_sizes_and_names(folders):
    real, fake = folders
    assert (real.path.name, fake.path.name) == ("real", "fake")
    assert (len(real), len(fake)) == (330, 300)
    assert "astronaut-003.png" in real.names
    for folder in folders:
        assert pixels(folder).shape[1:] == (3, 48, 48)


def test_fake_images_miss_six_modes(folders):
    real, fake = map(photographs, folders)
    assert set(real.values()) == {30}
    assert set(fake.values()) == {60}
    assert set(fake) < set(real)
    assert (len(real), len(fake)) == (11, 5)


def test_sheet_is_small_and_its_blocks_do_not_cross_tiles():
    assert demo.SHEET.stat().st_size < 700_000
    with Image.open(demo.SHEET) as sheet:
        assert sheet.size == (demo.COLUMNS * demo.TILE, demo.NUM_ROWS * demo.TILE)
        samplings = {layer[1:3] for layer in sheet.layer}
    assert samplings == {(1, 1)}  # no chroma subsampling: blocks of 8 x 8
    assert demo.TILE % 8 == 0


def test_tiles_are_those_of_the_sheet(folders):
    real, fake = folders
    with Image.open(demo.SHEET) as sheet:
        array = np.asarray(sheet)
    for folder, name, row, column in [
        (real, "astronaut-003.png", 0, 3),
        (real, "astronaut-015.png", 1, 0),
        (fake, "astronaut-000.png", 2, 0),
        (real, "retina-029.png", 41, 14),
    ]:
        tile = folder.read(folder.names.index(name)).pixels.permute(1, 2, 0).numpy()
        expected = array[row * 48 : row * 48 + 48, column * 48 : column * 48 + 48]
        assert np.array_equal(tile, expected)


def test_hardly_any_fake_image_is_a_copy_of_a_real_one(folders):
    """Black sky aside, the two sets show different regions."""
    real, fake = (pixels(folder).flatten(1) for folder in folders)
    textured = fake[fake.float().std(dim=1) > 10]
    distances = torch.cdist(textured.float(), real.float(), p=1) / textured.shape[1]
    assert len(textured) > 200
    assert distances.min() > 0.5  # one tile in both sets would have 0


def test_writing_twice_changes_nothing(tmp_path):
    write_demo(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    (tmp_path / "real" / ".DS_Store").write_text("hidden files are never scored")
    assert write_demo(str(tmp_path)) == (tmp_path / "real", tmp_path / "fake")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before


@pytest.mark.parametrize("name", ["real/cat.png", "fake/chelsea-000.png", "fake/deeper/cat.png"])
def test_folders_with_other_files_are_refused(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(DataError, match="is not of the demonstration"):
        write_demo(tmp_path)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "real").write_text("")
    with pytest.raises(DataError, match=r"file` is not of the demonstration"):
        write_demo(tmp_path)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "real").write_text("")
    for folder in (tmp_path / "only", tmp_path / "file"):
        with pytest.raises(DataError, match=r"cannot be written .*give another folder"):
            write_demo(folder)


@pytest.mark.parametrize("linked", ["real/astronaut-000.png", "real"])
def test_links_are_not_followed(tmp_path, linked):
    """Neither into a file of the user's nor into a folder."""
    precious, out = tmp_path / "precious", tmp_path / "out"
    path = out / linked
    path.parent.mkdir(parents=True)
    if linked == "real":
        precious.mkdir()
    else:
        precious.write_text("mine")
    path.symlink_to(precious)
    with pytest.raises(DataError, match=r"is a link|is another file"):
        write_demo(out)
    left = list(precious.iterdir()) if precious.is_dir() else precious.read_text()
    assert left in ([], "mine")
    assert path.is_symlink()
    assert not (out / "fake").exists()


def test_a_link_that_leads_nowhere_is_not_written_through(tmp_path):
    (tmp_path / "out" / "fake").mkdir(parents=True)
    (tmp_path / "out" / "fake" / "astronaut-000.png").symlink_to(tmp_path / "new")
    with pytest.raises(DataError, match="is another file"):
        write_demo(tmp_path / "out")
    assert not (tmp_path / "new").exists()


def test_other_images_under_its_names_stay(tmp_path):
    path = tmp_path / "fake" / "astronaut-000.png"
    path.parent.mkdir()
    Image.new("RGB", (48, 48), "red").save(path)
    before = path.read_bytes()
    with pytest.raises(DataError, match="is another file than the demonstration's"):
        write_demo(tmp_path)
    assert path.read_bytes() == before
    assert not (tmp_path / "real").exists()


def test_what_an_interruption_left_is_completed(tmp_path, folders):
    write_demo(tmp_path)
    (tmp_path / "fake" / "astronaut-000.png").unlink()
    again = [ImageFolder(folder) for folder in write_demo(tmp_path)]
    assert [len(folder) for folder in again] == [330, 300]
    assert torch.equal(pixels(again[1]), pixels(folders[1]))
