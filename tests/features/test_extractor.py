"""A frozen extractor inside something that is trained, cast, saved and moved."""

import copy
import hashlib
import io
import json
import pickle

import pytest
import torch
from torch import nn

from otmetrics.errors import DataError
from otmetrics.features import FrozenExtractor, Preprocessing


def small_network():
    """A network that shows train mode (dropout, batch norm), dtype and batch mixing."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


@pytest.fixture
def extractor():
    torch.manual_seed(0)
    return FrozenExtractor(small_network(), Preprocessing(size=16), "small")


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (6, 3, 20, 24), dtype=torch.uint8, generator=generator)


class Parent(nn.Module):
    """What a metric or a loss looks like to torch."""

    def __init__(self, extractor):
        super().__init__()
        self.extractor = extractor
        self.own = nn.Linear(2, 2)


class Returns(nn.Module):
    """A network with a given output."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, inputs):
        return self.output


def test_forward_is_features_of_preprocess(extractor, images):
    features = extractor(images)
    assert features.shape == (6, 5)
    assert features.dtype == torch.float32
    assert torch.equal(features, extractor.features(extractor.preprocess(images)))
    assert torch.equal(features, extractor.network(extractor.preprocessing(images)))


@pytest.mark.parametrize("mode", [True, False])
def test_stays_in_eval_mode(extractor, images, mode):
    parent, before = Parent(extractor), extractor(images)
    parent.train(mode)
    extractor.train(mode)
    assert not extractor.training
    assert not any(module.training for module in extractor.network.modules())
    assert torch.equal(extractor(images), before)
    # Batch statistics are not updated either.
    assert torch.equal(extractor(images), before)


def test_a_network_in_train_mode_is_put_in_eval_mode():
    network = small_network().train()
    FrozenExtractor(network, None, "small")
    assert not any(module.training for module in network.modules())


def test_parents_do_not_see_the_weights(extractor):
    parent = Parent(extractor)
    assert set(parent.state_dict()) == {"own.weight", "own.bias"}
    assert {name for name, _ in parent.named_parameters()} == {"own.weight", "own.bias"}
    assert list(parent.buffers()) == []
    assert list(extractor.parameters()) == list(extractor.children()) == []
    assert len(list(parent.modules())) == 3
    parent.load_state_dict(parent.state_dict())


def test_a_parents_initialisation_and_gradients_do_not_reach_the_weights(extractor, images):
    parent, before = Parent(extractor), extractor(images)

    def reset(module):
        for parameter in module.parameters(recurse=False):
            nn.init.zeros_(parameter)

    parent.apply(reset)
    parent.requires_grad_(True)
    assert not any(p.requires_grad for p in extractor.network.parameters())
    assert torch.equal(extractor(images), before)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double", "float"])
def test_casts_of_a_parent_do_not_reach_the_network(extractor, images, cast):
    parent, before = Parent(extractor), extractor(images)
    getattr(parent, cast)()
    assert {p.dtype for p in extractor.network.parameters()} == {torch.float32}
    assert torch.equal(extractor(images), before)


def test_dtype_given_to_to_does_not_reach_the_network(extractor, images):
    before = extractor(images)
    Parent(extractor).to(dtype=torch.float64)
    extractor.to(torch.float16)
    assert torch.equal(extractor(images), before)


def test_moves_follow_a_parent(extractor):
    Parent(extractor).to("meta", torch.float16)
    assert extractor.device.type == "meta"
    weights = [*extractor.network.parameters(), *extractor.network.buffers()]
    assert {tensor.device.type for tensor in weights} == {"meta"}
    assert torch.float16 not in {tensor.dtype for tensor in weights}


def test_a_network_without_tensors_remembers_its_device():
    extractor = FrozenExtractor(nn.Flatten(), Preprocessing(size=4), "pixels")
    assert extractor.device.type == "cpu"
    assert extractor.to("meta").device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_inputs_go_to_the_networks_device(extractor, images):
    before, digest = extractor(images), extractor.weights_sha256
    Parent(extractor).cuda()
    assert extractor(images).device.type == "cuda"
    torch.testing.assert_close(extractor(images.cuda()).cpu(), before, rtol=1e-2, atol=1e-2)
    fresh = FrozenExtractor(extractor.network, extractor.preprocessing, "small")
    assert fresh.weights_sha256 == digest
    Parent(extractor).cpu()
    assert torch.equal(extractor(images.cuda()), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_around_it_changes_nothing(extractor, images, dtype):
    before = extractor(images)
    with torch.autocast("cpu", dtype=dtype):
        assert extractor.network(extractor.preprocess(images)).dtype == dtype
        assert torch.equal(extractor(images), before)
        assert torch.equal(extractor.features(extractor.preprocess(images)), before)


def test_a_half_network_is_made_float32(images):
    extractor = FrozenExtractor(small_network().half(), Preprocessing(size=16), "small")
    assert extractor(images).dtype == torch.float32


def test_gradients_reach_the_images_but_not_the_weights(extractor, images):
    floating = (images / 255).requires_grad_(True)
    extractor(floating).square().sum().backward()
    assert floating.grad is not None
    assert floating.grad.abs().sum() > 0
    assert all(p.grad is None for p in extractor.network.parameters())


def test_uint8_images_build_no_graph(extractor, images):
    assert not extractor(images).requires_grad


def test_weights_can_be_asked_for_gradients(extractor, images):
    extractor.network.requires_grad_(True)
    extractor(images).sum().backward()
    assert all(p.grad is not None for p in extractor.network.parameters())


def test_batch_size_does_not_matter(extractor, images):
    one_by_one = torch.cat([extractor(image[None]) for image in images])
    torch.testing.assert_close(extractor(images), one_by_one, rtol=1e-5, atol=1e-6)


def test_no_images_give_no_features(extractor, images):
    assert extractor(images[:0]).shape == (0, 5)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_and_pickles(extractor, images, duplicate):
    parent = duplicate(Parent(extractor).train())
    other = parent.extractor
    assert torch.equal(other(images), extractor(images))
    assert other.protocol == extractor.protocol
    assert other.network is not extractor.network
    assert not other.training
    assert "extractor.network" not in dict(parent.named_modules())


def test_survives_torch_save_of_a_parent(extractor, images):
    file = io.BytesIO()
    torch.save(Parent(extractor), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded.extractor(images), extractor(images))


def test_hash_is_over_names_shapes_dtypes_and_bytes():
    network = nn.Linear(2, 1)
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} torch.float32 {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    assert FrozenExtractor(network, None, "linear").weights_sha256 == digest.hexdigest()


def test_hash_depends_on_the_weights_alone(extractor):
    def digest(network):
        return FrozenExtractor(network, None, "another name").weights_sha256

    network = extractor.network
    assert digest(copy.deepcopy(network)) == extractor.weights_sha256
    strided = copy.deepcopy(network).to(memory_format=torch.channels_last)
    assert digest(strided) == extractor.weights_sha256
    changed = copy.deepcopy(network)
    changed[1].running_mean[0] += 1e-3
    assert digest(changed) != extractor.weights_sha256
    assert digest(nn.Sequential(copy.deepcopy(network))) != extractor.weights_sha256


def test_protocol_is_json(extractor):
    protocol = extractor.protocol
    assert json.loads(json.dumps(protocol)) == protocol
    assert protocol == {
        "extractor": "small",
        "weights_sha256": extractor.weights_sha256,
        "resize": {"size": 16, "mode": "bicubic", "crop": None},
        "dtype": "float32",
    }


def test_number_of_features_is_learned(extractor, images):
    assert extractor.num_features is None
    extractor(images)
    assert extractor.num_features == 5
    assert FrozenExtractor(nn.Flatten(), None, "flat", num_features=7).num_features == 7


def test_one_by_one_maps_are_flattened(images):
    extractor = FrozenExtractor(nn.AdaptiveAvgPool2d(1), Preprocessing(size=8), "pool")
    assert extractor(images).shape == (6, 3)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ((torch.zeros(6, 2), torch.zeros(6, 2)), "got tuple; pool and flatten"),
        ({"features": torch.zeros(6, 2)}, "got dict"),
        (torch.zeros(6, 8, 7, 7), r"\(N, D\) with N = 6, got \(6, 8, 7, 7\) .*Flatten"),
        (torch.zeros(6), r"got \(6,\)"),
        (torch.zeros(6, 4, 3), r"got \(6, 4, 3\)"),
        (torch.zeros(3, 4), r"N = 6, got \(3, 4\)"),
        (torch.zeros(6, 4, dtype=torch.int64), r"got \(6, 4\) of torch.int64"),
    ],
)
def test_other_outputs_are_refused(images, output, message):
    extractor = FrozenExtractor(Returns(output), Preprocessing(size=8), "module:mine:net")
    with pytest.raises(DataError, match=message) as caught:
        extractor(images)
    assert str(caught.value).startswith("`module:mine:net` must return")
    assert "\n" not in str(caught.value)


def test_half_features_are_upcast(images):
    extractor = FrozenExtractor(Returns(torch.ones(6, 2).half()), None, "half")
    assert extractor(images).dtype == torch.float32


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([[1.0]], "`images` must be a tensor, got list"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"must be \(N, 3, H, W\), got \(3, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r"got \(2, 1, 8, 8\)"),
    ],
)
def test_other_images_are_refused(extractor, images, message):
    with pytest.raises(ValueError, match=message):
        extractor(images)


def test_repr_says_which_extractor_it_is(extractor):
    assert "'small', Preprocessing(size=16" in repr(Parent(extractor))
