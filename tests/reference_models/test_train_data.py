"""Data by name: layouts made on the fly and read by the code that reads the real ones."""

import math
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import write_celeba, write_cifar10
from otmetrics.reference_models import data as module
from otmetrics.reference_models.data import NAMES, load_data, mixture_data
from otmetrics.reference_models.modes import ring8
from PIL import Image

from otmetrics.errors import DataError, OptionError

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_mnist = pytest.mark.skipif(
    not (SHARED / "MNIST").is_dir(), reason=f"needs the files of MNIST in {SHARED}"
)

RNG = np.random.default_rng(0)
GREY = {
    "train": RNG.integers(0, 256, (30, 28, 28), np.uint8),
    "t10k": RNG.integers(0, 256, (8, 28, 28), np.uint8),
}
CLASSES = {"train": np.arange(30, dtype=np.uint8) % 10, "t10k": np.arange(8, dtype=np.uint8)}


def idx(array):
    """The format of the files of MNIST: zeros, type, dimensions, sizes, bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(root, name="MNIST"):
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(GREY[part]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(CLASSES[part]))
    return raw


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Four images a batch."""
    pixels = RNG.integers(0, 256, (6, 4, 3, 32, 32), np.uint8)
    write_cifar10(tmp_path, monkeypatch, pixels, [1, 0, 9, 5])
    return tmp_path, pixels


@pytest.fixture
def celeba(tmp_path, monkeypatch):
    """Nine faces of one grey each, between red bars that the crop takes away."""
    faces = [np.full((218, 178, 3), 20 * number, np.uint8) for number in range(9)]
    for face in faces:
        face[:10] = face[-10:] = 255, 0, 0
    write_celeba(tmp_path, monkeypatch, faces, [0, 0, 0, 0, 0, 1, 1, 2, 2])
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    """Forty images of one grey each, of several sizes, in two subfolders."""
    for number in range(40):
        shape = ((64, 64), (40, 90), (130, 70), (16, 16))[number % 4]
        path = tmp_path / "photos" / f"{number % 2}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(shape, 6 * number, np.uint8)).save(path)
    return tmp_path / "photos"


def saved(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def rows(tensor):
    return {row.numpy().tobytes() for row in tensor}


# --- points -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "variance"), [("ring8", 0.5 + 1e-4), ("grid25", 8.0025)])
def test_mixtures(name, variance, device):
    data = load_data(name)
    assert (data.train.shape, data.held_out.shape) == ((100_000, 2), (10_000, 2))
    assert data.train.dtype == torch.float64
    assert (data.name, data.shape, data.labels, data.mixture.name) == (name, (2,), None, name)
    inside = data.to_network(data.train.to(device))
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside.cpu(), (data.train / math.sqrt(variance)).float())
    torch.testing.assert_close(data.from_network(inside).cpu(), data.train, atol=1e-6, rtol=0)
    assert data.from_network(inside).dtype == torch.float64
    assert data.mixture.mode_scores(data.held_out).covered == len(data.mixture.centres)


def test_the_seed_decides_and_nothing_else():
    torch.manual_seed(1)
    one = load_data("ring8", seed=4)
    torch.manual_seed(2)
    assert torch.equal(one.train, load_data("ring8", seed=4).train)
    assert not torch.equal(one.train, load_data("ring8", seed=5).train)
    assert not rows(one.train) & rows(one.held_out)


def test_a_mixture_of_your_own():
    data = mixture_data(ring8(sigma=0.05))
    assert data.mixture.sigma == 0.05
    assert data.mixture.mode_scores(data.train).high_quality == pytest.approx(0.989, abs=2e-3)


# --- images to networks and back --------------------------------------------------------------


def test_every_grey_level_comes_back(device):
    data = load_data("digits")
    levels = torch.arange(256, dtype=torch.uint8, device=device).view(4, 1, 8, 8)
    inside = data.to_network(levels)
    assert inside.dtype == torch.float32
    assert (inside.min().item(), inside.max().item()) == (-1, 1)
    torch.testing.assert_close(inside, levels.float() / 127.5 - 1)
    assert torch.equal(data.from_network(inside), levels)
    assert data.from_network(inside).dtype == torch.uint8


def test_what_leaves_the_range_is_clamped_and_the_rest_rounded():
    data = load_data("digits")
    outputs = torch.tensor([-1.5, 1.5, 1 / 127.5 * 0.4, 1 / 127.5 * 0.6], requires_grad=True)
    assert data.from_network(outputs).tolist() == [0, 255, 128, 128]


@pytest.mark.parametrize("name", ["ring8", "digits"])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_outputs_that_are_not_finite_raise(name, value):
    with pytest.raises(ValueError, match="`outputs` must be finite"):
        load_data(name).from_network(torch.tensor([[0.0, value]]))


# --- scikit-learn -----------------------------------------------------------------------------


def test_digits():
    from sklearn.datasets import load_digits

    data = load_data("digits", seed=1)
    assert (data.train.shape, data.held_out.shape) == ((1438, 1, 8, 8), (359, 1, 8, 8))
    assert data.train.dtype == torch.uint8
    assert (data.train.min().item(), data.train.max().item()) == (0, 255)
    # All 1797, each with its label: sixteen levels lie 16 apart.
    levels = torch.cat([data.train, data.held_out]).double().div(255 / 16).round().flatten(1)
    known = load_digits()
    ours = torch.cat([levels, torch.cat(data.labels)[:, None].double()], dim=1)
    theirs = np.concatenate([known.data, known.target[:, None]], axis=1)
    assert sorted(ours.tolist()) == sorted(theirs.tolist())
    assert torch.equal(data.train, load_data("digits", seed=1).train)
    assert not torch.equal(data.train, load_data("digits", seed=2).train)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("digits", "sklearn", "train"),
        ("mnist", "torchvision", "torchvision"),
        ("celeba", "torchvision", "torchvision"),
    ],
)
def test_a_missing_package_names_the_extra(name, package, extra, monkeypatch, tmp_path):
    for missing in (package, f"{package}.datasets"):  # the first may have the second already
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DataError, match=rf'`{name}` .*{package}.*"otmetrics\[{extra}\]"'):
        load_data(name, root=tmp_path)


# --- torchvision ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_idx_files(name, folder, tmp_path):
    write_mnist(tmp_path, folder)
    data = load_data(name, root=str(tmp_path))
    assert (data.name, data.shape, data.train.dtype) == (name, (1, 28, 28), torch.uint8)
    assert np.array_equal(data.train[:, 0], GREY["train"])
    assert np.array_equal(data.held_out[:, 0], GREY["t10k"])
    assert [labels.tolist() for labels in data.labels] == [
        CLASSES["train"].tolist(),
        CLASSES["t10k"].tolist(),
    ]


def test_cifar10(cifar):
    root, pixels = cifar
    data = load_data("cifar10", root=root)
    assert data.shape == (3, 32, 32)
    assert data.train.is_contiguous()
    assert np.array_equal(data.train, pixels[:5].reshape(20, 3, 32, 32))
    assert np.array_equal(data.held_out, pixels[5])
    assert data.labels[1].tolist() == [1, 0, 9, 5]


def test_celeba(celeba):
    data = load_data("celeba", root=celeba)
    assert (data.train.shape, data.held_out.shape) == ((5, 3, 64, 64), (4, 3, 64, 64))
    images = torch.cat([data.train, data.held_out]).double()
    greys = 20 * torch.arange(9).double().view(9, 1, 1, 1)
    assert (images - greys).abs().max() <= 4  # JPEG, and no red bar


def test_stacked_mnist(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setattr(module, "_NUM_STACKED", (500, 90))
    data = load_data("stacked_mnist", root=tmp_path, seed=3)
    parts = ("train", data.train, data.labels[0]), ("t10k", data.held_out, data.labels[1])
    for part, images, labels in parts:
        classes = {
            image.tobytes(): str(k) for image, k in zip(GREY[part], CLASSES[part], strict=True)
        }
        assert len(images) == {"train": 500, "t10k": 90}[part]
        for image, label in zip(images, labels.tolist(), strict=True):
            assert "".join(classes[c.numpy().tobytes()] for c in image) == f"{label:03d}"
    assert torch.equal(data.train, load_data("stacked_mnist", root=tmp_path, seed=3).train)
    assert not torch.equal(data.train, load_data("stacked_mnist", root=tmp_path, seed=4).train)


@needs_mnist
def test_the_real_mnist():
    data = load_data("mnist", root=SHARED)
    assert (data.train.shape, data.held_out.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert torch.bincount(data.labels[0])[[0, 1]].tolist() == [5923, 6742]
    stacked = load_data("stacked_mnist", root=SHARED)
    assert (stacked.train.shape, stacked.held_out.shape) == (
        (128_000, 3, 28, 28),
        (26_000, 3, 28, 28),
    )
    assert len(stacked.labels[0].unique()) == 1000


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "celeba", "stacked_mnist"])
def test_without_files_nothing_is_fetched(name, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("fetched without being asked")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(OptionError, match=f"`{name}` needs the folder.*`root`.*`download`"):
        load_data(name)
    files = name.removeprefix("stacked_")  # of whose digits it is made
    with pytest.raises(
        DataError, match=rf"`{tmp_path}` does not hold.*{files}.*`root`.*`download`"
    ):
        load_data(name, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_are_fetched_when_asked(tmp_path, monkeypatch, capsys):
    fetched = []

    def fetch(url, download_root, filename, md5):
        sys.stdout.write(f"Downloading {url}\n")  # as older versions of torchvision do
        fetched.append(filename)
        part, kind = filename.split("-")[:2]
        content = {"images": GREY, "labels": CLASSES}[kind][part]
        Path(download_root, filename.removesuffix(".gz")).write_bytes(idx(content))

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fetch)
    assert len(load_data("mnist", root=tmp_path / "new", download=True).train) == 30
    assert len(fetched) == 4
    load_data("mnist", root=tmp_path / "new", download=True)
    assert len(fetched) == 4
    assert not capsys.readouterr().out


def test_a_failed_fetch(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no route\nto host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)
    message = rf"`mnist` could not be fetched into `{tmp_path}`.*no route to host.*connection"
    with pytest.raises(DataError, match=message):
        load_data("mnist", root=tmp_path, download=True)


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x03", idx(GREY["train"])[:-1], b"no idx file"])
def test_damaged_idx_files(content, tmp_path):
    (write_mnist(tmp_path) / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=r"does not hold the files of mnist, intact"):
        load_data("mnist", root=tmp_path)


def test_labels_of_other_images(tmp_path):
    raw = write_mnist(tmp_path)
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(CLASSES["t10k"]))
    with pytest.raises(DataError, match="30 images and 8 labels"):
        load_data("mnist", root=tmp_path)


def test_changed_pickles_are_not_opened(cifar):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    root, _ = cifar
    (root / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"does not hold the files of cifar10, intact"):
        load_data("cifar10", root=root)


def test_a_missing_face_is_named(celeba):
    (celeba / "celeba" / "img_align_celeba" / "000004.jpg").unlink()
    with pytest.raises(DataError, match=r"000004\.jpg` does not exist"):
        load_data("celeba", root=celeba)


# --- folders ----------------------------------------------------------------------------------


def test_images_of_a_folder(folder):
    data = load_data(f"folder:{folder}")
    assert (data.train.shape, data.held_out.shape) == ((36, 3, 64, 64), (4, 3, 64, 64))
    assert load_data(f"folder:{folder}", size=32).shape == (3, 32, 32)
    images = torch.cat([data.train, data.held_out])
    assert (images == images[:, :1, :1, :1]).all()  # one grey stays one grey
    assert sorted(images[:, 0, 0, 0].tolist()) == [6 * number for number in range(40)]
    again, other = (load_data(f"folder:{folder}", seed=seed) for seed in (0, 1))
    assert torch.equal(data.held_out, again.held_out)
    assert not torch.equal(data.held_out, other.held_out)


@pytest.mark.parametrize("turned", [False, True])
def test_the_centre_square_is_kept_and_resized_as_pillow_does(folder, turned):
    picture = RNG.integers(0, 256, (100, 161, 3), np.uint8)
    picture = picture.transpose(1, 0, 2) if turned else picture
    for path in folder.rglob("*.png"):
        Image.fromarray(picture).save(path)
    centre = picture[30:130] if turned else picture[:, 30:130]
    expected = Image.fromarray(centre).resize((64, 64), Image.Resampling.BILINEAR)
    image = load_data(f"folder:{folder}").train[0].permute(1, 2, 0).numpy()
    difference = image.astype(int) - np.asarray(expected).astype(int)
    assert np.abs(difference).max() <= 1  # Pillow rounds between its two passes
    assert abs(difference.mean()) < 0.05


def test_a_damaged_image_is_named_with_a_remedy_that_exists(folder):
    path = folder / "1" / "07.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"07\.png` .* or remove it\.$") as caught:
        load_data(f"folder:{folder}")
    assert "skip" not in str(caught.value)


def test_too_few_images(folder):
    for path in sorted(folder.rglob("*.png"))[:21]:
        path.unlink()
    with pytest.raises(DataError, match=rf"`{folder}` holds 19 samples.*at least 20"):
        load_data(f"folder:{folder}")


def test_a_missing_folder():
    with pytest.raises(DataError, match="`/no/such` does not exist"):
        load_data("folder:/no/such")


@pytest.mark.parametrize("size", [0, 48, 128])
def test_sizes_that_networks_do_not_take(folder, size):
    with pytest.raises(OptionError, match=f"`size` must be 32 or 64 pixels, got {size}"):
        load_data(f"folder:{folder}", size=size)


@pytest.mark.parametrize("name", ["ring8", "digits", "mnist", "npz:a.npz"])
def test_only_folders_have_a_size(name):
    with pytest.raises(OptionError, match="`size` is an option of folder:PATH alone"):
        load_data(name, size=32)


# --- arrays -----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_images(side, channels, tmp_path):
    array = RNG.integers(0, 256, (30, side, side, channels), np.uint8)
    name = saved(tmp_path / "a.npz", images=array, labels=np.arange(30))
    data = load_data(name)
    assert (data.train.shape, data.shape) == ((27, channels, side, side), (channels, side, side))
    assert rows(torch.cat([data.train, data.held_out])) == rows(
        torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()
    )
    assert not rows(data.train) & rows(data.held_out)
    assert torch.equal(data.held_out, load_data(name).held_out)
    assert not torch.equal(data.held_out, load_data(name, seed=1).held_out)


def test_transparency_is_composited_on_white(tmp_path):
    array = np.full((20, 8, 8, 4), 100, np.uint8)
    array[..., 3] = 0
    assert (load_data(saved(tmp_path / "a.npz", images=array)).train == 255).all()


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_of_points(suffix, tmp_path):
    points = (RNG.normal(size=(50, 3)) * [1, 1e-3, 1e5] + [0, 5, 1e6]).astype(np.float32)
    points[:, 1] = 0.1
    path = tmp_path / f"a.{suffix}"
    np.save(path, points) if suffix == "npy" else np.savez(path, points)
    data = load_data(f"npz:{path}")
    assert (data.train.shape, data.held_out.shape, data.shape) == ((45, 3), (5, 3), (3,))
    assert data.train.dtype == torch.float64
    assert rows(torch.cat([data.train, data.held_out])) == rows(torch.from_numpy(points).double())
    inside = data.to_network(data.train)
    torch.testing.assert_close(inside.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(inside.std(0, correction=0), torch.tensor([1.0, 0, 1]))
    torch.testing.assert_close(data.from_network(inside), data.train, atol=0, rtol=1e-6)
    inside = data.to_network(data.held_out)
    torch.testing.assert_close(data.from_network(inside), data.held_out, atol=0, rtol=1e-6)


def test_entries_are_chosen_as_for_scores(tmp_path):
    points, images = RNG.normal(size=(30, 2)), RNG.integers(0, 256, (30, 8, 8, 1), np.uint8)
    assert load_data(saved(tmp_path / "a.npz", features=points, images=images)).shape == (2,)
    with pytest.raises(DataError, match="has the entries x, y: save the one to read"):
        load_data(saved(tmp_path / "b.npz", x=points, y=images))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((30, 28, 32, 1), np.uint8), r"28 x 32 pixels.*squares of 8, 28, 32, 64"),
        (np.zeros((30, 48, 48, 3), np.uint8), r"48 x 48 pixels.*folder:PATH"),
        (np.zeros((30, 28, 28), np.uint8), "add the missing axis"),
        (np.zeros((30, 3, 32, 32), np.uint8), "transpose it"),
        (np.zeros((30, 32, 32, 3), np.float32), "convert it to uint8"),
        (np.zeros((19, 32, 32, 3), np.uint8), "holds 19 samples"),
        (np.zeros((19, 2)), "holds 19 samples"),
        (np.full((30, 2), np.nan), "NaN"),
        (np.outer(np.arange(30) - 15, [1e305]), "overflow"),
        (np.array([{"a": 1}], dtype=object), "pickled"),
    ],
)
def test_arrays_that_are_no_samples(array, message, tmp_path):
    with pytest.raises(DataError, match=rf"`{tmp_path}/a\.npz` .*{message}"):
        load_data(saved(tmp_path / "a.npz", images=array))


def test_a_missing_array():
    with pytest.raises(DataError, match=r"`/no/such\.npz` does not exist"):
        load_data("npz:/no/such.npz")


@pytest.mark.skipif(not (SHARED / "cifar10_12k.npz").is_file(), reason="needs cifar10_12k.npz")
def test_a_real_array():
    data = load_data(f"npz:{SHARED / 'cifar10_12k.npz'}")
    assert (data.train.shape, data.held_out.shape) == ((10_800, 3, 32, 32), (1200, 3, 32, 32))


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("rng8", "did you mean ring8"),
        ("MNIST", "did you mean mnist"),
        ("fashion-mnist", "did you mean fashion_mnist"),
        ("cifar100", "did you mean cifar10"),
        ("folder:", r"got 'folder:'"),
        ("", r"got ''"),
        ("imagenet", r"got 'imagenet'"),
    ],
)
def test_unknown_names(name, advice):
    with pytest.raises(OptionError, match=advice) as caught:
        load_data(name)
    assert all(known in str(caught.value) for known in NAMES)


def test_a_path_without_its_kind(folder, tmp_path):
    file = tmp_path / "a.npz"
    file.touch()
    for path, kind in ((folder, "folder"), (file, "npz")):
        with pytest.raises(OptionError, match=f"for your own files write {kind}:{path}"):
            load_data(str(path))


@pytest.mark.parametrize("seed", [-1, 0.5, 2**63])
def test_seeds_that_are_none(seed):
    with pytest.raises(OptionError, match="`seed` must be"):
        load_data("ring8", seed=seed)
