"""Transport costs as losses: each against naive code, its gradient against differences."""

import math
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from cases import cloud
from otmetrics.reference_models.networks import Critic, mlp_critic
from otmetrics.reference_models.objectives import (
    DCGAN,
    OTGAN,
    SWG,
    ExactOT,
    MaxSWG,
    Objective,
    SinkhornGAN,
)
from otmetrics.reference_models.objectives.transport import flat, on_sphere
from torch import Tensor, nn

from otmetrics import Sliced
from otmetrics.functional import unrolled_sinkhorn_divergence

NOTHING = nn.ModuleDict()
WEIGHT = [[0.4, -1.0, 0.3], [2.0, 0.1, 0.5], [-0.7, 0.2, 0.9], [0.1, 1.3, -0.2]]


class Body(nn.Module):
    """Features tanh(A x) of samples in three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4, bias=False, dtype=torch.float64)
        self.linear.weight.data = torch.tensor(WEIGHT, dtype=torch.float64)

    def forward(self, samples: Tensor) -> Tensor:
        return self.linear(samples.flatten(1)).tanh()


def with_critic() -> Any:
    critic = Critic(Body(), 4, "none").double()
    with torch.no_grad():
        critic.head.weight.copy_(torch.tensor([[0.5, -1.5, 2.0, 0.25]]))
    return nn.ModuleDict({"critic": critic}).requires_grad_(False)


def with_features() -> Any:
    return nn.ModuleDict({"features": Body()})


def features(samples: Tensor) -> np.ndarray:
    return np.tanh(samples.numpy() @ np.array(WEIGHT).T)


def sides(size: int = 9) -> tuple[Tensor, Tensor]:
    return cloud(size, 3, seed=1), 0.8 * cloud(size, 3, seed=2) + 0.7


def gradient_of(objective: Objective, nets: nn.ModuleDict, real: Tensor, fake: Tensor) -> Tensor:
    points = fake.clone().requires_grad_()
    torch.manual_seed(3)
    return torch.autograd.grad(objective.generator_loss(nets, real, points).value, points)[0]


def check_slope(
    objective: Objective, nets: nn.ModuleDict, real: Tensor, fake: Tensor, naive: Any
) -> None:
    """The gradient along a direction against differences of a naive value in float64."""
    direction = cloud(*fake.shape, seed=9)
    step = 1e-5
    slope = (naive(fake + step * direction) - naive(fake - step * direction)) / (2 * step)
    found = (gradient_of(objective, nets, real, fake) * direction).sum().item()
    assert abs(slope) > 1e-3
    assert found == pytest.approx(slope, rel=1e-4)


# Exact


@pytest.mark.parametrize("space", ["data", "critic"])
def test_exact(space: str) -> None:
    real, fake = sides()
    objective, nets = ExactOT(space=space), with_critic() if space == "critic" else NOTHING

    def naive(points: Tensor) -> float:
        x, y = (
            features(side) if space == "critic" else side.numpy() / math.sqrt(3)
            for side in (real, points)
        )
        return oracles.transport(oracles.costs(x, y, 2))[0]

    assert objective.generator_loss(nets, real, fake).value.item() == pytest.approx(naive(fake))
    check_slope(objective, nets, real, fake, naive)


def test_the_exact_plan_carries_no_gradient() -> None:
    real, fake = sides()
    _, plan = oracles.transport(oracles.costs(real.numpy(), fake.numpy(), 2))
    matched = real[plan.argmax(0)]
    expected = 2 * (fake - matched) / 3 / len(fake)
    torch.testing.assert_close(gradient_of(ExactOT(), NOTHING, real, fake), expected)


# Sliced


@pytest.mark.parametrize("space", ["data", "critic"])
def test_sliced_is_the_mean_over_directions(space: str) -> None:
    real, fake = sides()
    x, y = (features(side) if space == "critic" else side.numpy() for side in (real, fake))
    generator = np.random.default_rng(0)
    normal = generator.standard_normal((4000, x.shape[1]))
    directions = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    costs = [oracles.univariate(x @ w, y @ w, 2) for w in directions[:400]]
    nets = with_critic() if space == "critic" else NOTHING
    torch.manual_seed(0)
    value = SWG(space=space).generator_loss(nets, real, fake).value.item()
    assert value == pytest.approx(np.mean(costs), abs=4 * np.std(costs) / 20)
    assert value == pytest.approx(np.mean(costs), rel=0.3)


def test_sliced_of_a_shift_is_its_mean_square() -> None:
    """So that images and points have losses of one size; exact where complete bases are taken."""
    for shape, num_projections, error in (((2,), 32, 1e-9), ((3, 4, 4), 1000, 0.1)):
        real = cloud(8, *shape, seed=1)
        objective = SWG(space="data", num_projections=num_projections)
        loss = objective.generator_loss(NOTHING, real, real + 0.5)
        assert loss.value.item() == pytest.approx(0.25, rel=error)


def test_each_step_has_directions_of_its_own_that_its_seed_repeats() -> None:
    real, fake = sides()
    objective = SWG(space="data", num_projections=4)

    def value() -> float:
        return objective.generator_loss(NOTHING, real, fake).value.item()

    torch.manual_seed(5)
    first, second = value(), value()
    assert first != second
    torch.manual_seed(5)
    assert [value(), value()] == [first, second]
    torch.manual_seed(5)
    seed = int(torch.randint(2**62, ()))
    expected = Sliced(num_projections=4, seed=seed).solve(real, fake).cost.item()
    assert first == pytest.approx(expected)


@pytest.mark.parametrize("space", ["data", "critic"])
@pytest.mark.parametrize("debiased", [False, True])
def test_sliced_gradient(space: str, debiased: bool) -> None:
    real, fake = sides()
    objective = SWG(space=space, num_projections=50, debiased=debiased)
    nets = with_critic() if space == "critic" else NOTHING

    def value(points: Tensor) -> float:
        torch.manual_seed(3)
        return objective.generator_loss(nets, real, points).value.item()

    check_slope(objective, nets, real, fake, value)


def test_debiased_sliced_is_zero_on_average_between_batches_of_one_law() -> None:
    values: dict[bool, list[float]] = {False: [], True: []}
    for k in range(150):
        real, fake = cloud(8, 2, seed=2 * k), cloud(8, 2, seed=2 * k + 1)
        for debiased in values:
            objective = SWG(space="data", num_projections=8, debiased=debiased)
            values[debiased].append(objective.generator_loss(NOTHING, real, fake).value.item())
    mean, error = np.mean(values[True]), np.std(values[True]) / 150**0.5
    assert abs(mean) < 4 * error
    assert np.mean(values[False]) > 10 * error


def test_max_sliced_goes_along_the_last_layer() -> None:
    real, fake = sides()
    nets = with_critic()
    weight = np.array([0.5, -1.5, 2.0, 0.25])

    def naive(points: Tensor) -> float:
        x, y = (features(side) @ weight / np.linalg.norm(weight) for side in (real, points))
        return oracles.univariate(x, y, 2)

    value = MaxSWG().generator_loss(nets, real, fake).value.item()
    assert value == pytest.approx(naive(fake))
    check_slope(MaxSWG(), nets, real, fake, naive)


@pytest.mark.parametrize("objective", [SWG(), MaxSWG(), ExactOT(space="critic")])
def test_their_critics_learn_by_cross_entropy(objective: Objective) -> None:
    real, fake = sides()
    nets = with_critic()
    found = objective.critic_loss(nets, real, fake).value
    torch.testing.assert_close(found, DCGAN().critic_loss(nets, real, fake).value)


# Sinkhorn


def epsilon_of(real: Tensor, fake: Tensor, share: float) -> float:
    return share * float(oracles.costs(real.numpy(), fake.numpy(), 2).mean())


def test_sinkhorn_divergence_of_the_samples() -> None:
    real, fake = sides()
    x, y = real / math.sqrt(3), fake / math.sqrt(3)
    epsilon = epsilon_of(x, y, 0.4)  # a constant for the gradient

    def naive(points: Tensor) -> float:
        return oracles.sinkhorn_divergence(x.numpy(), points.numpy() / math.sqrt(3), 2, epsilon)

    objective = SinkhornGAN(epsilon=0.4)
    loss = objective.generator_loss(NOTHING, real, fake)
    assert loss.value.item() == pytest.approx(naive(fake), rel=1e-6)
    assert loss.logs["converged"] == 1
    check_slope(objective, NOTHING, real, fake, naive)
    assert objective.generator_loss(NOTHING, real, real.flip(0)).value.abs() < 1e-9


def test_sinkhorn_divergence_of_learned_features() -> None:
    """The generator descends what the features ascend, and both plans are fixed."""
    real, fake = sides()
    nets = with_features()
    objective = SinkhornGAN(cost="critic", epsilon=0.3)
    loss, ascent = (f(nets, real, fake) for f in (objective.generator_loss, objective.critic_loss))
    epsilon = epsilon_of(torch.tensor(features(real)), torch.tensor(features(fake)), 0.3)
    expected = oracles.sinkhorn_divergence(features(real), features(fake), 2, epsilon)
    assert loss.value.item() == pytest.approx(expected, rel=1e-6)
    assert ascent.value.item() == pytest.approx(-expected, rel=1e-6)
    weight = nets["features"].linear.weight
    (gradient,) = torch.autograd.grad(ascent.value, weight)
    direction = cloud(4, 3, seed=5)
    values = []
    for step in (1e-5, -1e-5):
        x, y = (
            np.tanh(side.numpy() @ (np.array(WEIGHT) + step * direction.numpy()).T)
            for side in (real, fake)
        )
        values.append(oracles.sinkhorn_divergence(x, y, 2, epsilon))
    slope = (values[0] - values[1]) / 2e-5
    assert -(gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4)


def test_unrolled_gradients_are_those_of_the_truncated_iteration() -> None:
    real, fake = sides()
    few = gradient_of(SinkhornGAN(epsilon=0.05, unrolled=3), NOTHING, real, fake)
    points = fake.clone().requires_grad_()
    value = unrolled_sinkhorn_divergence(flat(real), flat(points), epsilon=0.05, num_iterations=3)
    torch.testing.assert_close(few, torch.autograd.grad(value, points)[0])
    solved = gradient_of(SinkhornGAN(epsilon=0.05), NOTHING, real, fake)
    many = gradient_of(SinkhornGAN(epsilon=0.05, unrolled=600), NOTHING, real, fake)
    torch.testing.assert_close(many, solved, rtol=1e-3, atol=1e-5)
    assert (few - solved).norm() > 0.01 * solved.norm()


def test_weights_of_a_learned_cost_are_clipped() -> None:
    objective = SinkhornGAN(cost="critic", clip=0.02)
    nets: Any = objective.networks(lambda _: Critic(Body(), 4, "none"))
    assert list(nets) == ["features"]
    assert nets["features"].linear.weight.abs().max().item() == pytest.approx(0.02)
    nets["features"].linear.weight.data.mul_(2)
    assert objective.after_critic_step(nets)["clipped"] == 1
    assert nets["features"].linear.weight.abs().max().item() == pytest.approx(0.02)


def test_one_that_does_not_converge_says_so_without_warning() -> None:
    """Warnings are errors here; far apart and nearly unregularised, iterations do not suffice."""
    real, fake = cloud(20, 3, seed=1), 9 * cloud(20, 3, seed=2)
    loss = SinkhornGAN(epsilon=1e-7).generator_loss(NOTHING, real, fake)
    assert loss.logs["converged"] == 0
    assert loss.value.isfinite()


# Shared


def test_points_of_samples_and_of_features() -> None:
    samples = cloud(5, 3, 2, 2, seed=1)
    apart = (flat(samples)[0] - flat(samples)[1]).square().sum()
    torch.testing.assert_close(apart, (samples[0] - samples[1]).square().mean())
    assert flat(samples.half()).dtype == torch.float32
    u = cloud(4, 6, seed=2)
    cosine = torch.cosine_similarity(u[0], u[1], dim=0)
    points = on_sphere(u)
    torch.testing.assert_close((points[0] - points[1]).square().sum(), 1 - cosine)
    torch.testing.assert_close(on_sphere(3 * u), points)


# Unbiased


def six_terms(batches: list[np.ndarray], epsilon: float) -> float:
    """W(X,Y) + W(X,Y') + W(X',Y) + W(X',Y') - 2 W(X,X') - 2 W(Y,Y') of points |x - y|^2 apart."""

    def transport(x: np.ndarray, y: np.ndarray) -> float:
        cost = oracles.costs(x, y, 2)
        weights = oracles.uniform(len(x)), oracles.uniform(len(y))
        return float((oracles.entropic(cost, *weights, epsilon)[1] * cost).sum())

    x, x2, y, y2 = batches
    crosses = transport(x, y) + transport(x, y2) + transport(x2, y) + transport(x2, y2)
    return crosses - 2 * transport(x, x2) - 2 * transport(y, y2)


@pytest.mark.parametrize("cost", ["cosine", "data"])
def test_ot_gan_is_its_six_terms(cost: str) -> None:
    real, fake = sides(12)
    objective = OTGAN(cost=cost, epsilon=0.4, tolerance=1e-9)
    nets = with_features() if cost == "cosine" else NOTHING
    if cost == "cosine":
        points = [features(side) for side in (real, fake)]
        points = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in points]
    else:
        points = [side.numpy() / math.sqrt(3) for side in (real, fake)]
    batches = [part / math.sqrt(2) for side in points for part in (side[:6], side[6:])]
    loss = objective.generator_loss(nets, real, fake)
    assert loss.value.item() == pytest.approx(six_terms(batches, 0.4), rel=1e-7)
    assert loss.logs["marginal_error"] < 1e-9
    if cost == "cosine":
        ascent = objective.critic_loss(nets, real, fake).value
        assert ascent.item() == pytest.approx(-loss.value.item())


@pytest.mark.parametrize(("cost", "order"), [("cosine", 2.0), ("data", 2.0), ("data", 1.0)])
def test_plans_of_ot_gan_carry_no_gradient(cost: str, order: float) -> None:
    """The slope of <M, C> with M held fixed, which is that of the entropic cost."""
    real, fake = sides(12)
    objective = OTGAN(cost=cost, order=order, epsilon=0.4, tolerance=1e-10)
    nets = with_features().requires_grad_(False) if cost == "cosine" else NOTHING

    def naive(samples: Tensor) -> float:
        points = []
        for side in (real, samples):
            if cost == "cosine":
                found = features(side)
                points.append(found / np.linalg.norm(found, axis=1, keepdims=True))
            else:
                points.append(side.numpy() / math.sqrt(3))
        total, a = 0.0, oracles.uniform(6)
        x, x2, y, y2 = (part / math.sqrt(2) for side in points for part in (side[:6], side[6:]))
        for weight, u, v in ((1, x, y), (1, x, y2), (1, x2, y), (1, x2, y2), (-2, y, y2)):
            costs = oracles.costs(u, v, order)
            total += weight * oracles.entropic(costs, a, a, 0.4)[0]
        return total

    check_slope(objective, nets, real, fake, naive)


def test_ot_gan_is_zero_on_average_where_the_laws_agree_and_positive_else() -> None:
    """A statistic of independent batches, which may be negative; one batch twice would not do."""
    objective = OTGAN(cost="data", epsilon=0.2)
    values: dict[float, list[float]] = {0.0: [], 1.0: []}
    for k in range(120):
        real, fake = cloud(8, 2, seed=2 * k), cloud(8, 2, seed=2 * k + 1)
        for shift, found in values.items():
            found.append(objective.generator_loss(NOTHING, real, fake + shift).value.item())
    mean, error = np.mean(values[0.0]), np.std(values[0.0]) / 120**0.5
    assert abs(mean) < 4 * error
    assert min(values[0.0]) < -error
    # Four crosses of |shift|^2 / (2 D) each, at least.
    assert np.mean(values[1.0]) == pytest.approx(4 * 0.5, abs=1)
    twice = cloud(4, 2, seed=1).repeat(2, 1)
    other = cloud(4, 2, seed=2).repeat(2, 1)
    assert objective.generator_loss(NOTHING, twice, other).value > 10 * error


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SWG(space="pixels"), "`space` must be one of critic, data, got 'pixels'"),
        (lambda: SWG(num_projections=0), "`num_projections`"),
        (lambda: SWG(debiased=1), "`debiased` must be"),
        (lambda: ExactOT(space=""), "`space`"),
        (lambda: ExactOT(order=300.0), "`order` must be at most 256"),
        (lambda: SinkhornGAN(epsilon=0.0), "`epsilon`"),
        (lambda: SinkhornGAN(tolerance=0.0), "`tolerance`"),
        (lambda: SinkhornGAN(unrolled=-1), "`unrolled` must be an integer >= 0"),
        (lambda: SinkhornGAN(clip=0.0), "`clip`"),
        (lambda: SinkhornGAN(cost="cosine"), "`cost` must be one of data, critic"),
        (lambda: OTGAN(epsilon=-1.0), "`epsilon`"),
        (lambda: OTGAN(tolerance=2.0), "`tolerance`"),
        (lambda: OTGAN(num_generator_steps=0), "`num_generator_steps`"),
        (lambda: OTGAN(cost="critic"), "`cost` must be one of cosine, data"),
        (lambda: OTGAN(cost="data", order=0.5), "`order`"),
        (lambda: OTGAN(order=1.0), '`order` must be 2 for `cost` "cosine"'),
    ],
)
def test_options_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", [SWG, MaxSWG, ExactOT])
def test_penalties_on_both_gradients_are_those_of_autograd(kind: type) -> None:
    options = {} if kind is MaxSWG else {"space": "critic"}
    plain, penalised = kind(**options), kind(gamma=0.7, **options)
    torch.manual_seed(0)
    nets = penalised.networks(lambda norm: mlp_critic((2,), 8, norm)).double()
    real, fake = torch.randn(2, 12, 2).double()
    expected = plain.critic_loss(nets, real, fake).value
    for side in (real, fake):
        points = side.clone().requires_grad_()
        (slopes,) = torch.autograd.grad(nets["critic"](points).sum(), points)
        expected = expected + 0.35 * slopes.square().sum(1).mean()
    loss = penalised.critic_loss(nets, real, fake)
    torch.testing.assert_close(loss.value, expected)
    assert set(loss.logs) >= {"r1", "r2"}
    with pytest.raises(ValueError, match="`gamma` must be a finite number >= 0"):
        kind(gamma=-1.0)


@pytest.mark.parametrize("order", [1.0, 3.0])
def test_costs_of_other_orders(order: float) -> None:
    """Exact and debiased entropic costs by naive code, and a sliced one in its one direction."""
    real, fake = cloud(9, 2, seed=1), cloud(9, 2, seed=2)
    points = [side.numpy() / 2**0.5 for side in (real, fake)]
    cost = oracles.costs(*points, order)
    exact = ExactOT(order=order).generator_loss(NOTHING, real, fake).value
    assert exact.item() == pytest.approx(oracles.transport(cost)[0], rel=1e-6)
    entropic = SinkhornGAN(order=order, epsilon=0.5).generator_loss(NOTHING, real, fake).value
    expected = oracles.sinkhorn_divergence(*points, order, 0.5 * cost.mean())
    assert entropic.item() == pytest.approx(expected, rel=1e-3)
    line = real[:, :1], fake[:, :1]  # in one dimension there is one direction
    sliced = SWG(order=order, space="data").generator_loss(NOTHING, *line).value
    naive = oracles.univariate(line[0][:, 0].numpy(), line[1][:, 0].numpy(), order)
    assert sliced.item() == pytest.approx(naive, rel=1e-6)
    with pytest.raises(ValueError, match="`debiased` must be False unless `order` is 2"):
        SWG(order=order, debiased=True)
