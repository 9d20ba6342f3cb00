"""The solver objects: options checked when made, the same numbers as the functions."""

import copy
import dataclasses
import math
import pickle
from typing import Any

import pytest
import torch
from cases import cloud, weights

from otmetrics.errors import ConvergenceWarning
from otmetrics.functional import exact_wasserstein, sinkhorn_divergence, sliced_wasserstein
from otmetrics.losses import ExactWassersteinLoss, SinkhornLoss, SlicedWassersteinLoss
from otmetrics.transport.costs import CloudPairs
from otmetrics.transport.exact import problem
from otmetrics.transport.exact.exact import Exact
from otmetrics.transport.semidiscrete.semidiscrete import SemiDiscrete
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
from otmetrics.transport.sliced.directions import direction_generator
from otmetrics.transport.sliced.sliced import Sliced

Solver = Sliced | Exact | Sinkhorn
SOLVERS: list[Solver] = [
    Sliced(order=1.5, num_projections=33, seed=7),
    Exact(order=3.0),
    Sinkhorn(order=1.0, epsilon=0.4, tolerance=1e-4, max_iterations=500),
]

AFTER_TOLERANCE = ("max_projections", "debiased")

BAD_OPTIONS: list[tuple[type[Solver], str, Any]] = [
    *[(Sliced, "tolerance", v) for v in (0.0, 1.0, math.nan)],
    *[(Sliced, "orthogonal", v) for v in (0, None)],
    *[(s, "order", v) for s in (Sliced, Exact, Sinkhorn) for v in (0.5, math.nan, math.inf, "2")],
    *[(Sliced, "num_projections", v) for v in (0, -1, 2.0, True)],
    *[(Sliced, "seed", v) for v in (-1, 0.5, None, 2**64)],
    *[(Sinkhorn, "epsilon", v) for v in (0.0, -1.0, math.nan, "1")],
    *[(Sinkhorn, "tolerance", v) for v in (0.0, 1.0, math.nan)],
    *[(Sinkhorn, "max_iterations", v) for v in (0, 1.5)],
]


@pytest.mark.parametrize(("solver", "name", "value"), BAD_OPTIONS)
def test_options_are_checked_when_made(solver: type[Solver], name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
        solver(**{name: value})


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_every_option_is_used(solver: Solver) -> None:
    """A change of any field changes the value, its error, or whether it converged."""
    x, y = cloud(20, 3, seed=1), cloud(15, 3, seed=2)
    base = solver.solve(x, y)
    others = {"relative": False, "max_iterations": 2, "tolerance": 1e-9, "order": 2.0}
    others |= {"orthogonal": False, "richardson": True}
    for field in dataclasses.fields(solver):
        if isinstance(solver, Exact) and field.name != "order":
            continue  # the next tests: these matter for other problems
        if isinstance(solver, Sliced) and field.name in ("tolerance", *AFTER_TOLERANCE):
            continue
        if field.name == "memory_limit":
            continue  # changes how, not what
        value = others.get(field.name, getattr(solver, field.name) * 2)
        changed = dataclasses.replace(solver, **{field.name: value})
        if field.name == "max_iterations":
            with pytest.warns(ConvergenceWarning):
                result = changed.solve(x, y)
        else:
            result = changed.solve(x, y)
        assert result.value != base.value, field.name


def test_the_options_of_sliced() -> None:
    x, y = cloud(20, 3, seed=1), cloud(15, 3, seed=2)
    base, debiased = Sliced(num_projections=33), Sliced(num_projections=33, debiased=True)
    precise = Sliced(num_projections=33, tolerance=1e-3)
    with pytest.warns(ConvergenceWarning, match="max_projections"):
        limited = Sliced(num_projections=33, tolerance=1e-3, max_projections=40).solve(x, y)
    results = [solver.solve(x, y) for solver in (base, debiased, precise)] + [limited]
    assert len({result.value.item() for result in results}) == 4
    assert [result.converged for result in results] == [True, True, True, False]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_the_call_is_the_value(solver: Solver) -> None:
    x, y = cloud(2, 9, 3, seed=1).requires_grad_(), cloud(2, 7, 3, seed=2)
    value = solver(x, y)
    assert value.shape == (2,)
    assert torch.equal(value, solver.solve(x, y).value)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient.isfinite().all()
    assert gradient.norm() > 0


def test_the_options_of_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem, "DENSE", 0)  # what is large here
    x, y = cloud(400, 5, seed=1), cloud(380, 5, seed=2)
    base = Exact().solve(x, y)
    assert base.gap <= 1e-6 * base.cost
    loose = Exact(tolerance=0.5).solve(x, y)
    assert loose.converged
    assert 1e-6 * base.cost < loose.gap <= 0.5 * loose.cost
    assert loose.lower_bound <= base.cost <= loose.upper_bound
    with pytest.warns(ConvergenceWarning):
        assert not Exact(time_limit=1e-9).solve(x, y).converged
    kept: list[bool] = []

    class Watched(CloudPairs):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            kept.append(self._stored is not None)

    monkeypatch.setattr(problem, "CloudPairs", Watched)
    size = 4 * 400 * 380
    for limit in (size, size - 1):
        torch.testing.assert_close(Exact(memory_limit=limit)(x, y), base.value, rtol=1e-6, atol=0)
    assert kept == [True, False]


def test_exact_on_a_subset() -> None:
    x, y = cloud(50, 3, seed=1), cloud(40, 3, seed=2)
    solver = Exact(max_samples=20)
    result = solver.solve(x, y)
    assert result.plan is not None
    assert result.plan.shape == (20, 20)
    assert "20 of 50 real, 20 of 40 fake samples" in result.message
    assert torch.equal(result.value, solver(x, y))
    assert result.value != Exact(max_samples=20, seed=1)(x, y)
    assert torch.equal(Exact(max_samples=50)(x, y), Exact()(x, y))
    # The points of the subset come with their weights, in a batch as alone.
    a, b = weights(50, seed=3), weights(40, seed=4)
    alone = solver.solve(x, y, real_weights=a, fake_weights=b)
    batch = solver.solve(
        torch.stack([x, x]), torch.stack([y, y]), real_weights=a.expand(2, 50), fake_weights=b
    )
    torch.testing.assert_close(batch.value, alone.value.expand(2))
    for options, error, message in (
        ({"real_weights": a[:9]}, ValueError, r"`real_weights` must have shape \(50,\)"),
        ({"real": x[0]}, ValueError, "`real` must"),
        ({"real": x.tolist()}, TypeError, r"`real` must be a torch\.Tensor"),
    ):
        with pytest.raises(error, match=message):
            solver.solve(**({"real": x, "fake": y} | options))
    with pytest.raises(ValueError, match="`max_samples` must be an integer >= 1, got 0"):
        Exact(max_samples=0)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_solvers_are_values(solver: Solver) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        solver.order = 2.0  # type: ignore[misc]
    for twin in (copy.deepcopy(solver), pickle.loads(pickle.dumps(solver))):
        assert twin == solver
        assert hash(twin) == hash(solver)
    assert solver != type(solver)()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_functions_give_the_same_numbers(weighted: bool) -> None:
    x, y = cloud(9, 3, seed=1), cloud(7, 3, seed=2)
    options: dict[str, Any] = {}
    if weighted:
        options = {"real_weights": weights(9, seed=3), "fake_weights": weights(7, seed=4)}
    known = [solver.solve(x, y, **options) for solver in SOLVERS[:3]]

    drawn = {"generator": direction_generator(7)}
    sliced = {"order": 1.5, "num_projections": 33}
    assert torch.equal(known[0].value, sliced_wasserstein(x, y, **sliced, **drawn, **options))
    again = Sliced(**sliced).solve(x, y, generator=direction_generator(7), **options)
    assert torch.equal(known[0].cost, again.cost)

    exact = exact_wasserstein(x, y, order=3.0, **options)
    assert torch.equal(known[1].value, exact)
    torch.testing.assert_close(known[1].cost, exact**3)

    regularised = {"order": 1.0, "epsilon": 0.4, "tolerance": 1e-4, "max_iterations": 500}
    divergence = sinkhorn_divergence(x, y, **regularised, **options)
    assert torch.equal(known[2].cost, divergence)
    assert torch.equal(known[2].value, divergence)  # of order 1, the root is the cost itself


def test_sliced_draws_its_directions_anew_each_time() -> None:
    x, y = cloud(9, 3, seed=1), cloud(7, 3, seed=2)
    solver = Sliced(num_projections=8, seed=3)
    assert torch.equal(solver(x, y), solver(x, y))


def test_results_fill_what_their_solver_knows() -> None:
    x, y = cloud(9, 3, seed=1), cloud(7, 3, seed=2)
    known: dict[Solver, set[str]] = {
        Sliced(): {"standard_error", "direction_errors"},
        Exact(): {"lower_bound", "upper_bound", "potentials", "plan"},
        Sinkhorn(): {"lower_bound", "upper_bound", "potentials", "num_iterations"},
    }
    always = {"value", "cost", "converged", "message"}
    for solver, fields in known.items():
        result = solver.solve(x, y)
        filled = {name for name in result._fields if getattr(result, name) is not None}
        assert filled == always | fields
        assert result.message


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
def test_three_methods_in_one_unit(order: float) -> None:
    """Moved by t, each solver answers in the units of t: |t| or its share on the sphere."""
    x, shift = cloud(20, 1, seed=1), 2.5
    for solver in (Sliced(order=order), Exact(order=order), Sinkhorn(order=order, epsilon=10.0)):
        value = solver(x, x + shift).item()
        if isinstance(solver, Sinkhorn) and order != 2:
            assert 0 < value < shift + 1  # debiased for p = 2 only
        else:
            assert value == pytest.approx(shift, rel=1e-4)


def test_stopping_early_warns_through_the_solver() -> None:
    """Once, at the line that asked, however deep the solver is."""
    x, y = cloud(9, 3, seed=1), cloud(7, 3, seed=2)
    solver = Sinkhorn(epsilon=1e-3, max_iterations=2)
    for call in (solver, solver.solve, SinkhornLoss(solver)):
        with pytest.warns(ConvergenceWarning) as caught:
            call(x, y)
        assert [warning.filename for warning in caught] == [__file__]


UNKNOWN = [
    (Sinkhorn, "blur", r"no option `blur`; take `epsilon`; at p = 2 a blur b is"),
    (Sinkhorn, "reg", "no option `reg`; take `epsilon`; absolute with"),
    (Sinkhorn, "reach", "no option `reach`; all mass is moved here"),
    (Sinkhorn, "scaling", "no option `scaling`; epsilon comes down by itself"),
    (Sinkhorn, "numItermax", "take `max_iterations`"),
    (Sinkhorn, "stopThr", "take `tolerance`"),
    (Sinkhorn, "p", "take `order`"),
    (Sliced, "n_projections", "take `num_projections`"),
    (Sliced, "num_projection", "take `num_projections`"),
    (Sliced, "real_weights", "weights belong to the call"),
    (Exact, "metric", "Exact has no option `metric`. Its options are order, tolerance"),
    (SemiDiscrete, "tol", "take `tolerance`"),
    (SlicedWassersteinLoss, "n_projections", r"\(Sliced\(num_projections=\.\.\.\)\)"),
    (SinkhornLoss, "blur", r"give it to the solver, SinkhornLoss\(Sinkhorn\(epsilon=\.\.\.\)\)"),
    (ExactWassersteinLoss, "resample", "Its options are solver, extractor, root."),
]


@pytest.mark.parametrize(("made", "name", "told"), UNKNOWN)
def test_unknown_options_are_told_with_those_that_there_are(
    made: type, name: str, told: str
) -> None:
    with pytest.raises(TypeError, match=told) as caught:
        made(**{name: 1})
    known = list(made.__init__.__annotations__)[:-1]  # its arguments, then what it returns
    assert len(known) > 2
    assert all(f"{option}" in str(caught.value) for option in known)


def test_calls_take_weights_and_give_the_value() -> None:
    x, y = cloud(9, 3, seed=1), cloud(7, 3, seed=2)
    options = {"real_weights": weights(9, seed=3), "fake_weights": weights(7, seed=4)}
    for solver in SOLVERS:
        assert torch.equal(solver(x, y, **options), solver.solve(x, y, **options).value)
        assert not torch.equal(solver(x, y, **options), solver(x, y))
    few = SemiDiscrete(tolerance=0.5)
    assert torch.equal(few(y, weights=weights(7)), few.solve(y, weights=weights(7)).value)
