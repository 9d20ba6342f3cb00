import os
import subprocess
import sys
from urllib.error import HTTPError, URLError

import pytest
import timm
import torch
from safetensors.torch import save_file

from otmetrics.errors import DataError
from otmetrics.features import is_available, load_extractor, timm_models

MODEL = "test_efficientnet.r160_in1k"
IMAGES = torch.arange(2 * 3 * 40 * 50).remainder(251).view(2, 3, 40, 50).to(torch.uint8)
RUNS_OFFLINE = """
from otmetrics.errors import DataError
from otmetrics.features import load_extractor
try:
    load_extractor("timm:vit_small_patch14_dinov2.lvd142m", download=True)
except DataError as error:
    print(error)
"""


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return timm.create_model(MODEL, pretrained=False).eval()


@pytest.fixture
def random_weights(monkeypatch):
    """Stand in for the published weights."""

    def create(model, download):
        return timm.create_model(model, pretrained=False, num_classes=0)

    monkeypatch.setattr(timm_models, "_create_pretrained", create)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_loads_a_file_with_classifier(classifier, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(classifier.state_dict(), path)
    extractor = load_extractor(f"timm:{MODEL}", weights=path)
    features = extractor(IMAGES)
    assert extractor.num_features == features.shape[1]
    with torch.no_grad():
        logits = classifier(extractor.preprocess(IMAGES))
        torch.testing.assert_close(classifier.classifier(features), logits)


def test_loads_a_file_without_classifier(classifier, tmp_path):
    classifier.reset_classifier(0)
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    extractor = load_extractor(f"timm:{MODEL}", weights=tmp_path / "weights.pth")
    with torch.no_grad():
        expected = classifier(extractor.preprocess(IMAGES))
    torch.testing.assert_close(extractor(IMAGES), expected)


def test_weights_of_another_network_are_refused(classifier, tmp_path):
    state = classifier.state_dict()
    del state["conv_stem.weight"]
    torch.save(state, tmp_path / "weights.pth")
    # timm itself would go on with a random stem.
    with pytest.raises(DataError, match=r"missing \(first: conv_stem\.weight\)"):
        load_extractor(f"timm:{MODEL}", weights=tmp_path / "weights.pth")


def test_preprocesses_as_the_model_was_trained(random_weights):
    extractor = load_extractor("timm:vit_small_patch14_dinov2.lvd142m")
    preprocessing = extractor.preprocessing
    assert extractor.protocol["resize"] == {"size": 518, "mode": "bicubic", "crop": 1.0}
    assert preprocessing.mean == (0.485, 0.456, 0.406)
    assert extractor.num_features == 384


def test_other_interpolations_become_bicubic(random_weights, monkeypatch):
    config = {"input_size": (3, 64, 64), "interpolation": "lanczos", "crop_mode": "squash"}
    config |= {"crop_pct": 0.9, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda network: config)
    protocol = load_extractor(f"timm:{MODEL}").protocol
    assert protocol["resize"] == {"size": 64, "mode": "bicubic", "crop": None}


@pytest.mark.parametrize(
    "model", ["resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224", "test_vit"]
)
def test_number_of_features_is_known_before_the_first_batch(random_weights, model):
    extractor = load_extractor(f"timm:{model}", runtime="torch")
    known = extractor.num_features
    assert extractor(IMAGES[:1]).shape == (1, known)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet81", "`timm:resnet81` is not a timm model: choose from .*resnet18"),
        ("zzzzqqqq", "choose from timm.list_models"),
        (
            "resnet18.nonsense",
            "resnet18.nonsense` is not a timm model: choose from resnet18.a1_in1k",
        ),
        ("vit_small_patch14_dinov2.lvd142", "choose from vit_small_patch14_dinov2.lvd142m"),
        ("vgg11_bn.nonsense", "choose from vgg11_bn.tv_in1k"),
    ],
)
def test_unknown_models_get_close_names(model, message):
    with pytest.raises(ValueError, match=message):
        load_extractor(f"timm:{model}")


def test_a_model_without_published_weights_needs_a_file(monkeypatch):
    monkeypatch.setattr(timm.models, "is_model_pretrained", lambda model: False)
    monkeypatch.setattr(timm, "list_pretrained", lambda pattern: [])
    with pytest.raises(ValueError, match="no published weights: give a file with `weights`"):
        load_extractor("timm:resnet18")


def test_without_internet_one_line_says_what_to_do(tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment |= {"TORCH_HOME": str(tmp_path)}
    environment.pop("HF_HUB_CACHE", None)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNS_OFFLINE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stderr == ""
    assert len(run.stdout.splitlines()) == 1
    assert run.stdout.startswith("timm:vit_small_patch14_dinov2.lvd142m: its weights are not")
    assert "`weights`" in run.stdout


def test_an_unreachable_hub_is_not_asked_again_and_again(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(timm_models, "urlopen", refuse)
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: pytest.fail("asked"))
    with pytest.raises(DataError, match=r"could not be fetched .*no route to host"):
        load_extractor(f"timm:{MODEL}", download=True)


@pytest.mark.parametrize("asked", [True, False])
def test_a_hub_that_answers_with_an_error_code_is_reachable(monkeypatch, asked):
    def answer(*args, **kwargs):
        raise HTTPError("https://hub", 403, "forbidden", None, None)

    monkeypatch.setattr(timm_models, "urlopen", answer)
    if not asked:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    timm_models._reach_hub()


def test_availability_is_read_off_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert not is_available("timm:resnet18.a1_in1k")
    file = tmp_path / "hub/models--timm--resnet18.a1_in1k/snapshots/abc/model.safetensors"
    file.parent.mkdir(parents=True)
    file.touch()
    assert is_available("timm:resnet18.a1_in1k")
    assert is_available("timm:resnet18")
    assert not is_available("timm:resnet1")


def test_pixels_are_the_image():
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    extractor = load_extractor("pixels")
    assert extractor.num_features == 3072
    assert torch.equal(extractor(images), images.flatten(1) / 255)
    large = extractor(IMAGES)
    assert large.shape == (2, 3072)
    assert large.min() >= 0
    assert large.max() <= 1


@pytest.mark.network
@pytest.mark.skipif(not os.environ.get("OTMETRICS_NETWORK"), reason="set OTMETRICS_NETWORK=1")
def test_dinov2_from_the_hub():
    extractor = load_extractor("timm:vit_small_patch14_dinov2.lvd142m", download=True)
    assert extractor(IMAGES).shape == (2, 384)
