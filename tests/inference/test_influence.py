"""Effects of samples are derivatives in their weights, and give the error that sampling leaves."""

import math

import pytest
import torch
from torch import Tensor

from otmetrics import Exact, Sinkhorn, Sliced
from otmetrics.functional import frechet_distance, kernel_distance, random_directions
from otmetrics.inference.estimates import kernel_estimate
from otmetrics.inference.influence import (
    Influence,
    covariance_of_means,
    frechet_effects,
    kernel_influence,
    sliced_effects,
    transport_influence,
)
from otmetrics.statistics.frechet import (
    frechet_in_float64,
    gaussian_distance,
    gaussian_pair,
)
from otmetrics.statistics.kernel import kernel_sums
from otmetrics.transport.line import line_costs, line_potentials

STEP = 1e-5


def _frechet_influence(real: Tensor, fake: Tensor) -> Influence:
    return frechet_effects(real, fake, gaussian_pair(real, fake)).influence


def clouds(n: int, m: int, dimension: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    real = torch.randn(n, dimension, generator=generator, dtype=torch.float64)
    fake = torch.randn(m, dimension, generator=generator, dtype=torch.float64)
    return real, 1.3 * fake + 0.5


def derivatives(cost, n: int, m: int) -> tuple[Tensor, Tensor]:
    """Central differences of a cost of two weight vectors, less their mean, for each sample."""
    uniform = [torch.full((size,), 1 / size, dtype=torch.float64) for size in (n, m)]
    found = []
    for side, size in enumerate((n, m)):
        slopes = torch.empty(size, dtype=torch.float64)
        for sample in range(size):
            ends = []
            for step in (STEP, -STEP):
                weights = [one.clone() for one in uniform]
                weights[side] *= 1 - step
                weights[side][sample] += step
                ends.append(float(cost(*weights)))
            slopes[sample] = (ends[0] - ends[1]) / (2 * STEP)
        found.append(slopes)
    return found[0], found[1]


def check(influence: Influence, cost, relative: float = 1e-5) -> None:
    n, m = influence.real.shape[1], influence.fake.shape[1]
    for found, wanted in zip(influence[:2], derivatives(cost, n, m), strict=True):
        assert torch.allclose(found.mean(0), wanted, rtol=relative, atol=relative)
        assert abs(float(found.mean())) < 1e-12


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 42), (17, 5), (1, 4)])
def test_potentials_on_lines_prove_their_cost(n, m, order):
    real, fake = clouds(n, m, 6)
    x, y = real.T, fake.T
    f, g = line_potentials(x, y, order)
    costs = (x[:, :, None] - y[:, None]).abs() ** order
    assert bool((f[:, :, None] + g[:, None] <= costs + 1e-12).all())
    wanted = line_costs(x, y, order, None, None)
    assert torch.allclose(f.mean(1) + g.mean(1), wanted, rtol=1e-12)


def test_potentials_on_a_line_are_the_middle_of_those_of_both_ends():
    """Two samples a side: f may rise by anything between the two changes of the cost."""
    f, _ = line_potentials(
        torch.tensor([[0.0, 1.0]], dtype=torch.float64),
        torch.tensor([[2.0, 5.0]], dtype=torch.float64),
        2.0,
    )
    low, high = (5 - 1) ** 2 - 5**2, (2 - 1) ** 2 - 2**2
    assert float(f[0, 1] - f[0, 0]) == (low + high) / 2


@pytest.mark.parametrize("order", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize(("n", "m"), [(12, 7), (9, 9), (12, 6)])
def test_sliced(order, n, m):
    """Where N and M share levels potentials may move, and slopes differ by side: the middle of
    theirs is that of the potentials."""
    real, fake = clouds(n, m, 3)
    directions = random_directions(3, 32, generator=torch.Generator().manual_seed(1), block=8)
    influence = sliced_effects(real, fake, directions.T.contiguous(), order, 4, 4.0).influence
    solver = Sliced(order=order)
    check(
        influence,
        lambda a, b: (
            solver.solve(real, fake, real_weights=a, fake_weights=b, directions=directions).cost
        ),
    )


def test_exact():
    real, fake = clouds(12, 7, 3)
    check(
        transport_influence(Exact().solve(real, fake)),
        lambda a, b: Exact().solve(real, fake, real_weights=a, fake_weights=b).cost,
    )


def test_sinkhorn_at_a_fixed_epsilon():
    real, fake = clouds(12, 9, 3)
    solver = Sinkhorn(epsilon=2.0, relative=False, tolerance=1e-11)
    check(
        transport_influence(solver.solve(real, fake)),
        lambda a, b: solver.solve(real, fake, real_weights=a, fake_weights=b).cost,
    )


@pytest.mark.parametrize(("n", "m", "dimension"), [(40, 30, 4), (8, 6, 20), (9, 50, 20)])
def test_frechet(n, m, dimension):
    """Weighted covariances times N / (N - 1), as the divisors of the score are; the trace of the
    root by singular values, since roots of eigenvalues that are 0 are off by 1e-8."""
    real, fake = clouds(n, m, dimension)

    def cost(a: Tensor, b: Tensor) -> Tensor:
        means, roots = [], []
        for cloud, weights in ((real, a), (fake, b)):
            means.append(weights @ cloud)
            share = weights * len(cloud) / (len(cloud) - 1)
            roots.append(share.sqrt()[:, None] * (cloud - means[-1]))
        spread = roots[0].square().sum() + roots[1].square().sum()
        fidelity = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
        return (means[0] - means[1]).square().sum() + spread - 2 * fidelity

    influence = _frechet_influence(real, fake)
    # With those a covariance grows N / (N - 1) times as fast with the weights as without.
    shift = real.mean(0) - fake.mean(0)
    slopes = derivatives(cost, n, m)
    for found, wanted, side, way in zip(influence[:2], slopes, (real, fake), (2, -2), strict=True):
        of_mean = way * (side - side.mean(0)) @ shift
        size = len(side)
        expected = of_mean + (found[0] - of_mean) * size / (size - 1)
        assert torch.allclose(expected, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def _gaussian_distance(m: Tensor, a: Tensor, n: Tensor, b: Tensor) -> Tensor:
    """The formula by eigenvalues, without the library."""
    values = torch.linalg.eigvals(a @ b).real.clamp_min(0)
    return (m - n).square().sum() + a.trace() + b.trace() - 2 * values.sqrt().sum()


def test_frechet_on_both_ways_to_its_factors():
    """More samples than dimensions go through QR, fewer do not; doubling every sample changes
    means and, but for the divisors, covariances by nothing."""
    real, fake = clouds(60, 50, 40)
    few = _frechet_influence(real[:30], fake[:30])
    twice = _frechet_influence(real[:30].repeat(2, 1), fake[:30].repeat(2, 1))
    share = (60 / 59) / (30 / 29)
    shift = 2 * (real[:30] - real[:30].mean(0)) @ (real[:30].mean(0) - fake[:30].mean(0))
    quadratic = few.real[0] - (shift - shift.mean())
    again = twice.real[0, :30] - (shift - shift.mean())
    assert torch.allclose(again, quadratic, rtol=1e-9, atol=1e-9), share


def _distance(real: Tensor, fake: Tensor) -> float:
    return float(frechet_in_float64(real, fake))


@pytest.mark.parametrize(("n", "m", "dimension"), [(25, 18, 6), (9, 40, 6), (60, 50, 1)])
@pytest.mark.parametrize("alone", [False, True])
def test_the_bias_of_frechet_is_that_of_a_jackknife(n, m, dimension, alone):
    """Which computes the distance again without each sample; also where one sample alone reaches
    an axis, and a covariance without it is singular."""
    real, fake = clouds(n, m, dimension)
    if alone:
        real[1:, 0] = 0
    wanted = 0.0
    for side, cloud in enumerate((real, fake)):
        without = []
        for sample in range(len(cloud)):
            others = [real, fake]
            others[side] = torch.cat([cloud[:sample], cloud[sample + 1 :]])
            without.append(_distance(*others))
        wanted += (len(cloud) - 1) * (sum(without) / len(cloud) - _distance(real, fake))
    found = frechet_effects(real, fake, gaussian_pair(real, fake))
    assert found.bias == pytest.approx(wanted, rel=1e-5)


def test_what_is_of_second_order_in_frechet():
    """At one normal distribution nothing else is left; errors are those of repetitions."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([2.0, 1.0, 1.0, 0.5])
    centres, errors = [], []
    for _ in range(200):
        real, fake = scales * torch.randn(2, 300, 4, generator=generator, dtype=torch.float64)
        found = frechet_effects(real, fake, gaussian_pair(real, fake))
        centres.append(_distance(real, fake) - found.bias)
        errors.append(found.error)
    ratio = sum(errors) / 200 / float(torch.tensor(centres).std())
    assert 0.8 < ratio < 1.25


def test_one_side_of_frechet_is_a_point():
    """Nothing is transported but means, and the map to a point is 0."""
    real, fake = clouds(20, 10, 3)
    fake = fake[:1].expand(10, 3)
    found = frechet_effects(real, fake, gaussian_pair(real, fake))
    assert found.bias == pytest.approx(float(real.var(0).sum()) / 20, rel=1e-12)
    wanted = (real - fake[0]).square().sum(1)
    assert torch.allclose(found.influence.real[0], wanted - wanted.mean(), rtol=1e-12)


def test_frechet_of_float32_features():
    """Effects are computed in their precision, around the mean, wherever that is."""
    real, fake = (side.float() + 1000 for side in clouds(60, 50, 5))
    rounded = frechet_effects(real, fake, gaussian_pair(real, fake))
    whole = frechet_effects(
        real.double(), fake.double(), gaussian_pair(real.double(), fake.double())
    )
    assert rounded.bias == pytest.approx(whole.bias, rel=1e-4)
    assert torch.allclose(rounded.influence.real, whole.influence.real, atol=1e-4)


def test_kernel_is_a_jackknife():
    """N - 1 times what the value loses without a sample."""
    real, fake = clouds(11, 8, 3)
    influence = kernel_influence(kernel_sums(real, fake))
    value = float(kernel_distance(real, fake))
    for side, effects in enumerate(influence[:2]):
        size = effects.shape[1]
        wanted = torch.empty(size, dtype=torch.float64)
        for sample in range(size):
            others = [real, fake]
            others[side] = torch.cat([others[side][:sample], others[side][sample + 1 :]])
            wanted[sample] = (size - 1) * (value - float(kernel_distance(*others)))
        assert torch.allclose(effects[0], wanted - wanted.mean(), rtol=1e-9)


def test_kernel_of_two_samples_has_no_estimate():
    """A jackknife leaves one of them, which has no pairs."""
    real, fake = clouds(2, 8, 3)
    assert kernel_estimate(kernel_sums(real, fake)) is None
    assert kernel_estimate(kernel_sums(fake[:3], real[[0, 1, 1]])) is not None


def test_kernel_as_hyppo_computes_it():
    """hyppo 0.5.2: MMD(compute_kernel="polynomial", bias=True, gamma=1 / 3, coef0=1, degree=3)
    .statistic(pool[real], pool[~real]) is the root of MMD^2 with the samples' own pairs, times a
    factor that is the same for all labels of a pool."""
    pool = torch.arange(63, dtype=torch.float64).reshape(21, 3).sin()
    found = []
    for first, statistic in HYPPO.items():
        real = torch.zeros(21, dtype=torch.bool)
        real[torch.arange(12) * first % 21] = True
        x, y = pool[real], pool[~real]
        sums = kernel_sums(x, y)
        own = [float(((side.square().sum(1) / 3 + 1) ** 3).sum()) for side in (x, y)]
        within = float(sums.real.by_row.sum()) + own[0], float(sums.fake.by_row.sum()) + own[1]
        whole = within[0] / 144 + within[1] / 81 - 2 * float(sums.across.by_row.sum()) / 108
        found.append(whole / statistic**2)
    assert found == pytest.approx([found[0]] * len(found), rel=1e-10)


HYPPO = {
    1: 0.046410770491861396,
    2: 0.09172866640541222,
    4: 0.022072579673126622,
    5: 0.015245855215518285,
}
"""Its statistic, by the step between the first of the samples that are real."""


def test_kernel_far_from_the_origin():
    """The kernel around the centre differs by terms of single samples, which cancel."""
    real, fake = clouds(30, 20, 3)
    far = kernel_influence(kernel_sums(real + 300.0, fake + 300.0))
    x, y = real + 300.0, fake + 300.0
    within, across = ((a @ b.T / 3 + 1) ** 3 for a, b in ((x, x), (x, y)))
    wanted = 2 * (within.fill_diagonal_(0).sum(1) / 28 - across.mean(1))
    wanted = wanted - wanted.mean()
    scale = float(wanted.abs().max())
    assert torch.allclose(far.real[0], wanted, rtol=1e-5, atol=1e-5 * scale)


def test_covariance_of_means_tells_what_all_blocks_share_from_what_each_has():
    generator = torch.Generator().manual_seed(0)
    size, blocks = 200_000, 4
    shared = torch.randn(size, generator=generator, dtype=torch.float64)
    own = 2 * torch.randn(blocks, size, generator=generator, dtype=torch.float64)
    rows = shared + own
    few = covariance_of_means(rows, rows, 4.0) * size
    many = covariance_of_means(rows, rows, 64.0) * size
    assert few == pytest.approx(1 + 4 / 4, rel=0.02)
    assert many == pytest.approx(1 + 4 / 64, rel=0.02)
    assert covariance_of_means(rows, -rows, 1e9) * size == pytest.approx(-1, rel=0.05)


LAWS = [(0.0, 1.0), (0.3, 1.2)]
"""Shift and scale of fake: one distribution, and two."""


@pytest.mark.parametrize(("shift", "scale"), LAWS)
@pytest.mark.parametrize("score", ["sliced", "exact", "frechet", "kernel"])
def test_errors_are_those_of_repetitions(score, shift, scale):
    """At one distribution, where the first order vanishes, they are up to 1.7 times too large."""
    generator = torch.Generator().manual_seed(3)
    directions = random_directions(8, 64, generator=torch.Generator().manual_seed(1), block=8)
    rows = directions.T.contiguous()
    values, errors = [], []
    for _ in range(150):
        real, fake = torch.randn(2, 60, 8, generator=generator, dtype=torch.float64)
        fake = fake * scale + shift
        if score == "sliced":
            values.append(float(Sliced().solve(real, fake, directions=directions).cost))
            influence = sliced_effects(real, fake, rows, 2.0, 8, 8.0).influence
        elif score == "exact":
            result = Exact().solve(real, fake)
            values.append(float(result.cost))
            influence = transport_influence(result)
        elif score == "frechet":
            values.append(float(frechet_distance(real, fake)))
            influence = _frechet_influence(real, fake)
        else:
            sums = kernel_sums(real, fake)
            values.append(float(sums.value))
            influence = kernel_influence(sums)
        errors.append(math.sqrt(influence.variance()))
    ratio = sum(errors) / len(errors) / float(torch.tensor(values).std())
    assert 0.85 < ratio < (1.75 if scale == 1 else 1.4)


def test_only_the_fake_samples_vary():
    real, fake = clouds(50, 40, 5)
    influence = _frechet_influence(real, fake)
    wanted = float(influence.fake[0].var()) / 40
    assert influence.variance("fake") == pytest.approx(wanted, rel=1e-12)
    assert influence.variance() > wanted


def test_moments_and_influence_agree_about_the_value():
    """`gaussian_distance` is what the oracle above computes."""
    real, fake = clouds(40, 30, 4)
    parts = [real.mean(0), real.T.cov(), fake.mean(0), fake.T.cov()]
    assert torch.allclose(gaussian_distance(*parts), _gaussian_distance(*parts), rtol=1e-10)
