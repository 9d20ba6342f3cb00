"""Presets: what they say of themselves, and options that replace theirs."""

import pytest
import torch
from otmetrics.reference_models.data import Data
from otmetrics.reference_models.networks import networks
from otmetrics.reference_models.objectives import OTGAN, ROTGAN
from otmetrics.reference_models.presets import KINDS, PRESETS, config_for, settings_of
from training_cases import images, points


@pytest.mark.parametrize("name", PRESETS)
def test_settings_of_every_kind(name: str) -> None:
    found = settings_of(name)
    assert list(found) == list(KINDS)
    assert all(settings["steps"] >= 1000 for settings in found.values())
    assert all(minutes > 0 for minutes in PRESETS[name].minutes.values())
    assert "points" in PRESETS[name].minutes
    assert PRESETS[name].minutes.keys() <= KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_generators_and_critics_are_of_one_size(kind: str) -> None:
    """Within a factor of three: at 28 pixels the generator has a third layer, of the noise."""
    shape = {"points": (2,), "digits": (1, 8, 8), "28": (1, 28, 28)}.get(kind, (3, 32, 32))
    shape = (3, 64, 64) if kind == "64" else shape
    settings = settings_of("dcgan")[kind]
    made = {name: settings[name] for name in ("latent", "width", "architecture")}
    pair = networks(shape, **made)
    sizes = [
        sum(p.numel() for p in net.parameters()) for net in (pair.generator(), pair.critic("none"))
    ]
    assert 1 / 3 < sizes[0] / sizes[1] < 3


def test_small_images_have_settings_of_their_own() -> None:
    small = config_for("wgan-gp", images((1, 28, 28)), {}, {})
    large = config_for("wgan-gp", images((3, 32, 32)), {}, {})
    assert (small.architecture, large.architecture) == ("dcgan", "resnet")
    assert small.steps < large.steps


def test_what_was_fitted_to_one_choice_does_not_bind_another() -> None:
    """On points costs have the order 1, and plans a weight: both go with those of samples."""
    own = config_for("rot-gan", points(), {}, {}).objective
    assert isinstance(own, ROTGAN)
    assert (own.order, own.lam) == (1.0, 0.02)
    assert config_for("rot-gan", points(), {}, {"cost": "data"}).objective == own
    learned = config_for("ot-gan", points(), {}, {"cost": "cosine"}).objective
    assert isinstance(learned, OTGAN)
    assert learned.order == 2
    networks = config_for("rot-gan", points(), {}, {"inner": "net"}).objective
    assert isinstance(networks, ROTGAN)
    assert networks.lam == 0
    chosen = config_for("rot-gan", points(), {}, {"inner": "net", "lam": 0.3}).objective
    assert isinstance(chosen, ROTGAN)
    assert chosen.lam == 0.3


def test_codes_of_points_have_their_dimension() -> None:
    plane, wide = points(), torch.zeros(20, 7, dtype=torch.float64)
    data = Data("npz:wide", wide, wide)
    assert config_for("ae-ot", plane, {}, {}).latent == 2
    assert config_for("ae-ot-gan", data, {}, {}).latent == 7
    assert config_for("ae-ot", data, {"latent": 3}, {}).latent == 3
    assert config_for("wgan-gp", data, {}, {}).latent == 2
