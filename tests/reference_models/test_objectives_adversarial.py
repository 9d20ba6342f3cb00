"""Critics that tell real from fake: formulas, signs, penalties; clipping and interpolation."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import cloud
from otmetrics.reference_models.networks import Critic, networks
from otmetrics.reference_models.objectives import DCGAN, R3GAN, SNGAN, WGAN, WGANGP, Objective
from otmetrics.reference_models.objectives.base import warmed_up
from otmetrics.reference_models.objectives.wasserstein import clip, interpolate
from torch import Tensor, nn

SCORES = [DCGAN(), SNGAN(), R3GAN(gamma=0.3), WGAN(), WGANGP(penalty=3.0)]
every = pytest.mark.parametrize("objective", SCORES, ids=lambda o: type(o).__name__)


def linear(*weight: float, bias: float = 0.0) -> Any:
    """The critic w . x + b, which has the gradient w everywhere."""
    critic = Critic(nn.Flatten(), len(weight), "none")
    with torch.no_grad():
        critic.head.weight.copy_(torch.tensor([weight]))
        critic.head.bias.fill_(bias)
    return nn.ModuleDict({"critic": critic})


def curved(seed: int = 0, normalization: str = "none") -> Any:
    torch.manual_seed(seed)
    pair = networks((3,), latent=2, width=16, architecture="mlp")
    return nn.ModuleDict({"critic": pair.critic(normalization)})


def sides(size: int = 7) -> tuple[Tensor, Tensor]:
    return cloud(size, 3, seed=1).float(), cloud(size, 3, seed=2).float() + 0.5


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


@every
def test_losses_are_their_formulas(objective: Objective) -> None:
    real, fake = sides()
    weight = np.array([0.3, -1.1, 0.4])
    nets = linear(*weight, bias=0.2)
    x, y = (side.double().numpy() @ weight + 0.2 for side in (real, fake))
    slope = float((weight**2).sum())
    critic, generator = {
        "DCGAN": (
            -np.log(sigmoid(x)).mean() - np.log(1 - sigmoid(y)).mean(),
            -np.log(sigmoid(y)).mean(),
        ),
        "SNGAN": (
            np.maximum(0, 1 - x).mean() + np.maximum(0, 1 + y).mean(),
            -y.mean(),
        ),
        "R3GAN": (
            -np.log(sigmoid(x - y)).mean() + 0.3 / 2 * (slope + slope),
            -np.log(sigmoid(y - x)).mean(),
        ),
        "WGAN": (y.mean() - x.mean(), -y.mean()),
        "WGANGP": (y.mean() - x.mean() + 3 * (math.sqrt(slope) - 1) ** 2, -y.mean()),
    }[type(objective).__name__]
    loss = objective.critic_loss(nets, real, fake)
    assert loss.value.item() == pytest.approx(critic, rel=1e-5)
    assert loss.logs["real_score"].item() == pytest.approx(x.mean(), rel=1e-5)
    assert loss.logs["fake_score"].item() == pytest.approx(y.mean(), rel=1e-5)
    value = objective.generator_loss(nets, real, fake).value
    assert value.item() == pytest.approx(generator, rel=1e-5)
    if "wasserstein" in loss.logs:
        assert loss.logs["wasserstein"].item() == pytest.approx(x.mean() - y.mean(), rel=1e-5)


@every
def test_fake_samples_climb_the_scores(objective: Objective) -> None:
    """Under a linear critic each goes along w; the loss is that of all samples, not of one."""
    real, fake = sides()
    nets = linear(0.3, -1.1, 0.4).requires_grad_(False)
    fake.requires_grad_()
    (gradient,) = torch.autograd.grad(objective.generator_loss(nets, real, fake).value, fake)
    along = -gradient @ torch.tensor([0.3, -1.1, 0.4])
    assert (along > 0).all()
    assert along.sum() <= 0.3**2 + 1.1**2 + 0.4**2 + 1e-6
    torch.testing.assert_close(torch.outer(along, torch.tensor([0.3, -1.1, 0.4])) / 1.46, -gradient)


@every
def test_critics_raise_real_and_lower_fake(objective: Objective) -> None:
    real, fake = sides(16)
    nets = curved()
    optimizer = torch.optim.Adam(nets.parameters(), lr=3e-3)
    margins = []
    for _ in range(100):  # a penalty raises slopes of either sign at first
        loss = objective.critic_loss(nets, real, fake)
        margins.append((loss.logs["real_score"] - loss.logs["fake_score"]).item())
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    assert margins[-1] > margins[0] + 0.1


def slope(critic: nn.Module, point: Tensor) -> Tensor:
    """Gradient of the score of one sample, alone in its batch."""
    point = point[None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(point).sum(), point, create_graph=True)
    return gradient[0]


def test_penalties_and_their_slopes_are_those_of_single_samples() -> None:
    """R1 on real, R2 on fake, of a curved critic; by hand, sample by sample."""
    real, fake = sides(5)
    nets = curved()
    critic = nets["critic"]
    loss = R3GAN(gamma=0.8).critic_loss(nets, real, fake)
    r1, r2 = (
        torch.stack([slope(critic, point).square().sum() for point in side]).mean()
        for side in (real, fake)
    )
    assert loss.logs["r1"].item() == pytest.approx(r1.item(), rel=1e-5)
    assert loss.logs["r2"].item() == pytest.approx(r2.item(), rel=1e-5)
    assert r1.item() != pytest.approx(r2.item(), rel=1e-2)
    scores = nn.functional.softplus(critic(fake) - critic(real)).mean()
    expected = scores + 0.8 / 2 * (r1 + r2)
    parameters = list(critic.parameters())
    found, wanted = (
        torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        for value in (loss.value, expected)
    )
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_the_pairs_of_the_relativistic_loss_are_those_of_the_batch() -> None:
    real, fake = sides(6)
    nets = curved()
    order = torch.tensor([1, 2, 3, 4, 5, 0])
    for loss in (R3GAN().critic_loss, R3GAN().generator_loss):
        together = loss(nets, real[order], fake[order]).value
        torch.testing.assert_close(together, loss(nets, real, fake).value)
        assert (loss(nets, real[order], fake).value - together).abs() > 1e-6


@pytest.mark.parametrize("objective", [R3GAN(), WGANGP()])
def test_penalties_are_float32_under_autocast(objective: Objective) -> None:
    real, fake = sides()
    nets = curved()
    seen: list[torch.dtype] = []
    nets["critic"].body.register_forward_hook(
        lambda _module, _inputs, features: seen.append(features.dtype)
    )
    with torch.autocast("cpu", torch.bfloat16):
        objective.critic_loss(nets, real, fake)
    assert seen[:2] == [torch.bfloat16] * 2
    assert set(seen[2:]) == {torch.float32}


def test_the_penalty_is_taken_between_each_real_sample_and_its_fake_one() -> None:
    """A share of its own for each pair, the same for all pixels of it; what the critic sees."""
    real, fake = torch.zeros(400, 1, 2, 2), torch.ones(400, 1, 2, 2)
    fake[200:] = 3.0
    nets = linear(0.1, 0.2, 0.3, 0.4)
    seen: list[Tensor] = []
    nets["critic"].register_forward_hook(lambda _module, inputs, _out: seen.append(inputs[0]))
    loss = WGANGP(penalty=2.0).critic_loss(nets, real, fake)
    (points,) = seen[2:]
    shares = points.detach().flatten(1)[:, 0] / fake[:, 0, 0, 0]
    assert torch.equal(points.detach(), fake * shares[:, None, None, None])
    assert len(shares.unique()) > 390
    assert shares.min() < 0.02
    assert shares.max() > 0.98
    assert shares.mean().item() == pytest.approx(0.5, abs=4 / (12 * 400) ** 0.5)
    assert shares.var().item() == pytest.approx(1 / 12, rel=0.2)
    assert loss.logs["gradient_norm"].item() == pytest.approx(0.3**0.5)


def test_the_penalty_draws_slopes_to_one_from_both_sides() -> None:
    real, _ = sides()
    for length, sign in ((0.5, -1), (2.0, 1)):
        nets = linear(length, 0.0, 0.0)
        same = WGANGP().critic_loss(nets, real, real)  # no difference of scores
        (gradient,) = torch.autograd.grad(same.value, nets["critic"].head.weight)
        assert gradient[0, 0].item() == pytest.approx(20 * (length - 1), rel=1e-5)
        assert gradient[0, 0].sign() == sign


def test_interpolation_keeps_dtype_and_ends() -> None:
    real, fake = cloud(9, 2, seed=1), cloud(9, 2, seed=2)
    points = interpolate(real, fake)
    assert points.dtype == torch.float64
    shares = (points - fake) / (real - fake)
    torch.testing.assert_close(shares[:, 0], shares[:, 1])
    assert ((shares >= 0) & (shares <= 1)).all()


# Clipping


def test_clipping_is_of_all_parameters_and_tells_the_share() -> None:
    nets = linear(0.5, -0.004, -2.0, bias=-0.00995)
    logs = clip(nets, 0.01)
    head = nets["critic"].head
    torch.testing.assert_close(head.weight.detach(), torch.tensor([[0.01, -0.004, -0.01]]))
    assert head.bias.item() == pytest.approx(-0.00995)
    assert logs["clipped"].item() == pytest.approx(3 / 4)  # above 0.99 c counts
    head.bias.data.fill_(0.0098)
    assert clip(nets, 0.01)["clipped"].item() == pytest.approx(2 / 4)
    assert head.weight.requires_grad


def test_weights_are_within_their_limits_when_made_and_after_each_step() -> None:
    objective = WGAN(clip=0.03)
    pair = networks((3,), latent=2, width=16, architecture="mlp")
    nets = objective.networks(pair.critic)
    optimizer = torch.optim.RMSprop(nets.parameters(), lr=1e-2)
    real, fake = sides()
    for step in range(3):
        for parameter in nets.parameters():
            assert parameter.abs().max() <= 0.03
        objective.critic_loss(nets, real, fake).value.backward()
        optimizer.step()
        assert max(parameter.abs().max() for parameter in nets.parameters()) > 0.03
        share = objective.after_critic_step(nets)["clipped"]
        assert (share > 0.1) or step == 0


def test_longer_phases() -> None:
    assert [warmed_up(step, 5) for step in (0, 24, 25, 499, 500, 501, 1000)] == [
        *(100, 100, 5, 5, 100, 5, 100)
    ]


# Normalisation


def test_batch_normalisation_is_for_convolutions() -> None:
    """In an MLP it would hide a shift of all samples: this is what the rule is for."""
    images = networks((1, 28, 28), latent=2, width=4, architecture="dcgan")
    points = networks((3,), latent=2, width=8, architecture="mlp")
    layers = [type(layer) for layer in DCGAN().networks(images.critic).modules()]
    assert nn.BatchNorm2d in layers
    layers = [type(layer) for layer in DCGAN().networks(points.critic).modules()]
    assert nn.BatchNorm1d not in layers
    real, _ = sides(16)
    hidden, plain = curved(normalization="batch"), curved()
    for nets, visible in ((hidden, False), (plain, True)):
        change = (nets["critic"](real + 5) - nets["critic"](real)).abs().max()
        assert (change > 1e-3) == visible


def test_spectral_norms_are_one() -> None:
    pair = networks((3,), latent=2, width=16, architecture="mlp")
    nets = SNGAN().networks(pair.critic)
    real, fake = sides()
    for _ in range(50):
        SNGAN().critic_loss(nets, real, fake)  # each call takes a power iteration
    weights = [layer.weight for layer in nets.modules() if isinstance(layer, nn.Linear)]
    assert len(weights) == 4
    for weight in weights:
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SNGAN(num_critic_steps=0), "`num_critic_steps` must be an integer >= 1, got 0"),
        (lambda: R3GAN(gamma=0.0), "`gamma` must be a positive"),
        (lambda: WGAN(clip=-1.0), "`clip` must be a positive"),
        (lambda: WGAN(warm_up=1), "`warm_up` must be True or False"),
        (lambda: WGAN(num_critic_steps=0), "`num_critic_steps`"),
        (lambda: WGANGP(penalty=0.0), "`penalty`"),
        (lambda: WGANGP(num_critic_steps=0), "`num_critic_steps`"),
    ],
)
def test_options_are_checked(make: type[Objective], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
