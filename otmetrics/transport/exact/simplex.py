"""POT's network simplex, dense and sparse: compiled, on the CPU, interruptible."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from otmetrics.transport.exact.certificate import Units

_T = TypeVar("_T")
_OPTIMAL = 1  # POT's code
_MAX_PIVOTS = 10**9  # POT's default of 1e5 stops large problems on an infeasible plan


def dense_simplex(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Optimal plan (N, M) and potentials (M,) of a small problem.

    Costs (N, M) have to be of order one, since the simplex has absolute tolerances, weights (N,)
    and (M,) positive and of one sum.
    """
    import ot  # takes a second, and nothing else here needs it

    try:
        plan, log = _interruptible(
            lambda: ot.emd(a, b * (a.sum() / b.sum()), cost, _MAX_PIVOTS, log=True)
        )
    except UserWarning as warning:  # what it does not vouch for, where warnings are errors
        log = {"warning": str(warning)}
    _refuse(log["warning"])
    return plan, log["v"]


def sparse_simplex(
    rows: Tensor,
    columns: Tensor,
    costs: Tensor,
    weights: Units,
    warm: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Optimal flows (K,) in the units of the weights, and potentials (N,) and (M,).

    The K pairs, each once and sorted by row, then by column, must admit a plan. Potentials `warm`
    near the optimal ones save most of the time.
    """
    # The public ot.emd ignores initial potentials where the cost is sparse.
    from ot.lp.emd_wrap import emd_c_sparse

    # Costs of order one, as the simplex compares them with absolute tolerances.
    scale = float(costs.abs().mean()) or 1.0
    a, b = weights.real.cpu().numpy(), weights.fake.cpu().numpy()
    i, j = (ids.cpu().numpy().astype(np.uint64) for ids in (rows, columns))
    scaled = (costs / scale).cpu().numpy()

    def is_plan(solution: tuple) -> bool:
        sources, targets, flows = solution[:3]
        moved = np.bincount(sources.astype(np.int64), flows, len(a))
        received = np.bincount(targets.astype(np.int64), flows, len(b))
        # Flows are whole numbers below 2^53, so that their sums are exact.
        return solution[6] == _OPTIMAL and (moved == a).all() and (received == b).all()

    def solve(*potentials: np.ndarray) -> tuple:
        return _interruptible(lambda: emd_c_sparse(a, b, i, j, scaled, _MAX_PIVOTS, *potentials))

    attempts = [] if warm is None else [tuple((one / scale).cpu().numpy() for one in warm)]
    for potentials in (*attempts, ()):  # from potentials POT now and then ends without a plan
        solution = solve(*potentials)
        if is_plan(solution):
            break
    else:
        found = solution[6] == _OPTIMAL
        _refuse("its plan misses the weights" if found else f"POT's code is {solution[6]}")

    sources, targets, flows, _, u, v, _ = solution
    moved = torch.zeros(len(costs), dtype=torch.float64)
    # Flows come with their points, in an order of their own.
    places = np.searchsorted(i * len(b) + j, sources * len(b) + targets)
    moved[torch.from_numpy(places)] = torch.from_numpy(flows)
    device = costs.device
    u, v = (torch.from_numpy(one).to(device) * scale for one in (u, v))
    shift = v.mean()  # potentials from warm ones come with an offset of thousands
    return moved.to(device), u + shift, v - shift


def _refuse(warning: str | None) -> None:
    """Raise where POT warns of its answer: there is no number without its word."""
    if warning is not None:
        raise RuntimeError(f"The network simplex did not finish: {warning}")


def _interruptible(work: Callable[[], _T]) -> _T:
    """Do compiled work in a thread of its own, so that Ctrl-C need not wait for its end."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result()
