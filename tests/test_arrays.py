"""NumPy arrays in the place of tensors: the same numbers, whatever their memory looks like."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import cloud, weights
from scipy.sparse import csr_matrix
from torch import Tensor

from otmetrics import (
    Exact,
    ExactWassersteinLoss,
    SemiDiscrete,
    Sinkhorn,
    SinkhornLoss,
    Sliced,
    SlicedWassersteinLoss,
    score_features,
)
from otmetrics import functional as F
from otmetrics.checks import as_tensor
from otmetrics.transport.sliced.max_sliced import MaxSliced

X, Y = cloud(8, 3, seed=1), cloud(7, 3, seed=2)
A, B = weights(8, seed=3), weights(7, seed=4)
HEIGHTS = SemiDiscrete().solve(Y).heights
MEAN, SPREAD = X.mean(0), X.T.cov()


def flattened(result: Any) -> list[Tensor]:
    """All tensors in a result."""
    if isinstance(result, Tensor):
        return [result.to_dense() if result.is_sparse else result]
    return [one for part in result for one in flattened(part)] if isinstance(result, tuple) else []


CALLS: dict[str, Callable[..., Any]] = {
    "cost_matrix": lambda f: F.cost_matrix(f(X), f(Y)),
    "univariate_cost": lambda f: F.univariate_cost(
        f(X[:, 0]), f(Y[:, 0]), real_weights=f(A), fake_weights=f(B)
    ),
    "sliced result": lambda f: Sliced(num_projections=9).solve(f(X), f(Y), real_weights=f(A)),
    "directions": lambda f: F.sliced_wasserstein(
        f(X), f(Y), directions=f(torch.eye(3, dtype=torch.float64))
    ),
    "max-sliced result": lambda f: MaxSliced().solve(f(X), f(Y), fake_weights=f(B)),
    "Exact of all": lambda f: Exact().solve(f(X), f(Y), real_weights=f(A), fake_weights=f(B)),
    "exact_transport": lambda f: F.exact_transport(f(X @ Y.T), f(A), f(B)),
    "barycentric_projection": lambda f: F.barycentric_projection(f(A[:, None] * B), f(Y)),
    "entropic_cost": lambda f: F.entropic_cost(f(X), f(Y), fake_weights=f(B)),
    "unrolled": lambda f: F.unrolled_sinkhorn_divergence(f(X), f(Y), num_iterations=3),
    "mind": lambda f: F.monge_inception_distance(f(X), f(Y), num_projections=9),
    "frechet_distance": lambda f: F.frechet_distance(f(X), f(Y)),
    "frechet_of_moments": lambda f: F.frechet_distance_from_moments(
        f(MEAN), f(SPREAD), f(MEAN + 1), f(2 * SPREAD)
    ),
    "kernel_distance": lambda f: F.kernel_distance(f(X), f(Y)),
    "manifold_scores": lambda f: F.manifold_scores(f(X), f(Y)),
    "laguerre_cells": lambda f: F.laguerre_cells(f(X), f(Y), f(HEIGHTS)),
    "extended_map": lambda f: F.extended_map(f(X), f(Y), f(HEIGHTS), max_angle=f(B)),
    "neighbour_angles": lambda f: F.neighbour_angles(f(Y)),
    "Sliced": lambda f: Sliced(num_projections=9)(f(X), f(Y), real_weights=f(A)),
    "Exact": lambda f: Exact(max_samples=6)(f(X), f(Y), fake_weights=f(B)),
    "Sinkhorn": lambda f: Sinkhorn().solve(f(X), f(Y), real_weights=f(A)),
    "SemiDiscrete": lambda f: SemiDiscrete(tolerance=0.9)(f(Y), weights=f(B)),
    "sliced loss": lambda f: SlicedWassersteinLoss()(f(X), f(Y)),
    "sliced loss in eval": lambda f: SlicedWassersteinLoss().eval()(f(X), f(Y)),
    "sinkhorn loss": lambda f: SinkhornLoss(warm_start=True)(f(X), f(Y)),
    "exact loss": lambda f: ExactWassersteinLoss().eval()(f(X), f(Y)),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_function_takes_arrays(name: str) -> None:
    """Those that no tensor can share: read-only and in the other byte order."""

    def array(values: Tensor) -> np.ndarray:
        swapped = values.numpy().astype(values.numpy().dtype.newbyteorder())
        swapped.flags.writeable = False
        return swapped

    found, wanted = (flattened(CALLS[name](f)) for f in (array, lambda values: values))
    assert len(found) == len(wanted) > 0
    for one, two in zip(found, wanted, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", CALLS)
def test_no_function_takes_a_masked_array(name: str) -> None:
    with pytest.raises(TypeError, match=r"must not be masked: .*numpy\.ma\.compress_rows"):
        CALLS[name](lambda values: np.ma.masked_greater(values.numpy(), 0.1))


def test_every_layout_keeps_its_values(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float64).reshape(6, 4)
    np.save(tmp_path / "a.npy", values)
    fields = np.zeros(6, dtype=[("x", "<f8", 4), ("n", "u1")])
    fields["x"] = values
    layouts = {
        "plain": values,
        "mapped": np.load(tmp_path / "a.npy", mmap_mode="r"),
        "mapped, copied on writing": np.load(tmp_path / "a.npy", mmap_mode="c"),
        "reversed": values[::-1, ::-1].copy()[::-1, ::-1],
        "columns first": np.asfortranarray(values),
        "gaps": np.repeat(values, 2, axis=0)[::2],
        "a field": fields["x"],
        "constant": np.broadcast_to(values, (2, 6, 4))[0],
        "big": values.astype(">f4"),
        "half": values.astype(np.float16),
        "whole": values.astype(np.int64),
    }
    for name, layout in layouts.items():
        tensor = as_tensor("x", layout)
        assert torch.equal(tensor.double(), torch.from_numpy(values)), name
        assert tensor.dtype.itemsize == layout.dtype.itemsize, name
    assert as_tensor("x", values).data_ptr() == values.ctypes.data  # shared where torch can


def test_half_arrays_are_upcast_and_whole_numbers_refused() -> None:
    half = X.numpy().astype(np.float16)
    value = F.sliced_wasserstein(half, Y.float().numpy())
    assert torch.equal(value, F.sliced_wasserstein(torch.from_numpy(half), Y.float()))
    assert value.dtype == torch.float32
    with pytest.raises(TypeError, match=r"`real` must be floating, got torch\.int64"):
        F.sliced_wasserstein(X.numpy().astype(int), Y)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (np.ma.masked_greater(X.numpy(), 1), "`real` must not be masked"),
        (csr_matrix(X.numpy()), r"got csr_matrix: give real.toarray\(\)"),
        (X.tolist(), r"got list: give numpy.asarray\(real\)"),
        (X.numpy() * 1j, "`real` must be floating, got torch.complex128"),
        (X.numpy().astype(str), r"must hold numbers, got an array of <U\d+: give the features"),
        (X.to_sparse(), r"`real` must be dense, .* give real.to_dense\(\)"),
    ],
    ids=["masked", "rows", "list", "complex", "text", "sparse"],
)
def test_what_is_no_array_is_told_how_to_become_one(given: Any, told: str) -> None:
    for call in (F.exact_wasserstein, Sliced(), SinkhornLoss(), score_features):
        with pytest.raises(TypeError, match=told):
            call(given, Y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("sizes", [(9, 9), (9, 7)])
def test_plans_and_potentials_have_the_dtype_of_the_clouds(
    sizes: tuple[int, int], batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    x, y = (cloud(*batch, n, 3, seed=n + k, dtype=dtype) for k, n in enumerate(sizes))
    for result in (Exact().solve(x, y), Sinkhorn().solve(x, y), Exact(max_samples=8).solve(x, y)):
        for one in (result.plan, *(result.potentials or ())):
            assert one is None or one.dtype == dtype
    exact = Exact().solve(x, y)
    fine = Exact().solve(x.double(), y.double())
    torch.testing.assert_close(exact.plan.to_dense().double(), fine.plan.to_dense())
    if not batch:
        assert (exact.plan @ y).dtype == dtype
        f = exact.potentials[0].double()
        torch.testing.assert_close(f, fine.potentials[0], rtol=1e-5, atol=1e-5)
        assert exact.lower_bound <= fine.cost <= exact.upper_bound  # the proof is not rounded
        assert exact.gap <= 1e-5 * exact.cost
        assert F.exact_transport(F.cost_matrix(x, y)).plan.dtype == dtype


def test_sums_of_weights_that_differ_are_told() -> None:
    note = r"weights sum to 8 \(real\) and 3.5 \(fake\): each side was normalised"
    a, b = torch.ones(8), torch.full((7,), 0.5)
    results = [
        Exact().solve(X, Y, real_weights=a, fake_weights=b),
        F.exact_transport(X @ Y.T, a.numpy(), b.numpy()),
        Sinkhorn().solve(X, Y, real_weights=a, fake_weights=b),
        Sliced(num_projections=9).solve(X, Y, real_weights=a, fake_weights=b),
        Sliced().solve(
            X, Y, real_weights=a, fake_weights=b, directions=torch.eye(3, dtype=torch.float64)
        ),
        MaxSliced().solve(X, Y, real_weights=a, fake_weights=b).result,
        Exact(max_samples=5).solve(X, Y, real_weights=a, fake_weights=b),
        Exact().solve(
            X.expand(2, 8, 3), Y.expand(2, 7, 3), real_weights=a.expand(2, 8), fake_weights=b
        ),
    ]
    for result in results:
        assert re.search(note, result.message), result.message
    same = [(a / 8, b / 3.5), (a, 16 * b / 7), (None, b / 3.5), (None, None)]
    for real_weights, fake_weights in same:
        for solver in (Exact(), Exact(max_samples=5), Sinkhorn(), Sliced(num_projections=9)):
            result = solver.solve(X, Y, real_weights=real_weights, fake_weights=fake_weights)
            assert "normalised" not in result.message


@pytest.mark.parametrize("axis", [0, 1])
def test_a_reversed_axis_of_one_is_taken(axis):
    """Such an array counts as contiguous, and yet has a stride that torch refuses."""
    one = np.flip(np.ones((1, 3) if axis == 0 else (3, 1)), axis)
    assert torch.equal(as_tensor("x", one), torch.ones(one.shape, dtype=torch.float64))
