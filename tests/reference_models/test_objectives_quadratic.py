"""WGAN-QC: the exact dual of a batch as the goal of a regression, and its signs."""

from typing import Any

import numpy as np
import oracles
import pytest
import torch
from cases import cloud
from otmetrics.reference_models.networks import Critic, networks
from otmetrics.reference_models.objectives import WGANQC
from otmetrics.reference_models.objectives.quadratic import targets
from torch import Tensor, nn


def half_costs(real: Tensor, fake: Tensor, scale: float) -> Tensor:
    """K / 2 |x - y|^2 from differences."""
    difference = real.flatten(1)[:, None] - fake.flatten(1)[None]
    return scale / 2 * difference.square().sum(-1)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("shape", [(2,), (3, 2, 2)])
def test_targets_are_feasible_and_tight(scale: float, shape: tuple[int, ...]) -> None:
    real, fake = cloud(17, *shape, seed=1), 0.5 * cloud(17, *shape, seed=2) + 1
    goal = targets(real, fake, scale)
    cost = half_costs(real, fake, scale)
    slack = cost - (goal.real[:, None] - goal.fake[None])
    assert slack.min() > -1e-9
    optimum, plan = oracles.transport(cost.numpy())
    assert slack.numpy()[plan > 1e-9].max() < 1e-9
    assert (goal.real.mean() - goal.fake.mean()).item() == pytest.approx(optimum, rel=1e-9)
    assert goal.cost.item() == pytest.approx(optimum, rel=1e-9)
    assert torch.cat([goal.real, goal.fake]).mean().item() == pytest.approx(0, abs=1e-12)


def test_the_gradient_of_the_optimal_critic_points_to_the_match() -> None:
    """D(y) = max_i f_i - c(x_i, y): K (x_T - y) is one of its slopes at each fake sample.

    It has others there, as the potentials of a linear program are those of a corner. Hence D rises
    on the way to the match at least as that slope says, less the curvature of c.
    """
    scale = 0.7
    real, fake = cloud(9, 2, seed=1) + 2, cloud(9, 2, seed=2)
    goal = targets(real, fake, scale)
    _, plan = oracles.transport(half_costs(real, fake, scale).numpy())
    way = real[plan.argmax(0)] - fake
    torch.testing.assert_close(goal.gradients, scale * way)

    def scores(points: Tensor) -> Tensor:
        return (goal.real[:, None] - half_costs(real, points, scale)).amax(0)

    torch.testing.assert_close(scores(fake), goal.fake)
    for share in (1e-3, 0.1, 1.0):
        least = scale * (share - share**2 / 2) * way.square().sum(1)
        assert (scores(fake + share * way) - goal.fake - least > -1e-12).all()
    # Of a single real sample there is no other slope.
    alone = targets(real[:1], fake[:1], scale)
    point = fake[:1].clone().requires_grad_()
    score = alone.real[0] - half_costs(real[:1], point, scale)[0, 0]
    (gradient,) = torch.autograd.grad(score, point)
    torch.testing.assert_close(gradient, scale * (real[:1] - fake[:1]))
    torch.testing.assert_close(gradient, alone.gradients)
    torch.testing.assert_close(score[None], alone.fake)


@pytest.mark.parametrize("match", ["length", "vector"])
def test_the_loss_is_its_formula(match: str) -> None:
    real, fake = cloud(8, 2, seed=1).float(), cloud(8, 2, seed=2).float() + 1
    torch.manual_seed(0)
    critic = networks((2,), latent=2, width=8, architecture="mlp").critic("none")
    scale, gamma = 2.0, 0.3
    found = WGANQC(scale=scale, gamma=gamma, match=match).critic_loss(
        nn.ModuleDict({"critic": critic}), real, fake
    )
    goal = targets(real, fake, scale)
    slopes = []
    for point in fake:
        point = point[None].clone().requires_grad_()
        slopes.append(torch.autograd.grad(critic(point).sum(), point)[0][0].numpy())
    x, y = critic(real).detach().numpy(), critic(fake).detach().numpy()
    _, plan = oracles.transport(half_costs(real.double(), fake.double(), scale).numpy())
    found_slopes, way = np.array(slopes), real.numpy()[plan.argmax(0)] - fake.numpy()
    if match == "length":
        found_slopes, way = (np.linalg.norm(each, axis=1) for each in (found_slopes, way))
    misfit = found_slopes / (2 * scale**0.5) - scale**0.5 / 2 * way
    misfit = np.abs(misfit) if match == "length" else np.linalg.norm(misfit, axis=1)
    regulariser = 4 * scale**0.5 * gamma * (misfit**2).mean() / 2
    expected = (x.mean() - goal.real.numpy().mean()) ** 2 / 2
    expected += ((y - goal.fake.numpy()) ** 2).mean() / 2 + regulariser
    assert found.value.item() == pytest.approx(expected, rel=1e-4)
    assert found.logs["otr"].item() == pytest.approx(regulariser, rel=1e-4)
    assert found.logs["transport"].item() == pytest.approx(goal.cost.item())


def test_on_fake_samples_it_vanishes_at_the_optimal_critic() -> None:
    """Of a translation by s: D(y) = K s . y + b. The real scores that fit are another function.

    With D(y) = g the real sample of one pair has D(x) = g + 2 c where f = g + c.
    """
    shift = torch.tensor([1.5, -0.5])
    cost = shift.square().sum().item() / 4  # K = 1 / dimension
    fake = cloud(12, 2, seed=3).float()
    critic = Critic(nn.Flatten(), 2, "none")
    nets = nn.ModuleDict({"critic": critic})
    with torch.no_grad():
        critic.head.weight.copy_(shift[None] / 2)
        critic.head.bias.copy_(-cost / 2 - fake[0] @ shift / 2)
    loss = WGANQC().critic_loss(nets, fake[:1] + shift, fake[:1])
    assert loss.logs["otr"].item() == pytest.approx(0, abs=1e-9)
    assert loss.value.item() == pytest.approx(cost**2 / 2, rel=1e-5)
    many = WGANQC().critic_loss(nets, fake + shift, fake)
    assert many.logs["otr"].item() == pytest.approx(0, abs=1e-9)
    assert WGANQC().critic_loss(nets, fake + 2 * shift, fake).logs["otr"] > 1e-3


def test_a_fitted_critic_has_the_gradient_of_the_optimum() -> None:
    torch.manual_seed(0)
    real, fake = cloud(12, 2, seed=1).float() + 2, cloud(12, 2, seed=2).float()
    pair = networks((2,), latent=2, width=64, architecture="mlp")
    objective = WGANQC(scale=1.0)
    nets = objective.networks(pair.critic)
    optimizer = torch.optim.Adam(nets.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        objective.critic_loss(nets, real, fake).value.backward()
        optimizer.step()
    points = fake.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective.generator_loss(nets, real, points).value, points)
    _, plan = oracles.transport(half_costs(real.double(), fake.double(), 1.0).numpy())
    wanted = real[plan.argmax(0)] - fake
    cosines = torch.cosine_similarity(-gradient, wanted)
    assert cosines.mean() > 0.8
    assert (-gradient * len(fake)).norm(dim=1).mean().item() == pytest.approx(
        wanted.norm(dim=1).mean().item(), rel=0.2
    )


def test_only_vectors_see_a_critic_that_points_the_wrong_way() -> None:
    """With the mirrored gradient lengths fit; the misfit of vectors is twice the length."""
    fake, shift = cloud(8, 2, seed=3).float(), torch.tensor([3.0, 4.0])
    critic = Critic(nn.Flatten(), 2, "none")
    with torch.no_grad():
        critic.head.weight.copy_(-shift[None] / 2)
    nets = nn.ModuleDict({"critic": critic})
    found = {
        match: WGANQC(match=match, gamma=1.0).critic_loss(nets, fake + shift, fake).logs["otr"]
        for match in ("length", "vector")
    }
    assert found["length"].item() == pytest.approx(0, abs=1e-9)
    # Slopes of length K 5 = 2.5; Lambda / (8 K) = sqrt(1/2) with K = 1/2.
    assert found["vector"].item() == pytest.approx(0.5**0.5 * 5.0**2, rel=1e-5)


def test_critic_steps() -> None:
    assert [WGANQC().critic_steps(step) for step in (0, 30, 500)] == [1, 1, 1]
    warm = WGANQC(num_critic_steps=3, warm_up=True)
    assert [warm.critic_steps(step) for step in (0, 24, 25, 500, 501)] == [100, 100, 3, 100, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": "angle"}, "`match` must be one of length, vector, got 'angle'"),
        ({"num_critic_steps": 0}, "`num_critic_steps` must be"),
        ({"warm_up": 1}, "`warm_up` must be"),
        ({"scale": -1.0}, "`scale` must be a finite number >= 0, got -1.0"),
        ({"gamma": 0.0}, "`gamma` must be"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WGANQC(**options)
