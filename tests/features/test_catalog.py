import subprocess
import sys

import pytest
import torch

from otmetrics.errors import OptionError
from otmetrics.features import DEFAULT_EXTRACTOR, EXTRACTORS, is_available, load_extractor

STAYS_LIGHT = """
import sys
from otmetrics.features import is_available
names = ("efficientnet_lite0", "pixels", "inception", "timm:resnet18")
assert [is_available(name) for name in names][:2] == [True, True]
heavy = {"timm", "torch_fidelity", "torchvision", "torchmetrics", "PIL", "matplotlib", "sklearn"}
print(sorted(heavy & set(sys.modules)))
"""


def test_import_and_availability_stay_light():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", STAYS_LIGHT],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert run.stdout.strip() == "[]"


def test_the_catalog_is_complete():
    assert list(EXTRACTORS) == [
        "efficientnet_lite0",
        "inception",
        "timm:MODEL",
        "module:package.name:attr",
        "pixels",
        "none",
    ]
    assert DEFAULT_EXTRACTOR in EXTRACTORS
    assert all(name == info.name for name, info in EXTRACTORS.items())
    assert all(info.description and info.licence for info in EXTRACTORS.values())


@pytest.mark.parametrize("name", ["efficientnet_lite0", "pixels", "none", "module:a.b:c"])
def test_what_needs_no_download_is_available(name):
    assert is_available(name)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "pixels"])
def test_declared_number_of_features_is_true(name):
    images = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    extractor = load_extractor(name)
    assert extractor(images).shape == (1, EXTRACTORS[name].num_features)
    assert extractor.name == name


@pytest.mark.parametrize("name", ["inceptoin", "", "timm", "timm:", "module", "pixels:3"])
def test_unknown_names_list_the_choices(name):
    with pytest.raises(ValueError, match=r"is not an extractor: .*efficientnet_lite0, "):
        load_extractor(name)
    with pytest.raises(ValueError, match="is not an extractor"):
        is_available(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dinov2", "timm:vit_small_patch14_dinov2.lvd142m"),
        ("DINO", "timm:vit_small_patch14_dinov2.lvd142m"),
        ("resnet50", "timm:resnet50"),
        ("vit_small_patch14_dinov2.lvd142m", "timm:vit_small_patch14_dinov2.lvd142m"),
        ("inceptoin", "inception"),
        ("Pixel", "pixels"),
    ],
)
def test_unknown_names_suggest_what_was_meant(name, meant):
    with pytest.raises(OptionError, match=rf"^`{name}` is not .*: did you mean `{meant}`\? There"):
        load_extractor(name)


@pytest.mark.parametrize("name", ["pixels", "none", "module:a.b:c"])
def test_weights_for_what_has_none_are_refused(name):
    with pytest.raises(ValueError, match=f"`weights` does not apply to `{name}`, which has no"):
        load_extractor(name, weights="weights.pth")


@pytest.mark.parametrize("name", ["none", "module:a.b:c"])
def test_resize_for_what_does_not_resize_is_refused(name):
    with pytest.raises(ValueError, match=f"`resize` does not apply to `{name}`, which does not"):
        load_extractor(name, resize="tf1")


def test_resize_replaces_the_extractors_own():
    extractor = load_extractor("pixels", resize="bilinear")
    assert extractor.protocol["resize"]["mode"] == "bilinear"
    with pytest.raises(ValueError, match=r"`resize` must be one of bicubic, .* got 'area'"):
        load_extractor("pixels", resize="area")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_none_passes_features_through(dtype):
    extractor = load_extractor("none")
    features = torch.randn(5, 7, dtype=dtype, requires_grad=True)
    assert torch.equal(extractor(features), features)
    assert extractor(features).dtype == dtype
    assert extractor(features).requires_grad
    assert extractor.protocol["dtype"] == "as given"
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        extractor(torch.zeros(5, 3, 8, 8))


def test_device_is_where_the_network_goes():
    assert load_extractor("pixels", device=torch.device("cpu")).device.type == "cpu"


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99"])
def test_a_device_that_is_not_here_is_told(device):
    with pytest.raises(OptionError, match=rf"`device` must be \"cpu\", .* got '{device}'"):
        load_extractor("pixels", device=device)
