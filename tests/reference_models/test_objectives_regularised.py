"""Regularised transport: duality, the density of plans, and the error of gradients by the gap."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from cases import cloud
from otmetrics.reference_models.networks import networks
from otmetrics.reference_models.objectives import OTGAN, ROTGAN
from otmetrics.reference_models.objectives.duals import (
    Smoothing,
    kl_potentials,
    l2_potentials,
    round_marginals,
    solve_potentials,
)
from otmetrics.reference_models.objectives.transport import flat
from scipy.optimize import minimize
from torch import Tensor, nn

from otmetrics.functional import cost_matrix

NOTHING = nn.ModuleDict()
KINDS = pytest.mark.parametrize("kind", ["kl", "l2"])


def sides(size: int = 8) -> tuple[Tensor, Tensor]:
    return cloud(size, 2, seed=1), 0.8 * cloud(size, 2, seed=2) + 0.7


def mean_cost(real: Tensor, fake: Tensor, order: float = 2) -> float:
    return float(cost_matrix(flat(real), flat(fake), order=order).mean())


def made(objective: ROTGAN, width: int = 16) -> Any:
    torch.manual_seed(0)
    return objective.networks(networks((2,), latent=2, width=width, architecture="mlp").critic)


def gradient_of(objective: ROTGAN, nets: nn.ModuleDict, real: Tensor, fake: Tensor) -> Tensor:
    points = fake.clone().requires_grad_()
    return torch.autograd.grad(objective.generator_loss(nets, real, points).value, points)[0]


def quadratic(cost: np.ndarray, lam: float) -> tuple[float, np.ndarray]:
    """min <P, C> + lambda N M |P|^2 / 2 and P, by scipy's L-BFGS on the dual."""
    n, m = cost.shape

    def negative_dual(potentials: np.ndarray) -> tuple[float, np.ndarray]:
        excess = np.maximum(potentials[:n, None] + potentials[n:] - cost, 0)
        value = potentials[:n].mean() + potentials[n:].mean() - (excess**2).mean() / (2 * lam)
        slopes = (1 - excess.mean(1) / lam) / n, (1 - excess.mean(0) / lam) / m
        return -value, -np.concatenate(slopes)

    options = {"maxiter": 10_000, "maxfun": 50_000, "ftol": 0.0, "gtol": 1e-12}
    found = minimize(negative_dual, np.zeros(n + m), jac=True, method="L-BFGS-B", options=options)
    plan = np.maximum(found.x[:n, None] + found.x[n:] - cost, 0) / (lam * n * m)
    return -found.fun, plan


# Duals


@KINDS
@pytest.mark.parametrize("sizes", [(7, 7), (6, 9)])
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_primal_and_dual_values_meet(kind: str, sizes: tuple[int, int], share: float) -> None:
    """And are those of independent code: loops for "kl", L-BFGS for "l2"."""
    n, m = sizes
    real, fake = cloud(n, 2, seed=1), cloud(m, 2, seed=2) + 0.5
    cost = cost_matrix(real, fake)
    lam = share * float(cost.mean())
    smoothing = Smoothing(kind, lam)
    potentials = solve_potentials(smoothing, real[None], fake[None], cost[None], 1e-11)
    (dual,), (density,) = smoothing.dual(*potentials, cost[None])
    assert smoothing.primal(density, cost).item() == pytest.approx(dual.item(), rel=1e-9)
    a, b = oracles.uniform(n), oracles.uniform(m)
    if kind == "kl":
        value, plan = oracles.entropic(cost.numpy(), a, b, lam)
    else:
        value, plan = quadratic(cost.numpy(), lam)
    assert dual.item() == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(density.numpy() / (n * m), plan, atol=1e-5)
    assert density.mean().item() == pytest.approx(1, rel=1e-10)
    torch.testing.assert_close(density.mean(0), torch.ones(m).double())
    torch.testing.assert_close(density.mean(1), torch.ones(n).double())


def test_quadratic_plans_are_sparse_and_entropic_ones_are_not() -> None:
    real, fake = sides(20)
    cost = cost_matrix(real, fake)
    lam = 0.05 * float(cost.mean())
    for kind, empty in (("kl", False), ("l2", True)):
        smoothing = Smoothing(kind, lam)
        potentials = solve_potentials(smoothing, real[None], fake[None], cost[None], 1e-9)
        density = smoothing.dual(*potentials, cost[None])[1]
        assert ((density == 0).double().mean() > 0.5) == empty


@KINDS
def test_any_potentials_bound_the_value_from_below_and_any_plan_from_above(kind: str) -> None:
    real, fake = sides()
    cost = cost_matrix(real, fake)
    smoothing = Smoothing(kind, 0.3 * float(cost.mean()))
    potentials = solve_potentials(smoothing, real[None], fake[None], cost[None], 1e-11)
    (best,), _ = smoothing.dual(*potentials, cost[None])
    for seed in range(10):
        dual, density = smoothing.dual(cloud(8, seed=seed), cloud(8, seed=seed + 50), cost)
        assert dual < best
        assert smoothing.primal(density, cost) > best
        assert smoothing.primal(torch.zeros_like(cost), cost) > best


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (2, 4, 6)])
def test_rounded_plans_have_their_marginals_and_right_ones_stay(shape: tuple[int, ...]) -> None:
    for density in (cloud(*shape, seed=1).exp(), 5 * cloud(*shape, seed=2).clamp_min(0)):
        plan = round_marginals(density)
        assert (plan >= 0).all()
        for side in (-1, -2):
            torch.testing.assert_close(plan.mean(side), torch.ones_like(plan.mean(side)))
        torch.testing.assert_close(round_marginals(plan), plan)
    torch.testing.assert_close(round_marginals(torch.zeros(shape)), torch.ones(shape))


@pytest.mark.parametrize("share", [0.002, 0.05, 1.0, 30.0])
def test_newton_steps_solve_the_quadratic_dual_in_a_few_steps(share: float) -> None:
    """Also where the plan falls into parts, and with points that meet."""
    real, fake = sides(40)
    fake = torch.cat([fake, fake[:5], real[:3]])
    cost = cost_matrix(real, fake)
    lam = share * float(cost.mean())
    phi, psi = l2_potentials(cost, lam, 1e-10, max_iterations=30)
    density = ((phi[:, None] + psi - cost) / lam).clamp_min(0)
    assert (density.mean(1) - 1).abs().mean() <= 1e-10
    assert (density.mean(0) - 1).abs().max() < 1e-10


# The theorem


def early(kind: str, cost: Tensor, lam: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Potentials of plain ascent from zero, stopped later and later; densities of mass one."""
    phi, psi = torch.zeros(cost.shape[0]).double(), torch.zeros(cost.shape[1]).double()
    smoothing = Smoothing(kind, lam)
    steps = {*range(10), *(2**k for k in range(4, 12))}
    for step in range(max(steps) + 1):
        if kind == "kl":
            psi = -lam * ((phi[:, None] - cost) / lam).logsumexp(0) + lam * math.log(len(cost))
        if step in steps:
            yield phi, psi
        if kind == "kl":
            phi = -lam * ((psi - cost) / lam).logsumexp(1) + lam * math.log(cost.shape[1])
        else:
            phi = phi + lam * (1 - smoothing.density(phi[:, None] + psi - cost).mean(1))
            psi = psi + lam * (1 - smoothing.density(phi[:, None] + psi - cost).mean(0))


@KINDS
def test_the_gradient_errs_by_no_more_than_the_gap_allows(kind: str) -> None:
    """L0 sqrt(2 gap / lambda), against differences of the solved problem, for gaps that fall by
    more than four orders of magnitude as the ascent of the dual is stopped later."""
    real, fake = sides(6)
    lam = 0.03 * float(cost_matrix(real, fake).mean())
    smoothing = Smoothing(kind, lam)

    def solved(points: Tensor) -> float:
        cost = cost_matrix(real, points)
        if kind == "kl":
            weights = oracles.uniform(6), oracles.uniform(6)
            return oracles.entropic(cost.numpy(), *weights, lam, iterations=4000)[0]
        phi, psi = l2_potentials(cost, lam, 1e-13)
        return smoothing.dual(phi, psi, cost)[0].item()

    step = 1e-5
    true = torch.zeros_like(fake)
    for j in range(6):
        for d in range(2):
            move = torch.zeros_like(fake)
            move[j, d] = step
            true[j, d] = (solved(fake + move) - solved(fake - move)) / (2 * step)
    optimum = solved(fake)
    points = fake.clone().requires_grad_()
    cost = cost_matrix(real, points)
    steepest = 2 * cost.detach().sqrt().max()
    gaps, errors = [], []
    for phi, psi in early(kind, cost.detach(), lam):
        dual, density = smoothing.dual(phi, psi, cost.detach())
        gap = optimum - dual.item()
        (gradient,) = torch.autograd.grad((density * cost).mean(), points, retain_graph=True)
        error = (gradient - true).norm().item()
        certified = (smoothing.primal(density, cost.detach()) - dual).item()
        assert certified >= gap - 1e-9
        assert error <= steepest * math.sqrt(2 * max(gap, 0) / lam) + 1e-6
        gaps.append(gap)
        errors.append(error)
    assert gaps[0] > 1e4 * max(gaps[-1], 1e-16)
    assert errors[0] > 100 * errors[-1]
    # The root of the gap is the right rate: the bound stays within two orders of the error.
    for gap, error in zip(gaps, errors, strict=True):
        assert gap < 1e-8 or error > 0.01 * steepest * math.sqrt(2 * gap / lam)


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize(("kind", "self_terms"), [("kl", False), ("kl", True), ("l2", False)])
def test_the_logged_bound_holds_at_every_tolerance(
    kind: str, self_terms: bool, order: float
) -> None:
    real, fake = sides(24)
    options: dict[str, Any] = {"regulariser": kind, "self_terms": self_terms, "lam": 0.02}
    options["order"] = order
    exact = gradient_of(ROTGAN(tolerance=1e-11, **options), NOTHING, real, fake)
    bounds = []
    for tolerance in (0.5, 0.1, 1e-2, 1e-4, 1e-6, 1e-8):
        objective = ROTGAN(tolerance=tolerance, **options)
        logs = objective.generator_loss(NOTHING, real, fake).logs
        error = (gradient_of(objective, NOTHING, real, fake) - exact).norm()
        assert error <= logs["gradient_bound"] + 1e-7
        assert logs["plan_density"].item() == pytest.approx(1, rel=1e-6)
        bounds.append(logs["gradient_bound"].item())
    assert bounds[0] > 10 * bounds[-1]
    assert logs["dual_gap"] < 1e-6


@KINDS
@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
def test_the_logged_bound_is_its_formula(kind: str, order: float) -> None:
    real, fake = sides(10)
    objective = ROTGAN(regulariser=kind, order=order, lam=0.1, tolerance=0.05)
    logs = objective.generator_loss(NOTHING, real, fake).logs
    # |grad c| of (|x - y|^2 / 2)^(p / 2) in a sample, the largest of all pairs, by autograd.
    points = fake.repeat_interleave(10, 0).requires_grad_()
    cost = (real.repeat(10, 1) - points).norm(dim=1) ** order / 2 ** (order / 2)
    (slopes,) = torch.autograd.grad(cost.sum(), points)
    lam = 0.1 * mean_cost(real, fake, order)
    expected = slopes.norm(dim=1).max().item() * math.sqrt(2 * logs["dual_gap"].item() / lam)
    assert logs["gradient_bound"].item() == pytest.approx(expected, rel=1e-6)


def test_the_logged_bound_of_self_terms_is_a_sum() -> None:
    """Half of each term; both sides of y, y' move, none of x, x'."""
    real, fake = sides(12)
    logs = ROTGAN(self_terms=True, lam=0.1, tolerance=0.05).generator_loss(NOTHING, real, fake).logs
    batches = [flat(side) for side in (real[:6], real[6:], fake[:6], fake[6:])]
    pairs = ((0, 2), (1, 3), (0, 1), (2, 3))
    x, y = (torch.stack([batches[pair[k]] for pair in pairs]) for k in (0, 1))
    cost = cost_matrix(x, y)
    smoothing = Smoothing("kl", 0.1 * float(cost[:2].mean()))
    dual, density = smoothing.dual(*kl_potentials(x, y, smoothing.lam, 0.05), cost)
    gaps = (smoothing.primal(density, cost) - dual).tolist()
    bound, total = 0.0, 0.0
    highest = cost.amax((1, 2)).tolist()
    for gap, most, moving in zip(gaps, highest, (1, 1, 0, 2**0.5), strict=True):
        steepest = 2 * math.sqrt(most / 2)
        bound += moving * steepest * math.sqrt(2 * gap / smoothing.lam) / 2
        total += gap / 2
    assert logs["dual_gap"].item() == pytest.approx(total, rel=1e-6)
    assert logs["gradient_bound"].item() == pytest.approx(bound, rel=1e-6)


# Losses on a batch


@KINDS
@pytest.mark.parametrize("order", [1.0, 2.0])
def test_the_loss_is_the_regularised_cost_and_its_gradient(kind: str, order: float) -> None:
    real, fake = sides(9)
    lam = 0.3 * mean_cost(real, fake, order)
    objective = ROTGAN(regulariser=kind, order=order, lam=0.3, tolerance=1e-10)

    def naive(points: Tensor) -> float:
        root = math.sqrt(2)  # of the dimension
        cost = oracles.costs(real.numpy() / root, points.numpy() / root, order)
        a = oracles.uniform(9)
        if kind == "kl":
            return oracles.entropic(cost, a, a, lam)[0]
        return quadratic(cost, lam)[0]

    loss = objective.generator_loss(NOTHING, real, fake)
    assert loss.value.item() == pytest.approx(naive(fake), rel=1e-6)
    assert loss.logs["dual_gap"] < 1e-8
    direction = cloud(9, 2, seed=5)
    step = 1e-4
    slope = (naive(fake + step * direction) - naive(fake - step * direction)) / (2 * step)
    found = (gradient_of(objective, NOTHING, real, fake) * direction).sum().item()
    assert found == pytest.approx(slope, rel=2e-3)


def test_self_terms_are_those_of_independent_halves() -> None:
    real, fake = sides(12)
    lam = 0.5 * (mean_cost(real[:6], fake[:6]) + mean_cost(real[6:], fake[6:])) / 2
    objective = ROTGAN(self_terms=True, lam=0.5, tolerance=1e-10)
    assert objective.independent_halves
    assert not ROTGAN().independent_halves

    def naive(points: Tensor) -> float:
        x, x2, y, y2 = (
            side.numpy() / math.sqrt(2) for side in (real[:6], real[6:], points[:6], points[6:])
        )
        a = oracles.uniform(6)

        def d(u: np.ndarray, v: np.ndarray) -> float:
            return oracles.entropic(oracles.costs(u, v, 2), a, a, lam)[0]

        return (d(x, y) + d(x2, y2)) / 2 - d(x, x2) / 2 - d(y, y2) / 2

    value = objective.generator_loss(NOTHING, real, fake).value.item()
    assert value == pytest.approx(naive(fake), rel=1e-6)
    direction = cloud(12, 2, seed=5)
    slope = (naive(fake + 1e-5 * direction) - naive(fake - 1e-5 * direction)) / 2e-5
    found = (gradient_of(objective, NOTHING, real, fake) * direction).sum().item()
    assert found == pytest.approx(slope, rel=1e-5)


def test_learned_costs_ascend_what_the_generator_descends() -> None:
    """Both along <M, grad c> of the features, with the plans of independent code."""
    real, fake = (side.float() for side in sides(12))
    objective = ROTGAN(self_terms=True, cost="cosine", lam=0.3, tolerance=1e-8)
    nets = made(objective)
    assert list(nets) == ["features"]
    weight = nets["features"][1].weight
    loss = objective.generator_loss(nets, real, fake)
    ascent = objective.critic_loss(nets, real, fake)
    assert ascent.value.item() == pytest.approx(-loss.value.item())
    (found,) = torch.autograd.grad(ascent.value, weight)
    (other,) = torch.autograd.grad(loss.value, weight)
    torch.testing.assert_close(found, -other)
    x, x2, y, y2 = real[:6], real[6:], fake[:6], fake[6:]
    points = [nn.functional.normalize(nets["features"](side), dim=1) for side in (x, x2, y, y2)]
    costs = [1 - points[i] @ points[j].T for i, j in ((0, 2), (1, 3), (0, 1), (2, 3))]
    lam = 0.3 * float((costs[0].mean() + costs[1].mean()).detach() / 2)
    total = torch.zeros(())
    for sign, cost in zip((1, 1, -1, -1), costs, strict=True):
        matrix = cost.detach().double().numpy()
        plan = oracles.entropic(matrix, oracles.uniform(6), oracles.uniform(6), lam)[1]
        total = total + sign / 2 * (torch.tensor(plan).float() * cost).sum()
    (expected,) = torch.autograd.grad(total, weight)
    torch.testing.assert_close(other, expected, rtol=1e-3, atol=1e-6)


def test_over_both_pairings_it_is_ot_gan() -> None:
    """At one lambda; the costs of OT-GAN are half as large, and its slopes those of <M, C>."""
    real, fake = sides(16)
    swapped = torch.cat([fake[8:], fake[:8]])
    lam, slopes = 0.3, []
    for side in (fake, swapped):
        mean = (mean_cost(real[:8], side[:8]) + mean_cost(real[8:], side[8:])) / 2
        objective = ROTGAN(self_terms=True, lam=lam / mean, tolerance=1e-9)
        slopes.append(gradient_of(objective, NOTHING, real, side))
    energy = OTGAN(cost="data", epsilon=lam / 2, tolerance=1e-9)
    points = fake.clone().requires_grad_()
    (expected,) = torch.autograd.grad(energy.generator_loss(NOTHING, real, points).value, points)
    found = slopes[0] + torch.cat([slopes[1][8:], slopes[1][:8]])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


# Networks


@KINDS
def test_networks_of_potentials_climb_to_the_optimum_of_a_batch(kind: str) -> None:
    real, fake = (side.float() for side in sides(12))
    objective = ROTGAN(inner="net", regulariser=kind, lam=0.3, tolerance=1e-8)
    nets = made(objective, 64)
    assert set(nets) == ({"phi"} if kind == "kl" else {"phi", "psi"})
    optimum = ROTGAN(regulariser=kind, lam=0.3, tolerance=1e-10)
    best = optimum.generator_loss(NOTHING, real.double(), fake.double()).value.item()
    exact = gradient_of(optimum, NOTHING, real.double(), fake.double())
    optimizer = torch.optim.Adam(nets.parameters(), lr=3e-3)
    gaps = []
    for step in range(301):
        if step % 100 == 0:
            loss = objective.generator_loss(nets, real, fake)
            gap = loss.logs["dual_gap"].item()
            assert loss.value.item() + gap == pytest.approx(best, abs=1e-5)
            error = (gradient_of(objective, nets, real, fake) - exact).norm()
            assert error <= loss.logs["gradient_bound"]
            gaps.append(gap)
        ascent = objective.critic_loss(nets, real, fake)
        assert ascent.value.item() <= -best + gaps[-1] + 1e-4 or step % 100
        optimizer.zero_grad()
        ascent.value.backward()
        optimizer.step()
    assert gaps[-1] < 0.05 * gaps[0]
    assert loss.logs["plan_density"].item() == pytest.approx(1, abs=0.05)


def test_the_semi_dual_keeps_the_mass_at_one_and_stays_finite() -> None:
    real, fake = (side.float() for side in sides(12))
    objective = ROTGAN(inner="net", lam=1e-4)
    nets = made(objective)
    with torch.no_grad():
        nets["phi"].head.weight.mul_(1000)
    loss = objective.generator_loss(nets, real, 50 * fake)
    assert loss.value.isfinite()
    assert loss.logs["plan_density"].item() == pytest.approx(1, rel=1e-6)
    objective.critic_loss(nets, real, 50 * fake).value.backward()
    for parameter in nets.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@KINDS
def test_no_gradient_flows_through_potentials_or_plans(kind: str) -> None:
    """The gradient is the mean of M grad c with M a constant, whoever made it."""
    real, fake = sides(7)
    objective = ROTGAN(inner="net", regulariser=kind, lam=0.5)
    nets = made(objective).double()
    if kind == "l2":
        with torch.no_grad():
            nets["psi"].head.bias.fill_(3.0)  # a plan that moves something
    nets.requires_grad_(False)
    cost = cost_matrix(flat(real), flat(fake))
    lam = 0.5 * float(cost.mean())
    phi = nets["phi"](real)
    if kind == "kl":
        density = ((phi[:, None] - cost) / lam).exp()
        density = density / density.mean(0)
    else:
        density = ((phi[:, None] + nets["psi"](fake) - cost) / lam).clamp_min(0)
    away = fake[None] - real[:, None]
    expected = (density[..., None] * 2 * away / 2).mean(0) / 7
    torch.testing.assert_close(gradient_of(objective, nets, real, fake), expected)
    assert expected.norm() > 0.01


def test_each_self_term_has_a_potential_of_its_own() -> None:
    real, fake = (side.float() for side in sides(12))
    objective = ROTGAN(inner="net", self_terms=True, cost="cosine", lam=0.3)
    nets = made(objective)
    assert set(nets) == {"phi", "phi_real", "phi_fake", "features"}
    learned = objective.critic_loss(nets, real, fake)
    learned.value.backward()
    gradients = {name: [p.grad for p in net.parameters()] for name, net in nets.items()}
    assert all(g is not None and g.isfinite().all() for part in gradients.values() for g in part)
    # The potentials climb all four duals, whatever the weight that the loss gives these.
    solved = ROTGAN(self_terms=True, cost="cosine", lam=0.3, tolerance=1e-9)
    most = 0.0
    for pair in ((0, 2), (1, 3), (0, 1), (2, 3)):
        points = [
            nn.functional.normalize(nets["features"](side), dim=1).detach().double() / 2**0.5
            for side in (real[:6], real[6:], fake[:6], fake[6:])
        ]
        cross = [cost_matrix(points[i], points[j]).mean() for i, j in ((0, 2), (1, 3))]
        lam = 0.3 * float(sum(cross) / 2)
        x, y = points[pair[0]], points[pair[1]]
        potentials = kl_potentials(x[None], y[None], lam, 1e-9)
        most += Smoothing("kl", lam).dual(*potentials, cost_matrix(x, y)[None])[0].item()
    assert solved.generator_loss(nets, real, fake).value.isfinite()
    optimizer = torch.optim.Adam([p for n in nets if n != "features" for p in nets[n].parameters()])
    values = [-learned.value.item()]
    for _ in range(100):
        optimizer.zero_grad()
        loss = objective.critic_loss(nets, real, fake)
        loss.value.backward()
        optimizer.step()
        values.append(-loss.value.item())
    assert values[0] < values[-1] <= most + 1e-6


def test_potentials_and_a_learned_cost_ascend_apart() -> None:
    """Potentials their duals with the cost held fixed, the cost <M, C> with M held fixed."""
    real, fake = sides(12)
    objective = ROTGAN(inner="net", self_terms=True, cost="cosine", lam=0.3)
    nets = made(objective).double()
    names = ("phi", "phi", "phi_real", "phi_fake")
    pairs = ((0, 2), (1, 3), (0, 1), (2, 3))
    batches = (real[:6], real[6:], fake[:6], fake[6:])
    points = [nn.functional.normalize(nets["features"](side), dim=1) for side in batches]
    costs = [1 - points[i] @ points[j].T for i, j in pairs]
    lam = 0.3 * float((costs[0].mean() + costs[1].mean()).detach() / 2)
    duals, paid = torch.zeros(()), torch.zeros(())
    for name, pair, cost, weight in zip(names, pairs, costs, (1, 1, -1, -1), strict=True):
        phi = nets[name](batches[pair[0]])
        exponent = (phi[:, None] - cost.detach()) / lam
        psi = -lam * exponent.exp().mean(0).log()
        duals = duals + phi.mean() + psi.mean()
        density = ((phi[:, None] + psi - cost) / lam).exp().detach()
        paid = paid + weight / 2 * (density * cost).mean()
    loss = objective.critic_loss(nets, real, fake).value
    assert loss.item() == pytest.approx(-duals.item(), rel=1e-9)
    for name, value in (
        ("phi", duals),
        ("phi_real", duals),
        ("phi_fake", duals),
        ("features", paid),
    ):
        weight = nets[name][1].weight if name == "features" else nets[name].head.weight
        found, expected = (
            torch.autograd.grad(v, weight, retain_graph=True)[0] for v in (loss, value)
        )
        torch.testing.assert_close(found, -expected)
        assert expected.norm() > 1e-6


def test_default_shares_of_the_mean_cost() -> None:
    real, fake = sides(10)
    features = {"self_terms": True, "cost": "cosine"}
    cases: list[tuple[dict[str, Any], float]] = [
        ({}, 0.01),
        ({"inner": "net"}, 0.1),
        (features, 0.02),
    ]
    for options, share in cases:
        nets = made(ROTGAN(**options)).double()
        default = ROTGAN(**options).generator_loss(nets, real, fake).value
        torch.testing.assert_close(
            default, ROTGAN(lam=share, **options).generator_loss(nets, real, fake).value
        )


def test_samples_that_all_meet_cost_nothing() -> None:
    real = torch.ones(4, 2)
    for kind in ("kl", "l2"):
        loss = ROTGAN(regulariser=kind).generator_loss(NOTHING, real, real.clone())
        assert loss.value.isfinite()
        assert loss.logs["gradient_bound"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regulariser": "l1"}, "`regulariser` must be one of kl, l2, got 'l1'"),
        ({"lam": 1.5}, "`lam` must be in"),
        ({"lam": -0.1}, "`lam` must be in"),
        ({"num_dual_steps": 0}, "`num_dual_steps`"),
        ({"num_generator_steps": 0}, "`num_generator_steps`"),
        ({"tolerance": 0.0}, "`tolerance`"),
        ({"warm_up": 0}, "`warm_up`"),
        ({"self_terms": 0}, "`self_terms` must be True or False"),
        ({"self_terms": True, "regulariser": "l2"}, "`self_terms` must be False for `regulariser`"),
        ({"cost": "cosine"}, '`self_terms` must be True for `cost` "cosine"'),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    make: Callable[..., ROTGAN] = ROTGAN
    with pytest.raises(ValueError, match=message):
        make(**options)
