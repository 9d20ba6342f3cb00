"""Against torch-fidelity's own extractor, with random weights under the published names."""

import hashlib
import os
import socket
import sys

import pytest
import torch
from sklearn.datasets import load_sample_images

from otmetrics.errors import DataError
from otmetrics.features import inception as module
from otmetrics.features import is_available, load_extractor
from otmetrics.features.weights import INCEPTION

FILE_NAME, SHA256, NUM_BYTES = INCEPTION

IMAGES = torch.stack([torch.from_numpy(a.copy()) for a in load_sample_images().images])
IMAGES = IMAGES.permute(0, 3, 1, 2)


@pytest.fixture
def weights(inception_weights):
    return inception_weights


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """A machine that has never seen the weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("OTMETRICS_WEIGHTS", raising=False)
    return tmp_path / "hub" / "checkpoints" / FILE_NAME


def test_equals_torch_fidelity(weights):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    images = torch.cat([IMAGES, IMAGES.flip(3)])[:, :, :200, :300]
    reference = FeatureExtractorInceptionV3("reference", ["2048"], str(weights))
    extractor = load_extractor("inception", weights=weights, resize="tf1")
    (expected,) = reference(images)
    features = extractor(images)
    assert features.shape == (4, 2048)
    assert expected.abs().max() > 0.1
    assert (features - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_resizes_without_aliasing_by_default(weights):
    extractor = load_extractor("inception", weights=weights)
    assert extractor.protocol["resize"] == {"size": 299, "mode": "bicubic", "crop": None}
    black_grey_white = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    inputs = extractor.preprocess(black_grey_white.expand(1, 3, 9, 9))
    expected = torch.tensor([-1.0, 0.0, 127 / 128])
    torch.testing.assert_close(inputs[0, :, 4, 4], expected, rtol=0, atol=1e-6)


def test_gradients_reach_the_images(weights):
    images = (IMAGES[:1, :, :80, :80] / 255).requires_grad_(True)
    load_extractor("inception", weights=weights)(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("as_folder", [True, False])
def test_the_environment_names_a_file_or_its_folder(no_weights, tmp_path, monkeypatch, as_folder):
    path = tmp_path / FILE_NAME
    path.touch()
    monkeypatch.setenv("OTMETRICS_WEIGHTS", str(tmp_path if as_folder else path))
    assert module.find_weights() == path
    assert is_available("inception")


def test_looks_into_torchs_cache(no_weights):
    assert module.find_weights() is None
    assert not is_available("inception")
    no_weights.parent.mkdir(parents=True)
    no_weights.touch()
    assert module.find_weights() == no_weights


def test_the_published_name_must_hold_the_published_bytes(no_weights, monkeypatch):
    no_weights.parent.mkdir(parents=True)
    no_weights.write_bytes(b"half a download")
    with pytest.raises(DataError, match=f"must be the published file with SHA-256 {SHA256}"):
        load_extractor("inception")


def test_a_file_of_the_environment_under_another_name_is_the_users(
    no_weights, weights, monkeypatch
):
    monkeypatch.setenv("OTMETRICS_WEIGHTS", str(weights))
    assert load_extractor("inception").num_features == 2048


def test_a_wrong_environment_variable_is_named(no_weights, monkeypatch):
    monkeypatch.setenv("OTMETRICS_WEIGHTS", "/does/not/exist")
    with pytest.raises(DataError, match=r"/does/not/exist: .* correct OTMETRICS_WEIGHTS"):
        load_extractor("inception")


def test_without_internet_the_message_says_everything(no_weights, monkeypatch):
    def refuse(*args, **kwargs):
        assert socket.getdefaulttimeout() <= 20
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(DataError, match="no route to host") as caught:
        load_extractor("inception", download=True)
    message = str(caught.value)
    for part in (FILE_NAME, str(no_weights), SHA256, str(NUM_BYTES), "`weights`"):
        assert part in message
    assert "OTMETRICS_WEIGHTS" in message
    assert "\n" not in message
    assert socket.getdefaulttimeout() is None


def test_a_download_is_checked_before_it_gets_its_name(no_weights, tmp_path, monkeypatch):
    source = tmp_path / "server.pth"
    source.write_bytes(b"weights")
    with pytest.raises(DataError, match="invalid hash value"):
        module._download(source.as_uri())
    assert list(no_weights.parent.iterdir()) == []
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setattr(module, "INCEPTION", INCEPTION._replace(sha256=digest))
    assert module._download(source.as_uri()) == no_weights
    assert no_weights.read_bytes() == b"weights"


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.delitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", raising=False)
    with pytest.raises(DataError, match=r'pip install "otmetrics\[inception\]"'):
        load_extractor("inception")


def test_weights_of_another_network_are_refused(weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    del state["Mixed_7c.branch1x1.conv.weight"]
    torch.save(state, tmp_path / "mine.pth")
    with pytest.raises(DataError, match=r"missing \(first: Mixed_7c\.branch1x1\.conv\.weight\)"):
        load_extractor("inception", weights=tmp_path / "mine.pth")


@pytest.mark.network
@pytest.mark.skipif(not os.environ.get("OTMETRICS_NETWORK"), reason="set OTMETRICS_NETWORK=1")
def test_downloads_the_published_weights(no_weights):
    extractor = load_extractor("inception", download=True)
    assert no_weights.stat().st_size == NUM_BYTES
    assert extractor(IMAGES).shape == (2, 2048)
