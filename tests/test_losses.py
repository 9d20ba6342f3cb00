"""The losses: the solver's number and gradient, in training mode and after it."""

import copy
import dataclasses
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import cloud
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from otmetrics import (
    ConvergenceWarning,
    Exact,
    ExactWassersteinLoss,
    FrozenExtractor,
    Sinkhorn,
    SinkhornLoss,
    Sliced,
    SlicedWassersteinLoss,
    WassersteinFeatureDistance,
)

Loss = SlicedWassersteinLoss | SinkhornLoss | ExactWassersteinLoss
SLICED = Sliced(order=1.5, num_projections=33, seed=7)
SINKHORN = Sinkhorn(order=1.0, epsilon=0.2, tolerance=1e-4)
FINE = Sinkhorn(epsilon=0.005)


def fixed(**options: Any) -> SlicedWassersteinLoss:
    return SlicedWassersteinLoss(SLICED, resample=False, **options)


MAKERS: list[Callable[..., Loss]] = [
    fixed,
    lambda **options: SlicedWassersteinLoss(SLICED, **options).eval(),
    lambda **options: SinkhornLoss(SINKHORN, **options),
    lambda **options: SinkhornLoss(Sinkhorn(richardson=True), **options),
    lambda **options: SinkhornLoss(SINKHORN, warm_start=True, **options).eval(),
    lambda **options: ExactWassersteinLoss(Exact(order=3.0), **options),
    lambda **options: ExactWassersteinLoss(Exact(max_samples=5), **options),
]
IDS = ["sliced", "sliced-eval", "sinkhorn", "richardson", "warm-eval", "exact", "exact-subset"]
every = pytest.mark.parametrize("make", MAKERS, ids=IDS)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("root", [False, True])
def test_the_loss_is_the_number_of_its_solver(
    make: Callable[..., Loss], dtype: torch.dtype, root: bool, device: torch.device
) -> None:
    """Bit for bit, with its gradient in both sides, however often it was called."""
    loss = make(root=root)
    for seed in (1, 2):
        sides = [
            cloud(n, 3, seed=seed + n, dtype=dtype, device=device).requires_grad_() for n in (9, 7)
        ]
        result = loss.solver.solve(*sides)
        expected = result.value if root else result.cost
        value = loss(*sides)
        assert value.shape == ()
        assert value.dtype == dtype
        assert torch.equal(value, expected)
        gradients = torch.autograd.grad(value, sides)
        for found, wanted in zip(gradients, torch.autograd.grad(expected, sides), strict=True):
            assert torch.equal(found, wanted)
            assert found.norm() > 0


@every
def test_a_batch_gives_the_mean_over_its_problems(make: Callable[..., Loss]) -> None:
    x, y = cloud(4, 9, 3, seed=1), cloud(4, 7, 3, seed=2)
    for root in (False, True):
        loss = make(root=root)
        alone = torch.stack([loss(x[i], y[i]) for i in range(4)])
        torch.testing.assert_close(loss(x, y), alone.mean())


@every
def test_the_loss_is_the_number_of_the_metric(make: Callable[..., Loss]) -> None:
    x, y = cloud(9, 3, seed=1), cloud(7, 3, seed=2)
    loss = make(root=True)
    metric = WassersteinFeatureDistance(feature=None, method=loss.solver)
    metric.update(x, real=True)
    metric.update(y, real=False)
    torch.testing.assert_close(metric.compute(), loss(x, y), check_dtype=False)


@pytest.mark.parametrize(
    "loss",
    [
        SlicedWassersteinLoss(Sliced(num_projections=16)),
        SlicedWassersteinLoss(Sliced(num_projections=16), root=True),
        SinkhornLoss(),
        SinkhornLoss(warm_start=True),
        ExactWassersteinLoss(),
    ],
    ids=["sliced", "root", "sinkhorn", "warm", "exact"],
)
def test_points_flow_to_their_target(loss: Loss) -> None:
    real = 0.5 * cloud(40, 2, seed=1) + torch.tensor([3.0, -1.0])
    fake = cloud(30, 2, seed=2).requires_grad_()
    before = Exact()(real, fake.detach()).item()
    optimizer = torch.optim.Adam([fake], lr=0.3)
    for _ in range(50):
        optimizer.zero_grad()
        loss(real, fake).backward()
        optimizer.step()
    after = Exact()(real, fake.detach()).item()
    assert before > 3
    assert after < 0.15 * before


@pytest.mark.parametrize("debiased", [False, True])
def test_only_the_debiased_loss_is_still_where_the_laws_agree(debiased: bool) -> None:
    """Its slope in the scale of a generator, over 400 batches of 16 samples."""
    loss = SlicedWassersteinLoss(Sliced(num_projections=16, debiased=debiased))
    scale = torch.ones(400, 1, 1, dtype=torch.float64, requires_grad=True)
    value = loss(cloud(400, 16, 2, seed=1), scale * cloud(400, 16, 2, seed=2))
    (slope,) = torch.autograd.grad(value, scale)
    error = 400**0.5 * slope.std()  # of the sum, the slope in one scale for all
    assert (slope.sum().abs() < 4 * error) == debiased


# Directions


def rerun(loss: Loss, x: Tensor, y: Tensor, reentrant: bool) -> Tensor:
    """The loss under activation checkpointing, which runs it again in the backward pass."""
    return checkpoint(loss, x, y, use_reentrant=reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("calls", [1, 3])
def test_a_rerun_in_the_backward_pass_takes_the_directions_of_its_call(
    calls: int, reentrant: bool
) -> None:
    """Whatever was called in between, and without a step of its own."""
    plain, saved = (SlicedWassersteinLoss(Sliced(num_projections=5)) for _ in range(2))
    for step in range(3):
        x = cloud(9, 3, seed=10 + step)
        ends = [cloud(7, 3, seed=20 + step).requires_grad_() for _ in range(2)]
        totals = []
        for end, loss in zip(ends, (plain, saved), strict=True):
            parts = [(2 + k) * end for k in range(calls)]
            if loss is plain:
                values = [loss(x, part) for part in parts]
            else:
                values = [rerun(loss, x, part, reentrant) for part in parts]
            loss(x, 5 * end.detach())  # one more, that is not in the graph
            totals.append(sum(values))
        assert torch.equal(*totals)
        for total in totals:
            total.backward()
        torch.testing.assert_close(ends[0].grad, ends[1].grad, rtol=1e-12, atol=1e-14)
        assert plain.step == saved.step == (calls + 1) * (step + 1)
    assert saved.num_unconverged == 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_reruns_of_calls_with_equal_inputs_are_told_apart(reentrant: bool) -> None:
    """More directions by more calls: the last call runs again first."""
    x, ends = cloud(9, 3, seed=1), [cloud(7, 3, seed=2).requires_grad_() for _ in range(2)]
    plain, saved = (SlicedWassersteinLoss(Sliced(num_projections=2)) for _ in range(2))
    sum((k + 1) * plain(x, ends[0]) for k in range(4)).backward()
    sum((k + 1) * rerun(saved, x, ends[1], reentrant) for k in range(4)).backward()
    torch.testing.assert_close(ends[0].grad, ends[1].grad, rtol=1e-12, atol=1e-14)


def test_a_rerun_of_generator_and_loss_together_and_a_second_pass() -> None:
    """Inputs that are computed again, and a graph that is kept, give the same gradient again."""
    loss = SlicedWassersteinLoss(Sliced(num_projections=3))
    layer = nn.Linear(3, 3).double()
    real, noise = cloud(9, 3, seed=1), cloud(7, 3, seed=2)
    before = [loss(real, noise) for _ in range(5)]
    assert len(before) == loss.step == 5
    value = checkpoint(lambda z: loss(real, layer(z)), noise, use_reentrant=False)
    wanted = torch.autograd.grad(
        loss.step_solver(5).solve(real, layer(noise)).cost, layer.parameters()
    )
    for _ in range(2):
        found = torch.autograd.grad(value, layer.parameters(), retain_graph=True)
        for one, two in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
    assert loss.step == 6


def test_a_checkpoint_of_before_the_loss_was_added_loads() -> None:
    """Strictly, at step 0; what else is missing is still told."""

    class Model(nn.Module):
        def __init__(self, **losses: nn.Module) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.losses = nn.ModuleDict(losses)

    model = Model(sliced=SlicedWassersteinLoss(), exact=ExactWassersteinLoss())
    model.losses["sliced"](cloud(4, 2), cloud(5, 2))
    older = Model().state_dict()
    names = list(older)
    model.load_state_dict(older)
    assert model.losses["sliced"].step == 0
    assert list(older) == names  # what was given is left as it is
    model.losses["sliced"](cloud(4, 2), cloud(5, 2))
    again = Model(sliced=SlicedWassersteinLoss(), exact=ExactWassersteinLoss())
    again.load_state_dict(model.state_dict())
    assert again.losses["sliced"].step == 1
    with pytest.raises(RuntimeError, match=r"sliced\.extractor\.weight"):
        Model(sliced=SlicedWassersteinLoss(extractor=nn.Linear(2, 2))).load_state_dict(older)


def test_each_step_takes_directions_of_its_own() -> None:
    x, y = cloud(9, 3, seed=1), cloud(7, 3, seed=2)
    loss = SlicedWassersteinLoss(SLICED)
    values = [loss(x, y).item() for _ in range(20)]
    assert len(set(values)) == 20
    assert loss.step == 20
    assert values == [loss.step_solver(k).solve(x, y).cost.item() for k in range(20)]
    assert loss.step_solver(0).num_projections == SLICED.num_projections
    # Over the steps the mean is that over all directions.
    mean = torch.tensor(values).mean()
    spread = torch.tensor(values).std() / 20**0.5
    many = dataclasses.replace(SLICED, num_projections=20000)
    assert (mean - many.solve(x, y).cost).abs() < 4 * spread
    # Evaluation takes the solver's, and none from the training.
    loss.eval()
    assert [loss(x, y) for _ in range(2)] == [SLICED.solve(x, y).cost] * 2
    assert loss.step == 20
    assert loss.train()(x, y) == loss.step_solver(20).solve(x, y).cost


def test_one_seed_gives_one_sequence_on_every_rank() -> None:
    x, y = cloud(9, 3, seed=1), cloud(7, 3, seed=2)
    first, second = SlicedWassersteinLoss(SLICED), SlicedWassersteinLoss(SLICED)
    other = SlicedWassersteinLoss(dataclasses.replace(SLICED, seed=8))
    for _ in range(3):
        torch.rand(5)  # the global generator is neither read nor moved
        state = torch.get_rng_state()
        values = [loss(x, y) for loss in (first, second, other)]
        assert torch.equal(torch.get_rng_state(), state)
        assert values[0] == values[1] != values[2]


def test_a_resumed_run_continues_the_directions() -> None:
    x, y = cloud(9, 3, seed=1), cloud(7, 3, seed=2)
    loss = SlicedWassersteinLoss(SLICED)
    for _ in range(3):
        loss(x, y)
    state = copy.deepcopy(loss.state_dict())
    assert list(state) == ["step"]
    later = [loss(x, y).item() for _ in range(3)]
    resumed = SlicedWassersteinLoss(SLICED)
    resumed.load_state_dict(state)
    assert [resumed(x, y).item() for _ in range(3)] == later


def test_a_call_that_raises_is_no_step() -> None:
    loss = SlicedWassersteinLoss()
    with pytest.raises(ValueError, match="finite"):
        loss(cloud(9, 3), torch.full((7, 3), torch.nan))
    assert loss.step == 0
    with torch.inference_mode():
        loss(cloud(9, 3), cloud(7, 3))
    assert loss.half().step == 1
    assert loss.step.dtype == torch.int64


# Warm starts


class Centred(nn.Module):
    """Images to features by a linear map of a size of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 4)
        self.linear.weight.data = cloud(4, 12, seed=9, dtype=torch.float32)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1) - 0.5)


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


@every
def test_extractors_are_used_as_they_are(make: Callable[..., Loss]) -> None:
    network = Centred()
    loss = make(extractor=network)
    assert loss.extractor is network
    assert list(dict(loss.named_parameters())) == [
        "extractor.linear.weight",
        "extractor.linear.bias",
    ]
    real, fake = images(9, 1).requires_grad_(), images(7, 2).requires_grad_()
    value = loss(real, fake)
    assert value == loss.solver.solve(network(real), network(fake)).cost
    value.backward()
    for tensor in (real, fake, network.linear.weight):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.norm() > 0


@every
def test_frozen_extractors_stay_frozen(make: Callable[..., Loss]) -> None:
    loss = make(extractor=FrozenExtractor(Centred(), None, "centred"))
    loss.train().half()
    assert not list(loss.parameters())
    fake = images(7, 2).requires_grad_()
    loss(images(9, 1), fake).backward()
    assert fake.grad is not None
    assert fake.grad.norm() > 0
    loss.requires_grad_(False)
    assert not loss(images(9, 1), images(7, 2)).requires_grad


@pytest.mark.parametrize(
    ("network", "got"),
    [
        (nn.Identity(), r"\(9, 3, 2, 2\) of torch.float32"),
        (nn.Flatten(2), r"\(9, 3, 4\) of torch.float32"),
        (nn.Flatten(0), r"\(108,\) of torch.float32"),
        (nn.AdaptiveMaxPool2d(1, return_indices=True), "tuple"),
    ],
)
def test_extractors_must_return_features(network: nn.Module, got: str) -> None:
    loss = SinkhornLoss(extractor=network)
    with pytest.raises(ValueError, match=rf"`extractor` must .*, got {got} for `real`"):
        loss(images(9, 1), images(9, 2))


# Modules


@every
def test_autocast_and_half_features_are_upcast(make: Callable[..., Loss]) -> None:
    loss = make()
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = cloud(9, 3, seed=1, dtype=dtype).requires_grad_()
        y = cloud(7, 3, seed=2, dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(x, y)
            assert value.dtype == torch.float32
            assert value == loss.solver.solve(x.float(), y.float()).cost
        (gradient,) = torch.autograd.grad(value, x)
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()


def test_autocast_reaches_no_cost_of_many_samples() -> None:
    """Beyond the sizes that are solved in float64 all the same."""
    x, y = cloud(1100, 4, seed=1).float(), cloud(1000, 4, seed=2).float() + 1
    for loss in (SinkhornLoss(), SlicedWassersteinLoss(resample=False)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(x, y)
        assert value == loss.solver.solve(x, y).cost


def test_the_extractor_sees_autocast() -> None:
    network, seen = Centred(), []
    network.register_forward_hook(lambda _module, _inputs, features: seen.append(features.dtype))
    loss = SlicedWassersteinLoss(extractor=network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(images(9, 1), images(7, 2))
    assert seen == [torch.bfloat16] * 2
    assert value.dtype == torch.float32
    value.backward()
    assert network.linear.weight.grad is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda: SlicedWassersteinLoss(SLICED, Centred(), root=True),
        lambda: SinkhornLoss(SINKHORN, Centred(), warm_start=True),
        lambda: ExactWassersteinLoss(extractor=Centred()),
    ],
)
def test_copies_go_on_like_the_original(make: Callable[[], Loss]) -> None:
    real, fake = images(9, 1), images(7, 2)
    loss = make()
    loss(real, fake)
    loaded = make()
    with torch.no_grad():
        loaded.extractor.linear.weight.zero_()  # type: ignore[union-attr, operator]
    loaded.load_state_dict(loss.state_dict())
    twins = [copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), loaded]
    for _ in range(2):
        value = loss(real, fake)
        for twin in twins:
            torch.testing.assert_close(twin(real, fake), value, rtol=1e-3, atol=0)


def test_repr_tells_every_option() -> None:
    text = repr(SlicedWassersteinLoss(SLICED, Centred()))
    for part in (repr(SLICED), "root=False", "resample=True", "(extractor): Centred"):
        assert part in text
    assert "warm_start=True" in repr(SinkhornLoss(warm_start=True))
    assert repr(ExactWassersteinLoss(root=True)) == f"ExactWassersteinLoss({Exact()}, root=True)"


def test_training_warns_once_of_a_solver_that_stops_early() -> None:
    """The messages tell residuals, and differ: python would show each of them."""
    loss = SinkhornLoss(Sinkhorn(epsilon=1e-3, max_iterations=2))
    x, y = cloud(9, 3, seed=1), cloud(7, 3, seed=2)
    with pytest.raises(ConvergenceWarning):  # an error to who asks for it
        loss(x, y)
    assert loss.num_unconverged == 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(3):
            loss(x, y + k)
    assert [warning.category for warning in caught] == [ConvergenceWarning]
    assert loss.num_unconverged == 3
    assert loss.num_unconverged == 3
    assert loss(x, x) == pytest.approx(0, abs=1e-12)
    assert loss.num_unconverged == 3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SlicedWassersteinLoss(Exact()), TypeError, "`solver` must .* got Exact: give"),  # type: ignore[arg-type]
        (lambda: SinkhornLoss(Sinkhorn), TypeError, r"`solver` .*Sinkhorn\(order=2.0\)"),  # type: ignore[arg-type]
        (lambda: ExactWassersteinLoss(2), TypeError, "`solver` must be an otmetrics.Exact"),  # type: ignore[arg-type]
        (lambda: SinkhornLoss(extractor="pixels"), TypeError, "load_extractor"),  # type: ignore[arg-type]
        (lambda: SinkhornLoss(extractor=len), TypeError, "`extractor` must"),  # type: ignore[arg-type]
        (lambda: SinkhornLoss(root=1), ValueError, "`root` must be True or False"),  # type: ignore[arg-type]
        (lambda: SinkhornLoss(warm_start=None), ValueError, "`warm_start` must"),  # type: ignore[arg-type]
        (lambda: SlicedWassersteinLoss(resample=0), ValueError, "`resample` must"),  # type: ignore[arg-type]
        (lambda: SlicedWassersteinLoss().step_solver(-1), ValueError, "`step` must"),
    ],
)
def test_wrong_options_are_named(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


@every
def test_wrong_features_are_named(make: Callable[..., Loss]) -> None:
    loss, x = make(), cloud(9, 3)
    for real, fake, error, message in (
        (x.tolist(), x, TypeError, "`real` must be a torch.Tensor, got list"),
        (x, None, TypeError, "`fake` must be a torch.Tensor"),
        (x, x.long(), TypeError, "`fake` must be floating"),
        (x, x[:, :2], ValueError, "number of features D"),
        (x[0], x, ValueError, "`real` must have shape"),
        (x, x[:0], ValueError, "`fake` must hold at least"),
        (x[None], x, ValueError, "batch dimensions"),
    ):
        with pytest.raises(error, match=message):
            loss(real, fake)
