"""What a file says of itself is a claim: nothing is imported, fetched or written on its word."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import timm
import torch
from command import Runner, write_images
from safetensors.torch import save_file

from otmetrics.errors import DataError
from otmetrics.extraction import Extraction, extracted
from otmetrics.features import EXTRACTORS, is_installed, load_extractor
from otmetrics.images import opened
from otmetrics.metrics import FrechetFeatureDistance, FrechetInceptionDistance

EVIL = """
import pathlib

pathlib.Path({marker!r}).write_text("imported")

def net():
    pathlib.Path({marker!r}).write_text("called")

def images():
    import numpy
    yield numpy.zeros((4, 8, 8, 3), numpy.uint8)
"""
SMALL = "test_efficientnet.r160_in1k"
FRECHET = ("--metrics", "frechet_distance", "--no-floor")


@pytest.fixture
def otmetrics(monkeypatch, capsys):
    return Runner(monkeypatch, capsys)


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that appears as soon as the module `evil` of the working directory is imported."""
    marker = tmp_path / "outside" / "marker"
    marker.parent.mkdir()
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "evil.py").write_text(EVIL.format(marker=str(marker)))
    monkeypatch.chdir(folder)
    yield marker
    sys.modules.pop("evil", None)


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """A machine without weights, whose sockets keep count of who reached for the network."""
    made = []

    def refuse(*arguments, **_):
        made.append(arguments)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("OTMETRICS_WEIGHTS", raising=False)
    return made


def features_of(path, record, rows=30, columns=6):
    features = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    text = record if isinstance(record, str) else json.dumps(record)
    np.savez(path, features=features, protocol=text)
    return path


def made_by(name, **more):
    return {"extractor": {"extractor": name} | more, "source": {}}


# --- extractors that files name ---------------------------------------------------------------


def test_only_what_is_installed_with_the_library_may_be_named_by_a_file():
    assert [name for name in EXTRACTORS if is_installed(name)] == [
        "efficientnet_lite0",
        "pixels",
        "none",
    ]
    for name in ("module:pixels:pixels", "timm:resnet18", "inception", "timm:MODEL", "", "pixels:"):
        assert not is_installed(name)


@pytest.mark.parametrize(
    "name",
    ["module:evil:net", "module:http.server:test", "timm:resnet18", "inception", "evil", ""],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_feature_file_chooses_no_extractor(otmetrics, marker, calls, name, first):
    write_images(marker.parent / "images", 12, seed=0)
    features_of("claims.npz", made_by(name))
    sides = ["claims.npz", marker.parent / "images"]
    done = otmetrics("score", *(sides if first else sides[::-1]), *FRECHET)
    assert done.code == 3
    assert f"`claims.npz` says that its features are of `{name}`" in done.stderr
    assert f"--features {name}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not marker.exists()
    assert "evil" not in sys.modules
    assert calls == []


def test_a_process_of_its_own_imports_nothing_either(marker):
    write_images(marker.parent / "images", 12, seed=0)
    features_of("claims.npz", made_by("module:evil:net"))
    command = [sys.executable, "-m", "otmetrics", "score", "claims.npz", marker.parent / "images"]
    done = subprocess.run([*map(str, command), *FRECHET], capture_output=True, text=True)
    assert done.returncode == 3
    assert "a file does not choose what is loaded" in done.stderr
    assert not marker.exists()


def test_the_users_own_word_must_agree_with_the_file(otmetrics, marker, calls):
    write_images(marker.parent / "images", 12, seed=0)
    features_of("claims.npz", made_by("module:evil:net"))
    done = otmetrics(
        "score", "claims.npz", marker.parent / "images", "--features", "pixels", *FRECHET
    )
    assert done.code == 3
    assert "holds features of `module:evil:net`, not of `pixels`" in done.stderr
    assert not marker.exists()


def test_two_feature_files_are_compared_by_name_alone(otmetrics, marker, calls):
    for name in ("a.npz", "b.npz"):
        features_of(name, made_by("module:evil:net"))
    assert otmetrics("score", "a.npz", "b.npz", *FRECHET).code == 0
    assert not marker.exists()


def test_weights_that_a_file_names_are_not_opened(marker, tmp_path):
    write_images(marker.parent / "images", 12, seed=0)
    pipe = tmp_path / "weights.pth"
    os.mkfifo(pipe)  # whoever opened it would wait for ever
    own = load_extractor("pixels").protocol
    features_of("claims.npz", made_by("pixels", **(own | {"weights": str(pipe)})), columns=3072)
    with pytest.raises(DataError, match="differ in weights"):
        extracted(["claims.npz", marker.parent / "images"])


def test_an_installed_extractor_is_still_taken_from_a_file(tmp_path):
    write_images(tmp_path / "images", 12, seed=0)
    own = load_extractor("pixels").protocol
    features_of(tmp_path / "a.npz", {"extractor": own, "source": {}}, columns=3072)
    real, fake = extracted([tmp_path / "a.npz", tmp_path / "images"])
    assert (real.extractor, len(fake)) == (fake.extractor, 12)


# --- records of feature files -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("[]", "no JSON object"),
        ('"text"', "no JSON object"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "no JSON"),
        ('{"extractor": NaN}', "no JSON"),
        ('{"source": {"transparent": Infinity}}', "no JSON"),
        ("{" + '"a":1' + "0" * 5000 + "}", "no JSON"),
        ({"extractor": "pixels"}, "must be an object that names the extractor"),
        ({"extractor": {"extractor": 3}}, "must be an object that names the extractor"),
        ({"extractor": {"extractor": ["a"]}}, "must be an object that names the extractor"),
        (made_by("pix\nels"), "control characters"),
        (made_by("\x1b[31mpixels"), "control characters"),
        (made_by("pixels\u202e"), "control characters"),
        (made_by("pixels", resize={"mode": "a\nb", "size": 3}), "control characters"),
        (made_by("pixels", resize="tf1"), "must be an object with a mode and a size"),
        (made_by("p" * 20_000), "too long"),
        (made_by("pixels", a={"b": {"c": {"d": {"e": 1}}}}), "nested"),
        ({"source": []}, "must be an object"),
        ({"source": {"path": 3}}, "`path` of its source is a int"),
        ({"source": {"transparent": "many"}}, "`transparent` of its source is a str"),
        ({"source": {"transparent": True}}, "`transparent` of its source is a bool"),
        ({"source": {"others": -1}}, "`others` of its source"),
        ({"source": {"skipped": 3}}, "`skipped` of its source is a int"),
        ({"source": {"skipped": [3]}}, "must be lines of text"),
        ({"source": {"formats": ["png"]}}, "`formats` of its source is a list"),
        ({"source": {"formats": {"png": "all"}}}, "`formats` of its source must count"),
        ({"source": {"formats": {"p\nerror:": 3}}}, "control characters"),
        ({"source": {"classes": 1}}, "`classes` of its source is a int"),
        ({"source": {"origin": json.loads("[" * 50 + "]" * 50)}}, "nested too deeply"),
    ],
    ids=range(30),
)
def test_a_record_of_another_form_is_refused(otmetrics, tmp_path, record, message):
    features_of(tmp_path / "a.npz", record)
    features_of(tmp_path / "b.npz", {})
    done = otmetrics("score", tmp_path / "a.npz", tmp_path / "b.npz", *FRECHET)
    assert (done.code, done.stdout) == (3, "")
    assert message in done.stderr
    assert done.stderr.startswith(f"error: `{tmp_path / 'a.npz'}` ")
    assert len(done.stderr.splitlines()) == 1


def test_what_a_record_says_of_damage_cannot_forge_a_line(otmetrics, tmp_path):
    record = {"source": {"skipped": ["a.png\nerror: forged", "\x1b[2Jb.png"], "transparent": 3}}
    features_of(tmp_path / "a.npz", record)
    features_of(tmp_path / "b.npz", {})
    done = otmetrics("score", tmp_path / "a.npz", tmp_path / "b.npz", *FRECHET)
    assert done.code == 0
    assert r"a.png\nerror: forged" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    assert not [line for line in done.stderr.splitlines() if line.startswith("error")]


def test_a_record_without_an_end_is_refused_before_it_is_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", features=np.zeros((30, 6), np.float32))
    with zipfile.ZipFile(tmp_path / "a.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("protocol", b" " * (70 << 20))
    with pytest.raises(DataError, match="`protocol` entry of 73 MB: leave it out"):
        opened(tmp_path / "a.npz")


# --- downloads --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [(f"timm:{SMALL}", "1 MB"), ("inception", "95.6 MB")])
def test_nothing_is_fetched_without_being_asked(otmetrics, calls, tmp_path, name, size):
    write_images(tmp_path / "images", 12, seed=0)
    done = otmetrics(
        "score", tmp_path / "images", tmp_path / "images", "--features", name, *FRECHET
    )
    assert done.code == 3
    for part in (f"error: {name}:", size, "not on this machine", "--download", "--weights PATH"):
        assert part in done.stderr
    with pytest.raises(DataError, match="download=True"):
        load_extractor(name)
    with pytest.raises(DataError, match="download=True"):
        FrechetFeatureDistance(name)
    assert calls == []


def test_the_metric_that_loads_inception_fetches_it_only_if_asked(calls):
    with pytest.raises(DataError, match="nothing is fetched without being asked"):
        FrechetInceptionDistance()
    assert calls == []
    with pytest.raises(DataError, match="the download failed"):
        FrechetInceptionDistance(download=True)
    assert calls


@pytest.mark.parametrize("name", [f"timm:{SMALL}", "inception"])
def test_the_users_own_flag_reaches_for_the_network(otmetrics, calls, tmp_path, name):
    write_images(tmp_path / "images", 12, seed=0)
    sides = (tmp_path / "images", tmp_path / "images")
    done = otmetrics("score", *sides, "--features", name, "--download", *FRECHET)
    assert done.code == 3
    assert "no network in this test" in done.stderr
    assert calls


@pytest.mark.parametrize(("place", "download"), [("hub", False), ("torch", True)])
def test_weights_in_the_cache_are_used_without_a_look_at_the_network(
    calls, tmp_path, monkeypatch, download, place
):
    torch.manual_seed(0)
    network = timm.create_model(SMALL, pretrained=False)
    if place == "hub":
        repository = tmp_path / "hub" / f"models--timm--{SMALL}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("abc")
        (repository / "snapshots" / "abc").mkdir(parents=True)
        save_file(network.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    else:
        config = timm.models.get_pretrained_cfg(SMALL)
        config.url = "https://example.org/weights/small.pth"
        monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda model: config)
        (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
        torch.save(network.state_dict(), tmp_path / "torch" / "hub" / "checkpoints" / "small.pth")
    save_file(network.state_dict(), tmp_path / "same.safetensors")
    images = torch.arange(2 * 3 * 40 * 50).remainder(251).view(2, 3, 40, 50).to(torch.uint8)
    extractor = load_extractor(f"timm:{SMALL}", download=download, runtime="torch")
    weights = tmp_path / "same.safetensors"
    own = load_extractor(f"timm:{SMALL}", weights=weights, runtime="torch")
    assert torch.equal(extractor(images), own(images))
    assert extractor.protocol == own.protocol
    assert calls == []


def test_a_cached_file_that_would_run_code_is_not_unpickled(calls, tmp_path, marker):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    repository = tmp_path / "hub" / f"models--timm--{SMALL}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    torch.save({"weight": Evil()}, repository / "snapshots" / "abc" / "pytorch_model.bin")
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_extractor(f"timm:{SMALL}")
    assert not marker.exists()


# --- inputs that look like functions ----------------------------------------------------------


@pytest.mark.parametrize("name", ["evil:images", "evil:net", "http.server:test", "os:abort"])
def test_a_name_alone_imports_nothing(otmetrics, marker, calls, name):
    done = otmetrics("extract", name, "out.npz", "--features", "pixels")
    assert done.code == 3
    assert f"python:{name}" in done.stderr
    assert not marker.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("prefix", ["", "python:"])
def test_a_link_that_leads_nowhere_imports_nothing(otmetrics, marker, prefix):
    pathlib.Path(f"{prefix}evil:images").symlink_to("/nowhere/at/all")
    done = otmetrics("extract", f"{prefix}evil:images", "out.npz", "--features", "pixels")
    assert done.code == 3
    assert "does not exist" in done.stderr
    assert not marker.exists()


@pytest.mark.parametrize("prefix", ["", "python:"])
def test_what_exists_is_a_path(marker, prefix):
    write_images(marker.parent.parent / "work" / f"{prefix}evil:images", 5, seed=0)
    assert len(opened(f"{prefix}evil:images")) == 5
    assert not marker.exists()


def test_a_link_that_has_the_name_of_a_data_set_is_a_path(marker):
    pathlib.Path("mnist:test").symlink_to("/nowhere/at/all")
    with pytest.raises(DataError, match="`mnist:test` does not exist"):
        opened("mnist:test")


def test_the_users_own_prefix_imports(marker):
    (found,) = extracted(["python:evil:images"], Extraction(features="pixels"), at_least=1)
    assert len(found) == 4
    assert marker.read_text() == "imported"
