"""Early signs that a run goes wrong, and the end of one that has."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otmetrics.errors import DivergedError

from .checkpoint import LAST, is_finite

_COLLAPSED, _SCATTERED = 0.2, 5.0  # spread of fake samples in units of that of real ones
_WORSE = 3.0  # a score in units of its best value
_FEWER = 0.5  # modes or recall in units of their best value


class Health:
    """Watches losses, weights and scores.

    Args:
        out: Folder of the run, for messages.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._finite: Tensor | None = None
        self._best: dict[str, float] = {}
        self._spread_said = ""

    def note(self, logs: dict[str, Tensor]) -> None:
        """Remember whether all numbers of a step are finite, without waiting for the device.

        Args:
            logs: Scalars.
        """
        finite = torch.isfinite(torch.stack([value.float() for value in logs.values()])).all()
        self._finite = finite if self._finite is None else self._finite & finite

    def checked(self, step: int, logs: dict[str, Tensor]) -> tuple[dict[str, float], list[str]]:
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
            wrong = [
                name for name, value in values.items() if not torch.isfinite(torch.tensor(value))
            ]
            self._stop(step, " and ".join(wrong) or "a loss since the last row of the log")
        return values, self._of_spread(values.get("spread", 1.0))

    def check_weights(self, step: int, state: dict[str, Any]) -> None:
        """Raise before a state that is not finite replaces one that is.

        Args:
            step: The step.
            state: What is to be saved.

        Raises:
            DivergedError: If a number in it is not finite.
        """
        if not is_finite(state):
            self._stop(step, "a weight")

    def judged(self, scores: dict[str, float]) -> list[str]:
        """What new scores warn of.

        Args:
            scores: Scores by name.

        Returns:
            A line for each warning.
        """
        lines = []
        for name in ("sliced_wasserstein", "frechet_distance"):
            best = self._best.get(name)
            if best is not None and scores.get(name, best) > _WORSE * best > 0:
                lines.append(f"{name} has risen to {scores[name] / best:.1f} times its best value")
        for name in ("modes", "recall"):
            best = self._best.get(name)
            if best is not None and scores.get(name, best) < _FEWER * best:
                lines.append(
                    f"{name} has fallen from {best:.3g} to {scores[name]:.3g}: mode collapse?"
                )
        for name, value in scores.items():
            lower = name in ("sliced_wasserstein", "frechet_distance")
            best = self._best.get(name, value)
            self._best[name] = min(best, value) if lower else max(best, value)
        return lines

    def _of_spread(self, spread: float) -> list[str]:
        """A warning where fake samples spread much less or much more than real ones."""
        said = ""
        if spread < _COLLAPSED:
            said = f"fake samples spread {spread:.2g} times as far as real ones: collapse?"
        elif spread > _SCATTERED:
            said = f"fake samples spread {spread:.2g} times as far as real ones: diverging?"
        new = bool(said) and not self._spread_said
        self._spread_said = said
        return [said] if new else []

    def _stop(self, step: int, what: str) -> None:
        """End the run."""
        kept = self.out / LAST
        rest = f"`{kept}` is from before that" if kept.exists() else "no checkpoint was written yet"
        raise DivergedError(
            f"{what} is not finite at step {step}: {rest}. Lower the learning rates, or take "
            "another seed."
        )
