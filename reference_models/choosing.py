"""Which evaluation is the best: each is compared with those before it, on the same samples.

All evaluations see the same held-out samples, and generators the same noise, so that most of what
chance does to one score it does to another too: a difference is far surer than either of them.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from otmetrics.features.weights import is_plain
from otmetrics.inference.influence import Influence
from otmetrics.inference.intervals import Estimate, Subsamples

from .config import HIGHER_IS_BETTER

LEVEL = 0.95
"""Of intervals, and of each statement that one evaluation is better than another."""

_DIMENSIONS = {"real": 2, "fake": 2, "parts": 1, "drawn": 1}
_KINDS = ({"real", "fake"}, {"parts"})  # of effects; random directions may add those "drawn"


@dataclass(frozen=True)
class Contender:
    """What an evaluation knows of the score that chooses, for comparisons with other evaluations.

    Attributes:
        of: What it speaks of: only evaluations of one score on the same samples compare.
        centre: The score, in units of its cost, without bias where that is known.
        error: Its standard error that is independent of the samples.
        effects: Of the samples on it: "real" (1, N) and "fake" (1, M), or the score on "parts"
            (R,) of both; and what is "drawn" (Q,); see `Estimate`. All float64, on the CPU.
    """

    of: str
    centre: float
    error: float
    effects: dict[str, Tensor]

    def compares(self, other: "Contender") -> bool:
        """Whether both speak of one score on the same samples."""
        shapes, others = (
            {name: value.shape for name, value in one.effects.items()} for one in (self, other)
        )
        return self.of == other.of and shapes == others

    def minus(self, other: "Contender") -> Estimate:
        """The difference of both, whose effects are the differences of their effects."""
        effects = {name: value - other.effects[name] for name, value in self.effects.items()}
        spread = (
            Subsamples(effects["parts"], "both")
            if "parts" in effects
            else Influence(effects["real"], effects["fake"])
        )
        return Estimate(
            self.centre - other.centre,
            spread,
            "mean at these sizes",
            math.hypot(self.error, other.error),
            effects.get("drawn"),
        )

    def beats(self, other: "Contender", name: str) -> bool:
        """Whether the score of that name is better, one-sided at `LEVEL`."""
        # Both ends leave out as much as one side may.
        interval = self.minus(other).interval(2 * LEVEL - 1)
        return interval.low > 0 if name in HIGHER_IS_BETTER else interval.high < 0


def contender(estimate: Estimate, of: str) -> Contender | None:
    """What is kept of an estimate: small tensors; None where its error is no number."""
    if not (math.isfinite(estimate.centre) and math.isfinite(estimate.standard_error())):
        return None
    spread = estimate.spread
    if isinstance(spread, Influence):
        # The mean over directions: an eighth of the memory, for errors a tenth larger at most.
        effects = {"real": spread.real.mean(0)[None], "fake": spread.fake.mean(0)[None]}
    else:
        effects = {"parts": spread.values}
    if estimate.drawn is not None:
        effects["drawn"] = estimate.drawn
    # Copies: a column of a larger tensor would be saved with all of it.
    effects = {
        name: value.to("cpu", torch.float64, copy=True).contiguous()
        for name, value in effects.items()
    }
    return Contender(of, estimate.centre, estimate.error, effects)


def better(name: str, scores: dict[str, float], best: dict[str, float]) -> bool:
    """Whether a new score alone beats the best one so far, or is the first."""
    if name not in best:
        return True
    one, two = scores[name], best[name]
    # A score that is not finite is worse than any other, also where higher is better.
    if not (math.isfinite(one) and math.isfinite(two)):
        return math.isfinite(one)
    return one > two if name in HIGHER_IS_BETTER else one < two


class BestSet:
    """The evaluations that are not told apart from the best one.

    A new evaluation becomes the best where it is told to be better than the one that is kept.
    Where the two are not told apart the earlier one stays: of many equal ones the one with the
    luckiest samples would win, and training that gets worse in small steps would take the best
    along with it. Small improvements are not lost: each evaluation is compared with the one that is
    kept, so that they count as soon as they add up.

    Attributes:
        members: What is known of them, by step; the best one is among them. Empty where the score
            has no error.
    """

    def __init__(self) -> None:
        self.members: dict[int, Contender] = {}

    def choose(
        self,
        name: str,
        step: int,
        scores: dict[str, float],
        new: Contender | None,
        best: dict[str, float],
    ) -> bool:
        """Whether an evaluation is the best so far by the score of that name.

        It joins the set unless it is worse; those that it beats leave. Where nothing is known of
        the errors its score alone decides.
        """
        kept = self.members.get(int(best.get("step", -1)))
        if new is None or kept is None or not new.compares(kept):
            is_best = better(name, scores, best)
            if is_best:
                self.members = {} if new is None else {step: new}
            return is_best

        is_best = new.beats(kept, name)
        if is_best:
            old = self.members.items()
            self.members = {other: one for other, one in old if not new.beats(one, name)}
        if is_best or not kept.beats(new, name):
            self.members[step] = new
        return is_best

    def to_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        return {str(step): asdict(one) for step, one in self.members.items()}

    def load(self, stored: dict[str, Any], last: int) -> None:
        """Take over what a checkpoint holds up to a step; a ValueError if it has another form."""
        members = {}
        for name, record in stored.items():
            if not (name.isascii() and name.isdecimal() and len(name) < 17 and int(name) <= last):
                raise ValueError("best_set names no step")
            if not isinstance(record, dict) or not _is_contender(record):
                raise ValueError("best_set holds no evaluation")
            members[int(name)] = Contender(**record)
        self.members = members


def _is_contender(record: dict[Any, Any]) -> bool:
    """Whether a record of a file has the fields of a contender, and numbers to compare."""
    if record.keys() != {"of", "centre", "error", "effects"} or type(record["of"]) is not str:
        return False
    for name in ("centre", "error"):
        if type(record[name]) is not float or not math.isfinite(record[name]):
            return False
    effects = record["effects"]
    if not isinstance(effects, dict) or effects.keys() - {"drawn"} not in _KINDS:
        return False
    return all(_is_effect(name, value) for name, value in effects.items())


def _is_effect(name: str, value: object) -> bool:
    """Whether a value of a file is a tensor of effects of that name."""
    if not (is_plain(value) and isinstance(value, Tensor) and value.dtype == torch.float64):
        return False
    # Contiguous: an expanded tensor may be of any size, and a comparison would take its memory.
    if value.ndim != _DIMENSIONS[name] or not value.is_contiguous():
        return False
    # Of one number there is no variance.
    sizes = value.ndim == 1 or len(value) == 1, name == "drawn" or value.shape[-1] > 1
    return all(sizes) and bool(torch.isfinite(value).all())
