"""Couplings against assignments, plans and cells that others compute."""

from itertools import permutations
from typing import Any

import numpy as np
import oracles
import ot
import pytest
import torch
from cases import cloud
from scipy.optimize import linear_sum_assignment
from scipy.stats import chisquare
from torch import Tensor

from otmetrics import Exact, SemiDiscrete, Sinkhorn
from otmetrics.errors import ConvergenceWarning
from otmetrics.functional import laguerre_cells
from otmetrics.transport import coupling as module
from otmetrics.transport.coupling import Coupling, coupling


def squared(noise: Tensor, data: Tensor) -> np.ndarray:
    return oracles.costs(noise.double().cpu().numpy(), data.double().cpu().numpy(), 2)


def assigned(cost: np.ndarray) -> list[int]:
    return linear_sum_assignment(cost)[1].tolist()


def entropic_plan(cost: np.ndarray, epsilon: float) -> np.ndarray:
    """Sinkhorn's iterations as they stand in the book, until nothing moves."""
    kernel = np.exp(-(cost - cost.min()) / epsilon)
    v = np.ones(cost.shape[1])
    for _ in range(3000):
        u = 1 / len(cost) / (kernel @ v)
        v = 1 / cost.shape[1] / (kernel.T @ u)
    return u[:, None] * kernel * v


def counted(num: int, noise: Tensor, data: Tensor, **options: Any) -> np.ndarray:
    """How often each pair was made, of `num` seeds."""
    counts = np.zeros((len(noise), len(data)))
    for seed in range(num):
        pairs = coupling(noise, data, seed=seed, **options)
        assert pairs.noise.tolist() == list(range(len(noise)))
        counts[pairs.noise.cpu(), pairs.data.cpu()] += 1
    return counts


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_exact_pairs_are_the_best_permutation(size: int, device: torch.device) -> None:
    noise, data = cloud(size, 2, seed=1).to(device), cloud(size, 2, seed=2).to(device) + 1
    cost = squared(noise, data)
    everyone = range(size)
    best = min(permutations(everyone), key=lambda order: cost[everyone, order].sum())
    pairs = coupling(noise, data)
    assert isinstance(pairs, Coupling)
    assert pairs.noise.tolist() == list(everyone)
    assert pairs.data.tolist() == list(best)
    assert {pairs.noise.dtype, pairs.data.dtype} == {torch.int64}
    assert {pairs.noise.device, pairs.data.device} == {noise.device}


@pytest.mark.parametrize(("size", "dimension"), [(150, 3), (300, 2), (300, 40), (1250, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_pairs_are_the_plan_of_other_packages(
    size: int, dimension: int, dtype: torch.dtype, device: torch.device
) -> None:
    noise, data = cloud(size, dimension, seed=1).to(dtype), cloud(size, dimension, seed=2).to(dtype)
    data = 3 * data.tanh() + 1e4  # far from the origin
    cost = squared(noise, data)
    pairs = coupling(noise.to(device), data.to(device))
    assert pairs.data.tolist() == assigned(cost)
    plan = ot.emd(ot.unif(size), ot.unif(size), cost, numItermax=10**7)
    np.testing.assert_allclose(plan[pairs.noise.cpu(), pairs.data.cpu()], 1 / size)


def test_exact_pairs_are_the_plan_of_torchcfm() -> None:
    cfm = pytest.importorskip("torchcfm.optimal_transport", exc_type=ImportError)
    noise, data = cloud(64, 3, 8, seed=1), cloud(64, 3, 8, seed=2).exp()
    plan = cfm.OTPlanSampler(method="exact").get_map(noise, data)
    pairs = coupling(noise, data)
    assert np.argwhere(plan > 1e-9).tolist() == torch.stack(pairs, 1).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_are_pairs_of_their_pixels(dtype: torch.dtype, device: torch.device) -> None:
    noise = cloud(12, 48, seed=1).to(device, dtype)
    data = cloud(12, 48, seed=2).to(device, dtype).tanh()
    pairs = coupling(noise.view(12, 3, 4, 4), data.view(12, 3, 4, 4))
    assert pairs.data.tolist() == assigned(squared(noise, data))


def test_one_is_a_pair_of_float64_and_float32_and_arrays() -> None:
    noise, data = cloud(12, 3, seed=1), cloud(12, 3, seed=2)
    expected = coupling(noise, data).data.tolist()
    assert coupling(noise.float(), data).data.tolist() == expected
    assert coupling(noise.numpy(), data.numpy()).data.tolist() == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "m"), [(3, 5), (5, 3), (4, 1), (1, 4)])
def test_unequal_numbers_draw_from_the_optimal_plan(n: int, m: int) -> None:
    noise, data = cloud(n, 2, seed=3), cloud(m, 2, seed=4)
    _, plan = oracles.transport(squared(noise, data))
    check_frequencies(counted(400, noise, data), plan)


@pytest.mark.parametrize(("n", "m", "epsilon"), [(5, 5, 0.3), (3, 6, 1.0), (6, 3, 0.1)])
def test_sinkhorn_draws_from_the_entropic_plan(n: int, m: int, epsilon: float) -> None:
    noise, data = cloud(n, 2, seed=5), cloud(m, 2, seed=6) + 1
    cost = squared(noise, data)
    # Copies of a noise sample have its row of the plan, and each draws for itself.
    copies = noise.repeat(3000, 1)
    for relative, unit in ((True, cost.mean()), (False, 1.0)):
        solver = Sinkhorn(epsilon=epsilon, relative=relative, tolerance=1e-7)
        pairs = coupling(copies, data, solver=solver, seed=2)
        counts = np.zeros((n, m))
        np.add.at(counts, (pairs.noise % n, pairs.data), 1)
        check_frequencies(counts, entropic_plan(cost, epsilon * unit))


def check_frequencies(counts: np.ndarray, plan: np.ndarray) -> None:
    """Each row of counts against its row of a plan, by chi-square; no pair outside of it."""
    rows = plan / plan.sum(1, keepdims=True)
    assert (counts.sum(1) == counts[0].sum()).all()
    for seen, share in zip(counts, rows, strict=True):
        likely = counts[0].sum() * share >= 4
        assert seen[~likely].sum() <= 3 + 10 * counts[0].sum() * share[~likely].sum()
        if likely.sum() > 1:
            expected = share[likely] / share[likely].sum() * seen[likely].sum()
            assert chisquare(seen[likely], expected).pvalue > 1e-4


def test_data_samples_are_chosen_equally_often_on_average() -> None:
    noise, data = cloud(40, 2, seed=1), cloud(10, 2, seed=2).exp()
    for solver in (Exact(), Sinkhorn(epsilon=0.1)):
        counts = counted(100, noise, data, solver=solver).sum(0) / 100
        np.testing.assert_allclose(counts, 4, atol=0.8)  # four standard errors


def test_sinkhorn_goes_from_exact_to_independent_pairs() -> None:
    noise, data = cloud(30, 3, seed=1), cloud(30, 3, seed=2)
    sharp = Sinkhorn(epsilon=1e-3, max_iterations=50_000)
    assert coupling(noise, data, solver=sharp).data.tolist() == assigned(squared(noise, data))
    blurred = counted(100, noise[:4], data[:4], solver=Sinkhorn(epsilon=1e4))
    check_frequencies(blurred, np.ones((4, 4)))


def test_blocks_change_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    noise, data = cloud(50, 3, seed=1), cloud(70, 3, seed=2)
    whole = coupling(noise, data, solver=Sinkhorn(), seed=1)
    blocks = module.row_blocks
    monkeypatch.setattr(module, "row_blocks", lambda n, m: blocks(n, m, 300))
    assert coupling(noise, data, solver=Sinkhorn(), seed=1).data.tolist() == whole.data.tolist()


def test_units_and_places_change_no_pair() -> None:
    noise, data = cloud(40, 3, seed=1), cloud(40, 3, seed=2)
    for solver in (Exact(), Sinkhorn(epsilon=0.05)):
        pairs = coupling(noise, data, solver=solver, seed=3).data.tolist()
        for scale, shift in ((1e-6, 0.0), (1e6, 0.0), (1.0, 1e4)):
            moved = coupling(scale * noise + shift, scale * data + shift, solver=solver, seed=3)
            assert moved.data.tolist() == pairs


def test_numbers_that_float32_does_not_hold_are_paired() -> None:
    noise, data = cloud(250, 2, seed=1), cloud(250, 2, seed=2).exp()
    expected = assigned(squared(noise, data))
    for scale in (1e-100, 1e100):
        assert coupling(scale * noise, scale * data).data.tolist() == expected


@pytest.mark.parametrize("num", [30, 50])
def test_a_relative_epsilon_is_a_share_of_the_mean_cost(num: int) -> None:
    noise, data = cloud(30, 2, seed=1), cloud(num, 2, seed=2) + 3
    absolute = 0.2 * float(squared(noise, data).mean())
    found = [
        coupling(noise, data, solver=Sinkhorn(epsilon=epsilon, relative=relative)).data.tolist()
        for epsilon, relative in ((0.2, True), (absolute, False), (absolute / 2, False))
    ]
    assert found[0] == found[1] != found[2]


def test_equal_points_are_pairs_too() -> None:
    point = torch.ones(6, 2)
    assert sorted(coupling(point, point).data.tolist()) == list(range(6))
    assert coupling(point, point, solver=Sinkhorn()).data.max() < 6
    assert coupling(point[:2], point, solver=torch.zeros(6)).data.tolist() == [0, 0]


def test_heights_pair_noise_with_the_point_of_its_cell() -> None:
    data = cloud(9, 3, seed=2)
    heights = SemiDiscrete(source="gaussian", tolerance=0.5).solve(data).heights
    noise = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1))
    pairs = coupling(noise, data, solver=heights)
    assert pairs.data.tolist() == laguerre_cells(noise, data, heights).tolist()
    scores = [
        [float(x @ p + h) for p, h in zip(data, heights, strict=True)] for x in noise[:300].double()
    ]
    assert pairs.data[:300].tolist() == np.argmax(scores, 1).tolist()
    # Of a coupling with fresh noise each point gets its share.
    np.testing.assert_allclose(pairs.data.bincount() * 9 / 4000, 1, atol=0.25)
    again = coupling(noise[[7, 2]], data, solver=heights, seed=5)
    assert again.data.tolist() == pairs.data[[7, 2]].tolist()  # whatever the batch


LABELS = torch.tensor([3, -1, 3, 7, 7, -1, 3, 3, 7, 0])


@pytest.mark.parametrize("solver", [Exact(), Sinkhorn(epsilon=1e-3), torch.arange(10) / 10])
def test_labels_pair_within_each_label(solver: Any) -> None:
    noise, data = cloud(10, 2, seed=1), cloud(10, 2, seed=2) + 1
    pairs = coupling(noise, data, solver=solver, condition=LABELS)
    for label in LABELS.unique():
        rows = (label == LABELS).nonzero().squeeze(1)
        own = solver[rows] if isinstance(solver, Tensor) else solver
        inner = coupling(noise[rows], data[rows], solver=own).data
        assert pairs.data[rows].tolist() == rows[inner].tolist()
    assert pairs.noise.tolist() == list(range(10))


def test_noise_may_have_labels_of_its_own() -> None:
    noise, data = cloud(4, 2, seed=1), cloud(5, 2, seed=2)
    theirs, own = torch.tensor([1, 0, 1, 1]), torch.tensor([1, 0, 1, 0, 2])
    for seed in range(20):
        pairs = coupling(noise, data, condition=own, noise_condition=theirs, seed=seed)
        assert own[pairs.data].tolist() == theirs.tolist()
    flags = coupling(noise, data[:4], condition=own[:4] == 1, noise_condition=theirs == 1)
    assert own[:4][flags.data].tolist() == theirs.tolist()


def test_a_label_draws_what_it_draws_without_the_others() -> None:
    noise, data = cloud(8, 2, seed=1), cloud(8, 2, seed=2)
    alone = coupling(noise, data, solver=Sinkhorn(epsilon=1.0), seed=4)
    more = torch.cat([noise, noise]), torch.cat([data, data])
    labels = torch.tensor([5] * 8 + [2] * 8)
    both = coupling(*more, solver=Sinkhorn(epsilon=1.0), condition=labels, seed=4)
    assert both.data[:8].tolist() == alone.data.tolist()
    assert (both.data[8:] - 8).tolist() != alone.data.tolist()  # each label draws for itself


@pytest.mark.parametrize("weight", [0.1, 2.0])
@pytest.mark.parametrize("columns", [None, 1, 3])
def test_numbers_add_their_distance_to_the_cost(weight: float, columns: int | None) -> None:
    noise, data = cloud(30, 2, seed=1), cloud(30, 2, seed=2)
    numbers = cloud(30, columns or 1, seed=3)
    cost = squared(noise, data) + weight * squared(numbers, numbers)
    given = numbers[:, 0] if columns is None else numbers
    options: dict[str, Any] = {"condition": given, "condition_weight": weight}
    assert coupling(noise, data, **options).data.tolist() == assigned(cost)
    sharp = Sinkhorn(epsilon=1e-3, max_iterations=50_000)
    assert coupling(noise, data, solver=sharp, **options).data.tolist() == assigned(cost)
    theirs = given.flip(0)
    cost = squared(noise, data) + weight * squared(numbers.flip(0), numbers)
    pairs = coupling(noise, data, noise_condition=theirs, **options)
    assert pairs.data.tolist() == assigned(cost)


def test_the_weight_goes_from_no_condition_to_one_that_is_kept() -> None:
    noise, data, numbers = cloud(30, 2, seed=1), cloud(30, 2, seed=2), cloud(30, 1, seed=3)
    kept = coupling(noise, data, condition=numbers, condition_weight=1e10)
    assert kept.data.tolist() == list(range(30))
    free = coupling(noise, data, condition=numbers, condition_weight=1e-9)
    assert free.data.tolist() == coupling(noise, data).data.tolist()


def test_labels_keep_noise_and_condition_apart() -> None:
    """Two far clusters split unconditional noise in halves: its mean is that of |z|, (2/pi)^1/2."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 1, generator=generator)
    label = torch.arange(4000) % 2
    data = 20.0 * label[:, None] - 10 + torch.randn(4000, 1, generator=generator)
    means = {}
    for name, condition in (("all", None), ("within", label)):
        pairs = coupling(noise, data, condition=condition)
        means[name] = noise[label[pairs.data] == 1].mean().item()
    assert means["all"] == pytest.approx((2 / np.pi) ** 0.5, abs=0.05)
    assert means["within"] == pytest.approx(0, abs=0.08)


def test_a_seed_decides_all() -> None:
    noise, data = cloud(30, 2, seed=1), cloud(20, 2, seed=2)
    for solver in (Exact(), Sinkhorn()):
        first, same, other = (coupling(noise, data, solver=solver, seed=s).data for s in (1, 1, 2))
        assert torch.equal(first, same)
        assert not torch.equal(first, other)
    state = torch.get_rng_state()
    coupling(noise, data)
    assert torch.equal(state, torch.get_rng_state())


def test_no_graph_is_kept() -> None:
    noise, data = cloud(5, 2, seed=1).requires_grad_(), cloud(5, 2, seed=2).requires_grad_()
    for solver in (Exact(), Sinkhorn(), torch.zeros(5, requires_grad=True)):
        pairs = coupling(noise, data, solver=solver)
        assert not pairs.data.requires_grad
    assert not coupling(noise[:3], data).data.requires_grad


def test_a_solver_that_stops_early_warns() -> None:
    noise, data = cloud(30, 2, seed=1), cloud(30, 2, seed=2)
    with pytest.warns(ConvergenceWarning, match="`max_iterations`"):
        coupling(noise, data, solver=Sinkhorn(epsilon=1e-4, max_iterations=1))


X, Y = torch.zeros(4, 2), torch.ones(6, 2)
FLOATS, IDS = torch.zeros(6), torch.zeros(6, dtype=torch.int64)
BAD: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, "`noise` and `data` must have samples of one shape", {"data": torch.ones(6, 3)}),
    (ValueError, "of one shape", {"noise": torch.ones(4, 2, 1), "data": torch.ones(6, 1, 2)}),
    (ValueError, r"give noise\[:, None\]", {"noise": torch.zeros(4)}),
    (ValueError, "`noise` must be finite", {"noise": X / 0}),
    (ValueError, "`data` must hold at least 1", {"data": torch.zeros(0, 2)}),
    (TypeError, "`data` must be floating", {"data": Y.to(torch.uint8)}),
    (TypeError, "`noise` must be a torch.Tensor", {"noise": [[0.0, 0.0]]}),
    (TypeError, "got str", {"solver": "exact"}),
    (TypeError, "give its `heights`", {"solver": SemiDiscrete(source="gaussian")}),
    (ValueError, "order 2, got 1", {"solver": Exact(order=1)}),
    (ValueError, "order 2, got 1", {"solver": Sinkhorn(order=1)}),
    (ValueError, "`max_samples`", {"solver": Exact(max_samples=3)}),
    (ValueError, "`richardson`", {"solver": Sinkhorn(richardson=True)}),
    (ValueError, r"`heights` must have shape \(6,\)", {"solver": torch.zeros(4)}),
    (ValueError, "`heights` must be finite", {"solver": FLOATS / 0}),
    (ValueError, "`seed`", {"seed": -1}),
    (TypeError, "no option `reg`", {"reg": 0.1}),
    (ValueError, "`noise_condition` must be given", {"condition": IDS}),
    (
        ValueError,
        r"`condition` must have shape \(6,\)",
        {"condition": IDS[:4], "noise_condition": IDS[:4]},
    ),
    (
        ValueError,
        r"`noise_condition` must have shape \(4,\)",
        {"condition": IDS, "noise_condition": IDS},
    ),
    (
        ValueError,
        r"\(6,\) or \(6, K\)",
        {"condition": torch.zeros(6, 1, 1), "noise_condition": FLOATS[:4]},
    ),
    (ValueError, "which `condition` lacks", {"condition": IDS, "noise_condition": IDS[:4] + 9}),
    (ValueError, "of one kind", {"condition": IDS, "noise_condition": FLOATS[:4]}),
    (ValueError, "of one kind", {"condition": FLOATS, "noise_condition": torch.zeros(4, 2)}),
    (
        ValueError,
        "`condition_weight` must be given",
        {"condition": FLOATS, "noise_condition": FLOATS[:4]},
    ),
    (
        ValueError,
        "`condition_weight` must be a positive",
        {"condition": FLOATS, "noise_condition": FLOATS[:4], "condition_weight": 0},
    ),
    (
        ValueError,
        "`condition` must be finite",
        {"condition": FLOATS / 0, "noise_condition": FLOATS[:4], "condition_weight": 1},
    ),
    (
        ValueError,
        "is for conditions that are numbers",
        {"condition": IDS, "noise_condition": IDS[:4], "condition_weight": 1},
    ),
    (ValueError, "`noise_condition` needs the `condition`", {"noise_condition": IDS[:4]}),
    (ValueError, "`condition_weight` needs the `condition`", {"condition_weight": 1}),
    (
        ValueError,
        "`condition` must hold labels",
        {
            "condition": FLOATS,
            "noise_condition": FLOATS[:4],
            "condition_weight": 1,
            "solver": FLOATS,
        },
    ),
]


@pytest.mark.parametrize(("kind", "message", "given"), BAD)
def test_errors_say_in_one_line_what_to_do(
    kind: type[Exception], message: str, given: dict[str, Any]
) -> None:
    with pytest.raises(kind, match=message) as raised:
        coupling(**({"noise": X, "data": Y} | given))
    assert "\n" not in str(raised.value)
