"""What the solvers share: their fields are the options, `solve` gives the whole result."""

from typing import Any

from torch import Tensor

from otmetrics.unknown_options import ToldOptions


class Solver(ToldOptions):
    """Base of `Sliced`, `MaxSliced`, `Exact`, `Sinkhorn` and `SemiDiscrete`.

    A solver is a frozen dataclass. Its fields are the only list of its options, with their
    defaults, their rules in `__post_init__` and their documentation in the class.
    """

    def solve(self, *clouds: Any, **call: Any) -> Any:
        """The whole result; what belongs to one call, such as weights, are keywords here."""
        raise NotImplementedError

    def __call__(self, *clouds: Any, **call: Any) -> Tensor:
        """`value` of `solve` with the same arguments, differentiable as that is."""
        value: Tensor = self.solve(*clouds, **call).value
        return value
