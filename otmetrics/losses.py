"""Losses for training: the solvers as modules, so that loss and evaluator are one objective.

A loss returns the unrooted cost of its solver, which is smooth where the distance is zero. In
`eval()` mode it is the number that `solver.solve` gives, and that a metric with this solver gives.
"""

from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from otmetrics.checks import as_tensor, check_at_least, check_flag
from otmetrics.errors import unconverged_untold
from otmetrics.hashing import hash_counters
from otmetrics.transport.exact.exact import Exact
from otmetrics.transport.result import TransportResult
from otmetrics.transport.sinkhorn.sinkhorn import Sinkhorn
from otmetrics.transport.sliced.sliced import Sliced
from otmetrics.unknown_options import ToldOptions

__all__ = ["ExactWassersteinLoss", "SinkhornLoss", "SlicedWassersteinLoss"]

_MOST_CALLS = 4096  # that a backward pass can run again


class _TransportLoss(ToldOptions, nn.Module):
    """What the three losses share: features, the mean over problems, and when to warn.

    Attributes:
        num_unconverged: Calls whose solver stopped before its tolerance; the first one warns.
    """

    _kind: type[Sliced | Exact | Sinkhorn]
    solver: Sliced | Exact | Sinkhorn

    def __init__(
        self, solver: Sliced | Exact | Sinkhorn, extractor: nn.Module | None, root: bool
    ) -> None:
        super().__init__()
        name = self._kind.__name__
        if not isinstance(solver, self._kind):
            got = repr(solver) if isinstance(solver, type) else type(solver).__name__
            raise TypeError(
                f"`solver` must be an otmetrics.{name}, got {got}: give its options as "
                f"{name}(order=2.0)."
            )
        if extractor is not None and not isinstance(extractor, nn.Module):
            raise TypeError(
                "`extractor` must be a torch.nn.Module or None, got "
                f"{type(extractor).__name__}: load named ones with otmetrics.load_extractor."
            )
        check_flag("root", root)
        self.solver = solver
        self.extractor = extractor
        self.root = root
        self.num_unconverged = 0

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the loss between two sides, differentiable in both.

        Args:
            real: Features (N, D), or (B, N, D) for the mean over B problems; with an extractor,
                what it maps to features (N, D).
            fake: The same with M samples; M may differ from N.

        Returns:
            Scalar in the dtype of the features, at least float32: in units of the features to the
            power p, or with `root` in units of the features.
        """
        real, fake = self._features("real", real), self._features("fake", fake)
        with ExitStack() as stack:
            # Solvers choose their own precision; only the extractor follows autocast.
            stack.enter_context(torch.autocast(real.device.type, enabled=False))
            if self.num_unconverged:  # messages tell residuals: python would show each of them
                stack.enter_context(unconverged_untold())
            result = self._solve(real, fake)

        if not _is_rerun():
            self.num_unconverged += not result.converged
        return (result.value if self.root else result.cost).mean()

    def extra_repr(self) -> str:
        """Solver and options, for `repr`."""
        return f"{self.solver}, root={self.root}"

    def _features(self, name: str, batch: Tensor) -> Tensor:
        """Features of a batch; the solver checks the rest."""
        # What an extractor takes is its own affair; only an array becomes a tensor first.
        if self.extractor is None or isinstance(batch, np.ndarray):
            batch = as_tensor(name, batch)
        if self.extractor is None:
            return batch

        features = self.extractor(batch)
        got = type(features).__name__
        if isinstance(features, Tensor):
            if features.ndim == 2 and features.is_floating_point():
                return features
            got = f"{tuple(features.shape)} of {features.dtype}"
        raise ValueError(
            f"`extractor` must return floating features (N, D), got {got} for `{name}`; pool and "
            "flatten inside it, for example with a final torch.nn.Flatten()."
        )

    def _solve(self, real: Tensor, fake: Tensor) -> TransportResult:
        """What the solver says of features."""
        return self.solver.solve(real, fake)


@dataclass
class _Call:
    """A call in training mode, by which a backward pass that runs it again can find it.

    A rerun may differ from its call in the last digits, so that no hash of the inputs would do.
    """

    step: int
    shapes: tuple[torch.Size, torch.Size]
    numbers: tuple[Tensor, Tensor]  # sum and norm of each side; on its device, nobody waits for it
    last_pass: int = -1  # the backward pass that last ran it again

    def distance(self, other: "_Call") -> float:
        """How much the inputs differ, 0 if by nothing."""
        if self.shapes != other.shapes:
            return torch.inf
        pairs = zip(self.numbers, other.numbers, strict=True)
        return sum(float((one - two).abs().sum()) for one, two in pairs)


def _sum_and_norm(cloud: Tensor) -> Tensor:
    values = cloud.detach()
    # Integers have no norm here; that they are no features, the solver says.
    if not values.is_floating_point():
        values = values.double()
    norm = torch.linalg.vector_norm(values, dtype=torch.float64)
    return torch.stack([values.sum(dtype=torch.float64), norm])


def _is_rerun() -> bool:
    """Whether autograd is running a backward pass: new calls do not come from there, reruns do."""
    return bool(torch._C._current_graph_task_id() != -1)


class SlicedWassersteinLoss(_TransportLoss):
    """Sliced Wasserstein cost SW_p^p = E_theta W_p^p(theta . real, theta . fake), for training.

    Each call in training mode takes new directions, so that training follows the mean over all
    directions and not over those of one draw. The k-th call of modules of one seed takes the same
    ones: on every rank, every device, and after resuming from a `state_dict`, which holds k; one
    of before the loss was added to a module starts it at 0. Time O(L (N + M) (D + log(N + M))),
    memory O((N + M) D), both also with gradient.

    A call within a backward pass is the rerun of an earlier one, as `torch.utils.checkpoint` makes
    them: it takes the directions of the call whose inputs it repeats, and does not count. For that
    the sizes, sums and norms of the inputs of the last 4096 calls in training mode are kept.

    Between batches of one distribution the loss is positive on average, and falls where the
    generator shrinks them. `Sliced(debiased=True)`, for p = 2, has neither fault, but only for
    samples drawn again at each step: points that are themselves trained, it drives apart without
    end.

    Args:
        solver: The solver with its options. In `eval()` mode its directions are taken.
        extractor: Maps `real` and `fake` to features (N, D); None for features. It is used as it
            is: gradients flow through it to the inputs, and to its parameters that require them.
            Where only the inputs are trained, give it `requires_grad_(False)` and `eval()`, which
            `train()` of the loss undoes; the extractors of `load_extractor`, and your own network
            as `FrozenExtractor(network, None, "name")`, stay frozen.
        root: Whether to return SW_p, whose slope does not fall towards zero, instead of SW_p^p.
        resample: Whether to take new directions in training mode; False takes the solver's.

    Attributes:
        step: Calls so far in training mode with `resample`, a persistent buffer.

    Raises:
        TypeError: If `solver` is not a `Sliced`, or `extractor` not a module.
        ValueError: If a flag is not True or False.

    References:
        Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, 2015; Deshpande,
        Zhang, Schwing, Generative modeling using the sliced Wasserstein distance, 2018.

    Example:
        >>> loss = SlicedWassersteinLoss(Sliced(num_projections=64))
        >>> x = torch.zeros(5, 3, dtype=torch.float64)
        >>> round(loss(x, x + 2.0).item(), 9)  # |shift|^2 / D
        4.0
    """

    _kind = Sliced
    solver: Sliced
    step: Tensor

    def __init__(
        self,
        solver: Sliced = Sliced(),
        extractor: nn.Module | None = None,
        root: bool = False,
        resample: bool = True,
    ) -> None:
        super().__init__(solver, extractor, root)
        check_flag("resample", resample)
        self.resample = resample
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._calls: deque[_Call] = deque(maxlen=_MOST_CALLS)

    def step_solver(self, step: int) -> Sliced:
        """The solver of one call in training mode, to repeat what it gave.

        Args:
            step: The number of calls before it.

        Returns:
            The solver with a seed that follows from its own seed and the step.

        Raises:
            ValueError: If `step` is not an integer >= 0.
        """
        check_at_least("step", step, 0)
        # Hashed, as a sum of both would give the step after this one to the loss of the next seed.
        return replace(self.solver, seed=int(hash_counters(torch.tensor(step), self.solver.seed)))

    def extra_repr(self) -> str:
        """Solver and options, for `repr`."""
        return f"{super().extra_repr()}, resample={self.resample}"

    def _solve(self, real: Tensor, fake: Tensor) -> TransportResult:
        """Along new directions in training."""
        if not (self.training and self.resample):
            return self.solver.solve(real, fake)

        shapes, numbers = (real.shape, fake.shape), (_sum_and_norm(real), _sum_and_norm(fake))
        call = _Call(int(self.step), shapes, numbers)
        # A rerun whose call is forgotten or unknown is a call of its own.
        first = self._find_first(call) if _is_rerun() else None
        result = self.step_solver((first or call).step).solve(real, fake)
        if first is None:  # counted at the end: a call that raises is no step
            self._calls.append(call)
            self.step += 1
        return result

    def _find_first(self, rerun: _Call) -> _Call | None:
        """The call that a backward pass runs again: that of the closest inputs of these shapes.

        Several calls may have had equal inputs. Of these the last one is run again first, and each
        of them once in a backward pass.
        """
        distances = [call.distance(rerun) for call in self._calls]
        least = min(distances, default=torch.inf)
        if not least < torch.inf:  # no call of these shapes, or inputs that are NaN
            return None
        same = [call for call, d in zip(self._calls, distances, strict=True) if d == least]

        # Under `retain_graph` a second pass runs the same calls again.
        this_pass = torch._C._current_graph_task_id()
        waiting = [call for call in same if call.last_pass != this_pass]
        first = (waiting or same)[-1]
        first.last_pass = this_pass
        return first

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """With a step of 0 from a checkpoint that was saved without this loss."""
        state_dict.setdefault(f"{prefix}step", torch.zeros_like(self.step))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class SinkhornLoss(_TransportLoss):
    """Debiased Sinkhorn divergence S_epsilon, for training.

    S = OT(real, fake) - OT(real, real) / 2 - OT(fake, fake) / 2 with the entropic cost OT of
    |x - y|^p; see `Sinkhorn`. Its gradient is that of the solved problem, by the envelope theorem:
    no iteration is stored. Time O(N M D) once and O(N M) per iteration, memory O(N M), or less by
    the `memory_limit` of the solver. Bounds are not computed.

    A relative epsilon follows the mean cost of each batch, as a constant for the gradient; take
    `Sinkhorn(relative=False)` for an objective that stays the same from step to step.

    Args:
        solver: The solver with its options.
        extractor: Maps `real` and `fake` to features (N, D), as for `SlicedWassersteinLoss`.
        root: Whether to return S^(1/p) instead of S.
        warm_start: Whether each call in training mode starts from the potentials of the last one
            where these are better. For the same points in the same order, moved a little: up to
            half of the iterations less then, and nothing for new samples at each step. It moves the
            loss within the `tolerance` of the solver, so that it is off by default. Nothing of it
            is saved.

    Raises:
        TypeError: If `solver` is not a `Sinkhorn`, or `extractor` not a module.
        ValueError: If a flag is not True or False.

    References:
        Genevay, Peyre, Cuturi, Learning generative models with Sinkhorn divergences, 2018; Feydy et
        al., Interpolating between optimal transport and MMD using Sinkhorn divergences, 2019.

    Example:
        >>> loss = SinkhornLoss(Sinkhorn(epsilon=0.1))
        >>> x = torch.zeros(5, 3, dtype=torch.float64)
        >>> round(loss(x, x + 2.0).item(), 9)  # |shift|^2
        12.0
    """

    _kind = Sinkhorn
    solver: Sinkhorn

    def __init__(
        self,
        solver: Sinkhorn = Sinkhorn(),
        extractor: nn.Module | None = None,
        root: bool = False,
        warm_start: bool = False,
    ) -> None:
        super().__init__(solver, extractor, root)
        check_flag("warm_start", warm_start)
        self.warm_start = warm_start
        self._start: tuple[Tensor, Tensor] | None = None

    def extra_repr(self) -> str:
        """Solver and options, for `repr`."""
        return f"{super().extra_repr()}, warm_start={self.warm_start}"

    def _solve(self, real: Tensor, fake: Tensor) -> TransportResult:
        """Without bounds, in training from where the last step ended."""
        # `solve_from` computes no bounds: a loss does not return them.
        if not (self.training and self.warm_start):
            return self.solver.solve_from(real, fake)[0]
        start = self._start if _fits(self._start, real, fake) else None
        result, self._start = self.solver.solve_from(real, fake, start)
        return result


def _fits(start: tuple[Tensor, Tensor] | None, real: Tensor, fake: Tensor) -> bool:
    """Whether potentials (B, N) and (B, M) belong to clouds of these shapes on this device."""
    if start is None:
        return False
    problems = real.shape[0] if real.ndim == 3 else 1
    return all(
        f.device == cloud.device and f.shape == (problems, cloud.shape[-2])
        for f, cloud in zip(start, (real, fake), strict=True)
    )


class ExactWassersteinLoss(_TransportLoss):
    """Exact Wasserstein cost W_p^p = min <P, |x - y|^p>, for training.

    Its gradient is that of the cost under the optimal plan, by the envelope theorem. The plan is
    found on the CPU; time and memory are those of `Exact`, in training about those of the other
    losses up to 1000 samples per side and more beyond. The mean over batches exceeds the cost
    between the distributions.

    Args:
        solver: The solver with its options.
        extractor: Maps `real` and `fake` to features (N, D), as for `SlicedWassersteinLoss`.
        root: Whether to return W_p instead of W_p^p.

    Raises:
        TypeError: If `solver` is not an `Exact`, or `extractor` not a module.
        ValueError: If `root` is not True or False.

    References:
        Fatras et al., Learning with minibatch Wasserstein: asymptotic and gradient properties,
        2020.

    Example:
        >>> ExactWassersteinLoss()(torch.zeros(3, 2), torch.ones(5, 2))
        tensor(2.)
    """

    _kind = Exact
    solver: Exact

    def __init__(
        self,
        solver: Exact = Exact(),
        extractor: nn.Module | None = None,
        root: bool = False,
    ) -> None:
        super().__init__(solver, extractor, root)
