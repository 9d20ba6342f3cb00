"""Warm starts of the Sinkhorn loss: the same answer, sooner where the samples persist."""

import dataclasses
from typing import Any

import pytest
import torch
from cases import cloud

from otmetrics import Sinkhorn, SinkhornLoss

SINKHORN = Sinkhorn(order=1.0, epsilon=0.2, tolerance=1e-4)
FINE = Sinkhorn(epsilon=0.005)


def flow(loss: SinkhornLoss, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], list[int]]:
    """Values and iterations of a slow gradient flow."""
    iterations: list[int] = []
    solve_from = Sinkhorn.solve_from

    def watched(*arguments: Any) -> Any:
        found = solve_from(*arguments)
        iterations.append(found[0].num_iterations or 0)
        return found

    monkeypatch.setattr(Sinkhorn, "solve_from", watched)
    real, fake = cloud(60, 2, seed=1) + 2, cloud(50, 2, seed=2).requires_grad_()
    values = []
    for _ in range(10):
        value = loss(real, fake)
        (gradient,) = torch.autograd.grad(value, fake)
        fake = (fake - 0.003 * len(fake) * gradient).detach().requires_grad_()
        values.append(value.item())
    return values, iterations


@pytest.mark.parametrize("richardson", [False, True])
def test_warm_starts_save_iterations_and_keep_the_answer(
    monkeypatch: pytest.MonkeyPatch, richardson: bool
) -> None:
    solver = dataclasses.replace(FINE, tolerance=1e-6, richardson=richardson)
    cold, slow = flow(SinkhornLoss(solver), monkeypatch)
    warm, fast = flow(SinkhornLoss(solver, warm_start=True), monkeypatch)
    assert warm == pytest.approx(cold, rel=1e-5)
    assert slow[0] == fast[0]
    assert sum(fast[1:]) < 0.9 * sum(slow[1:])


def test_the_answer_itself_is_the_best_start() -> None:
    for shapes in (((30, 2), (20, 2)), ((3, 30, 2), (3, 20, 2))):
        x, y = (cloud(*shape, seed=i) for i, shape in enumerate(shapes))
        cold, start = FINE.solve_from(x, y)
        again, _ = FINE.solve_from(x, y, start)
        torch.testing.assert_close(again.cost, cold.cost, rtol=1e-4, atol=0)
        assert cold.num_iterations is not None
        assert again.num_iterations is not None
        assert again.num_iterations < cold.num_iterations / 2


def test_warm_starts_belong_to_one_shape_and_to_training() -> None:
    loss = SinkhornLoss(SINKHORN, warm_start=True)
    for shape in ((9, 3), (8, 3), (2, 6, 3), (3, 4, 3), (12, 3), (12, 5)):
        x, y = cloud(*shape, seed=1), cloud(*shape, seed=2)
        torch.testing.assert_close(loss(x, y), SINKHORN.solve(x, y).cost.mean(), rtol=1e-3, atol=0)
    assert loss(x, y) != SINKHORN.solve(x, y).cost  # from its own answer
    assert loss.eval()(x, y) == SINKHORN.solve(x, y).cost
    assert loss.state_dict() == {}
    kept = loss._start
    assert kept is not None
    assert not any(f.requires_grad for f in kept)
    # Far from the last problem its potentials are no better, and left.
    x, y = 1e3 * x + 7, y.flip(0).float()
    torch.testing.assert_close(loss.train()(x, y), SINKHORN.solve(x, y).cost)


# Extractors
