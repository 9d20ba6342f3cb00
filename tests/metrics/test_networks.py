"""Networks of the user's own as features: changed, scripted, greedy, of another dtype."""

import pytest
import torch
from image_cases import FAKE, REAL, fed, members
from torch import nn

from otmetrics import WassersteinFeatureDistance, frechet_distance


class Chosen(nn.Module):
    """A network whose plain attribute decides."""

    scale = 1.0

    def forward(self, images):
        return images.float().flatten(1) * self.scale


def hooked(network):
    network.register_forward_hook(lambda module, inputs, output: output * 7)


def patched(network):
    network.forward = lambda images: images.float().flatten(1) * 7


def scaled(network):
    network.scale = 7.0


@pytest.mark.parametrize("change", [hooked, patched, scaled])
def test_any_change_makes_another_network(change):
    network = Chosen()
    first = fed(WassersteinFeatureDistance(feature=network, method="exact"))
    change(network)
    second = fed(WassersteinFeatureDistance(feature=network, method="exact"))
    assert second.compute().item() == pytest.approx(7 * first.compute().item(), rel=1e-5)


class Enclosing(nn.Module):
    """Where a network may hold a function that encloses what decides."""

    def __init__(self, place, weights):
        super().__init__()

        def enclosing(*given):
            return given[0].float().flatten(1) * weights["weight"]

        self.work = enclosing if place == "attribute" else nn.Flatten()
        if place == "forward":
            self.forward = enclosing
        elif place == "hook":
            self.register_forward_hook(lambda module, inputs, output: enclosing(output))
        elif place == "layer":
            self.work.forward = enclosing

    def forward(self, images):
        return self.work(images.float())


@pytest.mark.parametrize("place", ["forward", "hook", "attribute", "layer"])
def test_what_a_function_encloses_makes_another_network(place):
    weights = {"weight": 1.0}
    network = Enclosing(place, weights)
    first = fed(WassersteinFeatureDistance(feature=network, method="exact"))
    before = first.compute().item()
    weights["weight"] = 7.0
    second = fed(WassersteinFeatureDistance(feature=network, method="exact"))
    assert second.compute().item() == pytest.approx(7 * before, rel=1e-5)


class Halves(nn.Module):
    def forward(self, images):
        return images / 2


def test_the_order_of_layers_makes_another_network():
    network = nn.Sequential()
    network.add_module("halves", Halves())
    network.add_module("positive", nn.Hardtanh(0, 100))
    network.add_module("flat", nn.Flatten())
    first = WassersteinFeatureDistance(feature=network, method="exact")
    network.add_module("halves", network._modules.pop("halves"))
    second = WassersteinFeatureDistance(feature=network, method="exact")
    assert first.extractor is not second.extractor
    halves = REAL.float().clamp(0, 100).flatten(1) / 2
    torch.testing.assert_close(second.extractor(REAL.float()), halves)


def test_a_network_with_named_functions_is_copied_once():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    network.activation, network.other = nn.functional.relu, torch.relu
    network.register_forward_hook(doubled)
    first, second = (WassersteinFeatureDistance(feature=network) for _ in range(2))
    assert first.extractor is second.extractor


def doubled(module, inputs, output):
    return output * 2


def test_a_network_that_writes_into_its_input():
    class Greedy(nn.Module):
        def forward(self, images):
            return images.sub_(0.5).div_(0.25).flatten(1)

    images, alone = REAL / 255, Greedy()(REAL / 255)
    collection = members(Greedy())
    for real, side in ((True, images), (False, 1 - images)):
        before = side.clone()
        collection.update(side, real=real)
        assert torch.equal(side, before)
    other = Greedy()(1 - REAL / 255)
    expected = frechet_distance(alone.double(), other.double())
    assert collection.compute()["frechet"].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch 2.11
@pytest.mark.parametrize("how", ["script", "trace", "wrapped"])
def test_scripted_networks(how):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    scripted = torch.jit.trace(plain, REAL / 255) if how == "trace" else torch.jit.script(plain)
    feature = nn.Sequential(scripted) if how == "wrapped" else scripted
    values = []
    for network in (plain, feature):
        metric = WassersteinFeatureDistance(feature=network)
        values.append(fed(metric, REAL / 255, FAKE / 255).compute())
    assert values[0] == values[1]
    assert all(weight.requires_grad for weight in plain.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_of_another_dtype(dtype):
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).to(dtype)
    metric = WassersteinFeatureDistance(feature=network)
    single = WassersteinFeatureDistance(feature=network.float())
    found = fed(metric, (REAL / 255).to(dtype), (FAKE / 255).to(dtype)).compute()
    rounded = [(side / 255).to(dtype).float() for side in (REAL, FAKE)]
    assert found == fed(single, *rounded).compute()


def test_networks_that_cannot_be_copied():
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    with pytest.raises(ValueError, match=r"`feature` must be a network that copy.deepcopy copies"):
        WassersteinFeatureDistance(feature=network)
