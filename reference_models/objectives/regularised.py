"""Smoothed transport: a loss whose gradient is known to the accuracy of its inner problem."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from otmetrics.checks import check_flag, check_share
from otmetrics.errors import Argument, OptionError
from otmetrics.functional import cost_matrix

from ..networks import Critic
from .base import Loss, at_least, halves, option, warmed_up
from .duals import Smoothing, solve_potentials
from .transport import LearnedCost, full, order_option
from .wasserstein import WARM_UP


class _Problem(NamedTuple):
    """One transport problem of the loss."""

    weight: float  # in the loss
    sides: tuple[int, int]  # which of the batches it compares
    network: str  # that of its potential of the first side
    moving: float  # root of the number of its sides that are fake


_CROSS = (_Problem(1.0, (0, 1), "phi", 1.0),)
_DEBIASED = (  # of X, X', Y, Y'
    _Problem(0.5, (0, 2), "phi", 1.0),
    _Problem(0.5, (1, 3), "phi", 1.0),
    _Problem(-0.5, (0, 1), "phi_real", 0.0),
    _Problem(-0.5, (2, 3), "phi_fake", 2**0.5),
)


class _Batch(NamedTuple):
    """The K problems of a batch."""

    samples: list[tuple[Tensor, Tensor]]  # of both sides of each
    x: Tensor  # points (K, N, D) in float64, the p-th powers of whose distances are the cost
    y: Tensor  # points (K, M, D)
    cost: Tensor  # (K, N, M) with its graph
    smoothing: Smoothing


@dataclass(frozen=True)
class ROTGAN(LearnedCost):
    """Regularised optimal transport, solved to a known accuracy at each step.

    L_G = d(x, y) = min_pi E_pi c + lambda I(pi) = max_(phi, psi) E phi + E psi - E F(V) with V =
    phi(x) + psi(y) - c(x, y), and lambda a share of the mean cost:

    "kl":  I = KL(pi | p x q),                   F = lambda (M - 1),    M = exp(V / lambda);
    "l2":  I = E_(p x q) (d pi / d(p x q))^2 / 2,  F = lambda M^2 / 2,  M = (V)_+ / lambda.

    M is the density of the plan, and by the envelope theorem the gradient is E_(p x q) M grad c,
    where M carries none. I is 1-strongly convex in L1, so that potentials with a dual gap g give a
    density within sqrt(2 g / lambda), and a gradient within L0 sqrt(2 g / lambda) of the true one,
    L0 the largest |grad c|: the log "gradient_bound", in the length of the gradient in all fake
    samples of the batch together (of a learned cost: in their normalised features). "dual_gap" is
    the value of a plan with the right marginals minus that of the potentials, at least the true
    gap; "plan_density" is the mean of M, one for a plan.

    With `self_terms` the loss is d(x, y) - d(x, x') / 2 - d(y, y') / 2 between independent batches,
    its cross term the mean of both pairs of batches, and the bound is the sum over its terms.

    Potentials are those of the batch, solved again in each step by the library's Sinkhorn or by
    Newton steps, or those of networks, which ascend the dual: phi and psi for "l2"; for "kl" phi
    alone, with psi(y) = -lambda log E_x exp((phi(x) - c) / lambda) on the batch, which keeps the
    mean of M at one and cannot overflow. The theory covers what the gap measures and not how far
    networks get; the gap is that to the optimum of the batch, which the batch overfits.

    A learned cost c = 1 - cos(v(x), v(y)) ascends the same loss, and therefore needs `self_terms`:
    without them its features would only move apart.

    The cost is (|x - y|^2 / D)^(p / 2) on samples of D numbers, or learned. lambda is by default
    0.1 of the mean cost with networks, else 0.01 of it on samples and 0.02 on features.

    Ours: every number. The authors' settings are not public; lambda, the schedule of the dual steps
    and the Newton solver are choices made here.

    References:
        Sanjabi, Ba, Razaviyayn, Lee, On the convergence and robustness of training GANs with
        regularized optimal transport, 2018, theorems 4.1 and 4.2; Genevay, Cuturi, Peyre, Bach,
        Stochastic optimization for large-scale optimal transport, 2016 (the semi-dual).
    """

    regulariser: str = option("kl", "Regulariser I of the plan.", ("kl", "l2"))
    inner: str = option("batch", "Potentials of each batch, or networks.", ("batch", "net"))
    cost: str = option("data", "Cost of the samples, or learned on features.", ("data", "cosine"))
    order: float = order_option()
    lam: float = option(
        0.0,
        "Regularisation lambda as a share of the mean cost; 0 for our choice.",
        check=lambda name, share: None if share == 0 else check_share(name, share),
    )
    self_terms: bool = option(
        False, "Subtract the terms of each distribution with itself.", check=check_flag
    )
    num_dual_steps: int = option(
        5, "Steps of the potentials' networks per generator step.", check=at_least(1)
    )
    warm_up: bool = option(True, WARM_UP, check=check_flag)
    num_generator_steps: int = option(
        3, "Generator steps for one step of a learned cost.", check=at_least(1)
    )
    tolerance: float = option(1e-4, "Largest L1 error of a marginal of a plan.", check=check_share)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.self_terms and self.regulariser != "kl":
            raise OptionError(
                Argument("self_terms"),
                " must be False for ",
                Argument("regulariser"),
                f' "{self.regulariser}": the Sinkhorn variant is one of "kl".',
            )
        if self.cost == "cosine" and not self.self_terms:
            raise OptionError(
                Argument("self_terms"),
                " must be True for ",
                Argument("cost"),
                ' "cosine": without them the features of a learned cost only move apart.',
            )

    @property
    def independent_halves(self) -> bool:  # type: ignore[override]
        """Whether there are self terms, which compare batches of one distribution."""
        return self.self_terms

    def networks(self, critic: Callable[[str], Critic]) -> nn.ModuleDict:
        """Networks of the potentials, and the features of a learned cost."""
        networks: dict[str, nn.Module] = {}
        if self.inner == "net":
            names = sorted({problem.network for problem in self._problems})
            names += ["psi"] if self.regulariser == "l2" else []
            networks.update({name: critic(self.normalization) for name in names})
        features = super().networks(critic)
        return nn.ModuleDict(networks | dict(features.items()))

    def critic_steps(self, step: int) -> int:
        """Those of the potentials, else one of a learned cost for so many generator steps."""
        if self.inner == "batch":
            return super().critic_steps(step)
        return warmed_up(step, self.num_dual_steps) if self.warm_up else self.num_dual_steps

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """Ascent: each potential in the dual of its own problem, a learned cost in the loss."""
        if self.inner == "batch":
            return super().critic_loss(networks, real, fake)
        batch = self._batch(networks, real, fake)
        cost = batch.cost.detach()
        dual, density = batch.smoothing.dual(*self._potentials(networks, batch), cost)
        value = -dual.sum()

        # Features ascend the loss through the cost alone, with the plan of the potentials fixed.
        if self.cost == "cosine":
            paid = (density.detach() * batch.cost).mean((1, 2))
            value = value - self._weighted_loss(paid - paid.detach())
        return Loss(value.to(full(real).dtype), {"plan_density": density.detach().mean()})

    def generator_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """L_G, with "dual_gap", "plan_density" and "gradient_bound"."""
        batch = self._batch(networks, real, fake)
        cost = batch.cost.detach()
        with torch.no_grad():
            dual, density = batch.smoothing.dual(*self._potentials(networks, batch), cost)
            # A plan of the networks may be far from its marginals: that of the batch bounds better.
            feasible = density
            if self.inner == "net":
                feasible = batch.smoothing.dual(*self._solve(batch), cost)[1]
            gap = (batch.smoothing.primal(feasible, cost) - dual).clamp_min(0)

            # |grad c| = p c^(1 - 1 / p) / D^(1 / 2), or |v(x) - v(y)| for features on the sphere.
            scale = 2**0.5 if self.cost == "cosine" else self.order / fake[0].numel() ** 0.5
            moving = gap.new_tensor([problem.moving for problem in self._problems])
            steepest = moving * scale * cost.amax((1, 2)) ** (1 - 1 / self.order)
            sizes = gap.new_tensor([abs(problem.weight) for problem in self._problems])
            logs = {
                "dual_gap": (sizes * gap).sum(),
                "plan_density": density.mean(),
                "gradient_bound": (sizes * steepest * (2 * gap / batch.smoothing.lam).sqrt()).sum(),
            }

        # The value of the dual, with the gradient of the cost under its plan: the envelope theorem.
        paid = (density * batch.cost).mean((1, 2))
        value = self._weighted_loss(dual + paid - paid.detach())
        return Loss(value.to(full(fake).dtype), logs)

    @property
    def _problems(self) -> tuple[_Problem, ...]:
        """The problems of the loss."""
        return _DEBIASED if self.self_terms else _CROSS

    def _weighted_loss(self, values: Tensor) -> Tensor:
        """The loss of its K values."""
        return (values * values.new_tensor([problem.weight for problem in self._problems])).sum()

    def _batch(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> _Batch:
        """The problems and their costs."""
        samples = (*halves(real), *halves(fake)) if self.self_terms else (real, fake)
        points = [self.points(networks, side) for side in samples]
        pairs = [problem.sides for problem in self._problems]
        x, y = (torch.stack([points[pair[k]] for pair in pairs]).double() for k in (0, 1))
        cost = cost_matrix(x, y, order=self.order)

        # One lambda for all problems, of the mean cost between real and fake.
        crosses = [k for k, problem in enumerate(self._problems) if problem.weight > 0]
        # Where all samples are equal, any lambda has the plan that costs nothing.
        mean = float(cost.detach()[crosses].mean())
        smoothing = Smoothing(self.regulariser, self._share * mean if mean > 0 else 1.0)
        return _Batch([(samples[i], samples[j]) for i, j in pairs], x, y, cost, smoothing)

    @property
    def _share(self) -> float:
        """The share that lambda is of the mean cost."""
        if self.lam:
            return self.lam
        if self.inner == "net":
            return 0.1
        return 0.02 if self.cost == "cosine" else 0.01

    def _potentials(self, networks: nn.ModuleDict, batch: _Batch) -> tuple[Tensor, Tensor]:
        """Potentials phi (K, N) and psi (K, M)."""
        if self.inner == "batch":
            return self._solve(batch)
        named = zip(self._problems, batch.samples, strict=True)
        phi = torch.stack([networks[problem.network](x) for problem, (x, _) in named]).double()
        # One problem: self terms are of "kl" alone.
        if self.regulariser == "l2":
            return phi, networks["psi"](batch.samples[0][1]).double()[None]

        # The best psi for phi on the batch; exp((phi - c) / lambda) itself could overflow.
        lam = batch.smoothing.lam
        exponents = (phi[:, :, None] - batch.cost.detach()) / lam
        return phi, -lam * (exponents.logsumexp(1) - math.log(phi.shape[1]))

    def _solve(self, batch: _Batch) -> tuple[Tensor, Tensor]:
        """Those of the batch itself."""
        return solve_potentials(
            batch.smoothing, batch.x, batch.y, batch.cost, self.tolerance, self.order
        )
