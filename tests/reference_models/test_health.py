"""A run ends at numbers that are not finite; samples that collapse are told once."""

from pathlib import Path

import pytest
import torch
from otmetrics.reference_models.health import Health

from otmetrics.errors import DivergedError


def scalars(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_a_number_that_is_not_finite_ends_the_run_at_the_next_row(tmp_path: Path) -> None:
    health = Health(tmp_path)
    health.note(scalars(loss=1.0))
    assert health.check_step(1, scalars(loss=1.0)) == {"loss": 1.0}
    health.note(scalars(loss=float("nan")))
    health.note(scalars(loss=1.0))
    with pytest.raises(DivergedError, match="a loss since the last row of the log is not finite"):
        health.check_step(3, scalars(loss=1.0))


def test_it_names_what_is_not_finite(tmp_path: Path) -> None:
    health = Health(tmp_path)
    logs = scalars(critic_loss=float("inf"), generator_loss=1.0)
    health.note(logs)
    with pytest.raises(DivergedError, match="critic_loss is not finite at step 2"):
        health.check_step(2, logs)


def test_weights_are_looked_at_before_they_are_saved(tmp_path: Path) -> None:
    health = Health(tmp_path)
    health.check_weights(1, {"a": [torch.zeros(3)], "step": 1, "ids": torch.arange(3)})
    with pytest.raises(DivergedError, match="a weight is not finite"):
        health.check_weights(1, {"a": {"b": [torch.tensor([1.0, float("nan")])]}})


def test_collapse_is_said_once_until_samples_spread_again(tmp_path: Path) -> None:
    health = Health(tmp_path)
    spreads = (0.03, 1.0, 0.01, 0.01, 0.9, 0.01, 30.0)  # a new generator is narrow
    said = [health.collapse(1, spread) for spread in spreads]
    assert [bool(line) for line in said] == [False, False, True, False, False, True, False]
    assert "spread 0.01 times as far as real ones: collapse?" in said[2]
    late = Health(tmp_path)
    assert late.collapse(1000, 0.03)
    assert not late.collapse(1001, 0.03)


def test_a_run_that_goes_on_knows_what_was_told(tmp_path: Path) -> None:
    health = Health(tmp_path)
    rows = [{"step": 1, "spread": 1.0}, {"step": 2, "score/modes": 8.0}]
    health.remember(rows)
    assert "collapse" in health.collapse(3, 0.01)
    said = Health(tmp_path)
    said.remember([*rows, {"step": 3, "spread": 0.01}])
    assert not said.collapse(4, 0.01)  # before the run was stopped


def test_codes_without_their_share_of_the_noise_are_said(tmp_path: Path) -> None:
    health = Health(tmp_path)
    logs = {"misfit": 0.4, "misfit_noise": 0.2, "empty_cells": 0.0}
    told = [
        health.unequal_shares(health.check_step(5, scalars(**(logs | more))))
        for more in ({}, {"misfit": 2.0}, {}, {"misfit": 2.0, "misfit_noise": 3.0})
    ]
    assert [bool(line) for line in told] == [False, True, False, False]
    assert "off by up to 200%, 0 codes get no noise" in told[1]
    line = health.unequal_shares(health.check_step(6, scalars(**(logs | {"empty_cells": 3.0}))))
    assert "3 codes get no noise: the transport needs a higher `max_rounds`" in line
