"""Fréchet distance against the printed formula, where that has digits, and closed forms."""

import numpy as np
import oracles
import pytest
import torch
from cases import bures, cloud, relative_tolerance

from otmetrics import Exact
from otmetrics.functional import frechet_distance, frechet_distance_from_moments
from otmetrics.statistics import frechet

# Many blocks of rows, N > D, N = D, N < D, mixed, and the smallest that has a variance.
SHAPES = [(300, 141, 6), (40, 30, 6), (8, 8, 8), (5, 7, 20), (4, 50, 10), (2, 2, 3), (9, 2, 1)]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "_BLOCK_ROWS", (20, 2))


def test_blocks_of_their_real_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    x, y = cloud(9000, 6, seed=1), 1.5 * cloud(4097, 6, seed=2) + 1
    expected = oracles.frechet(*moments(x), *moments(y))
    assert frechet_distance(x, y).item() == pytest.approx(expected, rel=1e-10)


def moments(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(0).numpy(), np.atleast_2d(np.cov(x.numpy(), rowvar=False))


def covariance(size: int, seed: int) -> torch.Tensor:
    factor = cloud(size, 2 * size, seed=seed)
    return factor @ factor.T / (2 * size)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if min(shape[:2]) > shape[2]])
def test_against_the_matrix_root(
    shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype
) -> None:
    n, m, d = shape
    x, y = cloud(n, d, seed=1), 1.5 * cloud(m, d, seed=2) + 1
    distance = frechet_distance(x.to(device, dtype), y.to(device, dtype))
    expected = oracles.frechet(*moments(x), *moments(y))
    assert distance.item() == pytest.approx(expected, rel=max(1e-10, relative_tolerance(dtype)))
    assert distance.dtype == dtype


@pytest.mark.parametrize("shape", SHAPES)
def test_deficient_covariances_against_eigenvalues(shape: tuple[int, int, int]) -> None:
    """tr (A B)^1/2 from the eigenvalues of A B; those that are 0 come out as 1e-16, rooted 1e-8."""
    n, m, d = shape
    x, y = cloud(n, d, seed=1), 1.5 * cloud(m, d, seed=2) + 1
    (mean_x, a), (mean_y, b) = moments(x), moments(y)
    values = np.linalg.eigvals(a @ b).real.clip(min=0)
    expected = ((mean_x - mean_y) ** 2).sum() + np.trace(a + b) - 2 * np.sqrt(values).sum()
    size = np.trace(a + b)
    assert frechet_distance(x, y).item() == pytest.approx(expected, abs=1e-6 * size)
    x.requires_grad_()
    assert frechet_distance(x, y).item() == pytest.approx(expected, abs=1e-6 * size)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_graph_changes_no_value(shape: tuple[int, int, int]) -> None:
    n, m, d = shape
    x, y = cloud(n, d, seed=1), cloud(m, d, seed=2) + 1
    plain = frechet_distance(x, y)
    for left, right in ((True, False), (False, True), (True, True)):
        graphed = frechet_distance(x.clone().requires_grad_(left), y.clone().requires_grad_(right))
        torch.testing.assert_close(graphed.detach(), plain, rtol=1e-10, atol=0)


def test_without_graph_there_is_no_large_factor() -> None:
    x, y = cloud(3000, 2, seed=1).requires_grad_(), cloud(3000, 2, seed=2)
    with torch.no_grad():
        quiet = frechet_distance(x, y)
    assert torch.equal(quiet, frechet_distance(x.detach(), y))


@pytest.mark.parametrize("shape", [(30, 5), (5, 30), (6, 6)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_equal_laws_and_translation(scale: float, shape: tuple[int, int]) -> None:
    x = scale * cloud(*shape, seed=1)
    shift = scale * cloud(shape[1], seed=2)
    trace = x.var(0).sum().item()
    # Traces of this size cancel, up to a few roundings.
    assert frechet_distance(x, x.flip(0)).item() == pytest.approx(0, abs=1e-13 * trace)
    expected = shift.square().sum().item()
    distance = frechet_distance(x, x.flip(0) + shift).item()
    assert distance == pytest.approx(expected, abs=1e-13 * (trace + expected))


@pytest.mark.parametrize("shape", [(30, 5), (5, 30)])
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_scaling_about_the_mean(factor: float, shape: tuple[int, int]) -> None:
    x = cloud(*shape, seed=1)
    scaled = x.mean(0) + factor * (x - x.mean(0))
    expected = (1 - factor) ** 2 * x.var(0).sum().item()
    assert frechet_distance(x, scaled).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_below_exact_transport(shape: tuple[int, int, int]) -> None:
    """Gelbrich: with covariances divided by n it bounds W_2^2 from below."""
    n, m, d = shape
    x, y = cloud(n, d, seed=1), cloud(m, d, seed=2) + 1
    a, b = torch.cov(x.T, correction=0), torch.cov(y.T, correction=0)
    below = frechet_distance_from_moments(x.mean(0), a.view(d, d), y.mean(0), b.view(d, d))
    exact = Exact().solve(x, y).cost
    assert below <= exact * (1 + 1e-12)
    assert below > 0.1 * exact


def test_diagonal_moments() -> None:
    mean_a, mean_b = cloud(6, seed=1), cloud(6, seed=2)
    a, b = cloud(6, seed=3).square(), cloud(6, seed=4).square()
    b[0] = 0
    distance = frechet_distance_from_moments(mean_a, a.diag(), mean_b, b.diag())
    assert distance.item() == pytest.approx(bures(mean_a, a, mean_b, b), rel=1e-12)


def test_moments_against_the_matrix_root(device: torch.device, dtype: torch.dtype) -> None:
    mean_a, mean_b = cloud(7, seed=1), cloud(7, seed=2)
    a, b = covariance(7, 3), covariance(7, 4)
    distance = frechet_distance_from_moments(
        *(item.to(device, dtype) for item in (mean_a, a, mean_b, b))
    )
    expected = oracles.frechet(*(item.numpy() for item in (mean_a, a, mean_b, b)))
    assert distance.item() == pytest.approx(expected, rel=max(1e-10, relative_tolerance(dtype)))


@pytest.mark.parametrize("shape", [(40, 30, 6), (12, 15, 1)])
def test_moments_agree_with_clouds(shape: tuple[int, int, int]) -> None:
    n, m, d = shape
    x, y = cloud(n, d, seed=1), cloud(m, d, seed=2)
    from_moments = frechet_distance_from_moments(
        x.mean(0), torch.cov(x.T).view(d, d), y.mean(0), torch.cov(y.T).view(d, d)
    )
    torch.testing.assert_close(from_moments, frechet_distance(x, y), rtol=1e-9, atol=0)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_offset(offset: float) -> None:
    x, y = cloud(20, 5, seed=1), cloud(30, 5, seed=2)
    moved = frechet_distance(x + offset, y + offset)
    torch.testing.assert_close(moved, frechet_distance(x, y), rtol=1e-14 * offset, atol=0)


@pytest.mark.parametrize("shape", [(9, 8, 3), (3, 4, 9), (2, 12, 5)])
def test_batch_equals_loop(shape: tuple[int, int, int]) -> None:
    n, m, d = shape
    x, y = cloud(3, n, d, seed=1), cloud(3, m, d, seed=2)
    alone = torch.stack([frechet_distance(x[i], y[i]) for i in range(3)])
    torch.testing.assert_close(frechet_distance(x, y), alone, rtol=1e-12, atol=0)
    x.requires_grad_()
    torch.testing.assert_close(frechet_distance(x, y), alone, rtol=1e-12, atol=0)


def test_batch_of_moments_equals_loop() -> None:
    means = cloud(3, 4, seed=1), cloud(3, 4, seed=2)
    a = torch.stack([covariance(4, seed) for seed in range(3)])
    b = torch.stack([covariance(4, seed) for seed in range(3, 6)])
    batch = frechet_distance_from_moments(means[0], a, means[1], b)
    for i in range(3):
        alone = frechet_distance_from_moments(means[0][i], a[i], means[1][i], b[i])
        torch.testing.assert_close(batch[i], alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(6, 7, 3), (3, 4, 6), (3, 9, 5)])
def test_gradient(shape: tuple[int, int, int]) -> None:
    n, m, d = shape
    x, y = cloud(n, d, seed=1).requires_grad_(), cloud(m, d, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(frechet_distance, (x, y))


def test_gradient_of_moments() -> None:
    """Through factors, since a step in one entry would leave the symmetric matrices."""
    means = [cloud(3, seed=seed).requires_grad_() for seed in (1, 2)]
    factors = [cloud(3, 3, seed=seed).requires_grad_() for seed in (3, 4)]

    def distance(
        m: torch.Tensor, f: torch.Tensor, n: torch.Tensor, g: torch.Tensor
    ) -> torch.Tensor:
        return frechet_distance_from_moments(m, f @ f.T, n, g @ g.T)

    assert torch.autograd.gradcheck(distance, (means[0], factors[0], means[1], factors[1]))


@pytest.mark.parametrize("rank", [3, 2])
def test_gradient_of_moments_with_equal_eigenvalues(rank: int) -> None:
    """A = I, or less one dimension, against B = 4 I: d tr(A - 2 (4 A)^1/2) = 1 - 2 on its range."""
    eigenvalues = torch.tensor([1.0] * rank + [0.0] * (3 - rank), dtype=torch.float64)
    a = eigenvalues.diag().requires_grad_()
    mean, eye = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    frechet_distance_from_moments(mean, a, mean, 4 * eye).backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    torch.testing.assert_close(a.grad.diagonal()[:rank], -torch.ones(rank, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(9, 3), (3, 9), (5, 5)])
def test_gradient_at_equal_laws_is_zero(shape: tuple[int, int]) -> None:
    x = cloud(*shape, seed=1).requires_grad_()
    distance = frechet_distance(x, x.detach().flip(0))
    distance.backward()
    assert x.grad is not None
    assert x.grad.abs().max() < 1e-12


@pytest.mark.parametrize("shape", [(8, 3), (4, 9)])
def test_gradient_with_repeated_samples_is_finite(shape: tuple[int, int]) -> None:
    for x in (torch.zeros(shape).double(), cloud(2, shape[1], seed=1).repeat(shape[0] // 2, 1)):
        x = x.clone().requires_grad_()
        frechet_distance(x, cloud(6, shape[1], seed=2)).backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert x.grad.norm() > 0


def test_bias_between_samples_of_one_law() -> None:
    """Half of the data, doubled, is not the data: the covariance divides by N - 1."""
    x = cloud(20, 4, seed=1)
    trace = x.var(0, correction=0).sum().item()
    # Covariances S 20/19 and S 40/39, the same shape: (sqrt(20/19) - sqrt(40/39))^2 tr S.
    expected = ((20 / 19) ** 0.5 - (40 / 39) ** 0.5) ** 2 * trace
    assert frechet_distance(x, x.repeat(2, 1)).item() == pytest.approx(expected, abs=1e-13 * trace)


def test_distances_that_float32_cannot_hold_are_refused() -> None:
    x, y = 1e20 * cloud(20, 3, seed=1), 1e20 * cloud(15, 3, seed=2)
    with pytest.raises(ValueError, match=r"does not fit torch.float32: give both sides in float64"):
        frechet_distance(x.float(), y.float())
    assert frechet_distance(x, y).item() == pytest.approx(
        1e40 * frechet_distance(x / 1e20, y / 1e20).item(), rel=1e-9
    )
    means = torch.zeros(2, dtype=torch.float32), torch.full((2,), 1e25)
    eye = torch.eye(2)
    with pytest.raises(ValueError, match=r"does not fit torch.float32"):
        frechet_distance_from_moments(means[0], eye, means[1], eye)
    in_float64 = frechet_distance_from_moments(means[0].double(), eye, means[1].double(), eye)
    assert in_float64.item() == pytest.approx(2e50, rel=1e-6)


@pytest.mark.parametrize("decades", [0.0, 3.0, 5.0, 8.0, 15.0])
@pytest.mark.parametrize("zeros", [0, 20])
@pytest.mark.parametrize("size", [1e-60, 1.0, 1e60])
def test_singular_values_to_full_precision(decades: float, zeros: int, size: float) -> None:
    """An eigendecomposition of squares alone would lose those below 1e-8 of the largest."""
    left, right = (torch.linalg.qr(cloud(80, 60, seed=seed)).Q for seed in (1, 2))
    values = 10 ** -torch.linspace(0, decades, 60, dtype=torch.float64)
    values[60 - zeros :] = 0
    matrix = size * (left * values) @ right[:70].T
    expected = np.linalg.svd(matrix.numpy(), compute_uv=False)
    for given in (matrix, matrix.T):
        found = frechet.singular_parts(given)
        assert found.total.item() == pytest.approx(expected.sum(), rel=1e-13)
        kept = expected[expected > 1e-7 * expected[0]]
        assert found.values.sort(descending=True).values.numpy() == pytest.approx(kept, rel=1e-8)
        assert torch.allclose(
            (found.left * found.values) @ found.right.T, given, atol=2e-7 * size, rtol=0
        )
        for side in (found.left, found.right):
            assert torch.allclose(side.T @ side, torch.eye(len(kept)).double(), atol=1e-8)


def test_no_singular_values() -> None:
    found = frechet.singular_parts(torch.zeros(3, 5, dtype=torch.float64))
    assert found.total.item() == 0
    assert found.values.shape == (0,)
