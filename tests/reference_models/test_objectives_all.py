"""What the training loop asks of every objective, and that generator steps go to the data."""

import dataclasses
import inspect
import re
from typing import Any

import pytest
import torch
from otmetrics.reference_models.networks import Critic, networks
from otmetrics.reference_models.objectives import OBJECTIVES, Loss, Objective, option
from test_docs import assert_documented, sections
from torch import Tensor, nn

from otmetrics.functional import exact_wasserstein

KINDS: dict[str, Any] = dict(OBJECTIVES)
CODED = ("ae-ot", "ae-ot-gan")  # whose losses are of codes: see test_objectives_autoencoded
MADE: dict[str, Objective] = {n: kind() for n, kind in KINDS.items() if n not in CODED}
MADE["ot-gan"] = KINDS["ot-gan"](epsilon=0.05)  # few iterations
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "swg data": ("swg", {"space": "data"}),
    "swg debiased": ("swg", {"space": "data", "debiased": True}),
    "exact critic": ("exact-ot", {"space": "critic"}),
    "sinkhorn learned": ("sinkhorn-gan", {"cost": "critic"}),
    "sinkhorn unrolled": ("sinkhorn-gan", {"unrolled": 20}),
    "ot-gan data": ("ot-gan", {"cost": "data"}),
    "rot l2": ("rot-gan", {"regulariser": "l2"}),
    "rot self": ("rot-gan", {"self_terms": True}),
    "rot learned": ("rot-gan", {"self_terms": True, "cost": "cosine"}),
    "rot net": ("rot-gan", {"inner": "net"}),
    "rot net l2": ("rot-gan", {"inner": "net", "regulariser": "l2"}),
    "rot net self": ("rot-gan", {"inner": "net", "self_terms": True}),
    "rot net learned": ("rot-gan", {"inner": "net", "self_terms": True, "cost": "cosine"}),
}
MADE |= {label: KINDS[name](**options) for label, (name, options) in VARIANTS.items()}
every = pytest.mark.parametrize("objective", MADE.values(), ids=MADE.keys())
trained = pytest.mark.parametrize(
    "objective", [o for o in MADE.values() if o.critic_steps(0)], ids=lambda o: repr(o)[:40]
)


def made(objective: Objective, shape: tuple[int, ...] = (2,)) -> nn.ModuleDict:
    torch.manual_seed(0)
    pair = networks(shape, latent=2, width=32, architecture="mlp" if len(shape) == 1 else "dcgan")
    return objective.networks(pair.critic)


def batch(objective: Objective, size: int = 24, shape: tuple[int, ...] = (2,)) -> list[Tensor]:
    """Normal samples, and others that lie 2 to the side."""
    generator = torch.Generator().manual_seed(1)
    size *= 2 if objective.independent_halves else 1
    real, fake = torch.randn(2, size, *shape, generator=generator)
    fake[:, 0] += 2.0
    return [real, fake]


def test_every_name_has_its_class() -> None:
    assert list(OBJECTIVES) == [
        *("dcgan", "sngan", "r3gan", "wgan", "wgan-gp", "wgan-qc"),
        *("rot-gan", "sinkhorn-gan", "ot-gan", "swg", "max-swg", "exact-ot"),
        *CODED,
    ]
    assert len(set(OBJECTIVES.values())) == len(OBJECTIVES)


def test_what_training_asks_for_is_documented_in_full() -> None:
    named = sections(Objective)["Attributes"]
    assert named == set(inspect.get_annotations(Objective))
    assert sections(Loss)["Attributes"] == set(Loss._fields)
    methods = [item for name, item in vars(Objective).items() if not name.startswith("_")]
    for function in (option, *filter(inspect.isfunction, methods)):
        assert_documented(function)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_options_are_told(kind: Any) -> None:
    """Each with a sentence, a default of its type, and the choices that it has."""
    assert re.search(r"\n\nReferences:\n    \S", inspect.cleandoc(kind.__doc__))
    for field in dataclasses.fields(kind):
        assert field.metadata["help"].endswith(".")
        assert type(field.default).__name__ == getattr(field.type, "__name__", field.type)
        for choice in field.metadata["choices"]:
            assert isinstance(choice, str)
        if field.metadata["choices"]:
            with pytest.raises(ValueError, match=f"`{field.name}` must be one of .*'neither'"):
                kind(**{field.name: "neither"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().anything = 1
    assert hash(kind()) == hash(kind())


@every
def test_losses_are_scalars_with_a_graph_and_logs_without(objective: Objective) -> None:
    nets = made(objective)
    real, fake = batch(objective)
    losses = []
    if objective.critic_steps(0):
        losses.append(objective.critic_loss(nets, real, fake))
        assert losses[0].value.requires_grad
        for value in objective.after_critic_step(nets).values():
            assert value.shape == ()
    nets.requires_grad_(False)
    losses.append(objective.generator_loss(nets, real, fake.clone().requires_grad_()))
    assert losses[-1].value.requires_grad
    for loss in losses:
        assert loss.value.shape == ()
        assert loss.value.dtype == torch.float32
        for value in loss.logs.values():
            assert value.shape == ()
            assert not value.requires_grad
            assert value.isfinite()


@every
def test_networks_are_trained_by_critic_steps_only(objective: Objective) -> None:
    """All of their parameters; a generator step leaves them, and reaches every fake sample."""
    nets = made(objective)
    real, fake = batch(objective)
    parameters = list(nets.parameters())
    assert bool(parameters) == bool(objective.critic_steps(0))
    if parameters:
        objective.critic_loss(nets, real, fake).value.backward()
        for parameter in parameters:
            assert parameter.grad is not None
            assert parameter.ndim == 1 or parameter.grad.any()  # constants cancel in f(x) - f(y)
            parameter.grad = None
    nets.requires_grad_(False)
    fake.requires_grad_()
    loss = objective.generator_loss(nets, real, fake)
    loss.value.backward()
    assert all(parameter.grad is None for parameter in parameters)
    assert fake.grad is not None
    assert fake.grad.isfinite().all()
    if loss.logs.get("plan_density", torch.tensor(1.0)) > 0.5:  # at first networks plan nothing
        assert (fake.grad.norm(dim=1) > 0).float().mean() > 0.9


def test_without_critic_steps_there_is_nothing_to_train() -> None:
    still = [objective for objective in MADE.values() if not objective.critic_steps(0)]
    assert len(still) == 9
    for objective in still:
        assert len(made(objective)) == 0
        assert objective.critic_steps(7) == 0


@pytest.mark.parametrize(
    ("objective", "steps"),
    [
        (MADE["dcgan"], [1, 1, 1, 1, 1]),
        (MADE["sngan"], [5, 5, 5, 5, 5]),
        (MADE["r3gan"], [1, 1, 1, 1, 1]),
        (MADE["wgan"], [100, 100, 5, 5, 100]),
        (KINDS["wgan"](warm_up=False, num_critic_steps=3), [3, 3, 3, 3, 3]),
        (KINDS["wgan"](num_critic_steps=120), [120, 120, 120, 120, 120]),
        (MADE["wgan-gp"], [5, 5, 5, 5, 5]),
        (MADE["wgan-qc"], [1, 1, 1, 1, 1]),
        (MADE["ot-gan"], [1, 1, 0, 1, 0]),
        (MADE["rot learned"], [1, 1, 0, 1, 0]),
        (MADE["rot net"], [100, 100, 5, 5, 100]),
        (KINDS["rot-gan"](inner="net", warm_up=False), [5, 5, 5, 5, 5]),
        (MADE["sinkhorn learned"], [1, 1, 1, 1, 1]),
        (MADE["swg"], [1, 1, 1, 1, 1]),
        (MADE["max-swg"], [1, 1, 1, 1, 1]),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_critic_steps_before_generator_steps(objective: Objective, steps: list[int]) -> None:
    assert [objective.critic_steps(step) for step in (0, 24, 25, 27, 500)] == steps


def test_a_learned_cost_is_ascended_once_in_four_steps_of_either_side() -> None:
    for name in ("ot-gan", "rot learned"):
        steps = [MADE[name].critic_steps(step) for step in range(9)]
        assert steps == [1, 0, 0, 1, 0, 0, 1, 0, 0]  # 3 generator steps to each


@every
def test_a_generator_step_brings_the_samples_nearer(objective: Objective) -> None:
    """Exact W_2 as the judge, after a little training of the networks."""
    nets = made(objective)
    real, fake = batch(objective, 32)
    if objective.critic_steps(0):
        optimizer = torch.optim.Adam(nets.parameters(), lr=3e-3)
        for _ in range(30):
            optimizer.zero_grad()
            objective.critic_loss(nets, real, fake).value.backward()
            optimizer.step()
            objective.after_critic_step(nets)
    nets.requires_grad_(False)
    points = fake.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective.generator_loss(nets, real, points).value, points)
    moved = fake - 0.2 * gradient / gradient.norm(dim=1).mean()
    before, after = (exact_wasserstein(real, side) for side in (fake, moved))
    assert before > 1.8
    assert after < before - 0.05


@trained
def test_critic_losses_fall_when_they_are_descended(objective: Objective) -> None:
    """The sign of each of them, on a batch that stays."""
    nets = made(objective)
    real, fake = batch(objective)
    optimizer = torch.optim.Adam(nets.parameters(), lr=1e-3)
    values = []
    for _ in range(20):
        torch.manual_seed(0)  # the same interpolation
        loss = objective.critic_loss(nets, real, fake).value
        values.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_critic_step(nets)
    assert values[-1] < values[0]


@pytest.mark.parametrize("name", ["dcgan", "r3gan", "wgan-gp", "wgan-qc", "swg", "ot-gan"])
def test_images_too(name: str) -> None:
    objective = MADE[name]
    shape = (1, 28, 28)
    torch.manual_seed(0)
    pair = networks(shape, latent=4, width=4, architecture="dcgan")
    nets = objective.networks(pair.critic)
    real, fake = batch(objective, 4, shape)
    objective.critic_loss(nets, real, fake).value.backward()
    nets.requires_grad_(False)
    loss = objective.generator_loss(nets, real, fake.requires_grad_())
    loss.value.backward()
    assert fake.grad is not None
    assert fake.grad.shape == (len(fake), *shape)


@every
def test_under_autocast_costs_keep_their_digits(objective: Objective) -> None:
    """Networks may compute in bfloat16; what is computed of their outputs does not."""
    nets = made(objective)
    real, fake = batch(objective)
    nets.requires_grad_(False)
    values = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = objective.generator_loss(nets, real, fake.clone().requires_grad_())
        values.append(loss.value.float())
    exact = not len(nets)
    rtol = 1e-6 if exact else 0.05
    torch.testing.assert_close(values[1], values[0], rtol=rtol, atol=0 if exact else 0.02)


def test_a_critic_factory_is_asked_for_the_normalisation_of_the_paper() -> None:
    asked: dict[str, str] = {}
    for name, objective in MADE.items():

        def critic(normalization: str, name: str = name) -> Critic:
            asked[name] = normalization
            return networks((1, 28, 28), latent=2, width=2, architecture="dcgan").critic("none")

        objective.networks(critic)
    expected = {"dcgan": "batch", "sngan": "spectral", "swg": "layer", "max-swg": "layer"}
    expected |= {"exact critic": "layer"}
    assert {name: kind for name, kind in asked.items() if kind != "none"} == expected
