"""Statistics as other programs write them, each written here as its own code writes it."""

import collections
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from claim_cases import cheap
from command import Runner, write_images

from otmetrics.errors import DataError
from otmetrics.images import ImageArray, limits, open_input

RNG = np.random.default_rng(0)
CLOUD = RNG.normal(size=(60, 7)) @ RNG.normal(size=(7, 7)) + 3
OTHER = RNG.normal(size=(50, 5))
MEAN, COVARIANCE = CLOUD.mean(0), np.cov(CLOUD, rowvar=False)
PAIR = {"mu": MEAN, "sigma": COVARIANCE}
SECOND = {"mu": OTHER.mean(0), "sigma": np.cov(OTHER, rowvar=False)}
IMAGES = RNG.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)


def dumped(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def assert_moments(found, mean=MEAN, covariance=COVARIANCE, count=None):
    moments = found.moments
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, covariance, rtol=1e-10, atol=1e-12)
    assert moments.mean.dtype == moments.covariance.dtype == np.float64
    assert moments.count == count


class FeatureStats:
    """Of StyleGAN2-ADA and StyleGAN3, `metrics/metric_utils.py`: what they keep, and how."""

    def __init__(self, capture_all=False, capture_mean_cov=False, max_items=None):
        self.capture_all = capture_all
        self.capture_mean_cov = capture_mean_cov
        self.max_items = max_items
        self.num_items = 0
        self.num_features = self.all_features = self.raw_mean = self.raw_cov = None

    def append(self, x):
        x = np.asarray(x, np.float32)
        if self.num_features is None:
            self.num_features, self.all_features = x.shape[1], []
            self.raw_mean = np.zeros(x.shape[1])
            self.raw_cov = np.zeros((x.shape[1], x.shape[1]))
        self.num_items += len(x)
        if self.capture_all:
            self.all_features.append(x)
        if self.capture_mean_cov:
            x = x.astype(np.float64)
            self.raw_mean += x.sum(0)
            self.raw_cov += x.T @ x

    def save(self, path, protocol):
        return dumped(path, self.__dict__, protocol)


# --- the formats ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("mu", "sigma"), ("ref_mu", "ref_sigma"), ("clap.mu", "clap.cov"), ("mean", "cov")]
)
def test_archives_of_mean_and_covariance(tmp_path, names):
    np.savez(tmp_path / "a.npz", **dict(zip(names, (MEAN, COVARIANCE), strict=True)))
    found = open_input(tmp_path / "a.npz")
    assert_moments(found)
    assert found.features.shape == (0, 7)
    assert found.remarks == [f"read as mean and covariance ({', '.join(names)})"]


def test_a_reference_batch_of_adm_is_images_and_statistics_of_others(tmp_path):
    extra = {"mu_s": SECOND["mu"], "sigma_s": SECOND["sigma"]}
    np.savez(tmp_path / "ref.npz", arr_0=IMAGES, **PAIR, **extra)
    found = open_input(tmp_path / "ref.npz")
    assert isinstance(found, ImageArray)
    assert len(found) == len(IMAGES)
    assert_moments(found)
    assert found.moments.kind == "mean and covariance of a reference batch of ADM (mu, sigma)"
    assert found.moments.unused == ("mu_s", "sigma_s")
    assert found.remarks[-1] == "in the file and not used: mu_s, sigma_s"
    assert_moments(open_input(tmp_path / "ref.npz[s]"), *SECOND.values())
    with pytest.raises(DataError, match=r"no statistics of `clip` but those of s: correct"):
        open_input(f"{tmp_path}/ref.npz[clip]")


@pytest.mark.parametrize("name", ["features", "feats", "X"])
@pytest.mark.parametrize("with_statistics", [False, True])
def test_features_of_clean_fid_and_fd_loss(tmp_path, name, with_statistics):
    np.savez_compressed(tmp_path / "a.npz", **{name: CLOUD}, **(PAIR if with_statistics else {}))
    found = open_input(tmp_path / "a.npz")
    assert np.array_equal(found.features, CLOUD)
    assert (found.moments is not None) == with_statistics


def test_a_folder_of_fadtk(tmp_path):
    np.save(tmp_path / "mu.npy", MEAN)
    np.save(tmp_path / "cov.npy", COVARIANCE)
    found = open_input(tmp_path)
    assert_moments(found)
    assert found.moments.kind == "mean and covariance (mu.npy, cov.npy)"
    (tmp_path / "images").mkdir()
    write_images(tmp_path / "images", 3, seed=0)
    assert len(open_input(tmp_path)) == 3
    shutil.rmtree(tmp_path / "images")
    np.save(tmp_path / "cov.npy", COVARIANCE[:3])
    with pytest.raises(DataError, match=r"must have the shapes \(D,\) and \(D, D\)"):
        open_input(tmp_path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_sums_of_stylegan(tmp_path, protocol):
    stats = FeatureStats(capture_mean_cov=True)
    for batch in np.split(CLOUD, 4):
        stats.append(batch)
    found = open_input(stats.save(tmp_path / "a.pkl", protocol))
    exact = CLOUD.astype(np.float32).astype(np.float64)
    assert_moments(found, exact.mean(0), np.cov(exact, rowvar=False), 60)
    assert found.moments.kind == "sums of StyleGAN (raw_mean, raw_cov)"
    assert not len(found.features)


@pytest.mark.parametrize("sums", [False, True])
def test_all_features_of_stylegan(tmp_path, sums):
    stats = FeatureStats(capture_all=True, capture_mean_cov=sums, max_items=60)
    for batch in (CLOUD[:16], CLOUD[16:48], CLOUD[48:]):
        stats.append(batch)
    found = open_input(stats.save(tmp_path / "a.pkl", 4))
    assert np.array_equal(found.features, CLOUD.astype(np.float32))
    assert (found.moments is not None) == sums
    del stats.all_features[1]
    stats.save(tmp_path / "a.pkl", 4)
    if sums:
        assert not len(open_input(tmp_path / "a.pkl").features)
    else:
        with pytest.raises(DataError, match="holds neither all features nor their sums"):
            open_input(tmp_path / "a.pkl")


def test_statistics_of_edm2_are_named_in_brackets(tmp_path):
    stats = {"num_images": 50000, "fid": PAIR, "fd_dinov2": SECOND}
    path = dumped(tmp_path / "img512.pkl", stats)
    assert_moments(open_input(f"{path}[fid]"), count=50000)
    found = open_input(f"{path}[fd_dinov2]")
    assert_moments(found, *SECOND.values(), count=50000)
    assert found.moments.kind == "mean and covariance (fd_dinov2.mu, fd_dinov2.sigma)"
    assert found.moments.unused == ("fid.mu", "fid.sigma")
    with pytest.raises(DataError, match=r"of several networks, fid, fd_dinov2: name one .*\[fid\]"):
        open_input(path)
    assert_moments(open_input(dumped(path, {"num_images": 9, "fid": PAIR})), count=9)


@pytest.mark.parametrize("tensors", [False, True])
def test_the_cache_of_torch_fidelity(tmp_path, tensors):
    torch.save(
        {n: torch.from_numpy(x) if tensors else x for n, x in PAIR.items()}, tmp_path / "a.pt"
    )
    assert_moments(open_input(tmp_path / "a.pt"))
    features = torch.from_numpy(CLOUD)[:, 1:5]  # a view of more
    torch.save(features, tmp_path / "a.pt")
    assert np.array_equal(open_input(tmp_path / "a.pt").features, CLOUD[:, 1:5])
    torch.save({"features": features.T.half().T, "n": 3}, tmp_path / "a.pt")
    assert np.array_equal(open_input(tmp_path / "a.pt").features, CLOUD[:, 1:5].astype("f2"))
    torch.save(torch.from_numpy(IMAGES), tmp_path / "a.pt")
    assert np.array_equal(
        open_input(tmp_path / "a.pt").read(2)[0].numpy(), IMAGES[2].transpose(2, 0, 1)
    )


@pytest.mark.parametrize("zipped", [False, True])
def test_statistics_of_basicsr_and_rosinality(tmp_path, zipped):
    mean, cov = MEAN.astype("f4"), COVARIANCE
    stats = {"name": "FFHQ", "size": 512, "mean": mean, "cov": cov}
    torch.save(stats, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert_moments(open_input(tmp_path / "a.pth"), mean)
    assert_moments(open_input(dumped(tmp_path / "a.pkl", stats | {"path": "x"})), mean)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.pkl", "a.pt", "a", "a.stats"])
def test_a_file_is_what_it_holds_whatever_its_name(tmp_path, name):
    assert_moments(open_input(dumped(tmp_path / name, PAIR)))
    if "." in name and name != "a.stats":
        with (tmp_path / name).open("wb") as file:
            np.savez(file, **PAIR)
        assert_moments(open_input(tmp_path / name))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("array", [
    CLOUD, CLOUD.T, np.asfortranarray(CLOUD), CLOUD[::2, 1:], CLOUD.astype(">f4"),
    CLOUD.astype("f2"), (CLOUD * 9).astype("i2"), np.float64(2) * CLOUD[:1],
], ids=["c", "t", "f", "view", "big", "half", "int", "row"])  # fmt: skip
def test_arrays_of_pickles_keep_values_and_dtype(tmp_path, array, protocol):
    found = open_input(dumped(tmp_path / "a.pkl", {"features": array, "n": np.int64(3)}, protocol))
    assert np.array_equal(found.features, array)
    assert found.features.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")


def test_axes_of_pickled_images_keep_their_order(tmp_path):
    images = IMAGES.transpose(0, 3, 1, 2).copy().transpose(0, 2, 3, 1)
    for protocol in (2, 5):
        found = open_input(dumped(tmp_path / "a.pkl", images, protocol))
        assert np.array_equal(found.read(1)[0].numpy(), images[1].transpose(2, 0, 1))


def test_protocol_2_of_numpy_1(tmp_path):
    content = pickle.dumps(PAIR, 2).replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "a.pkl").write_bytes(content)
    assert_moments(open_input(tmp_path / "a.pkl"))


def test_pytorch_fid_agrees(tmp_path, monkeypatch):
    """Its own code writes and reads the file; the network gives rows that are known."""
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    rows = RNG.normal(size=(2000, 12)) @ RNG.normal(size=(12, 12))

    class Net(torch.nn.Module):
        BLOCK_INDEX_BY_DIM = {12: 0}  # noqa: RUF012

        def __init__(self, *_):
            super().__init__()
            self.done = 0

        def forward(self, batch):
            self.done += len(batch)
            return [torch.from_numpy(rows[self.done - len(batch) : self.done, :, None, None])]

    folder, out = tmp_path / "images", tmp_path / "out.npz"
    write_images(folder, 1, seed=0)
    (first,) = folder.iterdir()
    for index in range(1999):
        os.link(first, folder / f"{index}.png")
    monkeypatch.setattr(fid_score, "InceptionV3", Net)
    fid_score.save_fid_stats([str(folder), str(out)], 50, "cpu", 12, 0)
    assert_moments(open_input(out), rows.mean(0), np.cov(rows, rowvar=False))


def test_covariances_without_full_rank(tmp_path):
    """Fewer samples than dimensions, or all alike; float32 has made some eigenvalues negative."""
    few = np.cov(CLOUD[:4].astype("f4"), rowvar=False).astype("f4")
    for covariance in (few, np.zeros((7, 7)), np.full((7, 7), 1e-320), COVARIANCE * 1e280):
        found = open_input(dumped(tmp_path / "a.pkl", {"mu": MEAN, "sigma": covariance}))
        assert_moments(found, covariance=covariance)


# --- what is refused --------------------------------------------------------------------------


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def evil_values(marker):
    touch = f"touch {marker}"
    yield "system", Evil(os.system, touch)
    yield "eval", Evil(eval, f"__import__('os').system({touch!r})")
    yield "getattr", Evil(getattr, Evil(__import__, "os"), "system")
    yield "Popen", Evil(subprocess.Popen, ["touch", str(marker)])
    yield "load", Evil(np.load, str(marker), None, True)
    yield "loads", Evil(pickle.loads, pickle.dumps(Evil(os.system, touch)))
    yield "_load_from_bytes", Evil(torch.storage._load_from_bytes, b"")
    yield "defaultdict", collections.defaultdict(list)
    yield "complex", 1j


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("wrapper", ["pickle", "torch", "legacy", "array"])
def test_a_pickle_that_would_run_code_runs_none(tmp_path, wrapper, protocol):
    marker, path = tmp_path / "marker", tmp_path / "evil.pkl"
    for name, value in evil_values(marker):
        value = {"mu": MEAN, "x": value, "sigma": COVARIANCE}
        if wrapper == "array":
            value = np.array([value["x"], None])
        if wrapper in {"torch", "legacy"}:
            torch.save(value, path, pickle_protocol=protocol,
                       _use_new_zipfile_serialization=wrapper == "torch")  # fmt: skip
        else:
            dumped(path, value, protocol)
        with pytest.raises(DataError) as refused:
            open_input(path)
        said = str(refused.value)
        assert said.startswith(f"`{path}` holds ")
        # Objects are refused before it is seen what they are.
        assert ("dtype `O8`" if wrapper == "array" else f".{name}`, which is neither") in said
        assert "save" in said
        assert "\n" not in said
    assert not marker.exists()


RAW = {
    "encode": b"\x80\x02c_codecs\nencode\nX\x03\0\0\0abcX\x05\0\0\0rot13\x86R.",
    "called array": b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
    "called twice": b"\x80\x02c_codecs\nencode\nK\x05\x85RK\x05\x85R.",
    "import by a value": b"\x80\x04K\x05K\x06\x93.",
    "import by a list": b"\x80\x04]]\x93.",
    "inst": b"\x80\x02(S'echo'\niposix\nsystem\n.",
    "obj": b"\x80\x02(cposix\nsystem\nX\x01\0\0\0ao.",
    "newobj": b"\x80\x02cnumpy\nndarray\nK\x05\x85\x85\x81.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"\x80\x02K\x01Q.",
    "far memo": b"\x80\x02]r\xff\xff\xff\xff0]r\xfe\xff\xff\xff.",
    "long bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "long frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
    "long number": b"\x80\x02\x8b\xff\xff\xff\x7f\0.",
    "many lists": b"\x80\x02" + b"]" * 10**5 + b".",
    "deep tuple as a key": b"\x80\x02}" + b"K\x01" + b"\x85" * 10**5 + b"Ns.",
    "deep list": b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
    "marks": b"\x80\x02" + b"(" * 10**5 + b".",
    "nothing": b"\x80\x04.",
    "no end": b"\x80\x04}",
    "state of a dict": b"\x80\x02}}b.",
    "tail": pickle.dumps(PAIR) + b"x",
    "number": pickle.dumps(3),
    "old protocol": pickle.dumps(PAIR, 0),
    "long scalar": pickle.dumps(np.int64(5), 4).replace(b"C\x08", b"C\x09\1"),
    "self": b"\x80\x02]q\0h\0a.",
}


@pytest.mark.parametrize("name", RAW)
def test_pickles_that_no_program_writes(tmp_path, monkeypatch, name):
    if name == "many lists":
        monkeypatch.setattr(limits, "MAX_PICKLE_STEPS", 10**4)
    (tmp_path / "a.pkl").write_bytes(RAW[name])
    with cheap(seconds=30), pytest.raises(DataError, match=r"^`[^`]*a\.pkl` .*: .*\.$") as refused:
        open_input(tmp_path / "a.pkl")
    said = {"deep tuple as a key": "(a tuple as a key)", "long scalar": "of 9 bytes"}
    assert said.get(name, "") in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("old", "new"), [
    (b"K\x07K\x07\x86", b"K\x07K\x08\x86"),
    (b"K\x07K\x07\x86", b"K\x07J\xff\xff\xff\x7f\x86"),
    (b"K\x07K\x07\x86", b"K\x07J\xff\xff\xff\xff\x86"),
    (b"f8", b"O8"), (b"f8", b"V8"), (b"f8", b"M8"), (b"f8", b"f3"), (b"f8", b"c9"),
    (b"X\x01\0\0\0<", b"X\x01\0\0\0&"),
    (b"latin1", b"utf-16"),
])  # fmt: skip
def test_arrays_that_claim_what_is_not_there(tmp_path, old, new):
    content = pickle.dumps({"mu": MEAN, "sigma": COVARIANCE}, 2)
    assert old in content
    (tmp_path / "a.pkl").write_bytes(content.replace(old, new))
    with cheap(), pytest.raises(DataError):
        open_input(tmp_path / "a.pkl")


def _zip_of_torch(value, **changes):
    """A file of torch with other members."""
    out, changed = io.BytesIO(), io.BytesIO()
    torch.save(value, out)
    with zipfile.ZipFile(out) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            for old_bytes, new_bytes in changes.get(name.rpartition("/")[2].split(".")[0], ()):
                assert old_bytes in content
                content = content.replace(old_bytes, new_bytes)
            new.writestr(name, content)
    return changed.getvalue()


@pytest.mark.parametrize("change", [
    (b"K\x3cK\x07\x86", b"J\xff\xff\xff\x7fK\x07\x86"),
    (b"K\x07K\x01\x86", b"K\0K\0\x86"),  # strides that repeat a number, of a larger shape below
    (b"K\x07K\x01\x86", b"J\xff\xff\xff\x7fK\x01\x86"),
    (b"K\x07K\x01\x86", b"J\xff\xff\xff\xffK\x01\x86"),
    (b"DoubleStorage", b"IntStorage"),
    (b"torch._utils\n_rebuild_tensor_v2", b"torch._utils\n_rebuild_tensor_v9"),
    (b"X\x01\0\0\x000", b"X\x01\0\0\x001"),
])  # fmt: skip
def test_tensors_that_claim_what_is_not_there(tmp_path, change):
    path = tmp_path / "a.pt"
    path.write_bytes(_zip_of_torch(torch.from_numpy(CLOUD)))
    assert np.array_equal(open_input(path).features, CLOUD)
    changes = [change]
    if change[1] == b"K\0K\0\x86":
        changes.append((b"K\x3cK\x07\x86", b"KdK\x07\x86"))
    path.write_bytes(_zip_of_torch(torch.from_numpy(CLOUD), data=changes))
    with cheap(), pytest.raises(DataError, match=r"^`[^`]*a\.pt` "):
        open_input(path)


@pytest.mark.parametrize(("kind", "said"), [
    ("deflated", "has compressed members"), ("deflated storage", "has compressed members"),
    ("tail", "bytes behind the end of a pickle"), ("program", "is a program of TorchScript"),
    ("size", "its members claim more bytes than it has"), ("big", "(covariance is not|a value is)"),
])  # fmt: skip
def test_files_of_torch_that_torch_does_not_write(tmp_path, kind, said):
    out, path = io.BytesIO(), tmp_path / "a.pt"
    torch.save({n: torch.from_numpy(x) for n, x in PAIR.items()}, out)
    with zipfile.ZipFile(out) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            packed = kind == "deflated" or (kind == "deflated storage" and "/data/" in name)
            content = old.read(name) + b"x" * (kind == "tail" and name.endswith("/data.pkl"))
            content = b"big" if kind == "big" and name.endswith("byteorder") else content
            new.writestr(name, content, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
        if kind == "program":
            new.writestr("archive/constants.pkl", b"")
    if kind == "size":
        sizes = struct.pack("<II", COVARIANCE.nbytes, COVARIANCE.nbytes)
        claims = struct.pack("<II", 2**29, 2**29)
        path.write_bytes(path.read_bytes().replace(sizes, claims))
    with cheap(seconds=30), pytest.raises(DataError, match=said):
        open_input(path)


def test_flipped_bytes_of_files_of_torch_are_noticed(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({n: torch.from_numpy(x) for n, x in PAIR.items()}, path)
    content = path.read_bytes()
    for part in (MEAN.tobytes(), COVARIANCE.tobytes(), b"_rebuild_tensor_v2"):
        flipped = bytearray(content)
        flipped[content.index(part) + 5] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(DataError, match=r"is truncated or corrupt|holds `"):
            open_input(path)


@pytest.mark.parametrize(("value", "said"), [
    ({"mu": MEAN, "sigma": None}, "both must be arrays"),
    ({"mu": [1.0], "sigma": [[1.0]]}, "both must be arrays"),
    ({"mu": MEAN, "sigma": -COVARIANCE}, "not positive semi-definite"),
    ({"mu": MEAN, "sigma": COVARIANCE - 0.1 * np.eye(7)}, "not positive semi-definite"),
    ({"fid": {"mu": MEAN, "x": MEAN}}, "has the entries fid.mu, fid.x: save"),
    ({"a": MEAN, "b": MEAN}, "has the entries a, b: save"),
    ({"num_items": 1, "num_features": 7, "raw_mean": MEAN, "raw_cov": COVARIANCE}, "fewer than 2"),
    ({"num_items": 5, "num_features": 7, "raw_mean": None, "raw_cov": None}, "no sums of features"),
    ({"num_items": 60, "num_features": 7, "raw_mean": MEAN, "raw_cov": MEAN}, "have the shapes"),
    ([MEAN, COVARIANCE], "holds no array but a value of type list"),
    (None, "holds no array but a value of type None"),
    (MEAN, "one row is not a set of features"),
], ids=str)  # fmt: skip
def test_values_that_are_no_statistics(tmp_path, value, said):
    with pytest.raises(DataError, match=said):
        open_input(dumped(tmp_path / "a.pkl", value))


def test_one_batch_many_times_is_no_claim_of_terabytes(tmp_path):
    batch = np.zeros((1000, 10), np.float32)
    stats = FeatureStats().__dict__ | {"num_items": 10**7, "all_features": [batch] * 10**4}
    with cheap(), pytest.raises(DataError, match="more features than the file has room for"):
        open_input(dumped(tmp_path / "a.pkl", stats))


def test_what_stands_in_brackets_must_fit(tmp_path):
    np.save(tmp_path / "a.npy", CLOUD)
    np.savez(tmp_path / "a.npz", features=CLOUD)
    np.savez(tmp_path / "b[1].npz", **PAIR)
    assert_moments(open_input(tmp_path / "b[1].npz"))
    with pytest.raises(DataError, match=r"a\.npy` holds one array: leave out"):
        open_input(f"{tmp_path}/a.npy[x]")
    with pytest.raises(DataError, match=r"a\.npz` holds no statistics of `x` by name: leave out"):
        open_input(f"{tmp_path}/a.npz[x]")
    with pytest.raises(DataError, match="does not exist"):
        open_input(f"{tmp_path}/none.npz[x]")


def test_large_pickles_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = dumped(tmp_path / "a.pkl", PAIR)
    (tmp_path / "a.npz").write_bytes(path.read_bytes())
    monkeypatch.setattr(limits, "MAX_PICKLE_STEPS", 20)
    with pytest.raises(DataError, match=r"a\.npz` is a pickle of more than 20 steps: save its"):
        open_input(tmp_path / "a.npz")
    monkeypatch.setattr(limits, "MAX_PICKLE_BYTES", path.stat().st_size - 1)
    with pytest.raises(DataError, match=r"a\.pkl` is a pickle of more than .*: save its arrays"):
        open_input(path)


def test_the_command_line_takes_them_and_says_what_they_are(tmp_path, monkeypatch, capsys):
    run = Runner(monkeypatch, capsys)
    path = dumped(tmp_path / "edm2.pkl", {"num_images": 60, "fid": PAIR, "fd_dinov2": SECOND})
    np.save(tmp_path / "a.npy", CLOUD)
    options = ("--metrics", "frechet_distance", "--json")
    done = run("score", f"{path}[fid]", tmp_path / "a.npy", *options)
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["scores"]["frechet_distance"]["value"] == pytest.approx(0, abs=1e-9)
    assert "read as mean and covariance (fid.mu, fid.sigma)" in done.stderr
    marker = tmp_path / "marker"
    dumped(path, Evil(os.system, f"touch {marker}"))
    done = run("score", path, tmp_path / "a.npy", *options)
    assert done.code == 3
    assert len(done.stderr.splitlines()) == 1
    assert ".system`, which is neither" in done.stderr
    assert not marker.exists()
