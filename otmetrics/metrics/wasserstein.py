"""Wasserstein distances in feature space: sliced, max-sliced, exact, Sinkhorn."""

from dataclasses import fields
from difflib import get_close_matches
from typing import Any, Protocol

from torch import Tensor, nn

from otmetrics.checks import check_flag, check_seed
from otmetrics.features import DEFAULT_EXTRACTOR
from otmetrics.inference.estimates import sliced_estimate, transport_estimate
from otmetrics.inference.intervals import Estimate, Over
from otmetrics.inference.two_sample import Statistics
from otmetrics.metrics.base import FeatureMetric, Tested
from otmetrics.summaries.stores import QuantileSketch, samples
from otmetrics.transport.exact.exact import Exact
from otmetrics.transport.result import TransportResult
from otmetrics.transport.semidiscrete.semidiscrete import SemiDiscrete
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
from otmetrics.transport.sliced.directions import block_size
from otmetrics.transport.sliced.max_sliced import MaxSliced, MaxSlicedResult
from otmetrics.transport.sliced.sketch import sketched_result
from otmetrics.transport.sliced.sliced import Sliced, far_centre


class Solver(Protocol):
    """What `Sliced`, `MaxSliced`, `Exact` and `Sinkhorn` are."""

    def solve(self, real: Tensor, fake: Tensor) -> TransportResult | MaxSlicedResult:
        """Transport real (N, D) onto fake (M, D)."""


class WassersteinFeatureDistance(FeatureMetric):
    """Wasserstein distance between real and fake samples in feature space.

    `compute` returns the distance in units of the features, >= 0, lower is better; `result` also
    returns what else the solver knows: standard error or bounds, plan, potentials, convergence.
    Distances between finite samples are never zero: compare them at one number of samples, and with
    that between two halves of the real ones.

    Memory is that of all features, 5 kB a sample by default; with `max_samples`, of twice as many;
    with `streaming=True` 34 MB whatever N, and a batch. Time is that of the solver, all in
    `compute`.

    Args:
        feature: `efficientnet_lite0` (on this machine already), `inception`, `timm:MODEL`,
            `pixels` or `module:package.name:attr`, for images (N, 3, H, W) of any size; a
            `torch.nn.Module` of your own, of which a frozen copy is taken, for anything that it
            maps to (N, D); or None for features (N, D) of any kind. Metrics of one extractor share
            it, and extract a batch once as long as all get it before two others: in a
            `MetricCollection`, or in a loop over metrics that gives each a real and a fake batch.
        method: "sliced" (1024 directions), "exact", "sinkhorn", or a solver with its options, as
            `Sliced(order=1.0, num_projections=4096)` or `MaxSliced()`.
        normalize: False for uint8 images, True for floating ones in [0, 1], which are rounded to
            the 256 levels of an image file.
        reset_real_features: Whether `reset` forgets the real samples too; False keeps them, so that
            they are extracted once: give them once then, not before every round.
        max_samples: Most samples per side to keep: a uniform random subset, the same whatever the
            batches. None keeps all.
        seed: Of that subset, and of the directions of "sliced".
        streaming: Keep a histogram along each direction instead of the samples. Only for sliced
            distances, as the plain mean over directions without control variates, so that its
            Monte-Carlo error is larger. `result` bounds the error of the histograms rigorously; at
            100 000 samples it is below 1 %, unless samples lie hundreds of times farther out than
            the distance.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: If an option breaks its rule.

    Example:
        >>> metric = WassersteinFeatureDistance(feature=None, method="exact")
        >>> metric.update(torch.zeros(3, 2), real=True)
        >>> metric.update(torch.ones(5, 2), real=False)
        >>> metric.compute() ** 2
        tensor(2.0000)
    """

    _option_names = ("max_samples", "seed", "streaming")
    _to_keep_samples = (
        "make the metric with streaming=False, and with max_samples=K to keep K samples per side"
    )

    def __init__(
        self,
        feature: str | nn.Module | None = DEFAULT_EXTRACTOR,
        method: str | Solver = "sliced",
        normalize: bool = False,
        reset_real_features: bool = True,
        max_samples: int | None = None,
        seed: int = 0,
        streaming: bool = False,
        **kwargs: Any,
    ) -> None:
        # Before torchmetrics refuses it, which knows nothing of solvers.
        _check_no_solver_options(kwargs)
        check_seed(seed)
        check_flag("streaming", streaming)
        solver = _solver(method, seed)
        store = _sketch(solver, max_samples) if streaming else samples(max_samples, seed)
        super().__init__(feature, store, normalize, reset_real_features, **kwargs)
        self.solver = solver
        self.max_samples = max_samples
        self.seed = seed
        self.streaming = streaming
        self._result: TransportResult | None = None

    def result(self) -> TransportResult:
        """All that the solver knows; solves at most once for this and `compute` together.

        Returns:
            The result, whose `value` is what `compute` returns. With `streaming` its bounds hold
            the cost of the unsketched samples along the same directions.

        Raises:
            ValueError: As `compute`.
        """
        # Either may be forgotten alone: by torchmetrics, or in a move to another device.
        if self._computed is None or self._result is None:
            self._computed = None
            self.compute()
        assert self._result is not None  # compute solved, or raised
        return self._result

    def reset(self) -> None:
        """Forget all samples; the real ones are kept with `reset_real_features=False`."""
        super().reset()
        self._result = None

    def _value(self, real: Any, fake: Any) -> Tensor:
        """The distance; its result is kept next to the value that torchmetrics caches."""
        if self.streaming and isinstance(self.solver, Sliced):
            # The blocks that its directions were drawn in, for the standard error.
            solver, dimension = self.solver, int(self.layout[0])
            block = block_size(dimension, solver.num_projections, orthogonal=solver.orthogonal)
            result = sketched_result(real, fake, solver.order, block=block)
        else:
            found = self.solver.solve(real, fake)
            result = found.result if isinstance(found, MaxSlicedResult) else found

        # A sketch is summed in float64 whatever the features were.
        self._result = result._replace(value=self._round_score(result.value))
        return self._result.value

    def _estimates(self, real: Tensor, fake: Tensor, over: Over) -> dict[str, Estimate | None]:
        """Of the cost, rooted as the value is."""
        (name,), *_ = self._tested()
        solver, result = self.solver, self.result()
        if not isinstance(solver, Sliced):
            assert isinstance(solver, Exact | Sinkhorn)  # what can be tested
            return {name: transport_estimate(result, solver.order, rooted=True)}

        if (centre := far_centre(real, fake)) is not None:
            real, fake = real - centre, fake - centre
        # Reports do not root a debiased cost; this metric does.
        estimate = sliced_estimate(real, fake, solver, result)
        return {name: estimate._replace(order=solver.order)}

    def _tested(self) -> Tested:
        if isinstance(self.solver, Sliced):
            return Tested(("sliced_wasserstein",), Statistics(sliced=self.solver))
        if isinstance(self.solver, Exact):
            return Tested(("wasserstein",), Statistics(exact=self.solver))
        if isinstance(self.solver, Sinkhorn):
            return Tested(("sinkhorn_divergence",), Statistics(sinkhorn=self.solver))
        raise ValueError(
            '`method` must be "sliced", "exact", "sinkhorn" or one of their solvers for intervals '
            f"and tests, got {self.solver!r}: make a metric with one of these."
        )

    def _options(self) -> dict[str, Any]:
        """The solver under the name of its argument, and what is kept of the samples."""
        return {"method": self.solver, **super()._options()}

    def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Follow a move; the result stays behind."""
        self._result = None
        return super()._apply(*args, **kwargs)


def _solver(method: str | Solver, seed: int) -> Solver:
    """The solver of a name, or the one given."""
    named: dict[str, Solver] = {
        "sliced": Sliced(seed=seed),
        "exact": Exact(),
        "sinkhorn": Sinkhorn(),
    }
    if isinstance(method, str) and method in named:
        return named[method]

    # That of semi-discrete transport takes one cloud.
    wrong = str | type | SemiDiscrete
    if isinstance(method, wrong) or not callable(getattr(method, "solve", None)):
        # A class, such as `Sinkhorn` without its parentheses, is told by its name.
        name = method if isinstance(method, str) else getattr(method, "__name__", "")
        close = get_close_matches(name.lower(), named, 1)
        meant = f": did you mean {close[0]!r}?" if close else "."
        raise ValueError(
            f"`method` must be {', '.join(map(repr, named))} or a solver such as "
            f"otmetrics.Sliced(num_projections=256), got {method!r}{meant}"
        )
    return method


def _sketch(solver: Solver, max_samples: int | None) -> QuantileSketch:
    """The store of a stream, whose directions are the solver's."""
    if not isinstance(solver, Sliced):
        raise ValueError(f'`streaming` must be False unless `method` is "sliced", got {solver!r}.')
    if max_samples is not None:
        raise ValueError(
            f"`max_samples` must be None with streaming, which keeps none, got {max_samples}."
        )
    if solver.debiased or solver.tolerance is not None:
        raise ValueError(
            "`method` must have neither `debiased` nor `tolerance` with streaming, whose "
            f"directions are fixed and samples are not kept, got {solver!r}."
        )
    return QuantileSketch(solver.num_projections, solver.seed, solver.orthogonal)


def _check_no_solver_options(options: dict[str, Any]) -> None:
    """Raise where an option of a solver was given to the metric."""
    for solver in (Sliced, Exact, Sinkhorn, MaxSliced):
        for name in options.keys() & {field.name for field in fields(solver)}:
            raise ValueError(
                f"`{name}` is an option of the solver: give "
                f"method=otmetrics.{solver.__name__}({name}={options[name]!r})."
            )
