"""Whether a run is still sound: numbers that are not finite end it, others are told."""

import math
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from otmetrics.errors import Argument, DivergedError, Message

from .saving import LAST, is_finite

_COLLAPSED = 0.2  # spread of fake samples in units of that of real ones
_EARLY = 1000  # steps that a new generator has to spread out


class Health:
    """Watches losses and weights of the run in a folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._finite: Tensor | None = None
        self._spread_out = self._told = False

    def note(self, logs: dict[str, Tensor]) -> None:
        """Remember whether all numbers of a step are finite, without waiting for the device."""
        finite = torch.isfinite(torch.stack([value.float() for value in logs.values()])).all()
        self._finite = finite if self._finite is None else self._finite & finite

    def check_step(self, step: int, logs: dict[str, Tensor]) -> dict[str, float]:
        """Numbers of a step; a DivergedError if one since the start of the run was not finite."""
        values = {name: float(value) for name, value in logs.items()}
        if self._finite is not None and not bool(self._finite):
            wrong = [name for name, value in values.items() if not math.isfinite(value)]
            self.stop(step, " and ".join(wrong) or "a loss since the last row of the log")
        return values

    def check_weights(self, step: int, state: dict[str, Any]) -> None:
        """Raise a DivergedError before a state that is not finite replaces one that is."""
        if not is_finite(state):
            self.stop(step, "a weight")

    def collapse(self, step: int, spread: float) -> str:
        """A warning where fake samples no longer spread as real ones do; once until they do."""
        if spread >= _COLLAPSED:
            self._spread_out, self._told = True, False
            return ""

        # A new generator is narrow, which is no collapse yet.
        if self._told or not (self._spread_out or step >= _EARLY):
            return ""
        self._told = True
        return f"fake samples spread {spread:.2g} times as far as real ones: collapse?"

    def remember(self, rows: list[dict[str, Any]]) -> None:
        """Take in the log of a run that goes on: whether samples had spread, and what was told."""
        for row in rows:
            if "spread" in row:
                self.collapse(row["step"], row["spread"])

    def unequal_shares(self, values: dict[str, float]) -> str:
        """A warning where the transport left cells far from equal shares of the noise."""
        misfit, empty = values["misfit"], int(values["empty_cells"])
        if not empty and misfit <= max(1.0, values["misfit_noise"]):
            return ""
        return Message(
            f"shares of codes in the noise are off by up to {misfit:.0%}, {empty} codes get no "
            "noise: the transport needs a higher ",
            Argument("max_rounds"),
        )

    def stop(self, step: int, what: str, cause: Exception | None = None) -> NoReturn:
        """End the run, of which something is not finite at a step."""
        kept = self.out / LAST
        rest = f"`{kept}` is from before that" if kept.exists() else "no checkpoint was written yet"
        raise DivergedError(
            f"{what} is not finite at step {step}: {rest}. Lower the learning rates, or take "
            "another seed."
        ) from cause
