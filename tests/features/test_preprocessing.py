"""Against Pillow, timm's transform, torch-fidelity's TF1 resize and small cases done by hand."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from otmetrics.features import RESIZE_MODES, Preprocessing

PHOTOGRAPHS = [torch.from_numpy(a.copy()).permute(2, 0, 1) for a in load_sample_images().images]
CHINA, FLOWER = PHOTOGRAPHS
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def pillow_resize(image, shape, mode):
    """Grey levels of a (3, H, W) image after Pillow's float resize, channel by channel."""
    channels = [Image.fromarray(c.numpy().astype(np.float32)) for c in image]
    resized = [np.asarray(c.resize(shape[::-1], FILTERS[mode])) for c in channels]
    return torch.from_numpy(np.stack(resized)).clamp(0, 255)


@pytest.mark.parametrize("image", PHOTOGRAPHS, ids=["china", "flower"])
@pytest.mark.parametrize("mode", FILTERS)
@pytest.mark.parametrize("size", [16, 224, 299, 518, 700])
def test_equals_pillow_on_float_channels(image, mode, size):
    ours = 255 * Preprocessing(size=size, resize=mode)(image)
    torch.testing.assert_close(ours, pillow_resize(image, (size, size), mode), rtol=0, atol=1e-3)


@pytest.mark.parametrize("mode", FILTERS)
def test_enlarges_like_pillow(mode):
    image = CHINA[:, 200:232, 100:148]
    ours = 255 * Preprocessing(size=224, resize=mode)(image)
    torch.testing.assert_close(ours, pillow_resize(image, (224, 224), mode), rtol=0, atol=1e-3)


def test_bicubic_is_clipped_but_not_rounded():
    ours = 255 * Preprocessing(size=299)(CHINA)
    assert ours.min() >= 0
    assert ours.max() <= 255
    assert (ours - ours.round()).abs().max() > 0.4


@pytest.mark.parametrize("size", [37, 299, 700])
def test_tf1_equals_torch_fidelity(size):
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    image = FLOWER[None].float()
    oracle = interpolate_bilinear_2d_like_tensorflow1x(
        image, size=(size, size), align_corners=False
    )
    ours = 255 * Preprocessing(size=size, resize="tf1")(FLOWER)
    # Grid coordinates in float32 and another order of the two axes: 1e-3 grey levels.
    torch.testing.assert_close(ours, oracle[0], rtol=0, atol=1e-3)


def test_tf1_doubles_a_row_as_tensorflow_1_does():
    row = torch.tensor([0, 100], dtype=torch.uint8).expand(3, 2, 2)
    ours = 255 * Preprocessing(size=4, resize="tf1")(row)
    # Source coordinates 0, 0.5, 1, 1.5; past the last pixel its value is kept.
    torch.testing.assert_close(ours[0], torch.tensor([[0.0, 50.0, 100.0, 100.0]]).expand(4, 4))


def test_narrow_images_are_refused_where_the_centre_is_cut_out():
    images = torch.zeros(1, 3, 2, 2000, dtype=torch.uint8)
    assert Preprocessing(size=64)(images).shape == (1, 3, 64, 64)
    with pytest.raises(ValueError, match="images of 2000 x 2 pixels are too long and narrow"):
        Preprocessing(size=64, crop=0.875)(images)


@pytest.mark.parametrize("crop", [None, 0.875, 1.0])
def test_resized_shape_is_what_the_resize_gives(crop):
    images = torch.zeros(1, 3, 20, 31, dtype=torch.uint8)
    whole = Preprocessing(size=14, crop=crop)
    height, width = whole.resized_shape(20, 31)
    target = 14 if crop is None else int(14 / crop)
    assert (height, width) == ((14, 14) if crop is None else (target, target * 31 // 20))
    assert whole(images).shape == (1, 3, 14, 14)
    assert Preprocessing(size=None, crop=crop).resized_shape(20, 31) == (20, 31)


def test_centre_crop_equals_timms_transform_up_to_its_rounding():
    from timm.data import create_transform

    image = Image.fromarray(CHINA.permute(1, 2, 0).numpy())
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    options = {"interpolation": "bicubic", "mean": mean, "std": std, "crop_pct": 0.9}
    transform = create_transform((3, 224, 224), is_training=False, **options)
    ours = Preprocessing(size=224, crop=0.9, mean=mean, std=std)(CHINA)
    grey_levels = (ours - transform(image)).abs() * 255 * torch.tensor(std).view(3, 1, 1)
    # timm rounds, and at sharp edges clips, after each of the two passes.
    assert grey_levels.mean() < 0.4
    assert (grey_levels < 1.6).float().mean() > 0.999


@pytest.mark.parametrize("shape", [(427, 640), (427, 300), (301, 301)])
@pytest.mark.parametrize("crop", [0.875, 0.9, 1.0])
def test_centre_crop_has_torchvisions_geometry(shape, crop):
    from torchvision.transforms.functional import center_crop

    image = CHINA[:, : shape[0], : shape[1]]
    target, shorter = int(224 / crop), min(shape)
    resized = pillow_resize(image, [int(target * side / shorter) for side in shape], "bicubic")
    ours = 255 * Preprocessing(size=224, crop=crop)(image)
    torch.testing.assert_close(ours, center_crop(resized, 224), rtol=0, atol=1e-3)


@pytest.mark.parametrize("crop", [None, 0.875, 1.0])
@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (40, 40), (1, 1)])
def test_output_is_square_for_every_shape(shape, mode, crop):
    image = torch.zeros(3, *shape, dtype=torch.uint8)
    assert Preprocessing(size=32, resize=mode, crop=crop)(image).shape == (3, 32, 32)


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_images_of_the_right_size_pass_bit_exact(mode):
    image = CHINA[:, :224, :224]
    assert torch.equal(Preprocessing(size=224, resize=mode)(image), image.float() / 255)


def test_size_none_leaves_the_images_as_they_are():
    assert torch.equal(Preprocessing(size=None)(CHINA), CHINA.float() / 255)


def test_normalises_on_the_unit_scale():
    grey = torch.full((3, 4, 4), 255, dtype=torch.uint8)
    inputs = Preprocessing(size=4, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))(grey)
    assert inputs[:, 0, 0].tolist() == [1.0, 0.75, 0.5]


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_alone_and_in_a_batch_are_the_same(mode):
    images = torch.stack([CHINA, FLOWER])
    preprocessing = Preprocessing(size=100, resize=mode)
    alone = torch.stack([preprocessing(image) for image in images])
    assert torch.equal(preprocessing(images), alone)


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_no_images_give_no_inputs(mode):
    images = torch.zeros(0, 3, 10, 10, dtype=torch.uint8)
    assert Preprocessing(size=8, resize=mode)(images).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_images_mean_the_same_as_uint8(dtype):
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1).expand(3, 5, 7)
    preprocessing = Preprocessing(size=9)
    inputs = preprocessing((images / 255).to(dtype))
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs, preprocessing(images), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("crop", [None, 0.8])
def test_gradients_reach_the_images(mode, crop):
    images = torch.full((2, 3, 20, 30), 0.5, requires_grad=True)
    Preprocessing(size=10, resize=mode, crop=crop)(images).sum().backward()
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()
    if mode != "tf1" and crop is None:
        # The antialiased filters see every pixel, and the weights of each output pixel sum to one.
        assert images.grad.sum().item() == pytest.approx(2 * 3 * 10 * 10, rel=1e-4)
        assert (images.grad != 0).all()


def test_accepts_any_memory_layout():
    image = CHINA.contiguous()
    strided = CHINA.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(Preprocessing(size=50)(image), Preprocessing(size=50)(strided))


def test_pickles_and_compares():
    preprocessing = Preprocessing(size=50, crop=0.9)
    assert pickle.loads(pickle.dumps(preprocessing)) == preprocessing


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r"\(N, 3, H, W\), got \(2, 1, 8, 8\)"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), r"got \(2, 8, 8, 3\)"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"got \(8, 8\)"),
        (torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), r"got \(1, 2, 3, 8, 8\)"),
        (torch.zeros(2, 3, 0, 8, dtype=torch.uint8), r"got \(2, 3, 0, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), r"uint8, or floating .* got torch.int64"),
        (
            torch.full((3, 8, 8), 1.5),
            r"in \[0, 1\] .* got \[1.5, 1.5\]: give images / 255 for images in \[0, 255\]",
        ),
        (
            torch.full((3, 8, 8), -0.5),
            r"got \[-0.5, -0.5\]: give \(images \+ 1\) / 2 for images in \[-1, 1\]",
        ),
        (
            torch.full((3, 8, 8), float("nan")),
            r"in \[0, 1\] .* nan\]: find out where NaN comes from",
        ),
        (torch.linspace(-2.1, 2.6, 192).view(3, 8, 8), r"undo a normalisation by mean and std"),
    ],
)
def test_refuses_other_images(images, message):
    with pytest.raises(ValueError, match=message) as caught:
        Preprocessing(size=8)(images)
    assert "clamp" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "`size` must be >= 1 or None, got 0"),
        ({"size": 8, "resize": "lanczos"}, "`resize` must be one of bicubic, .* got 'lanczos'"),
        ({"size": 8, "crop": 0.0}, r"`crop` must be in \(0, 1\] or None, got 0.0"),
        ({"size": 8, "crop": 1.1}, "`crop`"),
        ({"size": 8, "mean": (0.5,)}, "`mean` and `std` must be 3 values"),
        ({"size": 8, "std": (1.0, 0.0, 1.0)}, "`std` > 0"),
    ],
)
def test_refuses_other_options(options, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**options)


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("crop", [None, 0.9])
def test_protocol_says_what_happens_to_the_size(mode, crop):
    protocol = Preprocessing(size=64, resize=mode, crop=crop).protocol
    assert protocol == {"size": 64, "mode": mode, "crop": crop}
    assert Preprocessing(size=None).protocol == {"size": None, "mode": None, "crop": None}
