"""The compiled network against the network, on real images, and when it must step aside."""

import contextlib
import copy
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from sklearn.datasets import load_sample_images
from torch import nn

import otmetrics
from otmetrics.errors import DataError, OptionError
from otmetrics.features import FrozenExtractor, Preprocessing, load_extractor, pipeline
from otmetrics.features.openvino import CompiledNetwork, Runtime
from otmetrics.images import ImageFolder, batches
from otmetrics.images.decode import write_png


@pytest.fixture(scope="module")
def photographs():
    """Twelve crops of two photographs, uint8 (12, 3, 160, 200)."""
    crops = [
        image[y : y + 160, x : x + 200]
        for image in load_sample_images().images
        for y in (0, 200)
        for x in (0, 180, 400)
    ]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module")
def compiled():
    return load_extractor("efficientnet_lite0")


def small_network():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers).eval()


def small_extractor(network=None, runtime="openvino"):
    network = small_network() if network is None else network
    return FrozenExtractor(network, Preprocessing(size=16), "small", runtime=runtime)


def error(features, expected):
    """Largest relative distance of an image's features."""
    return ((features - expected).norm(dim=1) / expected.norm(dim=1)).max().item()


# --- the same features ----------------------------------------------------------------------


def test_efficientnet_agrees_with_torch_on_photographs(photographs, compiled):
    eager = load_extractor("efficientnet_lite0", runtime="torch")
    assert compiled.runtime_name.startswith("openvino")
    assert eager.runtime_name == f"torch {torch.__version__}"
    assert error(compiled(photographs), eager(photographs)) < 1e-5


def test_inception_agrees_with_torch_on_photographs(photographs, inception_weights):
    ours, eager = (
        load_extractor("inception", weights=inception_weights, runtime=runtime)
        for runtime in ("openvino", "torch")
    )
    assert error(ours(photographs[:4]), eager(photographs[:4])) < 1e-5


def test_a_transformer_agrees_with_torch_on_photographs(photographs, tmp_path):
    path = tmp_path / "vit.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), path)
    name = "timm:vit_tiny_patch16_224"
    ours, eager = (load_extractor(name, weights=path, runtime=r) for r in ("openvino", "torch"))
    assert error(ours(photographs[:4]), eager(photographs[:4])) < 1e-5


def test_features_do_not_depend_on_batch_neighbours_and_threads(photographs, compiled):
    whole = compiled(photographs)
    assert torch.equal(torch.cat([compiled(part) for part in photographs.split(5)]), whole)
    assert torch.equal(compiled(photographs.flip(0)).flip(0), whole)
    network = compiled.network
    inputs = compiled.preprocess(photographs)
    for num_threads in (1, 3):
        assert torch.equal(CompiledNetwork(network, (3, 224, 224), num_threads)(inputs), whole)


def test_batches_of_torch_do_not_depend_on_how_many_images_there_are(photographs):
    extractor = small_extractor(runtime="torch")
    work = pipeline(extractor, 5)
    images = [work.prepare(image) for image in photographs]
    (alone,) = work.features([images[:1]])
    (together,) = work.features([images[:5]])
    assert torch.equal(alone[0], together[0])
    assert len(torch.cat(list(work.features([images[:5], images[5:7]])))) == 7


def test_the_metric_uses_it_too(photographs):
    metric = otmetrics.FrechetFeatureDistance()
    metric.update(photographs[:6], real=True)
    metric.update(photographs[6:], real=False)
    assert metric.compute() > 0


# --- when torch has to do -------------------------------------------------------------------


def test_gradients_pass_the_network_itself():
    extractor = small_extractor()
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    extractor(images).sum().backward()
    assert images.grad.abs().sum() > 0
    extractor.network[0].weight.requires_grad_(True)
    assert extractor(images.detach()).requires_grad


def test_weights_that_change_are_seen():
    extractor = small_extractor()
    images = torch.rand(2, 3, 16, 16)
    before = extractor(images)
    with torch.no_grad():
        extractor.network[0].weight.mul_(2)
    expected = small_extractor(copy.deepcopy(extractor.network), "torch")(images)
    assert error(extractor(images), expected) < 1e-5
    assert error(before, expected) > 0.1


def test_hooks_are_called():
    extractor = small_extractor()
    extractor(torch.rand(1, 3, 16, 16))
    seen = []
    handle = extractor.network[0].register_forward_hook(lambda *args: seen.append(1))
    extractor(torch.rand(1, 3, 16, 16))
    assert seen == [1]
    handle.remove()
    extractor(torch.rand(1, 3, 16, 16))
    assert seen == [1]


def test_inputs_of_another_size_go_to_torch():
    assert small_extractor().features(torch.rand(2, 3, 20, 20)).shape == (2, 8)


class Deciding(nn.Module):
    """Decides by its input, which no converter can follow."""

    def forward(self, x):
        return x.mean((2, 3)) if x.any() else x.mean((2, 3)) + 1


class Unfaithful(nn.Module):
    """Computes other features where it is exported."""

    def forward(self, x):
        return x.mean((2, 3)) + float(torch.compiler.is_compiling())


@pytest.mark.parametrize(("network", "reason"), [(Deciding, ""), (Unfaithful, "features differ")])
def test_a_network_that_does_not_convert_faithfully_is_left_to_torch(network, reason):
    extractor = small_extractor(network(), "auto")
    images = torch.rand(3, 3, 16, 16)
    message = rf"OpenVINO cannot run this network \({reason}"
    with pytest.warns(UserWarning, match=message):
        features = extractor(images)
    torch.testing.assert_close(features, images.mean((2, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extractor(images)  # says it once
    assert extractor.runtime_name.startswith("torch")
    with pytest.raises(OptionError, match="`runtime` openvino cannot run this network"):
        small_extractor(network())(images)


@pytest.mark.parametrize("around", [torch.inference_mode, lambda: torch.autocast("cpu")])
def test_what_is_on_around_the_first_batch_changes_nothing(around):
    images = torch.rand(2, 3, 16, 16)
    expected = small_extractor()(images)
    extractor = small_extractor()
    with around():
        assert torch.equal(extractor(images), expected)
    assert extractor.runtime_name.startswith("openvino")


def test_compiling_leaves_random_numbers_and_logging_alone():
    def settings():
        root = logging.getLogger()
        return root.level, list(root.handlers), list(root.filters), warnings.filters[:]

    extractor = small_extractor()
    state, before = torch.get_rng_state(), settings()
    extractor(torch.zeros(1, 3, 16, 16))
    assert torch.equal(torch.get_rng_state(), state)
    assert settings() == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="needs torch 2.9")
@pytest.mark.parametrize("names", [("conv",), ("rnn",), ("conv", "rnn")])
def test_precision_set_by_the_newer_api_does_not_keep_it_from_compiling(names):
    images = torch.rand(2, 3, 16, 16)
    expected = small_extractor()(images)
    backends = [getattr(torch.backends.cudnn, name) for name in names]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        assert torch.equal(small_extractor()(images), expected)
        assert [backend.fp32_precision for backend in backends] == ["ieee"] * len(names)
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_an_interrupt_that_the_conversion_would_swallow_comes_after_it(monkeypatch):
    """Its C++ code takes one for any error of a network, which torch then would run."""
    import openvino

    convert = openvino.convert_model

    def interrupted(program):
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return convert(program)

    monkeypatch.setattr(openvino, "convert_model", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            small_extractor()(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_copies_and_pickles_compile_their_own():
    extractor = small_extractor()
    images = torch.rand(2, 3, 16, 16)
    features = extractor(images)
    for other in (copy.deepcopy(extractor), pickle.loads(pickle.dumps(extractor))):
        assert torch.equal(other(images), features)
        assert other.runtime is not extractor.runtime


SIGNALS = """
import copy, gc, signal, torch
from test_openvino import small_extractor

first = small_extractor()
first(torch.rand(1, 3, 16, 16))
second = copy.deepcopy(first)
second(torch.rand(1, 3, 16, 16))
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGINT, lambda number, frame: print("caught"))
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_signals_arrive_when_compiled_networks_are_gone():
    command = [sys.executable, "-X", "faulthandler", "-c", SIGNALS]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "caught\n"), done.stderr


SILENT = """
import sys, torch
from test_openvino import small_extractor

extractor = small_extractor()
extractor(torch.rand(1, 3, 16, 16))
assert extractor.runtime_name.startswith("openvino")
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""


def test_nobody_is_told_of_its_use(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SILENT],
        cwd=Path(__file__).parent,
        env=os.environ | {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("intel*"))


@pytest.mark.parametrize("name", ["pixels", "none"])
def test_openvino_is_refused_where_it_has_nothing_to_do(name):
    with pytest.raises(
        ValueError, match=f"`runtime` does not apply to `{name}`, which is not compiled"
    ):
        load_extractor(name, runtime="openvino")
    with pytest.raises(
        ValueError, match="openvino computes in float32 on the CPU, not in bfloat16"
    ):
        load_extractor("efficientnet_lite0", runtime="openvino", dtype="bfloat16")


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="`runtime` must be one of auto, openvino, torch, got 'x'"):
        Runtime("x")
    with pytest.raises(ValueError, match="`dtype` must be one of float32, bfloat16, got 'half'"):
        load_extractor("efficientnet_lite0", dtype="half")
    with pytest.raises(ValueError, match="`dtype` must be float32 for `pixels`"):
        load_extractor("pixels", dtype="bfloat16")


def test_it_is_optional(monkeypatch):
    monkeypatch.setattr("otmetrics.features.openvino.find_spec", lambda name: None)
    extractor = load_extractor("efficientnet_lite0")
    assert extractor.runtime_name.startswith("torch")
    with pytest.raises(ValueError, match="`runtime` openvino needs the package openvino"):
        Runtime("openvino")


def test_bfloat16_is_another_extractor(photographs):
    half = load_extractor("efficientnet_lite0", dtype="bfloat16")
    whole = load_extractor("efficientnet_lite0")
    features = half(photographs[:2])
    assert features.dtype == torch.float32
    assert half.protocol == whole.protocol | {"dtype": "bfloat16"}
    assert 1e-3 < error(features, whole(photographs[:2])) < 0.2


# --- on a GPU -------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_agrees_with_the_cpu_and_itself(photographs):
    eager = load_extractor("efficientnet_lite0", runtime="torch")
    extractor = load_extractor("efficientnet_lite0", device="cuda")
    images = [*photographs, photographs[0][:, :100], photographs[1][:, :, :90]]
    expected = torch.cat([eager(image[None]) for image in images])
    work = pipeline(extractor, 8)
    assert not work.uniform
    features = torch.cat(list(work.features([images[:8], images[8:]])))
    assert features.device.type == "cpu"
    assert error(features, expected) < 1e-4
    (alone,) = work.features([images[3:4]])
    assert torch.equal(alone[0], features[3])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_image_that_a_gpu_cannot_resize_is_named(tmp_path):
    write_png(tmp_path / "narrow.png", torch.zeros(3, 2, 2000, dtype=torch.uint8))
    cropping = Preprocessing(size=16, crop=0.9)
    work = pipeline(FrozenExtractor(nn.Flatten(), cropping, "flat").to("cuda"), 8)
    with pytest.raises(DataError, match=r"`narrow\.png` cannot be scored: .* long and narrow"):
        list(batches(ImageFolder(tmp_path), transform=work.prepare, batch_size=8, uniform=False))
