"""What a file says of itself is a claim: nothing is imported, fetched or written on its word."""

import dataclasses
import json
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from command import Runner, write_images
from otmetrics.reference_models import saving
from otmetrics.reference_models.data import load_data
from otmetrics.reference_models.networks import networks
from safetensors.torch import save_file
from training_cases import configured
from training_cases import run as train

from otmetrics.errors import DataError, OptionError, printable
from otmetrics.features import EXTRACTORS, is_installed, is_known, load_extractor
from otmetrics.images import open_input
from otmetrics.metrics import FrechetFeatureDistance, FrechetInceptionDistance
from otmetrics.scoring.extraction import Extraction, extracted

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
    known = is_known(name)
    assert ("name it yourself with --features" in done.stderr) == known
    assert ("which otmetrics does not know: extract them again" in done.stderr) == (not known)
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
        ("[]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ("{", "corrupt"),
        ("[" * 100_000, "corrupt"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "corrupt"),
        ('{"extractor": {"extractor": "a", "b": NaN}}', "holds NaN"),
        ('{"source": {"more": [1, -Infinity]}}', "holds NaN"),
        ("{" + '"a":1' + "0" * 5000 + "}", "corrupt"),
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
        ({"source": {"more": {"a": {"b": float("nan")}}}}, "holds NaN"),
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
    record["source"] |= {"formats": {"p\nerror: x": 3}, "more": [{"\u202e": "\r"}]}
    features_of(tmp_path / "a.npz", record)
    features_of(tmp_path / "b.npz", {})
    done = otmetrics("score", tmp_path / "a.npz", tmp_path / "b.npz", *FRECHET)
    assert done.code == 0
    assert r"a.png\nerror: forged" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    (item, _) = extracted([tmp_path / "a.npz", tmp_path / "b.npz"])
    assert all(note.isprintable() for note in item.notes)
    assert not [line for line in done.stderr.splitlines() if line.startswith("error")]


# --- downloads --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [(f"timm:{SMALL}", "1 MB"), ("inception", "95.6 MB")])
def test_nothing_is_fetched_without_being_asked(otmetrics, calls, tmp_path, name, size):
    write_images(tmp_path / "images", 12, seed=0)
    done = otmetrics(
        "score", tmp_path / "images", tmp_path / "images", "--features", name, *FRECHET
    )
    assert done.code == 3
    for part in (f"error: {name}:", size, "not on this machine", "--download", "--weights"):
        assert part in done.stderr
    with pytest.raises(DataError, match="download=True"):
        load_extractor(name)
    with pytest.raises(DataError, match="download=True"):
        FrechetFeatureDistance(name)
    assert calls == []


def test_the_metric_that_loads_inception_fetches_it_only_if_asked(calls):
    with pytest.raises(DataError, match="nothing is fetched unless you ask for it"):
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
    assert len(open_input(f"{prefix}evil:images")) == 5
    assert not marker.exists()


def test_a_link_that_has_the_name_of_a_data_set_is_a_path(marker):
    pathlib.Path("mnist:test").symlink_to("/nowhere/at/all")
    with pytest.raises(DataError, match="`mnist:test` does not exist"):
        open_input("mnist:test")


def test_the_users_own_prefix_imports(marker):
    (found,) = extracted(["python:evil:images"], Extraction(features="pixels"), at_least=1)
    assert len(found) == 4
    assert marker.read_text() == "imported"


# --- folders of runs --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on scikit-learn's digits, whose images need an extractor."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    data = load_data("digits")
    train(configured("swg", data, steps=2, eval_every=2), data, out)
    return out


@pytest.fixture
def forged(run, tmp_path):
    """Writes the run anew as one that has not come to its first checkpoint, with other options."""

    def forge(**options):
        sampler, config, data = saving.load_generator(run)
        config = dataclasses.replace(config, **options)
        out = tmp_path / "forged"
        out.mkdir()
        saving.export(out, sampler.state_dict(), config, data, 2)
        values = config.to_dict() | {"hash": config.hash}
        (out / "config.json").write_text(json.dumps(values, indent=2))
        shutil.copy(run / "log.jsonl", out)
        return out

    return forge


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10**9}, "of more than 250 million weights"),
        ({"width": 20_000}, "of more than 250 million weights"),
        ({"width": 10**30}, "of more than 250 million weights"),
        ({"latent": 10**9}, "of more than 250 million weights"),
    ],
)
def test_networks_of_any_size_are_not_made(otmetrics, forged, tmp_path, options, message):
    out = forged(**options)
    done = otmetrics("sample", out, tmp_path / "samples", "--num", 3)
    assert (done.code, message in done.stderr) == (3, True)
    assert not (tmp_path / "samples").exists()
    done = otmetrics("train", "swg", "--data", "digits", "--out", out, "--resume", "-q")
    assert (done.code, message in done.stderr) == (2, True)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("architecture", ["mlp", "dcgan", "resnet"])
def test_sizes_are_known_without_making_anything(architecture):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    options = {"latent": 8, "architecture": architecture}
    pair = networks((1, 28, 28), width=16, **options)
    assert torch.equal(torch.get_rng_state(), before)  # runs have the weights that they had
    assert all(weight.device.type == "cpu" for weight in pair.generator().parameters())
    with pytest.raises(OptionError, match="250 million weights: lower them"):
        networks((1, 28, 28), width=10**5, **options)


def test_batches_have_a_largest_size():
    with pytest.raises(OptionError, match="`batch_size` must be 65536 at most"):
        configured("swg", load_data("ring8"), batch_size=10**12)


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_evaluate_reads_no_path_that_a_run_names(otmetrics, forged, tmp_path, kind):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # whoever opened it would wait for ever
    done = otmetrics("evaluate", forged(data=f"{kind}:{pipe}"))
    assert done.code == 2
    assert f"says that it learned from `{kind}:{pipe}`" in done.stderr
    assert f"--data {kind}:{pipe}" in done.stderr


@pytest.mark.parametrize("name", ["module:evil:net", "timm:resnet18", "inception", "no\nname"])
def test_evaluate_loads_no_extractor_that_a_run_names(otmetrics, forged, marker, calls, name):
    out = forged(eval_features=name)
    done = otmetrics("evaluate", out)
    assert done.code == 2
    assert printable(f"says that it was evaluated by `{name}`") in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not marker.exists()
    assert calls == []


def test_the_users_own_choice_goes_before_that_of_the_run(otmetrics, forged, marker):
    out = forged(eval_features="module:evil:net")
    done = otmetrics("evaluate", out, "--eval-features", "module:another:net")
    assert done.code == 2
    assert "`module:another:net` has no module that can be imported" in done.stderr
    assert not marker.exists()


def test_the_users_own_extractor_evaluates(otmetrics, run, marker, calls):
    done = otmetrics("evaluate", run, "--eval-features", "module:evil:net")
    assert marker.read_text() == "called"
    assert done.code == 2
    assert "must be a torch.nn.Module" in done.stderr


@pytest.mark.parametrize("name", ["module:evil:net", "timm:resnet18", "inception"])
def test_resume_loads_no_extractor_that_a_run_names(otmetrics, forged, marker, calls, name):
    out = forged(eval_features=name)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    done = otmetrics("train", "swg", "--data", "digits", "--out", out, "--resume", "-q")
    assert done.code == 2
    assert f"says that it was evaluated by `{name}`" in done.stderr
    assert not marker.exists()
    assert calls == []
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_checkpoint_names_no_extractor_either(otmetrics, run, tmp_path, marker, calls):
    out = tmp_path / "forged"
    shutil.copytree(run, out)
    state = saving.load(out / saving.LAST)
    config = dataclasses.replace(saving.load_generator(run)[1], eval_features="module:evil:net")
    for key in ("version", "config", "hash"):
        del state[key]
    saving.save(out / saving.LAST, state, config)
    values = config.to_dict() | {"hash": config.hash}
    (out / "config.json").write_text(json.dumps(values, indent=2))
    done = otmetrics("train", "swg", "--data", "digits", "--out", out, "--resume", "-q")
    assert done.code == 2
    assert "says that it was evaluated by `module:evil:net`" in done.stderr
    assert not marker.exists()


# --- what samples and scores are written to ---------------------------------------------------


def test_samples_take_the_place_of_nothing(otmetrics, run, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link.npz").symlink_to(tmp_path / "nowhere")
    for name in ("link", "link.npz"):
        done = otmetrics("sample", run, tmp_path / name, "--num", 3)
        assert done.code == 3
        assert "exists: name another place" in done.stderr
        assert (tmp_path / name).is_symlink()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("command", ["score", "evaluate"])
@pytest.mark.parametrize("kind", ["pipe", "stdout", "device", "folder"])
def test_json_takes_the_place_of_no_device(otmetrics, run, tmp_path, command, kind):
    for name in ("a.npz", "b.npz"):
        features_of(tmp_path / name, {})
    target = tmp_path / "scores.json"
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to({"stdout": "/proc/self/fd/1", "device": "/dev/null"}[kind])
    before = target.lstat()
    inputs = (run,) if command == "evaluate" else (tmp_path / "a.npz", tmp_path / "b.npz")
    done = otmetrics(command, *inputs, "--json", target)
    assert (done.code, done.stdout) == (3, "")
    assert "name a file" in done.stderr
    assert (target.lstat().st_ino, target.lstat().st_mode) == (before.st_ino, before.st_mode)


def test_features_are_saved_over_no_pipe_and_no_link(otmetrics, tmp_path):
    write_images(tmp_path / "images", 4, seed=0)
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "link.npz").symlink_to(tmp_path / "nowhere")
    command = ("extract", tmp_path / "images")
    options = ("--features", "pixels", "-q")
    for name, more in (("pipe.npz", ("--overwrite",)), ("pipe.npz", ()), ("link.npz", ())):
        assert otmetrics(*command, tmp_path / name, *more, *options).code == 3
    assert stat.S_ISFIFO((tmp_path / "pipe.npz").lstat().st_mode)
    assert otmetrics(*command, tmp_path / "link.npz", "--overwrite", *options).code == 0
    assert not (tmp_path / "nowhere").exists()


def test_a_path_that_looks_like_code_imports_nothing(otmetrics, marker):
    write_images(marker.parent / "images", 12, seed=0)
    done = otmetrics("score", "./python:evil:images", marker.parent / "images", *FRECHET)
    assert done.code == 3
    assert "python:evil:images` does not exist" in done.stderr
    assert not marker.exists()
    assert "evil" not in sys.modules


def test_a_function_that_ends_the_process_is_told(otmetrics, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaves.py").write_text("def images():\n    raise SystemExit(0)\n    yield\n")
    done = otmetrics("extract", "python:leaves:images", "out.npz", "--features", "pixels")
    assert done.code == 3
    assert "raised SystemExit" in done.stderr


def test_no_message_advises_to_load_what_may_run_code(otmetrics, tmp_path):
    images = write_images(tmp_path / "images", 12, seed=0)
    weights = tmp_path / "zeros.pth"
    weights.write_bytes(bytes(4096))
    done = otmetrics("score", images, images, "--weights", weights, *FRECHET)
    assert done.code == 3
    assert "weights_only" not in done.stderr
    assert "is not a file of torch.save" in done.stderr
