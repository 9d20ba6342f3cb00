"""Who is transported to whom: the pairs of an optimal plan, from which reasons follow."""

from typing import NamedTuple

from torch import Tensor

from otmetrics.inference.influence import transport_influence
from otmetrics.transport.exact.exact import Exact


class Pairs(NamedTuple):
    """An optimal plan between clouds (N, D) and (M, D) for squared costs, pair by pair.

    Attributes:
        real: The real sample (E,) of each pair.
        fake: The fake sample (E,).
        masses: What is transported (E,), of sum 1.
        moves: The displacements (E, D) in float64, from the real sample to the fake one.
        effects: By how much the cost grows per mass that is moved to a fake sample, (M,), of mean
            0: the centred potentials.
        error: Standard error of the cost over new samples.
    """

    real: Tensor
    fake: Tensor
    masses: Tensor
    moves: Tensor
    effects: Tensor
    error: float

    @property
    def costs(self) -> Tensor:
        """The share (E,) of each pair in the cost W_2^2."""
        return self.masses * self.moves.square().sum(1)

    @property
    def cost(self) -> float:
        """W_2^2."""
        return float(self.costs.sum())


def optimal_pairs(real: Tensor, fake: Tensor, solver: Exact = Exact()) -> Pairs:
    """The pairs of an optimal plan, and what each fake sample adds. Time of one exact solve."""
    result = solver.solve(real, fake)
    assert result.plan is not None
    assert result.potentials is not None
    plan = result.plan.coalesce()
    rows, columns = plan.indices()
    effects = result.potentials[1].double()
    moves = fake.double()[columns] - real.double()[rows]
    error = transport_influence(result).variance() ** 0.5
    return Pairs(rows, columns, plan.values().double(), moves, effects - effects.mean(), error)
