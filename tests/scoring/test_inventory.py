"""What was read, told in one line a side, and notes where it is odd."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from otmetrics import Extraction, Scoring, score
from otmetrics.errors import DataError
from otmetrics.scoring.extraction import extracted
from otmetrics.scoring.feature_set import save_features
from otmetrics.scoring.inventory import differences, oddities, read_line
from otmetrics.summaries.records import checked_record

RNG = np.random.default_rng(0)
SCORING = Scoring(metrics=("frechet_distance",), floor=False)


def pictures(count, width=16, height=16, colours=3, top=256):
    shape = (count, height, width, colours) if colours > 1 else (count, height, width)
    return RNG.integers(0, top, shape).astype(np.uint8)


def folder(path, images, name="{:02d}.png", **options):
    path.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(path / name.format(index), **options)
    return path


def notes(real, fake, **options):
    """Notes of a score, without the lines of what was read."""
    report = score(real, fake, extraction=Extraction(features="pixels", **options), scoring=SCORING)
    dimension = report.protocol["features"]["dimension"]
    read = [f"{n}: {read_line(s, dimension)}" for n, s in report.protocol["inputs"].items()]
    assert set(read) <= set(report.notes)
    return [note for note in report.notes if note not in read]


def lines(*sides, **options):
    """What was read of each side."""
    sets = extracted(list(sides), Extraction(features="pixels", **options))
    return [read_line(one.source, one.features.shape[1]) for one in sets]


# --- the line -------------------------------------------------------------------------------


def test_a_side_in_one_line(tmp_path):
    for index, label in enumerate(("cat", "dog", "ship")):
        folder(tmp_path / "real" / label, pictures(3 + index))
    folder(tmp_path / "real" / "cat", pictures(1, 64, 48), "large.png")
    folder(tmp_path / "fake", pictures(4, colours=1), "{}.bmp")
    (tmp_path / "list.txt").write_text("fake/0.bmp\nfake/2.bmp\n")
    assert lines(tmp_path / "real", tmp_path / "fake", tmp_path / "list.txt") == [
        "13 images, 16 x 16 to 64 x 48 (2 sizes), RGB 8 bit, 3 classes, png",
        "4 images, 16 x 16, grey 8 bit, bmp",
        "2 images, 16 x 16, grey 8 bit, bmp",
    ]


def test_several_modes_and_formats_are_counted(tmp_path):
    folder(tmp_path / "a", pictures(5))
    folder(tmp_path / "a", pictures(3, colours=1), "grey{}.png")
    folder(tmp_path / "a", pictures(2), "{}.JPG", format="JPEG")
    (line,) = lines(tmp_path / "a")
    assert line == "10 images, 16 x 16, 7 RGB 8 bit and 3 grey 8 bit, 8 png and 2 jpg"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_say_the_same_as_files(tmp_path, channels):
    np.save(tmp_path / "a.npy", pictures(5, 20, 16, colours=4)[..., :channels])
    np.savez(tmp_path / "b.npz", pictures(5, 20, 16, colours=4)[..., :channels])
    mode = {1: "grey", 3: "RGB", 4: "RGBA"}[channels]
    expected = [f"5 images, 20 x 16, {mode} 8 bit, {kind}" for kind in ("npy", "npz")]
    assert lines(tmp_path / "a.npy", tmp_path / "b.npz") == expected


def test_a_draw_and_features(tmp_path):
    np.save(tmp_path / "a.npy", RNG.normal(size=(9, 4)))
    (one,) = extracted([tmp_path / "a.npy"], Extraction(num=5))
    assert one.notes == ["5 of 9 features, 4-d"]
    (line,) = lines(folder(tmp_path / "a", pictures(5)), num=2)
    assert line == "2 of 5 images, 16 x 16, RGB 8 bit, png"


def test_tables_and_archives_say_what_they_hold(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import zipfile

    import pyarrow.parquet as parquet

    files = sorted(folder(tmp_path / "a", pictures(3)).iterdir())
    rows = [{"bytes": path.read_bytes(), "path": "x.jpg"} for path in files]
    parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "a.parquet")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in files:
            archive.write(path, path.name)
    expected = "3 images, 16 x 16, RGB 8 bit, png"
    assert lines(tmp_path / "a.parquet", tmp_path / "a.zip") == [expected] * 2


def test_what_was_read_stays_with_extracted_features(tmp_path):
    """The notes of a score of images, and of their features later, are the same."""
    real = folder(tmp_path / "real", pictures(8))
    fake = folder(tmp_path / "fake", pictures(8, 32, 16), format="JPEG")
    (features,) = extracted([fake], Extraction(features="pixels"))
    save_features(features, tmp_path / "fake.npz")
    now, later = notes(real, fake), notes(real, tmp_path / "fake.npz")
    assert later == now
    assert [note[:5] for note in now] == ["fake:", "sizes", "file "]
    line = read_line(extracted([tmp_path / "fake.npz"])[0].source, 3072)
    assert line == "8 features, 3072-d, of images of 32 x 16, RGB 8 bit, jpg"


# --- notes ----------------------------------------------------------------------------------


def test_two_sides_of_one_kind_give_no_note(tmp_path):
    for name in ("real", "fake"):
        for index, label in enumerate("ab"):
            folder(tmp_path / name / label, pictures(5, 16 + index))
    assert notes(tmp_path / "real", tmp_path / "fake") == []


def test_sizes(tmp_path):
    plain = folder(tmp_path / "plain", pictures(6))
    sheets = folder(tmp_path / "sheets", pictures(6, 64, 32))
    (note,) = notes(plain, sheets)
    assert note.startswith("sizes differ (real 16 x 16, fake 64 x 32): sheets of several samples")
    folder(tmp_path / "mixed", pictures(6))
    folder(tmp_path / "mixed", pictures(1, 64, 32), "sheet.png")
    (note,) = notes(plain, tmp_path / "mixed")
    assert "fake 16 x 16 to 64 x 32 (2 sizes)" in note
    varied = [folder(tmp_path / n, pictures(3), "s{}.png") for n in "ab"]
    for path, width in zip(varied, (17, 19), strict=True):
        folder(path, pictures(3, width))
    assert notes(*varied) == []  # as photographs vary
    large = folder(tmp_path / "c", pictures(3, 40, 40), "s{}.png")
    folder(large, pictures(3, 41, 40))
    assert notes(varied[0], large)[0].startswith("sizes differ")


def test_modes_and_depths(tmp_path):
    colour = folder(tmp_path / "colour", pictures(20))
    grey = folder(tmp_path / "grey", pictures(20, colours=1))
    deep = folder(tmp_path / "deep", pictures(20, colours=1).astype(np.uint16) * 257)
    for side, told in ((grey, "grey 8 bit"), (deep, "grey 16 bit")):
        (note,) = notes(colour, side)
        assert note.startswith(f"modes or bit depths differ (real RGB 8 bit, fake {told})")
    assert len(notes(grey, deep)) == 1
    folder(tmp_path / "few", pictures(19))
    folder(tmp_path / "few", pictures(1, colours=1), "grey.png")
    assert notes(colour, tmp_path / "few") == []  # as in photographs of the web


@pytest.mark.parametrize("bits", [1, 8, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_few_bits_in_sixteen(tmp_path, bits, suffix):
    values = RNG.integers(0, 2**bits, (6, 16, 16)).astype(np.uint16)
    values[0, 0, 0] = 2**bits - 1
    real = folder(tmp_path / "real", RNG.integers(0, 2**16, (6, 16, 16)).astype(np.uint16))
    fake = folder(tmp_path / "fake", values, "{}." + suffix)
    told = [note for note in notes(real, fake) if "16-bit" in note]
    if bits > 14:
        assert told == []
        return
    assert told[0].startswith(f"fake: no value of its 16-bit images is above {2**bits - 1}: ")
    assert f"values of {bits} bits" in told[0]
    assert told[0].endswith(f"multiply them by {2 ** (16 - bits)} first")


@pytest.mark.parametrize("levels", [(0, 1), (0, 255), (7, 7)])
def test_pictures_of_two_levels(tmp_path, levels):
    grey = folder(tmp_path / "grey", pictures(6, colours=1))
    masks = [np.where(image > 127, *levels).astype(np.uint8) for image in pictures(6, colours=1)]
    fake = folder(tmp_path / "fake", masks)
    *dark, note = notes(grey, fake)
    assert "no more than two levels: real 0 of 6, fake 6 of 6" in note
    assert dark == [note for note in [f"fake: {DARK.format(max(levels))}"] if max(levels) < 64]
    both = notes(fake, folder(tmp_path / "other", masks[:3]))
    assert not [note for note in both if "two levels" in note]


DARK = "no value of its 8-bit images is above {}, where white is 255: are these classes, or values "
DARK += "of another range?"


@pytest.mark.parametrize("most", [1, 15, 63, 64, 200])
@pytest.mark.parametrize("colours", [1, 3])
def test_few_bits_in_eight(tmp_path, most, colours):
    images = pictures(5, colours=colours, top=most)
    images[0, 0, 0] = most
    real = folder(tmp_path / "real", pictures(5, colours=colours))
    fake = folder(tmp_path / "fake", images)
    np.save(tmp_path / "fake.npy", images if colours == 3 else images[..., None])
    expected = [f"fake: {DARK.format(most)}"] if most < 64 else []
    for side in (fake, tmp_path / "fake.npy"):
        assert [note for note in notes(real, side) if "white" in note] == expected


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp"])
def test_pages_and_frames(tmp_path, suffix):
    side = tmp_path / suffix
    side.mkdir()
    for index in range(4):
        first, *rest = (Image.fromarray(image) for image in pictures(6))
        first.save(side / f"{index}.{suffix}", save_all=True, append_images=rest[: index or None])
    (note,) = [note for note in notes(folder(tmp_path / "a", pictures(6)), side) if "page" in note]
    assert note.startswith("fake: only the first page or frame of a file is read, and 11 more in 4")


def test_classes(tmp_path):
    for index in range(8):
        folder(tmp_path / "real" / f"c{index}", pictures(3))
        if index != 3:
            folder(tmp_path / "most" / f"c{index}", pictures(3))
        folder(tmp_path / "numbers" / str(index), pictures(3))
    folder(tmp_path / "one" / "c2", pictures(3))
    assert notes(tmp_path / "real", tmp_path / "most") == ["fake has no sample of 1 class: c3"]
    assert notes(tmp_path / "most", tmp_path / "real") == ["real has no sample of 1 class: c3"]
    (note,) = notes(tmp_path / "real", tmp_path / "one")
    assert note == "fake has no sample of 7 classes: c0, c1, c3, c4, c5 and 2 more"
    (note,) = notes(tmp_path / "real", tmp_path / "numbers")
    assert note.startswith("no class has the same name in real and fake: real c0, c1, c2, c3, c4 a")
    # A class that was not drawn is no class that is missing.
    assert notes(tmp_path / "real", tmp_path / "real", num=3) == [
        "real and fake are the same input"
    ]


def test_classes_of_features(tmp_path):
    for name, classes in (("real", 4), ("fake", 3)):
        labels = np.arange(12) % classes
        np.savez(tmp_path / f"{name}.npz", features=RNG.normal(size=(12, 2)), labels=labels)
    report = score(tmp_path / "real.npz", tmp_path / "fake.npz", scoring=SCORING)
    assert report.notes == [
        "real: 12 features, 2-d, 4 classes",
        "fake: 12 features, 2-d, 3 classes",
        "fake has no sample of 1 class: 3",
    ]


def test_a_side_inside_the_other(tmp_path):
    folder(tmp_path / "real", pictures(3))
    folder(tmp_path / "real" / "sub", pictures(3))
    (tmp_path / "link").symlink_to(tmp_path / "real" / "sub")
    for inner in (tmp_path / "real" / "sub", tmp_path / "link"):
        (note,) = notes(tmp_path / "real", inner)
        assert note.startswith("fake is a folder inside real, which is read with all its folders")
        (note,) = notes(inner, tmp_path / "real")
        assert note.startswith("real is a folder inside fake")
    assert notes(tmp_path / "real", folder(tmp_path / "real2", pictures(3))) == []


@pytest.mark.parametrize(("kind", "told"), [("JPEG", "jpg"), ("WEBP", "webp")])
def test_lossy_bytes_under_a_lossless_name(tmp_path, kind, told):
    real = folder(tmp_path / "real", pictures(6))
    fake = folder(tmp_path / "fake", pictures(6), format=kind)
    first, second = notes(real, fake)
    assert first == f"fake: 6 images hold {told} in .png: their compression is lossy"
    assert second.startswith(f"file formats differ (png and {told}): lossy compression")
    both = notes(fake, folder(tmp_path / "other", pictures(6), format=kind))
    assert [note[:6] for note in both] == ["real: ", "fake: "]


def test_jpeg_inside_a_tiff(tmp_path):
    real = folder(tmp_path / "real", pictures(6), "{}.tif")
    fake = folder(tmp_path / "fake", pictures(6), "{}.tif", compression="jpeg")
    (note,) = notes(real, fake)
    assert note.startswith("file formats differ (tif and tif (jpeg)): lossy compression")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_remarks_of_a_source_are_told(tmp_path):
    file = next(folder(tmp_path / "a", pictures(1)).iterdir())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("b.png", "a\nforged.png", "a\nforged.png"):
            archive.write(file, name)
    (one,) = extracted([tmp_path / "a.zip"], Extraction(features="pixels"))
    assert len(one.notes) == 2
    assert r"a\nforged.png" in one.notes[1]


# --- records that somebody else wrote -------------------------------------------------------

FORMS = [None, 1, -1, 1.5, "x", [], [1], [[]], {}, {"a": 1}, {"a": "b"}, {"left_out": 3}, True]
KEYS = ["sizes", "modes", "formats", "frames", "largest", "remarks", "two_levels"]
KEYS += ["misnamed", "classes", "classes_not_drawn", "top_folder", "used", "available", "kind"]


@pytest.mark.parametrize("key", KEYS)
def test_no_form_of_a_record_ends_in_a_traceback(tmp_path, key):
    for label in "ab":
        folder(tmp_path / "a" / label, pictures(3))
    (side,) = extracted([tmp_path / "a"], Extraction(features="pixels"))
    for form in FORMS:
        foreign = {"path": "x", "kind": "features", "used": 3, "available": 3}
        foreign["origin"] = side.source | {key: form}
        read_line(foreign, 4)
        oddities(foreign)
        differences({"real": side.source, "fake": foreign})
        differences({"real": foreign, "fake": side.source})


@pytest.mark.parametrize("entry", [None, [], "x", 1, {"a": float("nan")}])
def test_what_is_no_record_is_refused(entry):
    with pytest.raises(DataError, match="has a `protocol` entry that otmetrics did not write"):
        checked_record({"source": entry}, "x")


@pytest.mark.parametrize("form", FORMS)
def test_an_origin_of_another_form_is_none(form):
    source = {"path": "x", "kind": "features", "used": 3, "available": 3, "origin": form}
    assert read_line(source, 4) == "3 features, 4-d"
    assert oddities(source) == differences({"real": source, "fake": source | {"path": "y"}}) == []
