"""Early signs that a run goes wrong, and the end of one that has."""

import math
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from otmetrics.errors import DivergedError

from .config import HIGHER_IS_BETTER
from .saving import LAST, is_finite

_COLLAPSED, _SCATTERED = 0.2, 5.0  # spread of fake samples in units of that of real ones
_WORSE = 3.0  # a score in units of its best value
_FEWER = 0.5  # modes or recall in units of their best value
_UNEQUAL = 1.0  # largest relative misfit of a code's share of the noise
_EARLY = 1000  # steps that a new generator has to spread out


class Health:
    """Watches losses, weights and scores.

    Args:
        out: Folder of the run, for messages.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._finite: Tensor | None = None
        self._best: dict[str, float] = {}
        self._said: set[str] = set()
        self._spread_out = False

    def note(self, logs: dict[str, Tensor]) -> None:
        """Remember whether all numbers of a step are finite, without waiting for the device.

        Args:
            logs: Scalars.
        """
        finite = torch.isfinite(torch.stack([value.float() for value in logs.values()])).all()
        self._finite = finite if self._finite is None else self._finite & finite

    def check_step(self, step: int, logs: dict[str, Tensor]) -> tuple[dict[str, float], list[str]]:
        """Numbers of a step, and what they warn of.

        Args:
            step: The step.
            logs: Scalars.

        Returns:
            The numbers, and a line for each warning that is new.

        Raises:
            DivergedError: If a number since the start of the run was not finite.
        """
        values = {name: float(value) for name, value in logs.items()}
        if self._finite is not None and not bool(self._finite):
            wrong = [name for name, value in values.items() if not math.isfinite(value)]
            self.stop(step, " and ".join(wrong) or "a loss since the last row of the log")
        if "misfit" in values:
            return values, self._of_transport(values)
        return values, self._of_spread(step, values.get("spread", 1.0))

    def check_weights(self, step: int, state: dict[str, Any]) -> None:
        """Raise before a state that is not finite replaces one that is.

        Args:
            step: The step.
            state: What is to be saved.

        Raises:
            DivergedError: If a number in it is not finite.
        """
        if not is_finite(state):
            self.stop(step, "a weight")

    def judge_scores(self, scores: dict[str, float]) -> list[str]:
        """What new scores warn of.

        Args:
            scores: Scores by name.

        Returns:
            A line for each warning.
        """
        lines = []
        for name in ("sliced_wasserstein", "frechet_distance", "modes", "recall"):
            if name not in scores:
                continue
            value, best = scores[name], self._best.get(name, scores[name])
            if name in HIGHER_IS_BETTER:
                bad = value < _FEWER * best
                text = f"{name} has fallen from {best:.3g} to {value:.3g}: mode collapse?"
                self._best[name] = max(best, value)
            else:
                bad = value > _WORSE * best > 0
                text = f"{name} has risen to {value / max(best, 1e-300):.1f} times its best value"
                self._best[name] = min(best, value)
            lines += self._new(name, text if bad else "")
        return lines

    def remember(self, rows: list[dict[str, Any]]) -> None:
        """Take in the log of a run that goes on, so that warnings know its best scores.

        Args:
            rows: Rows of its log up to its checkpoint.
        """
        for row in rows:
            prefix = "score/"
            scores = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
            self.judge_scores(scores)
            if "spread" in row:
                self._of_spread(row["step"], row["spread"])

    def _of_transport(self, values: dict[str, float]) -> list[str]:
        """A warning where cells are far from equal shares of the noise."""
        misfit, empty = values["misfit"], int(values["empty_cells"])
        bad = empty or misfit > max(_UNEQUAL, values["misfit_noise"])
        text = (
            f"shares of codes in the noise are off by up to {misfit:.0%}, {empty} have none: the "
            "transport needs a higher `max_rounds`"
        )
        return self._new("transport", text if bad else "")

    def _of_spread(self, step: int, spread: float) -> list[str]:
        """A warning where fake samples spread much less or much more than real ones."""
        text = ""
        if spread > _SCATTERED:
            text = f"fake samples spread {spread:.2g} times as far as real ones: diverging?"
        elif spread >= _COLLAPSED:
            self._spread_out = True
        elif self._spread_out or step >= _EARLY:
            text = f"fake samples spread {spread:.2g} times as far as real ones: collapse?"
        return self._new("spread", text)

    def _new(self, name: str, text: str) -> list[str]:
        """A line that was not said since all was well."""
        fresh = bool(text) and name not in self._said
        self._said = self._said | {name} if text else self._said - {name}
        return [text] if fresh else []

    def stop(self, step: int, what: str, cause: Exception | None = None) -> NoReturn:
        """End the run.

        Args:
            step: The step.
            what: What is not finite.
            cause: The error that said so.

        Raises:
            DivergedError: In any case.
        """
        kept = self.out / LAST
        rest = f"`{kept}` is from before that" if kept.exists() else "no checkpoint was written yet"
        raise DivergedError(
            f"{what} is not finite at step {step}: {rest}. Lower the learning rates, or take "
            "another seed."
        ) from cause
