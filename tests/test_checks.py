"""Invalid questions raise, and the message names the argument."""

import math
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from cases import cloud
from scipy.sparse import csr_matrix

from otmetrics import Extraction, Scoring
from otmetrics.functional import (
    cost_matrix,
    density_coverage,
    entropic_cost,
    exact_transport,
    exact_wasserstein,
    frechet_distance,
    frechet_distance_from_moments,
    kernel_distance,
    manifold_scores,
    max_sliced_wasserstein,
    precision_recall,
    random_directions,
    sinkhorn_divergence,
    sliced_wasserstein,
    univariate_cost,
)

X, Y = cloud(8, 3, seed=1), cloud(7, 3, seed=2)

TRANSPORT: list[Callable[..., Any]] = [
    sliced_wasserstein,
    exact_wasserstein,
    entropic_cost,
    sinkhorn_divergence,
]
EVERY: list[Callable[..., Any]] = [
    *TRANSPORT,
    frechet_distance,
    kernel_distance,
    manifold_scores,
    precision_recall,
    density_coverage,
]


@contextmanager
def stop_after(seconds: int) -> Iterator[None]:
    """Fail instead of hanging where a loop never meets its condition."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def spoiled(value: float) -> torch.Tensor:
    bad = X.clone()
    bad[3, 1] = value
    return bad


CLOUDS = {
    "list": ([[1.0]], Y, TypeError, "`real` must be a torch.Tensor, got list"),
    "sparse rows": (csr_matrix(X.numpy()), Y, TypeError, r"csr_matrix: give real.toarray\(\)"),
    "sparse": (X, Y.to_sparse(), TypeError, r"`fake` must be dense, got .*fake.to_dense\(\)"),
    "masked": (X, np.ma.masked_greater(Y.numpy(), 9), TypeError, "`fake` must not be masked"),
    "objects": (X, Y.numpy().astype(object), TypeError, r"array of object: give fake.astype"),
    "long doubles": (X.numpy().astype("g"), Y, TypeError, r"float128: give real.astype"),
    "complex array": (
        X.numpy() + 0j,
        Y,
        TypeError,
        "`real` must be floating, got torch.complex128",
    ),
    "integers": (X.long(), Y, TypeError, r"floating, got torch.int64: give real.float\(\)"),
    "integer array": (X, Y.long().numpy(), TypeError, r"fake.astype\(numpy.float64\)"),
    "decoded images": (
        np.zeros((8, 9, 9, 3), np.uint8),
        Y,
        TypeError,
        r"floating, got torch.uint8 of shape \(8, 9, 9, 3\), which looks like images: .*load_extr",
    ),
    "images": (
        torch.ones(8, 3, 9, 9),
        Y,
        ValueError,
        r"must have shape .*looks like images.*Wasser",
    ),
    "complex": (X, Y.to(torch.complex128), TypeError, "`fake` must be floating"),
    "vector": (
        X[:, 0],
        Y[:, 0],
        ValueError,
        r"`real` must have shape .*\(8,\): give real\[:, None\] for 8",
    ),
    "four dimensions": (X[None, None], Y[None, None], ValueError, "`real` must have shape"),
    "batch against none": (X[None], Y, ValueError, "same batch dimensions"),
    "batch sizes": (X.expand(2, 8, 3), Y.expand(3, 7, 3), ValueError, "same batch dimensions"),
    "features": (X, Y[:, :2], ValueError, "same number of features D, got 3 and 2"),
    "nothing": (X, None, TypeError, "`fake` must be a torch.Tensor or numpy.ndarray, got None"),
    "a path": (X, "fake.npy", TypeError, "features are numbers; files are read by"),
    "text": (np.full((8, 3), "a"), Y, TypeError, "`real` must hold numbers, got an array of <U1"),
    "bytes": (np.full((8, 3), b"a"), Y, TypeError, "`real` must hold numbers, got an array of"),
    "dates": (np.zeros((8, 3), "M8[s]"), Y, TypeError, "`real` must hold numbers, got an array of"),
    "names": (np.array([[1, "a"]], object), Y, TypeError, "`real` must hold numbers, got an array"),
    "meta": (X.to("meta"), Y, ValueError, "`real` must hold values, got a tensor on the device me"),
    "no samples": (X, Y[:0], ValueError, "`fake` must hold at least"),
    "no features": (X[:, :0], Y[:, :0], ValueError, "`real` must not be empty"),
    "no problems": (X.expand(0, 8, 3), Y.expand(0, 7, 3), ValueError, "`real` must not be empty"),
    "nan": (spoiled(math.nan), Y, ValueError, "`real` must be finite"),
    "infinite": (Y, spoiled(-math.inf), ValueError, "`fake` must be finite"),
}


@pytest.mark.parametrize("function", EVERY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", CLOUDS)
def test_clouds(function: Callable[..., Any], name: str) -> None:
    real, fake, error, message = CLOUDS[name]
    with pytest.raises(error, match=message):
        function(real, fake)


def test_tables_are_told_to_become_arrays() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"`fake` .* got DataFrame: give fake.to_numpy\(\)"):
        sliced_wasserstein(X, pandas.DataFrame(Y.numpy()))
    with pytest.raises(TypeError, match=r"got Series: give real_weights.to_numpy\(\)"):
        exact_wasserstein(X, Y, real_weights=pandas.Series([1.0] * 8))


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_masked_tensors_are_refused() -> None:
    masked = torch.masked.masked_tensor(X, X > 0)
    with pytest.raises(TypeError, match="`real` must not be masked"):
        sliced_wasserstein(masked, Y)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("function", EVERY, ids=lambda f: f.__name__)
def test_devices(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="`real` and `fake` must be on one device"):
        function(X, Y.cuda())


@pytest.mark.parametrize("function", EVERY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("scale", [1e200, 1e308])
def test_overflow_is_an_error(function: Callable[..., Any], scale: float) -> None:
    """Finite features whose squares are not: no distance exists in float64, so none is given."""
    with stop_after(5), pytest.raises(ValueError, match="real"):
        function(X.sign() * scale, -X.sign() * scale)


WEIGHTS = {
    "list": ([1.0] * 8, TypeError, "`real_weights` must be a torch.Tensor"),
    "masked": (np.ma.masked_greater(np.ones(8), 0), TypeError, "`real_weights` must not be masked"),
    "complex": (torch.full((8,), 1 + 1j), TypeError, "got torch.complex64: take"),
    "complex array": (np.full(8, 1 + 1j), TypeError, "got torch.complex128: take"),
    "length": (torch.ones(7), ValueError, r"`real_weights` must have shape \(8,\), got \(7,\)"),
    "column": (torch.ones(8, 1), ValueError, r"got \(8, 1\): give real_weights\[:, 0\]"),
    "row": (torch.ones(1, 8), ValueError, r"got \(1, 8\): give real_weights\[0\]"),
    "negative": (torch.tensor([1.0] * 7 + [-1e-9]), ValueError, "`real_weights` must be finite"),
    "nan": (torch.tensor([1.0] * 7 + [math.nan]), ValueError, "`real_weights` must be finite"),
    "infinite": (torch.tensor([1.0] * 7 + [math.inf]), ValueError, "`real_weights` must be finite"),
    "zero": (torch.zeros(8), ValueError, "`real_weights` must have a positive finite sum"),
    "sum overflows": (torch.full((8,), 1e308, dtype=torch.float64), ValueError, "`real_weights`"),
}


@pytest.mark.parametrize("function", TRANSPORT, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(function: Callable[..., Any], name: str) -> None:
    weights, error, message = WEIGHTS[name]
    with pytest.raises(error, match=message):
        function(X, Y, real_weights=weights)
    with pytest.raises(error, match=message.replace("real", "fake")):
        function(Y, X, fake_weights=weights)


@pytest.mark.parametrize("function", TRANSPORT, ids=lambda f: f.__name__)
def test_weights_of_a_batch(function: Callable[..., Any]) -> None:
    """One row without mass is enough."""
    weights = torch.stack([torch.ones(8), torch.zeros(8)])
    with pytest.raises(ValueError, match="`real_weights` must have a positive finite sum"):
        function(X.expand(2, 8, 3), Y.expand(2, 7, 3), real_weights=weights)
    with pytest.raises(ValueError, match=r"`real_weights` must have shape \(2, 8\)"):
        function(X.expand(2, 8, 3), Y.expand(2, 7, 3), real_weights=weights[:1])


OPTIONS: list[tuple[Callable[..., Any], str, list[Any]]] = [
    *[(f, "order", [0.99, 0, -2.0, math.inf, math.nan, "2", None]) for f in TRANSPORT],
    (sliced_wasserstein, "num_projections", [0, -1, 1.5, True, "8", None]),
    *[(f, "epsilon", [0.0, -1.0, math.inf, math.nan, "1"]) for f in TRANSPORT[2:]],
    *[(f, "tolerance", [0.0, 1.0, -1e-3, math.nan, "1"]) for f in TRANSPORT[2:]],
    *[(f, "max_iterations", [0, -3, 1.5, False]) for f in TRANSPORT[2:]],
    (kernel_distance, "kernel", ["linear", "", None]),
    *[(f, "num_neighbors", [0, -1, 2.5, True, None]) for f in EVERY[-3:]],
]


@pytest.mark.parametrize(
    ("function", "name", "value"),
    [
        pytest.param(function, name, value, id=f"{function.__name__}-{name}-{value!r}")
        for function, name, values in OPTIONS
        for value in values
    ],
)
def test_options(function: Callable[..., Any], name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
        function(X, Y, **{name: value})


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_bandwidth(value: float) -> None:
    with pytest.raises(ValueError, match="`bandwidth` must be a positive finite number"):
        kernel_distance(X, Y, kernel="rbf", bandwidth=value)
    with pytest.raises(ValueError, match='`bandwidth` belongs to the "rbf" kernel'):
        kernel_distance(X, Y, bandwidth=1.0)


@pytest.mark.parametrize("function", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("side", ["real", "fake"])
def test_one_sample_has_no_variance(function: Callable[..., Any], side: str) -> None:
    clouds = {"real": X, "fake": Y} | {side: X[:1]}
    with pytest.raises(ValueError, match=f"`{side}` must hold at least 2"):
        function(**clouds)


@pytest.mark.parametrize("function", [manifold_scores, precision_recall, density_coverage])
def test_too_few_neighbours(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="`real` must hold at least 9 samples"):
        function(X, X, num_neighbors=8)
    function(X, X, num_neighbors=7)  # the most that eight samples allow


def test_fake_needs_neighbours_only_for_recall() -> None:
    for function in (manifold_scores, precision_recall):
        with pytest.raises(ValueError, match="`fake` must hold at least 6 samples"):
            function(X, Y[:5])
    assert torch.isfinite(density_coverage(X, Y[:1]).density)


BAD_DIRECTIONS: dict[str, tuple[Any, type[Exception]]] = {
    "rows": (torch.ones(2, 4), ValueError),
    "none": (torch.ones(3, 0), ValueError),
    "vector": (torch.ones(3), ValueError),
    "nan": (torch.full((3, 2), math.nan), ValueError),
    "infinite": (torch.full((3, 2), math.inf), ValueError),
    "not of length one": (torch.full((3, 2), 7.0), ValueError),
    "list": ([[1.0], [0.0], [0.0]], TypeError),
}


@pytest.mark.parametrize("name", BAD_DIRECTIONS)
def test_directions(name: str) -> None:
    directions, error = BAD_DIRECTIONS[name]
    with pytest.raises(error, match="`directions`"):
        sliced_wasserstein(X, Y, directions=directions)


BAD_COSTS: dict[str, tuple[Any, type[Exception]]] = {
    "vector": (torch.ones(3), ValueError),
    "empty": (torch.ones(0, 3), ValueError),
    "batch": (torch.ones(1, 3, 3), ValueError),
    "nan": (torch.full((2, 2), math.nan), ValueError),
    "infinite": (torch.full((2, 2), math.inf), ValueError),
    "list": ([[0.0, 1.0]], TypeError),
}


@pytest.mark.parametrize("name", BAD_COSTS)
def test_exact_transport_cost(name: str) -> None:
    cost, error = BAD_COSTS[name]
    with pytest.raises(error, match="`cost`"):
        exact_transport(cost)


def test_integer_costs_raise() -> None:
    """As integer features do: their optimum is a fraction, here 1/2, that no integer holds."""
    with pytest.raises(TypeError, match="`cost` must be floating"):
        exact_transport(torch.tensor([[0, 2], [3, 1]]))


MEAN, EYE = torch.zeros(3), torch.eye(3)
SKEW = EYE + torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
BAD_MOMENTS = {
    "covariance shape": ((MEAN, EYE[:2], MEAN, EYE), "`real_covariance` must have shape"),
    "mean shape": ((MEAN, EYE, MEAN[None, None], EYE), "`fake_mean` and `fake_covariance`"),
    "dimensions": ((MEAN, EYE, MEAN[:2], EYE[:2, :2]), "`real_mean` and `fake_mean`"),
    "nan mean": ((MEAN * math.nan, EYE, MEAN, EYE), "`real_mean` must be finite"),
    "nan covariance": ((MEAN, EYE, MEAN, EYE * math.nan), "`fake_covariance` must be finite"),
    "asymmetric": ((MEAN, SKEW, MEAN, EYE), "`real_covariance` must be symmetric"),
    "asymmetric, small": ((MEAN, SKEW * 1e-7, MEAN, EYE * 1e-7), "`real_covariance` must be sym"),
    "negative": ((MEAN, -EYE, MEAN, EYE), "`real_covariance` must be positive semi-definite"),
}


@pytest.mark.parametrize("name", BAD_MOMENTS)
def test_moments(name: str) -> None:
    moments, message = BAD_MOMENTS[name]
    with pytest.raises(ValueError, match=message):
        frechet_distance_from_moments(*moments)


def test_integer_moments_raise() -> None:
    """The answer, 2 (1 - sqrt 2)^2, is no integer."""
    mean, eye = torch.zeros(2, dtype=torch.int64), torch.eye(2)
    with pytest.raises(TypeError, match=r"`real_mean` must be floating.*give real_mean.float\(\)"):
        frechet_distance_from_moments(mean, eye, mean, 2 * eye)


ONES = torch.ones(2)
BAD_LINES: dict[str, tuple[dict[str, Any], str]] = {
    "empty real": ({"real": torch.empty(0), "fake": ONES}, "`real`"),
    "both empty": ({"real": torch.empty(0), "fake": torch.empty(0)}, "`real`"),
    "nan": ({"real": ONES, "fake": ONES * math.nan}, "`fake`"),
    "order": ({"real": ONES, "fake": ONES, "order": 0.5}, "`order`"),
    "leading dimensions": ({"real": torch.ones(3, 2), "fake": torch.ones(2, 2)}, "`real`"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_univariate(name: str) -> None:
    arguments, message = BAD_LINES[name]
    with pytest.raises((TypeError, ValueError), match=message):
        univariate_cost(**arguments)


BAD_PAIRS = {
    "features": (X, Y[:, :1], 2.0, "number of features"),
    "order": (X, Y, 0.5, "`order`"),
    "nan": (X, spoiled(math.nan), 2.0, "`fake`"),
}


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_cost_matrix(name: str) -> None:
    real, fake, order, message = BAD_PAIRS[name]
    with pytest.raises((TypeError, ValueError), match=message):
        cost_matrix(real, fake, order=order)


@pytest.mark.parametrize(
    "call",
    [
        lambda g: sliced_wasserstein(X, Y, generator=g),
        lambda g: max_sliced_wasserstein(X, Y, generator=g),
        lambda g: random_directions(3, 4, generator=g),
    ],
    ids=["sliced", "max-sliced", "directions"],
)
def test_a_seed_is_no_generator(call: Callable[[Any], Any]) -> None:
    for seed in (0, 1, np.int64(3)):
        with pytest.raises(TypeError, match=r"`generator` .* torch.Generator\(\).manual_seed\(0\)"):
            call(seed)


@pytest.mark.parametrize(("n", "m"), [(8, 8), (8, 7), (1, 7), (7, 1)])
def test_columns_are_told_to_become_lines(n: int, m: int) -> None:
    """Not for the costs of N problems with one sample each."""
    x, y = cloud(n, 1, seed=1), cloud(m, 1, seed=2)
    with pytest.raises(
        ValueError, match=r"got the column \(\d, 1\): give (real|fake).squeeze\(1\)"
    ):
        univariate_cost(x, y)
    for one, two in ((x[:, 0], y), (x, y[:, 0])):
        if (one.ndim == 2 and n > 1) or (two.ndim == 2 and m > 1):
            with pytest.raises(ValueError, match=r"squeeze\(1\)"):
                univariate_cost(one, two)
    assert univariate_cost(x[:, 0], y[:, 0]).shape == ()
    if n == m:  # several samples on the other side: problems, as they are written
        assert univariate_cost(x, cloud(m, 3)).shape == (n,)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_cost_that_is_not_finite_is_told_apart_from_a_shape(value: float) -> None:
    cost = torch.tensor([[0.0, value], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"`cost` must be finite, got 1 NaN .* give a large cost"):
        exact_transport(cost)
    with pytest.raises(ValueError, match=r"`cost` must have shape \(N, M\), got \(2,\)"):
        exact_transport(cost[0])


def test_features_on_the_line_are_told_by_the_shapes_that_were_given() -> None:
    for real, fake in ((X, Y), (X[None], Y[None]), (X[0, 0], Y[:, 0]), (X, Y[:, 0])):
        shapes = f"got {tuple(real.shape)} and {tuple(fake.shape)}: for features"
        with pytest.raises(ValueError, match=re.escape(shapes)):
            univariate_cost(real, fake)
    with pytest.raises(ValueError, match=r"`real` must not be empty, got shape \(0, 3\)"):
        univariate_cost(X[:0], Y[:0])


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda:99", "cuda:-1", "xpu:99", 3.5, None])
@pytest.mark.parametrize("made", [Scoring, Extraction])
def test_devices_that_are_not_there(made: type, device: Any) -> None:
    with pytest.raises(ValueError, match=r'`device` must be "cpu", .* got .*: give "cpu"'):
        made(device=device)
    assert made(device="cpu:0").device == "cpu:0"
